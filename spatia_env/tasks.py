"""Rewards as named terms, and the ends of episodes: pure functions of what a step reports.

A task sees a `TaskContext` of plain values and knows neither the environment nor the model. Terms come
weighted, so their sum is the reward. Terms that lead somewhere are differences of a potential, `gamma * after
- before` (Ng, Harada & Russell, 1999): with gamma = 1 they sum to what was gained, so going to and fro earns
nothing.

The state of a task is a few numbers in its own fields: `copy.copy(task)` is a snapshot of it.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from spatia_env.checks import near_miss
from spatia_env.errors import ActionError
from spatia_env.poses import as_pose, distance_and_angle


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
        target_share: Share of the last frame's pixels that show the object asked for, where a judge can tell
            (the simulator can); None where none can.
        target_distance: Metres from the camera to that object, or None.
    """

    c2w: np.ndarray
    start_c2w: np.ndarray
    frame: np.ndarray
    growth_points: int = 0
    growth_area: float = 0.0
    known_share: float = 1.0
    start_frame: np.ndarray | None = None
    target_share: float | None = None
    target_distance: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """The weighted terms of one step and whether it ended the episode."""

    terms: dict[str, float] = field(default_factory=dict)
    terminated: bool = False
    success: bool = False

    def __post_init__(self) -> None:
        # Plain numbers, whatever the judge computed with: they go into `info` and into recordings.
        object.__setattr__(self, "terms", {name: float(value) for name, value in self.terms.items()})
        object.__setattr__(self, "terminated", bool(self.terminated))
        object.__setattr__(self, "success", bool(self.success))

    @property
    def reward(self) -> float:
        """The sum of the terms."""
        return float(sum(self.terms.values()))


class Task(Protocol):
    """What the environment asks of a task: `reset` once an episode, then `evaluate` once a step."""

    def reset(self, context: TaskContext) -> None:
        """Begin an episode at the state of the context."""

    def evaluate(self, context: TaskContext) -> TaskResult:
        """Judge the step that led to the state of the context."""


@dataclass
class NoTask:
    """No reward and no end: the world as it is."""

    def reset(self, context: TaskContext) -> None:
        """Nothing to remember."""

    def evaluate(self, context: TaskContext) -> TaskResult:
        """No terms."""
        return TaskResult()


@dataclass
class Explore:
    """See surface that nobody has seen: `new_surface = weight * min(growth_area / area_scale, limit)`.

    A quarter turn in an unseen room adds several square metres; a look at what is known adds none. The limit
    keeps one clip of badly placed points from outweighing an episode. Never terminates.
    """

    weight: float = 1.0
    area_scale: float = 4.0
    """Square metres worth a reward of 1."""
    limit: float = 2.0
    step_cost: float = 0.0
    """Subtracted every step, as the term `time`."""

    def reset(self, context: TaskContext) -> None:
        """Nothing to remember: the map remembers."""

    def evaluate(self, context: TaskContext) -> TaskResult:
        """Score the surface this step added."""
        gained = min(max(context.growth_area, 0.0) / self.area_scale, self.limit)
        return TaskResult({"new_surface": self.weight * gained, "time": 0.0 - self.step_cost})


@dataclass
class ImageGoal:
    """Stand where a picture was taken.

    With `goal_c2w`: potential `-(metres + degrees / 90) / scale`, success within `near_metres` and
    `near_degrees`.
    Without: potential `-mean|frame - goal| / 255 * 4`, success when the two differ by less than
    `near_colour`. The term `progress` is the gain of the potential; `success` pays once and ends the episode.
    """

    goal_image: np.ndarray | None = None
    """u8 [H, W, 3], of the size of the frames."""
    goal_c2w: np.ndarray | None = None
    weight: float = 1.0
    success_reward: float = 5.0
    near_metres: float = 0.3
    near_degrees: float = 15.0
    near_colour: float = 0.05
    scale: float = 1.0
    gamma: float = 1.0
    _potential: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.goal_image is None and self.goal_c2w is None:
            raise ActionError("image_goal: give goal_image (u8 [H, W, 3]), goal_c2w ([4, 4]) or both.")
        if self.goal_c2w is not None:
            self.goal_c2w = as_pose(self.goal_c2w, "goal_c2w")
        if self.goal_image is not None:
            self.goal_image = _picture(self.goal_image)

    def reset(self, context: TaskContext) -> None:
        """Remember how far the goal is."""
        self._potential = self._gap(context)[0]

    def evaluate(self, context: TaskContext) -> TaskResult:
        """Score the approach of this step."""
        potential, arrived = self._gap(context)
        progress = self.gamma * potential - self._potential
        self._potential = potential
        terms = {"progress": self.weight * progress, "success": self.success_reward * arrived}
        return TaskResult(terms, terminated=arrived, success=arrived)

    def _gap(self, context: TaskContext) -> tuple[float, bool]:
        if self.goal_c2w is not None:
            metres, degrees = distance_and_angle(context.c2w, self.goal_c2w)
            arrived = metres <= self.near_metres and degrees <= self.near_degrees
            return -(metres + degrees / 90) / self.scale, arrived
        difference = colour_difference(context.frame, self.goal_image)
        return -4 * difference, difference <= self.near_colour


