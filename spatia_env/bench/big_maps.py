"""Large maps with known content, for probes of cost: closed box rooms side by side, and clips filmed in them.

Every room is the same room, moved by whole blocks; so a map of a hundred rooms is made in seconds, and what one
camera sees of it does not depend on how many rooms there are.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import intrinsics_from_fov, look_at, path_from_twist, pixel_rays
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory import blocks as blk
from spatia_env.memory.editing import start_from
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory
from spatia_env.world.state import WorldState
from spatia_env.world.world import World

SIZE = (128, 128)
HALF = np.array([2.0, 2.5, 1.4])
"""Metres from the middle of a room to its walls."""
PITCH = 12
"""Blocks from one room to the next: 6 m."""
NOISE = 0.003
"""Metres by which depth errs: points of real clips are not on a grid."""


@dataclass(frozen=True)
class Clip:
    """Eight frames of a room: what `World.remember` and `SceneMemory.update` take."""

    rgb: Tensor
    depth: Tensor
    path: Tensor
    K: Tensor


def room_map(points: int, seed: int = 0) -> SceneMemory:
    """A map of about `points` points on the six sides of one room around the origin, voxels of 1 cm."""
    rng = np.random.default_rng(seed)
    sides = HALF[[1, 2, 0]] * HALF[[2, 0, 1]] * 4  # areas of the sides across x, y and z
    positions = []
    for axis, area in enumerate(sides):
        for sign in (-1, 1):
            count = round(1.08 * points * area / (2 * sides.sum()))  # some fall into voxels that are taken
            position = rng.uniform(-HALF, HALF, (count, 3))
            position[:, axis] = sign * HALF[axis] + rng.normal(0, NOISE, count)
            positions.append(position)
    position = np.concatenate(positions)
    count = len(position)
    cloud = PointCloud(
        position.astype(np.float32),
        (colour_of(position) * 255 + rng.normal(0, 3, (count, 3))).clip(0, 255).astype(np.uint8),
        rng.uniform(0.1, 20, count).astype(np.float32),
        rng.uniform(0.008, 0.03, count).astype(np.float32),
    )
    return start_from(SceneMemory(max_points=50_000_000), cloud)


def rooms_map(rooms: int, points: int) -> SceneMemory:
    """`rooms` rooms of `points` points each: one around the origin, the others in rows behind it (towards -X)."""
    first = room_map(points)
    blocks = dict(first.blocks)
    row = math.ceil(math.sqrt(rooms))
    for number in range(1, rooms):
        shift = np.array([-(1 + (number - 1) // row) * PITCH, ((number - 1) % row - row // 2) * PITCH, 0])
        keys = blk.pack_blocks(blk.unpack_blocks(np.array(list(first.blocks))) + shift)
        for key, block in zip(keys.tolist(), first.blocks.values(), strict=True):
            moved = block.copy()
            moved["position"] += (shift * first.block).astype(np.float32)
            blocks[key] = blk.freeze(moved)
    empty = SceneMemory(max_points=first.max_points)
    return empty.with_blocks(blocks)


def colour_of(position: np.ndarray) -> np.ndarray:
    """A smooth texture of world positions [..., 3] -> RGB [..., 3] in [0, 1]."""
    phase = position @ np.array([[3.0, 1.0, 2.0], [-1.0, 4.0, 2.5], [2.0, -3.0, 3.5]])
    return 0.5 + 0.4 * np.sin(phase)


def film_room(turn: float = 0.0, seed: int = 0, size: tuple[int, int] = SIZE) -> Clip:
    """A clip in the room at the origin that looks `turn` radians from +X and moves a little, with noisy depth."""
    eye = torch.tensor([-0.5, 0.1, 0.1])
    start = look_at(eye, eye + torch.tensor([math.cos(turn), math.sin(turn), -0.1]))
    path = path_from_twist(start, torch.tensor([0.1, 0.0, 0.2, 0.0, 0.1, 0.0]), 8)
    K = intrinsics_from_fov(60, *size)
    rays = torch.einsum("tij,hwj->thwi", path[:, :3, :3], pixel_rays(K, *size))
    origin, half = path[:, None, None, :3, 3], torch.from_numpy(HALF).float()
    away = torch.where(rays > 0, half - origin, -half - origin) / torch.where(rays.abs() < 1e-9, 1e-9, rays)
    depth = away.amin(-1)
    noise = np.random.default_rng(seed).normal(0, NOISE, depth.shape).astype(np.float32)
    rgb = torch.from_numpy(colour_of((origin + depth[..., None] * rays).numpy())).float().movedim(-1, 1)
    return Clip(rgb, depth + torch.from_numpy(noise), path, K)


def world_of(memory: SceneMemory, clip: Clip, keyframes: int = 2) -> World:
    """A world with this map that has just filmed the clip."""
    frames = (clip.rgb * 255).round().clamp(0, 255).byte().movedim(1, -1).contiguous()
    kept = tuple(
        Keyframe(frames[i].clone(), clip.depth[i].half(), clip.path[i].clone(), 0) for i in range(keyframes)
    )
    height, width = clip.depth.shape[-2:]
    state = WorldState(
        memory, kept, clip.path[-1], clip.path[0], clip.K, (height, width), "rooms", frames[-4:].clone(),
        clip.depth[-1], seed=0,
    )  # fmt: skip
    return World(state)


def next_state(world: World, clip: Clip) -> WorldState:
    """The world's state after the clip was remembered."""
    frames = (clip.rgb * 255).round().clamp(0, 255).byte().movedim(1, -1).contiguous()
    view = world.render(clip.path)
    return world.remember(frames, clip.depth, torch.ones_like(clip.depth), clip.path, view, write=True)[0]
