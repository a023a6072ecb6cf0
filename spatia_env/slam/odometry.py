"""Open3D's RGB-D odometry as an alternative to `alignment`: it weighs the frames' own depth as well.

Worth its time where the depth was measured, or came from a model that did not see the map.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import orthonormalise, so3_log
from spatia_env.io.mesh import import_open3d

ITERATIONS = (12, 8, 6)
"""Coarse to fine."""
MIN_FITNESS = 0.3
DEPTH_MAX = 12.0
DEPTH_DIFFERENCE = 0.12
"""Metres within which two depths are taken to be of one surface."""


def open3d_odometry(
    rgb: Tensor, depth: Tensor, map_rgb: Tensor, map_depth: Tensor, usable: Tensor, K: Tensor
) -> tuple[Tensor, bool]:
    """The drift [6] of one frame against the map's render, and whether enough of them overlap.

    Args:
        rgb: The frame [3, H, W] in [0, 1].
        depth: Its z-depth [H, W] in metres, 0 = none.
        map_rgb: The render [3, H, W] from the commanded pose.
        map_depth: Its z-depth [H, W].
        usable: Pixels [H, W] that may be used.
        K: Intrinsics [3, 3] in pixels.
    """
    o3d: Any = import_open3d()
    odometry = o3d.t.pipelines.odometry
    source = _rgbd(o3d, map_rgb, torch.where(usable, map_depth, torch.zeros_like(map_depth)))
    target = _rgbd(o3d, rgb, torch.where(usable, depth, torch.zeros_like(depth)))
    try:
        found = odometry.rgbd_odometry_multi_scale(
            source,
            target,
            # Open3D puts pixel centres at whole numbers.
            o3d.core.Tensor((K.double() - _HALF).numpy()),
            o3d.core.Tensor(np.eye(4)),
            1.0,
            DEPTH_MAX,
            [odometry.OdometryConvergenceCriteria(n) for n in ITERATIONS],
            odometry.Method.Hybrid,
            odometry.OdometryLossParams(DEPTH_DIFFERENCE, 0.05, 0.3),
        )
    except RuntimeError:  # singular system: nothing in the picture decides the motion
        return torch.zeros(6), False
    # Open3D maps the render's camera to the frame's: the inverse of the drift.
    drift = np.linalg.inv(found.transformation.numpy())
    if not np.isfinite(drift).all():
        return torch.zeros(6), False
    pose = orthonormalise(torch.from_numpy(drift)).float()
    return torch.cat([pose[:3, 3], so3_log(pose[:3, :3])]), found.fitness > MIN_FITNESS


_HALF = torch.tensor([[0.0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dtype=torch.float64)


def _rgbd(o3d: Any, rgb: Tensor, depth: Tensor) -> Any:
    image = o3d.core.Tensor(np.ascontiguousarray(rgb.permute(1, 2, 0).float().numpy()))
    z = o3d.core.Tensor(np.ascontiguousarray(depth.float().numpy()[..., None]))
    return o3d.t.geometry.RGBDImage(o3d.t.geometry.Image(image), o3d.t.geometry.Image(z))
