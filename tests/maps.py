"""Small maps for tests: the analytic room of `rooms`, seen by a few clips, and slow, obvious helpers."""

import math

import numpy as np
import torch

from rooms import room_view
from spatia_env.geometry import intrinsics_from_fov, look_at, path_from_twist
from spatia_env.memory import blocks as blk
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory

HEIGHT, WIDTH = 24, 32
K = intrinsics_from_fov(60, HEIGHT, WIDTH)


def view_at(turn: float, eye=(0.2, -0.1, 0.05)) -> torch.Tensor:
    """A level camera c2w [4, 4] that looks `turn` radians around the vertical."""
    eye = torch.tensor(eye)
    return look_at(eye, eye + torch.tensor([math.cos(turn), math.sin(turn), -0.1]))


def clip_at(turn: float, frames: int = 3, noise: float = 0.0, seed: int = 0, height=HEIGHT, width=WIDTH):
    """RGB, depth, weight, path and K of a short clip in the room."""
    generator = torch.Generator().manual_seed(seed)
    lens = intrinsics_from_fov(60, height, width)
    path = path_from_twist(view_at(turn), torch.tensor([0.1, 0.0, 0.2, 0.0, 0.2, 0.0]), frames)
    rgb, depth = room_view(path, lens, height, width)
    depth = depth * (1 + noise * torch.randn(depth.shape, generator=generator))
    weight = 0.3 + 0.7 * torch.rand(depth.shape, generator=generator)
    return rgb, depth, weight, path, lens


def room_map(clips: int = 3, memory: SceneMemory | None = None, first: int = 0, **settings) -> SceneMemory:
    """A map of the room after some clips at steps `first`, `first` + 1, ..."""
    memory = memory or SceneMemory(**{"voxel": 0.02, **settings})
    for step in range(first, first + clips):
        memory, _ = memory.update(*clip_at(1.1 * step, noise=0.002, seed=step), step=step)
    return memory


def keyframes_of(turns) -> list[Keyframe]:
    """Keyframes of the room, with its true depth."""
    found = []
    for step, turn in enumerate(turns):
        rgb, depth = room_view(view_at(turn)[None], K, HEIGHT, WIDTH)
        frame = (rgb[0].movedim(0, -1) * 255).round().to(torch.uint8)
        found.append(Keyframe(frame.contiguous(), depth[0].half(), view_at(turn), step))
    return found


def map_of_points(position, colour=None, radius=0.02, step=0, **settings) -> SceneMemory:
    """A map with one layer-0 point for each given position (which must lie in different voxels)."""
    memory = SceneMemory(**{"voxel": 0.02, **settings})
    position = np.asarray(position, np.float32).reshape(-1, 3)
    key, local = blk.locate(position, memory.voxel, memory.voxels_per_side)
    rows = np.zeros(len(position), blk.POINT)
    rows["position"], rows["voxel"], rows["weight"], rows["views"] = position, local, 1, 1
    rows["colour"] = 128 if colour is None else colour
    rows["radius"], rows["first_step"], rows["last_step"] = radius, step, step
    blocks = {}
    for one in np.unique(key).tolist():
        mine = rows[key == one]
        blocks[one] = blk.freeze(mine[np.argsort(mine["voxel"], kind="stable")])
        assert len(np.unique(mine["voxel"])) == len(mine)
    return memory.with_blocks(blocks)


def grid_points(low, high, spacing=0.02) -> np.ndarray:
    """Points [n, 3] on a regular grid, half a spacing off the borders of its voxels."""
    axes = [
        np.arange(a + spacing / 2, b, spacing) if b > a else np.array([a])
        for a, b in zip(low, high, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def same_map(a: SceneMemory, b: SceneMemory) -> bool:
    """Whether two maps hold the same points, bit for bit, in the same blocks."""
    keys = sorted(a.blocks)
    return keys == sorted(b.blocks) and all(a.blocks[k].tobytes() == b.blocks[k].tobytes() for k in keys)
