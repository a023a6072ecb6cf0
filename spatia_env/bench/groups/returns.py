"""Group `returns`: back at the start after a loop, a square and long excursions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatia_env.bench import metrics
from spatia_env.bench.episodes import EXCURSIONS, FRAMES, Truth
from spatia_env.bench.registry import Stage, figure, group
from spatia_env.bench.systems import GIVEN, Rollout, System

FOLLOW = 1.0
"""dB by which the frames at the turning point must beat a frozen frame, so that standing still cannot win."""
LONG = 2
"""Every so many scenes have the long excursions: they are two thirds of the time."""


@dataclass(frozen=True)
class Returns:
    """Episodes by path: loop, square, and drift in some scenes."""

    episodes: Mapping[str, tuple[Truth, Rollout]]


def show(record: Returns) -> Mapping[str, np.ndarray]:
    """The last frame of each clip of the longest episode."""
    return {kind: rollout.frames[FRAMES - 1 :: FRAMES] for kind, (_, rollout) in record.episodes.items()}


@group("returns", "back at the start", (*GIVEN, "no-memory"), (0, 4, 20), pictures=show)
def play(stage: Stage, scene: int, system: System) -> Returns:
    """Four clips out and back, four around a square, and 16 clips of excursions in every second scene."""
    kinds = ["loop", "square"] + (["drift"] if scene % LONG == 0 else [])
    truths = {kind: stage.truth(scene, kind) for kind in kinds}
    return Returns({kind: (truth, stage.players.roll(system, truth)) for kind, truth in truths.items()})


def closed(truth: Truth, frames: np.ndarray, turning: int, end: int) -> float:
    """PSNR of frame `end` (counted from 1) against the start picture.

    If the frames before frame `turning` do not show where the camera went, no more than what the start
    picture scores against the true picture there.
    """
    span = slice(turning - 4, turning)
    true, observed = truth.frames[1:][span], truth.observed[1:][span]
    mask = observed if observed.mean((1, 2)).min() >= metrics.MIN_SHARE else np.ones_like(observed)
    frozen = np.repeat(truth.frames[:1], len(true), 0)
    shown, still = (metrics.frame_psnr(f, true, mask).mean() for f in (frames[span], frozen))
    raw, wrong = (metrics.psnr(f, truth.frames[0]) for f in (frames[end - 1], truth.frames[turning]))
    return raw if shown > still + FOLLOW else min(raw, wrong)


@figure("returns", "dB", "high", ">= 30")
def loop_return(record: Returns) -> float:
    """Start picture after going out and back over the same poses."""
    truth, rollout = record.episodes["loop"]
    return closed(truth, rollout.frames, 2 * FRAMES, 4 * FRAMES)


@figure("returns", "dB", "high", ">= 30")
def square_return(record: Returns) -> float:
    """Start picture after a square: a way back that is not the way out."""
    truth, rollout = record.episodes["square"]
    return closed(truth, rollout.frames, 2 * FRAMES, 4 * FRAMES)


@figure("returns", "dB", "high", ">= 28")
def drift_16(record: Returns) -> float | None:
    """Start picture after 16 clips of excursions."""
    return _drift(record, 2)


@figure("returns", "dB", "low", "<= 3")
def drift_loss(record: Returns) -> float | None:
    """Loss in dB between the return after 2 and that after 16 clips."""
    first, last = _drift(record, 0), _drift(record, 2)
    return None if first is None or last is None else first - last


def _drift(record: Returns, number: int) -> float | None:
    if "drift" not in record.episodes:
        return None
    truth, rollout = record.episodes["drift"]
    begun = 2 * sum(EXCURSIONS[:number])
    turning, end = begun + EXCURSIONS[number], begun + 2 * EXCURSIONS[number]
    return closed(truth, rollout.frames, FRAMES * turning, FRAMES * end)
