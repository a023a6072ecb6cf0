"""The bodies of movers: shapes, colours, pushes and motors, a figure that walks, and the account of what moves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spatia_env.sim import shapes
from spatia_env.sim.engine import Engine, pybullet
from spatia_env.sim.shapes import Mesh

# Saturated, and dark enough to keep their shading under full light; the hues are at least 22 degrees apart.
RED, ORANGE, YELLOW, LIME = (0.86, 0.04, 0.06), (0.94, 0.42, 0.0), (0.92, 0.78, 0.02), (0.56, 0.9, 0.0)
GREEN, CYAN, BLUE = (0.0, 0.7, 0.2), (0.0, 0.76, 0.82), (0.06, 0.17, 0.86)
PURPLE, PINK, BLACK = (0.46, 0.08, 0.82), (0.92, 0.1, 0.6), (0.075, 0.075, 0.085)
WALKER_EVENT = "man_walks"
SKIN = (0.84, 0.64, 0.5)
SWING = 0.55
"""Radians that a leg swings to the front and to the back."""
STILL_METRES = 0.005
STILL_DEGREES = 1.0
STILL_FRAMES = 4
LIMIT = 6.4  # metres from the middle, and upwards: what goes further has left


@dataclasses.dataclass
class Mover:
    """A body of an event; `drive` is applied before every physics step."""

    body: int
    event: str
    drive: Callable[[], None] | None = None


def push(engine: Engine, body: int, linear: ArrayLike, angular: ArrayLike = (0, 0, 0)) -> None:
    """Give a body its first velocities [3]: metres and radians per second."""
    pybullet.resetBaseVelocity(
        body,
        np.asarray(linear, dtype=float).tolist(),
        np.asarray(angular, dtype=float).tolist(),
        physicsClientId=engine.client,
    )


def damp(engine: Engine, body: int, **settings: float) -> None:
    """Change dynamics settings of a body, as PyBullet names them."""
    pybullet.changeDynamics(body, -1, physicsClientId=engine.client, **settings)


def add_body(
    engine: Engine,
    mesh: Mesh,
    solids: tuple,
    colour: tuple,
    position: np.ndarray,
    yaw: float,
    mass: float = 1.0,
    restitution: float = 0.4,
    friction: float = 0.6,
    texture: int = -1,
) -> int:
    """A movable body at `position` [3] metres; `solids` as in `items.Part`. Returns its id."""
    return engine.add(mesh, tuple(position), yaw, texture, colour, solids, mass, restitution, friction)


def add_box(
    engine: Engine, size: tuple, colour: tuple, position: np.ndarray, yaw: float, **settings: Any
) -> int:
    """A box centred at `position`."""
    solid = ("box", (0.0, 0.0, 0.0), tuple(s / 2 for s in size))
    return add_body(engine, shapes.box((0, 0, 0), size), (solid,), colour, position, yaw, **settings)


def add_sphere(
    engine: Engine,
    radius: float,
    colour: tuple,
    position: np.ndarray,
    squash: float = 1.0,
    **settings: Any,
) -> int:
    """A ball centred at `position`; `squash` stretches its looks along z."""
    mesh = shapes.ball(radius, squash=squash)
    return add_body(engine, mesh, (("sphere", (0.0, 0.0, 0.0), radius),), colour, position, 0.0, **settings)


def car_mesh(length: float) -> tuple[Mesh, tuple]:
    """A toy car along +x, wheels included, standing on z = 0."""
    width, height = 0.5 * length, 0.42 * length
    hull = shapes.box((0, 0, 0.42 * height), (length, width, 0.5 * height))
    cabin = shapes.box((-0.05 * length, 0, 0.82 * height), (0.5 * length, 0.82 * width, 0.36 * height))
    return shapes.join(hull, cabin), (("box", (0.0, 0.0, 0.5 * height), (length / 2, width / 2, height / 2)),)


def motor(engine: Engine, body: int, way: np.ndarray, speed: float, mass: float) -> Callable[[], None]:
    """A driver that pushes a body along `way` towards its speed, and keeps it upright by its low friction."""
    client = engine.client

    def drive() -> None:
        velocity, _ = pybullet.getBaseVelocity(body, physicsClientId=client)
        lack = speed - float(np.dot(velocity, way))
        position, _ = pybullet.getBasePositionAndOrientation(body, physicsClientId=client)
        force = np.clip(lack * 30.0, 0, 12.0) * mass * way
        pybullet.applyExternalForce(
            body, -1, force.tolist(), position, pybullet.WORLD_FRAME, physicsClientId=client
        )

    return drive


def add_wheels(
    engine: Engine, car: int, length: float, start: np.ndarray, yaw: float, velocity: np.ndarray
) -> list[Mover]:
    """Dark wheels, fixed to the hull."""
    r = 0.13 * length
    wheel = shapes.cylinder(r, 0.06 * length, -0.03 * length, 12)
    # The cylinder's axis is turned from z to the car's side (y).
    upright = Mesh(
        wheel.vertices[:, [0, 2, 1]], wheel.normals[:, [0, 2, 1]], wheel.uvs, wheel.triangles[:, ::-1]
    )
    parts = []
    for x in (-0.3, 0.3):
        for y in (-0.25, 0.25):
            parts.append(
                Mesh(
                    upright.vertices + [x * length, y * length, r],
                    upright.normals,
                    upright.uvs,
                    upright.triangles,
                )
            )
    mesh = shapes.join(*parts)
    client = engine.client
    body = add_body(engine, mesh, (), BLACK, start + [0, 0, 0.005], yaw, mass=0.05)
    low = pybullet.getBasePositionAndOrientation(car, physicsClientId=client)[0][2]
    pybullet.createConstraint(
        car,
        -1,
        body,
        -1,
        pybullet.JOINT_FIXED,
        [0, 0, 0],
        [0, 0, 0.005 - low],
        [0, 0, 0],
        physicsClientId=client,
    )
    push(engine, body, velocity)
    return [Mover(body, "car_drives")]


def cone_mesh(radius: float, height: float, sides: int = 18) -> Mesh:
    """A cone that stands on z = 0 with a blunt tip."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
    vertices = np.concatenate([ring * radius, ring * radius * 0.12 + [0, 0, height]])
    slope = ring + [0, 0, radius / height]
    normals = np.tile(slope / np.linalg.norm(slope, axis=1, keepdims=True), (2, 1))
    corner = np.arange(sides)
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + sides + 2], 1),
            np.stack([corner, corner + sides + 2, corner + sides + 1], 1),
        ]
    )
    return Mesh(vertices, normals, np.full((len(vertices), 2), 0.5), triangles)


