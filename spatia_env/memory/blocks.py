"""The storage unit of the map: cubes of space ("blocks") that hold at most one point per voxel.

A block is a read-only structured NumPy array sorted by voxel, 36 bytes a point. Nothing here ever changes a
block in place, which is what makes snapshots, forks and undo free. Blocks are found by a packed integer key.
"""

from collections.abc import Sequence

import numpy as np

POINT = np.dtype(
    [
        ("voxel", "<i4"),  # index of the voxel inside its block
        ("position", "<f4", (3,)),  # world, metres
        ("weight", "<f4"),  # accumulated confidence
        ("colour", "u1", (3,)),
        ("layer", "u1"),  # OBSERVED, EDITED or IMAGINED
        ("radius", "<f2"),  # metres between the samples that the point stands for
        ("views", "<u2"),  # how many times it was seen
        ("first_step", "<i4"),
        ("last_step", "<i4"),
    ]
)
OBSERVED, EDITED, IMAGINED = 0, 1, 2
"""Layers of points: seen by a clip or given; written by an edit; made up where nobody has looked."""
_ROW = np.dtype((np.void, POINT.itemsize))
_BITS = 14
_OFFSET = 1 << (_BITS - 1)
MAX_BLOCK = _OFFSET - 1
"""Block coordinates lie within plus or minus this (about 4 km at 0.5 m): points beyond are refused."""
MIN_VOXEL, MAX_VOXELS_PER_SIDE = 1e-4, 1000
"""Voxels are at least 0.1 mm, and a block has at most 1000 of them along its edge (their index is an i32)."""


def grid_problem(voxel: float, block: float) -> str:
    """What is wrong with these edges in metres of voxels and blocks; "" if nothing is."""
    if not (MIN_VOXEL <= voxel <= 10 and MIN_VOXEL <= block <= 1e4):  # also false for NaN
        return f"voxel={voxel!r}, block={block!r}: use metres, voxels of at least {MIN_VOXEL:g}."
    side = round(block / voxel)
    if not 1 <= side <= MAX_VOXELS_PER_SIDE or abs(side * voxel - block) > 1e-6 * block:
        return f"block={block!r} must be a multiple of voxel={voxel!r}, at most {MAX_VOXELS_PER_SIDE} times."
    return ""


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


def concatenate(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """All points of some blocks in one array; of none, no points."""
    # As opaque rows: NumPy compares the fields of every pair of structured arrays, which takes longer than the copy.
    return np.concatenate([raw(EMPTY), *(raw(block) for block in blocks)]).view(POINT)


def raw(rows: np.ndarray) -> np.ndarray:
    """Points [n] as opaque rows of bytes, to be copied or compared whole."""
    return np.ascontiguousarray(rows).view(_ROW)


def block_problem(block: np.ndarray, key: int, voxel: float, voxels_per_side: int) -> str:
    """Why an array is not a block of this key; "" when it is: sorted voxels, finite points inside them."""
    index = block["voxel"].astype(np.int64)
    side = voxels_per_side
    if len(index) and (index[0] < 0 or index[-1] >= side**3 or (np.diff(index) <= 0).any()):
        return "has voxels that are out of range, out of order or repeated"
    if not (np.isfinite(block["position"]).all() and np.isfinite(block["weight"]).all()):
        return "has NaN or infinite values"
    if (block["weight"] < 0).any() or not (block["radius"] >= 0).all() or np.isinf(block["radius"]).any():
        return "has negative, NaN or infinite weights or radii"
    local = np.stack([index // (side * side), index // side % side, index % side], axis=-1)
    centre = (unpack_blocks(np.array([key])) * side + local + 0.5) * voxel
    # Means of points in a voxel stay in it, up to the rounding of f32, which grows with the distance.
    if (np.abs(block["position"] - centre) > 0.5 * voxel + 1e-6 * np.abs(centre) + 1e-6).any():
        return "has points outside their voxels"
    return ""
