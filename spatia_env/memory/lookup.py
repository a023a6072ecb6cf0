"""Finding the blocks near something without looking at the whole map."""

import numpy as np

from spatia_env.memory import blocks as blk
from spatia_env.memory.point_map import SceneMemory


def keys_in_box(memory: SceneMemory, low: np.ndarray, high: np.ndarray) -> list[int]:
    """Sorted keys of the map's blocks that meet the box from `low` [3] to `high` [3] metres."""
    # A voxel wider, since a point on the border of two blocks may be in either.
    first = np.floor((np.asarray(low, np.float64) - memory.voxel) / memory.block)
    last = np.floor((np.asarray(high, np.float64) + memory.voxel) / memory.block)
    first = np.clip(first, -blk.MAX_BLOCK - 1, blk.MAX_BLOCK + 1).astype(np.int64)
    last = np.clip(last, -blk.MAX_BLOCK - 2, blk.MAX_BLOCK).astype(np.int64)
    sides = last - first + 1
    if (sides <= 0).any():
        return []
    if np.prod(sides.astype(np.float64)) <= 2 * len(memory.blocks) + 64:
        grid = np.indices(tuple(sides.tolist())).reshape(3, -1).T + first
        return [key for key in blk.pack_blocks(grid).tolist() if key in memory.blocks]
    keys = np.sort(np.fromiter(memory.blocks, dtype=np.int64, count=len(memory.blocks)))
    at = blk.unpack_blocks(keys)
    return keys[((at >= first) & (at <= last)).all(-1)].tolist()


def keys_along(memory: SceneMemory, start: np.ndarray, end: np.ndarray, reach: float) -> list[int]:
    """Keys of the map's blocks within `reach` metres of the segment, those nearer to its start first."""
    length = float(np.linalg.norm(end - start))
    half = reach + memory.block / 4
    samples = np.linspace(0, 1, int(np.ceil(length / (memory.block / 2))) + 1)
    centres = start + samples[:, None] * (end - start)
    # Cubes of half-width `half` around samples half a block apart cover everything within `reach` of the segment.
    spans = np.arange(int(np.ceil(2 * half / memory.block)) + 1)
    offsets = np.minimum(spans * memory.block, 2 * half) - half
    corners = np.stack(np.meshgrid(offsets, offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 3)
    cells = np.floor((centres[:, None] + corners).reshape(-1, 3) / memory.block)
    inside = (np.abs(cells) <= blk.MAX_BLOCK).all(-1)
    found = dict.fromkeys(blk.pack_blocks(cells[inside]).tolist())
    return [key for key in found if key in memory.blocks]


def gather(memory: SceneMemory, keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of these blocks in one array, and where each block begins [len(keys) + 1]."""
    owned = [memory.blocks[key] for key in keys]
    bounds = np.cumsum([0, *(len(block) for block in owned)])
    return blk.concatenate(owned), bounds