def add_walker(
    engine: Engine, height: float, start: np.ndarray, way: np.ndarray, speed: float
) -> list[Mover]:
    """A figure of `height` metres in a yellow shirt and blue trousers that walks from `start` [3] along `way` [3]."""
    h, yaw = height, math.atan2(way[1], way[0])
    shirt = shapes.box((0, 0, 0.67 * h), (0.17 * h, 0.27 * h, 0.32 * h))
    middle = np.array([0.0, 0.0, 0.45 * h])  # of the solid, where physics has the torso's origin
    solid = ("cylinder", tuple(middle), 0.13 * h, 0.9 * h)
    torso = add_body(
        engine, shirt, (solid,), YELLOW, start + [0, 0, 0.005], yaw, mass=5.0, restitution=0.1, friction=0.05
    )
    push(engine, torso, way * speed)
    movers = [Mover(torso, WALKER_EVENT, motor(engine, torso, way, speed, 5.0))]
    leg = shapes.box((0, 0, -0.25 * h), (0.11 * h, 0.11 * h, 0.5 * h))
    arm = shapes.box((0, 0, -0.15 * h), (0.07 * h, 0.07 * h, 0.32 * h))
    head = shapes.ball(0.1 * h)
    # Legs swing against one another, and each arm against the leg of its side.
    parts = [
        (leg, BLUE, (0.0, 0.065 * h, 0.52 * h), SWING),
        (leg, BLUE, (0.0, -0.065 * h, 0.52 * h), -SWING),
        (arm, YELLOW, (0.0, 0.17 * h, 0.82 * h), -0.7 * SWING),
        (arm, YELLOW, (0.0, -0.17 * h, 0.82 * h), 0.7 * SWING),
        (head, SKIN, (0.0, 0.0, 0.92 * h), 0.0),
    ]
    for mesh, colour, joint, swing in parts:
        body = add_body(engine, mesh, (), colour, start + joint, yaw, mass=0.01)
        movers.append(
            Mover(body, WALKER_EVENT, _limb(engine, body, torso, joint - middle, start, swing, 0.5 * h))
        )
    return movers


