"""Episodes with their truth: where the camera goes in a scene, and what the simulator sees there.

An episode is decided by its scene seed and its kind alone. Index 0 of every array is the start picture; clip
i covers frames 1 + 8 i to 8 + 8 i. Truth never enters a tested row; `rows` hands over the start picture only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.cameras import invert_se3, path_from_twist, project, unproject
from spatia_env.sim.scenes import SimScene

FRAMES = 8
CLEARANCE = 0.3
"""Metres that stay free around the camera."""
MAX_TURN = 50.0
"""Degrees that a walk may turn away from its start, so that some of what was given stays in sight."""
_TRIES = 60
_SALTS = {"walk": 1, "loop": 2, "zero": 3, "event": 4, "leakage": 5}


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
    """The truth of an episode of this kind: "walk", "loop", "zero" (two walking clips, then `clips` - 2 of
    rest).

    Args:
        scene: Scene seed.
        kind: Which path.
        size: (height, width) in pixels.
        clips: Number of clips.

    Raises:
        ValueError: A kind that does not exist, or a loop with an odd number of clips.
    """
    makers: dict[str, Callable[[SimScene, np.random.Generator, int], Tensor]] = {
        "walk": walk_path, "loop": loop_path, "zero": zero_path,
    }  # fmt: skip
    if kind not in makers:
        raise ValueError(f"episode kind {kind!r}: there are {', '.join(makers)}.")
    with SimScene(scene) as simulated:
        c2w = makers[kind](simulated, generator(scene, kind), clips)
        shots = [simulated.render(pose, *size) for pose in c2w.numpy()]
        K, prompt = np.asarray(simulated.K(*size)), simulated.prompt
    frames, depth = np.stack([s.rgb for s in shots]), np.stack([s.depth for s in shots])
    observed, seen_before = visibility(depth, c2w.numpy(), K)
    return Truth(scene, prompt, K, c2w.numpy(), frames, depth, observed, seen_before)


def generator(scene: int, kind: str) -> np.random.Generator:
    """The random numbers that decide an episode."""
    return np.random.default_rng([scene, 5113, _SALTS[kind]])


# -- paths
# ------------------------------------------------------------------------------------------------------


def walk_path(scene: SimScene, rng: np.random.Generator, clips: int) -> Tensor:
    """Poses [1 + 8 clips, 4, 4] that look around and walk through free space: turns, steps ahead and to the
    side.
    """
    poses, turned = _start(scene), 0.0
    order: list[str] = []
    while len(order) < clips:
        order += [str(kind) for kind in rng.permutation(["turn", "ahead", "side", "turn"])]
    for kind in order[:clips]:
        twist, path = _free_twist(scene, rng, poses[-1], kind, turned)
        turned += float(np.degrees(twist[4]))
        poses = torch.cat([poses, path])
    return poses


def loop_path(scene: SimScene, rng: np.random.Generator, clips: int) -> Tensor:
    """Poses [1 + 8 clips, 4, 4] that go out for half of the clips and return over the same poses to the
    start.
    """
    if clips < 2 or clips % 2:
        raise ValueError(f"loop: needs an even number of clips, got {clips}.")
    best, best_reach = _start(scene), -1.0
    for _ in range(12):
        poses, turned, side = _start(scene), 0.0, float(rng.choice([-1.0, 1.0]))
        for number in range(clips // 2):
            # One clip turns, the other walks; both to the same side, so that the excursion leaves the view.
            twist, path = _free_twist(scene, rng, poses[-1], ("turn", "ahead")[number % 2], turned, side)
            turned += float(np.degrees(twist[4]))
            poses = torch.cat([poses, path])
        reach = abs(turned) / 30 + float((poses[-1] - poses[0])[:3, 3].norm())
        if reach > best_reach and len(poses) > 1:
            best, best_reach = poses, reach
    return torch.cat([best, best[:-1].flip(0)])


def zero_path(scene: SimScene, rng: np.random.Generator, clips: int) -> Tensor:
    """Poses [1 + 8 clips, 4, 4]: two clips of walking, then the camera rests."""
    poses = walk_path(scene, rng, min(2, clips))
    return torch.cat([poses, poses[-1:].expand(FRAMES * max(0, clips - 2), 4, 4)])


def gentle_path(c2w: Tensor, rng: np.random.Generator, clips: int = 1) -> Tensor:
    """Poses [8 clips, 4, 4] after `c2w` [4, 4]: a camera that turns on the spot, up to 6 degrees a clip."""
    side = float(rng.choice([-1.0, 1.0]))
    poses = c2w[None]
    for _ in range(clips):
        twist = torch.tensor([0, 0, 0, 0, side * np.radians(rng.uniform(2, 6)), 0], dtype=torch.float32)
        poses = torch.cat([poses, path_from_twist(poses[-1], twist, FRAMES)])
        side = -side
    return poses[1:]


def turning_path(scene: SimScene, c2w: Tensor, rng: np.random.Generator) -> Tensor:
    """Poses [16, 4, 4] after `c2w` [4, 4]: a turn of 16 to 28 degrees, then a gentle one."""
    _, turn = _free_twist(scene, rng, c2w, "turn", 0.0)
    return torch.cat([turn, gentle_path(turn[-1], rng)])


def _start(scene: SimScene) -> Tensor:
    return torch.from_numpy(np.array(scene.initial_c2w, dtype=np.float32))[None]


def _free_twist(
    scene: SimScene, rng: np.random.Generator, c2w: Tensor, kind: str, turned: float, side: float = 0.0
) -> tuple[np.ndarray, Tensor]:
    """A twist [6] of this kind whose path [8, 4, 4] stays in free space; smaller ones after many misses."""
    for attempt in range(_TRIES):
        twist = _draw_twist(rng, kind, side) * (1.0 if attempt < _TRIES // 2 else 0.5)
        if abs(turned + np.degrees(twist[4])) > MAX_TURN:
            continue
        path = path_from_twist(c2w, torch.tensor(twist, dtype=torch.float32), FRAMES)
        if all(scene.is_free(pose[:3, 3].numpy(), CLEARANCE) for pose in path[[3, 7]]):
            return twist, path
    # Turning on the spot needs no room; back towards the start keeps what was given in sight.
    twist = np.array([0, 0, 0, 0, -np.sign(turned or 1.0) * np.radians(12.0), 0])
    return twist, path_from_twist(c2w, torch.tensor(twist, dtype=torch.float32), FRAMES)


def _draw_twist(rng: np.random.Generator, kind: str, side: float) -> np.ndarray:
    """A twist in metres and radians; yaw and sideways steps go to `side` (-1, 1), or to a random one at 0."""
    sign = side or float(rng.choice([-1.0, 1.0]))
    degrees = np.radians
    if kind == "turn":
        return np.array([0, 0, 0, degrees(rng.uniform(-4, 4)), sign * degrees(rng.uniform(16, 28)), 0])
    if kind == "ahead":
        return np.array([0, 0, rng.uniform(0.25, 0.45), 0, sign * degrees(rng.uniform(2, 10)), 0])
    return np.array(
        [sign * rng.uniform(0.2, 0.4), 0, rng.uniform(-0.1, 0.1), 0, -sign * degrees(rng.uniform(2, 10)), 0]
    )


# -- what was seen
# ----------------------------------------------------------------------------------------------


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
