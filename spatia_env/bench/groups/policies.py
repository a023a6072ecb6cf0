"""Group `policies`: do policies that act on pictures and depth rank in a generated world as they do in the simulator?

Closed-loop policies only: what they do depends on what they are shown, so a world that shows nothing cannot
rank them by accident. Two null worlds say what a correlation is worth: one that shows the map's render
alone, and one that mirrors each observation at random.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from scipy import stats

from spatia_env.bench import metrics
from spatia_env.bench.registry import Stage, figure, group
from spatia_env.bench.systems import System, make_task_env

SIZE = (64, 64)
STEPS = 5
TASKS = ("explore", "image_goal")


@dataclass
class Seen:
    """What a policy is shown: the last frame u8 [H, W, 3], its depth and known pixels [H, W], the goal's
    picture or None.
    """

    frame: np.ndarray
    depth: np.ndarray
    known: np.ndarray
    goal: np.ndarray | None
    rng: np.random.Generator

    def sides(self, values: np.ndarray) -> tuple[float, float]:
        """Means of the left and the right half."""
        half = values.shape[1] // 2
        return float(values[:, :half].mean()), float(values[:, half:].mean())


Act = Callable[[Seen], np.ndarray]


def _move(yaw: float, ahead: float = 0.0) -> np.ndarray:
    return np.array([0, 0, ahead, 0, yaw, 0], np.float32)


def _to(left: float, right: float, gain: float = 4.0) -> float:
    """A yaw to the side that has more, 1 at most."""
    return float(np.clip(gain * (right - left) / (abs(left) + abs(right) + 1e-6), -1, 1))


def to_unknown(seen: Seen) -> np.ndarray:
    """Turns to the side that was shown for the first time."""
    return _move(_to(*seen.sides(1.0 - seen.known)) or 1.0)


def to_known(seen: Seen) -> np.ndarray:
    """Turns to the side that is known: the opposite of exploring."""
    return _move(_to(*seen.sides(seen.known.astype(float))))


def to_far(seen: Seen) -> np.ndarray:
    """Turns to where it is deep, walks where there is room ahead."""
    return _move(_to(*seen.sides(seen.depth)), 0.6 if np.median(seen.depth[24:40, 24:40]) > 1.2 else 0.0)


def to_near(seen: Seen) -> np.ndarray:
    """Turns to what is near, and goes there."""
    return _move(-_to(*seen.sides(seen.depth)), 0.3)


def to_edges(seen: Seen) -> np.ndarray:
    """Turns to the side with more edges."""
    return _move(_to(*seen.sides(metrics.strong_edges(seen.frame).astype(float))), 0.2)


def to_light(seen: Seen) -> np.ndarray:
    """Turns to the brighter side."""
    return _move(_to(*seen.sides(metrics.grey(seen.frame)), gain=8.0))


def to_goal(seen: Seen) -> np.ndarray:
    """Turns to the side that is more like the goal's picture in colour, walks where it is alike; explores
    without a goal.
    """
    if seen.goal is None:
        return to_unknown(seen)
    unlike = np.abs(seen.frame.astype(float) - seen.goal.astype(float).mean((0, 1))).mean(-1)
    left, right = seen.sides(unlike)
    same = np.abs(seen.frame.astype(float) - seen.goal).mean() < 30
    return _move(-_to(left, right, 8.0), 0.5 if same else 0.1)


def random(seen: Seen) -> np.ndarray:
    """Level, at random."""
    return (seen.rng.uniform(-1, 1, 6) * [0.6, 0, 0.6, 0, 1, 0]).astype(np.float32)


def mixed(act: Act, share: float) -> Act:
    """A policy that acts at random for a share of its steps."""
    return lambda seen: random(seen) if seen.rng.random() < share else act(seen)


POLICIES: Mapping[str, Act] = {
    "to-unknown": to_unknown, "to-far": to_far, "to-goal": to_goal, "to-edges": to_edges, "to-light": to_light,
    "to-unknown-50": mixed(to_unknown, 0.5), "to-near": to_near, "to-known": to_known,
}  # fmt: skip
"""Graded from exploring to staying with what is known. None sees the map or the simulator."""


@dataclass(frozen=True)
class Returns:
    """Returns [policies, tasks] in a world and in the simulator."""

    world: np.ndarray
    simulator: np.ndarray


@group(
    "policies",
    "ranking of closed-loop policies",
    ("oracle", "default", "memory-render-only", "mirrored"),
    (0, 3, 12),
)
def play(stage: Stage, scene: int, system: System) -> Returns:
    """Five clips of every policy and task."""
    true = stage.kept(scene, "returns", lambda: returns(stage, scene, "truth"))
    return Returns(true if system.kind == "truth" else returns(stage, scene, system.kind), true)


def returns(stage: Stage, scene: int, kind: str) -> np.ndarray:
    """Returns [policies, tasks] in the simulator ("truth"), or in the generated world as a kind of system shows it."""
    table = np.zeros((len(POLICIES), len(TASKS)))
    for column, task in enumerate(TASKS):
        env = make_task_env(kind == "truth", task, SIZE, stage.players.model, kind == "render")
        try:
            for row, act in enumerate(POLICIES.values()):
                rng = np.random.default_rng([scene, column, row])
                table[row, column] = episode(env, scene, act, rng, kind == "mirrored")
        finally:
            env.close()
    return table


def episode(env: gym.Env, scene: int, act: Act, rng: np.random.Generator, mirrored: bool = False) -> float:
    """The return of one episode; `mirrored` shows each observation the other way round at random."""
    observation, info = env.reset(seed=scene, options={"scene": scene, "depth": True})
    goal, total = info.get("goal", {}).get("image"), 0.0
    for _ in range(STEPS):
        parts = [np.asarray(observation[key][-1]) for key in ("frames", "depth", "known")]
        if mirrored and rng.random() < 0.5:
            parts = [part[:, ::-1] for part in parts]
        seen = Seen(parts[0], parts[1], parts[2] > 0, None if goal is None else np.asarray(goal), rng)
        observation, reward, terminated, truncated, _ = env.step({"camera": act(seen), "event": ""})
        total += float(reward)
        if terminated or truncated:
            break
    return total


def rank_correlation(records: list[np.ndarray], reference: object = None) -> Callable[[np.ndarray], float]:
    """Spearman of the policies' mean returns over scenes and tasks, each task in units of its spread.

    Args:
        records: [2, policies, tasks] a scene: in the world, in the simulator.
        reference: Not used.

    Returns:
        The correlation as a function of how often each scene counts [scenes]; 0 if a world gives all the same.
    """

    def correlation(weights: np.ndarray) -> float:
        mean = np.average(np.stack(records), axis=0, weights=weights)
        spread = mean.std(1, keepdims=True)
        scores = ((mean - mean.mean(1, keepdims=True)) / np.where(spread > 1e-9, spread, 1)).mean(-1)
        if min(np.ptp(scores[0]), np.ptp(scores[1])) < 1e-9:
            return 0.0
        return float(stats.spearmanr(scores[0], scores[1]).statistic)

    return correlation


@figure("policies", "", "high", ">= 0.7", rank_correlation)
def policy_spearman(record: Returns) -> np.ndarray:
    """Rank correlation of policies' returns with the simulator's."""
    return np.stack([record.world, record.simulator])
