"""Episodes with their truth: where the camera goes in a scene, and what the simulator sees there.

An episode is decided by its scene seed and its kind alone. Index 0 of every array is the start picture; clip
i covers frames 1 + 8 i to 8 + 8 i. Truth never enters a tested row; `rows` hands over the start picture only.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.bench.paths import (
    CLEARANCE,
    FRAMES,
    MAKERS,
    gentle_path,
    loop_path,
    turning_path,
    walk_path,
    zero_path,
)
from spatia_env.geometry import invert_se3, project, unproject
from spatia_env.sim.scenes import SimScene

__all__ = [
    "CLEARANCE", "FRAMES", "Truth", "film", "generator", "gentle_path", "loop_path", "record", "seen_from",
    "turning_path", "visibility", "walk_path", "zero_path",
]  # fmt: skip

_SALTS = {"event": 4, "leakage": 5, **{kind: salt for kind, (salt, _) in MAKERS.items()}}


@dataclass(frozen=True)
class Truth:
    """What the simulator says about an episode of n clips.

    Attributes:
        scene: The seed.
        prompt: The scene's description.
        K: Intrinsics [3, 3] in pixels.
        c2w: Poses f32 [1 + 8 n, 4, 4].
        frames: u8 [1 + 8 n, H, W, 3].
        depth: z-depth f32 [1 + 8 n, H, W] in metres, 0 = none.
        observed: bool [1 + 8 n, H, W]: the surface is visible in the start picture: its look is determined.
        seen_before: bool [1 + 8 n, H, W]: visible in the start picture or in a frame of an earlier clip.
    """

    scene: int
    prompt: str
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


def record(scene: int, kind: str, size: tuple[int, int], clips: int = 4) -> Truth:
    """The truth of an episode along a path of this kind (`paths.MAKERS`), in a scene opened for it.

    Args:
        scene: Scene seed.
        kind: Which path.
        size: (height, width) in pixels.
        clips: Number of clips.

    Raises:
        ValueError: A kind that does not exist, or one that cannot have so many clips.
    """
    if kind not in MAKERS:
        raise ValueError(f"episode kind {kind!r}: there are {', '.join(MAKERS)}.")
    with SimScene(scene) as simulated:
        return film(simulated, kind, size, clips)


def film(simulated: SimScene, kind: str, size: tuple[int, int], clips: int = 4) -> Truth:
    """The truth of an episode in an open scene in which nothing has happened; raises as `record` does."""
    c2w = MAKERS[kind][1](simulated, generator(simulated.seed, kind), clips).numpy()
    # Loops and rests come back to the same poses: each is rendered once.
    poses = {pose.tobytes(): pose for pose in c2w}
    shots = {key: simulated.render(pose, *size) for key, pose in poses.items()}
    taken = [shots[pose.tobytes()] for pose in c2w]
    frames, depth = np.stack([shot.rgb for shot in taken]), np.stack([shot.depth for shot in taken])
    K = np.asarray(simulated.K(*size))
    observed, seen_before = visibility(depth, c2w, K)
    return Truth(simulated.seed, simulated.prompt, K, c2w, frames, depth, observed, seen_before)


def generator(scene: int, kind: str) -> np.random.Generator:
    """The random numbers that decide an episode."""
    return np.random.default_rng([scene, 5113, _SALTS[kind]])


# -- what was seen


def visibility(depth: np.ndarray, c2w: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels show surface that was visible before: `observed` and `seen_before` of `Truth`.

    Args:
        depth: True z-depth [1 + 8 n, H, W] in metres.
        c2w: Poses [1 + 8 n, 4, 4].
        K: Intrinsics [3, 3].
    """
    z, poses, intrinsics = (
        torch.from_numpy(depth).float(),
        torch.from_numpy(c2w).float(),
        torch.from_numpy(K).float(),
    )
    observed, seen_before = torch.zeros(z.shape, dtype=torch.bool), torch.zeros(z.shape, dtype=torch.bool)
    for frame in range(len(z)):
        # Frames of a clip are made at once: only the start and earlier clips come before. Every fourth frame
        # of
        # those is enough, as neighbours overlap; the last of each clip is among them.
        earlier = [0, *range(4, max(1, 1 + FRAMES * ((frame - 1) // FRAMES)), 4)]
        visible = seen_from(z[frame], poses[frame], z[earlier], poses[earlier], intrinsics)
        observed[frame], seen_before[frame] = visible[0], visible.any(0)
    return observed.numpy(), seen_before.numpy()


def seen_from(depth: Tensor, c2w: Tensor, other_depth: Tensor, other_c2w: Tensor, K: Tensor) -> Tensor:
    """Whether the surface at each pixel is visible in other cameras: bool [V, H, W].

    A depth test of the true point against the other camera's true depth; the tolerance is half a pixel's step
    on a slanted floor.

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
