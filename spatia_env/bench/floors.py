"""Rows without a model: the truth, which is the ceiling, and what a model has to beat."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from spatia_env.bench.episodes import Truth
from spatia_env.bench.matching import inpaint
from spatia_env.errors import ActionError
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.rendering import Render
from spatia_env.slam.plane_extrapolation import continue_surfaces


@dataclass(frozen=True)
class Clip:
    """What a row showed in one step.

    Attributes:
        frames: u8 [8, H, W, 3].
        depth: z-depth f32 [8, H, W] in metres, 0 = none.
        known: bool [8, H, W], rendered from memory.
        seconds: Wall time of the step.
        info: The environment's `info`; empty for rows without one.
    """

    frames: np.ndarray
    depth: np.ndarray
    known: np.ndarray
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


class Player(Protocol):
    """A row at play: `start` opens an episode, `play` makes its next clip along poses c2w [8, 4, 4]."""

    def start(self, truth: Truth) -> None:
        """Open the episode's scene."""
        ...

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """The next clip along `path` (world poses), with an event in words."""
        ...


class OraclePlayer:
    """Shows the truth."""

    def start(self, truth: Truth) -> None:
        """Open the episode's scene."""
        self.truth, self.next = truth, 0

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """The true frames of the next clip."""
        span = self.truth.clip(self.next)
        if not np.allclose(self.truth.c2w[span], path, atol=1e-5):
            raise ActionError("oracle: it can only follow the episode's own path.")
        self.next += 1
        return Clip(self.truth.frames[span], self.truth.depth[span], self.truth.seen_before[span])


class FrozenPlayer:
    """Repeats the start picture."""

    def start(self, truth: Truth) -> None:
        """Open the episode's scene."""
        self.frame, self.depth = truth.frames[0], truth.depth[0]

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """The start picture, eight times."""
        count = len(path)
        frames, depth = np.repeat(self.frame[None], count, 0), np.repeat(self.depth[None], count, 0)
        return Clip(frames, depth, np.ones(depth.shape, bool))


class MemoryRenderPlayer:
    """Renders the points of the start picture, by the memory's own renderer.

    Args:
        fill: What fills the holes: "", "nearest" (known pixel of the same frame), "inpaint" (colours by OpenCV,
            depth of the nearest known pixel) or "surfaces" (planes that go on, the nearest known pixel elsewhere).
    """

    def __init__(self, fill: str = "") -> None:
        self.fill = fill

    def start(self, truth: Truth) -> None:
        """Open the episode's scene."""
        self.K, self.size = torch.from_numpy(truth.K), truth.size
        rgb = torch.from_numpy(truth.frames[:1]).movedim(-1, 1).float() / 255
        depth, c2w = torch.from_numpy(truth.depth[:1]), torch.from_numpy(truth.c2w[:1])
        self.memory, _ = SceneMemory().update(rgb, depth, (depth > 0).float(), c2w, self.K, 0)

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """The map along the path, black where it has nothing unless that is to be filled."""
        poses = torch.from_numpy(path)
        view = self.memory.render(poses, self.K, *self.size)
        if self.fill == "surfaces":
            view = with_surfaces(view, poses, self.K)
        frames = (view.rgb.movedim(1, -1) * 255).round().clamp(0, 255).byte().numpy()
        depth, known = view.depth.numpy(), view.known.numpy()
        if self.fill:
            for index in range(len(frames)):
                rows, columns = nearest_known(known[index])
                nearest = frames[index, rows, columns]
                frames[index] = inpaint(frames[index], known[index]) if self.fill == "inpaint" else nearest
                depth[index] = depth[index, rows, columns]
        return Clip(frames, depth, known)


def with_surfaces(view: Render, c2w: torch.Tensor, K: torch.Tensor) -> Render:
    """A render with its planes gone on into its holes (`slam.plane_extrapolation`)."""
    found = continue_surfaces(view.rgb, view.depth, view.known, c2w, K)
    on = found.depth > 0
    return Render(
        torch.where(on[:, None], found.rgb, view.rgb),
        torch.where(on, found.depth, view.depth),
        view.known | on,
    )


def nearest_known(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column [H, W] of the known pixel nearest to each pixel; its own where nothing is known [H, W]."""
    if not known.any():
        own = np.indices(known.shape)
        return own[0], own[1]
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return nearest[0], nearest[1]
