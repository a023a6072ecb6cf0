"""How much new surface a view promises: what the map does not know there, on a guess of the room around it.

The share of unknown pixels alone is no good aim: it is largest with the nose to a wall, or behind it. Here every
unknown pixel counts for the square metres that it would show on a round room as wide and as high as the map.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from planning import NEAREST, ends, towards
from spatia_env.geometry import pixel_rays, scale_intrinsics

SIDE = 32
"""Largest side in pixels of the views that are weighed."""
FARTHEST = 6.0
"""Metres; what would lie beyond counts as if it were here."""
STEEPEST = np.radians(18)
"""Largest angle at which candidates look up or down."""
TILT, STRAFE = 0.4, 0.8
"""Of a sweep: turning up or down and stepping aside, as fractions of what a clip allows."""
GRAZING = 0.2
"""Least cosine between a ray and the surface it meets."""


@dataclass(frozen=True)
class RoundRoom:
    """A guess of what encloses map and camera: an upright cylinder, in metres of the world.

    Attributes:
        centre: Of the circle [2].
        radius: Of the circle.
        low: Height of the floor.
        high: Height of the ceiling.
    """

    centre: np.ndarray
    radius: float
    low: float
    high: float

    @classmethod
    def around(cls, points: np.ndarray, eye: np.ndarray) -> "RoundRoom":
        """The room that most of some points [N, 3] lie in, and the camera's place [3] at least a metre within."""
        centre = np.median(points[:, :2], axis=0)
        radius = float(np.quantile(np.linalg.norm(points[:, :2] - centre, axis=1), 0.85))
        radius = max(radius, float(np.linalg.norm(eye[:2] - centre)) + 1.0)
        low, high = np.quantile(points[:, 2], [0.02, 0.98])
        return cls(centre, radius, float(low), max(float(high), float(low) + 1.0))

    def meet(self, origins: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances [N, ...] to the shell along unit `rays` [N, ..., 3] from [N, 3], and cosines there."""
        origins = origins.reshape(len(origins), *[1] * (rays.ndim - 2), 3)
        flat, across = origins[..., :2] - self.centre, np.maximum((rays[..., :2] ** 2).sum(-1), 1e-9)
        half = (flat * rays[..., :2]).sum(-1) / across
        inside = np.maximum(half**2 - ((flat**2).sum(-1) - self.radius**2) / across, 0)
        wall = np.maximum(-half + np.sqrt(inside), 1e-3)
        level = np.where(rays[..., 2] < 0, self.low, self.high) - origins[..., 2]
        upright = np.abs(rays[..., 2])
        flat_distance = np.maximum(np.abs(level) / np.maximum(upright, 1e-6), 1e-3)
        return np.minimum(wall, flat_distance), np.where(wall < flat_distance, np.sqrt(across), upright)


def promised_surface(env: Any, poses: np.ndarray) -> np.ndarray:
    """Square metres [N] that views from `poses` [N, 4, 4] would add to the map; -1 where they run into something."""
    state = env.world.state
    height, width = state.size
    scale = SIDE / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    K = scale_intrinsics(state.K, w / width, h / height)
    view = state.memory.render(torch.from_numpy(np.asarray(poses, np.float32)), K, h, w)
    known, depth = view.known.numpy(), view.depth.numpy()
    room = RoundRoom.around(_some_points(state.memory), state.c2w[:3, 3].double().numpy())
    local = pixel_rays(K, h, w).double().numpy()
    length = np.linalg.norm(local, axis=-1, keepdims=True)
    rays = np.einsum("nij,hwj->nhwi", poses[:, :3, :3], local / length)
    distance, cosine = room.meet(poses[:, :3, 3], rays)
    # Of a pixel at z = 1: its area, seen at an angle and from farther away.
    pixel = 1 / float(K[0, 0] * K[1, 1]) / length[..., 0] ** 3
    area = np.minimum(distance, FARTHEST) ** 2 * pixel / np.maximum(cosine, GRAZING)
    value = np.where(known, 0.0, area).sum((1, 2))
    near = np.quantile(np.where(known, depth, 1e3).reshape(len(depth), -1), 0.1, axis=1)
    outside = np.linalg.norm(poses[:, :2, 3] - room.centre, axis=1) > room.radius
    return np.where((near < NEAREST) | outside, -1.0, value)


def level_moves(env: Any, np_random: np.random.Generator, count: int) -> np.ndarray:
    """Camera actions [count, 6] that end level, at most `STEEPEST` up or down: none, six full turns, random ones."""
    turn = np.array([[0, 0, 0, 0], *[[0, 0, side, up] for side in (1, -1) for up in (1, 0, -1)]], np.float64)
    free = np_random.uniform(-1, 1, (max(count - len(turn), 0), 4))
    return _moves(env, np.concatenate([turn, free])[:count])


def best_view(env: Any, np_random: np.random.Generator, count: int = 24) -> np.ndarray:
    """The camera actions [count, 6], best first by `promised_surface` where they end."""
    cameras = level_moves(env, np_random, count)
    return cameras[np.argsort(-promised_surface(env, ends(env, cameras)), kind="stable")]


def sweep(env: Any, step: int, side: float = 0.0) -> np.ndarray:
    """The camera action [6] of looking all around: turns on, up and down by turns, stepping to the other side.

    A step that would run into something of the map is left out.

    Args:
        env: Whose map.
        step: Of the sweep, from 0.
        side: 1 to turn right, -1 to turn left; 0 takes the side that promises more surface.
    """
    ways = []
    for sign in (side,) if side else (1.0, -1.0):
        tilt = TILT if step == 0 else 2 * TILT * (1 if step % 2 == 0 else -1)
        turn = np.array([0, 0, 0, tilt, sign, 0], np.float32)
        ways += [turn - np.array([STRAFE * sign, 0, 0, 0, 0, 0], np.float32), turn]
    values = promised_surface(env, ends(env, np.stack(ways)))
    values[::2] = np.where(
        values[::2] < 0, -1.0, values[::2] + 1e3
    )  # with a step to the side, where there is room
    return ways[int(values.argmax())]


def _moves(env: Any, wanted: np.ndarray) -> np.ndarray:
    """From metres / 0.5 to the right and ahead, turns / 30 degrees and steepness [N, 4] to camera actions [N, 6]."""
    here = env.world.c2w.double().numpy()
    yaw = np.arctan2(here[1, 2], here[0, 2]) - np.radians(30) * wanted[:, 2]  # to the right is clockwise
    up = STEEPEST * wanted[:, 3]
    ahead = np.stack([np.cos(yaw) * np.cos(up), np.sin(yaw) * np.cos(up), np.sin(up)], 1)
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], 1)
    out = []
    for forward, side, (across, along, *_) in zip(ahead, right, wanted, strict=True):
        pose = np.eye(4)
        pose[:3, :3] = np.stack([side, np.cross(forward, side), forward], axis=1)
        flat = here[:3, 2] * [1, 1, 0]
        flat = flat / max(float(np.linalg.norm(flat)), 1e-6)
        pose[:3, 3] = here[:3, 3] + 0.5 * (along * flat + across * np.array([flat[1], -flat[0], 0.0]))
        out.append(towards(here, pose))
    return np.stack(out)


def _some_points(memory: Any, most: int = 4000) -> np.ndarray:
    points = memory.points()["position"]
    return np.asarray(points[:: max(1, len(points) // most)], np.float64)
