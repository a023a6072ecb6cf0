"""Render a coloured point cloud along a camera path by z-buffered, anti-aliased splatting.

Two passes over the points. The first finds the nearest surface of each pixel; the second averages the
colours of all points on that surface, weighted by their distance to the pixel centre and by how finely they
were seen. A point that was seen by the same camera lands exactly on its pixel, so the identity view is
returned unchanged. Plain torch (`scatter_reduce`, `index_add`), the same on CPU and CUDA. This module does
not know how the points are stored.
"""

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
    splats = _visible_splats(points, radius, w2c, K, height, width)
    pixels = w2c.shape[0] * height * width
    zbuffer = _zbuffer(splats, pixels, height, width)
    accumulated = _accumulate(splats, zbuffer, rgb, weight, pixels, height, width)
    return _resolve(accumulated, zbuffer, w2c.shape[0], height, width)


def surface_tolerance(z: Tensor) -> Tensor:
    """Metres behind the nearest point that still count as the same surface (slanted floors need it)."""
    return 0.02 + 0.03 * z


@dataclass(frozen=True)
class _Splats:
    """Points inside the views, one row per (view, point): which point, view, pixel position, depth, size."""

    point: Tensor
    view: Tensor
    u: Tensor
    v: Tensor
    z: Tensor
    size: Tensor


def _visible_splats(points: Tensor, radius: Tensor, w2c: Tensor, K: Tensor, height: int, width: int) -> _Splats:
    uv, z = project(points, w2c, K)
    u, v = uv.unbind(-1)
    inside = (z > NEAR) & (u > -1) & (u < width + 1) & (v > -1) & (v < height + 1)
    view, point = inside.nonzero(as_tuple=True)
    flat = view * points.shape[0] + point
    u, v, z = u.reshape(-1)[flat], v.reshape(-1)[flat], z.reshape(-1)[flat]
    size = (radius[point] * K[0, 0] / z).clamp(1.0, MAX_RADIUS_PX)
    return _Splats(point, view, u, v, z, size)


def _footprint_sizes(size: Tensor, reach: float) -> list[tuple[int, Tensor]]:
    """Group splats by the half-width in pixels of the square they can touch: [(half, indices)]."""
    half = torch.ceil(size * reach - 1e-4).to(torch.int64).clamp_min(1)
    groups = [(k, (half == k).nonzero().squeeze(-1)) for k in range(1, int(half.max()) + 1)] if len(half) else []
    return [(k, index) for k, index in groups if len(index)]


def _touched(splats: _Splats, index: Tensor, du: int, dv: int, height: int, width: int):
    """Pixel index of the neighbour (du, dv) of each splat, its distances in pixels, and if it is inside."""
    u, v = splats.u[index], splats.v[index]
    column = torch.floor(u - 0.5).to(torch.int64) + du
    row = torch.floor(v - 0.5).to(torch.int64) + dv
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = (splats.view[index] * height + row) * width + column
    return pixel, (column + 0.5 - u).abs(), (row + 0.5 - v).abs(), inside


def _zbuffer(splats: _Splats, pixels: int, height: int, width: int) -> Tensor:
    zbuffer = splats.z.new_full((pixels,), torch.inf)
    for half, index in _footprint_sizes(splats.size, COVER):
        reach = splats.size[index] * COVER
        for dv in range(1 - half, half + 1):
            for du in range(1 - half, half + 1):
                pixel, dx, dy, inside = _touched(splats, index, du, dv, height, width)
                keep = inside & (dx <= reach) & (dy <= reach)
                zbuffer.scatter_reduce_(0, pixel[keep], splats.z[index][keep], "amin")
    return zbuffer


def _accumulate(
    splats: _Splats, zbuffer: Tensor, rgb: Tensor, weight: Tensor | None, pixels: int, height: int, width: int
) -> Tensor:
    """Sums [pixels, 6] of tent-weighted (colour, z, quality weight, tent weight)."""
    total = zbuffer.new_zeros(pixels, 6)
    column = splats.u.long().clamp(0, width - 1)
    row = splats.v.long().clamp(0, height - 1)
    nearest = zbuffer[(splats.view * height + row) * width + column]
    front = (splats.z <= nearest + 2 * surface_tolerance(nearest)).nonzero().squeeze(-1)
    splats = _Splats(*(getattr(splats, name)[front] for name in ("point", "view", "u", "v", "z", "size")))
    quality = torch.ones_like(splats.z) if weight is None else weight[splats.point]
    values = torch.cat([rgb[splats.point], splats.z[:, None], torch.ones_like(splats.z)[:, None]], dim=1)
    for half, index in _footprint_sizes(splats.size, 1.0):
        z, size = splats.z[index], splats.size[index]
        for dv in range(1 - half, half + 1):
            for du in range(1 - half, half + 1):
                pixel, dx, dy, inside = _touched(splats, index, du, dv, height, width)
                tent = (1 - dx / size).clamp_min(0) * (1 - dy / size).clamp_min(0)
                surface = zbuffer[torch.where(inside, pixel, 0)]
                keep = (inside & (tent > 0) & (z <= surface + surface_tolerance(surface))).nonzero().squeeze(-1)
                chosen, tent = index[keep], tent[keep]
                rows = torch.cat(
                    [values[chosen] * (tent * quality[chosen])[:, None], tent[:, None]], dim=1
                )
                total.index_add_(0, pixel[keep], rows)
    return total


def _resolve(total: Tensor, zbuffer: Tensor, views: int, height: int, width: int) -> Render:
    known = (total[:, 5] >= MIN_WEIGHT) & torch.isfinite(zbuffer)
    scale = torch.where(known, 1 / total[:, 4].clamp_min(1e-12), torch.zeros_like(zbuffer))
    rgb = (total[:, :3] * scale[:, None]).view(views, height, width, 3).permute(0, 3, 1, 2)
    depth = (total[:, 3] * scale).view(views, height, width)
    known = known.view(views, height, width)
    return close_pinholes(Render(rgb.contiguous(), depth, known))


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
                    tent = max(0.0, 1 - abs(column + 0.5 - u) / size) * max(0.0, 1 - abs(row + 0.5 - v) / size)
                    own = float(zbuffer[min(max(int(v), 0), height - 1), min(max(int(u), 0), width - 1)])
                    hidden = z > own + 2 * (0.02 + 0.03 * own) or z > surface + 0.02 + 0.03 * surface
                    if tent <= 0 or hidden:
                        continue
                    total += tent * float(weight[i]) * torch.cat([rgb[i], torch.tensor([z])])
                    quality, tents = quality + tent * float(weight[i]), tents + tent
                if tents >= MIN_WEIGHT and surface < torch.inf:
                    out_rgb[view, :, row, column] = total[:3] / quality
                    out_depth[view, row, column] = total[3] / quality
                    out_known[view, row, column] = True
    return close_pinholes(Render(out_rgb, out_depth, out_known))
