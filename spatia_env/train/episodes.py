"""Episode files: what was recorded, and the memory simulated along it with the map, renderer and retrieval of the env.

One safetensors file an episode of `n` clips of `FRAMES` frames after a first picture, whoever made it (`simulation`,
`videos`, `rollouts`):

    frames      u8 [1 + 8 n, H, W, 3]
    depth       f16 [1 + 8 n, H, W], metres, 0 = none
    dynamic     bool [1 + 8 n, H, W], what moves
    c2w, K      f32 [1 + 8 n, 4, 4] and [3, 3]
    render      u8 [n, 8, H, W, 3], the map as it stood before each clip, along the clip
    known       bool [n, 8, H, W], where it shows something
    map_depth   f16 [n, 8, H, W]
    references  i64 [n, R], frames of the episode that are retrieved for the clip

Masks are packed to bits along the width. The file's `meta` holds seed and prompt, and per clip its events and texts.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from spatia_env.errors import ActionError
from spatia_env.io.weights import write_tensors
from spatia_env.memory.map import Map
from spatia_env.memory.point_map import SceneMemory
from spatia_env.models.generator import ClipShape

FRAMES, PRECEDING, REFERENCES = (
    ClipShape().num_frames,
    ClipShape().num_preceding,
    ClipShape().num_references,
)
BITS = ("dynamic", "known")
"""Boolean arrays, packed to bits along the width."""
PACKED = (*BITS, "trust")
"""With those that only played episodes have (`rollouts`)."""
REFRESH = 200
"""Batches after which a folder is looked at again: episodes may still be coming."""


def clip_span(number: int) -> slice:
    """The frames of clip `number` in an episode."""
    return slice(1 + FRAMES * number, 1 + FRAMES * (number + 1))


def write_episode(path: Path, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write an episode file: arrays by name, and `meta`. A reader sees a whole file or none."""
    arrays = {name: np.asarray(value) for name, value in tensors.items() if name != "meta"}
    for name in arrays.keys() & set(PACKED):
        arrays[name] = np.packbits(arrays[name], axis=-1)
    write_tensors(path, arrays, {"meta": json.dumps(meta)})


class EpisodeFile:
    """Slices of one episode file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = safe_open(path, framework="pt")
        self.meta = json.loads(self.file.metadata()["meta"])

    @property
    def num_clips(self) -> int:
        """Clips of 8 frames in the episode."""
        return len(self.meta["clips"])

    @property
    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of the episode."""
        count, height, width = self.file.get_slice("frames").get_shape()[:3]
        return int(count), int(height), int(width)

    def get(self, name: str, *index: slice | int) -> Tensor:
        """`name[index]` along the first axes, all of it without an index; masks come as bool."""
        values = self.file.get_slice(name)[index or slice(None)]
        if name not in PACKED:
            return values
        return torch.from_numpy(np.unpackbits(values.numpy(), axis=-1)).bool()


class EpisodeStore:
    """Random access to the episode files of some folders; new files appear when `refresh` is called."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self.files: list[Path] = []
        self.refresh()

    def refresh(self) -> None:
        """Look for episode files again (rendering may still be going on)."""
        self.files = [path for folder in self.folders for path in sorted(folder.glob("*.safetensors"))]

    def __len__(self) -> int:
        return len(self.files)

    def open(self, index: int) -> EpisodeFile:
        """The episode at `index`, read lazily."""
        return EpisodeFile(self.files[index])

    def require(self) -> "EpisodeStore":
        """This store.

        Raises:
            ActionError: It has no episodes.
        """
        if not self.files:
            folder = self.folders[0]
            raise ActionError(
                f"{folder} has no episodes; run `spatia train data --out {folder}` or `spatia train videos` first."
            )
        return self


def frame_batches(store: EpisodeStore, batch: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Endless batches [batch, 3, H, W] in [-1, 1] of random frames, each of a random episode."""
    while True:
        store.refresh()
        for _ in range(REFRESH):
            images = []
            for index in rng.integers(len(store), size=batch):
                episode = store.open(int(index))
                images.append(episode.get("frames", int(rng.integers(episode.size[0]))))
            yield to_model(torch.stack(images))


