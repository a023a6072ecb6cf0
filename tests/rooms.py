"""An analytic room for tests: exact depth and colour of the inside of a textured box, no simulator needed."""

import torch
from torch import Tensor

from spatia_env.geometry import pixel_rays


def room_view(c2w: Tensor, K: Tensor, height: int, width: int, half=(2.0, 2.5, 1.4)) -> tuple[Tensor, Tensor]:
    """RGB [T, 3, H, W] and z-depth [T, H, W] of a box room centred at the origin, seen from `c2w` [T, 4, 4]."""
    half = torch.tensor(half)
    rays = torch.einsum("tij,hwj->thwi", c2w[:, :3, :3], pixel_rays(K, height, width))
    origin = c2w[:, None, None, :3, 3]
    exits = torch.where(rays > 0, half - origin, -half - origin) / torch.where(rays.abs() < 1e-9, 1e-9, rays)
    depth = exits.amin(-1)
    points = origin + depth[..., None] * rays
    return room_colour(points).movedim(-1, 1), depth


def room_colour(points: Tensor) -> Tensor:
    """A smooth texture of the world position [..., 3] -> RGB [..., 3] in [0, 1]."""
    phase = points @ torch.tensor([[3.0, 1.0, 2.0], [-1.0, 4.0, 2.5], [2.0, -3.0, 3.5]])
    return 0.5 + 0.4 * torch.sin(phase)
