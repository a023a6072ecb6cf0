"""A figure that walks: a body that physics moves, and limbs that swing with the way it has come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from spatia_env.sim import shapes
from spatia_env.sim.bodies import BLUE, YELLOW, Mover, add_body, motor, push
from spatia_env.sim.quiet import pybullet

if TYPE_CHECKING:
    from spatia_env.sim.scenes import SimScene

EVENT = "man_walks"
SKIN = (0.84, 0.64, 0.5)
SWING = 0.55
"""Radians that a leg swings to the front and to the back."""


def add_walker(
    scene: SimScene, height: float, start: np.ndarray, way: np.ndarray, speed: float
) -> list[Mover]:
    """A figure of `height` metres in a yellow shirt and blue trousers that walks from `start` [3] along `way` [3]."""
    h, yaw = height, math.atan2(way[1], way[0])
    shirt = shapes.box((0, 0, 0.67 * h), (0.17 * h, 0.27 * h, 0.32 * h))
    middle = np.array([0.0, 0.0, 0.45 * h])  # of the solid, where physics has the torso's origin
    solid = ("cylinder", tuple(middle), 0.13 * h, 0.9 * h)
    torso = add_body(
        scene, shirt, (solid,), YELLOW, start + [0, 0, 0.005], yaw, mass=5.0, restitution=0.1, friction=0.05
    )
    push(scene, torso, way * speed)
    movers = [Mover(torso, EVENT, motor(scene, torso, way, speed, 5.0))]
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
        body = add_body(scene, mesh, (), colour, start + joint, yaw, mass=0.01)
        movers.append(Mover(body, EVENT, _limb(scene, body, torso, joint - middle, start, swing, 0.5 * h)))
    return movers


def _limb(
    scene: SimScene,
    body: int,
    torso: int,
    joint: np.ndarray,
    start: np.ndarray,
    swing: float,
    stride: float,
) -> Callable[[], None]:
    """A driver that hangs a limb at `joint` [3] of the torso, at an angle that the way from `start` decides."""
    client = scene.engine.client

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
