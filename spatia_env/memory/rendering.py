"""Render a coloured point cloud along a camera path by z-buffered, anti-aliased splatting.

Two passes over the points. The first finds the nearest surface of each pixel; the second averages the
colours of all points on that surface, weighted by their distance to the pixel centre and by how finely they
were seen. A point that was seen by the same camera lands exactly on its pixel, so the identity view is
returned unchanged. Then `holes` closes what is left open between the points of a surface.

Plain torch, the same on CPU and CUDA. A view and some points at a time, so that they stay in the cache, and one
plane a channel, since scattering single numbers is several times faster than scattering rows. This module does not
know how the points are stored; `render_rows` takes them as blocks hold them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from torch import Tensor

from spatia_env.cameras import invert_se3
from spatia_env.memory.holes import (
    REACH,
    Render,
    _close_holes_reference,
    close_holes,
    surface_tolerance,
    where,
)

__all__ = ["Render", "render_points", "render_rows", "surface_tolerance"]

NEAR = 0.05
"""Metres; nearer points are not drawn."""
MAX_RADIUS_PX = 4.0
"""A point seen from much closer than it was recorded grows to at most this many pixels."""
COVER = 0.7
"""Half-width of the occluding footprint in units of the point spacing; above 0.5 so that a rotated grid
of points, as neighbouring views leave it, still has no gaps."""
PIXEL_SIZED = 1.25
"""Points of less spacing than this many pixels are blended as if it were one: their tents still overlap."""
MIN_WEIGHT = 0.2
"""A pixel is `known` when the tent weights of its points sum to at least this."""
PAD = REACH
"""Pixels around the picture that are rendered too, so that holes at its border can be closed."""
MARGIN = PAD + 6
"""Pixels around the picture on the canvas: no footprint of a point within `PAD` reaches beyond."""
PIECES = (1 << 17, 1 << 15)
"""Points handled at once: what the cache holds; with threads, which share out the views, as many as torch works on
without threads of its own. The result does not depend on it."""
TOGETHER = 1 << 17
"""Views are drawn together as long as they have so many points to look at: small arrays cost calls, large ones the
cache. The result does not depend on it."""
MIN_RADIUS = 1e-3
"""Metres: finer spacings do not make a point count for more."""
_OUTSIDE = 1e15  # times a distance in pixels beyond a footprint: a depth that is no depth any more
_NO_DEPTH = 1e7


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
    return _render(_Cloud(points.T.contiguous(), radius, _values(rgb, quality)), w2c, K, height, width)


def render_rows(rows: np.ndarray, c2w: Tensor, K: Tensor, height: int, width: int) -> Render:
    """Render points as blocks hold them (`blocks.POINT`) from cameras `c2w` [V, 4, 4].

    Finer samples dominate: a wall seen from one metre is sharper than the same wall from five.
    """
    device = K.device
    position = torch.from_numpy(np.ascontiguousarray(rows["position"].T)).to(device)
    colour = torch.from_numpy(np.ascontiguousarray(rows["colour"])).to(device).float() / 255
    radius = torch.from_numpy(rows["radius"].astype(np.float32)).to(device)
    weight = (0.01 / radius.clamp_min(MIN_RADIUS)) ** 2
    cloud = _Cloud(position, radius, _values(colour, weight))
    return _render(cloud, invert_se3(c2w), K, height, width)


def _values(rgb: Tensor, quality: Tensor) -> Tensor:
    """What is summed over a pixel, a row [6] for each point: quality times r, g, b and z (0 as yet), quality, 1."""
    values = rgb.new_ones(len(rgb), 6)
    values[:, :3] = rgb * quality[:, None]
    values[:, 3] = 0
    values[:, 4] = quality
    return values


@dataclass(frozen=True)
class _Cloud:
    """Points: `xyz` [3, N], `radius` [N], and `values` [N, 6] as `_values` makes them."""

    xyz: Tensor
    radius: Tensor
    values: Tensor

    def pieces(self, largest: int) -> "list[_Cloud]":
        """Parts of about equal size."""
        count = max(len(self.radius), 1)
        size = math.ceil(count / math.ceil(count / largest))
        parts = (self.xyz.split(size, 1), self.radius.split(size), self.values.split(size))
        return [_Cloud(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _Splats:
    """Points inside a view."""

    point: Tensor  # index of the point
    corner: Tensor  # canvas index (i32) of the pixel whose centre lies up and left of the splat
    right: Tensor  # distance in pixels to that centre, in [0, 1)
    down: Tensor
    z: Tensor
    size: Tensor  # spacing in pixels, at least 1

    def __getitem__(self, index: Tensor) -> "_Splats":
        return _Splats(*(getattr(self, name).index_select(0, index) for name in _Splats.__annotations__))

    @staticmethod
    def join(parts: "Sequence[_Splats]") -> "_Splats":
        """All of them in one, in their order."""
        if len(parts) == 1:
            return parts[0]
        return _Splats(*(torch.cat([getattr(p, name) for p in parts]) for name in _Splats.__annotations__))


@dataclass(frozen=True)
class _Canvas:
    """The pixels of views in one row, each view with a margin of `MARGIN` pixels."""

    height: int
    width: int

    @property
    def stride(self) -> int:
        return self.width + 2 * MARGIN

    @property
    def pixels(self) -> int:
        return (self.height + 2 * MARGIN) * self.stride

    def crop(self, values: Tensor) -> Tensor:
        """[..., views * pixels] -> [..., views, H + 2 PAD, W + 2 PAD]."""
        cut = MARGIN - PAD
        images = values.unflatten(-1, (-1, self.height + 2 * MARGIN, self.stride))
        return images[..., cut:-cut, cut:-cut]


def _render(cloud: _Cloud, w2c: Tensor, K: Tensor, height: int, width: int) -> Render:
    canvas = _Canvas(height, width)
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
                    seen = _visible_splats(piece, pose, K, canvas, number)
                    value = piece.values.index_select(0, seen.point)
                    value[:, 3] = seen.z * value[:, 4]
                    splats.append(seen)
                    values.append(value)
            zbuffer = _zbuffer(splats, len(poses), canvas)
            # All pieces together: so the order of additions does not depend on them.
            sums = _accumulate(_Splats.join(splats), torch.cat(values), zbuffer, canvas)
            out[:, :6] = canvas.crop(sums.T).transpose(0, 1)
            out[:, 6] = canvas.crop(zbuffer)

    if workers > 1:
        # Made anew each time, which costs 0.1 ms: a pool that is kept would not survive a fork of the process.
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(views, planes.split(together), w2c.split(together)))
    else:
        for out, poses in zip(planes.split(together), w2c.split(together), strict=True):
            views(out, poses)
    return close_holes(_resolve(planes)).cropped(PAD)


def _visible_splats(cloud: _Cloud, w2c: Tensor, K: Tensor, canvas: _Canvas, number: int) -> _Splats:
    """The points that a camera `w2c` [4, 4] has in sight, on view `number` of the canvas."""
    x, y, z = (sum(p * r for p, r in zip(cloud.xyz, row, strict=False)) + row[3] for row in w2c[:3].tolist())
    focal, nearness = float(K[0, 0]), z.clamp_min(1e-6).reciprocal()
    # Coordinates in which the centre of pixel i is at i.
    u = x.mul_(nearness).mul_(focal).add_(float(K[0, 2]) - 0.5)
    v = y.mul_(nearness).mul_(float(K[1, 1])).add_(float(K[1, 2]) - 0.5)
    inside = (u - (canvas.width - 1) / 2).abs_() < canvas.width / 2 + PAD + 1
    inside &= (v - (canvas.height - 1) / 2).abs_() < canvas.height / 2 + PAD + 1
    inside &= z > NEAR
    point = where(inside)
    u, v, z, near, radius = (values.index_select(0, point) for values in (u, v, z, nearness, cloud.radius))
    left, top = u.floor(), v.floor()
    begin = number * canvas.pixels + MARGIN * canvas.stride + MARGIN
    corner = top.int() * canvas.stride + left.int() + begin
    return _Splats(point, corner, u - left, v - top, z, (radius * near * focal).clamp(1.0, MAX_RADIUS_PX))


def _groups(reach: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Indices of splats by the width in pixels of the square of pixel centres within `reach`: (width, indices)."""
    if not len(reach):
        return
    width = torch.ceil(2 * reach - 1e-4).clamp_min(2)
    narrowest, widest = int(width.min()), int(width.max())
    for k in range(narrowest, widest + 1):
        which = where(width == k)
        if len(which):
            yield k, which


