"""What has come to stand before known surface, and stayed: it becomes part of the map after `STILL_CLIPS` clips.

What the map knows is confirmed by new clips, not written again. So a thing that moves in front of it is never
written; neither would one be that has stopped. It has stopped when every keyframe of this clip and of the one before
shows it at its place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spatia_env.geometry import invert_se3, project, unproject
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.splatting import surface_tolerance

STILL_CLIPS = 2
"""Clips for which a thing must have stood still before what the map knows: 16 views of the tiny checkpoint."""
AHEAD = 2.0
"""It is before the map's surface by at least so many times `surface_tolerance`."""


def standing(
    depth: Tensor, known_depth: Tensor, c2w: Tensor, K: Tensor, keyframes: Sequence[Keyframe], step: int
) -> Tensor:
    """Pixels bool [T, H, W] of a clip that show something that stands still before the map's surface.

    Args:
        depth: z-depth [T, H, W] in metres of the clip, 0 = none.
        known_depth: The map's along the same path, 0 = none.
        c2w: Poses [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        keyframes: Those of the world, the clip's included; their depth is 0 where something moved.
        step: Of the clip.
    """
    ahead = (depth > 0) & (depth < known_depth - AHEAD * surface_tolerance(depth))
    lately = [k for k in keyframes if step - STILL_CLIPS < k.step <= step]
    if {k.step for k in lately} != set(range(step - STILL_CLIPS + 1, step + 1)) or not bool(ahead.any()):
        return torch.zeros_like(ahead)
    height, width = depth.shape[-2:]
    uv, z = project(unproject(depth, K, c2w)[ahead], invert_se3(torch.stack([k.c2w for k in lately])), K)
    column, row = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = torch.stack([k.depth for k in lately]).float()
    which = torch.arange(len(lately))[:, None].expand_as(column)
    surface = seen[which, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    there = inside & (surface > 0) & ((surface - z).abs() < surface_tolerance(z))
    out = ahead.clone()
    out[ahead] = there.all(0)
    return out
