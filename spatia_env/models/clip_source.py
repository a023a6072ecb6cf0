"""Clip sources: whatever makes the frames of a step. A model, the map's render, the simulator, a recording.

A source takes the requests of several worlds at once, so that one model call can serve them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spatia_env.io.frames import from_video, to_uint8, to_video
from spatia_env.models.generator import ClipGenerator, ClipShape
from spatia_env.models.spatial_conditioning import FALLING_PLANES, falling_in_view, place_planes

CONTINUED_PLANES = 4
"""Planes that tell a decoder how surfaces go on: colour and nearness."""


@dataclass(frozen=True)
class ClipRequest:
    """What one clip is conditioned on; all tensors live on the CPU and are not written to.

    Attributes:
        text: What the model reads.
        path: Cameras of the new frames, c2w [T, 4, 4].
        last_c2w: The camera before them [4, 4].
        K: Intrinsics [3, 3] in pixels.
        scene_render: The map along the path, float [T, 3, H, W] in [0, 1].
        scene_depth: Its z-depth [T, H, W] in metres, 0 = none.
        known: Its coverage, bool [T, H, W].
        references: Retrieved pictures, u8 [R, H, W, 3].
        preceding: The last frames, u8 [P, H, W, 3].
        seed: Of the noise.
        step: Clips before this one.
        particles: Whether small falling things may be in the clip.
        continued: How surfaces go on beyond the render, float [4, T, H, W]; None where the source does not read it.
    """

    text: str
    path: Tensor
    last_c2w: Tensor
    K: Tensor
    scene_render: Tensor
    scene_depth: Tensor
    known: Tensor
    references: Tensor
    preceding: Tensor
    seed: int
    step: int = 0
    particles: bool = False
    continued: Tensor | None = None

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Requests of equal shape can share a model call."""
        return tuple(tuple(t.shape) for t in (self.scene_render, self.references, self.preceding))


class ClipSource(Protocol):
    """Makes clips.

    Attributes:
        shape: Frames a clip, frames and references that it reads, sizes.
        reads_known_words: Whether events that are recognised reach it in their canonical words.
        reads_continued: Whether it is told how surfaces go on (`slam.plane_extrapolation`).
        rests: Whether a zero move without an event repeats the last frame instead of asking the source.
    """

    shape: ClipShape
    reads_known_words: bool
    reads_continued: bool
    rests: bool

    def begin(self, scene: int | str | None, size: tuple[int, int]) -> None:
        """An episode begins, in this simulated scene if any, with frames of `size` (height, width)."""

    def generate(self, requests: Sequence[ClipRequest]) -> list[Tensor]:
        """One clip u8 [T, H, W, 3] for each request."""
        ...


class ModelClips:
    """Clips of a diffusion model, one call for all requests of equal shapes.

    Each request has a noise generator of its own, so what a world shows does not depend on its neighbours beyond the
    rounding of sums.

    Args:
        generator: `ClipGenerator` or `SpatiaPipeline`, of any size.
    """

    rests = True

    def __init__(self, generator: ClipGenerator) -> None:
        self.generator, self.shape = generator, generator.shape
        self.reads_known_words, self.reads_continued = generator.reads_known_words, generator.reads_continued

    def begin(self, scene: int | str | None, size: tuple[int, int]) -> None:
        """Nothing to prepare."""

    def generate(self, requests: Sequence[ClipRequest]) -> list[Tensor]:
        """See `ClipSource.generate`."""
        clips: dict[int, Tensor] = {}
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(request.shape, []).append(index)
        for members in groups.values():
            clips |= zip(members, self._call([requests[i] for i in members]), strict=True)
        return [clips[index] for index in range(len(requests))]

    def _call(self, requests: Sequence[ClipRequest]) -> list[Tensor]:
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        stride = self.generator.autoencoder.spatial_stride
        video = self.generator(
            [request.text for request in requests],
            torch.stack([(request.scene_render * 2 - 1).transpose(0, 1) for request in requests]),
            torch.stack([request.known.float()[None] for request in requests]),
            torch.stack([to_video(request.references) for request in requests]),
            torch.stack([to_video(request.preceding) for request in requests]),
            generators[0] if len(generators) == 1 else generators,
            torch.stack([_places(request, stride) for request in requests]),
            torch.stack([_falling(request) for request in requests]),
            torch.stack([_continued(request) for request in requests]),
        )
        # Outside of the pipeline's inference mode: worlds keep these frames, and hash them by their version.
        return [from_video(clip) for clip in video]


class RenderedClips:
    """The map's render with its holes, instead of a generated clip.

    Args:
        shape: Of the clips.
    """

    reads_known_words = reads_continued = rests = False

    def __init__(self, shape: ClipShape) -> None:
        self.shape = shape

    def begin(self, scene: int | str | None, size: tuple[int, int]) -> None:
        """Nothing to prepare."""

    def generate(self, requests: Sequence[ClipRequest]) -> list[Tensor]:
        """See `ClipSource.generate`."""
        return [to_uint8(request.scene_render) for request in requests]


def _places(request: ClipRequest, stride: int) -> Tensor:
    height, width = request.known.shape[-2:]
    return place_planes(
        request.scene_depth, request.known, request.path, request.last_c2w, request.K,
        height // stride, width // stride,
    )  # fmt: skip


def _falling(request: ClipRequest) -> Tensor:
    if not request.particles:
        return torch.zeros(FALLING_PLANES, *request.known.shape)
    seen = request.scene_depth, request.known, request.path, request.last_c2w, request.K
    return falling_in_view(*seen, request.step).float()


def _continued(request: ClipRequest) -> Tensor:
    if request.continued is None:
        return torch.zeros(CONTINUED_PLANES, *request.known.shape)
    return request.continued
