"""Group `walls`: seven metres straight on. Does the camera stop, or go through?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatia_env.bench.episodes import FRAMES, straight
from spatia_env.bench.registry import SIZE, Stage, figure, group
from spatia_env.bench.systems import Start, System
from spatia_env.sim.scenes import SimScene

BODY = 0.02
"""Metres around the camera that must be free for it to be outside of everything."""
REACH = 0.15


@dataclass(frozen=True)
class Walk:
    """Where the camera was [8 n, 4, 4], which of that was in or behind geometry, how far it went and could
    go, in metres.
    """

    poses: np.ndarray
    inside: np.ndarray
    went: float
    free: float
    frames: np.ndarray


def show(record: Walk) -> Mapping[str, np.ndarray]:
    """The last frame of every second clip."""
    return {"frames": record.frames[FRAMES - 1 :: 2 * FRAMES]}


@group(
    "walls", "7 m straight on", ("default", "default-with-depth", "frozen-frame"), (0, 8, 20), pictures=show
)
def play(stage: Stage, scene: int, system: System) -> Walk:
    """Fourteen clips of half a metre, with the environment's own rule for moves that meet a surface."""
    simulated = stage.scene(scene)
    commanded = straight(simulated, np.random.default_rng(0))
    start = commanded[0]
    if system.kind == "frozen":
        poses = np.repeat(start[None], len(commanded) - 1, 0)
        frames = np.repeat(simulated.render(start, *SIZE).rgb[None], len(poses), 0)
        return Walk(poses, blocked(simulated, start, poses), 0.0, free_way(simulated, start), frames)
    player = stage.players.get(system, SIZE, block_collisions=None)
    player.open(Start(start, scene))
    step = np.linalg.inv(start.astype(np.float64)) @ commanded[1 : 1 + FRAMES]
    executed, shown = [], []
    for _ in range((len(commanded) - 1) // FRAMES):
        observation = player.env.step({"path": step.astype(np.float32), "event": ""})[0]
        executed.append(observation["pose"])
        shown.append(observation["frames"])
    path = np.concatenate(executed)
    went = float(np.linalg.norm(path[-1, :3, 3] - start[:3, 3]))
    return Walk(
        path, blocked(simulated, start, path), went, free_way(simulated, start), np.concatenate(shown)
    )


def blocked(scene: SimScene, start: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Which cameras [T] are inside of something, or beyond the first thing on their straight way."""
    inside = np.array([not scene.is_free(pose[:3, 3], BODY) for pose in poses])
    limit = free_way(scene, start) + REACH
    return inside | (np.linalg.norm(poses[:, :3, 3] - start[:3, 3], axis=1) > limit)


def free_way(scene: SimScene, start: np.ndarray) -> float:
    """Metres from `start` level ahead to the first thing, at most 7."""
    ahead = np.array([start[0, 2], start[1, 2], 0.0])
    ahead /= np.linalg.norm(ahead)
    steps = np.arange(0.05, 7.0, 0.05)
    hit = [s for s in steps if not scene.is_free(start[:3, 3] + s * ahead, BODY)]
    return float(hit[0]) if hit else 7.0


@figure("walls", "%", "low", "<= 2")
def through_walls(record: Walk) -> float:
    """Frames inside or behind geometry."""
    return 100 * float(record.inside.mean())


@figure("walls", "", "high", ">= 0.8")
def free_way_used(record: Walk) -> float:
    """Share of the free way that was gone (0 for a row that stands)."""
    return min(1.0, record.went / max(record.free - REACH, 0.1))
