"""Panoramas around a place: RGB-D images over all directions of the horizon, and points made of them.

A panorama [H, W] is equirectangular and level. Row v has the elevation E - (v + 0.5) / H * 2 E, where E is 45 degrees
unless another `highest` elevation is given. Column u has the heading 180 - (u + 0.5) / W * 360 degrees,
counter-clockwise from the world's +X axis as seen from above: the middle looks along +X, columns to the right turn
to the right, and the last column meets the first. `distance` is metres along the ray (not z-depth), 0 = none.
Plain torch; this module does not know how the points are stored.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spatia_env.geometry import rigid
from spatia_env.memory.rendering import MIN_WEIGHT, Render, close_holes, render_points
from spatia_env.memory.splatting import (
    MARGIN,
    MAX_RADIUS_PX,
    NEAR,
    PAD,
    Canvas,
    Splats,
    accumulate,
    nearest_depths,
    where,
)

ELEVATION = math.radians(45)
"""Highest elevation of a panorama in radians, unless another is given; the lowest is its negative."""
ALL_AROUND = math.radians(90)
"""Highest elevation of a panorama that shows all directions."""
MOST_BETWEEN = 4
"""Neighbouring pixels of one surface are at most so many of their own footprints apart in points made of them."""
PLANE_TOLERANCE = 0.06
"""What differs from the height of a floor or ceiling by less than this share of the eye's distance to it lies on it."""
EVEN_STEP = 2.5
"""A surface goes on from pixel to pixel if its step in depth is at most so many times the step before or after."""


def panorama_rays(height: int, width: int, highest: float = ELEVATION) -> Tensor:
    """Unit directions [H, W, 3] in the world through the pixel centres of a panorama."""
    elevation = highest * (1 - (torch.arange(height) + 0.5) * (2 / height))
    heading = math.pi - (torch.arange(width) + 0.5) * (2 * math.pi / width)
    level = elevation.cos()[:, None]
    up = elevation.sin()[:, None].expand(height, width)
    return torch.stack([level * heading.cos(), level * heading.sin(), up], dim=-1)


