"""`spatia train data`: record and remember episodes on all cores, cached as one file each.

A file holds what `episodes.record_episode` and `samples.remember_episode` return. Existing files are kept, so
the command resumes; a seed always gives the same file.
"""

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from spatia_env.io.weights import write_tensors
from spatia_env.train.episodes import EpisodeConfig, record_episode
from spatia_env.train.memory_simulation import CorruptionConfig, remember_episode

BITS = ("dynamic", "known")
"""Boolean arrays, packed to bits along the width."""
PACKED = (*BITS, "trust")
"""With those that only played episodes have (`rollouts`)."""


@dataclass(frozen=True)
class DataConfig:
    """Render training or dev episodes."""

    out: Path = Path("runs/data/train")
    """folder of the episode files"""
    split: str = "train"
    """train (seeds 0-9999) or dev (10000-10999); decides textures, meshes and phrasings too"""
    first: int = 0
    """first seed"""
    count: int = 1000
    """how many seeds"""
    workers: int = 2
    """processes"""
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)


def render_data(config: DataConfig) -> int:
    """Write the missing episode files of `config`; returns how many were written."""
    config.out.mkdir(parents=True, exist_ok=True)
    seeds = [s for s in range(config.first, config.first + config.count) if not _path(config.out, s).exists()]
    jobs = [(seed, config) for seed in seeds]
    if config.workers <= 1:
        for job in tqdm(jobs, desc=f"data {config.split}", mininterval=5):
            _write(job)
        return len(jobs)
    # spawn: torch's threads do not survive a fork
    with multiprocessing.get_context("spawn").Pool(config.workers, maxtasksperchild=100) as pool:
        done = pool.imap_unordered(_write, jobs)
        for _ in tqdm(done, total=len(jobs), desc=f"data {config.split}", mininterval=5):
            pass
    return len(jobs)


def _path(folder: Path, seed: int) -> Path:
    return folder / f"{seed:05d}.safetensors"


def _write(job: tuple[int, DataConfig]) -> None:
    seed, config = job
    torch.set_num_threads(1)
    recorded = record_episode(seed, config.episode, config.split)
    episode = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in recorded.items()}
    remembered = remember_episode(episode, config.corruption, np.random.default_rng([seed, 7]))
    write_episode(_path(config.out, seed), episode | remembered, recorded["meta"])


def write_episode(path: Path, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write an episode file: `tensors` of `record_episode` and `remember_episode` by name, and what is said of it.

    Masks are packed to bits; a reader sees a whole file or none.
    """
    arrays = {name: np.asarray(value) for name, value in tensors.items() if name != "meta"}
    for name in arrays.keys() & set(PACKED):
        arrays[name] = np.packbits(arrays[name], axis=-1)
    write_tensors(path, arrays, {"meta": json.dumps(meta)})


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

    def open(self, index: int) -> "EpisodeFile":
        """The episode at `index`, read lazily."""
        return EpisodeFile(self.files[index])

    @staticmethod
    def open_path(path: Path) -> "EpisodeFile":
        """The episode in the file `path`, read lazily."""
        return EpisodeFile(path)


class EpisodeFile:
    """Slices of one episode file; arrays are named as in `episodes` and `samples`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = safe_open(path, framework="pt")
        self.meta = json.loads(self.file.metadata()["meta"])

    @property
    def num_clips(self) -> int:
        """Clips of 8 frames in the episode."""
        return len(self.meta["clips"])

    def get(self, name: str, index: slice | int) -> Tensor:
        """`name[index]` along the first axis; masks come as bool."""
        values = self.file.get_slice(name)[index]
        if name not in PACKED:
            return values
        return torch.from_numpy(np.unpackbits(values.numpy(), axis=-1)).bool()

    def get_at(self, name: str, first: int, second: int) -> Tensor:
        """`name[first, second]`; masks come as bool."""
        values = self.file.get_slice(name)[first, second]
        if name not in PACKED:
            return values
        return torch.from_numpy(np.unpackbits(values.numpy(), axis=-1)).bool()


def frame_batches(store: EpisodeStore, batch: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Endless batches [batch, 3, H, W] in [-1, 1] of random frames, a few from each of several episodes."""
    step = 0
    while True:
        if step % 200 == 0:
            store.refresh()
        step += 1
        images = []
        for index in rng.integers(len(store), size=batch):
            episode = store.open(int(index))
            images.append(episode.get("frames", int(rng.integers(1 + 8 * episode.num_clips))))
        yield to_model(torch.stack(images))


def to_model(frames: Tensor) -> Tensor:
    """u8 [..., H, W, 3] -> float [..., 3, H, W] in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1
