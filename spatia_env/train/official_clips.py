"""Clips for the official size, as plain tensors, cut from episode files: simulated, or of posed videos.

As the paper makes them: frames of the episode are picked at random, what moves is taken out of them, the cloud of the
rest is rendered along the clip, and earlier frames that share most of it are the references. Cloud, renderer and
retrieval are those of `spatia rollout` (`discs`) or those of the environment (`splat`). Anything else that yields
`OfficialClip`s can be trained on as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.geometry import invert_se3, unproject
from spatia_env.memory.point_map import SceneMemory
from spatia_env.models.wan.autoencoder import latent_frames
from spatia_env.models.wan.sampling import check_clip_size
from spatia_env.release.renderer import RADIUS_NDC, render_discs, voxel_means
from spatia_env.release.retrieval import retrieve
from spatia_env.release.rounds import (
    CANDIDATE_STRIDE,
    HISTORY_FRAMES,
    MAP_STRIDE,
    NUM_REFERENCES,
    ROUND_FRAMES,
    TARGET_STRIDE,
)
from spatia_env.train.episodes import FRAMES, REFRESH, EpisodeFile, EpisodeStore, dilated


@dataclass(frozen=True)
class ClipConfig:
    """How clips are cut; the defaults are the release's sizes."""

    frames: int = ROUND_FRAMES
    """frames of a clip, 4k + 1, given ones included"""
    history: int = HISTORY_FRAMES
    """of them given in the second stage, 4k + 1; in the first stage it is the first frame alone"""
    references: int = NUM_REFERENCES
    """most retrieved pictures, in the second stage"""
    renderer: Literal["discs", "splat"] = "discs"
    """what the cloud is shown with: as in `spatia rollout`, or as in the environment"""
    radius: float = RADIUS_NDC
    """of the discs, as a share of half the shorter side"""
    voxel: float = 0.01
    """metres, of the cloud that is rendered as discs"""
    map_stride: int = MAP_STRIDE
    """every n-th earlier frame may go into the cloud"""
    keep: float = 0.7
    """share of those that do"""
    depth_error: float = 0.02
    """standard deviation of the log scale of each frame's depth: at play depth is estimated"""
    later: bool = False
    """let frames from after the clip into the cloud too; for films in which nothing changes for good"""

    def __post_init__(self) -> None:
        for name in ("frames", "history"):
            latent_frames(getattr(self, name))
        if self.history >= self.frames:
            raise ActionError(f"clip: {self.history} frames of history leave nothing of {self.frames}.")
        if self.references < 0 or self.map_stride < 1 or not 0 <= self.keep <= 1:
            raise ActionError("clip: references >= 0, map_stride >= 1 and keep in [0, 1] are needed.")
        if not (self.radius > 0 and self.voxel > 0 and self.depth_error >= 0):
            raise ActionError("clip: radius and voxel must be above 0, depth_error 0 or more.")


@dataclass(frozen=True)
class OfficialClip:
    """One clip to learn from; everything a step needs, no matter where it comes from.

    Attributes:
        text: What happens, in words; may be empty.
        frames: u8 [T, H, W, 3], T = 4k + 1.
        scene_render: The map along the clip, u8 [T, H, W, 3].
        unknown: 255 where it is empty, u8 [T, H, W].
        references: u8 [R, H, W, 3]; R may be 0.
        given: How many of the first frames are given, 1 or 4k + 1.
    """

    text: str
    frames: Tensor
    scene_render: Tensor
    unknown: Tensor
    references: Tensor
    given: int


def random_clips(
    folder: Path, config: ClipConfig, given: int, rng: np.random.Generator, device: torch.device
) -> Iterator[OfficialClip]:
    """Endless random clips of a folder of episode files.

    Args:
        folder: As `spatia train data` and `spatia train videos` write it.
        config: How clips are cut.
        given: Frames that are given: 1 for a first clip, without references; else `config.history`.
        rng: Draws everything.
        device: Where clouds are rendered.

    Raises:
        ActionError: If there are no episodes, or they are too short or of a size that does not fit.
    """
    store = open_episodes(folder, config)
    while True:
        for _ in range(REFRESH):
            episode = store.open(int(rng.integers(len(store))))
            first = int(rng.integers(episode.size[0] - config.frames + 1))
            yield cut_clip(episode, first, config, given, rng, device)
        store.refresh()


