"""Movers: what enters a scene when an event is started, and how PyBullet moves it.

Every mover is placed relative to the current camera, 1.4 to 3.2 m ahead in the middle of the picture, or as near to
it as the room is free and in sight; what crosses comes from the left where it can. Its size is in proportion to its
distance, so that it is seen within the clip (8 frames of 0.1 s) in which it starts. Only
its first velocity, and for driven or floating things a force, is given; the rest is physics. What consists of many
bodies begins the same every time (`_many`): drawn anew, their mean would be all that could be learnt. Balls rain from
the places of `falling`, which the model is told.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

from spatia_env.models import spatial_conditioning as particles
from spatia_env.sim import assets, shapes
from spatia_env.sim.engine import Engine, pybullet
from spatia_env.sim.layout import ScenePlan, free_boxes
from spatia_env.sim.movers import (
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
    add_walker,
    add_wheels,
    car_mesh,
    cone_mesh,
    damp,
    motor,
    push,
)

OFFSETS = np.array([0.0, 0.2, -0.2, 0.4, -0.4, 0.7, -0.7, 1.0, -1.0])
"""Metres nearer or further than wanted, most wanted first."""
BEARINGS = (0.0, 0.1, -0.1, 0.2, -0.2, 0.32, -0.32)
"""Radians off the middle of the picture, most wanted first."""
LEAST_BALLS = 4


# -- where ------------------------------------------------------------------------------------------------------


class FreeSpace:
    """The space of a scene that neither its shell nor a body fills.

    Args:
        engine: the physics.
        plan: the scene's rooms.
    """

    def __init__(self, engine: Engine, plan: ScenePlan) -> None:
        self.engine = engine
        self._low, self._high = (np.array(corners) for corners in zip(*free_boxes(plan), strict=True))
        self._ceiling = 5.0 if plan.outdoor else plan.size[2]
        self._bodies: dict[int, None] = {}
        self._bounds: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, *bodies: int) -> None:
        """Bodies that stand, lie or move in the scene from now on."""
        self._bodies.update(dict.fromkeys(bodies))
        self.changed()

    def remove(self, *bodies: int) -> None:
        """Bodies that are not there any more."""
        for body in bodies:
            self._bodies.pop(body, None)
        self.changed()

    def changed(self) -> None:
        """Bodies have moved."""
        self._bounds = None

    def is_free(self, position: np.ndarray, radius: float) -> bool:
        """True if a ball of this radius (metres) around `position` [3] touches neither the shell nor a body."""
        point = np.array([float(v) for v in position])
        inside = (point >= self._low + radius) & (point <= self._high - radius)
        if not inside.all(1).any():
            return False
        low, high = self._obstacles()
        return bool((np.linalg.norm(point - np.clip(point, low, high), axis=1) >= radius).all())

    def _obstacles(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corners [n, 3] of the bodies as of the last change."""
        if self._bounds is None:
            bounds = [self.engine.bounds(body) for body in self._bodies]
            solid = [(low, high) for low, high in bounds if (high > low).all()]
            low, high = np.reshape(solid, (-1, 2, 3)).swapaxes(0, 1)
            self._bounds = (low, high)
        return self._bounds

    def room_ahead(self, c2w: np.ndarray, radius: float) -> float:
        """Metres (at most 4) of free floor and free view straight ahead of a camera [4, 4]."""
        ahead = np.array([c2w[0, 2], c2w[1, 2], 0.0], dtype=float)
        ahead /= max(np.linalg.norm(ahead), 1e-6)
        eye, distance = np.asarray(c2w[:3, 3], dtype=float), 0.0
        while distance < 4.0:
            point = eye + ahead * (distance + 0.15)
            low = np.array([*point[:2], radius + 0.02])
            if not (self.is_free(point, radius) and self.is_free(low, radius)):
                break
            distance += 0.15
        return distance

    def below_ceiling(self, z: float, margin: float) -> float:
        """`z`, or the highest place that stays `margin` metres under the ceiling (5 m in a yard)."""
        return min(z, self._ceiling - margin - 0.02)


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

    @property
    def yaw(self) -> float:
        """Heading of the camera on the ground, radians about z."""
        return math.atan2(self.forward[1], self.forward[0])

    def top(self, margin: float) -> float:
        """Height where something at the spot is near the upper edge of the picture, `margin` radians below it."""
        return float(
            self.eye[2] + self.distance * math.tan(np.clip(self.pitch + math.radians(30) - margin, -1.2, 1.2))
        )


