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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.cameras import invert_se3
from spatia_env.memory.holes import REACH, Render, _close_holes_reference, close_holes, surface_tolerance

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
MIN_RADIUS = 1e-3
"""Metres: finer spacings do not make a point count for more."""
_OUTSIDE = 1e15  # times a distance in pixels beyond a footprint: a depth that is no depth any more
_NO_DEPTH = 1e7
_HIDDEN = 0.3  # hidden points are sorted out before the second pass where their share is at least this


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
    values = torch.cat([rgb.T * quality, quality[None]])
    return _render(_Cloud(points.T.contiguous(), radius, values), w2c, K, height, width)


def render_rows(rows: np.ndarray, c2w: Tensor, K: Tensor, height: int, width: int) -> Render:
    """Render points as blocks hold them (`blocks.POINT`) from cameras `c2w` [V, 4, 4].

    Finer samples dominate: a wall seen from one metre is sharper than the same wall from five.
    """
    device = K.device
    position = torch.from_numpy(np.ascontiguousarray(rows["position"].T)).to(device)
    colour = torch.from_numpy(np.ascontiguousarray(rows["colour"].T)).to(device).float() / 255
    radius = torch.from_numpy(rows["radius"].astype(np.float32)).to(device)
    weight = (0.01 / radius.clamp_min(MIN_RADIUS)) ** 2
    cloud = _Cloud(position, radius, torch.cat([colour * weight, weight[None]]))
    return _render(cloud, invert_se3(c2w), K, height, width)


@dataclass(frozen=True)
class _Cloud:
    """Points as planes: `xyz` [3, N], `radius` [N], and `values` [4, N]: quality times r, g, b, and quality."""

    xyz: Tensor
    radius: Tensor
    values: Tensor

    def pieces(self, largest: int) -> "list[_Cloud]":
        """Parts of about equal size."""
        count = max(len(self.radius), 1)
        size = math.ceil(count / math.ceil(count / largest))
        parts = (self.xyz.split(size, 1), self.radius.split(size), self.values.split(size, 1))
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


@dataclass(frozen=True)
class _Canvas:
    """A view's pixels in one row, with a margin of `MARGIN` pixels."""

    height: int
    width: int

    @property
    def stride(self) -> int:
        return self.width + 2 * MARGIN

    @property
    def pixels(self) -> int:
        return (self.height + 2 * MARGIN) * self.stride

    def crop(self, values: Tensor) -> Tensor:
        """[..., pixels] -> [..., H + 2 PAD, W + 2 PAD]."""
        images, cut = values.unflatten(-1, (-1, self.stride)), MARGIN - PAD
        return images[..., cut:-cut, cut:-cut]


def _render(cloud: _Cloud, w2c: Tensor, K: Tensor, height: int, width: int) -> Render:
    canvas = _Canvas(height, width)
    workers = min(torch.get_num_threads(), len(w2c)) if w2c.device.type == "cpu" else 1
    pieces = cloud.pieces(PIECES[workers > 1])
    planes = cloud.xyz.new_empty(len(w2c), 7, height + 2 * PAD, width + 2 * PAD)

    inference = torch.is_inference_mode_enabled()

    def view(out: Tensor, pose: Tensor) -> None:
        with torch.inference_mode(inference):  # a mode holds for its own thread only
            splats = [_visible_splats(piece, pose, K, canvas) for piece in pieces]
            zbuffer = _zbuffer(splats, canvas)
            out[:6] = canvas.crop(_accumulate(splats, zbuffer, [piece.values for piece in pieces], canvas))
            out[6] = canvas.crop(zbuffer)

    if workers > 1:
        # Made anew each time, which costs 0.1 ms: a pool that is kept would not survive a fork of the process.
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(view, planes, w2c))
    else:
        for out, pose in zip(planes, w2c, strict=True):
            view(out, pose)
    return close_holes(_resolve(planes)).cropped(PAD)


def _visible_splats(cloud: _Cloud, w2c: Tensor, K: Tensor, canvas: _Canvas) -> _Splats:
    x, y, z = (sum(p * r for p, r in zip(cloud.xyz, row, strict=False)) + row[3] for row in w2c[:3].tolist())
    focal, nearness = float(K[0, 0]), z.clamp_min(1e-6).reciprocal()
    # Coordinates in which the centre of pixel i is at i.
    u = x * nearness * focal + (float(K[0, 2]) - 0.5)
    v = y * nearness * float(K[1, 1]) + (float(K[1, 2]) - 0.5)
    inside = (u - (canvas.width - 1) / 2).abs() < canvas.width / 2 + PAD + 1
    inside &= (v - (canvas.height - 1) / 2).abs() < canvas.height / 2 + PAD + 1
    inside &= z > NEAR
    point = inside.nonzero().squeeze(-1)
    u, v, z, near, radius = (values.index_select(0, point) for values in (u, v, z, nearness, cloud.radius))
    left, top = u.floor(), v.floor()
    corner = top.int() * canvas.stride + left.int() + (MARGIN * canvas.stride + MARGIN)
    return _Splats(point, corner, u - left, v - top, z, (radius * near * focal).clamp(1.0, MAX_RADIUS_PX))


