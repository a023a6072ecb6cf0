"""Group `known`: pixels whose surface was given must stay as they are, at every size, in scenes and
photographs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatia_env.bench import metrics
from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.registry import SIZE, Stage, figure, group
from spatia_env.bench.systems import GIVEN, Rollout, System

SIZES = ((128, 128), (256, 256), (192, 320))
OFF = 40
"""Levels of 255 beyond which a known pixel counts as changed."""


@dataclass(frozen=True)
class Known:
    """Going a little aside and back, by size: the truth and what was shown."""

    episodes: Mapping[tuple[int, int], tuple[Truth, Rollout]]


def show(record: Known) -> Mapping[str, np.ndarray]:
    """First frame, turning point, last frame; the smallest size."""
    frames = record.episodes[SIZE][1].frames
    return {"frames": frames[[0, FRAMES - 1, 2 * FRAMES - 1]]}


@group("known", "surface that was given", GIVEN, (1, 4, 20), pictures=show)
def play(stage: Stage, scene: int, system: System) -> Known:
    """Two clips at every size; `smoke` has the smallest alone."""
    sizes = (SIZE,) if stage.small else SIZES
    truths = {size: stage.truth(scene, "glance", size) for size in sizes}
    return Known({size: (truth, stage.players.roll(system, truth)) for size, truth in truths.items()})


def render_psnr(record: Known, size: tuple[int, int]) -> float | None:
    """PSNR of known pixels against what the map showed there; None without a map or that size."""
    if size not in record.episodes or record.episodes[size][1].render is None:
        return None
    rollout = record.episodes[size][1]
    assert rollout.render is not None
    return metrics.psnr(rollout.frames, rollout.render, rollout.known) if rollout.known.any() else None


@figure("known", "dB", "high", ">= 40")
def known_128(record: Known) -> float | None:
    """Known pixels against the map's render, 128x128."""
    return render_psnr(record, (128, 128))


@figure("known", "dB", "high", ">= 40")
def known_256(record: Known) -> float | None:
    """Known pixels against the map's render, 256x256."""
    return render_psnr(record, (256, 256))


@figure("known", "dB", "high", ">= 40")
def known_192x320(record: Known) -> float | None:
    """Known pixels against the map's render, 192x320."""
    return render_psnr(record, (192, 320))


@figure("known", "%", "low", "<= 0.5")
def known_changed(record: Known) -> float | None:
    """Known pixels of a first frame more than 40/255 off the render, worst size."""
    shares = []
    for _, rollout in record.episodes.values():
        if rollout.render is not None and rollout.known[0].any():
            off = np.abs(rollout.frames[0].astype(int) - rollout.render[0]).max(-1) > OFF
            shares.append(100 * off[rollout.known[0]].mean())
    return float(max(shares)) if shares else None


@figure("known", "dB", "high", ">= 30")
def observed(record: Known) -> float:
    """Pixels whose surface the start picture shows, against the truth, mean over sizes."""
    scores = []
    for truth, rollout in record.episodes.values():
        frames = metrics.frame_psnr(rollout.frames, truth.frames[1:], truth.observed[1:])
        scores.append(np.nanmean(frames) if np.isfinite(frames).any() else 0.0)
    return float(np.mean(scores))


@figure("known", "%", "low", "<= 8")
def depth_error(record: Known) -> float:
    """Depth of all pixels against the truth (AbsRel), 128x128."""
    truth, rollout = record.episodes[SIZE]
    return 100 * metrics.depth_absrel(rollout.depth, truth.depth[1:])
