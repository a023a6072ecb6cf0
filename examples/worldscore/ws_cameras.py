"""WorldScore's camera paths in its own conventions: key frames, interpolation, and the matrices of camera_data.json.

Facts from the benchmark's repository (MIT licence, commit 344983c), written anew. A path is a chain of named moves;
rotations are interpolated on the sphere and world-to-camera translations on a line, both in the first camera's frame,
so orbits are no exact arcs. In camera_data.json cameras are c2w with Blender axes (x right, y up, z back) in a world
with PyTorch3D axes (x left, y up, z forward): the first matrix is diag(-1, 1, -1, 1), not the identity.
"""

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

MOVES: Mapping[str, tuple[tuple[float, float, float], float]] = MappingProxyType(
    {
        "push_in": ((0, 0, 1), 0),
        "pull_out": ((0, 0, -1), 0),
        "move_left": ((-0.5, 0, 0), 0),
        "move_right": ((0.5, 0, 0), 0),
        "orbit_left": ((-0.5, 0, 1 - np.cos(np.pi / 6)), 30),
        "orbit_right": ((0.5, 0, 1 - np.cos(np.pi / 6)), -30),
        "pan_left": ((0, 0, 0), -30),
        "pan_right": ((0, 0, 0), 30),
        "fixed": ((0, 0, 0), 0),
    }
)
"""End of each move in OpenCV axes: centre in units (right, down, forward), and yaw in degrees, + to the right."""
INTRA = ("push_in", "orbit_left", "orbit_right", "fixed")
"""Moves that stay in a scene; the others bring a new one."""
FRAMES = 50
FOCAL = 500.0
"""Pixels at 512 x 512."""
_BLENDER = np.diag([1.0, -1.0, -1.0, 1.0])
_FIRST = np.diag([-1.0, 1.0, -1.0, 1.0])


def keyframes(names: Sequence[str], unit: float = 1.0) -> np.ndarray:
    """Poses c2w [n + 1, 4, 4] relative to the first camera, OpenCV axes, at the ends of a chain of moves."""
    poses = [np.eye(4)]
    for name in names:
        centre, yaw = MOVES[name]
        move = np.eye(4)
        move[:3, :3] = Rotation.from_rotvec([0, np.radians(yaw), 0]).as_matrix()
        move[:3, 3] = np.array(centre) * unit
        poses.append(poses[-1] @ move)
    return np.stack(poses)


def interpolated(names: Sequence[str], frames: int = FRAMES, unit: float = 1.0) -> np.ndarray:
    """Poses c2w [n (frames - 1) + 1, 4, 4] of all frames of a chain, relative to the first camera, OpenCV axes."""
    w2c = np.linalg.inv(keyframes(names, unit))
    shares = np.arange(1, frames) / (frames - 1)
    out = [w2c[:1]]
    for first, second in itertools.pairwise(w2c):
        between = np.tile(np.eye(4), (frames - 1, 1, 1))
        turn = Slerp([0, 1], Rotation.from_matrix([first[:3, :3], second[:3, :3]]))
        between[:, :3, :3] = turn(shares).as_matrix()
        between[:, :3, 3] = first[:3, 3] + shares[:, None] * (second[:3, 3] - first[:3, 3])
        out.append(between)
    return np.linalg.inv(np.concatenate(out))


def to_stored(poses: np.ndarray) -> np.ndarray:
    """The matrices of camera_data.json of poses c2w [..., 4, 4] relative to the first camera (OpenCV axes)."""
    return _FIRST @ _BLENDER @ poses @ _BLENDER


def from_stored(cameras: np.ndarray) -> np.ndarray:
    """Poses c2w relative to the first camera, OpenCV axes, of matrices [N, 4, 4] of camera_data.json."""
    cameras = np.asarray(cameras, np.float64)
    return _BLENDER @ np.linalg.inv(cameras[0]) @ cameras @ _BLENDER
