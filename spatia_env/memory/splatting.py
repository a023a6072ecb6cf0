"""Point splatting: footprints in pixels, z-buffer, and weighted sums over each pixel's nearest surface.

The parts of `rendering`. Plain torch, the same on CPU and CUDA; one plane for each channel, since scattering single
numbers is several times faster than scattering rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from torch import Tensor

NEAR = 0.05
"""Metres; nearer points are not drawn."""
MAX_RADIUS_PX = 4.0
"""A point seen from much closer than it was recorded grows to at most this many pixels."""
COVER = 0.7
"""Half-width of the occluding footprint in units of the point spacing; above 0.5 so that a rotated grid
of points, as neighbouring views leave it, still has no gaps."""
PIXEL_SIZED = 1.25
"""Points of less spacing than this many pixels are blended as if it were one: their tents still overlap."""
PAD = 2
"""Pixels around the picture that are rendered too, so that holes at its border can be closed."""
MARGIN = PAD + 6
"""Pixels around the picture on the canvas: no footprint of a point within `PAD` reaches beyond."""
_OUTSIDE = 1e15  # times a distance in pixels beyond a footprint: a depth that is no depth any more
_NO_DEPTH = 1e7


def surface_tolerance(z: Tensor) -> Tensor:
    """Metres behind the nearest point that still count as the same surface (slanted floors need it)."""
    return 0.02 + 0.03 * z


def where(mask: Tensor) -> Tensor:
    """Indices of what is true in `mask` [n]; on a CPU NumPy's search is several times as fast as torch's."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(-1)


@dataclass(frozen=True)
class Cloud:
    """Points: `xyz` [3, N], `radius` [N], and `values` [N, 6] as `_values` makes them."""

    xyz: Tensor
    radius: Tensor
    values: Tensor

    def pieces(self, largest: int) -> "list[Cloud]":
        """Parts of about equal size."""
        count = max(len(self.radius), 1)
        size = math.ceil(count / math.ceil(count / largest))
        parts = (self.xyz.split(size, 1), self.radius.split(size), self.values.split(size))
        return [Cloud(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Splats:
    """Points inside a view."""

    point: Tensor  # index of the point
    corner: Tensor  # canvas index (i32) of the pixel whose centre lies up and left of the splat
    right: Tensor  # distance in pixels to that centre, in [0, 1)
    down: Tensor
    z: Tensor
    size: Tensor  # spacing in pixels, at least 1

    def __getitem__(self, index: Tensor) -> "Splats":
        return Splats(*(getattr(self, name).index_select(0, index) for name in Splats.__annotations__))

    @staticmethod
    def join(parts: "Sequence[Splats]") -> "Splats":
        """All of them in one, in their order."""
        if len(parts) == 1:
            return parts[0]
        return Splats(*(torch.cat([getattr(p, name) for p in parts]) for name in Splats.__annotations__))


@dataclass(frozen=True)
class Canvas:
    """The pixels of views in one row, each view with a margin of `MARGIN` pixels."""

    height: int
    width: int

    @property
    def stride(self) -> int:
        """Pixels from a row to the next."""
        return self.width + 2 * MARGIN

    @property
    def pixels(self) -> int:
        """Pixels of a view with its margin."""
        return (self.height + 2 * MARGIN) * self.stride

    def crop(self, values: Tensor) -> Tensor:
        """[..., views * pixels] -> [..., views, H + 2 PAD, W + 2 PAD]."""
        cut = MARGIN - PAD
        images = values.unflatten(-1, (-1, self.height + 2 * MARGIN, self.stride))
        return images[..., cut:-cut, cut:-cut]


def visible_splats(cloud: Cloud, w2c: Tensor, K: Tensor, canvas: Canvas, number: int) -> Splats:
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
    return Splats(point, corner, u - left, v - top, z, (radius * near * focal).clamp(1.0, MAX_RADIUS_PX))


def by_width(reach: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Indices of splats by the width in pixels of the square of pixel centres within `reach`: (width, indices)."""
    if not len(reach):
        return
    width = torch.ceil(2 * reach - 1e-4).clamp_min(2)
    narrowest, widest = int(width.min()), int(width.max())
    for k in range(narrowest, widest + 1):
        which = where(width == k)
        if len(which):
            yield k, which


def footprint(corner: Tensor, splats: Splats, width: int, canvas: Canvas) -> tuple[Tensor, Tensor, Tensor]:
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


def nearest_depths(splats: list[Splats], views: int, canvas: Canvas) -> Tensor:
    """Depth of the nearest footprint over each canvas pixel of all views, infinite where there is none."""
    zbuffer = splats[0].z.new_full((views * canvas.pixels,), torch.inf)
    groups = ((width, piece[which]) for piece in splats for width, which in by_width(piece.size * COVER))
    for width, group in groups:
        pixel, down, right = footprint(group.corner.long(), group, width, canvas)
        reach = group.size * COVER
        # Outside of the footprint the "depth" is enormous: cheaper than to select.
        lowest = torch.maximum(group.z, down.sub_(reach).mul_(_OUTSIDE))
        nearest = torch.maximum(lowest[:, None], right.sub_(reach).mul_(_OUTSIDE))
        zbuffer.scatter_reduce_(0, pixel.view(-1), nearest.view(-1), "amin")
    return zbuffer.masked_fill_(zbuffer > _NO_DEPTH, torch.inf)


def accumulate(splats: Splats, values: Tensor, zbuffer: Tensor, canvas: Canvas) -> Tensor:
    """Sums [pixels, 6] of `values` [n, 6] over each pixel's surface, by the splats' tents."""
    limit = zbuffer + surface_tolerance(zbuffer)
    limit.masked_fill_(torch.isinf(limit), 0.0)
    entries = []
    for width, which in by_width(splats.size * (splats.size >= PIXEL_SIZED)):
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


def _windows(limit: Tensor, size: int, canvas: Canvas, least: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The least (or greatest) of `limit` in the square of `size` pixels that begins at each pixel."""
    for step in (1, canvas.stride):
        covered = 1
        while covered < size:
            shift = min(covered, size - covered)
            limit = least(limit[: -shift * step], limit[shift * step :])
            covered += shift
    return limit


def _entries(
    splats: Splats, which: Tensor, width: int, limit: Tensor | None, canvas: Canvas
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel, splat and weight of all places in the footprints of splats of one width."""
    group = splats[which]
    size = group.size if width > 2 else 1.0
    pixel, down, right = footprint(group.corner, group, width, canvas)
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
