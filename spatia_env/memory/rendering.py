"""Render a coloured point cloud along a camera path by z-buffered, anti-aliased splatting.

Two passes over the points. The first finds the nearest surface of each pixel; the second averages the
colours of all points on that surface, weighted by their distance to the pixel centre and by how finely they
were seen. A point that was seen by the same camera lands exactly on its pixel, so the identity view is
returned unchanged. Plain torch (`scatter_reduce`, `index_add`), the same on CPU and CUDA. This module does
not know how the points are stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spatia_env.cameras import project

NEAR = 0.05
"""Metres; nearer points are not drawn."""
MAX_RADIUS_PX = 4.0
"""A point seen from much closer than it was recorded grows to at most this many pixels."""
COVER = 0.7
"""Half-width of the occluding footprint in units of the point spacing; above 0.5 so that a rotated grid
of points, as neighbouring views leave it, still has no gaps."""
MARGIN = 6
"""Pixels around each image on the internal canvas; more than any footprint reaches beyond the frame."""
MIN_WEIGHT = 0.2
"""A pixel is `known` when the tent weights of its points sum to at least this."""


@dataclass(frozen=True)
class Render:
    """What the map looks like along a path: `rgb` [V,3,H,W] in [0,1], `depth` [V,H,W] m, `known` [V,H,W]."""

    rgb: Tensor
    depth: Tensor
    known: Tensor

    def __getitem__(self, views: slice) -> "Render":
        return Render(self.rgb[views], self.depth[views], self.known[views])


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
    canvas = _Canvas(w2c.shape[0], height, width)
    splats = _visible_splats(points, radius, w2c, K, canvas)
    zbuffer = _zbuffer(splats, canvas)
    return _resolve(_accumulate(splats, zbuffer, rgb, weight, canvas), zbuffer, canvas)


def surface_tolerance(z: Tensor) -> Tensor:
    """Metres behind the nearest point that still count as the same surface (slanted floors need it)."""
    return 0.02 + 0.03 * z


@dataclass(frozen=True)
class _Splats:
    """Points inside the views, one row per (view, point), on a canvas with a margin so that no write leaves it."""

    point: Tensor  # index of the point
    corner: Tensor  # canvas index of the pixel whose centre lies up and left of the splat
    right: Tensor  # distance in pixels to that centre, in [0, 1)
    down: Tensor
    z: Tensor
    size: Tensor  # spacing in pixels, at least 1

    def __getitem__(self, index: Tensor | slice) -> "_Splats":
        return _Splats(*(getattr(self, name)[index] for name in _Splats.__annotations__))


@dataclass(frozen=True)
class _Canvas:
    """The views' pixels in one row, each image with a margin of `MARGIN` pixels."""

    views: int
    height: int
    width: int

    @property
    def stride(self) -> int:
        return self.width + 2 * MARGIN

    @property
    def pixels(self) -> int:
        return self.views * (self.height + 2 * MARGIN) * self.stride

    def crop(self, values: Tensor) -> Tensor:
        """[pixels, ...] -> [V, H, W, ...] without the margin."""
        images = values.unflatten(0, (self.views, self.height + 2 * MARGIN, self.stride))
        return images[:, MARGIN : MARGIN + self.height, MARGIN : MARGIN + self.width]


def _visible_splats(points: Tensor, radius: Tensor, w2c: Tensor, K: Tensor, canvas: _Canvas) -> _Splats:
    uv, z = project(points, w2c, K)
    u, v = uv.unbind(-1)
    inside = (z > NEAR) & (u > -1) & (u < canvas.width + 1) & (v > -1) & (v < canvas.height + 1)
    flat = inside.view(-1).nonzero().squeeze(-1)
    view = flat // len(points)
    point = flat - view * len(points)
    u, v, z = u.reshape(-1)[flat] - 0.5, v.reshape(-1)[flat] - 0.5, z.reshape(-1)[flat]
    left, top = u.floor(), v.floor()
    row = view * (canvas.height + 2 * MARGIN) + top.long() + MARGIN
    corner = row * canvas.stride + left.long() + MARGIN
    size = (radius[point] * K[0, 0] / z).clamp(1.0, MAX_RADIUS_PX)
    return _Splats(point, corner, u - left, v - top, z, size)


def _groups(size: Tensor, reach: float) -> list[tuple[int, Tensor | slice]]:
    """Splats by the half-width in pixels of the square they can touch: [(half, which)]."""
    if not len(size):
        return []
    half = torch.ceil(size * reach - 1e-4).clamp_min(1)
    largest = int(half.max())
    if largest == 1:
        return [(1, slice(None))]
    groups = [(k, (half == k).nonzero().squeeze(-1)) for k in range(1, largest + 1)]
    return [(k, which) for k, which in groups if len(which)]


