"""What tasks are judged by, and what they answer: plain values, shared by every task.

`TaskContext` is what a step reports, `TaskResult` the verdict on it, `Judge` whoever knows the truth of a
scene, and `Episode` the part that all tasks have in common: effort, SPL and the limits on mush.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from spatia_env.errors import ActionError
from spatia_env.poses import distance_and_angle

CELL = 0.2
"""Edge in metres of the cells in which a judge counts the true surface that was seen."""


class Judge(Protocol):
    """Knows the truth of a scene. It sets goals and keeps the score; nothing of it enters an observation."""

    def cells(self, path: np.ndarray) -> np.ndarray:
        """Sorted int64 names of the cells (edge `CELL`) of true surface that cameras [T, 4, 4] see."""

    def target(self, name: str, c2w: np.ndarray) -> tuple[float, float]:
        """Share of the picture from `c2w` [4, 4] that shows the object, and metres to it.

        Raises:
            ActionError: If the scene has no such object.
        """

    def draw_goal(self, np_random: np.random.Generator, c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A place near `c2w` that can be reached: its picture u8 [H, W, 3] and its pose [4, 4]."""

    def draw_target(self, np_random: np.random.Generator, c2w: np.ndarray) -> str:
        """The name of an object that `c2w` does not show well.

        Raises:
            ActionError: If the scene has no objects.
        """


@dataclass(frozen=True)
class TaskContext:
    """What a task may judge by, after a reset or a step.

    Attributes:
        c2w: Pose of the last frame [4, 4].
        start_c2w: Pose at the reset [4, 4].
        frame: Last frame, u8 [H, W, 3].
        growth_points: Points added to the map by this step.
        growth_area: Surface added to the map by this step, square metres.
        known_share: Share of the clip's pixels that memory rendered, 0 to 1.
        start_frame: First frame of the episode, u8 [H, W, 3].
        drift: Metres by which SLAM found the clip's last camera away from its command (90 degrees count as one).
        frontier_distance: Metres to the nearest frontier of the map; None where it was not asked for.
        target_share: Share of the last frame's pixels that show the object asked for, where a judge can tell
            (the simulator can); None where none can.
        target_distance: Metres from the camera to that object, or None.
        seen_cells: True surface that the clip saw (`Judge.cells`), or None without a judge.
        judge: Draws goals at a reset; None where nobody knows the truth.
        np_random: Its random numbers.
    """

    c2w: np.ndarray
    start_c2w: np.ndarray
    frame: np.ndarray
    growth_points: int = 0
    growth_area: float = 0.0
    known_share: float = 1.0
    start_frame: np.ndarray | None = None
    drift: float = 0.0
    frontier_distance: float | None = None
    target_share: float | None = None
    target_distance: float | None = None
    seen_cells: np.ndarray | None = None
    judge: Judge | None = None
    np_random: np.random.Generator | None = None


@dataclass(frozen=True)
class TaskResult:
    """The weighted terms of one step and whether it ended the episode.

    Attributes:
        terms: Named parts of the reward.
        terminated: The task is done.
        success: It was reached.
        truncated: A limit on imagined share or drift was passed.
        reason: Why it was truncated, "" otherwise.
        spl: Success weighted by path length so far, 0 to 1; None where the shortest way is not known.
        oracle: What the judge measured, by name; empty without one.
    """

    terms: dict[str, float] = field(default_factory=dict)
    terminated: bool = False
    success: bool = False
    truncated: bool = False
    reason: str = ""
    spl: float | None = None
    oracle: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Plain numbers, whatever the judge computed with: they go into `info` and into recordings.
        for name in ("terms", "oracle"):
            plain = {key: float(value) for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, plain)
        for name in ("terminated", "success", "truncated"):
            object.__setattr__(self, name, bool(getattr(self, name)))
        object.__setattr__(self, "spl", None if self.spl is None else float(self.spl))

    @property
    def reward(self) -> float:
        """The sum of the terms."""
        return float(sum(self.terms.values()))


class Task(Protocol):
    """What the environment asks of a task: `reset` once an episode, then `evaluate` once a step."""

    @property
    def wants_judge(self) -> bool:
        """Whether it cannot begin without a judge."""

    @property
    def wants_frontier(self) -> bool:
        """Whether it reads `TaskContext.frontier_distance`."""

    @property
    def goal(self) -> dict[str, Any]:
        """What the agent is told of the goal."""

    def reset(self, context: TaskContext) -> None:
        """Begin an episode at the state of the context."""

    def evaluate(self, context: TaskContext) -> TaskResult:
        """Judge the step that led to the state of the context."""


