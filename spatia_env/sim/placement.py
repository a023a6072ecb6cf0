"""Where movers enter: free spots in front of the camera, and ways across its picture."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spatia_env.sim.scenes import SimScene

OFFSETS = np.array([0.0, 0.2, -0.2, 0.4, -0.4, 0.7, -0.7, 1.0, -1.0])
"""Metres nearer or further than wanted, most wanted first."""
BEARINGS = (0.0, 0.1, -0.1, 0.2, -0.2, 0.32, -0.32)
"""Radians off the middle of the picture, most wanted first."""


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


def find_place(scene: SimScene, c2w: np.ndarray, radius: float, sweep: float = 0.0) -> Place:
    """The free spot ahead of the camera that is nearest to the middle of its picture.

    Nothing is drawn: where an event happens follows from the view, so that a model can learn it and a user can
    aim it.

    Args:
        scene: the scene, as it is now.
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
            cost += _crowding(scene, eye, spot, radius, sweep, yaw)
        if cost < best_cost:
            best, best_cost = (spot, distance), cost
    spot, distance = best
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    return Place(spot, right, np.array([math.cos(yaw), math.sin(yaw), 0.0]), eye, pitch, distance)


def _crowding(
    scene: SimScene, eye: np.ndarray, spot: np.ndarray, radius: float, sweep: float, yaw: float
) -> float:
    """A cost: high where walls or furniture are in the way or hide the spot."""
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    centre = spot + [0, 0, radius + 0.02]
    cost = 0.0
    for share in (-1.0, -0.5, 0.0, 0.5, 1.0) if sweep else (0.0,):
        if not scene.is_free(centre + right * share * sweep, radius):
            cost += 20.0 if share == 0 else 4.0
    for point in (centre, centre + [0, 0, 0.6]):
        cost += 0.0 if scene.engine.sees(eye, point) else 10.0
    return cost


def crossing(scene: SimScene, place: Place, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A start on the left of the picture and the direction across it; on the right where only that is free."""
    side = -1.0
    reach = {}
    for sign in (side, -side):
        free = [
            k
            for k in range(1, 9)
            if all(
                scene.is_free(
                    place.spot + place.right * sign * j * 0.12 * place.scale + [0, 0, radius + 0.03], radius
                )
                for j in range(1, k + 1)
            )
        ]
        reach[sign] = 0.12 * place.scale * (free[-1] if free else 0)
    sign = side if reach[side] >= 0.6 * reach[-side] else -side
    start = place.spot + place.right * sign * min(reach[sign], 0.3 * place.distance)
    return start, -sign * place.right
