"""What the map's render would show where the map knows nothing, if floor, ceiling and walls just go on.

A generator that answers with the mean of what may be paints an unseen wall as a wash. The wall's plane is known
all the same, and most of what a camera sees next after turning is more of it. So every unknown pixel is given the
plane that it would meet first of those that bound the scene, and that plane's pattern. It is a guess
for a decoder to take or leave, and never enters the map by itself; where a clip shows it, its depth is that of the
surface (`follow_surfaces`).
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import pixel_rays
from spatia_env.slam.depth_network import Geometry
from spatia_env.slam.planes import THICKNESS, Plane, find_planes
from spatia_env.slam.texture_synthesis import continue_pattern

LEAST_HOLES = 0.005
"""Share of a clip's pixels that must be unknown before anything is continued."""
LEAST_KNOWN = 0.02
OUTDOORS, INDOORS = 8.0, 4.5
"""Metres up to which surfaces go on. A room is closed somewhere: on dev walks walls that went on for 8 m were 4.2 % off
the truth's depth on average, and for 4.5 m 3.0 %. Outdoors is where something is seen over a wall.
"""
NEAREST = 0.1
BEHIND, BEHIND_METRES = 0.03, 0.15
"""A plane bounds a scene if at most this share of what is known lies so far behind it, not counting what is seen over
a wall's top.
"""
ENDS = 0.05
"""Share of what is known that must be seen over a wall for it to end there."""
LAYER, SPARSE = 0.1, 0.1
"""Metres of height over which a wall's points are counted, and the share of the densest layer below which it ends."""
TALLEST = 2.0
"""Metres above the eye at which walls end that are not known to."""
PARALLEL, APART = 0.98, 0.2
"""Cosine and metres within which two planes are one."""
SKIN = 0.08
"""Metres from a plane within which its picture is taken: depth errs more than a plane's own measure."""
ALIKE, AROUND, FOLLOWING = 0.06, 5, 0.7
"""Largest difference of a channel at which a pixel looks as told, pixels along each side of a square around it, and the
share of what is told in there that must look so.
"""
CONFIDENCE = 0.9
"""Confidence of a depth on a surface that goes on."""
LEAST_BACKDROP = 0.02
"""Share of what is known that must be seen over walls (sky, hills) to go on around the camera."""
METRES_A_RADIAN = 3.0
"""The backdrop's pattern is looked for in angles, as if it hung so far away."""
LEAST_SAMPLES, LEAST_PIXELS = 100, 20
"""Known and wanted pixels of a plane that is continued."""
SAMPLED = 128
"""About so many columns of the known pixels are read, however wide the picture."""
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


@dataclass(frozen=True)
class Bound:
    """A plane that bounds a scene, and the height in metres at which it ends if it is a wall."""

    plane: Plane
    top: float = np.inf

    @property
    def normal(self) -> np.ndarray:
        """Of the plane, f32 [3]."""
        return self.plane.normal.astype(np.float32)


@dataclass(frozen=True)
class _Rays:
    """Rays through N pixels of a clip: indices of frame, row and column, `origins` [N, 3], `directions` [N, 3] with
    camera z = 1.
    """

    pixels: tuple[np.ndarray, np.ndarray, np.ndarray]
    origins: np.ndarray
    directions: np.ndarray

    @classmethod
    def through(cls, where: Tensor, c2w: Tensor, K: Tensor) -> "_Rays":
        frame, row, column = (index.numpy() for index in where.nonzero(as_tuple=True))
        local = pixel_rays(K, *where.shape[-2:]).numpy()[row, column]
        directions = np.einsum("nij,nj->ni", c2w[:, :3, :3].numpy()[frame], local)
        return cls((frame, row, column), c2w[:, :3, 3].numpy()[frame], directions)

    def only(self, chosen: np.ndarray) -> "_Rays":
        frame, row, column = self.pixels
        return _Rays(
            (frame[chosen], row[chosen], column[chosen]), self.origins[chosen], self.directions[chosen]
        )

    def show(
        self,
        out: Continued,
        z: np.ndarray,
        at: np.ndarray,
        rgb: np.ndarray,
        wanted: np.ndarray,
        upright: bool = False,
    ) -> None:
        """Write into `out` the depths `z` [N] and the pattern of samples `rgb` at places `at`, where it is `wanted`."""
        if len(at) >= LEAST_SAMPLES and len(wanted) >= LEAST_PIXELS:
            found = continue_pattern(at, rgb, wanted, upright)
            out.rgb.permute(0, 2, 3, 1)[self.pixels] = torch.from_numpy(found).clamp(0, 1)
            out.depth[self.pixels] = torch.from_numpy(z)


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
    eye = c2w[:, :3, 3].mean(0).numpy()
    bounds, backdrop = find_bounds(find_planes(points), points, eye)
    rays = _Rays.through(holes, c2w, K)
    open_air = backdrop.mean() >= LEAST_BACKDROP
    met, which = first_met(bounds, rays.origins, rays.directions, OUTDOORS if open_air else INDOORS)
    for number, bound in enumerate(bounds):
        on = np.abs(points @ bound.normal - np.float32(bound.plane.offset)) < SKIN
        mine = rays.only(which == number)
        z, axes = met[which == number], _axes(bound.plane)
        wanted = (mine.origins + z[:, None] * mine.directions) @ axes
        mine.show(out, z, points[on] @ axes, colours[on], wanted, bound.plane.upright)
    if open_air:
        mine, away = rays.only(which < 0), points[backdrop] - eye
        z = float(np.median(np.linalg.norm(away, axis=1))) / np.linalg.norm(mine.directions, axis=1)
        middle = away.mean(0)
        mine.show(out, z, _angles(away, middle), colours[backdrop], _angles(mine.directions, middle))
    return out


