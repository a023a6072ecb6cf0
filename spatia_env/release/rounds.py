"""The release's rounds: 121 frames, then 81 at a time of which 9 are history, along one camera path.

What the map is, how it is rendered and which past frames are shown come from a `RoundWorld` that is handed in:
this module knows frames, latents and numbers of frames only. `spatia_env.release.pipeline` puts both together.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spatia_env.errors import ActionError, CaseError
from spatia_env.models.wan.autoencoder import latent_frames
from spatia_env.models.wan.pipeline import SpatiaWanPipeline
from spatia_env.models.wan.sampling import from_uint8, to_uint8

FIRST_ROUND_FRAMES = 121
ROUND_FRAMES = 81
HISTORY_FRAMES = 9
MAX_FRAMES = 194
SEED = 20917
MAP_STRIDE = 6
"""Every 6th frame goes into the map (4 of 24 a second)."""
CANDIDATE_STRIDE = 4
"""Every 4th past frame may become a reference."""
TARGET_STRIDE = 12
"""Every 12th new camera looks for a reference."""
NUM_REFERENCES = 7


@dataclass(frozen=True)
class Round:
    """One round: cameras `start` to `stop` of the path, padded to `num_frames` by repeating the last."""

    index: int
    start: int
    stop: int
    num_frames: int
    history: int
    """frames at the start that are there already: 1 (the picture) in the first round, 9 later"""

    @property
    def padding(self) -> int:
        """Frames at the end that the path does not ask for."""
        return self.num_frames - (self.stop - self.start)

    def cameras(self, path: Tensor) -> Tensor:
        """The round's cameras [num_frames, 4, 4] of a path [N, 4, 4]."""
        own = path[self.start : self.stop]
        return torch.cat([own, own[-1:].expand(self.padding, -1, -1)])


def plan_rounds(
    num_poses: int, first: int = FIRST_ROUND_FRAMES, later: int = ROUND_FRAMES, history: int = HISTORY_FRAMES
) -> list[Round]:
    """The rounds that cover `num_poses` cameras.

    Raises:
        CaseError: If there is no camera.
        ActionError: If a length is not 4k + 1, or no frames are left beside the history.
    """
    if num_poses < 1:
        raise CaseError("w2c.txt: holds no camera.")
    for frames in (first, later, history):
        latent_frames(frames)
    if not history < later or history > first:
        raise ActionError(f"history: {history} frames leave nothing to generate in a round of {later}.")
    rounds = [Round(0, 0, min(first, num_poses), first, 1)]
    count = 1 + max(0, math.ceil((num_poses - first) / (later - history)))
    for index in range(1, count):
        start = first + (index - 1) * later - history * index
        rounds.append(Round(index, start, min(start + later, num_poses), later, history))
    return rounds


@dataclass(frozen=True)
class RoundView:
    """What the world shows for a round: `scene_render` u8 [T, H, W, 3], `unknown` u8 [T, H, W] (255 = hole), and
    `references`: indices of past frames, in the order of their targets.
    """

    scene_render: Tensor
    unknown: Tensor
    references: tuple[int, ...]


class RoundWorld(Protocol):
    """The map, as the rounds need it."""

    def view(self, current: Round, frames: Tensor) -> RoundView:
        """What is known along the round's cameras after `frames` u8 [N, H, W, 3], one per camera of the path so far."""
        ...


@dataclass(frozen=True)
class RoundResult:
    """A finished round: its new `frames` u8 [n, H, W, 3], and its `latents` [1, C, F, h, w] without history."""

    round: Round
    frames: Tensor
    latents: Tensor


def generate_rounds(
    pipeline: SpatiaWanPipeline,
    world: RoundWorld,
    rounds: Sequence[Round],
    prompts: Sequence[str],
    first_image: Tensor,
    seed: int = SEED,
) -> Iterator[RoundResult]:
    """Generate round after round; every one draws its noise from the same seed, as in the release.

    Args:
        pipeline: The official size.
        world: The map.
        rounds: Of `plan_rounds`.
        prompts: One per round; the last is repeated.
        first_image: u8 [H, W, 3].
        seed: Of the noise.

    Raises:
        ActionError: If sizes do not fit, or the world names references that are not there.
    """
    frames = first_image.unsqueeze(0)
    for current in rounds:
        view = world.view(current, frames)
        _check_view(view, current, frames)
        given = frames[-current.history :]
        references = frames[list(view.references)]
        clip = pipeline.generate(
            prompts[min(current.index, len(prompts) - 1)],
            from_uint8(view.scene_render),
            view.unknown.float().div(255)[None, None],
            given_frames=from_uint8(given),
            reference_frames=from_uint8(references) if len(references) else None,
            generator=torch.Generator().manual_seed(seed),
        )
        new = to_uint8(clip.frames)[0].permute(1, 2, 3, 0)[
            current.history : current.num_frames - current.padding
        ]
        frames = torch.cat([frames, new])
        # The first round keeps its picture's latent: the film starts with it.
        kept = 0 if current.index == 0 else latent_frames(current.history)
        yield RoundResult(current, new, clip.latents[:, :, kept:])


def decode_film(pipeline: SpatiaWanPipeline, results: Sequence[RoundResult], trim: bool = True) -> Tensor:
    """All rounds decoded in one piece, u8 [N, H, W, 3]; `trim` cuts off the padding that the release leaves."""
    film = to_uint8(pipeline.decode(torch.cat([result.latents for result in results], dim=2)))
    film = film[0].permute(1, 2, 3, 0)
    return film[: len(film) - results[-1].round.padding] if trim else film


def _check_view(view: RoundView, current: Round, frames: Tensor) -> None:
    if len(view.scene_render) != current.num_frames or len(view.unknown) != current.num_frames:
        raise ActionError(
            f"round {current.index}: needs {current.num_frames} rendered frames, got {len(view.scene_render)}."
        )
    if any(not 0 <= index < len(frames) for index in view.references):
        raise ActionError(
            f"round {current.index}: references {view.references} are not among {len(frames)} frames."
        )