def panorama_coordinates(
    directions: Tensor, height: int, width: int, highest: float = ELEVATION
) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (u, v) [...] of directions [..., 3] in the world; centres of pixels are at +0.5.

    u is in [0, W]; v lies outside of [0, H] for what is higher or lower than the panorama reaches.
    """
    x, y, z = directions.unbind(-1)
    u = (math.pi - torch.atan2(y, x)) * (width / (2 * math.pi))
    v = (1 - torch.atan2(z, torch.hypot(x, y)) / highest) * (height / 2)
    return u, v


# -- points to panorama -------------------------------------------------------------------------------------------


def render_panorama_points(
    points: Tensor,
    rgb: Tensor,
    radius: Tensor,
    eye: Tensor,
    height: int,
    width: int,
    weight: Tensor | None = None,
) -> Render:
    """The panorama [H, W] around `eye` [3] of points [N, 3] (world metres) with colours [N, 3] in [0, 1].

    The same splatting as `rendering.render_points`: nearest surface first, then the mean of the points on it, then
    the gaps between the points of a surface are closed.

    Args:
        points: World positions [N, 3].
        rgb: Colours [N, 3] in [0, 1].
        radius: Spacing [N] in metres of the samples a point stands for.
        eye: The place [3].
        height: Rows of the panorama, from +45 to -45 degrees.
        width: Columns of the panorama.
        weight: Optional blending weight [N].

    Returns:
        `Render` of one view, whose `depth` is the distance [1, H, W] along the ray; pixels that nothing reaches
        are black, with distance 0 and `known` false.
    """
    canvas = Canvas(height, width)
    splats = _panorama_splats(points - eye, radius, canvas)
    quality = torch.ones_like(radius) if weight is None else weight
    quality = quality.index_select(0, splats.point)[:, None]
    seen = torch.cat([rgb.index_select(0, splats.point), splats.z[:, None]], dim=1)
    values = torch.cat([seen * quality, quality, torch.ones_like(quality)], dim=1)
    nearest = nearest_depths([splats], 1, canvas)
    sums = canvas.crop(accumulate(splats, values, nearest, canvas).T)[:, 0]
    known = (sums[5] >= MIN_WEIGHT) & torch.isfinite(canvas.crop(nearest)[0])
    mean = sums[:4] * (known / sums[4].clamp_min(1e-12))
    return close_holes(Render(mean[None, :3], mean[None, 3], known[None])).cropped(PAD)


def _panorama_splats(offsets: Tensor, radius: Tensor, canvas: Canvas) -> Splats:
    """Points at `offsets` [N, 3] from the eye on the canvas; those near one end of the rows beyond the other too."""
    distance = offsets.norm(dim=-1)
    u, v = panorama_coordinates(offsets, canvas.height, canvas.width)
    # Coordinates in which the centre of pixel i is at i.
    u, v = u - 0.5, v - 0.5
    margin = PAD + 1
    inside = (v > -margin) & (v < canvas.height - 1 + margin) & (distance > NEAR)
    copies = []
    for shift in (-canvas.width, 0, canvas.width):
        moved = u + shift
        point = where(inside & (moved > -margin) & (moved < canvas.width - 1 + margin))
        copies.append((point, moved.index_select(0, point)))
    point = torch.cat([point for point, _ in copies])
    u = torch.cat([moved for _, moved in copies])
    v, z, radius = (values.index_select(0, point) for values in (v, distance, radius))
    left, top = u.floor(), v.floor()
    corner = (top.int() + MARGIN) * canvas.stride + left.int() + MARGIN
    pixels = canvas.width / (2 * math.pi)
    return Splats(point, corner, u - left, v - top, z, (radius / z * pixels).clamp(1.0, MAX_RADIUS_PX))


def render_sphere_points(
    points: Tensor,
    rgb: Tensor,
    radius: Tensor,
    eye: Tensor,
    height: int,
    width: int,
    weight: Tensor | None = None,
) -> Render:
    """All directions [1, 2 H, W] around `eye`, from +90 to -90 degrees: as `render_panorama_points` in the middle half.

    What is above and below comes from a view straight up and one straight down.
    """
    middle = render_panorama_points(points, rgb, radius, eye, height, width, weight)
    rays = panorama_rays(2 * height, width, ALL_AROUND)
    size = 2 * math.ceil(width / (2 * math.pi) * math.tan(ALL_AROUND - ELEVATION) * 1.05)
    focal = width / (2 * math.pi)
    K = rgb.new_tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    caps = []
    for forward, directions in ((1.0, rays[: height // 2]), (-1.0, rays[-(height // 2) :])):
        # A camera whose rows run along the world's X axis.
        rotation = torch.diag(rgb.new_tensor([1.0, forward, forward]))
        w2c = rigid(rotation, -rotation @ eye)[None]
        view = render_points(points, rgb, radius, w2c, K, size, size, weight)
        local = directions @ rotation.T
        column, row = ((local[..., i] / local[..., 2] * focal + size / 2).long() for i in (0, 1))
        known = view.known[0, row, column]
        caps.append((view.rgb[0][:, row, column], view.depth[0, row, column] / local[..., 2] * known, known))
    parts = zip(caps[0], (middle.rgb[0], middle.depth[0], middle.known[0]), caps[1], strict=True)
    return Render(*(torch.cat(part, dim=-2)[None] for part in parts))


# -- panorama to points -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PanoramaPoints:
    """Points of a panorama: `positions` [N, 3] (world metres), `rgb` [N, 3] in [0, 1], `radius` [N] in metres.

    `radius` is the spacing of the panorama's samples at the point's distance.
    """

    positions: Tensor
    rgb: Tensor
    radius: Tensor


def panorama_points(
    rgb: Tensor, distance: Tensor, eye: Tensor, mask: Tensor, highest: float = ELEVATION
) -> PanoramaPoints:
    """The points that pixels of a panorama stand for.

    Surfaces seen at a grazing angle get points between their pixels too, so that they do not fall apart into dots
    for a camera that comes nearer. Where pixels of a row crowd towards the zenith and the nadir, some are left out.

    Args:
        rgb: Colours [3, H, W] in [0, 1].
        distance: Metres along the ray [H, W], 0 = none.
        eye: Where the panorama was taken [3].
        mask: Pixels that become points, bool [H, W].
        highest: Elevation of the top edge in radians.
    """
    height, width = distance.shape
    rays = panorama_rays(height, width, highest)
    spacing = distance * (2 * math.pi / width)
    image = torch.cat([rgb, (eye + rays * distance[..., None]).movedim(-1, 0), spacing[None]])
    chosen = mask & (distance > 0) & _evenly_spread(height, width, highest)
    rows = [image[:, chosen].T]
    rows += _between(image, distance, chosen, torch.roll(chosen, -1, 1), 1, -1)
    down = torch.zeros_like(chosen)
    down[:-1] = chosen[1:]
    rows += _between(image, distance, chosen, down, 0, -1)
    colour, positions, radius = torch.cat(rows).split([3, 3, 1], dim=1)
    return PanoramaPoints(positions, colour, radius[:, 0])


def _evenly_spread(height: int, width: int, highest: float) -> Tensor:
    """Pixels [H, W] that are about as far apart along the rows as at the horizon, by powers of two."""
    elevation = highest * (1 - (torch.arange(height) + 0.5) * (2 / height))
    # Half-way between two powers counts as the lower one: rather too many points than gaps.
    stride = 2 ** torch.floor(torch.log2(1 / elevation.cos().clamp_min(1 / width))).long()
    return torch.arange(width)[None, :] % stride[:, None] == 0


def _between(
    image: Tensor, distance: Tensor, chosen: Tensor, neighbour: Tensor, dim: int, shift: int
) -> list[Tensor]:
    """Rows [n, 7] of points between each chosen pixel and its chosen `neighbour` on the same surface."""
    step = torch.roll(distance, shift, dim) - distance
    before, after = torch.roll(step, 1, dim).abs(), torch.roll(step, -1, dim).abs()
    even = step.abs() <= EVEN_STEP * torch.minimum(torch.maximum(before, after), distance / 4)
    other = torch.roll(image, shift, dim + 1)
    gap = (other[3:6] - image[3:6]).norm(dim=0)
    count = torch.ceil(gap / (1.2 * torch.minimum(image[6], other[6]).clamp_min(1e-6))).clamp(1, MOST_BETWEEN)
    count = torch.where(chosen & neighbour & even, count, 1)
    rows = []
    for pieces in range(2, MOST_BETWEEN + 1):
        here = count == pieces
        start, end = image[:, here].T, other[:, here].T
        rows += [torch.lerp(start, end, piece / pieces) for piece in range(1, pieces)]
    return rows


# -- above and below ----------------------------------------------------------------------------------------------


def extend_to_sphere(rgb: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """A panorama from +45 to -45 degrees continued to all directions.

    What meets the lower edge goes on: a floor as the level plane of most of what lies there, anything nearer straight
    down to this plane; above in the same way. Colours are mirrored at the edge, those of the plane from pixels that
    lie on it.

    Args:
        rgb: Colours [3, H, W] in [0, 1].
        distance: Metres along the ray [H, W], everywhere positive.

    Returns:
        rgb [3, 2 H, W] and distance [2 H, W]; rows from +90 to -90 degrees, the middle ones those given.
    """
    elevation = ALL_AROUND * (1 - (torch.arange(len(distance)) + 0.5) / len(distance))[: len(distance) // 2]
    top, top_distance = _cap(rgb, distance, elevation)
    bottom, bottom_distance = (x.flip(-2) for x in _cap(rgb.flip(-2), distance.flip(-2), elevation))
    return torch.cat([top, rgb, bottom], dim=1), torch.cat([top_distance, distance, bottom_distance])


def _cap(rgb: Tensor, distance: Tensor, elevation: Tensor) -> tuple[Tensor, Tensor]:
    """Rows at elevations [n] above the first row of a panorama: colours [3, n, W] and distances [n, W]."""
    height = len(distance)
    edge = ELEVATION * (1 - 1 / height)
    # The plane is as far up as most of the edge is: what is nearer stands before it.
    plane = torch.quantile(distance[0] * math.sin(edge), 0.75)
    wall = distance[0] * math.cos(edge) / elevation.cos()[:, None]
    far = torch.minimum(wall, (plane / elevation.sin())[:, None])
    # The mirror image on the plane of a place that is r away from the foot of the eye is 2 - r away, in heights.
    mirrored = torch.atan(1 / (2 - 1 / torch.tan(elevation)))
    colour, depth = _rows_at(
        torch.cat([rgb, distance[None]]), (1 - mirrored / ELEVATION) * (height / 2) - 0.5
    ).split([3, 1])
    on_plane = (depth[0] * mirrored.sin()[:, None] - plane).abs() < PLANE_TOLERANCE * plane
    # Not right at the foot of what stands on it, where colours are mixed.
    reach = distance.shape[1] // 96
    clear = torch.stack([on_plane.roll(shift, 1) for shift in range(-reach, reach + 1)]).all(0)
    column = torch.where(far < wall, _nearest_true(clear), torch.arange(distance.shape[1]))
    return colour.gather(2, column.expand_as(colour)), far


def _rows_at(image: Tensor, row: Tensor) -> Tensor:
    """Rows [C, n, W] of an image [C, H, W] at coordinates in which row i is at i."""
    row = row.clamp(0, image.shape[1] - 1)
    upper = row.floor().long().clamp_max(image.shape[1] - 2)
    return torch.lerp(image[:, upper], image[:, upper + 1], (row - upper)[:, None])


def _nearest_true(mask: Tensor) -> Tensor:
    """For each pixel of a mask [n, W] that goes around, the column of the nearest true one of its row, or its own."""
    width = mask.shape[1]
    column = torch.arange(-width, 2 * width).expand(len(mask), -1)
    around = torch.cat([mask, mask, mask], dim=1)
    none = 4 * width
    before = torch.where(around, column, -none).cummax(1).values[:, width : 2 * width]
    after = torch.where(around, column, none).flip(1).cummin(1).values.flip(1)[:, width : 2 * width]
    own = torch.arange(width)
    nearest = torch.where(own - before <= after - own, before, after)
    return torch.where(nearest.abs() < none, nearest, own) % width
