"""Lossless encoding of arrays as bytes, bounded when decoded (NumPy and zlib), and content hashes.

Points are stored column by column. A voxel index says where its point lies to within a voxel, so a position
is kept as the difference of its float bits from those of the voxel's centre; the other columns as differences
from the row before. Bytes of equal significance are put together, the noisy ones as they are, the rest
through zlib. This takes about 15 of the 36 bytes a point has in memory.
"""

import functools
import hashlib
import struct
import weakref
import zlib

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import WorldCorruptError
from spatia_env.memory import blocks as blk

RAW, SHUFFLED, POINTS = 0, 1, 2
LEVEL = 1
_GRID = struct.Struct("<3iId")  # block coordinates, voxels per side, voxel in metres
_SHUFFLE = struct.Struct("<BB")  # bytes an item, items between the terms of a difference


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order, in hexadecimal: the name of its content."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


class Digests:
    """SHA-256 of immutable arrays, computed once for each array object for as long as it lives.

    Blocks are never written to, and forks and snapshots share them, so a save hashes only what is new. The table holds
    weak references: it neither keeps an array alive nor outlives it.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref, int, str]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, array: np.ndarray | Tensor) -> str:
        """The hash of an array's bytes in C order; remembered if the array cannot have changed meanwhile."""
        entry = self._known.get(id(array))
        if entry is not None and entry[0]() is array and entry[1] == _generation(array):
            return entry[2]
        name = digest(as_numpy(array))
        self.learn(array, name)
        return name

    def learn(self, array: np.ndarray | Tensor, name: str) -> None:
        """Remember a hash that is known already (of an array that was just read and checked)."""
        generation, key = _generation(array), id(array)
        if generation >= 0:
            # The callback runs before the address can be given to another object.
            self._known[key] = (weakref.ref(array, functools.partial(self._forget, key)), generation, name)

    def _forget(self, key: int, _: weakref.ref) -> None:
        self._known.pop(key, None)


