"""Planes of a scene: level ones and upright ones, found in points by voting.

Rooms and streets are made of them, and a plane that is known in one place is known wherever it goes on. Gravity
is known, so a level plane is one number (its height) and an upright one two (its heading and its offset).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEAST_SHARE = 0.03
"""A plane must hold this share of the points."""
LEAST_POINTS = 150
MOST_PLANES = 5
"""Of either kind."""
THICKNESS = 0.025
"""Metres within which a point lies on a plane."""
POINTS = 6000
"""About so many points vote."""
HEADINGS = 60
"""Headings of upright planes that are tried: every 3 degrees."""
LEAST_EXTENT = 0.5
"""Metres that a plane must reach in both of its directions."""


@dataclass(frozen=True)
class Plane:
    """All x with normal . x = offset; `normal` [3] has length 1."""

    normal: np.ndarray
    offset: float

    @property
    def upright(self) -> bool:
        """Whether it is a wall rather than a floor."""
        return abs(float(self.normal[2])) < 0.5


def find_planes(points: np.ndarray) -> list[Plane]:
    """The level and upright planes that hold most of `points` [n, 3] (world, +Z up), largest of each kind first."""
    points = points[:: max(1, len(points) // POINTS)].astype(np.float64)
    least = max(LEAST_POINTS * min(1.0, len(points) / POINTS), LEAST_SHARE * len(points), 20)
    level, rest = _level_planes(points, least)
    return level + _upright_planes(rest, least)


def _level_planes(points: np.ndarray, least: float) -> tuple[list[Plane], np.ndarray]:
    found: list[Plane] = []
    up = np.array([0.0, 0.0, 1.0])
    for _ in range(MOST_PLANES):
        if len(points) < least:
            break
        height = _peak(points[:, 2])
        on = np.abs(points[:, 2] - height) < THICKNESS
        height = float(points[on, 2].mean()) if on.any() else height
        on = np.abs(points[:, 2] - height) < THICKNESS
        if on.sum() < 2 * least or np.ptp(points[on, :2], axis=0).max() < LEAST_EXTENT:
            break
        found.append(Plane(up, height))
        points = points[np.abs(points[:, 2] - height) >= 2 * THICKNESS]
    return found, points


def _upright_planes(points: np.ndarray, least: float) -> list[Plane]:
    found: list[Plane] = []
    angles = np.arange(HEADINGS) * np.pi / HEADINGS
    headings = np.stack([np.cos(angles), np.sin(angles)])
    for _ in range(MOST_PLANES):
        if len(points) < least:
            break
        offsets = points[:, :2] @ headings
        best, votes = (headings[:, 0], 0.0), 0
        for column in range(HEADINGS):
            offset, count = _peak_count(offsets[:, column])
            if count > votes:
                best, votes = (headings[:, column], offset), count
        heading, offset = best
        on = np.abs(points[:, :2] @ heading - offset) < 2 * THICKNESS
        for _ in range(3):
            if on.sum() < least:
                break
            middle = points[on, :2].mean(0)
            # The direction in which the plane's points spread least.
            heading = np.linalg.svd(points[on, :2] - middle, full_matrices=False)[2][1]
            offset = float(middle @ heading)
            on = np.abs(points[:, :2] @ heading - offset) < THICKNESS
        if on.sum() < least:
            break
        along = points[on, :2] @ np.array([-heading[1], heading[0]])
        if min(_extent(along), _extent(points[on, 2])) >= LEAST_EXTENT:
            found.append(Plane(np.array([*heading, 0.0]), offset))
        points = points[np.abs(points[:, :2] @ heading - offset) >= 2 * THICKNESS]
    return found


def _extent(values: np.ndarray) -> float:
    low, high = np.percentile(values, [5, 95])
    return float(high - low)


def _peak(values: np.ndarray) -> float:
    return _peak_count(values)[0]


def _peak_count(values: np.ndarray) -> tuple[float, int]:
    """Where values are densest within `THICKNESS`, and how many are there."""
    low = float(values.min())
    bins = np.floor((values - low) / THICKNESS).astype(np.int64)
    counts = np.bincount(bins, minlength=2)
    pairs = counts[:-1] + counts[1:]
    best = int(pairs.argmax())
    return low + (best + 1) * THICKNESS, int(pairs[best])


def plane_depth(normal: Tensor, offset: Tensor, rays: Tensor, origin: Tensor) -> Tensor:
    """z-depth [..., P] at which rays [..., 3] (world, camera z = 1) from `origin` [3] meet planes [P]; 0 = never.

    Args:
        normal: Normals [P, 3].
        offset: Offsets [P].
        rays: World directions whose camera z is 1.
        origin: The camera's place.
    """
    along = rays @ normal.T
    depth = (offset - normal @ origin) / torch.where(along.abs() < 1e-6, torch.full_like(along, 1e-6), along)
    return torch.where((depth > 0.1) & (depth < 20), depth, torch.zeros_like(depth))
