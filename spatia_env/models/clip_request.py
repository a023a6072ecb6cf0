"""One model call for several worlds: what a world asks of the model, and what it gets.

A step has three parts: prepare (look into memory), generate, finish (understand and remember). The middle one
is all that worlds share, so it is what is batched, in one process, between processes and on a cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spatia_env.events.log import Heard
from spatia_env.io.timing import Stopwatch
from spatia_env.memory.rendering import Render
from spatia_env.models.particles import FALLING_PLANES
from spatia_env.models.spatial_conditioning import falling_in_view, place_planes
from spatia_env.slam.plane_extrapolation import CONTINUED_PLANES, Continued
from spatia_env.world.world import WorldState


@dataclass(frozen=True)
class ClipRequest:
    """What one clip is conditioned on; all tensors live on the CPU and are not written to.

    Attributes:
        text: What the model reads.
        scene_render: The map along the path, float [T, 3, H, W] in [0, 1].
        known: Its coverage, bool [T, H, W].
        references: Retrieved pictures, u8 [R, H, W, 3].
        preceding: The last frames, u8 [P, H, W, 3].
        seed: Of the noise.
        places: Where things are along the path, float [20, T, h, w] (`models.spatial_conditioning`).
        falling: Where flakes and balls would be, bool [2, T, H, W] (`falling`).
        continued: How surfaces go on beyond the render, float [4, T, H, W] (`slam.plane_extrapolation`), else 0.
    """

    text: str
    scene_render: Tensor
    known: Tensor
    references: Tensor
    preceding: Tensor
    seed: int
    places: Tensor
    falling: Tensor
    continued: Tensor

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Requests of equal shape can share a call."""
        return tuple(tuple(t.shape) for t in (self.scene_render, self.references, self.preceding))


@dataclass(frozen=True)
class Pending:
    """A step that waits for its clip; `view` is None where the world stands still and nothing is imagined, and
    `continued` where the model is not told how surfaces go on.
    """

    watch: Stopwatch
    path: Tensor
    event: str = ""
    heard: Heard | None = None
    view: Render | None = None
    continued: Continued | None = None
    references: Tensor | None = None
    scores: tuple[float, ...] = ()
    blocked: dict[str, Any] = field(default_factory=dict)

    @property
    def imagines(self) -> bool:
        """Whether a clip has to be made."""
        return self.view is not None and self.heard is not None and self.references is not None


def request_clip(pending: Pending, state: WorldState, num_preceding: int, stride: int) -> ClipRequest:
    """What the model is asked for the clip of a prepared step.

    Args:
        pending: A step that imagines something.
        state: The world before it.
        num_preceding: How many of the last frames the model sees.
        stride: Pixels per latent cell.
    """
    view = pending.view
    assert view is not None and pending.heard is not None and pending.references is not None
    seen = view.depth, view.known, pending.path, state.c2w, state.K
    height, width = view.known.shape[-2:]
    falling = torch.zeros(FALLING_PLANES, *view.known.shape, dtype=torch.bool)
    if pending.heard.falls:
        falling = falling_in_view(*seen, state.step)
    continued = torch.zeros(CONTINUED_PLANES, *view.known.shape)
    if pending.continued is not None:
        continued = pending.continued.planes()
    return ClipRequest(
        pending.heard.text, view.rgb, view.known, pending.references, state.preceding_frames[-num_preceding:],
        state.step_seed(), place_planes(*seen, height // stride, width // stride), falling, continued,
    )  # fmt: skip


def generate_clips(pipeline: Any, requests: Sequence[ClipRequest]) -> list[Tensor]:
    """The clips u8 [T, H, W, 3] of some requests, one model call for all that have equal shapes.

    Each world has a noise generator of its own, so what it shows does not depend on its neighbours beyond the
    rounding of sums.
    """
    clips: list[Tensor | None] = [None] * len(requests)
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(request.shape, []).append(index)
    for members in groups.values():
        for index, clip in zip(members, _call(pipeline, [requests[i] for i in members]), strict=True):
            clips[index] = clip
    return [clip for clip in clips if clip is not None]


def _call(pipeline: Any, requests: Sequence[ClipRequest]) -> list[Tensor]:
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    video = pipeline(
        [request.text for request in requests],
        torch.stack([(request.scene_render * 2 - 1).transpose(0, 1) for request in requests]),
        torch.stack([request.known.float()[None] for request in requests]),
        torch.stack([_to_video(request.references) for request in requests]),
        torch.stack([_to_video(request.preceding) for request in requests]),
        generators[0] if len(generators) == 1 else generators,
        torch.stack([request.places for request in requests]),
        torch.stack([request.falling.float() for request in requests]),
        torch.stack([request.continued for request in requests]),
    )
    # Outside of the pipeline's inference mode: worlds keep these frames, and hash them by their version.
    return [_to_bytes(clip) for clip in video]


def _to_video(frames: Tensor) -> Tensor:
    """U8 [T, H, W, 3] -> float [3, T, H, W] in [-1, 1]."""
    return (frames.movedim(-1, 1).float() / 255 * 2 - 1).transpose(0, 1)


def _to_bytes(video: Tensor) -> Tensor:
    """Float [3, T, H, W] in [-1, 1] -> u8 [T, H, W, 3]."""
    return ((video.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
