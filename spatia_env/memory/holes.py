"""Close the gaps that a splatted surface has between its points, and nothing else.

Points of a floor that was seen at a grazing angle lie farther apart along the view than across it, so a camera
that comes nearer sees dots of nothing between them. Such a gap is narrow, and the surface goes on beyond it at
nearly the same depth. Around things that stand before something else the gap is wide or its two sides differ in
depth: it shows what nobody has seen, and stays open.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

REACH = 2
"""Gaps of up to this many pixels are closed."""
LINES = 3
"""Of the four lines through a pixel (row, column, diagonals) as many must run on over the gap."""
ENCLOSED = 6
"""A pixel with as many known neighbours of 8 is closed whatever their depth: a dot, not something unseen."""
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True)
class Render:
    """What the map looks like along a path: `rgb` [V,3,H,W] in [0,1], `depth` [V,H,W] m, `known` [V,H,W]."""

    rgb: Tensor
    depth: Tensor
    known: Tensor

    def __getitem__(self, views: slice) -> "Render":
        return Render(self.rgb[views], self.depth[views], self.known[views])

    def cropped(self, margin: int) -> "Render":
        """The pictures without `margin` pixels on each side."""
        inner = slice(margin, -margin or None)
        return Render(*(x[..., inner, inner].contiguous() for x in (self.rgb, self.depth, self.known)))


def surface_tolerance(z: Tensor) -> Tensor:
    """Metres behind the nearest point that still count as the same surface (slanted floors need it)."""
    return 0.02 + 0.03 * z


def where(mask: Tensor) -> Tensor:
    """Indices of what is true in `mask` [n]; on a CPU NumPy's search is several times as fast as torch's."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(-1)


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
    count = known.to(
        torch.uint8
    )  # at most 25; sums of slices, as pooling and unfolding cost several times as much
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


def _close_holes_reference(render: Render) -> Render:
    """The same as `close_holes`, one pixel at a time: the oracle of the tests."""
    rgb, depth, known = render.rgb.clone(), render.depth.clone(), render.known.clone()
    views, height, width = known.shape
    for view in range(views):
        values = torch.cat([render.rgb[view], render.depth[view][None]])
        for row in range(REACH, height - REACH):
            for column in range(REACH, width - REACH):
                if render.known[view, row, column]:
                    continue
                found, neighbours = [], []
                for down, right in _DIRECTIONS:
                    ends = []
                    for sign in (1, -1):
                        for distance in range(1, REACH + 1):
                            r, c = row + sign * distance * down, column + sign * distance * right
                            if render.known[view, r, c]:
                                ends.append((values[:, r, c], distance))
                                if distance == 1:
                                    neighbours.append(values[:, r, c])
                                break
                    if len(ends) == 2:
                        (a, m), (b, n) = ends
                        if m + n <= REACH + 1 and abs(a[3] - b[3]) < 2 * surface_tolerance(min(a[3], b[3])):
                            found.append((a * n + b * m) / (m + n))
                if len(found) >= LINES or len(neighbours) >= ENCLOSED:
                    value = torch.stack(found if len(found) >= LINES else neighbours).mean(0)
                    rgb[view, :, row, column], depth[view, row, column] = value[:3], value[3]
                    known[view, row, column] = True
    return Render(rgb, depth, known)