@dataclass
class Episode:
    """What all tasks share: the effort spent, SPL, the true surface seen, and the limits on mush.

    Effort is metres + degrees / 90 between the last poses of clips. An episode is truncated when the mean
    imagined share of the last `patience` clips exceeds `max_imagined`, or the drift of all its clips together
    exceeds `max_drift`: a world that no longer remembers what it shows cannot be farmed for reward.
    """

    wants_judge: ClassVar[bool] = False
    wants_frontier: ClassVar[bool] = False

    max_imagined: float = 0.8
    """A full turn into the unknown imagines about a quarter of its pixels, a clip of mush all of them."""
    max_drift: float = 1.0
    """Metres, 90 degrees counting as one."""
    patience: int = 3
    """Clips over which the imagined share is averaged."""
    _last_c2w: np.ndarray | None = field(default=None, init=False)
    _effort: float = field(default=0.0, init=False)
    _shortest: float | None = field(default=None, init=False)
    _imagined: tuple[float, ...] = field(default=(), init=False)
    _drift: float = field(default=0.0, init=False)
    _cells: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not (0 < self.max_imagined <= 1 and self.max_drift > 0 and self.patience >= 1):
            raise ActionError("task: use 0 < max_imagined <= 1, max_drift > 0 and patience >= 1.")

    @property
    def goal(self) -> dict[str, Any]:
        """What the agent is told of the goal, for `info["goal"]`."""
        return {}

    def reset(self, context: TaskContext) -> None:
        """Begin an episode."""
        self._last_c2w, self._effort, self._drift = context.c2w, 0.0, 0.0
        self._imagined, self._cells, self._shortest = (), context.seen_cells, None
        self._begin(context)

    def evaluate(self, context: TaskContext) -> TaskResult:
        """Judge a step: terms and success are the task's own, the rest is shared."""
        metres, degrees = distance_and_angle(context.c2w, self._last_c2w)  # type: ignore[arg-type]
        self._last_c2w, self._effort = context.c2w, self._effort + metres + degrees / 90
        self._drift += context.drift
        self._imagined = (*self._imagined, 1 - context.known_share)[-self.patience :]
        oracle = self._oracle(context)
        terms, success = self._score(context)
        reason = "" if success else self._mush()
        return TaskResult(terms, success, success, bool(reason), reason, self._spl(bool(success)), oracle)

    def _begin(self, context: TaskContext) -> None:
        """The task's own part of `reset`."""

    def _score(self, context: TaskContext) -> tuple[dict[str, float], bool]:
        """The task's own terms, and whether it was reached."""
        return {}, False

    def _mush(self) -> str:
        imagined = sum(self._imagined) / len(self._imagined)
        if len(self._imagined) == self.patience and imagined > self.max_imagined:
            return f"imagined {imagined:.0%} of the last {self.patience} clips; the limit is {self.max_imagined:.0%}"
        if self._drift > self.max_drift:
            return f"drifted {self._drift:.2f} m; the limit is {self.max_drift:g} m"
        return ""

    def _spl(self, success: bool) -> float | None:
        if self._shortest is None:
            return None
        return success * self._shortest / max(self._shortest, self._effort, 1e-9)

    def _oracle(self, context: TaskContext) -> dict[str, float]:
        """Square metres of true surface seen so far and in this step, where a judge looks on."""
        if context.seen_cells is None:
            return {}
        before = self._cells if self._cells is not None else np.zeros(0, np.int64)
        self._cells = np.union1d(before, context.seen_cells)
        area = CELL**2
        return {"coverage": len(self._cells) * area, "new_coverage": (len(self._cells) - len(before)) * area}


def report(result: TaskResult) -> dict[str, Any]:
    """What `info` says of a task's verdict: `reward_terms`, `is_success`, and where known `spl`, `oracle`, `end`."""
    info: dict[str, Any] = {"reward_terms": dict(result.terms), "is_success": result.success}
    if result.spl is not None:
        info["spl"] = result.spl
    if result.oracle:
        info["oracle"] = dict(result.oracle)
    if result.reason:
        info["end"] = result.reason
    return info