def _neighbours(splats: _Splats, half: int, canvas: _Canvas) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each pixel offset of the footprint: canvas indices, and distances to the pixel centre in x and y."""
    for dv in range(1 - half, half + 1):
        down = (splats.down - dv).abs()
        for du in range(1 - half, half + 1):
            yield splats.corner + (dv * canvas.stride + du), (splats.right - du).abs(), down


def _zbuffer(splats: _Splats, canvas: _Canvas) -> Tensor:
    """Depth of the nearest footprint over each canvas pixel, infinite where there is none."""
    zbuffer = splats.z.new_full((canvas.pixels,), torch.inf)
    for half, which in _groups(splats.size, COVER):
        group = splats[which]
        reach = group.size * COVER
        for pixel, dx, dy in _neighbours(group, half, canvas):
            z = torch.where(torch.maximum(dx, dy) <= reach, group.z, torch.inf)
            zbuffer.scatter_reduce_(0, pixel, z, "amin")
    return zbuffer


def _accumulate(
    splats: _Splats, zbuffer: Tensor, rgb: Tensor, weight: Tensor | None, canvas: _Canvas
) -> Tensor:
    """Sums [pixels, 6] over each pixel's surface: weighted colour and z, their weights, the tent weights."""
    total = zbuffer.new_zeros(canvas.pixels, 6)
    limit = zbuffer + surface_tolerance(zbuffer)
    # A small splat behind the surface of all four pixels around it cannot show; most hidden points end here.
    around = [limit[splats.corner + offset] for offset in (0, 1, canvas.stride, canvas.stride + 1)]
    farthest = torch.where(torch.isfinite(torch.stack(around)), torch.stack(around), 0).amax(0)
    splats = splats[((splats.z <= farthest) | (splats.size > 1)).nonzero().squeeze(-1)]
    quality = torch.ones_like(splats.z) if weight is None else weight[splats.point]
    values = torch.cat([rgb[splats.point], torch.stack([splats.z, torch.ones_like(splats.z)], 1)], 1)
    values = torch.cat([values * quality[:, None], torch.ones_like(quality)[:, None]], 1)
    for half, which in _groups(splats.size, 1.0):
        group, rows = splats[which], values[which]
        for pixel, dx, dy in _neighbours(group, half, canvas):
            tent = (1 - dx / group.size).clamp_min(0) * (1 - dy / group.size).clamp_min(0)
            keep = ((tent > 0) & (group.z <= limit[pixel])).nonzero().squeeze(-1)
            total.index_add_(0, pixel[keep], rows[keep] * tent[keep, None])
    return total


def _resolve(total: Tensor, zbuffer: Tensor, canvas: _Canvas) -> Render:
    total, zbuffer = canvas.crop(total), canvas.crop(zbuffer)
    known = (total[..., 5] >= MIN_WEIGHT) & torch.isfinite(zbuffer)
    scale = torch.where(known, 1 / total[..., 4].clamp_min(1e-12), torch.zeros_like(zbuffer))
    rgb = (total[..., :3] * scale[..., None]).permute(0, 3, 1, 2)
    return close_pinholes(Render(rgb.contiguous(), total[..., 3] * scale, known))


def close_pinholes(render: Render, neighbours: int = 6) -> Render:
    """Fill pixels with at least `neighbours` of 8 known neighbours by their mean (grid gaps, not real holes)."""
    known = render.known.to(render.depth.dtype)[:, None]
    stack = torch.cat([render.rgb, render.depth[:, None]], dim=1) * known
    # Sums over the 3x3 window as average pooling: cheaper than a convolution for five channels.
    count = torch.nn.functional.avg_pool2d(known, 3, 1, 1) * 9
    mean = torch.nn.functional.avg_pool2d(stack, 3, 1, 1) * 9 / count.clamp_min(1)
    fill = ~render.known & (count[:, 0] >= neighbours - 0.5)
    rgb = torch.where(fill[:, None], mean[:, :3], render.rgb)
    depth = torch.where(fill, mean[:, 3], render.depth)
    return Render(rgb, depth, render.known | fill)


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
    views = w2c.shape[0]
    weight = torch.ones(len(points)) if weight is None else weight
    out_rgb = torch.zeros(views, 3, height, width)
    out_depth = torch.zeros(views, height, width)
    out_known = torch.zeros(views, height, width, dtype=torch.bool)
    for view in range(views):
        splats = []
        for i, point in enumerate(points):
            x, y, z = (w2c[view, :3, :3] @ point + w2c[view, :3, 3]).tolist()
            if z <= NEAR:
                continue
            u, v = float(K[0, 0]) * x / z + float(K[0, 2]), float(K[1, 1]) * y / z + float(K[1, 2])
            size = min(max(float(radius[i] * K[0, 0]) / z, 1.0), MAX_RADIUS_PX)
            if -1 < u < width + 1 and -1 < v < height + 1:
                splats.append((u, v, z, size, i))
        zbuffer = torch.full((height, width), torch.inf)
        for row in range(height):
            for column in range(width):
                for u, v, z, size, _ in splats:
                    if max(abs(column + 0.5 - u), abs(row + 0.5 - v)) <= COVER * size:
                        zbuffer[row, column] = min(float(zbuffer[row, column]), z)
        for row in range(height):
            for column in range(width):
                surface = float(zbuffer[row, column])
                total, quality, tents = torch.zeros(4), 0.0, 0.0
                for u, v, z, size, i in splats:
                    tent = max(0.0, 1 - abs(column + 0.5 - u) / size) * max(
                        0.0, 1 - abs(row + 0.5 - v) / size
                    )
                    if tent <= 0 or z > surface + 0.02 + 0.03 * surface:
                        continue
                    total += tent * float(weight[i]) * torch.cat([rgb[i], torch.tensor([z])])
                    quality, tents = quality + tent * float(weight[i]), tents + tent
                if tents >= MIN_WEIGHT and surface < torch.inf:
                    out_rgb[view, :, row, column] = total[:3] / quality
                    out_depth[view, row, column] = total[3] / quality
                    out_known[view, row, column] = True
    return close_pinholes(Render(out_rgb, out_depth, out_known))
