"""What the geometry network looks at: planes of numbers per pixel, made of pictures, poses and the map's render.

Nothing here is learned. The point of these cues is that everything that is known exactly (poses, intrinsics,
gravity, the map) is applied exactly: neighbouring frames are warped into the current view by the depth at hand,
so that what stands still cancels and what moves remains.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import invert_se3, pixel_rays, unproject

PLANES = 23
"""Planes per pixel of `cues`."""
MEAN_LOG_DEPTH = math.log(3.0)
"""Log of the depth in metres that stands for "nothing known"."""
EYE_HEIGHT = 1.4
"""Metres of the camera above the ground where its height is not given."""
NEAREST, FARTHEST = 0.15, 30.0
"""Range in metres of depths that enter and leave the network."""


def cues(
    rgb: Tensor,
    c2w: Tensor,
    K: Tensor,
    map_rgb: Tensor,
    map_depth: Tensor,
    known: Tensor,
    ground: float | None = None,
    frames: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Input planes of some frames of a clip.

    Args:
        rgb: The clip [T, 3, H, W] in [0, 1].
        c2w: Camera poses [T, 4, 4], world +Z up.
        K: Intrinsics [3, 3] in pixels.
        map_rgb: The map's render [T, 3, H, W] in [0, 1].
        map_depth: Its z-depth [T, H, W] in metres.
        known: Its coverage, bool [T, H, W].
        ground: World z in metres of the ground the camera stands on, None where it is not known.
        frames: Indices [N] of the wanted frames, all by default.

    Returns:
        Planes [N, PLANES, H, W], and the base log depth [N, H, W]: the map's where known, a smooth
        continuation of it elsewhere, `MEAN_LOG_DEPTH` in a frame where nothing is known.
    """
    frames = torch.arange(len(rgb)) if frames is None else frames
    seen = known[frames] & (map_depth[frames] > 0)
    base = fill(map_depth[frames].clamp(NEAREST, FARTHEST).log(), seen)
    mask = seen.float()[:, None]
    difference = (rgb[frames] - map_rgb[frames]) * mask
    around = [_difference_to(rgb, c2w, K, base, frames, other) for other in neighbours(len(rgb), frames)]
    planes = [2 * rgb[frames] - 1, 2 * difference, mask, (base - MEAN_LOG_DEPTH)[:, None], *around]
    return torch.cat(
        [*planes, gravity_planes(c2w[frames], K, rgb.shape[-2], rgb.shape[-1], ground)], dim=1
    ), base


def neighbours(count: int, frames: Tensor) -> list[Tensor]:
    """Three other frames [N] for each of `frames` in a clip of `count`: one before, one after, one far away."""
    if count == 1:
        return [frames] * 3
    before = torch.where(frames > 0, frames - 1, torch.full_like(frames, min(2, count - 1)))
    after = torch.where(frames < count - 1, frames + 1, torch.full_like(frames, max(count - 3, 0)))
    half = max(count // 2, 1)
    far = torch.where(frames < half, frames + half, frames - half)
    return [before, after, far.clamp(max=count - 1)]


def fill(values: Tensor, known: Tensor) -> Tensor:
    """Continue `values` [N, H, W] smoothly from where they are `known` (push-pull over a pyramid).

    Known pixels keep their value; a frame without any becomes `MEAN_LOG_DEPTH`.
    """
    weight = known.float()[:, None]
    levels = [(torch.where(known, values, torch.zeros_like(values))[:, None], weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        value, weight = levels[-1]
        pooled = F.avg_pool2d(torch.cat([value * weight, weight], dim=1), 2, ceil_mode=True)
        total, weight = pooled.split(1, dim=1)
        levels.append((total / weight.clamp_min(1e-6), (weight * 4).clamp_max(1)))
    value, weight = levels.pop()
    filled = torch.where(weight > 0, value, torch.full_like(value, MEAN_LOG_DEPTH))
    for value, weight in reversed(levels):
        coarse = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.lerp(coarse, value, weight)
    return filled[:, 0]


def gravity_planes(c2w: Tensor, K: Tensor, height: int, width: int, ground: float | None) -> Tensor:
    """Planes [N, 3, H, W]: how much each ray rises, the log depth of the ground along it, is its height given."""
    rays = pixel_rays(K, height, width)
    rise = torch.einsum("nj,hwj->nhw", c2w[:, 2, :3], rays)
    z = c2w[:, 2, 3]
    above = torch.full_like(z, EYE_HEIGHT) if ground is None else (z - ground).clamp_min(0.1)
    depth = above[:, None, None] / (-rise).clamp_min(above[:, None, None] / 12)
    flag = torch.full_like(rise, float(ground is not None))
    return torch.stack([rise, depth.log() - MEAN_LOG_DEPTH, flag], dim=1)


def _difference_to(
    rgb: Tensor, c2w: Tensor, K: Tensor, base: Tensor, frames: Tensor, other: Tensor
) -> Tensor:
    """Planes [N, 4, H, W]: the frames `other`, warped by the base depth, minus `frames`; and where that is valid."""
    grid, valid = warp_grid(base.exp(), c2w[frames], c2w[other], K)
    valid = (valid & (frames != other)[:, None, None]).float()[:, None]
    warped = F.grid_sample(rgb[other], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.cat([2 * (warped - rgb[frames]) * valid, valid], dim=1)


def warp_grid(depth: Tensor, c2w: Tensor, other_c2w: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Where pixels with z-depth [N, H, W] seen from `c2w` [N, 4, 4] lie in the cameras `other_c2w` [N, 4, 4].

    Returns sampling positions [N, H, W, 2] for `grid_sample` and whether they lie inside that image [N, H, W].
    """
    height, width = depth.shape[-2:]
    camera = unproject(depth, K, invert_se3(other_c2w) @ c2w)
    z = camera[..., 2].clamp_min(1e-3)
    x = (camera[..., 0] / z * K[0, 0] + K[0, 2]) * (2 / width) - 1
    y = (camera[..., 1] / z * K[1, 1] + K[1, 2]) * (2 / height) - 1
    inside = (camera[..., 2] > NEAREST) & (x.abs() < 1) & (y.abs() < 1)
    return torch.stack([x, y], dim=-1), inside