def to_model(frames: Tensor) -> Tensor:
    """u8 [..., H, W, 3] -> float [..., 3, H, W] in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


def dilated(mask: Tensor) -> Tensor:
    """Masks bool [N, H, W] and two pixels around them."""
    return F.max_pool2d(mask.float()[:, None], 5, 1, 2)[:, 0] > 0


def in_processes(
    function: Callable[[Any], Any],
    jobs: Sequence,
    workers: int,
    label: str,
    jobs_a_process: int | None = None,
) -> list:
    """Results of `function` (of a module's top level) for every job, in any order; with a progress bar."""
    if workers <= 1:
        return [function(job) for job in tqdm(jobs, desc=label, mininterval=5)]
    spawning = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with spawning.Pool(workers, torch.set_num_threads, (1,), maxtasksperchild=jobs_a_process) as pool:
        done = pool.imap_unordered(function, jobs)
        return list(tqdm(done, total=len(jobs), desc=label, mininterval=5))


@dataclass(frozen=True)
class CorruptionConfig:
    """Errors planted in the depth that the map is built from: at play it is built from estimates."""

    scale: float = 0.04
    """standard deviation of the log scale of each frame's depth, one draw per clip"""
    noise: float = 0.02
    """standard deviation of a smooth relative error (8x8 grid, one draw per frame)"""
    clean_share: float = 0.4
    """share of episodes with true depth"""


def remember_episode(
    episode: dict, corruption: CorruptionConfig, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The map along a recorded episode (arrays by name, and `meta`), begun and written as the env does.

    Returns `render`, `known`, `map_depth` and `references` by name.
    """
    frames, c2w = episode["frames"], episode["c2w"]
    depth = _corrupt(episode["depth"].float(), corruption, rng)
    weight = (~dilated(episode["dynamic"])).float()
    first = weight[0] * (depth[0] > 0)
    scene_map = Map.begin(SceneMemory(), frames[0], depth[0], first, c2w[0], episode["K"], measured=True)
    out: dict[str, list[Tensor]] = {"render": [], "known": [], "map_depth": [], "references": []}
    for number, clip in enumerate(episode["meta"]["clips"]):
        span = clip_span(number)
        view = scene_map.render(c2w[span])
        references, _ = scene_map.retrieve(c2w[span], view, REFERENCES)
        out["render"].append((view.rgb.movedim(1, -1) * 255).round().byte())
        out["known"].append(view.known)
        out["map_depth"].append(view.depth.half())
        out["references"].append(frame_indices(references, frames[: span.start]))
        write = not clip["conditions"]
        scene_map, _ = scene_map.integrate(frames[span], depth[span], weight[span], c2w[span], view, write)
    return {name: torch.stack(values) for name, values in out.items()}


def frame_indices(references: Tensor, frames: Tensor, count: int = 0) -> Tensor:
    """Which of the `frames` [N, H, W, 3] the retrieved pictures [R, H, W, 3] are.

    Where fewer than `count` were retrieved the last frame stands in, as `SpatiaPipeline` pads them.
    """
    found = [int((frames == picture).flatten(1).all(1).nonzero()[0]) for picture in references]
    return torch.tensor(found + [len(frames) - 1] * (count - len(found)), dtype=torch.int64)


def _corrupt(depth: Tensor, config: CorruptionConfig, rng: np.random.Generator) -> Tensor:
    if rng.random() < config.clean_share:
        return depth
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    clips = 1 + (len(depth) - 1 + FRAMES - 1) // FRAMES
    scale = torch.exp(config.scale * torch.randn(clips, generator=generator))
    per_frame = torch.cat([scale[:1], scale[1:].repeat_interleave(FRAMES)])[: len(depth)]
    # What is written later is tied to the map (completion follows the known depth), so it drifts less.
    per_frame[1:] = per_frame[1:].sqrt() * per_frame[0]
    grid = config.noise * torch.randn(len(depth), 1, 8, 8, generator=generator)
    smooth = F.interpolate(grid, depth.shape[-2:], mode="bilinear", align_corners=False)
    return depth * per_frame[:, None, None] * torch.exp(smooth[:, 0])
