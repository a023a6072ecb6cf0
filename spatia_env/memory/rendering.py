"""Render a coloured point cloud along a camera path by z-buffered, anti-aliased splatting, and read images at points.

Two passes over the points. The first finds the nearest surface of each pixel; the second averages the
colours of all points on that surface, weighted by their distance to the pixel centre and by how finely they
were seen. A point that was seen by the same camera lands exactly on its pixel, so the identity view is
returned unchanged. Then `close_holes` fills narrow gaps between the points of a surface: points of a floor seen at a
grazing angle lie farther apart along the view than across it. Wide gaps, and gaps whose two sides differ in depth,
show what was never observed and stay open.

Plain torch, the same on CPU and CUDA. A view and some points at a time, so that they stay in the cache. Points are
tensors (`render_points`) or rows of blocks (`render_rows`). `tests/rendering_oracle.py` has the same maths point by
point.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import invert_se3, project
from spatia_env.io.images import to_float
from spatia_env.memory.splatting import (
    PAD,
    Canvas,
    Cloud,
    Splats,
    accumulate,
    nearest_depths,
    surface_tolerance,
    visible_splats,
    where,
)

MIN_WEIGHT = 0.2
"""A pixel is `known` when the tent weights of its points sum to at least this."""
PIECES = (1 << 17, 1 << 15)
"""Points handled at once: what the cache holds; with threads, which share out the views, as many as torch works on
without threads of its own. The result does not depend on it."""
TOGETHER = 1 << 17
"""Views are drawn together as long as they have so many points to look at: small arrays cost calls, large ones the
cache. The result does not depend on it."""
MIN_RADIUS = 1e-3
"""Metres: finer spacings do not make a point count for more."""
REACH = PAD
"""Gaps of up to this many pixels are closed."""
LINES = 3
"""Of the four lines through a pixel (row, column, diagonals) as many must run on over the gap."""
ENCLOSED = 6
"""A pixel with as many known neighbours of 8 is closed whatever their depth."""
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True)
class Render:
    """What the map looks like along a path: `rgb` [V,3,H,W] in [0,1], `depth` [V,H,W] m, `known` [V,H,W]."""

    rgb: Tensor
    depth: Tensor
    known: Tensor

    def __getitem__(self, views: slice | list[int]) -> "Render":
        return Render(self.rgb[views], self.depth[views], self.known[views])

    def cropped(self, margin: int) -> "Render":
        """The pictures without `margin` pixels on each side."""
        inner = slice(margin, -margin or None)
        return Render(*(x[..., inner, inner].contiguous() for x in (self.rgb, self.depth, self.known)))


def pixels_at(
    points: Tensor, w2c: Tensor, K: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixels on which points [N, 3] fall in cameras `w2c` [V, 4, 4].

    Returns:
        Row and column i64 [V, N], clamped to the image; z-depth [V, N] in metres; and bool [V, N], whether the point
        is in front of the camera and inside the image.
    """
    uv, z = project(points, w2c, K)
    column, row = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return row.clamp(0, height - 1), column.clamp(0, width - 1), z, inside


