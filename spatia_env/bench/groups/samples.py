"""Group `samples`: several answers for one start. Do they differ as true rooms with the same start picture
do?
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spatia_env.bench import features, metrics
from spatia_env.bench.episodes import FRAMES
from spatia_env.bench.reference import Reference
from spatia_env.bench.registry import SIZE, Stage, figure, group
from spatia_env.bench.systems import System
from spatia_env.sim.items import Item
from spatia_env.sim.layout import Decoration, ScenePlan, draw_plan
from spatia_env.sim.scenes import FIELD_OF_VIEW, SimScene

SEEDS = 4
LOOKS = (2 * FRAMES - 1, 3 * FRAMES - 1)
"""Frames that are compared: turned by 90 and by 135 degrees, where nothing of the start is in sight."""
MARGIN = math.radians(FIELD_OF_VIEW / 2 + 8)


@dataclass(frozen=True)
class Samples:
    """Views [S, 2, H, W, 3] that a row showed for S seeds, true views [P, 2, ...] of re-sampled rooms, and
    the true ones.
    """

    shown: np.ndarray
    posterior: np.ndarray
    truth: np.ndarray
    reference: Reference | None


def show(record: Samples) -> Mapping[str, np.ndarray]:
    """Seed by seed."""
    return {f"seed {i}": views for i, views in enumerate(record.shown)}


ROWS = ("oracle", "default", "no-imagination", "memory+inpaint", "memory+surfaces", "frozen-frame")


@group("samples", "four seeds from one picture", ROWS, (0, 4, 20), pictures=show, compares=True)
def play(stage: Stage, scene: int, system: System) -> Samples:
    """A turn of 135 degrees with four seeds."""
    truth = stage.truth(scene, "corner")
    draws = stage.kept(
        scene, "posterior", lambda: posterior_views(scene, truth.c2w[1:][list(LOOKS)], 2 * SEEDS)
    )
    if system.kind == "truth":
        shown = draws[SEEDS:]
    else:
        seeds = range(SEEDS) if system.kind == "model" else range(1)
        shown = np.stack([stage.players.roll(system, truth, seed).frames[list(LOOKS)] for seed in seeds])
    return Samples(shown, draws[:SEEDS], truth.frames[1:][list(LOOKS)], stage.reference)


@figure("samples", "x", "high", ">= 0.5")
def diversity(record: Samples) -> float | None:
    """Difference between seeds over that between different true rooms.

    1 means that seeds differ as rooms do.
    """
    if record.reference is None:
        return None
    rooms = list(record.reference.rooms[:, :3])
    return metrics.spread(_cells(record.shown)) / metrics.spread(rooms)


@figure("samples", "x", "", "")
def posterior_spread(record: Samples) -> float:
    """Difference between seeds over that between rooms that keep what the start picture shows.

    1 means that seeds differ as much as the truth may.
    """
    return metrics.spread(_cells(record.shown)) / max(metrics.spread(_cells(record.posterior)), 1e-6)


@figure("samples", "", "low", "")
def posterior_energy(record: Samples) -> float:
    """Energy score for rooms that keep what the start picture shows.

    A proper score; lower is better.
    """
    return metrics.energy_score(_cells(record.shown), _cells(record.posterior))


@figure("samples", "", "low", "")
def best_of_4(record: Samples) -> float | None:
    """STLPIPS-Alex to the truth, best of four seeds.

    Mean over the two views of the best seed's distance.
    """
    if not features.available():
        return None
    return float(min(features.distance(views, record.truth).mean() for views in record.shown))


def _cells(views: np.ndarray) -> list[np.ndarray]:
    return [metrics.coarse(v) for v in views]


# -- rooms that keep what the start picture shows


def posterior_views(seed: int, poses: np.ndarray, count: int) -> np.ndarray:
    """Pictures u8 [count, N, H, W, 3] at poses [N, 4, 4] in scenes that differ from `seed` out of its first
    camera's sight.
    """
    out = []
    for number in range(count):
        with SimScene(seed, plan=resampled(draw_plan(seed), number)) as scene:
            out.append(np.stack([scene.render(pose, *SIZE).rgb for pose in poses]))
    return np.stack(out)


def resampled(plan: ScenePlan, number: int) -> ScenePlan:
    """A plan with the same shell, light and everything in sight; what else stands and hangs is another
    scene's.
    """
    others = (draw_plan(seed) for seed in _others(plan, number))
    other = next(p for p in others if p.outdoor == plan.outdoor)
    kept = [item for item in plan.items if in_sight(plan, item.x, item.y, item.radius)]
    added: list[Item] = []
    for item in other.items:
        w, d = plan.size[0] / 2 - item.radius, plan.size[1] / 2 - item.radius
        free = all(
            math.hypot(item.x - o.x, item.y - o.y) > item.radius + o.radius + 0.08 for o in kept + added
        )
        clear = math.hypot(item.x - plan.eye[0], item.y - plan.eye[1]) > item.radius + 0.4
        if (
            abs(item.x) < w
            and abs(item.y) < d
            and free
            and clear
            and not in_sight(plan, item.x, item.y, item.radius)
        ):
            added.append(item)
    walls: Any = tuple(
        mine if wall_in_sight(plan, side) else theirs
        for side, (mine, theirs) in enumerate(zip(plan.walls, other.walls, strict=True))
    )
    hung = [panel for panel in plan.decorations if panel_in_sight(plan, panel)]
    for panel in other.decorations:
        room = abs(panel.along) + panel.width / 2 < plan.size[1 - panel.wall % 2] / 2 - 0.1
        free = all(
            o.wall != panel.wall or abs(o.along - panel.along) > (o.width + panel.width) / 2 + 0.15
            for o in hung
        )
        if room and free and not panel_in_sight(plan, panel):
            hung.append(panel)
    return dataclasses.replace(plan, items=(*kept, *added), walls=walls, decorations=tuple(hung))


def _others(plan: ScenePlan, number: int) -> list[int]:
    low, high = {"train": (0, 10_000), "dev": (10_000, 11_000), "test": (20_000, 20_200)}[plan.split]
    return [int(s) for s in np.random.default_rng([plan.seed, 91, number]).integers(low, high, 64)]


def in_sight(plan: ScenePlan, x: float, y: float, radius: float) -> bool:
    """Whether a disc on the floor reaches into the first camera's view."""
    dx, dy = x - plan.eye[0], y - plan.eye[1]
    away = abs((math.atan2(dy, dx) - plan.yaw + math.pi) % (2 * math.pi) - math.pi)
    return away - math.asin(min(1.0, radius / max(math.hypot(dx, dy), radius))) < MARGIN


def panel_in_sight(plan: ScenePlan, panel: Decoration) -> bool:
    """Whether any of a panel on a wall is in the first camera's view."""
    spots = on_wall(plan, panel.wall, panel.along + np.linspace(-0.5, 0.5, 9) * panel.width)
    return any(in_sight(plan, float(x), float(y), 0.0) for x, y in spots)


def wall_in_sight(plan: ScenePlan, side: int) -> bool:
    """Whether any of a wall is in the first camera's view."""
    spots = on_wall(plan, side, np.linspace(-0.5, 0.5, 41) * plan.size[1 - side % 2])
    return any(in_sight(plan, float(x), float(y), 0.0) for x, y in spots)


def on_wall(plan: ScenePlan, side: int, along: np.ndarray) -> np.ndarray:
    """World x and y [N, 2] of places along a wall (0: +x, 1: +y, 2: -x, 3: -y), counted to its right from inside."""
    outward = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][side], float)
    right = np.array([outward[1], -outward[0]])
    return outward * plan.size[side % 2] / 2 + along[:, None] * right
