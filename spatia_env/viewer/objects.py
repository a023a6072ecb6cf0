"""Objects of the map: picking one by a ray, and simple shapes to put in.

A ray from the browser becomes a camera that looks along it, so picking is `regions.Click`, as on a picture.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spatia_env.errors import EditError
from spatia_env.geometry import intrinsics_from_fov, look_at
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.queries import raycast
from spatia_env.memory.regions import Click

PICK_SIZE, PICK_FOV = (129, 129), 40.0
BESIDE_DEGREES = (0.25, 0.5, 1.0)
"""Degrees beside a click at which the map is looked for where the click itself meets nothing."""
SHAPES = ("ball", "box", "cone")


@dataclass(frozen=True)
class Picked:
    """An object: the `region` that chooses it, its points' `position` and `colour` [n, 3], where it was `hit` [3]."""

    region: Click
    position: np.ndarray
    colour: np.ndarray
    hit: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """The middle [3] of its bounds, metres."""
        return (self.position.min(0) + self.position.max(0)).astype(np.float64) / 2

    @property
    def size(self) -> np.ndarray:
        """Its extent [3], metres."""
        return (self.position.max(0) - self.position.min(0)).astype(np.float64)


def pick(memory: SceneMemory, origin: Any, direction: Any, tolerance: float = 0.08) -> Picked:
    """The connected object that a ray meets, or nearly: between points that are drawn side by side may be gaps.

    Args:
        memory: The map.
        origin: Start of the ray [3], metres.
        direction: Of any length [3].
        tolerance: See `regions.Click.colour_tolerance`.

    Raises:
        EditError: If the ray meets nothing.
        ActionError: If it is no ray.
    """
    rays = around(np.asarray(direction, np.float64)) if np.any(direction) else [direction]
    hit = next((met for met in (raycast(memory, origin, ray) for ray in rays) if met is not None), None)
    if hit is None:
        raise EditError("nothing of the map is there; click on its points.")
    start = np.asarray(origin, np.float64)
    towards = hit.position.astype(np.float64) - start
    if np.linalg.norm(towards) < 1e-6:
        towards = np.asarray(direction, np.float64)
    towards = towards / np.linalg.norm(towards)
    # Not farther than a metre in front, so that the object fills the camera's picture.
    eye = start + max(0.0, hit.distance - 1.0) * towards
    up = None if abs(towards[2]) < 0.99 else torch.tensor([0.0, 1.0, 0.0])
    c2w = look_at(torch.from_numpy(eye).float(), torch.from_numpy(eye + towards).float(), up)
    height, width = PICK_SIZE
    K = intrinsics_from_fov(PICK_FOV, height, width)
    region = Click((width / 2, height / 2), c2w, K, PICK_SIZE, colour_tolerance=tolerance)
    chosen = region.select(memory)
    if not chosen:
        raise EditError("nothing of the map is there; click on its points.")
    rows = np.concatenate([memory.blocks[key][which] for key, which in sorted(chosen.items())])
    return Picked(region, rows["position"].copy(), rows["colour"].copy(), hit.position.astype(np.float64))


def around(direction: np.ndarray) -> list[np.ndarray]:
    """A direction [3], then rings of others beside it, the nearest first."""
    forward = direction / np.linalg.norm(direction)
    right = np.cross(forward, np.eye(3)[int(np.abs(forward).argmin())])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    turns = np.arange(8) * (np.pi / 4)
    sides = np.cos(turns)[:, None] * right + np.sin(turns)[:, None] * up
    return [forward, *(forward + np.radians(angle) * side for angle in BESIDE_DEGREES for side in sides)]


def shape(name: str, size: float, rgb: tuple[int, int, int], spacing: float = 0.01) -> PointCloud:
    """A ball, box or cone of points, standing on its origin.

    Args:
        name: One of `SHAPES`.
        size: Metres, its height and width.
        rgb: Colour; it is shaded a little from above.
        spacing: Metres between points.

    Raises:
        EditError: If there is no such shape or the size is not between 5 cm and 3 m.
    """
    if name not in SHAPES or not 0.05 <= size <= 3:
        raise EditError(f"insert: use one of {', '.join(SHAPES)}, of 0.05 to 3 metres.")
    vertices, faces = _revolved(_profile(name), steps=4 if name == "box" else 32)
    light = 0.65 + 0.35 * vertices[:, 2:3]
    colours = np.clip(np.array(rgb, np.float64) * light, 0, 255).astype(np.uint8)
    return PointCloud.of_mesh(vertices * size, faces, colours, spacing)


def _profile(name: str) -> np.ndarray:
    """Radius and height [n, 2] from the bottom to the top of a solid of revolution of height 1."""
    if name == "cone":
        return np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 1.0]])
    if name == "box":  # turned in four steps, the radius reaches its corners
        corner = 0.5**0.5
        return np.array([[0.0, 0.0], [corner, 0.0], [corner, 1.0], [0.0, 1.0]])
    angle = np.linspace(0, np.pi, 17)
    return np.stack([0.5 * np.sin(angle), 0.5 - 0.5 * np.cos(angle)], axis=-1)


def _revolved(profile: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [n, 3] and triangles [m, 3] of a profile turned about the vertical axis in some steps."""
    angle = (np.arange(steps) + 0.5) * (2 * np.pi / steps)
    radius, height = profile[:, :1], np.repeat(profile[:, 1:], steps, axis=1)
    vertices = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=-1).reshape(-1, 3)
    ring, at = np.meshgrid(np.arange(len(profile) - 1), np.arange(steps), indexing="ij")
    a, b = ring * steps + at, ring * steps + (at + 1) % steps
    quads = np.stack([a, b, b + steps, a + steps], axis=-1).reshape(-1, 4)
    return vertices, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
