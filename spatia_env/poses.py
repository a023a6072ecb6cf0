"""Rigid motions in numpy, float64: what actions, spaces and case files need before a model is loaded.

The conventions are those of `cameras` (OpenCV axes, `c2w`, twists of metres then radians), whose torch
functions do the same inside the model; the tests hold the two together. This module knows neither actions
nor files.
"""

from typing import Any

import numpy as np

from spatia_env.checks import as_real_array
from spatia_env.errors import PoseError

RIGID_TOLERANCE = 1e-3
"""Largest accepted deviation of R Rᵀ from the identity, and of the bottom row from 0 0 0 1."""


def se3_exp(twist: np.ndarray) -> np.ndarray:
    """Transforms [..., 4, 4] of twists [..., 6]: metres along the axes, then a rotation vector in radians."""
    twist = np.asarray(twist, dtype=np.float64)
    v, w = twist[..., :3], twist[..., 3:]
    angle = np.linalg.norm(w, axis=-1)[..., None, None]
    small = angle < 1e-5
    safe = np.where(small, 1.0, angle)
    # Their series near zero, so that nothing is divided by zero.
    a = np.where(small, 1 - angle**2 / 6, np.sin(safe) / safe)
    b = np.where(small, 0.5 - angle**2 / 24, (1 - np.cos(safe)) / safe**2)
    c = np.where(small, 1 / 6 - angle**2 / 120, (safe - np.sin(safe)) / safe**3)
    hat = _hat(w)
    out = np.zeros((*twist.shape[:-1], 4, 4))
    out[..., :3, :3] = np.eye(3) + a * hat + b * (hat @ hat)
    out[..., :3, 3] = ((np.eye(3) + b * hat + c * (hat @ hat)) @ v[..., None])[..., 0]
    out[..., 3, 3] = 1
    return out


def _hat(w: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(w, -1, 0)
    zero = np.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return np.stack(rows, axis=-1).reshape(*w.shape[:-1], 3, 3)


def path_of_twist(twist: np.ndarray, num_frames: int) -> np.ndarray:
    """Poses [T, 4, 4] at exp(i/T twist), i = 1..T, relative to where the twist [6] begins."""
    fractions = np.arange(1, num_frames + 1)[:, None] / num_frames
    return se3_exp(fractions * np.asarray(twist, dtype=np.float64))


def invert(transform: np.ndarray) -> np.ndarray:
    """Inverse of rigid transforms [..., 4, 4], by transposing the rotation."""
    out = np.zeros_like(transform)
    rotation = np.swapaxes(transform[..., :3, :3], -1, -2)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = -(rotation @ transform[..., :3, 3:])[..., 0]
    out[..., 3, 3] = 1
    return out


def distance_and_angle(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Metres and degrees between two poses [4, 4]."""
    relative = a[:3, :3].T.astype(np.float64) @ b[:3, :3].astype(np.float64)
    skew = relative - relative.T
    sin = np.sqrt((skew**2).sum() / 8)
    angle = np.degrees(np.arctan2(sin, (np.trace(relative) - 1) / 2))
    return float(np.linalg.norm(a[:3, 3].astype(np.float64) - b[:3, 3])), float(angle)


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


def as_pose(value: Any, name: str = "pose") -> np.ndarray:
    """A fresh float64 copy [4, 4] of a camera-to-world matrix.

    Args:
        value: Anything numpy reads as a real 4x4 matrix.
        name: What to call it in an error.

    Raises:
        PoseError: If it is not numeric, finite, rigid and right-handed.
    """
    pose = as_real_array(value, name, PoseError)
    if pose.shape != (4, 4):
        raise PoseError(f"{name}: expected a 4x4 camera-to-world matrix, got shape {list(pose.shape)}.")
    problem = rigid_problem(pose)
    if problem:
        raise PoseError(f"{name}: {problem}.")
    return pose


def upright(c2w: np.ndarray) -> np.ndarray:
    """The pose [4, 4] at a camera's place with its Z axis up and its Y axis along the camera's level heading.

    A camera that looks straight up or down takes the world's Y axis for its heading.
    """
    ahead = np.append(c2w[:2, 2], 0.0)
    length = np.linalg.norm(ahead)
    ahead = ahead / length if length > 1e-6 else np.array([0.0, 1.0, 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([np.cross(ahead, [0, 0, 1.0]), ahead, [0, 0, 1.0]], axis=1)
    pose[:3, 3] = c2w[:3, 3]
    return pose
