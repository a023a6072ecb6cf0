"""Keyframes and their retrieval: which past pictures show most of what the new path will see.

A target camera's visible surface is its render; it counts for a keyframe where that keyframe saw the same
surface (projection inside, depth agrees). Targets and keyframes are matched one to one by the Hungarian
method, as in the official release (`retrieval.py` holds the release's exact counts).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from spatia_env.geometry import invert_se3, unproject
from spatia_env.memory.rendering import Render, sample_at
from spatia_env.memory.splatting import surface_tolerance

GRID = 4
"""Every 4th pixel in x and y of a target's render is tested: 1,024 surface points at 128x128."""


@dataclass(frozen=True)
class Keyframe:
    """A remembered picture: `frame` u8 [H, W, 3], `depth` f16 [H, W] metres, `c2w` [4, 4], and its step."""

    frame: Tensor
    depth: Tensor
    c2w: Tensor
    step: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the picture and its depth."""
        return self.frame.numel() + 2 * self.depth.numel()


def overlap(keyframes: list[Keyframe], render: Render, c2w: Tensor, K: Tensor) -> Tensor:
    """Share [targets, keyframes] of each target's image that shows surface which the keyframe saw, in [0, 1].

    Args:
        keyframes: Candidates, all of one image size.
        render: The map rendered from the targets.
        c2w: Target poses [V, 4, 4].
        K: Intrinsics [3, 3] in pixels, of targets and keyframes.
    """
    points = unproject(render.depth, K, c2w)[:, GRID // 2 :: GRID, GRID // 2 :: GRID]
    valid = render.known[:, GRID // 2 :: GRID, GRID // 2 :: GRID].flatten(1)
    w2c = invert_se3(torch.stack([keyframe.c2w for keyframe in keyframes]))
    seen = torch.stack([keyframe.depth for keyframe in keyframes]).float()
    surface, z, inside = sample_at(points.reshape(-1, 3), w2c, K, seen)
    agrees = inside & (surface > 0) & ((surface - z).abs() < 2 * surface_tolerance(z))
    counts = (agrees.view(len(keyframes), *valid.shape) & valid).float().mean(-1)
    return counts.T


def select_references(
    keyframes: list[Keyframe], render: Render, c2w: Tensor, K: Tensor, count: int
) -> tuple[list[int], list[float]]:
    """Indices and overlap scores of `count` keyframes for the target views, one to one, in target order.

    Targets are `count` views spread over the path, its last included. With fewer keyframes than targets the
    best one is repeated, so that the model always sees `count` references. Empty without keyframes.
    """
    if not keyframes or count == 0:
        return [], []
    chosen = target_views(len(c2w), count)
    scores = overlap(keyframes, render[chosen], c2w[chosen], K)
    rows, columns = linear_sum_assignment(-scores.numpy())
    picked = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    best = int(scores.sum(0).argmax())
    indices = [picked.get(target, best) for target in range(count)]
    return indices, [float(scores[target, index]) for target, index in enumerate(indices)]


def target_views(num_frames: int, count: int) -> list[int]:
    """Indices of `count` frames spread over a path of `num_frames`, ending with the last."""
    return (np.linspace(0, num_frames, count + 1)[1:].round().astype(int) - 1).tolist()