def _footprint(corner: Tensor, splats: _Splats, width: int, canvas: _Canvas) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [width^2, n] of a square around each splat, and distances [width, n] to its rows and columns.

    An even number of pixels lies around the splat, an odd one around the pixel nearest to it.
    """
    steps = torch.arange(1 - width // 2, 1 + (width + 1) // 2, dtype=corner.dtype, device=corner.device)
    down, right = splats.down, splats.right
    if width % 2:
        steps = steps - 1
        below, beside = down.round(), right.round()
        down, right = down - below, right - beside
        corner = corner + (below * canvas.stride + beside).to(corner.dtype)
    pixel = corner + (steps[:, None] * canvas.stride + steps).view(-1, 1)
    return pixel, (down - steps[:, None]).abs_(), (right - steps[:, None]).abs_()


def _zbuffer(splats: list[_Splats], views: int, canvas: _Canvas) -> Tensor:
    """Depth of the nearest footprint over each canvas pixel of all views, infinite where there is none."""
    zbuffer = splats[0].z.new_full((views * canvas.pixels,), torch.inf)
    groups = ((width, piece[which]) for piece in splats for width, which in _groups(piece.size * COVER))
    for width, group in groups:
        pixel, down, right = _footprint(group.corner.long(), group, width, canvas)
        reach = group.size * COVER
        # Outside of the footprint the "depth" is enormous: cheaper than to select.
        lowest = torch.maximum(group.z, down.sub_(reach).mul_(_OUTSIDE))
        nearest = torch.maximum(lowest[:, None], right.sub_(reach).mul_(_OUTSIDE))
        zbuffer.scatter_reduce_(0, pixel.view(-1), nearest.view(-1), "amin")
    return zbuffer.masked_fill_(zbuffer > _NO_DEPTH, torch.inf)


def _accumulate(splats: _Splats, values: Tensor, zbuffer: Tensor, canvas: _Canvas) -> Tensor:
    """Sums [pixels, 6] of `values` [n, 6] over each pixel's surface, by the splats' tents."""
    limit = zbuffer + surface_tolerance(zbuffer)
    limit.masked_fill_(torch.isinf(limit), 0.0)
    entries = []
    for width, which in _groups(splats.size * (splats.size >= PIXEL_SIZED)):
        reach = (width + 1) // 2
        corner = splats.corner.index_select(0, which) - (reach - 1) * (canvas.stride + 1)
        z = splats.z.index_select(0, which)
        # Most splats lie on the surface in all of their pixels, or in none; the others are looked at pixel by pixel.
        clear = z <= _windows(limit, 2 * reach, canvas, torch.minimum).index_select(0, corner)
        shows = z <= _windows(limit, 2 * reach, canvas, torch.maximum).index_select(0, corner)
        for part, test in ((clear, None), (shows & ~clear, limit)):
            chosen = which.index_select(0, where(part))
            if len(chosen):
                entries.append(_entries(splats, chosen, width, test, canvas))
    total = zbuffer.new_zeros(len(zbuffer), values.shape[1])
    if not entries:
        return total
    pixel, splat, weight = (torch.cat(parts) for parts in zip(*entries, strict=True))
    return _add_products(total, pixel, splat, weight, values)


def _windows(limit: Tensor, size: int, canvas: _Canvas, least: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The least (or greatest) of `limit` in the square of `size` pixels that begins at each pixel."""
    for step in (1, canvas.stride):
        covered = 1
        while covered < size:
            shift = min(covered, size - covered)
            limit = least(limit[: -shift * step], limit[shift * step :])
            covered += shift
    return limit


