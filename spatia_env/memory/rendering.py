"""Render a coloured point cloud along a camera path by z-buffered, anti-aliased splatting.

Two passes over the points. The first finds the nearest surface of each pixel; the second averages the
colours of all points on that surface, weighted by their distance to the pixel centre and by how finely they
were seen. A point that was seen by the same camera lands exactly on its pixel, so the identity view is
returned unchanged. Then `holes` closes what is left open between the points of a surface.

Plain torch, the same on CPU and CUDA. A view and some points at a time, so that they stay in the cache. This
module does not know how the points are stored; `render_rows` takes them as blocks hold them. The parts are in `splats`,
the same maths point by point in `rendering_oracle`.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import invert_se3
from spatia_env.memory.rendering import Render, close_holes
from spatia_env.memory.splatting import (
    PAD,
    Canvas,
    Cloud,
    Splats,
    accumulate,
    nearest_depths,
    surface_tolerance,
    visible_splats,
)

__all__ = ["Render", "render_points", "render_rows", "surface_tolerance"]

MIN_WEIGHT = 0.2
"""A pixel is `known` when the tent weights of its points sum to at least this."""
PIECES = (1 << 17, 1 << 15)
"""Points handled at once: what the cache holds; with threads, which share out the views, as many as torch works on
without threads of its own. The result does not depend on it."""
TOGETHER = 1 << 17
"""Views are drawn together as long as they have so many points to look at: small arrays cost calls, large ones the
cache. The result does not depend on it."""
MIN_RADIUS = 1e-3
"""Metres: finer spacings do not make a point count for more."""


def render_points(
    points: Tensor,
    rgb: Tensor,
    radius: Tensor,
    w2c: Tensor,
    K: Tensor,
    height: int,
    width: int,
    weight: Tensor | None = None,
) -> Render:
    """Render points [N, 3] (metres, world) with colours [N, 3] in [0, 1] from V cameras `w2c` [V, 4, 4].

    Args:
        points: World positions [N, 3].
        rgb: Colours [N, 3] in [0, 1].
        radius: Spacing [N] in metres of the samples a point stands for (pixel size where it was seen).
        w2c: World-to-camera transforms [V, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        height: Image height in pixels.
        width: Image width in pixels.
        weight: Optional blending weight [N]; finer and surer points should weigh more.

    Returns:
        `Render`; pixels that nothing reaches are black, with depth 0 and `known` false.
    """
    quality = torch.ones_like(radius) if weight is None else weight
    return _render(Cloud(points.T.contiguous(), radius, _values(rgb, quality)), w2c, K, height, width)


def render_rows(rows: np.ndarray, c2w: Tensor, K: Tensor, height: int, width: int) -> Render:
    """Render points as blocks hold them (`blocks.POINT`) from cameras `c2w` [V, 4, 4].

    Finer samples dominate: a wall seen from one metre is sharper than the same wall from five.
    """
    device = K.device
    position = torch.from_numpy(np.ascontiguousarray(rows["position"].T)).to(device)
    colour = torch.from_numpy(np.ascontiguousarray(rows["colour"])).to(device).float() / 255
    radius = torch.from_numpy(rows["radius"].astype(np.float32)).to(device)
    weight = (0.01 / radius.clamp_min(MIN_RADIUS)) ** 2
    cloud = Cloud(position, radius, _values(colour, weight))
    return _render(cloud, invert_se3(c2w), K, height, width)


def _values(rgb: Tensor, quality: Tensor) -> Tensor:
    """What is summed over a pixel, a row [6] for each point: quality times r, g, b and z (0 as yet), quality, 1."""
    values = rgb.new_ones(len(rgb), 6)
    values[:, :3] = rgb * quality[:, None]
    values[:, 3] = 0
    values[:, 4] = quality
    return values


def _render(cloud: Cloud, w2c: Tensor, K: Tensor, height: int, width: int) -> Render:
    canvas = Canvas(height, width)
    workers = min(torch.get_num_threads(), len(w2c)) if w2c.device.type == "cpu" else 1
    pieces = cloud.pieces(PIECES[workers > 1])
    planes = cloud.xyz.new_empty(len(w2c), 7, height + 2 * PAD, width + 2 * PAD)
    together = max(1, min(math.ceil(len(w2c) / workers), TOGETHER // max(len(cloud.radius), 1)))

    inference = torch.is_inference_mode_enabled()

    def views(out: Tensor, poses: Tensor) -> None:
        with torch.inference_mode(inference):  # a mode holds for its own thread only
            splats, values = [], []
            for number, pose in enumerate(poses):
                for piece in pieces:
                    seen = visible_splats(piece, pose, K, canvas, number)
                    value = piece.values.index_select(0, seen.point)
                    value[:, 3] = seen.z * value[:, 4]
                    splats.append(seen)
                    values.append(value)
            nearest = nearest_depths(splats, len(poses), canvas)
            # All pieces together: so the order of additions does not depend on them.
            sums = accumulate(Splats.join(splats), torch.cat(values), nearest, canvas)
            out[:, :6] = canvas.crop(sums.T).transpose(0, 1)
            out[:, 6] = canvas.crop(nearest)

    if workers > 1:
        # Made anew each time, which costs 0.1 ms: a pool that is kept would not survive a fork of the process.
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(views, planes.split(together), w2c.split(together)))
    else:
        for out, poses in zip(planes.split(together), w2c.split(together), strict=True):
            views(out, poses)
    return close_holes(_resolve(planes)).cropped(PAD)


def _resolve(planes: Tensor) -> Render:
    """Means of the sums and the z-buffer, [V, 7, H, W]."""
    quality, tents, zbuffer = planes[:, 4], planes[:, 5], planes[:, 6]
    known = (tents >= MIN_WEIGHT) & torch.isfinite(zbuffer)
    scale = known / quality.clamp_min(1e-12)
    return Render(planes[:, :3] * scale[:, None], planes[:, 3] * scale, known)