def follow_surfaces(geometry: Geometry, rgb: Tensor, continued: Continued) -> tuple[Geometry, Tensor]:
    """Put a clip's pixels that show what was continued onto the surface that it was continued from.

    Args:
        geometry: Estimates of the clip.
        rgb: Frames [T, 3, H, W] in [0, 1].
        continued: What their maker was told, along the same poses.

    Returns:
        The geometry, and which pixels [T, H, W] follow: at least `FOLLOWING` of those around them look as told.
    """
    told = continued.depth > 0
    still = told & (geometry.dynamic <= 0.5)
    alike = still & ((rgb - continued.rgb).abs().amax(1) < ALIKE)
    follows = still & (_share_around(alike) >= FOLLOWING * _share_around(told))
    depth = torch.where(follows, continued.depth, geometry.depth)
    confidence = torch.where(follows, geometry.confidence.clamp_min(CONFIDENCE), geometry.confidence)
    return dataclasses.replace(geometry, depth=depth, confidence=confidence), follows


def _share_around(mask: Tensor) -> Tensor:
    """Share [T, H, W] of the pixels in a square around each that are in a mask [T, H, W]."""
    return F.avg_pool2d(mask.float()[:, None], AROUND, 1, AROUND // 2, count_include_pad=False)[:, 0]


def find_bounds(planes: list[Plane], points: np.ndarray, eye: np.ndarray) -> tuple[list[Bound], np.ndarray]:
    """Those of some planes behind which, as seen from `eye` [3], nearly nothing of `points` [N, 3] lies.

    Returns:
        The bounds, and which points [N] are seen over the top of one: the backdrop.
    """
    bounds: list[Bound] = []
    backdrop = np.zeros(len(points), dtype=bool)
    for plane in planes:
        if any(_same(plane, bound.plane) for bound in bounds):
            continue
        normal = plane.normal.astype(np.float32)
        ahead = points @ normal - np.float32(eye @ normal)
        distance = np.float32(plane.offset - eye @ normal)
        side = np.sign(distance)
        behind = (ahead - distance) * side > BEHIND_METRES
        top, over = np.inf, np.zeros_like(behind)
        if plane.upright:
            end = _end(points[np.abs(ahead - distance) < THICKNESS, 2])
            crossing = eye[2] + (points[:, 2] - eye[2]) * distance / np.where(behind, ahead, 1)
            over = behind & (crossing > end - THICKNESS)
            top = end if over.mean() > ENDS else float(eye[2]) + TALLEST
        if (behind & ~over).mean() <= BEHIND:
            bounds.append(Bound(plane, top))
            backdrop |= over
    return bounds, backdrop


def _same(plane: Plane, larger: Plane) -> bool:
    """Whether a plane is a larger one over again: depth that errs makes two of a wall."""
    cosine = float(plane.normal @ larger.normal)
    return abs(cosine) > PARALLEL and abs(np.sign(cosine) * plane.offset - larger.offset) < APART


def _end(heights: np.ndarray) -> float:
    """Where the heights [N] of a wall's points become sparse, going up from where they are densest.

    The highest may be another thing's: a dome crosses the wall's plane farther up.
    """
    if not len(heights):
        return np.inf
    low = float(heights.min())
    counts = np.bincount(((heights - low) / LAYER).astype(np.int64))
    (sparse,) = np.nonzero(counts[counts.argmax() :] < SPARSE * counts.max())
    layers = counts.argmax() + sparse[0] if len(sparse) else len(counts)
    return low + LAYER * float(layers)


def first_met(
    bounds: list[Bound], origins: np.ndarray, rays: np.ndarray, farthest: float = OUTDOORS
) -> tuple[np.ndarray, np.ndarray]:
    """z-depth [N] at which rays [N, 3] (camera z = 1) from `origins` [N, 3] first meet a bound, and its number.

    Inf and -1 where they meet none within `farthest` metres.
    """
    met = np.full(len(rays), np.inf, dtype=np.float32)
    which = np.full(len(rays), -1)
    for number, bound in enumerate(bounds):
        along = rays @ bound.normal
        z = (np.float32(bound.plane.offset) - origins @ bound.normal) / np.where(
            np.abs(along) < 1e-6, 1e-6, along
        )
        nearer = (z > NEAREST) & (z < farthest) & (z < met)
        nearer &= origins[:, 2] + np.where(nearer, z, 0) * rays[:, 2] <= bound.top
        met[nearer], which[nearer] = z[nearer], number
    return met, which


def _angles(directions: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Azimuth from `middle` [3] and height of directions [N, 3], as places [N, 2] of a pattern."""
    turn = np.arctan2(directions[:, 1], directions[:, 0]) - np.arctan2(middle[1], middle[0])
    azimuth = (turn + np.pi) % (2 * np.pi) - np.pi
    height = np.arctan2(directions[:, 2], np.linalg.norm(directions[:, :2], axis=1))
    return (METRES_A_RADIAN * np.stack([azimuth, height], axis=-1)).astype(np.float32)


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
