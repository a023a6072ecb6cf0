"""Camera paths through the simulator's scenes, and their truth.

Index 0 of every array is the start picture; clip i covers frames 1 + 8 i to 8 + 8 i. Truth never enters a
tested row; `systems` hands over the start picture only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.bench.staging import FRAMES, gentle_path
from spatia_env.geometry import invert_se3, path_from_twist, project, unproject
from spatia_env.sim.scenes import SimScene

__all__ = ["FRAMES", "PATHS", "Truth", "film", "gentle_path", "seen_from", "turn"]

CLEARANCE = 0.3
"""Metres that stay free around the camera."""
_TRIES = 60


@dataclass(frozen=True)
class Truth:
    """What the simulator says about an episode of n clips.

    Attributes:
        scene: The seed.
        K: Intrinsics [3, 3] in pixels.
        c2w: Poses f32 [1 + 8 n, 4, 4].
        frames: u8 [1 + 8 n, H, W, 3].
        depth: z-depth f32 [1 + 8 n, H, W] in metres, 0 = none.
        observed: bool [1 + 8 n, H, W]: the surface is visible in the start picture: its look is determined.
        seen_before: bool [1 + 8 n, H, W]: visible in the start picture or in an earlier clip.
    """

    scene: int
    K: np.ndarray
    c2w: np.ndarray
    frames: np.ndarray
    depth: np.ndarray
    observed: np.ndarray
    seen_before: np.ndarray

    @property
    def clips(self) -> int:
        """Number of clips."""
        return (len(self.frames) - 1) // FRAMES

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def clip(self, index: int) -> slice:
        """The frames of clip `index`, counted from 0."""
        return slice(1 + FRAMES * index, 1 + FRAMES * (index + 1))


def film(scene: SimScene, c2w: np.ndarray, size: tuple[int, int]) -> Truth:
    """The truth of an episode along poses c2w [1 + 8 n, 4, 4] in an open scene in which nothing happens."""
    poses = {pose.tobytes(): pose for pose in c2w}
    shots = {key: scene.render(pose, *size) for key, pose in poses.items()}
    taken = [shots[pose.tobytes()] for pose in c2w]
    frames, depth = np.stack([shot.rgb for shot in taken]), np.stack([shot.depth for shot in taken])
    K = np.asarray(scene.K(*size))
    return Truth(scene.seed, K, c2w, frames, depth, *visibility(depth, c2w, K))


def visibility(depth: np.ndarray, c2w: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels show surface that was visible before: `observed` and `seen_before` of `Truth`.

    Every fourth frame of earlier clips is looked at; neighbours overlap, and the last of each clip is among
    them.
    """
    z, poses, intrinsics = (torch.from_numpy(np.array(x)).float() for x in (depth, c2w, K))
    observed, seen_before = torch.zeros(z.shape, dtype=torch.bool), torch.zeros(z.shape, dtype=torch.bool)
    for frame in range(len(z)):
        earlier = [0, *range(4, max(1, 1 + FRAMES * ((frame - 1) // FRAMES)), 4)]
        visible = seen_from(z[frame], poses[frame], z[earlier], poses[earlier], intrinsics)
        observed[frame], seen_before[frame] = visible[0], visible.any(0)
    return observed.numpy(), seen_before.numpy()


def seen_from(depth: Tensor, c2w: Tensor, other_depth: Tensor, other_c2w: Tensor, K: Tensor) -> Tensor:
    """Whether the surface at each pixel is visible in other cameras: bool [V, H, W].

    A depth test of the true point against the other camera's true depth; the tolerance is half a pixel's
    step on a slanted floor.

    Args:
        depth: z-depth [H, W] of the frame in question.
        c2w: Its pose [4, 4].
        other_depth: z-depth [V, H, W] of the other cameras.
        other_c2w: Their poses [V, 4, 4].
        K: Intrinsics [3, 3] of all.
    """
    height, width = depth.shape
    points = unproject(depth[None], K, c2w[None])[0].reshape(-1, 3)
    uv, z = project(points, invert_se3(other_c2w), K)
    column, row = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 0.05) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    view = torch.arange(len(other_depth))[:, None].expand_as(column)
    surface = other_depth[view, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    visible = inside & (surface > 0) & ((surface - z).abs() < 0.03 + 0.02 * z)
    return (visible & (depth.reshape(1, -1) > 0)).reshape(len(other_depth), height, width)


# -- paths: poses c2w f32 [1 + 8 clips, 4, 4] from a scene's first camera


def turn(c2w: np.ndarray, degrees: Sequence[float]) -> np.ndarray:
    """A clip of turning on the spot (about the world's up axis) for each number of degrees, + to the
    right.
    """
    steps = np.repeat(np.asarray(degrees, np.float64) / FRAMES, FRAMES)
    angles = -np.radians(np.cumsum(steps))
    poses = np.repeat(np.asarray(c2w, np.float64)[None], 1 + len(angles), 0)
    for pose, angle in zip(poses[1:], angles, strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        pose[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ pose[:3, :3]
    return poses.astype(np.float32)


def slide(c2w: np.ndarray, right: float, ahead: float) -> np.ndarray:
    """One clip after `c2w` [4, 4] of moving level by metres without turning: [8, 4, 4]."""
    poses = np.repeat(np.asarray(c2w, np.float64)[None], FRAMES, 0)
    axes = np.array([c2w[:3, 0], c2w[:3, 2]], np.float64) * [1, 1, 0]
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    poses[:, :3, 3] += np.arange(1, FRAMES + 1)[:, None] / FRAMES * (right * axes[0] + ahead * axes[1])
    return poses.astype(np.float32)


def ring(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """Two full turns in steps of 45 degrees."""
    side = float(rng.choice([-1.0, 1.0]))
    poses = turn(scene.initial_c2w, [45 * side] * 8)
    # The second round is over the very same poses.
    poses[-1] = poses[0]
    return np.concatenate([poses, poses[1:]])


def corner(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """A turn of 135 degrees in three clips."""
    return turn(scene.initial_c2w, [45 * float(rng.choice([-1.0, 1.0]))] * 3)


def walk(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """Five clips: a step ahead, a turn of 40 to 70 degrees, up to 1.5 m ahead, where there is room."""
    poses = scene.initial_c2w[None]
    poses = _went(scene, rng, poses, [(0, 0.4, 0)])
    side = float(rng.choice([-1.0, 1.0]))
    for _ in range(2):
        poses = np.concatenate([poses, turn(poses[-1], [side * rng.uniform(20, 35)])[1:]])
    return _went(scene, rng, _went(scene, rng, poses, [(0, 0.5, 0)]), [(0, 0.5, 0)])


def _went(scene: SimScene, rng: np.random.Generator, poses: np.ndarray, steps: Sequence[tuple]) -> np.ndarray:
    """Poses with a level step (right, ahead, yaw) behind them; shorter where there is no room."""
    for right, ahead, yaw in steps:
        for size in (1.0, 0.7, 0.4, 0.15):
            clip = slide(poses[-1], size * right, size * ahead)
            if scene.is_free(clip[-1, :3, 3], CLEARANCE) or size == 0.15:
                break
        if yaw:
            clip[:, :3, :3] = turn(poses[-1], [yaw])[1:, :3, :3]
        poses = np.concatenate([poses, clip])
    return poses


def aside(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """Turn by 90 degrees to a place nobody has seen, then go 1 m aside in two clips, looking back at it by
    20 degrees.
    """
    side = float(rng.choice([-1.0, 1.0]))
    poses = turn(scene.initial_c2w, [45 * side] * 2)
    best = None
    for way in (1.0, -1.0):
        out = _went(scene, rng, poses, [(0.5 * way, 0, -10 * way), (0.5 * way, 0, -10 * way)])
        reach = np.linalg.norm(out[-1, :3, 3] - poses[-1, :3, 3])
        if best is None or reach > best[0]:
            best = reach, out
    assert best is not None
    return np.asarray(best[1])


def loop(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """Out for two clips (turn, ahead) and back over the same poses."""
    side = float(rng.choice([-1.0, 1.0]))
    out = _went(scene, rng, turn(scene.initial_c2w, [side * rng.uniform(25, 35)]), [(0, 0.4, side * 10)])
    return np.concatenate([out, out[:-1][::-1]])


def square(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """Around a square on the floor without turning: a way back that is not the way out."""
    start = scene.initial_c2w
    best = np.repeat(start[None], 1 + 4 * FRAMES, 0)
    for size in (1.0, 0.7, 0.45, 0.25):
        for side in (1.0, -1.0):
            poses = start[None]
            for right, ahead in ((0.4, 0), (0, 0.4), (-0.4, 0), (0, -0.4)):
                poses = np.concatenate([poses, slide(poses[-1], side * size * right, size * ahead)])
            if all(scene.is_free(pose[:3, 3], CLEARANCE) for pose in poses[4::4]):
                poses[-1] = start
                return poses
            best = poses
    best[-1] = start
    return best


EXCURSIONS = (1, 2, 5)
"""Clips that each excursion of `drift` goes out."""


def drift(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """Excursions, each back over its own poses: at the start again after 2, 6 and 16 clips."""
    poses = scene.initial_c2w[None]
    for count in EXCURSIONS:
        out = scene.initial_c2w[None]
        side = float(rng.choice([-1.0, 1.0]))
        for number in range(count):
            if number % 2 == 0:
                out = np.concatenate([out, turn(out[-1], [side * rng.uniform(16, 24)])[1:]])
            else:
                out = _went(scene, rng, out, [(0, 0.4, 0)])
        poses = np.concatenate([poses, out[1:], out[:-1][::-1]])
    return poses


def straight(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """Seven metres straight on in 14 clips, whatever is there."""
    poses = scene.initial_c2w[None]
    for _ in range(14):
        poses = np.concatenate([poses, slide(poses[-1], 0, 0.5)])
    return poses


def glance(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """Two clips: a little aside and ahead, and back over the same poses."""
    twist = torch.tensor([rng.choice([-0.2, 0.2]), 0, 0.15, 0, np.radians(rng.uniform(-8, 8)), 0]).float()
    out = path_from_twist(torch.from_numpy(scene.initial_c2w.copy()), twist, FRAMES).numpy()
    poses = np.concatenate([scene.initial_c2w[None], out])
    return np.concatenate([poses, poses[:-1][::-1]])


Maker = Callable[[SimScene, np.random.Generator], np.ndarray]
PATHS: dict[str, Maker] = {
    "ring": ring, "corner": corner, "walk": walk, "aside": aside, "loop": loop, "square": square, "drift": drift,
    "straight": straight, "glance": glance,
}  # fmt: skip
"""Camera paths by name; a path is decided by its scene's seed and its name."""


def path_of(scene: SimScene, name: str) -> np.ndarray:
    """The poses [1 + 8 n, 4, 4] of a path in a scene."""
    return PATHS[name](scene, np.random.default_rng([scene.seed, 5113, sum(map(ord, name))]))
