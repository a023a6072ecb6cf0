"""Free space: points that confident new views look through are not there (any more)."""

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import project

CARVE_VIEWS = 2
"""A point goes when at least this many views of one clip see a surface behind it."""
MARGIN = 0.06
"""Metres plus 4 % of the depth that the surface must lie behind the point."""
MAX_VIEWS = 3
"""Views of a clip that are tested, spread evenly; neighbouring frames say the same."""


def looked_through(position: np.ndarray, depth: Tensor, weight: Tensor, w2c: Tensor, K: Tensor) -> np.ndarray:
    """Which points [n] the views look through: bool [n].

    Args:
        position: World positions f32 [n, 3].
        depth: z-depth [T, H, W] in metres; 0 = none.
        weight: Confidence [T, H, W]; only pixels above 0.5 can carve.
        w2c: World-to-camera transforms [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
    """
    chosen = torch.linspace(0, len(depth) - 1, min(MAX_VIEWS, len(depth))).round().long()
    need = min(CARVE_VIEWS, len(chosen))
    surface = nearest_surface(depth[chosen], weight[chosen])
    height, width = depth.shape[-2:]
    uv, z = project(torch.from_numpy(np.ascontiguousarray(position)), w2c[chosen], K)
    column, row = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    view = torch.arange(len(chosen))[:, None].expand_as(column)
    behind = surface[view, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    through = inside & (behind > z * 1.04 + MARGIN)
    return (through.sum(0) >= need).numpy()


def nearest_surface(depth: Tensor, weight: Tensor) -> Tensor:
    """Smallest depth in each 3x3 window, 0 where any pixel of it is unsure: edges never carve."""
    unsure = (weight <= 0.5) | (depth <= 0)
    cautious = torch.where(unsure, torch.zeros_like(depth), depth)
    return -torch.nn.functional.max_pool2d(-cautious[:, None], 3, 1, 1)[:, 0]
