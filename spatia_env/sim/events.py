"""Movers: what enters a scene when an event is started, and how PyBullet moves it.

Every mover is placed relative to the current camera, 1.4 to 3.2 m ahead in the middle of the picture, or as near to
it as the room is free and in sight; what crosses comes from the left where it can. Its size is in proportion to its
distance, so that it is seen within the clip (8 frames of 0.1 s) in which it starts. Only
its first velocity, and for driven or floating things a force, is given; the rest is physics. What consists of many
bodies begins the same every time (`_many`): drawn anew, their mean would be all that could be learnt. Balls rain from
the places of `falling`, which the model is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from spatia_env.models import spatial_conditioning as particles
from spatia_env.sim import assets, shapes
from spatia_env.sim.bodies import (
    BLACK,
    BLUE,
    CYAN,
    GREEN,
    LIME,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    YELLOW,
    Mover,
    add_body,
    add_box,
    add_sphere,
    add_wheels,
    car_mesh,
    cone_mesh,
    damp,
    motor,
    push,
)
from spatia_env.sim.placement import crossing, find_place
from spatia_env.sim.quiet import pybullet
from spatia_env.sim.walker import add_walker

if TYPE_CHECKING:
    from spatia_env.sim.scenes import SimScene


LEAST_BALLS = 4


def start_mover(scene: SimScene, name: str, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    """Put the bodies of event `name` into the scene and give them their first push."""
    return STARTERS[name](scene, c2w, rng)


def _red_ball(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.3, 0.6)
    r = 0.27 * place.scale
    start, way = crossing(scene, place, r)
    body = add_sphere(scene, r, RED, start + [0, 0, r + 0.005], mass=2.0, restitution=0.5)
    speed = rng.uniform(1.7, 1.9) * place.scale
    push(scene, body, way * speed, np.cross([0, 0, 1], way) * speed / r)
    return [Mover(body, "red_ball_rolls")]


def _blue_box(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.4)
    edge = 0.5 * place.scale
    z = scene.below_ceiling(max(place.top(0.12), edge + 0.5), edge * 0.8)
    body = add_box(
        scene,
        (edge, edge, edge * 0.9),
        BLUE,
        place.spot + [0, 0, z],
        place.yaw + rng.uniform(0.3, 0.5),
        mass=4.0,
        restitution=0.3,
    )
    push(scene, body, [0, 0, -0.5], rng.uniform(-0.3, 0.3, 3))
    return [Mover(body, "blue_box_drops")]


def _duck(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.35)
    vertices, normals, triangles = assets.load_mesh("duck")
    height = 0.62 * place.scale
    mesh = shapes.flat_shaded(vertices, normals, triangles, height / np.ptp(vertices[:, 2]))
    half = np.ptp(mesh.vertices, axis=0) / 2
    z = scene.below_ceiling(max(place.top(0.14), height + 0.4) - half[2], 2 * half[2])
    solid = ("box", (0.0, 0.0, float(half[2])), tuple(half * [0.8, 0.8, 1.0]))
    body = add_body(
        scene,
        mesh,
        (solid,),
        YELLOW,
        place.spot + [0, 0, max(z, 0.05)],
        place.yaw + rng.uniform(-1.1, -0.9),
        mass=2.0,
        restitution=0.4,
    )
    push(scene, body, [0, 0, -0.3], rng.uniform(-0.3, 0.3, 3))
    return [Mover(body, "duck_falls")]


def _green_ball(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.3)
    r = 0.24 * place.scale
    # Two bounces in a clip: from low down, with a push to the floor.
    body = add_sphere(
        scene, r, GREEN, place.spot + [0, 0, r + rng.uniform(0.4, 0.45)], mass=1.0, restitution=1.0
    )
    push(scene, body, place.right * rng.uniform(-0.05, 0.05) + [0, 0, -2.6])
    return [Mover(body, "green_ball_bounces")]


def _tower(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.3, 0.5)
    edge = 0.24 * place.scale
    _, way = crossing(scene, place, edge)
    movers = []
    for i, colour in enumerate((RED, YELLOW, BLUE, GREEN, PINK)):
        body = add_box(
            scene,
            (edge, edge, edge),
            colour,
            place.spot + [0, 0, edge * (i + 0.5) * 1.002],
            math.atan2(way[1], way[0]),
            mass=1.0,
            restitution=0.1,
            friction=0.9,
        )
        spin = 1.7  # all blocks turn about the foot of the tower, as one stiff column would
        push(scene, body, way * spin * edge * (i + 0.5), np.cross([0, 0, 1], way) * spin)
        movers.append(Mover(body, "tower_topples"))
    return movers


def _many() -> np.random.Generator:
    """Draws of events of many bodies."""
    return np.random.default_rng(3)


def _cubes(scene: SimScene, c2w: np.ndarray, _: np.random.Generator) -> list[Mover]:
    rng = _many()
    place = find_place(scene, c2w, 0.35)
    edge = 0.2 * place.scale
    movers = []
    for i in range(12):
        x, y, z = i % 2 - 0.5, i // 2 % 2 - 0.5, i // 4
        offset = place.right * x * edge * 1.01 + place.forward * y * edge * 1.01
        body = add_box(
            scene,
            (edge,) * 3,
            CYAN,
            place.spot + offset + [0, 0, edge * (z + 0.5) * 1.01],
            math.atan2(place.forward[1], place.forward[0]),
            mass=0.5,
            restitution=0.4,
        )
        out = (
            place.right * np.sign(x) * rng.uniform(1.0, 1.7)
            + place.forward * np.sign(y) * rng.uniform(0.1, 0.5)
        ) * place.scale
        push(scene, body, out + [0, 0, rng.uniform(0.8, 2.4) + 0.5 * z], rng.uniform(-6, 6, 3))
        movers.append(Mover(body, "cubes_burst"))
    return movers


def _car(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.3, 0.6)
    length = 0.75 * place.scale
    start, way = crossing(scene, place, 0.2)
    mesh, solids = car_mesh(length)
    yaw, speed = math.atan2(way[1], way[0]), rng.uniform(1.6, 1.8) * place.scale
    body = add_body(
        scene, mesh, solids, LIME, start + [0, 0, 0.005], yaw, mass=3.0, restitution=0.1, friction=0.05
    )
    movers = [Mover(body, "car_drives", motor(scene, body, way, speed, 3.0))]
    push(scene, body, way * speed)
    movers += add_wheels(scene, body, length, start, yaw, way * speed)
    return movers


def _robot(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.35, 0.5)
    r, h = 0.24 * place.scale, 0.85 * place.scale
    start, way = crossing(scene, place, r)
    mesh = shapes.join(
        shapes.cylinder(r, h * 0.68, h * 0.06),
        shapes.ball(r, (0, 0, h * 0.74), squash=0.9),
        shapes.box((0, r * 1.12, h * 0.38), (r * 0.7, r * 0.3, h * 0.76)),
        shapes.box((0, -r * 1.12, h * 0.38), (r * 0.7, r * 0.3, h * 0.76)),
    )
    speed = rng.uniform(1.3, 1.5) * place.scale
    solid = ("cylinder", (0.0, 0.0, h * 0.45), r, h * 0.9)
    body = add_body(
        scene,
        mesh,
        (solid,),
        BLACK,
        start + [0, 0, 0.005],
        math.atan2(way[1], way[0]),
        mass=5.0,
        restitution=0.1,
        friction=0.05,
    )
    push(scene, body, way * speed)
    return [Mover(body, "robot_drives", motor(scene, body, way, speed, 5.0))]


def _cone(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.3, 0.5)
    height = 0.75 * place.scale
    foot = height * 0.32
    mesh = shapes.join(
        shapes.box((0, 0, 0.03 * height), (2 * foot, 2 * foot, 0.06 * height)),
        cone_mesh(foot * 0.85, height),
    )
    start, way = crossing(scene, place, foot)
    # Its weight is low, as that of a real traffic cone.
    solid = ("box", (0.0, 0.0, 0.12 * height), (foot, foot, 0.12 * height))
    body = add_body(
        scene,
        mesh,
        (solid,),
        ORANGE,
        start + [0, 0, 0.005],
        place.yaw,
        mass=2.0,
        restitution=0.2,
        friction=0.12,
    )
    push(scene, body, way * rng.uniform(1.6, 1.8) * place.scale, (0, 0, rng.uniform(-1, 1)))
    return [Mover(body, "cone_slides")]


def _balloon(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.35)
    r, mass = 0.29 * place.scale, 0.05
    foot = max(r + 0.02, place.eye[2] - place.distance * math.tan(math.radians(24) - place.pitch))
    body = add_sphere(
        scene,
        r,
        PURPLE,
        place.spot + [0, 0, scene.below_ceiling(foot, r)],
        squash=1.2,
        mass=mass,
        restitution=0.3,
    )
    damp(scene, body, linearDamping=0.0)
    client, speed = scene.engine.client, rng.uniform(1.15, 1.3)
    push(scene, body, [*(rng.uniform(-0.05, 0.05, 2)), 0.4 * speed])

    def lift() -> None:  # buoyancy against gravity and drag
        velocity, _ = pybullet.getBaseVelocity(body, physicsClientId=client)
        force = np.array([0, 0, 9.81 * mass + 6.0 * mass * speed]) - 6.0 * mass * np.array(velocity)
        position, _ = pybullet.getBasePositionAndOrientation(body, physicsClientId=client)
        pybullet.applyExternalForce(
            body, -1, force.tolist(), position, pybullet.WORLD_FRAME, physicsClientId=client
        )

    return [Mover(body, "balloon_rises", lift)]


def _balls_rain(scene: SimScene, c2w: np.ndarray, _: np.random.Generator) -> list[Mover]:
    movers, spots = [], list(zip(*particles.balls(c2w), strict=True))
    free = [spot for spot in spots if scene.is_free(spot[0], spot[2] + 0.02)]
    for centre, velocity, radius in free if len(free) >= LEAST_BALLS else spots[:LEAST_BALLS]:
        z = scene.below_ceiling(centre[2], radius)
        body = add_sphere(
            scene, radius, ORANGE, np.array([*centre[:2], z]), mass=0.3, restitution=particles.BALL_BOUNCE
        )
        push(scene, body, velocity)
        damp(scene, body, linearDamping=0.0)
        movers.append(Mover(body, "balls_rain"))
    return movers


def _pink_cube(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.35, 0.6)
    edge = 0.46 * place.scale
    start, way = crossing(scene, place, edge * 0.6)
    body = add_box(
        scene,
        (edge,) * 3,
        PINK,
        start + [0, 0, edge / 2 + 0.003],
        place.yaw + rng.uniform(0.3, 0.5),
        mass=3.0,
        restitution=0.2,
        friction=0.1,
    )
    push(scene, body, way * rng.uniform(1.65, 1.85) * place.scale)
    return [Mover(body, "pink_cube_slides")]


def _man(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, 0.3, 0.6)
    start, way = crossing(scene, place, 0.2)
    return add_walker(scene, 0.95 * place.scale, start, way, rng.uniform(1.35, 1.5) * place.scale)


STARTERS: dict[str, Callable[[SimScene, np.ndarray, np.random.Generator], list[Mover]]] = {
    "red_ball_rolls": _red_ball,
    "blue_box_drops": _blue_box,
    "duck_falls": _duck,
    "green_ball_bounces": _green_ball,
    "tower_topples": _tower,
    "cubes_burst": _cubes,
    "car_drives": _car,
    "robot_drives": _robot,
    "cone_slides": _cone,
    "balloon_rises": _balloon,
    "balls_rain": _balls_rain,
    "pink_cube_slides": _pink_cube,
    "man_walks": _man,
}