def _entries(
    splats: _Splats, which: Tensor, width: int, limit: Tensor | None, canvas: _Canvas
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel, splat and weight of all places in the footprints of splats of one width."""
    group = splats[which]
    size = group.size if width > 2 else 1.0
    pixel, down, right = _footprint(group.corner, group, width, canvas)
    tall, wide = ((1 - away.div_(size)).clamp_min_(0) for away in (down, right))
    weight = (tall[:, None] * wide).view(pixel.shape)
    if limit is not None:
        weight *= group.z <= limit.index_select(0, pixel.view(-1)).view(pixel.shape)
    return pixel.view(-1), which.to(pixel.dtype).expand_as(pixel).reshape(-1), weight.view(-1)


def _add_products(total: Tensor, row: Tensor, column: Tensor, weight: Tensor, values: Tensor) -> Tensor:
    """`total` [P, C] plus, for each entry, its `weight` times `values` [n, C] of its `column`, into its `row`."""
    if total.device.type != "cpu":
        return total.index_add_(0, row, values.index_select(0, column) * weight[:, None])
    # One pass over the entries in C, in their order, without the interpreter's lock.
    shape = (len(total), len(values))
    matrix = coo_matrix((weight.numpy(), (row.numpy(), column.numpy())), shape=shape, copy=False)
    return total.add_(torch.from_numpy(matrix @ values.numpy()))


def _resolve(planes: Tensor) -> Render:
    """Means of the sums and the z-buffer, [V, 7, H, W]."""
    quality, tents, zbuffer = planes[:, 4], planes[:, 5], planes[:, 6]
    known = (tents >= MIN_WEIGHT) & torch.isfinite(zbuffer)
    scale = known / quality.clamp_min(1e-12)
    return Render(planes[:, :3] * scale[:, None], planes[:, 3] * scale, known)


def _render_points_reference(
    points: Tensor,
    rgb: Tensor,
    radius: Tensor,
    w2c: Tensor,
    K: Tensor,
    height: int,
    width: int,
    weight: Tensor | None = None,
) -> Render:
    """The same maths as `render_points`, one pixel and one point at a time: the oracle of the tests."""
    views, rows, columns = w2c.shape[0], range(-PAD, height + PAD), range(-PAD, width + PAD)
    weight = torch.ones(len(points)) if weight is None else weight
    out = torch.zeros(views, 4, len(rows), len(columns))
    known = torch.zeros(views, len(rows), len(columns), dtype=torch.bool)
    for view in range(views):
        splats = []
        for i, point in enumerate(points):
            x, y, z = (w2c[view, :3, :3] @ point + w2c[view, :3, 3]).tolist()
            if z <= NEAR:
                continue
            u, v = float(K[0, 0]) * x / z + float(K[0, 2]), float(K[1, 1]) * y / z + float(K[1, 2])
            size = min(max(float(radius[i] * K[0, 0]) / z, 1.0), MAX_RADIUS_PX)
            if -1 - PAD < u < width + 1 + PAD and -1 - PAD < v < height + 1 + PAD:
                splats.append((u, v, z, size, i))
        for row in rows:
            for column in columns:
                away = [(abs(column + 0.5 - u), abs(row + 0.5 - v)) for u, v, _, _, _ in splats]
                covers = [
                    z
                    for (dx, dy), (_, _, z, size, _) in zip(away, splats, strict=True)
                    if max(dx, dy) <= COVER * size
                ]
                if not covers:
                    continue
                surface = min(covers)
                total, quality, tents = torch.zeros(4), 0.0, 0.0
                for (dx, dy), (_, _, z, size, i) in zip(away, splats, strict=True):
                    width_px = size if size >= PIXEL_SIZED else 1.0
                    tent = max(0.0, 1 - dx / width_px) * max(0.0, 1 - dy / width_px)
                    if tent <= 0 or z > surface + 0.02 + 0.03 * surface:
                        continue
                    total += tent * float(weight[i]) * torch.cat([rgb[i], torch.tensor([z])])
                    quality, tents = quality + tent * float(weight[i]), tents + tent
                if tents >= MIN_WEIGHT:
                    out[view, :, row + PAD, column + PAD] = total / quality
                    known[view, row + PAD, column + PAD] = True
    return _close_holes_reference(Render(out[:, :3], out[:, 3], known)).cropped(PAD)