def as_numpy(array: np.ndarray | Tensor) -> np.ndarray:
    """The array itself, or the tensor's values as an array."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array


def _generation(array: np.ndarray | Tensor) -> int:
    """A number that changes when the array does; -1 if it may change without a trace."""
    if isinstance(array, torch.Tensor):
        return array._version if not array.is_inference() else -1
    return -1 if array.flags.writeable else 0


DIGESTS = Digests()
"""The table that all saves of a process share, since forks of a world share blocks."""


def encode_array(array: np.ndarray) -> tuple[int, bytes]:
    """Codec and bytes of an array of numbers; small integers, pictures and depth images shrink well."""
    array = np.ascontiguousarray(array)
    raw = array.tobytes()
    item = array.dtype.itemsize
    if item not in (1, 2, 4, 8) or not raw:
        return RAW, raw
    stride = array.shape[-1] if array.ndim == 3 and array.shape[-1] <= 4 else 1
    flat = np.frombuffer(raw, dtype=f"<u{item}")
    packed = _SHUFFLE.pack(item, stride) + zlib.compress(_planes(_difference(flat, stride)).tobytes(), LEVEL)
    return (SHUFFLED, packed) if len(packed) < len(raw) else (RAW, raw)


def encode_points(block: np.ndarray, key: int, voxel: float, side: int) -> tuple[int, bytes]:
    """Codec and bytes of a block of points (`blocks.POINT`); it has `side` voxels along its edge."""
    x, y, z = blk.unpack_blocks(np.array([key]))[0].tolist()
    centre = _centres(block["voxel"].astype(np.int64), (x, y, z), voxel, side)
    position = _planes(_zigzag(_bits(block["position"], "<u4") - centre.view("<u4")).reshape(-1, 3))
    weight = _planes(_bits(block["weight"], "<u4"))
    smooth = [
        _planes(_difference(_bits(block["voxel"], "<u4"), 1)),
        position[[2, 3, 6, 7, 10, 11]],
        weight[2:],
        _planes(_difference(np.ascontiguousarray(block["colour"]).reshape(-1), 3).reshape(-1, 3)),
        _planes(block["layer"]),
        _planes(_zigzag(_difference(_bits(block["radius"], "<u2"), 1))),
        _planes(block["views"]),
        _planes(_zigzag(_difference(_bits(block["first_step"], "<u4"), 1))),
        _planes(_zigzag(_difference(_bits(block["last_step"], "<u4"), 1))),
    ]
    noise = position[[0, 1, 4, 5, 8, 9]].tobytes() + weight[:2].tobytes()
    packed = zlib.compress(b"".join(plane.tobytes() for plane in smooth), LEVEL)
    return POINTS, _GRID.pack(x, y, z, side, voxel) + noise + packed


def decode(codec: int, data: bytes, size: int) -> np.ndarray:
    """The `size` bytes that were encoded, u8 [size].

    Raises:
        WorldCorruptError: If the data does not give exactly `size` bytes; nothing larger is ever allocated.
    """
    if codec == RAW:
        if len(data) != size:
            raise WorldCorruptError(f"a record has {len(data)} bytes where {size} are declared.")
        return np.frombuffer(data, dtype=np.uint8)
    if codec == SHUFFLED:
        return _decode_shuffled(data, size)
    if codec == POINTS:
        return _decode_points(data, size)
    raise WorldCorruptError(f"a record has the unknown encoding {codec}.")


def inflate(data: bytes, size: int) -> bytes:
    """Decompress exactly `size` bytes of zlib data, never allocating more.

    Raises:
        WorldCorruptError: If the data is damaged, or longer or shorter than declared.
    """
    # Deflate cannot shrink by more than 1032 to 1, so a larger claim is false and is refused before decompressing.
    if size < 0 or size > 1040 * len(data) + 64:
        raise WorldCorruptError(f"a record of {len(data)} bytes cannot hold the {size} bytes it declares.")
    machine = zlib.decompressobj()
    try:
        out = machine.decompress(data, size + 1)
    except zlib.error as cause:
        raise WorldCorruptError(f"a record does not decompress ({cause}).") from cause
    if len(out) != size or not machine.eof or machine.unused_data:
        raise WorldCorruptError(f"a record does not decompress to the {size} bytes it declares.")
    return out


def _decode_shuffled(data: bytes, size: int) -> np.ndarray:
    if len(data) < _SHUFFLE.size:
        raise WorldCorruptError("a record is cut short.")
    item, stride = _SHUFFLE.unpack_from(data)
    if item not in (1, 2, 4, 8) or not 1 <= stride <= 4 or size % (item * stride):
        raise WorldCorruptError("a record has an impossible header.")
    planes = np.frombuffer(inflate(data[_SHUFFLE.size :], size), dtype=np.uint8)
    return _undifference(_unplanes(planes.reshape(item, -1), f"<u{item}"), stride).view(np.uint8)


def _decode_points(data: bytes, size: int) -> np.ndarray:
    count, rest = divmod(size, blk.POINT.itemsize)
    if rest or len(data) < _GRID.size + 8 * count:
        raise WorldCorruptError("a block of points is cut short.")
    x, y, z, side, voxel = _GRID.unpack_from(data)
    if not (
        1 <= side <= blk.MAX_VOXELS_PER_SIDE
        and 0 < voxel < 1e3
        and max(abs(x), abs(y), abs(z)) <= blk.MAX_BLOCK + 1
    ):
        raise WorldCorruptError("a block of points has an impossible header.")
    noise = np.frombuffer(data, np.uint8, 8 * count, _GRID.size).reshape(8, count)
    body = np.frombuffer(inflate(data[_GRID.size + 8 * count :], 28 * count), np.uint8).reshape(28, count)
    out = np.empty(count, dtype=blk.POINT)
    out["voxel"] = _undifference(_unplanes(body[0:4], "<u4"), 1).view("<i4")
    centre = _centres(out["voxel"].astype(np.int64), (x, y, z), voxel, side)
    planes = np.empty((12, count), np.uint8)
    planes[[0, 1, 4, 5, 8, 9]] = noise[:6]
    planes[[2, 3, 6, 7, 10, 11]] = body[4:10]
    bits = _unzigzag(_unplanes(planes, "<u4").reshape(-1, 3)) + centre.view("<u4")
    out["position"] = bits.view("<f4")
    out["weight"] = _unplanes(np.concatenate([noise[6:], body[10:12]]), "<u4").view("<f4")
    out["colour"] = _undifference(_unplanes(body[12:15], "u1"), 3).reshape(-1, 3)
    out["layer"] = body[15]
    out["radius"] = _undifference(_unzigzag(_unplanes(body[16:18], "<u2")), 1).view("<f2")
    out["views"] = _unplanes(body[18:20], "<u2")
    out["first_step"] = _undifference(_unzigzag(_unplanes(body[20:24], "<u4")), 1).view("<i4")
    out["last_step"] = _undifference(_unzigzag(_unplanes(body[24:28], "<u4")), 1).view("<i4")
    return out.view(np.uint8)


def _centres(index: np.ndarray, block: tuple[int, int, int], voxel: float, side: int) -> np.ndarray:
    """Centres of voxels f32 [n, 3]: integers and one IEEE product, so the same bits on every machine."""
    local = np.stack([index // (side * side), index // side % side, index % side], axis=-1)
    return ((np.array(block) * side + local + 0.5) * voxel).astype("<f4")


def _bits(column: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(column).view(dtype)


def _planes(values: np.ndarray) -> np.ndarray:
    """Bytes u8 [bytes of a row, rows] of values [rows, ...], lowest byte first."""
    values = np.ascontiguousarray(values)
    row = values.itemsize * int(np.prod(values.shape[1:]))
    return values.reshape(-1).view(np.uint8).reshape(len(values), row).T


def _unplanes(planes: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1)


def _difference(values: np.ndarray, stride: int) -> np.ndarray:
    """Unsigned differences, modulo their width, from the value `stride` places before."""
    out = values.copy()
    out[stride:] -= values[:-stride]
    return out


def _undifference(values: np.ndarray, stride: int) -> np.ndarray:
    columns = values.reshape(-1, stride)
    return np.cumsum(columns, axis=0, dtype=values.dtype).reshape(-1)


def _zigzag(values: np.ndarray) -> np.ndarray:
    """Unsigned values whose magnitude is that of the two's-complement number they stand for."""
    top = values.dtype.type(8 * values.dtype.itemsize - 1)
    return (values << values.dtype.type(1)) ^ (values.dtype.type(0) - (values >> top))


def _unzigzag(values: np.ndarray) -> np.ndarray:
    one = values.dtype.type(1)
    return (values >> one) ^ (values.dtype.type(0) - (values & one))