def find_place(space: FreeSpace, c2w: np.ndarray, radius: float, sweep: float = 0.0) -> Place:
    """The free spot ahead of the camera that is nearest to the middle of its picture.

    Nothing is drawn: where an event happens follows from the view, so that a model can learn it and a user can
    aim it.

    Args:
        space: the scene, as it is now.
        c2w: the camera [4, 4].
        radius: metres that must be free around the spot.
        sweep: metres that should be free to both sides as well, for things that cross.

    Returns:
        The best of a grid of candidates: in the room, in sight, the floor under it inside the picture.
    """
    eye, axis = np.asarray(c2w[:3, 3], dtype=float), np.asarray(c2w[:3, 2], dtype=float)
    pitch = math.asin(float(np.clip(axis[2], -1, 1)))
    ground = (
        axis[:2] / max(np.linalg.norm(axis[:2]), 1e-6)
        if np.linalg.norm(axis[:2]) > 1e-6
        else np.array([1.0, 0.0])
    )
    yaw = math.atan2(ground[1], ground[0])
    # The floor is seen from this distance on; nearer spots are below the picture.
    below = math.radians(23) - pitch
    visible = (
        max(eye[2] - 0.15, 0.1) / math.tan(below)
        if math.radians(5) < below < 1.5
        else 3.0
        if below <= 1
        else 1.0
    )
    wanted = float(np.clip(max(visible + 0.15, 1.7), 1.4, 3.2))
    best, best_cost = (np.zeros(3), wanted), math.inf
    for distance, bearing in itertools.product(wanted + OFFSETS, BEARINGS):
        distance = float(np.clip(distance, 0.7, 3.4))
        direction = np.array([math.cos(yaw + bearing), math.sin(yaw + bearing), 0.0])
        spot = np.array([eye[0], eye[1], 0.0]) + direction * distance
        hidden = 15.0 * max(visible - 0.1 - distance, 0.0)  # below the lower edge of the picture
        cost = abs(distance - wanted) + 2 * abs(bearing) + hidden
        if cost < best_cost:
            cost += _crowding(space, eye, spot, radius, sweep, yaw)
        if cost < best_cost:
            best, best_cost = (spot, distance), cost
    spot, distance = best
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    return Place(spot, right, np.array([math.cos(yaw), math.sin(yaw), 0.0]), eye, pitch, distance)


def _crowding(
    space: FreeSpace, eye: np.ndarray, spot: np.ndarray, radius: float, sweep: float, yaw: float
) -> float:
    """A cost: high where walls or furniture are in the way or hide the spot."""
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    centre = spot + [0, 0, radius + 0.02]
    cost = 0.0
    for share in (-1.0, -0.5, 0.0, 0.5, 1.0) if sweep else (0.0,):
        if not space.is_free(centre + right * share * sweep, radius):
            cost += 20.0 if share == 0 else 4.0
    for point in (centre, centre + [0, 0, 0.6]):
        cost += 0.0 if space.engine.sees(eye, point) else 10.0
    return cost