def _groups(splats: _Splats, reach: Tensor) -> Iterator[tuple[int, _Splats]]:
    """Splats by the width in pixels of the square of pixel centres within `reach`: (width, splats)."""
    if not len(reach):
        return
    width = torch.ceil(2 * reach - 1e-4).clamp_min(2)
    narrowest, widest = int(width.min()), int(width.max())
    if narrowest == widest:
        yield widest, splats
        return
    for k in range(narrowest, widest + 1):
        which = (width == k).nonzero().squeeze(-1)
        if len(which):
            yield k, splats[which]


def _steps(fraction: Tensor, width: int, stride: int) -> list[tuple[Tensor | int, Tensor]]:
    """Canvas steps to the pixels of a footprint along one axis, and the distances to their centres.

    An even number of pixels lies around the splat, an odd one around the pixel nearest to it.
    """
    if width % 2 == 0:
        return [(i * stride, (fraction - i).abs()) for i in range(1 - width // 2, width // 2 + 1)]
    nearest = fraction.round()
    place, middle = fraction - nearest, nearest.int() * stride
    return [(middle + i * stride, (place - i).abs()) for i in range(-(width // 2), width // 2 + 1)]


def _zbuffer(splats: list[_Splats], canvas: _Canvas) -> Tensor:
    """Depth of the nearest footprint over each canvas pixel, infinite where there is none."""
    zbuffer = splats[0].z.new_full((canvas.pixels,), torch.inf)
    groups = (group for piece in splats for group in _groups(piece, piece.size * COVER))
    for width, group in groups:
        reach, corner = group.size * COVER, group.corner.long()
        # Outside of the footprint the "depth" is enormous: cheaper than to select.
        columns = [(step, (dx - reach) * _OUTSIDE) for step, dx in _steps(group.right, width, 1)]
        for down, dy in _steps(group.down, width, canvas.stride):
            line, lowest = corner + down, torch.maximum(group.z, (dy - reach) * _OUTSIDE)
            for right, beyond in columns:
                zbuffer.scatter_reduce_(0, line + right, torch.maximum(lowest, beyond), "amin")
    return zbuffer.masked_fill_(zbuffer > _NO_DEPTH, torch.inf)


def _accumulate(splats: list[_Splats], zbuffer: Tensor, values: list[Tensor], canvas: _Canvas) -> Tensor:
    """Sums [6, pixels] over each pixel's surface: weighted colour and z, their weights, the tent weights."""
    total = zbuffer.new_zeros(6, canvas.pixels)
    limit = zbuffer + surface_tolerance(zbuffer)
    limit.masked_fill_(~torch.isfinite(limit), 0.0)
    groups: dict[int, list[_Tents]] = {}
    for piece, known in zip(splats, values, strict=True):
        shown = _sort_out_hidden(piece, limit, canvas)
        for width, group in _groups(shown, shown.size * (shown.size >= PIXEL_SIZED)):
            tents = _tents(group, known.index_select(1, group.point), width, canvas)
            groups.setdefault(width, []).append(tents)
    sums = total.unbind()
    # Offset by offset, then piece by piece: so the order of additions does not depend on the pieces.
    for width in sorted(groups):
        for row in range(width):
            for column in range(width):
                for tents in groups[width]:
                    _blend(sums, tents, limit, row, column)
    return total


@dataclass(frozen=True)
class _Tents:
    """Splats of one width: canvas steps and weights of their footprints' rows and columns, and what is summed."""

    corner: Tensor
    z: Tensor
    rows: list[tuple[Tensor | int, Tensor]]
    columns: list[tuple[Tensor | int, Tensor]]
    planes: tuple[Tensor, ...]


def _tents(group: _Splats, values: Tensor, width: int, canvas: _Canvas) -> _Tents:
    r, g, b, quality = values.unbind()
    size = 1.0 if width == 2 else group.size
    rows, columns = (
        [(step, (1 - away / size).clamp_min(0)) for step, away in _steps(fraction, width, stride)]
        for fraction, stride in ((group.down, canvas.stride), (group.right, 1))
    )
    return _Tents(group.corner, group.z, rows, columns, (r, g, b, group.z * quality, quality))


def _blend(sums: Sequence[Tensor], tents: _Tents, limit: Tensor, row: int, column: int) -> None:
    """Add splats to the sums of the pixels at one place of their footprints, if they lie on the surface there."""
    (down, tall), (right, wide) = tents.rows[row], tents.columns[column]
    pixel = tents.corner + down + right
    weight = wide * tall * (tents.z <= limit.index_select(0, pixel))
    pixel = pixel.long()
    for total, plane in zip(sums, tents.planes, strict=False):
        total.scatter_add_(0, pixel, plane * weight)
    sums[5].scatter_add_(0, pixel, weight)


def _sort_out_hidden(splats: _Splats, limit: Tensor, canvas: _Canvas) -> _Splats:
    """Splats without the small ones behind the surface of all four pixels around them, if they are many."""
    farthest = limit.index_select(0, splats.corner)
    for offset in (1, canvas.stride, canvas.stride + 1):
        farthest = torch.maximum(farthest, limit.index_select(0, splats.corner + offset))
    shows = (splats.z <= farthest) | (splats.size >= PIXEL_SIZED)
    if float(shows.float().mean()) > 1 - _HIDDEN:
        return splats
    return splats[shows.nonzero().squeeze(-1)]


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
