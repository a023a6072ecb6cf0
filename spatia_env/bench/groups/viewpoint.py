"""Group `viewpoint`: is a place that was imagined from A the same place when it is seen from B?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from spatia_env.bench import features
from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.registry import Stage, figure, group
from spatia_env.bench.systems import GIVEN, Rollout, System
from spatia_env.geometry import invert_se3, project, unproject

FROM, TO = 2 * FRAMES - 1, 4 * FRAMES - 1
"""Frames at A (turned by 90 degrees) and at B (1 m aside)."""
LEAST = 0.15
"""Share of B that A's surface must cover; else nothing was imagined that could be seen again."""
MOVED = 0.25
"""Share of the truth's change from the start to A that a row must show; else it never went to A."""


@dataclass(frozen=True)
class Seen:
    """Whether the row shows A at A; A's picture drawn at B by A's own depth: picture [H, W, 3], depth [H,
    W], where it covers B; and what B shows.
    """

    went: bool
    warped: np.ndarray
    warped_depth: np.ndarray
    covered: np.ndarray
    truth: Truth
    rollout: Rollout


def show(record: Seen) -> Mapping[str, np.ndarray]:
    """A, B, and A drawn at B."""
    frames = record.rollout.frames
    return {"at A, at B, A drawn at B": np.stack([frames[FROM], frames[TO], record.warped])}


ROWS = (*GIVEN, "no-memory", "no-imagination")


@group("viewpoint", "a place imagined from A, seen from B", ROWS, (1, 6, 30), pictures=show)
def play(stage: Stage, scene: int, system: System) -> Seen:
    """Two clips of turning, two aside."""
    truth = stage.truth(scene, "aside")
    rollout = stage.players.roll(system, truth)
    poses = truth.c2w[1:]
    start = truth.frames[0].astype(float)
    shown, wanted = (np.abs(f - start).mean() for f in (rollout.frames[FROM], truth.frames[1:][FROM]))
    drawn = draw_at(rollout.frames[FROM], rollout.depth[FROM], poses[FROM], poses[TO], truth.K)
    return Seen(shown > MOVED * wanted, *drawn, truth, rollout)


def draw_at(
    frame: np.ndarray, depth: np.ndarray, c2w: np.ndarray, other: np.ndarray, K: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture's points drawn at another camera, nearest first: colours, z-depth, and where there is any."""
    height, width = depth.shape
    points = unproject(*(torch.from_numpy(np.array(x, np.float32)) for x in (depth[None], K, c2w[None])))[0]
    w2c = invert_se3(torch.from_numpy(np.array(other, np.float32))[None])
    pixels, distances = project(points.reshape(-1, 3), w2c, torch.from_numpy(K))
    uv, z = pixels[0].numpy(), distances[0].numpy()
    column, row = np.floor(uv[:, 0]).astype(int), np.floor(uv[:, 1]).astype(int)
    good = (z > 0.1) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    good &= depth.reshape(-1) > 0
    order = np.argsort(-z[good], kind="stable")
    picture, drawn = np.zeros_like(frame), np.zeros_like(depth)
    where = row[good][order], column[good][order]
    picture[where], drawn[where] = frame.reshape(-1, 3)[good][order], z[good][order]
    return picture, drawn, drawn > 0


@figure("viewpoint", "", "low", "<= 0.15")
def view_colour(record: Seen) -> float | None:
    """Colour of covisible surface, A against B (STLPIPS-Alex)."""
    if not features.available():
        return None
    if not record.went or record.covered.mean() < LEAST:
        return 1.0
    mixed = np.where(record.covered[..., None], record.warped, record.rollout.frames[TO])
    return float(features.distance(mixed[None], record.rollout.frames[TO][None])[0])


@figure("viewpoint", "%", "low", "<= 8")
def view_depth(record: Seen) -> float:
    """Depth of covisible surface, A against B (AbsRel)."""
    if not record.went or record.covered.mean() < LEAST:
        return 100.0
    near, seen = record.warped_depth[record.covered], record.rollout.depth[TO][record.covered]
    error = np.where(seen > 0, np.minimum(np.abs(seen - near) / near, 1), 1.0)
    return 100 * float(error.mean())


@figure("viewpoint", "%", "low")
def overwritten(record: Seen) -> float | None:
    """Points that the two later clips take away, share of what the two first added.

    From `info["memory"]`; None for a row without a map.
    """
    growth = [info.get("memory", {}) for info in record.rollout.infos]
    if len(growth) < 4 or not all("carved" in g and "added" in g for g in growth):
        return None
    added = sum(g["added"] for g in growth[:2])
    return 100 * sum(g["carved"] for g in growth[2:]) / added if added else None
