"""Rewards as named terms, and the ends of episodes: pure functions of what a step reports.

A task sees a `TaskContext` of plain values and knows neither the environment nor the model. Terms come
weighted, so their sum is the reward. Terms that lead somewhere are differences of a potential, `gamma * after
- before` (Ng, Harada & Russell, 1999): with gamma = 1 they sum to what was gained, so going to and fro earns
nothing.

The state of a task is its own fields, none of which is written into: `copy.copy(task)` is a snapshot of it.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from spatia_env.errors import ActionError
from spatia_env.geometry import distance_and_angle
from spatia_env.io.validation import as_pose, near_miss


class Judge(Protocol):
    """Knows the truth of a scene. It sets goals and keeps the score; nothing of it enters an observation."""

    def cells(self, path: np.ndarray) -> np.ndarray:
        """Sorted int64 names of the cells (see `TaskContext.cell_area`) of true surface that cameras [T, 4, 4] see."""

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
        cell_area: Square metres that each of them stands for.
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
    cell_area: float = 0.04
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
        area = context.cell_area
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


@dataclass
class NoTask:
    """No reward and no end: the world as it is."""

    wants_judge: ClassVar[bool] = False
    wants_frontier: ClassVar[bool] = False
    goal: ClassVar[dict[str, Any]] = {}

    def reset(self, context: TaskContext) -> None:
        """Nothing to remember."""

    def evaluate(self, context: TaskContext) -> TaskResult:
        """No terms."""
        return TaskResult()


@dataclass
class Explore(Episode):
    """See surface that nobody has seen: `new_surface = weight * min(growth_area / area_scale, limit)`.

    A turn of 30 degrees in an unseen room adds 60 to 95 square metres of points, a look at what is known none. The
    limit keeps one clip of badly placed points from outweighing an episode. With `frontier_weight` the term
    `frontier` is the metres by which the camera came nearer to the nearest frontier of the map. Succeeds and
    ends once `goal_area` square metres were added; 0 never ends.
    """

    weight: float = 1.0
    area_scale: float = 40.0
    """Square metres worth a reward of 1."""
    limit: float = 2.5
    step_cost: float = 0.0
    """Subtracted every step, as the term `time`."""
    frontier_weight: float = 0.0
    goal_area: float = 0.0
    _area: float = field(default=0.0, init=False)
    _clips: int = field(default=0, init=False)
    _frontier: float | None = field(default=None, init=False)

    @property
    def wants_frontier(self) -> bool:  # type: ignore[override]
        """Whether `TaskContext.frontier_distance` is needed: it takes some milliseconds."""
        return self.frontier_weight != 0

    def _begin(self, context: TaskContext) -> None:
        self._area, self._clips, self._frontier = 0.0, 0, context.frontier_distance

    def _score(self, context: TaskContext) -> tuple[dict[str, float], bool]:
        gained = min(max(context.growth_area, 0.0) / self.area_scale, self.limit)
        self._area, self._clips = self._area + gained * self.area_scale, self._clips + 1
        terms = {"new_surface": self.weight * gained, "time": 0.0 - self.step_cost}
        if self.wants_frontier:
            before, self._frontier = self._frontier, context.frontier_distance
            nearer = 0.0 if before is None or self._frontier is None else before - self._frontier
            terms["frontier"] = self.frontier_weight * nearer
        return terms, self.goal_area > 0 and self._area >= self.goal_area

    def _spl(self, success: bool) -> float | None:
        """Of clips, not metres: the fewest that the limit on a clip's surface allows, over those taken."""
        if self.goal_area <= 0:
            return None
        fewest = math.ceil(self.goal_area / (self.area_scale * self.limit))
        return success * fewest / max(fewest, self._clips)