def _limb(
    engine: Engine,
    body: int,
    torso: int,
    joint: np.ndarray,
    start: np.ndarray,
    swing: float,
    stride: float,
) -> Callable[[], None]:
    """A driver that hangs a limb at `joint` [3] of the torso, at an angle that the way from `start` decides."""
    client = engine.client

    def drive() -> None:
        try:
            position, turn = pybullet.getBasePositionAndOrientation(torso, physicsClientId=client)
        except pybullet.error:  # the torso has left the scene, and its limbs are about to
            return
        gone = float(np.hypot(position[0] - start[0], position[1] - start[1]))
        angle = swing * math.sin(math.pi * gone / stride + 0.5)
        place, hang = pybullet.multiplyTransforms(
            position, turn, joint.tolist(), pybullet.getQuaternionFromEuler([0.0, angle, 0.0])
        )
        pybullet.resetBasePositionAndOrientation(body, place, hang, physicsClientId=client)

    return drive


# -- what moves -------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Track:
    """Where a body was at the last call, and for how many calls it has stood still."""

    position: np.ndarray
    turn: np.ndarray
    still: int
    mover: Mover | None


class Activity:
    """The moving bodies of one scene.

    Args:
        engine: the physics.
        furniture: bodies that can be knocked; they rest at first.
    """

    def __init__(self, engine: Engine, furniture: list[int]) -> None:
        self._engine = engine
        self._tracks = {body: _Track(*engine.pose(body), STILL_FRAMES, None) for body in furniture}

    def add(self, mover: Mover) -> None:
        """A mover, dynamic from now on."""
        self._tracks[mover.body] = _Track(*self._engine.pose(mover.body), 0, mover)

    @property
    def dynamic(self) -> list[int]:
        """Ids of the bodies that count as moving."""
        return [body for body, track in self._tracks.items() if track.still < STILL_FRAMES]

    @property
    def events(self) -> tuple[str, ...]:
        """Names of the events whose bodies move, each once, in order of their start."""
        names = [t.mover.event for t in self._tracks.values() if t.mover and t.still < STILL_FRAMES]
        return tuple(dict.fromkeys(names))

    def advance(self, steps: int) -> list[int]:
        """Step physics while anything is dynamic; returns the bodies that left and were removed."""
        if not self.dynamic:
            return []
        drives = [
            t.mover.drive
            for t in self._tracks.values()
            if t.mover and t.mover.drive and t.still < STILL_FRAMES
        ]
        for _ in range(steps):
            for drive in drives:
                drive()
            self._engine.step(1)
        gone = []
        for body, track in self._tracks.items():
            position, turn = self._engine.pose(body)
            moved = (
                np.linalg.norm(position - track.position) >= STILL_METRES
                or _angle(turn, track.turn) >= STILL_DEGREES
            )
            track.still = 0 if moved else min(track.still + 1, STILL_FRAMES)
            track.position, track.turn = position, turn
            if track.mover and (np.abs(position[:2]).max() > LIMIT or not -1 < position[2] < LIMIT):
                gone.append(body)
        return self._remove(gone)

    def remove_movers(self) -> list[int]:
        """Remove every body that an event brought; returns their ids."""
        return self._remove([body for body, track in self._tracks.items() if track.mover])

    def _remove(self, bodies: list[int]) -> list[int]:
        for body in bodies:
            self._engine.remove(body)
            del self._tracks[body]
        return bodies


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Degrees between two quaternions."""
    return math.degrees(2 * math.acos(min(1.0, abs(float(np.dot(first, second))))))
