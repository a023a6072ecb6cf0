"""Where things are, for the transformer: the map's surfaces, the rays and the cameras of a clip as planes.

Tokens know their neighbours by rotary positions, which are relative, and the map's render shows colours only. So where
in the room a pixel lies, and how the camera moves, had to be guessed. These planes say it, all in one frame: upright,
at the camera before the clip, X to its right, Y along its level heading, Z up, in metres. This module knows
cameras, but neither the map nor the environment.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import invert_se3, pixel_rays
from spatia_env.models.conditioning import known_planes
from spatia_env.models.particles import FALLING_PLANES, falling_planes
from spatia_env.poses import upright

CELLS = 2
"""Sub-cells along each side of a latent pixel whose surface point is told."""
PLACE_CHANNELS = 3 * CELLS**2 + 8
FALLING_CHANNELS = 16 * FALLING_PLANES
"""Sub-cells of the planes of what would fall."""
FAR = 4.0
"""Metres at which a point is told at half its distance: beyond, differences matter less."""


def place_planes(
    depth: Tensor, known: Tensor, c2w: Tensor, start_c2w: Tensor, K: Tensor, height: int, width: int
) -> Tensor:
    """Planes [20, T, h, w] of a clip.

    Args:
        depth: of the map's render, metres [T, H, W].
        known: where it is covered, bool [T, H, W].
        c2w: cameras [T, 4, 4].
        start_c2w: the camera before the clip [4, 4].
        K: intrinsics [3, 3].
        height: of the latents; divides H.
        width: of the latents; divides W.

    Returns:
        Twelve planes with the mean surface point of each sub-cell, drawn in from afar (`FAR`), zero where nothing is
        known; three with the unit ray; three with the camera's centre; and two with the place in the picture, -1
        to 1 from left to right and from top to bottom.
    """
    to_start = invert_se3(torch.from_numpy(upright(start_c2w.numpy())).to(c2w)) @ c2w
    rows, columns = CELLS * height, CELLS * width
    size = (depth.shape[-2], depth.shape[-1])
    covered = known.to(depth.dtype)
    share = F.adaptive_avg_pool2d(covered[:, None], (rows, columns))
    mean = F.adaptive_avg_pool2d((depth * covered)[:, None], (rows, columns)) / share.clamp_min(1e-6)
    cells = _rays(K, size, rows, columns)
    points = _turn(to_start, mean[:, 0, ..., None] * cells) + to_start[:, None, None, :3, 3]
    points = points / (1 + points.norm(dim=-1, keepdim=True) / FAR) * (share[:, 0, ..., None] > 0)
    rays = F.normalize(_turn(to_start, _rays(K, size, height, width)), dim=-1)
    centres = to_start[:, None, None, :3, 3].expand(-1, height, width, 3)
    planes = torch.cat(
        [
            F.pixel_unshuffle(points.movedim(-1, 1), CELLS),
            rays.movedim(-1, 1),
            centres.movedim(-1, 1),
            picture_planes(height, width).to(depth).expand(len(c2w), -1, -1, -1),
        ],
        dim=1,
    )
    return planes.transpose(0, 1).contiguous()


def picture_planes(height: int, width: int) -> Tensor:
    """Places in the picture [2, h, w]: columns from -1 (left) to 1, rows from -1 (top) to 1, at pixel centres."""
    v, u = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
    return torch.stack([u, v])


def falling_in_view(
    depth: Tensor, known: Tensor, c2w: Tensor, start_c2w: Tensor, K: Tensor, step: int
) -> Tensor:
    """Where flakes and balls would be seen in a clip, bool [2, T, H, W], hidden by what the map knows.

    Arguments as of `place_planes`; `step` clips came before.
    """
    hides = torch.where(known, depth, 0.0)
    return torch.from_numpy(falling_planes(c2w.numpy(), start_c2w.numpy(), K.numpy(), hides.numpy(), step))


def with_falling(places: Tensor, falling: Tensor) -> Tensor:
    """Planes [B, 52, T, h, w]: how much `falling` [B, 2, T, H, W] covers of each latent pixel's sub-cells, and then
    `places` [B, 20, T, h, w].
    """
    size = (places.shape[-2], places.shape[-1])
    covered = [known_planes(plane[:, None].to(places.dtype), *size) for plane in falling.unbind(1)]
    return torch.cat([*covered, places], dim=1)


def with_preceding(planes: Tensor, count: int) -> Tensor:
    """Planes [B, C, P + T, h, w] of given and new frames; of `count` given ones only the place in the picture."""
    before = torch.zeros_like(planes[:, :, :1])
    before[:, -2:] = planes[:, -2:, :1]
    return torch.cat([before.expand(-1, -1, count, -1, -1), planes], dim=2)


def without_points(planes: Tensor) -> Tensor:
    """Planes [..., 20, T, h, w] of a map that shows nothing: rays, centres and pictures stay."""
    out = planes.clone()
    out.narrow(-4, 0, 3 * CELLS**2).zero_()
    return out


def _centres(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) * 2 / count - 1


def _rays(K: Tensor, size: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Directions [rows, columns, 3] with z = 1 in the camera's frame through the middles of a coarser grid."""
    scale = K.new_tensor([columns / size[1], rows / size[0], 1.0])
    return pixel_rays(K * scale[:, None], rows, columns)


def _turn(c2w: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [T or none, h, w, 3] of cameras [T, 4, 4] in the common frame [T, h, w, 3]."""
    return torch.einsum(
        "tij,...hwj->thwi" if vectors.ndim == 3 else "tij,thwj->thwi", c2w[:, :3, :3], vectors
    )
