"""The storage unit of the map: cubes of space ("blocks") that hold at most one point per voxel.

A block is a read-only structured NumPy array sorted by voxel, 36 bytes a point. Nothing here ever changes a
block in place, which is what makes snapshots, forks and undo free. Blocks are found by a packed integer key.
"""

import numpy as np

POINT = np.dtype(
    [
        ("voxel", "<i4"),  # index of the voxel inside its block
        ("position", "<f4", (3,)),  # world, metres
        ("weight", "<f4"),  # accumulated confidence
        ("colour", "u1", (3,)),
        ("layer", "u1"),  # 0 observed, 1 edited by the user
        ("radius", "<f2"),  # metres between the samples that the point stands for
        ("views", "<u2"),  # how many times it was seen
        ("first_step", "<i4"),
        ("last_step", "<i4"),
    ]
)
_BITS = 14
_OFFSET = 1 << (_BITS - 1)
MAX_BLOCK = _OFFSET - 1
"""Block coordinates lie within plus or minus this (about 4 km at 0.5 m): points beyond are refused."""


def pack_blocks(coordinates: np.ndarray) -> np.ndarray:
    """Keys i64 [n] of integer block coordinates [n, 3], each within `MAX_BLOCK` of 0."""
    shifted = coordinates.astype(np.int64) + _OFFSET
    return (shifted[:, 0] << (2 * _BITS)) | (shifted[:, 1] << _BITS) | shifted[:, 2]


def unpack_blocks(keys: np.ndarray) -> np.ndarray:
    """Integer block coordinates i64 [n, 3] of keys [n]; the inverse of `pack_blocks`."""
    keys = np.asarray(keys, dtype=np.int64)
    mask = (1 << _BITS) - 1
    return np.stack([keys >> (2 * _BITS), (keys >> _BITS) & mask, keys & mask], axis=-1) - _OFFSET


def locate(position: np.ndarray, voxel: float, voxels_per_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Block keys i64 [n] and voxel indices i64 [n] within them of world positions f32 [n, 3].

    Positions further than `MAX_BLOCK` blocks from the origin must have been removed before.
    """
    cell = np.floor(position.astype(np.float64) / voxel).astype(np.int64)
    block = cell // voxels_per_side
    local = cell - block * voxels_per_side
    index = (local[:, 0] * voxels_per_side + local[:, 1]) * voxels_per_side + local[:, 2]
    return pack_blocks(block), index


def freeze(block: np.ndarray) -> np.ndarray:
    """The same array, marked read-only."""
    block.flags.writeable = False
    return block


EMPTY = freeze(np.empty(0, dtype=POINT))
