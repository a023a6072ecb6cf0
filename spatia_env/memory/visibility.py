"""Which points and pixels contradict, or outlast, what other views saw: the rules for carving and adding points.

- `looked_through`: map points in front of what confident new views see are carved away.
- `seen_through`: new pixels in front of what an earlier keyframe saw are not written. Estimated depth runs smoothly
  from a thing to what is behind it, so a few pixels around every silhouette hang in the air; a keyframe that looks past
  the silhouette sees through them. About one in a hundred new points, worth 5 dB of the last picture of a loop of 16
  clips.
- `standing`: pixels in front of mapped surface are written once the object has not moved for `STILL_CLIPS` clips.
  (Known surface is confirmed by new clips, not written again, so a moving object is never written.)
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import invert_se3, unproject
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.rendering import pixels_at, sample_at
from spatia_env.memory.splatting import surface_tolerance

MARGIN = 0.06
"""Metres plus 4 % of the depth that a surface must lie behind a point for the point to count as looked through."""
CARVE_VIEWS = 2
"""A point is carved when at least this many views of one clip see a surface behind it."""
MAX_VIEWS = 3
"""Views of a clip that are tested for carving, spread evenly; neighbouring frames say the same."""
MAX_KEYFRAMES = 32
"""Keyframes that `seen_through` tests: those with most of the new points in sight."""
SAMPLES = 64
"""Points that decide which keyframes these are."""
STILL_CLIPS = 2
"""Clips for which an object must have stood still in front of known surface before it is written."""
AHEAD = 2.0
"""How many times `surface_tolerance` it lies in front of that surface, at least."""


def looked_through(position: np.ndarray, depth: Tensor, weight: Tensor, w2c: Tensor, K: Tensor) -> np.ndarray:
    """Which map points [n] the views of a clip look through: bool [n].

    Args:
        position: World positions f32 [n, 3].
        depth: z-depth [T, H, W] in metres; 0 = none.
        weight: Confidence [T, H, W]; only pixels above 0.5 can carve.
        w2c: World-to-camera transforms [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
    """
    chosen = torch.linspace(0, len(depth) - 1, min(MAX_VIEWS, len(depth))).round().long()
    surface = nearest_surface(depth[chosen], weight[chosen])
    points = torch.from_numpy(np.ascontiguousarray(position))
    through = _through(*sample_at(points, w2c[chosen], K, surface))
    return (through.sum(0) >= min(CARVE_VIEWS, len(chosen))).numpy()


def nearest_surface(depth: Tensor, weight: Tensor) -> Tensor:
    """Smallest depth in each 3x3 window, 0 where any pixel of it is unsure: edges never carve."""
    unsure = (weight <= 0.5) | (depth <= 0)
    cautious = torch.where(unsure, torch.zeros_like(depth), depth)
    return -F.max_pool2d(-cautious[:, None], 3, 1, 1)[:, 0]


def seen_through(depth: Tensor, new: Tensor, c2w: Tensor, K: Tensor, keyframes: Sequence[Keyframe]) -> Tensor:
    """Pixels bool [T, H, W] among `new` whose points lie where a keyframe looks through.

    Args:
        depth: z-depth [T, H, W] in metres.
        new: Pixels [T, H, W] that would open points.
        c2w: Poses [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        keyframes: Earlier pictures; pixels without depth (0) are ignored.
    """
    out = torch.zeros_like(new)
    if not keyframes or not bool(new.any()):
        return out
    points = unproject(depth, K, c2w)[new]
    keyframes = _facing(points, K, keyframes, *depth.shape[-2:])
    through = torch.zeros(len(points), dtype=torch.bool)
    # The farthest of 3x3 pixels: a point is drawn as large as its spacing, and must not reach over a silhouette.
    surfaces = F.max_pool2d(torch.stack([k.depth for k in keyframes]).float()[:, None], 3, 1, 1)
    for keyframe, surface in zip(keyframes, surfaces, strict=True):
        through |= _through(*sample_at(points, invert_se3(keyframe.c2w[None]), K, surface))[0]
    out[new] = through
    return out


def standing(
    depth: Tensor, known_depth: Tensor, c2w: Tensor, K: Tensor, keyframes: Sequence[Keyframe], step: int
) -> Tensor:
    """Pixels bool [T, H, W] of a clip that show an object at rest in front of the map's surface.

    It is at rest when every keyframe of this clip and of the `STILL_CLIPS - 1` before shows it at its place.

    Args:
        depth: z-depth [T, H, W] in metres of the clip, 0 = none.
        known_depth: The map's along the same path, 0 = none.
        c2w: Poses [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        keyframes: Those of the world, the clip's included; their depth is 0 where something moved.
        step: Of the clip.
    """
    ahead = (depth > 0) & (depth < known_depth - AHEAD * surface_tolerance(depth))
    recent = [k for k in keyframes if step - STILL_CLIPS < k.step <= step]
    if {k.step for k in recent} != set(range(step - STILL_CLIPS + 1, step + 1)) or not bool(ahead.any()):
        return torch.zeros_like(ahead)
    w2c = invert_se3(torch.stack([k.c2w for k in recent]))
    depths = torch.stack([k.depth for k in recent]).float()
    surface, z, inside = sample_at(unproject(depth, K, c2w)[ahead], w2c, K, depths)
    there = inside & (surface > 0) & ((surface - z).abs() < surface_tolerance(z))
    out = ahead.clone()
    out[ahead] = there.all(0)
    return out


def _through(surface: Tensor, z: Tensor, inside: Tensor) -> Tensor:
    """Whether points at depth `z` lie clearly in front of the `surface` seen in their pixel."""
    return inside & (surface > z * 1.04 + MARGIN)


def _facing(
    points: Tensor, K: Tensor, keyframes: Sequence[Keyframe], height: int, width: int
) -> Sequence[Keyframe]:
    """At most `MAX_KEYFRAMES` keyframes, those with most of (a sample of) the points in sight; older ones first."""
    if len(keyframes) <= MAX_KEYFRAMES:
        return keyframes
    few = points[torch.linspace(0, len(points) - 1, min(SAMPLES, len(points))).long()]
    w2c = invert_se3(torch.stack([k.c2w for k in keyframes]))
    inside = pixels_at(few, w2c, K, height, width)[3]
    best = inside.sum(1).argsort(descending=True, stable=True)[:MAX_KEYFRAMES].sort().values
    return [keyframes[i] for i in best.tolist()]
