"""Movers: what enters a scene when an event is started, and how PyBullet moves it.

Every mover is placed relative to the current camera, 1.4 to 3.2 m ahead where the room is free and in sight, its
size in proportion to its distance, so that it is seen within the clip (8 frames of 0.1 s) in which it starts. Only
its first velocity, and for driven or floating things a force, is given; the rest is physics.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pybullet

from spatia_env.sim import assets, shapes
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


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an event happens: a spot on the floor, the camera's right and forward on the ground, and a scale."""

    spot: np.ndarray
    right: np.ndarray
    forward: np.ndarray
    eye: np.ndarray
    pitch: float
    distance: float

    @property
    def scale(self) -> float:
        """1 at 2.2 m: things further away are bigger, so that they fill the same share of the picture."""
        return float(np.clip(self.distance / 2.2, 0.6, 1.5))

    def top(self, margin: float) -> float:
        """Height where something at the spot is near the upper edge of the picture, `margin` radians below it."""
        return float(self.eye[2] + self.distance * math.tan(np.clip(self.pitch + math.radians(30) - margin, -1.2, 1.2)))


def find_place(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator, radius: float, sweep: float = 0.0) -> Place:
    """A free spot ahead of the camera.

    Args:
        scene: the scene, as it is now.
        c2w: the camera [4, 4].
        rng: draws the candidates.
        radius: metres that must be free around the spot.
        sweep: metres that should be free to both sides as well, for things that cross.

    Returns:
        The best of 60 candidates: in the room, in sight, the floor under it inside the picture.
    """
    eye, axis = np.asarray(c2w[:3, 3], dtype=float), np.asarray(c2w[:3, 2], dtype=float)
    pitch = math.asin(float(np.clip(axis[2], -1, 1)))
    ground = axis[:2] / max(np.linalg.norm(axis[:2]), 1e-6) if np.linalg.norm(axis[:2]) > 1e-6 else np.array([1.0, 0.0])
    yaw = math.atan2(ground[1], ground[0])
    # The floor is seen from this distance on; nearer spots are below the picture.
    below = math.radians(23) - pitch
    visible = max(eye[2] - 0.15, 0.1) / math.tan(below) if math.radians(5) < below < 1.5 else 3.0 if below <= 1 else 1.0
    wanted = float(np.clip(max(visible + 0.15, 1.7), 1.4, 3.2))
    best, best_cost = None, math.inf
    for _ in range(60):
        distance, bearing = float(np.clip(rng.normal(wanted, 0.5), 0.7, 3.4)), float(rng.normal(0, 0.12))
        direction = np.array([math.cos(yaw + bearing), math.sin(yaw + bearing), 0.0])
        spot = np.array([eye[0], eye[1], 0.0]) + direction * distance
        cost = abs(distance - wanted) + abs(bearing) + _crowding(scene, eye, spot, radius, sweep, yaw)
        if cost < best_cost:
            best, best_cost = (spot, distance), cost
    spot, distance = best
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    return Place(spot, right, np.array([math.cos(yaw), math.sin(yaw), 0.0]), eye, pitch, distance)


def _crowding(scene: SimScene, eye: np.ndarray, spot: np.ndarray, radius: float, sweep: float, yaw: float) -> float:
    """A cost: high where walls or furniture are in the way or hide the spot."""
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    centre = spot + [0, 0, radius + 0.02]
    cost = 0.0
    for share in (-1.0, -0.5, 0.0, 0.5, 1.0) if sweep else (0.0,):
        if not scene.is_free(centre + right * share * sweep, radius):
            cost += 20.0 if share == 0 else 4.0
    for point in (centre, centre + [0, 0, 0.6]):
        hit = pybullet.rayTest(eye.tolist(), point.tolist(), physicsClientId=scene.engine.client)[0]
        cost += 10.0 if 0 <= hit[0] and hit[2] < 0.97 else 0.0
    return cost


