"""The release's point renderer: discs of a fixed share of the image, the five nearest blended front to back.

A disc of radius r weighs a pixel at distance d with 1 - d^2 / r^2; the weights are opacities, composited over
black. `rendering` holds the environment's own splat. This one is for the official weights, which were
trained on such pictures; the release's projection has the sign of the principal point's offset flipped and
divides by s - 1 instead of s, which `projection="release"` reproduces.
"""

import math
from typing import Literal

import torch
from torch import Tensor

RADIUS_NDC = 0.01
"""radius of a disc as a share of half the image's shorter side (3.5 pixels at 704)"""
POINTS_PER_PIXEL = 5
_FRAGMENTS = 16_000_000
"""disc-pixel pairs handled at once; bounds the memory to about 0.5 GB"""

Projection = Literal["opencv", "release"]


def render_discs(
    points: Tensor,
    colors: Tensor,
    w2c: Tensor,
    K: Tensor,
    height: int,
    width: int,
    radius: float = RADIUS_NDC,
    points_per_pixel: int = POINTS_PER_PIXEL,
    projection: Projection = "opencv",
) -> tuple[Tensor, Tensor]:
    """Colours [V, 3, H, W] and coverage (accumulated opacity) [V, H, W], both in [0, 1].

    Args:
        points: [N, 3] metres.
        colors: [N, 3] in [0, 1].
        w2c: [V, 4, 4].
        K: [3, 3] in pixels.
        height: Of the image, pixels.
        width: Of the image, pixels.
        radius: Of the discs, as a share of half the shorter side.
        points_per_pixel: How many of the nearest discs a pixel blends.
        projection: "opencv", or "release" for the official release's own.
    """
    features = torch.cat([colors, torch.ones_like(colors[:, :1])], dim=1).float()
    radius_px = radius * min(height, width) / 2
    views = []
    for pose in w2c:
        u, v, z = _project(points.float(), pose.float(), K.float(), height, width, projection)
        near = (
            (z > 0) & (u > -radius_px) & (u < width + radius_px) & (v > -radius_px) & (v < height + radius_px)
        )
        order = near.nonzero().squeeze(1)
        order = order[torch.argsort(z[order], stable=True)]
        views.append(
            _composite(u[order], v[order], features[order], height, width, radius_px, points_per_pixel)
        )
    image = torch.stack(views).clamp(0, 1)
    return image[:, :3], image[:, 3]


def voxel_means(points: Tensor, colors: Tensor, voxel: float) -> tuple[Tensor, Tensor]:
    """Points and colours [n, 3], one mean for each cube of side `voxel` metres that holds any."""
    if len(points) == 0:
        return points, colors
    origin = points.min(dim=0).values - voxel / 2
    cells = ((points - origin) / voxel).floor().long()
    _, owner, counts = torch.unique(cells, dim=0, return_inverse=True, return_counts=True)
    both = torch.cat([points, colors], dim=1).double()
    means = both.new_zeros(len(counts), 6).index_add_(0, owner, both) / counts[:, None]
    return means[:, :3].to(points.dtype), means[:, 3:].to(colors.dtype)


def _project(
    points: Tensor, pose: Tensor, K: Tensor, height: int, width: int, projection: Projection
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel coordinates u, v [N] (pixel i centred at i + 0.5) and z-depth [N]."""
    camera = points @ pose[:3, :3].T + pose[:3, 3]
    z = camera[:, 2]
    x, y = camera[:, 0] / z, camera[:, 1] / z
    if projection == "opencv":
        return K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2], z
    side = min(height, width)
    stretch = side / (side - 1)
    u = width / 2 + stretch * (K[0, 0] * x - (K[0, 2] - (width - 1) / 2))
    v = height / 2 + stretch * (K[1, 1] * y - (K[1, 2] - (height - 1) / 2))
    return u, v, z


def _composite(
    u: Tensor, v: Tensor, features: Tensor, height: int, width: int, radius: float, count: int
) -> Tensor:
    """Blend discs, given nearest first, into [C, H, W]."""
    reach = math.ceil(radius + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=u.device)
    step = max(1, _FRAGMENTS // len(offsets) ** 2)
    image = torch.zeros(height * width, features.shape[1], device=u.device)
    transmitted = torch.ones(height * width, device=u.device)
    used = torch.zeros(height * width, dtype=torch.long, device=u.device)
    for start in range(0, len(u), step):  # near to far, so a later part only adds behind an earlier one
        part = slice(start, start + step)
        pixel, weight, owner = _fragments(u[part], v[part], offsets, height, width, radius)
        rank = used[pixel] + _rank_in_pixel(pixel)
        used += torch.bincount(pixel, minlength=height * width)
        for place in range(count):
            chosen = rank == place
            where, opacity = pixel[chosen], weight[chosen]
            image[where] += (transmitted[where] * opacity)[:, None] * features[part][owner[chosen]]
            transmitted[where] *= 1 - opacity
    return image.T.unflatten(1, (height, width))


def _fragments(
    u: Tensor, v: Tensor, offsets: Tensor, height: int, width: int, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(pixel, weight, disc) of every pixel centre inside a disc, sorted by pixel, nearest disc first."""
    column = u.floor().long()[:, None, None] + offsets[None, None, :]
    line = v.floor().long()[:, None, None] + offsets[None, :, None]
    distance = (column + 0.5 - u[:, None, None]) ** 2 + (line + 0.5 - v[:, None, None]) ** 2
    inside = (distance <= radius**2) & (column >= 0) & (column < width) & (line >= 0) & (line < height)
    owner = inside.nonzero()[:, 0]
    pixel = (line * width + column)[inside]
    weight = (1 - distance / radius**2)[inside]
    pixel, order = torch.sort(pixel, stable=True)
    return pixel, weight[order], owner[order]


def _rank_in_pixel(pixel: Tensor) -> Tensor:
    """Place of each entry among the entries of its pixel, for sorted pixels."""
    place = torch.arange(len(pixel), device=pixel.device)
    first = torch.ones_like(pixel, dtype=torch.bool)
    first[1:] = pixel[1:] != pixel[:-1]
    return place - torch.cummax(torch.where(first, place, 0), dim=0).values
