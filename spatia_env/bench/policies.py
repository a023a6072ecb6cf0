"""Frozen policies of graded skill, for asking whether a generated world ranks them as the true one does.

Each is a function of an episode's `Memo` that returns a camera action [6]. They may look at the map of the world
they act in, as an agent in it could; none sees the simulator. They were fixed before any of them was measured
and are never tuned to a checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spatia_env.actions import MAX_ROTATION
from spatia_env.bench import information_gain as prospects
from spatia_env.bench import planning
from spatia_env.bench.image_localization import PictureSeeker

FULL = 360 / MAX_ROTATION
"""Clips of a full turn."""


@dataclass
class Memo:
    """What a policy knows in an episode.

    Attributes:
        env: The unwrapped environment.
        task: Name of the task.
        goal: `info["goal"]`, or nothing.
        np_random: The policy's own random numbers.
        step: Steps taken.
        start: Pose [4, 4] at the reset.
        notes: What the policy itself wants to remember.
    """

    env: Any
    task: str
    goal: dict[str, Any]
    np_random: np.random.Generator
    step: int = 0
    start: np.ndarray = field(default_factory=lambda: np.eye(4))
    notes: dict[str, Any] = field(default_factory=dict)


Act = Callable[[Memo], np.ndarray]


def _camera(right: float = 0, ahead: float = 0, yaw: float = 0) -> np.ndarray:
    return np.array([right, 0, ahead, 0, yaw, 0], np.float32)


def still(memo: Memo) -> np.ndarray:
    """Does nothing."""
    return _camera()


def shiver(memo: Memo) -> np.ndarray:
    """Moves a little, at random."""
    return random(memo) * 0.15


def random(memo: Memo) -> np.ndarray:
    """Moves at random, level."""
    return (memo.np_random.uniform(-1, 1, 6) * planning.REACH).astype(np.float32)


def ahead(memo: Memo) -> np.ndarray:
    """Walks straight on, whatever there is."""
    return _camera(ahead=0.6)


def rocking(memo: Memo) -> np.ndarray:
    """Looks left and right and never beyond."""
    return _camera(yaw=(1, -1, -1, 1)[memo.step % 4] * 0.8)


def slow_spin(memo: Memo) -> np.ndarray:
    """Turns on the spot, a third as fast as it could."""
    return _camera(yaw=0.33)


def spin(memo: Memo) -> np.ndarray:
    """Turns on the spot."""
    return _camera(yaw=1)


def spin_and_walk(memo: Memo) -> np.ndarray:
    """Turns for four clips, then walks one."""
    return _camera(ahead=0.6) if memo.step % 5 == 4 else _camera(yaw=1)


def out_and_back(memo: Memo) -> np.ndarray:
    """Turns away for three clips and back again for three."""
    return _camera(yaw=1 if memo.step % 6 < 3 else -1)


def frontier(memo: Memo) -> np.ndarray:
    """Goes to the nearest frontier of the map; goes home or to the goal where there is one."""
    return _with_goal(memo, lambda: planning.explore_frontier(memo.env))


def shooting(memo: Memo) -> np.ndarray:
    """Takes the best of 24 random actions by how little of the view the map knows where they end."""
    return _with_goal(memo, lambda: planning.shoot(memo.env, planning.unseen_surface, memo.np_random)[0])


def cross_entropy(memo: Memo) -> np.ndarray:
    """As `shooting`, by the cross-entropy method."""
    return _with_goal(
        memo, lambda: planning.cross_entropy(memo.env, planning.unseen_surface, memo.np_random)[0]
    )


def best_view(memo: Memo) -> np.ndarray:
    """Takes the best of 24 actions by the square metres that they promise."""
    return _with_goal(memo, lambda: prospects.best_view(memo.env, memo.np_random)[0])


def sweeping(memo: Memo) -> np.ndarray:
    """Looks all around from a step aside each time, then takes the views that promise most."""

    def explore() -> np.ndarray:
        if memo.step >= FULL:
            return prospects.best_view(memo.env, memo.np_random)[0]
        camera = prospects.sweep(memo.env, memo.step, memo.notes.get("side", 0.0))
        memo.notes.setdefault("side", float(np.sign(camera[4])))
        return camera

    return _with_goal(memo, explore)


def forking(memo: Memo) -> np.ndarray:
    """Imagines the best two of `best_view` in forks and takes the one that was rewarded more."""
    return _with_goal(
        memo, lambda: planning.imagine(memo.env, prospects.best_view(memo.env, memo.np_random), keep=2)
    )


def _mixed(act: Act, share: float) -> Act:
    def mixed(memo: Memo) -> np.ndarray:
        return random(memo) if memo.np_random.random() < share else act(memo)

    return mixed


def _with_goal(memo: Memo, explore: Callable[[], np.ndarray]) -> np.ndarray:
    """Pursue the task's goal where the map says how, else explore."""
    if memo.task == "return_home":
        # Out for a good third of a full turn, then home.
        here = memo.env.world.c2w.double().numpy()
        return _camera(yaw=1) if memo.step < 4 else planning.towards(here, memo.start)
    if memo.task == "image_goal" and "image" in memo.goal:
        seeker = memo.notes.setdefault(
            "seeker", PictureSeeker(memo.start, memo.goal["image"], memo.np_random)
        )
        camera = seeker(memo.env)
        if camera is not None:
            return camera
    return explore()


POLICIES: dict[str, Act] = {
    "still": still,
    "shiver": shiver,
    "random": random,
    "ahead": ahead,
    "rocking": rocking,
    "slow-spin": slow_spin,
    "spin": spin,
    "spin-and-walk": spin_and_walk,
    "out-and-back": out_and_back,
    "frontier-75-random": _mixed(frontier, 0.75),
    "frontier-40-random": _mixed(frontier, 0.4),
    "frontier": frontier,
    "shooting": shooting,
    "cross-entropy": cross_entropy,
    "best-view": best_view,
    "forking": forking,
    "sweeping": sweeping,
}
"""Policies by name, roughly in order of skill."""