def open_episodes(folder: Path, config: ClipConfig) -> EpisodeStore:
    """The episodes of a folder, the first of which is long and large enough.

    Raises:
        ActionError: If it is not, or there is none.
    """
    store = EpisodeStore(folder).require()
    length, height, width = store.open(0).size
    check_clip_size(height, width)
    if length < config.frames:
        clips = -(-(config.frames - 1) // FRAMES)
        raise ActionError(
            f"{folder}: episodes have {length} frames, a clip {config.frames}; make episodes of at least {clips} "
            "clips of 8 frames, or give --clip.frames."
        )
    return store


def cut_clip(
    episode: EpisodeFile,
    first: int,
    config: ClipConfig,
    given: int,
    rng: np.random.Generator,
    device: torch.device,
) -> OfficialClip:
    """The clip that begins at frame `first` of an episode; the other arguments as in `random_clips`."""
    span = slice(first, first + config.frames)
    c2w, K = episode.get("c2w").to(device), episode.get("K").to(device)
    chosen = _candidates(episode, first, config, given, rng)
    cloud = _Cloud(episode, chosen, c2w, K, config, rng)
    frames = episode.get("frames", span)
    render, unknown = cloud.show(c2w[span])
    wanted = [] if given == 1 else cloud.references(c2w, first, span)
    references = [episode.get("frames", index) for index in wanted]
    return OfficialClip(
        _text(episode, first + given, span.stop),
        frames,
        render.cpu(),
        unknown.cpu(),
        torch.stack(references) if references else frames[:0],
        given,
    )


class _Cloud:
    """What the chosen frames of an episode show, without what moves."""

    def __init__(
        self,
        episode: EpisodeFile,
        chosen: list[int],
        c2w: Tensor,
        K: Tensor,
        config: ClipConfig,
        rng: np.random.Generator,
    ) -> None:
        self.config, self.K, device = config, K, K.device
        frames = torch.stack([episode.get("frames", index) for index in chosen]).to(device)
        self.rgb = frames.movedim(-1, 1).float() / 255
        error = torch.from_numpy(np.exp(rng.normal(0, config.depth_error, len(chosen)))).float()
        depth = torch.stack([episode.get("depth", index).float() for index in chosen]) * error[:, None, None]
        still = ~dilated(torch.stack([episode.get("dynamic", index) for index in chosen]))
        self.depth, self.still, self.c2w = depth.to(device), still.to(device), c2w[chosen]
        keep = self.still & (self.depth > 0)
        points = unproject(self.depth, K, self.c2w)[keep]
        self.points, self.colors = voxel_means(points, self.rgb.movedim(1, -1)[keep], config.voxel)
        self.size = (int(self.rgb.shape[-2]), int(self.rgb.shape[-1]))

    def show(self, c2w: Tensor) -> tuple[Tensor, Tensor]:
        """Render u8 [T, H, W, 3] along cameras [T, 4, 4], and what it leaves unknown u8 [T, H, W]."""
        if self.config.renderer == "splat":
            memory, _ = SceneMemory().update(
                self.rgb.cpu(), self.depth.cpu(), self.still.float().cpu(), self.c2w.cpu(), self.K.cpu(), 0
            )
            view = memory.render(c2w.cpu(), self.K.cpu(), *self.size)
            return (view.rgb * 255).round().byte().movedim(1, -1), (~view.known).byte() * 255
        rgb, coverage = render_discs(
            self.points, self.colors, invert_se3(c2w), self.K, *self.size, radius=self.config.radius
        )
        return (rgb * 255).byte().movedim(1, -1), 255 - (coverage * 255).byte()

    def references(self, c2w: Tensor, first: int, span: slice) -> list[int]:
        """Earlier frames that share most of what the clip will see, in the order of the cameras that want them."""
        past = list(range(0, first, CANDIDATE_STRIDE))
        targets = invert_se3(c2w[span][::TARGET_STRIDE])[: self.config.references][: len(past)]
        if not len(targets):
            return []
        candidates = invert_se3(c2w[past])
        pairs = retrieve(self.points, targets, candidates, self.K, *self.size)
        return [past[candidate] for _, candidate in pairs]


def _candidates(
    episode: EpisodeFile, first: int, config: ClipConfig, given: int, rng: np.random.Generator
) -> list[int]:
    """Frames for the cloud: the last given one, and a random share of those that are allowed."""
    last = first + given - 1
    allowed = list(range(last % config.map_stride, last, config.map_stride))
    if config.later:
        allowed += list(range(first + config.frames, episode.size[0], config.map_stride))
    # Colours under fog or at night are not the scene's: at play they are not written to the map either.
    lit = [index for index in allowed if not _condition(episode, index) and rng.random() < config.keep]
    return sorted(lit) if lit and _condition(episode, last) else sorted([*lit, last])


def _condition(episode: EpisodeFile, index: int) -> bool:
    return index > 0 and bool(episode.meta["clips"][(index - 1) // FRAMES]["conditions"])


def _text(episode: EpisodeFile, begin: int, end: int) -> str:
    """What is said of frames `begin` to `end`: the text of where they begin, then what happens later."""
    clips = episode.meta["clips"][max(0, begin - 1) // FRAMES : (end - 2) // FRAMES + 1]
    later = [clip["event_text"] for clip in clips[1:] if clip["event_text"]]
    return ". then ".join([clips[0]["text"], *later])
