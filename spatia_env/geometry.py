"""Pinhole cameras and rigid motions: pure functions on tensors, leading batch axes allowed.

`se3_exp`, `invert_se3` and `upright` also take NumPy arrays, compute in float64 and return arrays.

Conventions: OpenCV axes (+X right, +Y down, +Z forward), `c2w` maps camera to world, `w2c` its inverse,
`K` is in pixels, the centre of pixel (column u, row v) lies at (u + 0.5, v + 0.5), `depth` is z-depth in
metres with 0 for "none". The world has +Z up. This module knows neither the map nor the model.
"""

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import PoseError

RIGID_TOLERANCE = 1e-3
"""Largest accepted deviation of R R^T from the identity, and of the bottom row from 0 0 0 1."""

Transform = TypeVar("Transform", Tensor, np.ndarray)


def _also_for_arrays(function: Callable[[Tensor], Tensor]) -> Callable[[Transform], Transform]:
    @functools.wraps(function)
    def call(value: Transform) -> Transform:
        if isinstance(value, Tensor):
            return function(value)
        return function(torch.from_numpy(np.array(value, dtype=np.float64))).numpy()

    return call


def so3_exp(rotvec: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of rotation vectors [..., 3] in radians (Rodrigues' formula)."""
    angle = rotvec.norm(dim=-1)[..., None, None]
    hat = hat3(rotvec)
    # The series near zero: sin(a)/a -> 1 and (1-cos(a))/a^2 -> 1/2, without dividing by zero.
    small = angle < 1e-4
    safe = torch.where(small, torch.ones_like(angle), angle)
    a = torch.where(small, 1 - angle**2 / 6, torch.sin(safe) / safe)
    b = torch.where(small, 0.5 - angle**2 / 24, (1 - torch.cos(safe)) / safe**2)
    return torch.eye(3, dtype=rotvec.dtype, device=rotvec.device) + a * hat + b * (hat @ hat)


def hat3(v: Tensor) -> Tensor:
    """Cross-product matrices [..., 3, 3] of vectors [..., 3]."""
    zero = torch.zeros_like(v[..., 0])
    x, y, z = v.unbind(-1)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def so3_log(rotation: Tensor) -> Tensor:
    """Rotation vectors [..., 3] in radians of rotation matrices [..., 3, 3]; angles in [0, pi]."""
    cos = ((rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1)
    skew = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    )
    sin = skew.norm(dim=-1) / 2
    angle = torch.atan2(sin, cos)
    scale = torch.where(sin > 1e-6, angle / (2 * sin.clamp_min(1e-12)), torch.full_like(sin, 0.5))
    near_pi = (cos < -0.9999).unsqueeze(-1)
    # Near a half turn the skew part vanishes; the axis is the column of R + I with the largest norm.
    symmetric = rotation + torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    column = symmetric.norm(dim=-2).argmax(-1)
    axis = torch.gather(symmetric, -1, column[..., None, None].expand(*symmetric.shape[:-1], 1)).squeeze(-1)
    axis = axis / axis.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.where(near_pi, axis * angle.unsqueeze(-1), skew * scale.unsqueeze(-1))


@_also_for_arrays
def se3_exp(twist: Tensor) -> Tensor:
    """Rigid transforms [..., 4, 4] of twists [..., 6]: metres first, then a rotation vector in radians."""
    v, w = twist[..., :3], twist[..., 3:]
    angle = w.norm(dim=-1)[..., None, None]
    small = angle < 1e-4
    safe = torch.where(small, torch.ones_like(angle), angle)
    b = torch.where(small, 0.5 - angle**2 / 24, (1 - torch.cos(safe)) / safe**2)
    c = torch.where(small, 1 / 6 - angle**2 / 120, (safe - torch.sin(safe)) / safe**3)
    hat = hat3(w)
    left = torch.eye(3, dtype=twist.dtype, device=twist.device) + b * hat + c * (hat @ hat)
    return rigid(so3_exp(w), (left @ v.unsqueeze(-1)).squeeze(-1))


def rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """Transforms [..., 4, 4] from rotations [..., 3, 3] and translations [..., 3]."""
    out = torch.zeros(*rotation.shape[:-2], 4, 4, dtype=rotation.dtype, device=rotation.device)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = translation
    out[..., 3, 3] = 1
    return out


@_also_for_arrays
def invert_se3(transform: Tensor) -> Tensor:
    """Inverse of rigid transforms [..., 4, 4], by transposing the rotation."""
    rotation = transform[..., :3, :3].transpose(-1, -2)
    return rigid(rotation, -(rotation @ transform[..., :3, 3:]).squeeze(-1))


def orthonormalise(transform: Tensor) -> Tensor:
    """The nearest rigid transforms [..., 4, 4]; keeps long products of motions from drifting off SE(3)."""
    u, _, vh = torch.linalg.svd(transform[..., :3, :3].double())
    sign = torch.ones_like(u[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vh)
    rotation = (u * sign.unsqueeze(-2)) @ vh
    return rigid(rotation.to(transform.dtype), transform[..., :3, 3])


def path_from_twist(c2w: Tensor, twist: Tensor, num_frames: int) -> Tensor:
    """Poses [T, 4, 4] at exp(i/T twist) from `c2w` [4, 4], i = 1..T; the twist [6] is in metres and radians."""
    fractions = torch.arange(1, num_frames + 1, dtype=twist.dtype, device=twist.device) / num_frames
    motion = se3_exp((fractions[:, None] * twist).double())
    return orthonormalise(c2w.double() @ motion).to(c2w.dtype)


def interpolate_path(start_c2w: Tensor, end_c2w: Tensor, num_frames: int) -> Tensor:
    """Poses [T, 4, 4] from `start_c2w` (excluded) to `end_c2w` (included): slerp, and linear centres."""
    fractions = torch.arange(1, num_frames + 1, dtype=start_c2w.dtype, device=start_c2w.device) / num_frames
    relative = so3_log(start_c2w[:3, :3].T @ end_c2w[:3, :3])
    rotation = start_c2w[:3, :3] @ so3_exp(fractions[:, None] * relative)
    centre = torch.lerp(start_c2w[:3, 3], end_c2w[:3, 3], fractions[:, None])
    return rigid(rotation, centre)


def look_at(eye: Tensor, target: Tensor, up: Tensor | None = None) -> Tensor:
    """`c2w` [4, 4] of a camera at `eye` [3] that looks at `target` [3], the world's +Z up by default."""
    up = torch.tensor([0.0, 0.0, 1.0], dtype=eye.dtype) if up is None else up
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.linalg.cross(forward, up)
    if right.norm() < 1e-6:
        raise PoseError("look_at: the view direction is parallel to `up`; give another `up`.")
    right = torch.nn.functional.normalize(right, dim=0)
    down = torch.linalg.cross(forward, right)
    return rigid(torch.stack([right, down, forward], dim=-1), eye)


def intrinsics_from_fov(fov_degrees: float, height: int, width: int) -> Tensor:
    """`K` [3, 3] of a centred pinhole camera with square pixels and this *horizontal* field of view."""
    focal = width / 2 / math.tan(math.radians(fov_degrees) / 2)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


def scale_intrinsics(K: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """`K` [..., 3, 3] of the same camera after its image was resized by these factors."""
    return K * torch.tensor([scale_x, scale_y, 1.0], dtype=K.dtype, device=K.device)[:, None]


def pixel_rays(K: Tensor, height: int, width: int) -> Tensor:
    """Directions [H, W, 3] in the camera frame with z = 1 through the pixel centres."""
    v, u = torch.meshgrid(
        torch.arange(height, device=K.device, dtype=K.dtype) + 0.5,
        torch.arange(width, device=K.device, dtype=K.dtype) + 0.5,
        indexing="ij",
    )
    return torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], dim=-1)


def unproject(depth: Tensor, K: Tensor, c2w: Tensor) -> Tensor:
    """World points [..., H, W, 3] of z-depth images [..., H, W] seen from `c2w` [..., 4, 4]."""
    rays = pixel_rays(K, depth.shape[-2], depth.shape[-1])
    points = depth.unsqueeze(-1) * rays
    rotated = torch.einsum("...ij,...hwj->...hwi", c2w[..., :3, :3], points)
    return rotated + c2w[..., None, None, :3, 3]


def project(points: Tensor, w2c: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates [V, N, 2] (u, v) and z-depth [V, N] of points [N, 3] in cameras `w2c` [V, 4, 4]."""
    camera = points @ w2c[:, :3, :3].transpose(-1, -2) + w2c[:, None, :3, 3]
    z = camera[..., 2]
    focal = torch.stack([K[0, 0], K[1, 1]])
    return camera[..., :2] / z.clamp_min(1e-6).unsqueeze(-1) * focal + K[:2, 2], z


def pose_error(estimated_c2w: Tensor, true_c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Distance in metres and angle in degrees [...] between poses [..., 4, 4]."""
    distance = (estimated_c2w[..., :3, 3] - true_c2w[..., :3, 3]).norm(dim=-1)
    relative = estimated_c2w[..., :3, :3].transpose(-1, -2).double() @ true_c2w[..., :3, :3].double()
    return distance, torch.rad2deg(so3_log(relative).norm(dim=-1)).to(distance.dtype)


def check_rigid(transform: Tensor, name: str = "pose") -> None:
    """Raise `PoseError` unless `transform` [..., 4, 4] is finite, rigid and right-handed."""
    if transform.ndim < 2 or tuple(transform.shape[-2:]) != (4, 4):
        raise PoseError(f"{name}: expected [..., 4, 4] matrices, got shape {tuple(transform.shape)}.")
    if not bool(torch.isfinite(transform).all()):
        raise PoseError(f"{name}: has NaN or infinite entries.")
    rotation = transform[..., :3, :3].double()
    gram = rotation @ rotation.transpose(-1, -2)
    bottom = torch.tensor([0.0, 0, 0, 1], dtype=transform.dtype, device=transform.device)
    off = max(
        float((gram - torch.eye(3, dtype=torch.float64, device=transform.device)).abs().max()),
        float((transform[..., 3, :] - bottom).abs().max()),
    )
    if off > RIGID_TOLERANCE or bool((torch.linalg.det(rotation) < 0).any()):
        raise PoseError(
            f"{name}: not a rigid transform (rotation off by {off:.3g}); use orthonormal, right-handed "
            "rotations and a bottom row of 0 0 0 1."
        )


def check_intrinsics(K: Tensor, name: str = "intrinsics") -> None:
    """Raise `PoseError` unless `K` [3, 3] is a finite pinhole matrix with positive focal lengths."""
    if tuple(K.shape) != (3, 3) or not bool(torch.isfinite(K).all()):
        raise PoseError(f"{name}: expected a finite 3x3 matrix [[fx,0,cx],[0,fy,cy],[0,0,1]] in pixels.")
    if float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0 or not torch.allclose(K[2], K.new_tensor([0.0, 0.0, 1.0])):
        raise PoseError(f"{name}: focal lengths must be positive and the bottom row 0 0 1, got {K.tolist()}.")


@_also_for_arrays
def upright(c2w: Tensor) -> Tensor:
    """The pose [4, 4] at a camera's place with its Z axis up and its Y axis along the camera's level heading.

    A camera that looks straight up or down takes the world's Y axis for its heading.
    """
    level = c2w[:2, 2].double()
    heading = level / level.norm() if level.norm() > 1e-6 else torch.tensor([0.0, 1.0]).double()
    x, y = heading
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    axes = [torch.stack([y, -x, zero]), torch.stack([x, y, zero]), torch.stack([zero, zero, one])]
    return rigid(torch.stack(axes, dim=1).to(c2w.dtype), c2w[:3, 3])


def distance_and_angle(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Metres and degrees between two poses [4, 4]."""
    metres, degrees = pose_error(*(torch.from_numpy(np.asarray(pose, np.float64)) for pose in (a, b)))
    return float(metres), float(degrees)


def rigid_problem(transform: np.ndarray) -> str:
    """Why transforms [..., 4, 4] are not finite, rigid and right-handed; "" when they are."""
    if transform.ndim < 2 or transform.shape[-2:] != (4, 4):
        return f"expected [..., 4, 4] matrices, got shape {list(transform.shape)}"
    if not np.isfinite(transform).all():
        return "has NaN or infinite entries"
    # Entries of a rotation are at most 1: this also keeps the products below from overflowing.
    rotation = transform[..., :3, :3].astype(np.float64)
    if np.abs(rotation).max(initial=0) > 1 + RIGID_TOLERANCE:
        return f"not a rotation: an entry is {np.abs(rotation).max():.4g}; use orthonormal matrices"
    off = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max(initial=0)
    bottom = np.abs(transform[..., 3, :].astype(np.float64) - [0, 0, 0, 1]).max(initial=0)
    if max(off, bottom) > RIGID_TOLERANCE:
        return (
            f"not a rigid transform (off by {max(off, bottom):.3g}); use orthonormal rotations and a "
            "bottom row of 0 0 0 1"
        )
    if (np.linalg.det(rotation) < 0).any():
        return "mirrored (determinant -1); use a right-handed rotation"
    return ""
