"""Move what some steps have written, after a closed loop has told where their cameras really were.

Every point carries the step that first wrote it. Points of corrected steps are moved rigidly and sorted into
voxels again; untouched blocks are shared with the old map. What an edit wrote stays where the user put it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from spatia_env.memory import blocks as blk
from spatia_env.memory.fusion import MAX_WEIGHT

if TYPE_CHECKING:
    from spatia_env.memory.scene import SceneMemory


def warp_steps(memory: "SceneMemory", corrections: Mapping[int, Tensor]) -> "SceneMemory":
    """A map in which the points first written by step s are moved by `corrections[s]` [4, 4] (world).

    Args:
        memory: The map; it stays as it was.
        corrections: Rigid transforms of the world by step; other steps' points stay.
    """
    steps = np.array(sorted(corrections), np.int64)
    if not len(steps):
        return memory
    changed, moved = {}, []
    for key in sorted(memory.blocks):
        block = memory.blocks[key]
        moves = np.isin(block["first_step"], steps) & (block["layer"] == 0)
        if moves.any():
            changed[key] = block[~moves]
            moved.append(block[moves])
    if not moved:
        return memory
    rows = np.concatenate(moved)
    rows["position"] = _moved(rows, corrections)
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
