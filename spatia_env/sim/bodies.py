"""The bodies of movers: colours, shapes, pushes and motors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from spatia_env.sim import shapes
from spatia_env.sim.quiet import pybullet
from spatia_env.sim.shapes import Mesh

if TYPE_CHECKING:
    from spatia_env.sim.scenes import SimScene

# Saturated, and dark enough to keep their shading under full light; the hues are at least 22 degrees apart.
RED, ORANGE, YELLOW, LIME = (0.86, 0.04, 0.06), (0.94, 0.42, 0.0), (0.92, 0.78, 0.02), (0.56, 0.9, 0.0)
GREEN, CYAN, BLUE = (0.0, 0.7, 0.2), (0.0, 0.76, 0.82), (0.06, 0.17, 0.86)
PURPLE, PINK, BLACK = (0.46, 0.08, 0.82), (0.92, 0.1, 0.6), (0.075, 0.075, 0.085)


@dataclasses.dataclass
class Mover:
    """A body of an event; `drive` is applied before every physics step."""

    body: int
    event: str
    drive: Callable[[], None] | None = None


def push(scene: SimScene, body: int, linear: ArrayLike, angular: ArrayLike = (0, 0, 0)) -> None:
    """Give a body its first velocities [3]: metres and radians per second."""
    pybullet.resetBaseVelocity(
        body,
        np.asarray(linear, dtype=float).tolist(),
        np.asarray(angular, dtype=float).tolist(),
        physicsClientId=scene.engine.client,
    )


def damp(scene: SimScene, body: int, **settings: float) -> None:
    """Change dynamics settings of a body, as PyBullet names them."""
    pybullet.changeDynamics(body, -1, physicsClientId=scene.engine.client, **settings)


def add_body(
    scene: SimScene,
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
    """A movable body at `position` [3] metres; `solids` as in `furniture.Part`. Returns its id."""
    return scene.engine.add(mesh, tuple(position), yaw, texture, colour, solids, mass, restitution, friction)


def add_box(
    scene: SimScene, size: tuple, colour: tuple, position: np.ndarray, yaw: float, **settings: Any
) -> int:
    """A box centred at `position`."""
    solid = ("box", (0.0, 0.0, 0.0), tuple(s / 2 for s in size))
    return add_body(scene, shapes.box((0, 0, 0), size), (solid,), colour, position, yaw, **settings)


def add_sphere(
    scene: SimScene,
    radius: float,
    colour: tuple,
    position: np.ndarray,
    squash: float = 1.0,
    **settings: Any,
) -> int:
    """A ball centred at `position`; `squash` stretches its looks along z."""
    mesh = shapes.ball(radius, squash=squash)
    return add_body(scene, mesh, (("sphere", (0.0, 0.0, 0.0), radius),), colour, position, 0.0, **settings)


def car_mesh(length: float) -> tuple[Mesh, tuple]:
    """A toy car along +x, wheels included, standing on z = 0."""
    width, height = 0.5 * length, 0.42 * length
    hull = shapes.box((0, 0, 0.42 * height), (length, width, 0.5 * height))
    cabin = shapes.box((-0.05 * length, 0, 0.82 * height), (0.5 * length, 0.82 * width, 0.36 * height))
    return shapes.join(hull, cabin), (("box", (0.0, 0.0, 0.5 * height), (length / 2, width / 2, height / 2)),)


def motor(scene: SimScene, body: int, way: np.ndarray, speed: float, mass: float) -> Callable[[], None]:
    """A driver that pushes a body along `way` towards its speed, and keeps it upright by its low friction."""
    client = scene.engine.client

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
    scene: SimScene, car: int, length: float, start: np.ndarray, yaw: float, velocity: np.ndarray
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
    client = scene.engine.client
    body = add_body(scene, mesh, (), BLACK, start + [0, 0, 0.005], yaw, mass=0.05)
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
    push(scene, body, velocity)
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
