"""Deform the map: rigidly by step, after a loop closure corrected camera poses (`warp_steps`); along the rays of a
picture, after its depth was refined (`slide`).

Every point carries the step that first wrote it. Points that move are sorted into voxels again; untouched blocks are
shared with the old map. Points of layer 1 (edited) do not move.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import invert_se3
from spatia_env.memory import blocks as blk
from spatia_env.memory.fusion import MAX_WEIGHT
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.rendering import pixels_at
from spatia_env.memory.splatting import surface_tolerance


def warp_steps(memory: SceneMemory, corrections: Mapping[int, Tensor]) -> SceneMemory:
    """A map in which the points first written by step s are moved by `corrections[s]` [4, 4] (world).

    Args:
        memory: The map; it stays as it was.
        corrections: Rigid transforms of the world by step; other steps' points stay.
    """
    steps = np.array(sorted(corrections), np.int64)
    if not len(steps):
        return memory
    return _relocated(
        memory,
        memory.blocks,
        lambda rows: np.isin(rows["first_step"], steps),
        lambda rows: _moved(rows, corrections),
    )


def slide(
    memory: SceneMemory, c2w: Tensor, K: Tensor, depth: Tensor, factor: Tensor, first_step: int = 0
) -> SceneMemory:
    """A map in which the points that a picture shows lie at another depth, on the same rays.

    Args:
        memory: The map; it stays as it was.
        c2w: The picture's pose [4, 4].
        K: Intrinsics [3, 3] in pixels.
        depth: z-depth [H, W] in metres that the picture was taken to have, 0 = none.
        factor: What it is multiplied by [H, W].
        first_step: Points that an earlier step wrote stay where they are.
    """
    keys = memory.visible_keys(c2w[None], K, *depth.shape)

    def points_and_scale(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        points = torch.from_numpy(rows["position"].copy())
        return points, scaled(points, c2w, K, depth, factor)

    def move(rows: np.ndarray) -> np.ndarray:
        points, scale = points_and_scale(rows)
        return torch.lerp(c2w[:3, 3].expand_as(points), points, scale[:, None]).numpy()

    return _relocated(
        memory,
        keys.tolist(),
        lambda rows: (points_and_scale(rows)[1] != 1).numpy() & (rows["first_step"] >= first_step),
        move,
    )


def scaled(points: Tensor, c2w: Tensor, K: Tensor, depth: Tensor, factor: Tensor) -> Tensor:
    """By how much [n] the distance of points [n, 3] from a camera changes with the depth of its picture; 1 for those
    that it does not show. See `slide`.
    """
    found = pixels_at(points, invert_se3(c2w[None]), K, *depth.shape)
    row, column, z, inside = (values[0] for values in found)
    surface = depth[row, column]
    shown = inside & (surface > 0) & ((surface - z).abs() < surface_tolerance(z))
    return torch.where(shown, factor[row, column], torch.ones_like(z))


def _relocated(
    memory: SceneMemory,
    keys: Iterable[int],
    moves: Callable[[np.ndarray], np.ndarray],
    move: Callable[[np.ndarray], np.ndarray],
) -> SceneMemory:
    """A map in which some observed points of the blocks `keys` are elsewhere: bool [n] and positions [n, 3] of rows."""
    changed, moved = {}, []
    for key in sorted(keys):
        block = memory.blocks[key]
        which = moves(block) & (block["layer"] == 0)
        if which.any():
            changed[key] = block[~which]
            moved.append(block[which])
    if not moved:
        return memory
    rows = np.concatenate(moved)
    rows["position"] = move(rows)
    limit = blk.MAX_BLOCK * memory.block * 0.99
    rows = rows[np.abs(rows["position"]).max(1) < limit]
    keys, rows["voxel"] = blk.locate(rows["position"], memory.voxel, memory.voxels_per_side)
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    bounds = np.flatnonzero(np.diff(keys, prepend=-1))
    for start, end in zip(bounds, np.append(bounds[1:], len(keys)), strict=True):
        key = int(keys[start])
        stayed = changed.get(key, memory.blocks.get(key, blk.EMPTY))
        changed[key] = np.concatenate([stayed, rows[start:end]])
    return memory.with_blocks({key: blk.freeze(one_per_voxel(block)) for key, block in changed.items()})


def _moved(rows: np.ndarray, corrections: Mapping[int, Tensor]) -> np.ndarray:
    position = rows["position"].astype(np.float64)
    for step in np.unique(rows["first_step"]).tolist():
        matrix = corrections[step].double().numpy()
        mine = rows["first_step"] == step
        position[mine] = position[mine] @ matrix[:3, :3].T + matrix[:3, 3]
    return position.astype(np.float32)


def one_per_voxel(rows: np.ndarray) -> np.ndarray:
    """Points [n] of one block, sorted by voxel; those of one voxel merged by their weights.

    A point of an edit is never moved nor recoloured: it stands for its voxel.
    """
    # Edited points come first in their voxel, then the order is that of the input.
    rows = rows[np.lexsort((rows["layer"] == 0, rows["voxel"]))]
    starts = np.flatnonzero(np.diff(rows["voxel"].astype(np.int64), prepend=-1))
    if len(starts) == len(rows):
        return rows.copy()
    out = rows[starts].copy()
    weight = np.maximum(rows["weight"].astype(np.float64), 1e-12)
    total = np.add.reduceat(weight, starts)
    free = out["layer"] == 0
    position = np.add.reduceat(rows["position"] * weight[:, None], starts) / total[:, None]
    colour = np.add.reduceat(rows["colour"] * weight[:, None], starts) / total[:, None]
    out["position"][free] = position[free]
    out["colour"][free] = np.rint(colour[free])
    out["weight"] = np.where(free, np.minimum(total, MAX_WEIGHT), out["weight"])
    out["radius"] = np.where(free, np.minimum.reduceat(rows["radius"], starts), out["radius"])
    views = np.minimum(np.add.reduceat(rows["views"].astype(np.int64), starts), 65535)
    out["views"] = views
    out["first_step"] = np.minimum.reduceat(rows["first_step"], starts)
    out["last_step"] = np.maximum.reduceat(rows["last_step"], starts)
    return out
