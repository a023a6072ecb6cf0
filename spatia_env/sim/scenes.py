"""Seeded scenes with ground truth: `SimScene(seed)` renders pictures, depth and what moves.

```python
scene = SimScene(10003)                       # or SimScene.from_name("demo")
frame = scene.render(scene.initial_c2w, 128, 128)
scene.start_event("a red ball rolls in", scene.initial_c2w, np.random.default_rng(0))
scene.advance(0.1); frame = scene.render(scene.initial_c2w, 128, 128); frame.dynamic
scene.close()
```

A scene is decided by its seed and style alone, in every process. Rooms are closed; yards end at a painted sky on a
dome 6.5 m around their middle (9.3 m with style "furnished"), so that depth is finite (at most about 10 m, or 14 m)
everywhere and the sky is part of the remembered world. Depth 0 (nothing hit) occurs only for cameras outside.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from spatia_env.errors import ClosedEnvError, PoseError, PromptError, SeedError
from spatia_env.events import vocabulary
from spatia_env.sim import conditions, furnished, layout
from spatia_env.sim.assets import split_of
from spatia_env.sim.building import build_items, build_shell
from spatia_env.sim.engine import STEP, Engine
from spatia_env.sim.events import FreeSpace, start_mover
from spatia_env.sim.movers import Activity

__all__ = ["FIELD_OF_VIEW", "NAMED_SCENES", "SimFrame", "SimScene", "split_of"]

FIELD_OF_VIEW = 60.0  # degrees, horizontal
FRAME_SECONDS = 0.1  # simulated time between two frames of a clip
STYLES = {"plain": layout.draw_plan, "furnished": furnished.draw_plan}
NAMED_SCENES = {"room": 15, "yard": 5, "demo": 10001}
SETTLE_STEPS = 96


@dataclasses.dataclass(frozen=True)
class SimFrame:
    """One picture with its ground truth.

    Attributes:
        rgb: uint8 [H, W, 3].
        depth: float32 [H, W], z-depth in metres, 0 = none.
        segmentation: int32 [H, W], body ids of `SimScene.object_table`, -1 = none, -2 = a particle.
        dynamic: bool [H, W], True on what moves (see `SimScene.advance`).
    """

    rgb: np.ndarray
    depth: np.ndarray
    segmentation: np.ndarray
    dynamic: np.ndarray


@dataclasses.dataclass(frozen=True)
class SimObject:
    """A row of the object table: bounds in world metres; `dynamic` while it moves."""

    body: int
    name: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    dynamic: bool


class SimScene:
    """A simulated room or yard.

    Args:
        seed: 0-9999 (train), 10000-10999 (dev) or 20000-20199 (test).
        style: "plain" for one closed room or yard, or "furnished" for rooms of a kind with modelled furniture, windows
            with a view and open doors to the rooms beside them, and yards with a house.
        plan: What it holds; drawn from the seed in this style by default.

    Raises:
        SeedError: any other seed or style.
    """

    def __init__(self, seed: int, style: str = "plain", plan: layout.ScenePlan | None = None) -> None:
        if style not in STYLES:
            raise SeedError(f"scene style {style!r}: use one of {', '.join(STYLES)}.")
        self.plan = STYLES[style](seed) if plan is None else plan
        self.seed, self.split, self.prompt = self.plan.seed, self.plan.split, self.plan.prompt
        light = self.plan.light
        self.engine = Engine(light.direction, light.ambient, light.diffuse, light.colour)
        self._names = build_shell(self.engine, self.plan)
        furniture, movable = build_items(self.engine, self.plan)
        self._names.update(furniture)
        self._space = FreeSpace(self.engine, self.plan)
        self._space.add(*furniture)
        # Movable things come to rest before the first picture, so that nothing shifts when physics starts.
        self.engine.step(SETTLE_STEPS)
        self._activity = Activity(self.engine, movable)
        self._conditions: dict[str, conditions.Condition] = {}
        self._events, self._seconds = 0, 0.0

    @classmethod
    def from_name(cls, name: str) -> SimScene:
        """A scene by "seed:123", "furnished:123" or a name of `NAMED_SCENES`.

        Raises:
            SeedError: no such name.
        """
        text = name.strip()
        if text in NAMED_SCENES:
            return cls(NAMED_SCENES[text])
        kind, _, seed = text.partition(":")
        if kind in ("seed", "furnished") and seed.isdigit():
            return cls(int(seed), "plain" if kind == "seed" else kind)
        known = ", ".join(NAMED_SCENES)
        raise SeedError(f'scene {name!r}: use "seed:123", "furnished:123" or one of {known}.')

    # -- cameras ----------------------------------------------------------------------------------------------

    @property
    def initial_c2w(self) -> np.ndarray:
        """The first camera, float32 [4, 4], OpenCV axes, roll 0."""
        return camera_pose(self.plan.eye, self.plan.yaw, self.plan.pitch)

    def K(self, height: int = 128, width: int = 128) -> np.ndarray:
        """Intrinsics float32 [3, 3] in pixels: 60 degrees horizontally, square pixels, centred."""
        focal = width / 2 / math.tan(math.radians(FIELD_OF_VIEW) / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=np.float32)

    def is_free(self, position: np.ndarray, radius: float = 0.35) -> bool:
        """True if a ball of this radius (metres) around `position` [3] touches neither the shell nor an item."""
        return self._space.is_free(position, radius)

    def room_ahead(self, c2w: np.ndarray, radius: float = 0.3) -> float:
        """Metres (at most 4) of free floor and free view straight ahead of a camera [4, 4].

        Movers need about 1.6 m to be seen well; data and benchmarks start them where there is as much.
        """
        return self._space.room_ahead(c2w, radius)

    # -- events -----------------------------------------------------------------------------------------------

    def start_event(self, text: str, c2w: np.ndarray, rng: np.random.Generator) -> str:
        """Let an event begin, as seen from a camera; `advance` then moves it.

        Args:
            text: an event's name or one of its phrasings (see `vocabulary`); empty for none.
            c2w: the current camera [4, 4]; movers are placed in front of it.
            rng: draws places and speeds.

        Returns:
            The event's name, "" for none. An ending whose condition is not there changes nothing.

        Raises:
            PromptError: the text is not in the vocabulary.
            ClosedEnvError: the scene was closed.
        """
        self._check_open()
        if not text.strip():
            return ""
        name = text if text in vocabulary.EVENT_NAMES else vocabulary.lookup(text)
        if name is None:
            raise PromptError(
                f"event {text!r}: the simulator cannot act this out; see spatia_env.events.vocabulary."
            )
        event = vocabulary.event(name)
        if event.kind == "mover":
            self._events += 1
            self._space.changed()
            for mover in start_mover(self._space, name, np.asarray(c2w, dtype=np.float64), rng):
                self._names[mover.body] = f"{name} {self._events}"
                self._activity.add(mover)
                self._space.add(mover.body)
        elif event.kind == "condition":
            kept = self._conditions.get(name)
            self._conditions[name] = (
                dataclasses.replace(kept, coming=True) if kept else conditions.Condition(name)
            )
        elif event.ends in self._conditions:
            self._conditions[event.ends].coming = False
        return name

    def advance(self, seconds: float = FRAME_SECONDS) -> None:
        """Let time pass: physics while anything moves, and the ramps of conditions.

        A body of an event is dynamic from its start until it has stood still (less than 5 mm and 1 degree in a
        call) for 4 calls in a row; then it is a part of the world. Furniture that is knocked becomes dynamic
        while it moves. Bodies that leave the scene are removed. Call it once a frame, with 0.1 s.
        """
        self._check_open()
        self._seconds += seconds
        if self._activity.dynamic:
            self._space.changed()
        self._forget(self._activity.advance(max(1, round(seconds / STEP))))
        for name, condition in list(self._conditions.items()):
            condition.advance(seconds)
            if condition.strength == 0.0 and not condition.coming:
                del self._conditions[name]

    def remove_movers(self) -> None:
        """Take every body that events brought out of the scene; furniture stays where it is."""
        self._forget(self._activity.remove_movers())

    def _forget(self, bodies: list[int]) -> None:
        """Strike bodies that were removed off the tables."""
        for body in bodies:
            del self._names[body]
        self._space.remove(*bodies)

    @property
    def is_moving(self) -> bool:
        """True while any body is dynamic."""
        return bool(self._activity.dynamic)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions that are there and not ending."""
        return tuple(name for name, condition in self._conditions.items() if condition.coming)

    @property
    def events_active(self) -> tuple[str, ...]:
        """Names of the events under way: movers that are still dynamic, then conditions."""
        return (*self._activity.events, *self.conditions)

    def _check_open(self) -> None:
        if self.engine.closed:
            raise ClosedEnvError("this scene was closed; make a new SimScene(seed).")

    # -- pictures ---------------------------------------------------------------------------------------------

    def render(
        self, c2w: np.ndarray, height: int = 128, width: int = 128, K: np.ndarray | None = None
    ) -> SimFrame:
        """The scene as it is now, seen from `c2w` [4, 4] (OpenCV axes, metres).

        Raises:
            ClosedEnvError: the scene was closed.
            PoseError: `c2w` is not a finite 4x4 matrix.
        """
        self._check_open()
        pose = np.asarray(c2w, dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise PoseError(f"c2w: expected a finite [4, 4] matrix, got shape {pose.shape}.")
        intrinsics = self.K(height, width) if K is None else K
        rgb, depth, ids = self.engine.picture(pose, intrinsics, height, width)
        dynamic = (
            np.isin(ids, self._activity.dynamic)
            if self._activity.dynamic
            else np.zeros(ids.shape, dtype=bool)
        )
        if self._conditions:
            standing = list(self._conditions.values())
            rgb, particles = conditions.apply(standing, rgb, depth, pose, intrinsics, self._seconds)
            ids[particles] = conditions.PARTICLE_ID
            dynamic |= particles
        return SimFrame(rgb, depth, ids, dynamic)

    def object_table(self) -> list[SimObject]:
        """All bodies with names and bounds (collision shapes; zeros for the sky)."""
        rows = []
        for body, name in self._names.items():
            low, high = self.engine.bounds(body)
            rows.append(
                SimObject(
                    body, name, tuple(low.tolist()), tuple(high.tolist()), body in self._activity.dynamic
                )
            )
        return rows

    def close(self) -> None:
        """Free the physics client (about 28 MB); safe to call twice."""
        self.engine.close()

    def __enter__(self) -> SimScene:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_scene(scene: int | str) -> SimScene:
    """The scene of a seed or a name; the caller closes it."""
    return SimScene.from_name(scene) if isinstance(scene, str) else SimScene(scene)


def camera_pose(eye: tuple[float, float, float], yaw: float, pitch: float) -> np.ndarray:
    """`c2w` float32 [4, 4] of a level camera: yaw from world +X, counter-clockwise; pitch upwards; radians."""
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    c2w = np.eye(4)
    c2w[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    c2w[:3, 3] = eye
    return c2w.astype(np.float32)