def start_mover(scene: SimScene, name: str, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    """Put the bodies of event `name` into the scene and give them their first push."""
    return STARTERS[name](scene, c2w, rng)


def _push(scene: SimScene, body: int, linear: np.ndarray, angular: np.ndarray | tuple = (0, 0, 0)) -> None:
    pybullet.resetBaseVelocity(body, np.asarray(linear, dtype=float).tolist(), list(map(float, angular)), physicsClientId=scene.engine.client)


def _damp(scene: SimScene, body: int, **settings: float) -> None:
    pybullet.changeDynamics(body, -1, physicsClientId=scene.engine.client, **settings)


def _add(scene: SimScene, mesh: Mesh, solids: tuple, colour: tuple, position: np.ndarray, yaw: float, mass: float = 1.0,
         restitution: float = 0.4, friction: float = 0.6, texture: int = -1) -> int:
    return scene.engine.add(mesh, tuple(position), yaw, texture, colour, solids, mass, restitution, friction)


def _box(scene: SimScene, size: tuple, colour: tuple, position: np.ndarray, yaw: float, **settings: float) -> int:
    """A box centred at `position`."""
    solid = ("box", (0.0, 0.0, 0.0), tuple(s / 2 for s in size))
    return _add(scene, shapes.box((0, 0, 0), size), (solid,), colour, position, yaw, **settings)


def _sphere(scene: SimScene, radius: float, colour: tuple, position: np.ndarray, squash: float = 1.0, **settings: float) -> int:
    mesh = shapes.ball(radius, squash=squash)
    return _add(scene, mesh, (("sphere", (0.0, 0.0, 0.0), radius),), colour, position, 0.0, **settings)


def _crossing(scene: SimScene, place: Place, rng: np.random.Generator, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A start on one side of the picture and the direction across it, where the way is longest."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    reach = {}
    for sign in (side, -side):
        free = [k for k in range(1, 9) if all(
            scene.is_free(place.spot + place.right * sign * j * 0.12 * place.scale + [0, 0, radius + 0.03], radius) for j in range(1, k + 1)
        )]
        reach[sign] = 0.12 * place.scale * (free[-1] if free else 0)
    sign = side if reach[side] >= 0.75 * reach[-side] else -side
    start = place.spot + place.right * sign * min(reach[sign], 0.3 * place.distance)
    return start, -sign * place.right


def _red_ball(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.3, 0.6)
    r = 0.27 * place.scale
    start, way = _crossing(scene, place, rng, r)
    body = _sphere(scene, r, RED, start + [0, 0, r + 0.005], mass=2.0, restitution=0.5)
    speed = rng.uniform(1.5, 2.1) * place.scale
    _push(scene, body, way * speed, np.cross([0, 0, 1], way) * speed / r)
    return [Mover(body, "red_ball_rolls")]


def _blue_box(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.4)
    edge = 0.5 * place.scale
    z = scene.below_ceiling(max(place.top(0.12), edge + 0.5), edge * 0.8)
    body = _box(scene, (edge, edge, edge * 0.9), BLUE, place.spot + [0, 0, z], rng.uniform(-3, 3), mass=4.0, restitution=0.3)
    _push(scene, body, [0, 0, -0.5], rng.uniform(-1, 1, 3))
    return [Mover(body, "blue_box_drops")]


def _duck(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.35)
    vertices, normals, triangles = assets.load_mesh("duck")
    height = 0.62 * place.scale
    mesh = shapes.flat_shaded(vertices, normals, triangles, height / np.ptp(vertices[:, 2]))
    half = np.ptp(mesh.vertices, axis=0) / 2
    z = scene.below_ceiling(max(place.top(0.14), height + 0.4) - half[2], 2 * half[2])
    solid = ("box", (0.0, 0.0, float(half[2])), tuple(half * [0.8, 0.8, 1.0]))
    body = _add(scene, mesh, (solid,), YELLOW, place.spot + [0, 0, max(z, 0.05)], rng.uniform(-3, 3), mass=2.0, restitution=0.4)
    _push(scene, body, [0, 0, -0.3], rng.uniform(-0.8, 0.8, 3))
    return [Mover(body, "duck_falls")]


def _green_ball(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.3)
    r = 0.24 * place.scale
    # Two bounces in a clip: from low down, with a push to the floor.
    body = _sphere(scene, r, GREEN, place.spot + [0, 0, r + rng.uniform(0.35, 0.5)], mass=1.0, restitution=1.0)
    _push(scene, body, place.right * rng.uniform(-0.35, 0.35) + [0, 0, -2.6])
    return [Mover(body, "green_ball_bounces")]


def _tower(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.3, 0.5)
    edge = 0.24 * place.scale
    _, way = _crossing(scene, place, rng, edge)
    movers = []
    for i, colour in enumerate((RED, YELLOW, BLUE, GREEN, PINK)):
        body = _box(scene, (edge, edge, edge), colour, place.spot + [0, 0, edge * (i + 0.5) * 1.002], math.atan2(way[1], way[0]),
                    mass=1.0, restitution=0.1, friction=0.9)
        spin = 1.7  # all blocks turn about the foot of the tower, as one stiff column would
        _push(scene, body, way * spin * edge * (i + 0.5), np.cross([0, 0, 1], way) * spin)
        movers.append(Mover(body, "tower_topples"))
    return movers


def _cubes(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.35)
    edge = 0.2 * place.scale
    movers = []
    for i in range(12):
        x, y, z = i % 2 - 0.5, i // 2 % 2 - 0.5, i // 4
        offset = place.right * x * edge * 1.01 + place.forward * y * edge * 1.01
        body = _box(scene, (edge,) * 3, CYAN, place.spot + offset + [0, 0, edge * (z + 0.5) * 1.01],
                    math.atan2(place.forward[1], place.forward[0]), mass=0.5, restitution=0.4)
        out = (place.right * np.sign(x) * rng.uniform(0.8, 1.9) + place.forward * np.sign(y) * rng.uniform(0.1, 0.5)) * place.scale
        _push(scene, body, out + [0, 0, rng.uniform(0.8, 2.4) + 0.5 * z], rng.uniform(-6, 6, 3))
        movers.append(Mover(body, "cubes_burst"))
    return movers


def _car_mesh(length: float) -> tuple[Mesh, tuple]:
    """A toy car along +x, wheels included, standing on z = 0."""
    width, height = 0.5 * length, 0.42 * length
    hull = shapes.box((0, 0, 0.42 * height), (length, width, 0.5 * height))
    cabin = shapes.box((-0.05 * length, 0, 0.82 * height), (0.5 * length, 0.82 * width, 0.36 * height))
    return shapes.join(hull, cabin), (("box", (0.0, 0.0, 0.5 * height), (length / 2, width / 2, height / 2)),)


def _motor(scene: SimScene, body: int, way: np.ndarray, speed: float, mass: float) -> Callable[[], None]:
    """A driver that pushes a body along `way` towards its speed, and keeps it upright by its low friction."""
    client = scene.engine.client

    def drive() -> None:
        velocity, _ = pybullet.getBaseVelocity(body, physicsClientId=client)
        lack = speed - float(np.dot(velocity, way))
        position, _ = pybullet.getBasePositionAndOrientation(body, physicsClientId=client)
        force = np.clip(lack * 30.0, 0, 12.0) * mass * way
        pybullet.applyExternalForce(body, -1, force.tolist(), position, pybullet.WORLD_FRAME, physicsClientId=client)

    return drive


def _car(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.3, 0.6)
    length = 0.75 * place.scale
    start, way = _crossing(scene, place, rng, 0.2)
    mesh, solids = _car_mesh(length)
    yaw, speed = math.atan2(way[1], way[0]), rng.uniform(1.4, 1.9) * place.scale
    body = _add(scene, mesh, solids, LIME, start + [0, 0, 0.005], yaw, mass=3.0, restitution=0.1, friction=0.05)
    movers = [Mover(body, "car_drives", _motor(scene, body, way, speed, 3.0))]
    _push(scene, body, way * speed)
    movers += _wheels(scene, body, length, start, yaw, way * speed)
    return movers


def _wheels(scene: SimScene, car: int, length: float, start: np.ndarray, yaw: float, velocity: np.ndarray) -> list[Mover]:
    """Dark wheels, fixed to the hull."""
    r = 0.13 * length
    wheel = shapes.cylinder(r, 0.06 * length, -0.03 * length, 12)
    # The cylinder's axis is turned from z to the car's side (y).
    upright = Mesh(wheel.vertices[:, [0, 2, 1]], wheel.normals[:, [0, 2, 1]], wheel.uvs, wheel.triangles[:, ::-1])
    parts = []
    for x in (-0.3, 0.3):
        for y in (-0.25, 0.25):
            parts.append(Mesh(upright.vertices + [x * length, y * length, r], upright.normals, upright.uvs, upright.triangles))
    mesh = shapes.join(*parts)
    client = scene.engine.client
    body = _add(scene, mesh, (), BLACK, start + [0, 0, 0.005], yaw, mass=0.05)
    low = pybullet.getBasePositionAndOrientation(car, physicsClientId=client)[0][2]
    pybullet.createConstraint(car, -1, body, -1, pybullet.JOINT_FIXED, [0, 0, 0], [0, 0, 0.005 - low], [0, 0, 0], physicsClientId=client)
    _push(scene, body, velocity)
    return [Mover(body, "car_drives")]


def _robot(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.35, 0.5)
    r, h = 0.24 * place.scale, 0.85 * place.scale
    start, way = _crossing(scene, place, rng, r)
    mesh = shapes.join(
        shapes.cylinder(r, h * 0.68, h * 0.06), shapes.ball(r, (0, 0, h * 0.74), squash=0.9),
        shapes.box((0, r * 1.12, h * 0.38), (r * 0.7, r * 0.3, h * 0.76)), shapes.box((0, -r * 1.12, h * 0.38), (r * 0.7, r * 0.3, h * 0.76)),
    )
    speed = rng.uniform(1.1, 1.5) * place.scale
    solid = ("cylinder", (0.0, 0.0, h * 0.45), r, h * 0.9)
    body = _add(scene, mesh, (solid,), BLACK, start + [0, 0, 0.005], math.atan2(way[1], way[0]), mass=5.0, restitution=0.1, friction=0.05)
    _push(scene, body, way * speed)
    return [Mover(body, "robot_drives", _motor(scene, body, way, speed, 5.0))]


def _cone(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.3, 0.5)
    height = 0.75 * place.scale
    foot = height * 0.32
    mesh = shapes.join(shapes.box((0, 0, 0.03 * height), (2 * foot, 2 * foot, 0.06 * height)), _cone_mesh(foot * 0.85, height))
    start, way = _crossing(scene, place, rng, foot)
    # Its weight is low, as that of a real traffic cone.
    solid = ("box", (0.0, 0.0, 0.12 * height), (foot, foot, 0.12 * height))
    body = _add(scene, mesh, (solid,), ORANGE, start + [0, 0, 0.005], rng.uniform(-3, 3), mass=2.0, restitution=0.2, friction=0.12)
    _push(scene, body, way * rng.uniform(1.4, 1.9) * place.scale, (0, 0, rng.uniform(-3, 3)))
    return [Mover(body, "cone_slides")]


def _cone_mesh(radius: float, height: float, sides: int = 18) -> Mesh:
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
    vertices = np.concatenate([ring * radius, ring * radius * 0.12 + [0, 0, height]])
    slope = ring + [0, 0, radius / height]
    normals = np.tile(slope / np.linalg.norm(slope, axis=1, keepdims=True), (2, 1))
    corner = np.arange(sides)
    triangles = np.concatenate([np.stack([corner, corner + 1, corner + sides + 2], 1), np.stack([corner, corner + sides + 2, corner + sides + 1], 1)])
    return Mesh(vertices, normals, np.full((len(vertices), 2), 0.5), triangles)


def _balloon(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.35)
    r, mass = 0.29 * place.scale, 0.05
    foot = max(r + 0.02, place.eye[2] - place.distance * math.tan(math.radians(24) - place.pitch))
    body = _sphere(scene, r, PURPLE, place.spot + [0, 0, scene.below_ceiling(foot, r)], squash=1.2, mass=mass, restitution=0.3)
    _damp(scene, body, linearDamping=0.0)
    client, speed = scene.engine.client, rng.uniform(1.0, 1.4)
    _push(scene, body, [*(rng.uniform(-0.15, 0.15, 2)), 0.4 * speed])

    def lift() -> None:  # buoyancy against gravity and drag
        velocity, _ = pybullet.getBaseVelocity(body, physicsClientId=client)
        force = np.array([0, 0, 9.81 * mass + 6.0 * mass * speed]) - 6.0 * mass * np.array(velocity)
        position, _ = pybullet.getBasePositionAndOrientation(body, physicsClientId=client)
        pybullet.applyExternalForce(body, -1, force.tolist(), position, pybullet.WORLD_FRAME, physicsClientId=client)

    return [Mover(body, "balloon_rises", lift)]


def _balls_rain(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.4, 0.5)
    movers = []
    for i in range(22):
        r = rng.uniform(0.075, 0.1) * place.scale
        # Over the width of the picture and some depth, from the top at different heights.
        spot = place.spot + place.right * (i / 21 - 0.5) * 0.9 * place.distance + place.forward * rng.uniform(-0.35, 0.35)
        if not scene.is_free(spot + [0, 0, r + 0.05], r):
            spot = place.spot + place.right * rng.uniform(-0.35, 0.35) + place.forward * rng.uniform(-0.2, 0.2)
        z = scene.below_ceiling(max(place.top(0.05), 0.8) * rng.uniform(0.55, 1.0), r)
        body = _sphere(scene, r, ORANGE, spot + [0, 0, max(z, 2 * r)], mass=0.3, restitution=0.7)
        _push(scene, body, [*rng.uniform(-0.3, 0.3, 2), rng.uniform(-1.0, 0.3)])
        movers.append(Mover(body, "balls_rain"))
    return movers


def _pink_cube(scene: SimScene, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(scene, c2w, rng, 0.35, 0.6)
    edge = 0.46 * place.scale
    start, way = _crossing(scene, place, rng, edge * 0.6)
    body = _box(scene, (edge,) * 3, PINK, start + [0, 0, edge / 2 + 0.003], rng.uniform(-3, 3), mass=3.0, restitution=0.2, friction=0.1)
    _push(scene, body, way * rng.uniform(1.5, 2.0) * place.scale)
    return [Mover(body, "pink_cube_slides")]


STARTERS: dict[str, Callable[[SimScene, np.ndarray, np.random.Generator], list[Mover]]] = {
    "red_ball_rolls": _red_ball, "blue_box_drops": _blue_box, "duck_falls": _duck, "green_ball_bounces": _green_ball,
    "tower_topples": _tower, "cubes_burst": _cubes, "car_drives": _car, "robot_drives": _robot, "cone_slides": _cone,
    "balloon_rises": _balloon, "balls_rain": _balls_rain, "pink_cube_slides": _pink_cube,
}
