"""The panorama of a simulated scene around a place: colour, distance and the kind of surface.

The layout of a panorama is that of `memory.panorama`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from spatia_env.memory.panorama import panorama_rays
from spatia_env.sim.scenes import SimScene, camera_pose

VIEWS = 6
SHARPNESS = 1.15  # pixels of a view for each pixel of the panorama, at the middle of the view
SURFACES = ("none", "ground", "side", "above", "thing")


@dataclasses.dataclass(frozen=True)
class SimPanorama:
    """What surrounds a place.

    Attributes:
        rgb: uint8 [H, W, 3].
        distance: float32 [H, W], metres along the ray, 0 = none.
        surface: uint8 [H, W], index into `SURFACES`: floor or ground, wall or fence, ceiling or sky, anything else.
    """

    rgb: np.ndarray
    distance: np.ndarray
    surface: np.ndarray


def render_panorama(scene: SimScene, eye: np.ndarray, height: int = 192, width: int = 768) -> SimPanorama:
    """The scene as it is now around `eye` [3] (world metres), from six pictures turned by 60 degrees each.

    Raises:
        ClosedEnvError: the scene was closed.
    """
    rays = panorama_rays(height, width).numpy().astype(np.float64)
    focal = SHARPNESS * width / (2 * math.pi)
    view_width = 2 * math.ceil(focal * math.tan(math.pi / VIEWS) + 1)
    view_height = 2 * math.ceil(focal / math.cos(math.pi / VIEWS) + 1)
    K = np.array([[focal, 0, view_width / 2], [0, focal, view_height / 2], [0, 0, 1]], dtype=np.float32)
    kinds = _kinds(scene)
    rgb = np.zeros((height, width, 3), dtype=np.uint8)
    distance = np.zeros((height, width), dtype=np.float32)
    surface = np.zeros((height, width), dtype=np.uint8)
    heading = np.arctan2(rays[0, :, 1], rays[0, :, 0])
    for number in range(VIEWS):
        yaw = 2 * math.pi * number / VIEWS
        columns = np.flatnonzero(np.round((heading - yaw) * VIEWS / (2 * math.pi)) % VIEWS == 0)
        c2w = camera_pose((float(eye[0]), float(eye[1]), float(eye[2])), yaw, 0.0)
        frame = scene.render(c2w, view_height, view_width, K)
        local = rays[:, columns] @ c2w[:3, :3]
        u = local[..., 0] / local[..., 2] * focal + view_width / 2
        v = local[..., 1] / local[..., 2] * focal + view_height / 2
        row, column = v.astype(int), u.astype(int)
        rgb[:, columns] = _bilinear(frame.rgb, u - 0.5, v - 0.5)
        distance[:, columns] = frame.depth[row, column] / local[..., 2]
        surface[:, columns] = kinds[frame.segmentation[row, column]]
    return SimPanorama(rgb, distance, surface)


def _kinds(scene: SimScene) -> np.ndarray:
    """Indices into `SURFACES` by body id; the last entry is for id -1."""
    table = scene.object_table()
    kinds = np.full(max(row.body for row in table) + 3, SURFACES.index("thing"), dtype=np.uint8)
    kinds[-1] = SURFACES.index("none")
    for row in table:
        if row.name == "floor":
            kinds[row.body] = SURFACES.index("ground")
        elif row.name in ("ceiling", "sky"):
            kinds[row.body] = SURFACES.index("above")
        elif row.name == scene.plan.fence or row.name.startswith("wall "):
            kinds[row.body] = SURFACES.index("side")
    return kinds


def _bilinear(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colours u8 [..., 3] of an image [H, W, 3] at coordinates in which pixel i has its centre at i."""
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    right, down = (u - left)[..., None], (v - top)[..., None]
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return np.round(upper * (1 - down) + lower * down).astype(np.uint8)
