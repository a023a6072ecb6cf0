"""What the map's render would show where the map knows nothing, if floor, ceiling and walls just go on.

A generator that answers with the mean of what may be paints an unseen wall as a wash. The wall's plane is known
all the same, and most of what a camera sees next after turning is more of it. So every unknown pixel is given the
plane that it would meet first of those that bound the scene, and that plane's pattern (`slam.patterns`). It is a guess
for a decoder to take or leave, and never enters the map by itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.cameras import pixel_rays
from spatia_env.slam.patterns import continue_pattern
from spatia_env.slam.planes import THICKNESS, Plane, find_planes

LEAST_HOLES = 0.005
"""Share of a clip's pixels that must be unknown before anything is continued."""
LEAST_KNOWN = 0.02
FARTHEST = 10.0
"""Metres; what a plane shows beyond is too fine a pattern."""
NEAREST = 0.1
BEYOND, BEYOND_METRES = 0.03, 0.08
"""A plane bounds a scene if at most this share of what is known lies so far behind it."""
ABOVE_TOP = 0.1
"""Metres by which walls go on above the highest thing that is known: a hedge ends, and so may a wall."""
LEAST_SAMPLES, LEAST_PIXELS = 100, 20
"""Known and wanted pixels of a plane that is continued."""
SAMPLED = 128
"""About so many columns of the known pixels are read, however wide the picture."""
SAMPLED_POINTS = 4000
CONTINUED_PLANES = 4
"""Planes of `Continued.planes`."""
SCALE = 4.0
"""Metres at which nearness is a half."""


@dataclass(frozen=True)
class Continued:
    """What is continued in a clip.

    Attributes:
        rgb: Colours [T, 3, H, W] in [0, 1], 0 where nothing is continued.
        depth: z-depth [T, H, W] in metres, 0 where nothing is continued.
    """

    rgb: Tensor
    depth: Tensor

    def planes(self) -> Tensor:
        """For a decoder: colours in [-1, 1] and nearness in (0, 1], all 0 where nothing is continued [4, T, H, W]."""
        on = (self.depth > 0).float()
        colour = (2 * self.rgb - 1) * on[:, None]
        return torch.cat([colour.transpose(0, 1), (on * SCALE / (SCALE + self.depth))[None]])


def continue_surfaces(rgb: Tensor, depth: Tensor, known: Tensor, c2w: Tensor, K: Tensor) -> Continued:
    """Continue what a clip's render shows into what it does not.

    Args:
        rgb: Render [T, 3, H, W] in [0, 1].
        depth: Its z-depth [T, H, W] in metres.
        known: Its coverage, bool [T, H, W].
        c2w: Poses [T, 4, 4], world +Z up.
        K: Intrinsics [3, 3] in pixels.
    """
    out = Continued(torch.zeros_like(rgb), torch.zeros_like(depth))
    seen = known & (depth > 0)
    holes = ~seen
    if float(holes.float().mean()) < LEAST_HOLES or float(seen.float().mean()) < LEAST_KNOWN:
        return out
    points, colours = _samples(rgb, depth, seen, c2w, K)
    planes = bounding(find_planes(points), points, c2w[:, :3, 3].mean(0).double().numpy())
    if not planes:
        return out
    frame, row, column = (index.numpy() for index in holes.nonzero(as_tuple=True))
    rays = pixel_rays(K, *known.shape[-2:]).numpy()[row, column]
    rays = np.einsum("nij,nj->ni", c2w[:, :3, :3].numpy()[frame], rays)
    origins = c2w[:, :3, 3].numpy()[frame]
    top = float(np.quantile(points[:, 2], 0.995)) + ABOVE_TOP
    met, which = first_met(planes, origins, rays, top)
    for number, plane in enumerate(planes):
        on = np.abs(points @ plane.normal.astype(np.float32) - plane.offset) < THICKNESS
        (mine,) = np.nonzero(which == number)
        if on.sum() < LEAST_SAMPLES or len(mine) < LEAST_PIXELS:
            continue
        axes = _axes(plane)
        wanted = (origins[mine] + met[mine, None] * rays[mine]) @ axes
        found = continue_pattern(points[on] @ axes, colours[on], wanted)
        at = (frame[mine], row[mine], column[mine])
        out.rgb.permute(0, 2, 3, 1)[at] = torch.from_numpy(found).clamp(0, 1)
        out.depth[at] = torch.from_numpy(met[mine])
    return out


def bounding(planes: list[Plane], points: np.ndarray, eye: np.ndarray) -> list[Plane]:
    """Those of some planes behind which, as seen from `eye` [3], nearly nothing of `points` [N, 3] lies."""
    points = points[:: max(1, len(points) // SAMPLED_POINTS)]

    def behind(plane: Plane) -> float:
        side = np.sign(plane.offset - eye @ plane.normal)
        return float(((points @ plane.normal - plane.offset) * side > BEYOND_METRES).mean())

    return [plane for plane in planes if behind(plane) <= BEYOND]


def first_met(
    planes: list[Plane], origins: np.ndarray, rays: np.ndarray, top: float
) -> tuple[np.ndarray, np.ndarray]:
    """z-depth [N] at which rays [N, 3] (camera z = 1) from `origins` [N, 3] first meet a plane, and its number.

    Inf and -1 where they meet none within `FARTHEST`; walls end at the height `top`.
    """
    met = np.full(len(rays), np.inf, dtype=np.float32)
    which = np.full(len(rays), -1)
    for number, plane in enumerate(planes):
        normal = plane.normal.astype(np.float32)
        along = rays @ normal
        z = (np.float32(plane.offset) - origins @ normal) / np.where(np.abs(along) < 1e-6, 1e-6, along)
        nearer = (z > NEAREST) & (z < FARTHEST) & (z < met)
        if plane.upright:
            nearer &= origins[:, 2] + z * rays[:, 2] <= top
        met[nearer], which[nearer] = z[nearer], number
    return met, which


def _samples(
    rgb: Tensor, depth: Tensor, seen: Tensor, c2w: Tensor, K: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] and colours [N, 3] that the first, the middle and the last frame know."""
    step = max(1, round(depth.shape[-1] / SAMPLED))
    rays = pixel_rays(K, *depth.shape[-2:])[::step, ::step]
    points, colours = [], []
    for frame in sorted({0, len(rgb) // 2, len(rgb) - 1}):
        where = seen[frame, ::step, ::step]
        local = rays[where] * depth[frame, ::step, ::step][where][:, None]
        points.append(local @ c2w[frame, :3, :3].T + c2w[frame, :3, 3])
        colours.append(rgb[frame, :, ::step, ::step].movedim(0, -1)[where])
    return torch.cat(points).numpy(), torch.cat(colours).numpy()


def _axes(plane: Plane) -> np.ndarray:
    """Two directions [3, 2] in a plane: east and north, or along the wall and up."""
    if plane.upright:
        return np.array([[-plane.normal[1], 0], [plane.normal[0], 0], [0, 1]], dtype=np.float32)
    return np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32)