def crossing(space: FreeSpace, place: Place, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A start on the left of the picture and the direction across it; on the right where only that is free."""
    side = -1.0
    reach = {}
    for sign in (side, -side):
        free = [
            k
            for k in range(1, 9)
            if all(
                space.is_free(
                    place.spot + place.right * sign * j * 0.12 * place.scale + [0, 0, radius + 0.03], radius
                )
                for j in range(1, k + 1)
            )
        ]
        reach[sign] = 0.12 * place.scale * (free[-1] if free else 0)
    sign = side if reach[side] >= 0.6 * reach[-side] else -side
    start = place.spot + place.right * sign * min(reach[sign], 0.3 * place.distance)
    return start, -sign * place.right


# -- what enters ------------------------------------------------------------------------------------------------


def start_mover(space: FreeSpace, name: str, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    """Put the bodies of event `name` into the scene and give them their first push."""
    return STARTERS[name](space, c2w, rng)


def _red_ball(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.3, 0.6)
    r = 0.27 * place.scale
    start, way = crossing(space, place, r)
    body = add_sphere(space.engine, r, RED, start + [0, 0, r + 0.005], mass=2.0, restitution=0.5)
    speed = rng.uniform(1.7, 1.9) * place.scale
    push(space.engine, body, way * speed, np.cross([0, 0, 1], way) * speed / r)
    return [Mover(body, "red_ball_rolls")]


def _blue_box(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.4)
    edge = 0.5 * place.scale
    z = space.below_ceiling(max(place.top(0.12), edge + 0.5), edge * 0.8)
    body = add_box(
        space.engine,
        (edge, edge, edge * 0.9),
        BLUE,
        place.spot + [0, 0, z],
        place.yaw + rng.uniform(0.3, 0.5),
        mass=4.0,
        restitution=0.3,
    )
    push(space.engine, body, [0, 0, -0.5], rng.uniform(-0.3, 0.3, 3))
    return [Mover(body, "blue_box_drops")]


def _duck(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.35)
    vertices, normals, triangles = assets.load_mesh("duck")
    height = 0.62 * place.scale
    mesh = shapes.flat_shaded(vertices, normals, triangles, height / np.ptp(vertices[:, 2]))
    half = np.ptp(mesh.vertices, axis=0) / 2
    z = space.below_ceiling(max(place.top(0.14), height + 0.4) - half[2], 2 * half[2])
    solid = ("box", (0.0, 0.0, float(half[2])), tuple(half * [0.8, 0.8, 1.0]))
    body = add_body(
        space.engine,
        mesh,
        (solid,),
        YELLOW,
        place.spot + [0, 0, max(z, 0.05)],
        place.yaw + rng.uniform(-1.1, -0.9),
        mass=2.0,
        restitution=0.4,
    )
    push(space.engine, body, [0, 0, -0.3], rng.uniform(-0.3, 0.3, 3))
    return [Mover(body, "duck_falls")]


def _green_ball(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.3)
    r = 0.24 * place.scale
    # Two bounces in a clip: from low down, with a push to the floor.
    body = add_sphere(
        space.engine, r, GREEN, place.spot + [0, 0, r + rng.uniform(0.4, 0.45)], mass=1.0, restitution=1.0
    )
    push(space.engine, body, place.right * rng.uniform(-0.05, 0.05) + [0, 0, -2.6])
    return [Mover(body, "green_ball_bounces")]


def _tower(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.3, 0.5)
    edge = 0.24 * place.scale
    _, way = crossing(space, place, edge)
    movers = []
    for i, colour in enumerate((RED, YELLOW, BLUE, GREEN, PINK)):
        body = add_box(
            space.engine,
            (edge, edge, edge),
            colour,
            place.spot + [0, 0, edge * (i + 0.5) * 1.002],
            math.atan2(way[1], way[0]),
            mass=1.0,
            restitution=0.1,
            friction=0.9,
        )
        spin = 1.7  # all blocks turn about the foot of the tower, as one stiff column would
        push(space.engine, body, way * spin * edge * (i + 0.5), np.cross([0, 0, 1], way) * spin)
        movers.append(Mover(body, "tower_topples"))
    return movers


def _many() -> np.random.Generator:
    """Draws of events of many bodies."""
    return np.random.default_rng(3)


def _cubes(space: FreeSpace, c2w: np.ndarray, _: np.random.Generator) -> list[Mover]:
    rng = _many()
    place = find_place(space, c2w, 0.35)
    edge = 0.2 * place.scale
    movers = []
    for i in range(12):
        x, y, z = i % 2 - 0.5, i // 2 % 2 - 0.5, i // 4
        offset = place.right * x * edge * 1.01 + place.forward * y * edge * 1.01
        body = add_box(
            space.engine,
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
        push(space.engine, body, out + [0, 0, rng.uniform(0.8, 2.4) + 0.5 * z], rng.uniform(-6, 6, 3))
        movers.append(Mover(body, "cubes_burst"))
    return movers


def _car(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.3, 0.6)
    length = 0.75 * place.scale
    start, way = crossing(space, place, 0.2)
    mesh, solids = car_mesh(length)
    yaw, speed = math.atan2(way[1], way[0]), rng.uniform(1.6, 1.8) * place.scale
    body = add_body(
        space.engine, mesh, solids, LIME, start + [0, 0, 0.005], yaw, mass=3.0, restitution=0.1, friction=0.05
    )
    movers = [Mover(body, "car_drives", motor(space.engine, body, way, speed, 3.0))]
    push(space.engine, body, way * speed)
    movers += add_wheels(space.engine, body, length, start, yaw, way * speed)
    return movers


def _robot(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.35, 0.5)
    r, h = 0.24 * place.scale, 0.85 * place.scale
    start, way = crossing(space, place, r)
    mesh = shapes.join(
        shapes.cylinder(r, h * 0.68, h * 0.06),
        shapes.ball(r, (0, 0, h * 0.74), squash=0.9),
        shapes.box((0, r * 1.12, h * 0.38), (r * 0.7, r * 0.3, h * 0.76)),
        shapes.box((0, -r * 1.12, h * 0.38), (r * 0.7, r * 0.3, h * 0.76)),
    )
    speed = rng.uniform(1.3, 1.5) * place.scale
    solid = ("cylinder", (0.0, 0.0, h * 0.45), r, h * 0.9)
    body = add_body(
        space.engine,
        mesh,
        (solid,),
        BLACK,
        start + [0, 0, 0.005],
        math.atan2(way[1], way[0]),
        mass=5.0,
        restitution=0.1,
        friction=0.05,
    )
    push(space.engine, body, way * speed)
    return [Mover(body, "robot_drives", motor(space.engine, body, way, speed, 5.0))]


def _cone(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.3, 0.5)
    height = 0.75 * place.scale
    foot = height * 0.32
    mesh = shapes.join(
        shapes.box((0, 0, 0.03 * height), (2 * foot, 2 * foot, 0.06 * height)),
        cone_mesh(foot * 0.85, height),
    )
    start, way = crossing(space, place, foot)
    # Its weight is low, as that of a real traffic cone.
    solid = ("box", (0.0, 0.0, 0.12 * height), (foot, foot, 0.12 * height))
    body = add_body(
        space.engine,
        mesh,
        (solid,),
        ORANGE,
        start + [0, 0, 0.005],
        place.yaw,
        mass=2.0,
        restitution=0.2,
        friction=0.12,
    )
    push(space.engine, body, way * rng.uniform(1.6, 1.8) * place.scale, (0, 0, rng.uniform(-1, 1)))
    return [Mover(body, "cone_slides")]


def _balloon(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.35)
    r, mass = 0.29 * place.scale, 0.05
    foot = max(r + 0.02, place.eye[2] - place.distance * math.tan(math.radians(24) - place.pitch))
    body = add_sphere(
        space.engine,
        r,
        PURPLE,
        place.spot + [0, 0, space.below_ceiling(foot, r)],
        squash=1.2,
        mass=mass,
        restitution=0.3,
    )
    damp(space.engine, body, linearDamping=0.0)
    client, speed = space.engine.client, rng.uniform(1.15, 1.3)
    push(space.engine, body, [*(rng.uniform(-0.05, 0.05, 2)), 0.4 * speed])

    def lift() -> None:  # buoyancy against gravity and drag
        velocity, _ = pybullet.getBaseVelocity(body, physicsClientId=client)
        force = np.array([0, 0, 9.81 * mass + 6.0 * mass * speed]) - 6.0 * mass * np.array(velocity)
        position, _ = pybullet.getBasePositionAndOrientation(body, physicsClientId=client)
        pybullet.applyExternalForce(
            body, -1, force.tolist(), position, pybullet.WORLD_FRAME, physicsClientId=client
        )

    return [Mover(body, "balloon_rises", lift)]


def _balls_rain(space: FreeSpace, c2w: np.ndarray, _: np.random.Generator) -> list[Mover]:
    movers, spots = [], list(zip(*particles.balls(c2w), strict=True))
    free = [spot for spot in spots if space.is_free(spot[0], spot[2] + 0.02)]
    for centre, velocity, radius in free if len(free) >= LEAST_BALLS else spots[:LEAST_BALLS]:
        z = space.below_ceiling(centre[2], radius)
        body = add_sphere(
            space.engine,
            radius,
            ORANGE,
            np.array([*centre[:2], z]),
            mass=0.3,
            restitution=particles.BALL_BOUNCE,
        )
        push(space.engine, body, velocity)
        damp(space.engine, body, linearDamping=0.0)
        movers.append(Mover(body, "balls_rain"))
    return movers


def _pink_cube(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.35, 0.6)
    edge = 0.46 * place.scale
    start, way = crossing(space, place, edge * 0.6)
    body = add_box(
        space.engine,
        (edge,) * 3,
        PINK,
        start + [0, 0, edge / 2 + 0.003],
        place.yaw + rng.uniform(0.3, 0.5),
        mass=3.0,
        restitution=0.2,
        friction=0.1,
    )
    push(space.engine, body, way * rng.uniform(1.65, 1.85) * place.scale)
    return [Mover(body, "pink_cube_slides")]


def _man(space: FreeSpace, c2w: np.ndarray, rng: np.random.Generator) -> list[Mover]:
    place = find_place(space, c2w, 0.3, 0.6)
    start, way = crossing(space, place, 0.2)
    return add_walker(space.engine, 0.95 * place.scale, start, way, rng.uniform(1.35, 1.5) * place.scale)


STARTERS: dict[str, Callable[[FreeSpace, np.ndarray, np.random.Generator], list[Mover]]] = {
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