@dataclass
class ImageGoal(Episode):
    """Stand where a picture was taken.

    With `goal_c2w`: potential `-(metres + degrees / 90) / scale`, success within `near_metres` and
    `near_degrees`. With `goal_image` alone: potential `-mean|frame - goal| / 255 * 4`, success when the two
    differ by less than `near_colour`. With neither, a reset from a scene draws a place to go: its picture is
    in `info["goal"]`, its pose is the judge's. The term `progress` is the gain of the potential; `success`
    pays once and ends the episode.
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
    _image: np.ndarray | None = field(default=None, init=False)
    _pose: np.ndarray | None = field(default=None, init=False)
    _potential: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.goal_c2w is not None:
            self.goal_c2w = as_pose(self.goal_c2w, "goal_c2w")
        if self.goal_image is not None:
            self.goal_image = _picture(self.goal_image)

    @property
    def wants_judge(self) -> bool:  # type: ignore[override]
        """Whether the goal must be drawn."""
        return self.goal_image is None and self.goal_c2w is None

    @property
    def goal(self) -> dict[str, Any]:
        """The goal's picture, where there is one."""
        return {} if self._image is None else {"image": self._image.copy()}

    def _begin(self, context: TaskContext) -> None:
        self._image, self._pose = self.goal_image, self.goal_c2w
        if self.wants_judge:
            if context.judge is None or context.np_random is None:
                raise ActionError(
                    "image_goal: give goal_image (u8 [H, W, 3]) or goal_c2w ([4, 4]) as task_options; only a "
                    "reset from a scene can draw a goal."
                )
            self._image, self._pose = context.judge.draw_goal(context.np_random, context.c2w)
        self._potential, _ = self._gap(context)
        if self._pose is not None:
            metres, degrees = distance_and_angle(context.c2w, self._pose)
            near = max(metres - self.near_metres, 0.0) + max(degrees - self.near_degrees, 0.0) / 90
            self._shortest = near

    def _score(self, context: TaskContext) -> tuple[dict[str, float], bool]:
        potential, arrived = self._gap(context)
        progress = self.gamma * potential - self._potential
        self._potential = potential
        return {"progress": self.weight * progress, "success": self.success_reward * arrived}, arrived

    def _oracle(self, context: TaskContext) -> dict[str, float]:
        measured = super()._oracle(context)
        if self._pose is not None and self.wants_judge:
            metres, degrees = distance_and_angle(context.c2w, self._pose)
            measured |= {"goal_metres": metres, "goal_degrees": degrees}
        return measured

    def _gap(self, context: TaskContext) -> tuple[float, bool]:
        if self._pose is not None:
            metres, degrees = distance_and_angle(context.c2w, self._pose)
            arrived = metres <= self.near_metres and degrees <= self.near_degrees
            return -(metres + degrees / 90) / self.scale, arrived
        difference = colour_difference(context.frame, self._image)
        return -4 * difference, difference <= self.near_colour


@dataclass
class ReturnHome(Episode):
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
        super().__post_init__()
        if not self.away > self.near_metres + self.near_degrees / 90:
            raise ActionError("return_home: `away` must be larger than what counts as being at home.")

    def _begin(self, context: TaskContext) -> None:
        self._has_been_away = False
        self._potential = self._out(context)
        self._shortest = 2 * self.away - self.near_metres - self.near_degrees / 90

    def _score(self, context: TaskContext) -> tuple[dict[str, float], bool]:
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
        return terms, home

    def _out(self, context: TaskContext) -> float:
        metres, degrees = distance_and_angle(context.c2w, context.start_c2w)
        return min((metres + degrees / 90) / self.away, 1.0)

    def _closure(self, context: TaskContext) -> float:
        if context.start_frame is None:
            return 0.0
        return max(0.0, 1 - colour_difference(context.frame, context.start_frame) * 255 / 32)


@dataclass
class Find(Episode):
    """Bring a named object into view.

    The potential is `min(target_share / enough, 1) * (1 + nearness)`; nearness is `near_metres / distance`,
    at most 1, and 0 where the distance is not known.

    `success` pays and ends the episode once the object fills `enough` of the last frame and, where its
    distance is known, is nearer than `near_metres`. Needs a judge that can see the object: the simulator's
    scenes have one. Without `target` a reset draws an object of the scene; `info["goal"]` names it.
    """

    wants_judge: ClassVar[bool] = True

    target: str = ""
    """Text that names the object; "" draws one."""
    enough: float = 0.02
    near_metres: float = 3.0
    weight: float = 1.0
    success_reward: float = 5.0
    gamma: float = 1.0
    _name: str = field(default="", init=False)
    _potential: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.target, str):
            raise ActionError("find: name the object, as in make_task('find', target='the red ball').")

    @property
    def goal(self) -> dict[str, Any]:
        """The object's name."""
        return {"target": self._name}

    def _begin(self, context: TaskContext) -> None:
        self._name = self.target.strip()
        if not self._name and context.judge is not None and context.np_random is not None:
            self._name = context.judge.draw_target(context.np_random, context.c2w)
        self._potential = self._view(context)

    def _score(self, context: TaskContext) -> tuple[dict[str, float], bool]:
        potential = self._view(context)
        progress = self.gamma * potential - self._potential
        self._potential = potential
        share, distance = self._look(context)
        found = share >= self.enough and (distance is None or distance <= self.near_metres)
        return {"progress": self.weight * progress, "success": self.success_reward * found}, found

    def _oracle(self, context: TaskContext) -> dict[str, float]:
        share, distance = self._look(context)
        measured = super()._oracle(context) | {"target_share": share}
        return measured if distance is None else measured | {"target_distance": distance}

    def _view(self, context: TaskContext) -> float:
        share, distance = self._look(context)
        nearness = 0.0 if distance is None else self.near_metres / max(distance, self.near_metres)
        return min(share / self.enough, 1.0) * (1 + nearness)

    def _look(self, context: TaskContext) -> tuple[float, float | None]:
        if context.judge is not None:
            return context.judge.target(self._name, context.c2w)
        if context.target_share is None:
            raise ActionError(
                f"find: nothing here can tell where {self._name!r} is; "
                "reset from a scene, whose objects are known."
            )
        return context.target_share, context.target_distance


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