@dataclass
class ReturnHome:
    """Go away, then close the loop: be back at the first pose.

    With d = metres + degrees / 90 to the first pose, the potential is `min(d, away) / away` until d has
    reached `away`, and `2 - min(d, away) / away` from then on: 0 at home, 1 far out, 2 at home again. The
    term `progress` is its gain; `success` pays within `near_metres` and `near_degrees` after the far point,
    and ends the episode; `closure` adds up to `closure_weight` for how alike the first and the last picture
    are (1 - mean|difference| / 32, at least 0).
    """

    away: float = 1.0
    weight: float = 1.0
    success_reward: float = 5.0
    closure_weight: float = 1.0
    near_metres: float = 0.15
    near_degrees: float = 8.0
    gamma: float = 1.0
    _potential: float = field(default=0.0, init=False)
    _has_been_away: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.away > self.near_metres + self.near_degrees / 90:
            raise ActionError("return_home: `away` must be larger than what counts as being at home.")

    def reset(self, context: TaskContext) -> None:
        """Home is `start_c2w`."""
        self._has_been_away = False
        self._potential = self._out(context)

    def evaluate(self, context: TaskContext) -> TaskResult:
        """Score the way out and the way back."""
        metres, degrees = distance_and_angle(context.c2w, context.start_c2w)
        out = self._out(context)
        self._has_been_away |= out >= 1
        potential = 2 - out if self._has_been_away else out
        progress = self.gamma * potential - self._potential
        self._potential = potential
        home = self._has_been_away and metres <= self.near_metres and degrees <= self.near_degrees
        closure = self._closure(context) if home else 0.0
        terms = {
            "progress": self.weight * progress,
            "success": self.success_reward * home,
            "closure": self.closure_weight * closure,
        }
        return TaskResult(terms, terminated=home, success=home)

    def _out(self, context: TaskContext) -> float:
        metres, degrees = distance_and_angle(context.c2w, context.start_c2w)
        return min((metres + degrees / 90) / self.away, 1.0)

    def _closure(self, context: TaskContext) -> float:
        if context.start_frame is None:
            return 0.0
        return max(0.0, 1 - colour_difference(context.frame, context.start_frame) * 255 / 32)


@dataclass
class Find:
    """Bring a named object into view.

    The potential is `min(target_share / enough, 1) * (1 + nearness)`; nearness is `near_metres / distance`,
    at most 1, and 0 where the distance is not known.

    `success` pays and ends the episode once the object fills `enough` of the last frame and, where its
    distance is known, is nearer than `near_metres`. Needs a judge that can see the object: the simulator's
    scenes have one.
    """

    target: str = ""
    """Text that names the object."""
    enough: float = 0.02
    near_metres: float = 3.0
    weight: float = 1.0
    success_reward: float = 5.0
    gamma: float = 1.0
    _potential: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target.strip():
            raise ActionError("find: name the object, as in make_task('find', target='the red ball').")

    def reset(self, context: TaskContext) -> None:
        """Remember how much of the object is in view."""
        self._potential = self._view(context)

    def evaluate(self, context: TaskContext) -> TaskResult:
        """Score what this step brought into view."""
        potential = self._view(context)
        progress = self.gamma * potential - self._potential
        self._potential = potential
        distance = context.target_distance
        found = (context.target_share or 0) >= self.enough and (
            distance is None or distance <= self.near_metres
        )
        terms = {"progress": self.weight * progress, "success": self.success_reward * found}
        return TaskResult(terms, terminated=found, success=found)

    def _view(self, context: TaskContext) -> float:
        if context.target_share is None:
            raise ActionError(
                f"find: nothing here can tell where {self.target!r} is; "
                "reset from a scene, whose objects are known."
            )
        nearness = 0.0
        if context.target_distance is not None:
            nearness = self.near_metres / max(context.target_distance, self.near_metres)
        return min(context.target_share / self.enough, 1.0) * (1 + nearness)


TASKS: dict[str, type] = {
    "none": NoTask,
    "explore": Explore,
    "image_goal": ImageGoal,
    "return_home": ReturnHome,
    "find": Find,
}
"""Names that `make_task` takes."""


def make_task(name: str = "none", **options: Any) -> Task:
    """A task by its name, with the public fields of its class as options.

    Raises:
        ActionError: An unknown name or option, or options the task cannot work with.
    """
    if name not in TASKS:
        raise ActionError(f"task: unknown name {name!r}{near_miss(name, TASKS)}")
    known = [f.name for f in dataclasses.fields(TASKS[name]) if f.init]
    for option in options:
        if option not in known:
            raise ActionError(f"task {name!r}: unknown option {option!r}{near_miss(option, known)}")
    return TASKS[name](**options)


def colour_difference(a: np.ndarray, b: np.ndarray | None) -> float:
    """Mean absolute difference of two u8 pictures of one size, 0 (equal) to 1.

    Raises:
        ActionError: If their sizes differ.
    """
    if b is None or a.shape != b.shape:
        raise ActionError(
            f"task: the goal image is {None if b is None else list(b.shape)}, the frames are {list(a.shape)}."
        )
    return float(np.abs(a.astype(np.float32) - b.astype(np.float32)).mean() / 255)


def _picture(image: Any) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ActionError(f"goal_image: expected uint8 [H, W, 3], got {array.dtype} {list(array.shape)}.")
    return array.copy()