def sample_at(points: Tensor, w2c: Tensor, K: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read `images` [V, H, W], one for each camera `w2c` [V, 4, 4], where points [N, 3] fall (nearest pixel).

    Returns:
        Values [V, N] (of the nearest border pixel for points outside), z-depth [V, N] in metres and `inside` [V, N],
        see `pixels_at`.
    """
    row, column, z, inside = pixels_at(points, w2c, K, *images.shape[-2:])
    view = torch.arange(len(images), device=images.device)[:, None]
    return images[view, row, column], z, inside


def pixels_of(
    position: np.ndarray, c2w: Tensor, K: Tensor, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`pixels_at` of NumPy positions [n, 3] in one view `c2w` [4, 4], in double precision: arrays [n]."""
    points = torch.from_numpy(np.ascontiguousarray(position, np.float64))
    found = pixels_at(points, invert_se3(c2w.double()[None]), K.double(), height, width)
    row, column, z, inside = (values[0].numpy() for values in found)
    return row, column, z, inside


def render_points(
    points: Tensor,
    rgb: Tensor,
    radius: Tensor,
    w2c: Tensor,
    K: Tensor,
    height: int,
    width: int,
    weight: Tensor | None = None,
) -> Render:
    """Render points [N, 3] (metres, world) with colours [N, 3] in [0, 1] from V cameras `w2c` [V, 4, 4].

    Args:
        points: World positions [N, 3].
        rgb: Colours [N, 3] in [0, 1].
        radius: Spacing [N] in metres of the samples a point stands for (pixel size where it was seen).
        w2c: World-to-camera transforms [V, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        height: Image height in pixels.
        width: Image width in pixels.
        weight: Optional blending weight [N]; finer and surer points should weigh more.

    Returns:
        `Render`; pixels that nothing reaches are black, with depth 0 and `known` false.
    """
    quality = torch.ones_like(radius) if weight is None else weight
    return _render(Cloud(points.T.contiguous(), radius, _values(rgb, quality)), w2c, K, height, width)


def render_rows(rows: np.ndarray, c2w: Tensor, K: Tensor, height: int, width: int) -> Render:
    """Render points as blocks hold them (`blocks.POINT`) from cameras `c2w` [V, 4, 4].

    Finer samples dominate: a wall seen from one metre is sharper than the same wall from five.
    """
    device = K.device
    position = torch.from_numpy(np.ascontiguousarray(rows["position"].T)).to(device)
    colour = to_float(torch.from_numpy(np.ascontiguousarray(rows["colour"])).to(device))
    radius = torch.from_numpy(rows["radius"].astype(np.float32)).to(device)
    weight = (0.01 / radius.clamp_min(MIN_RADIUS)) ** 2
    cloud = Cloud(position, radius, _values(colour, weight))
    return _render(cloud, invert_se3(c2w), K, height, width)


def _values(rgb: Tensor, quality: Tensor) -> Tensor:
    """What is summed over a pixel, a row [6] for each point: quality times r, g, b and z (0 as yet), quality, 1."""
    values = rgb.new_ones(len(rgb), 6)
    values[:, :3] = rgb * quality[:, None]
    values[:, 3] = 0
    values[:, 4] = quality
    return values


def _render(cloud: Cloud, w2c: Tensor, K: Tensor, height: int, width: int) -> Render:
    canvas = Canvas(height, width)
    workers = min(torch.get_num_threads(), len(w2c)) if w2c.device.type == "cpu" else 1
    pieces = cloud.pieces(PIECES[workers > 1])
    planes = cloud.xyz.new_empty(len(w2c), 7, height + 2 * PAD, width + 2 * PAD)
    together = max(1, min(math.ceil(len(w2c) / workers), TOGETHER // max(len(cloud.radius), 1)))
    inference = torch.is_inference_mode_enabled()

    def views(out: Tensor, poses: Tensor) -> None:
        with torch.inference_mode(inference):  # a mode holds for its own thread only
            splats, values = [], []
            for number, pose in enumerate(poses):
                for piece in pieces:
                    seen = visible_splats(piece, pose, K, canvas, number)
                    value = piece.values.index_select(0, seen.point)
                    value[:, 3] = seen.z * value[:, 4]
                    splats.append(seen)
                    values.append(value)
            nearest = nearest_depths(splats, len(poses), canvas)
            # All pieces together: so the order of additions does not depend on them.
            sums = accumulate(Splats.join(splats), torch.cat(values), nearest, canvas)
            out[:, :6] = canvas.crop(sums.T).transpose(0, 1)
            out[:, 6] = canvas.crop(nearest)

    if workers > 1:
        # Made anew each time, which costs 0.1 ms: a pool that is kept would not survive a fork of the process.
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(views, planes.split(together), w2c.split(together)))
    else:
        for out, poses in zip(planes.split(together), w2c.split(together), strict=True):
            views(out, poses)
    return close_holes(_resolve(planes)).cropped(PAD)


def _resolve(planes: Tensor) -> Render:
    """Means of the sums and the z-buffer, [V, 7, H, W]."""
    quality, tents, zbuffer = planes[:, 4], planes[:, 5], planes[:, 6]
    known = (tents >= MIN_WEIGHT) & torch.isfinite(zbuffer)
    scale = known / quality.clamp_min(1e-12)
    return Render(planes[:, :3] * scale[:, None], planes[:, 3] * scale, known)


def close_holes(render: Render) -> Render:
    """Fill narrow gaps in a surface by what lies on both sides of them.

    A pixel is filled from the lines through it on which at most `REACH` unknown pixels lie between known ones that
    differ in depth by less than twice `surface_tolerance`, if there are `LINES` such lines; or from its neighbours
    if at least `ENCLOSED` of them are known. Pixels within `REACH` of the border are left as they are.

    Args:
        render: Pictures [V, H, W] of any size.

    Returns:
        A new render; known pixels are the same.
    """
    at = _candidates(render.known)
    if not len(at):
        return render
    stride = render.known.shape[2]
    planes = torch.cat([render.rgb, render.depth[:, None]], 1).transpose(0, 1).flatten(1)
    known = render.known.flatten()
    total, lines = planes.new_zeros(4, len(at)), planes.new_zeros(len(at))
    for down, right in _DIRECTIONS:
        step = down * stride + right
        value, agrees = _across(planes, known, at, step)
        total += value * agrees
        lines += agrees
    around, count = _around(planes, known, at, stride)
    enough = lines >= LINES
    value = torch.where(enough, total / lines.clamp_min(1), around)
    chosen = where(enough | (count >= ENCLOSED))
    at, value = at[chosen], value[:, chosen]
    views, height, width = render.known.shape
    planes[:, at] = value
    filled = known.clone()
    filled[at] = True
    planes = planes.view(4, views, height, width)
    return Render(planes[:3].transpose(0, 1), planes[3], filled.view_as(render.known))


def _candidates(known: Tensor) -> Tensor:
    """Flat indices of unknown pixels, not at the border, with at least `LINES` known ones in the 5x5 around them."""
    inner = slice(REACH, -REACH)
    unknown = torch.zeros_like(known)
    unknown[:, inner, inner] = ~known[:, inner, inner]
    if not bool(unknown.any()):
        return unknown.new_zeros(0, dtype=torch.long)
    # At most 25. Sums of slices: pooling and unfolding cost several times as much.
    count = known.to(torch.uint8)
    for dim in (1, 2):
        length = count.shape[dim] - 2 * REACH
        count = reduce(torch.add, [count.narrow(dim, i, length) for i in range(2 * REACH + 1)])
    unknown[:, inner, inner] &= count >= LINES
    return where(unknown.flatten())


def _across(planes: Tensor, known: Tensor, at: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Colours and depth [4, n] between the known pixels next on a line, and whether (1 or 0) they belong together."""
    sides = []
    for sign in (1, -1):
        far = at.new_zeros(len(at))
        for distance in range(REACH, 0, -1):
            far = torch.where(known[at + sign * distance * step], distance, far)
        sides.append((planes[:, at + sign * far * step], far))
    (one, near), (other, far) = sides
    share = near / (near + far).clamp_min(1)
    depth = torch.minimum(one[3], other[3])
    agrees = (
        (near > 0)
        & (far > 0)
        & (near + far <= REACH + 1)
        & ((one[3] - other[3]).abs() < 2 * surface_tolerance(depth))
    )
    return torch.lerp(one, other, share), agrees.to(planes.dtype)


def _around(planes: Tensor, known: Tensor, at: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Mean [4, n] of the known ones of each pixel's eight neighbours, and how many they are."""
    total, count = planes.new_zeros(4, len(at)), planes.new_zeros(len(at))
    for down, right in _DIRECTIONS:
        for sign in (1, -1):
            there = at + sign * (down * stride + right)
            weight = known[there].to(planes.dtype)
            total += planes[:, there] * weight
            count += weight
    return total / count.clamp_min(1), count
