"""Group `closure`: do the pictures of a full turn fit together, and does the second turn show the first
again?
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from spatia_env.bench import metrics
from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.groups.unseen import TURN, ring
from spatia_env.bench.registry import Stage, figure, group
from spatia_env.bench.systems import GIVEN, Rollout, System
from spatia_env.geometry import invert_se3, project, unproject

SYSTEMS = (*GIVEN, "no-imagination")
MOVED = 0.25
"""Share of the truth's change between opposite views that a row must show; else its second turn counts
nothing.
"""


@dataclass(frozen=True)
class Ring:
    """Two full turns."""

    truth: Truth
    rollout: Rollout

    def turn(self, number: int) -> slice:
        """Frames of turn 0 or 1."""
        return slice(FRAMES * TURN * number, FRAMES * TURN * (number + 1))


def show(record: Ring) -> Mapping[str, np.ndarray]:
    """Both turns, the last frame of each clip."""
    last = record.rollout.frames[FRAMES - 1 :: FRAMES]
    return {"first turn": last[:TURN], "second turn": last[TURN:]}


@group("closure", "a full turn, twice", SYSTEMS, (0, 6, 40), pictures=show)
def play(stage: Stage, scene: int, system: System) -> Ring:
    """Two rounds in steps of 45 degrees."""
    return Ring(*ring(stage, scene, system, 2 * TURN))


@figure("closure", "x", "low", "<= 1.5")
def seam(record: Ring) -> float:
    """Colour step where a clip's new part meets what was shown, over the truth's or under it (1 = as the truth).

    Clips 2 to 6 of the first turn. A wash has too small a step, a hard seam too large a one.
    """
    return _seam(record, range(1, TURN - 2))


@figure("closure", "x", "low", "<= 1.5")
def seam_ring(record: Ring) -> float:
    """Colour step where the ring closes (clips 7 and 8), over the truth's or under it."""
    return _seam(record, range(TURN - 2, TURN))


def _seam(record: Ring, clips: range) -> float:
    picked = np.concatenate([np.arange(FRAMES * c, FRAMES * (c + 1)) for c in clips])
    old = record.truth.seen_before[1:][picked]
    shown, true = (
        metrics.seam_gradient(f[picked], old) for f in (record.rollout.frames, record.truth.frames[1:])
    )
    ratio = (shown + 1e-3) / (true + 1e-3)
    return float(np.clip(max(ratio, 1 / ratio), 1, 10))


@figure("closure", "dB", "high", ">= 30")
def second_turn(record: Ring) -> float:
    """Second turn against the first (0 for a row that does not turn)."""
    first, second = (record.rollout.frames[record.turn(i)] for i in (0, 1))
    true = record.truth.frames[1:][record.turn(0)]
    half = FRAMES * TURN // 2
    shown, wanted = (np.abs(f[0].astype(float) - f[half]).mean() for f in (first, true))
    return float(metrics.frame_psnr(second, first).mean()) if shown > MOVED * wanted else 0.0


@figure("closure", "m", "low", "<= 0.1")
def floor_spread(record: Ring) -> float:
    """How much the floor's height differs around the turn (standard deviation over the views that truly show floor).

    1 m where a view has no depth for most of its true floor.
    """
    heights = []
    for index in range(FRAMES - 1, FRAMES * TURN, FRAMES):
        c2w, K = record.truth.c2w[1:][index], record.truth.K
        floor = np.abs(_points(record.truth.depth[1:][index], c2w, K)[..., 2]) < 0.03
        if floor.mean() < 0.05:
            continue
        depth = record.rollout.depth[index]
        found = floor & (depth > 0)
        heights.append(
            np.median(_points(depth, c2w, K)[found][:, 2]) if found.sum() > floor.sum() / 2 else np.nan
        )
    return float(np.std(heights)) if heights and np.isfinite(heights).all() else 1.0


@figure("closure", "%", "low", "<= 8")
def overlap_depth(record: Ring) -> float:
    """Depth of neighbouring views where both see the same (AbsRel)."""
    errors = []
    for index in range(FRAMES - 1, FRAMES * (TURN - 1), FRAMES):
        errors.append(_overlap(record, index, index + FRAMES))
    return 100 * float(np.mean(errors))


def _overlap(record: Ring, first: int, second: int) -> float:
    """Median |z' - z| / z of the first view's points in the second view."""
    depth, c2w, K = record.rollout.depth, record.truth.c2w[1:], record.truth.K
    points = torch.from_numpy(_points(depth[first], c2w[first], K).reshape(-1, 3)).float()
    uv, z = project(points, invert_se3(torch.from_numpy(c2w[second])[None]), torch.from_numpy(K))
    column, row = uv[0, :, 0].floor().long(), uv[0, :, 1].floor().long()
    height, width = depth.shape[1:]
    inside = (z[0] > 0.1) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    inside &= torch.from_numpy(depth[first].reshape(-1) > 0)
    if inside.sum() < 50:
        return 1.0
    seen = torch.from_numpy(depth[second])[row[inside], column[inside]]
    relative = torch.where(
        seen > 0, ((seen - z[0][inside]).abs() / z[0][inside]).clamp(max=1), torch.ones(())
    )
    return float(relative.median())


def _points(depth: np.ndarray, c2w: np.ndarray, K: np.ndarray) -> np.ndarray:
    """World points [H, W, 3] of a depth picture."""
    parts = (torch.from_numpy(np.array(x, np.float32)) for x in (depth[None], K, c2w[None]))
    return unproject(*parts)[0].numpy()
