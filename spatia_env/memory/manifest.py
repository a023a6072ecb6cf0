"""A world as a JSON manifest and the arrays it names, without knowing where these are stored.

`describe` turns a state into a manifest that refers to arrays by number, and a list of these contents, each named by
its hash; `rebuild` turns that back and checks every number that a file claims before it is used.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import SpatiaError, WorldFormatError, WorldTooLargeError
from spatia_env.memory import blocks as blk
from spatia_env.memory import codecs
from spatia_env.memory.codecs import DIGESTS, as_numpy
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory

FORMAT = "spatia-world"
MAX_KEYFRAMES = 100_000
MAX_ARRAYS = 1_000
MAX_SIDE = 16_384
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_HASH = re.compile(r"[0-9a-f]{64}")
_DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8")
_NOT_SETTINGS = ("blocks", "num_points")


@dataclass(frozen=True)
class BundleState:
    """A world as plain data.

    Attributes:
        memory: The map.
        keyframes: Remembered pictures, oldest first.
        arrays: Named arrays of numbers or booleans: poses, last frames, states of generators.
        meta: Anything JSON can hold, with text keys: prompt, ledger, seeds, provenance.
        settings: As `meta`, for what the world was made with.
    """

    memory: SceneMemory
    keyframes: list[Keyframe] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """One array to be kept: its place in the manifest's list and how to encode it, which is done only when new."""

    number: int
    size: int
    encode: Callable[[], tuple[int, bytes]]


Contents = dict[str, Content]
"""By hash, in the order of their numbers."""
Read = Callable[[int, int], np.ndarray]


def describe(state: BundleState) -> tuple[dict[str, Any], Contents]:
    """The manifest of a state, still without its list of contents, and these contents.

    Raises:
        WorldFormatError: If `meta`, `settings` or `arrays` hold what a file cannot.
    """
    contents: Contents = {}
    memory = state.memory
    manifest = {
        "format": FORMAT,
        "memory": _settings_of(memory),
        "blocks": [_put_block(contents, memory, key) for key in sorted(memory.blocks)],
        "keyframes": [_put_keyframe(contents, keyframe) for keyframe in state.keyframes],
        "arrays": {name: _put_array(contents, name, state.arrays[name]) for name in sorted(state.arrays)},
        "meta": state.meta,
        "settings": state.settings,
    }
    return manifest, contents


def content_rows(manifest: dict[str, Any]) -> list[tuple[str, int]]:
    """Hash and row of each content that a manifest names, by their numbers.

    Raises:
        WorldFormatError: If they are not hashes and rows, or one occurs twice.
    """
    rows = [(typed(row, 0, str), typed(row, 1, int)) for row in typed(manifest, "contents", list)]
    for name, number in rows:
        if not _HASH.fullmatch(name) or not 0 < number < 2**63:
            raise WorldFormatError(f"the world's manifest lists {name!r:.70} in row {number!r:.30}.")
    if len({name for name, _ in rows}) != len(rows) or len({number for _, number in rows}) != len(rows):
        raise WorldFormatError("the world's manifest lists a content twice.")
    return rows


def rebuild(manifest: dict[str, Any], read: Read, max_bytes: int) -> BundleState:
    """The state that a manifest describes; `read(number, size)` gives the bytes of a content, already checked.

    Raises:
        WorldFormatError: If any of it is not what this version writes.
        WorldTooLargeError: If it declares more than `max_bytes` in all, before anything is read.
    """
    names = [name for name, _ in content_rows(manifest)]
    memory = _empty_memory(typed(manifest, "memory", dict))
    blocks = _block_rows(manifest, memory)
    keyframes = [_keyframe_row(row) for row in typed(manifest, "keyframes", list)]
    arrays = {name: _array_row(name, row) for name, row in typed(manifest, "arrays", dict).items()}
    if len(keyframes) > MAX_KEYFRAMES or len(arrays) > MAX_ARRAYS:
        raise WorldTooLargeError("the world declares more keyframes or arrays than this version takes.")
    total = sum(count for _, count, _ in blocks) * blk.POINT.itemsize
    total += sum(row.num_bytes for row in (*arrays.values(), *(r for pair in keyframes for r in pair[:2])))
    if total > max_bytes:
        raise WorldTooLargeError(
            f"the world declares {total / 2**20:.0f} MB; the limit is {max_bytes >> 20} MB (max_bytes)."
        )
    source = _Source(read, names)
    loaded = {key: _get_block(source, memory, key, count, number) for key, count, number in blocks}
    memory = dataclasses.replace(
        memory, blocks=MappingProxyType(loaded), num_points=sum(len(block) for block in loaded.values())
    )
    return BundleState(
        memory=memory,
        keyframes=[_get_keyframe(source, *row) for row in keyframes],
        arrays={name: row.get(source) for name, row in arrays.items()},
        meta=typed(manifest, "meta", dict),
        settings=typed(manifest, "settings", dict),
    )


# -- the map --------------------------------------------------------------------------------------------


def _settings_of(memory: SceneMemory) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(memory) if f.name not in _NOT_SETTINGS]
    return {name: getattr(memory, name) for name in names}


def _empty_memory(settings: dict[str, Any]) -> SceneMemory:
    default = _settings_of(SceneMemory())
    for name, value in settings.items():
        kind = type(default.get(name))
        right = isinstance(value, kind) or (kind is float and type(value) is int)
        if name not in default or not right or (kind is int and isinstance(value, bool)):
            raise WorldFormatError(f"the map's setting {name!r} = {value!r:.40} is not one of this version.")
    values: dict[str, Any] = {
        name: float(value) if isinstance(default[name], float) else value for name, value in settings.items()
    }
    try:
        return SceneMemory(**values)
    except (SpatiaError, OverflowError) as cause:
        raise WorldFormatError(f"the map's settings are impossible: {cause}") from cause


def _add(contents: Contents, name: str, size: int, encode: Callable[[], tuple[int, bytes]]) -> int:
    return contents.setdefault(name, Content(len(contents), size, encode)).number


def _put_block(contents: Contents, memory: SceneMemory, key: int) -> list[int]:
    block = memory.blocks[key]
    side, voxel = memory.voxels_per_side, memory.voxel

    def encode() -> tuple[int, bytes]:
        problem = blk.block_problem(block, key, voxel, side)
        if problem:  # a file that cannot be read again must not be written
            raise WorldFormatError(f"block {key} of the map {problem}; the world was not saved.")
        return codecs.encode_points(block, key, voxel, side)

    return [int(key), len(block), _add(contents, DIGESTS.of(block), block.nbytes, encode)]


def _block_rows(manifest: dict[str, Any], memory: SceneMemory) -> list[tuple[int, int, int]]:
    rows, before, total = [], -1, 0
    largest = blk.pack_blocks(np.full((1, 3), blk.MAX_BLOCK)).item()
    for row in typed(manifest, "blocks", list):
        key, count, number = (typed(row, place, int) for place in range(3))
        if not before < key <= largest:
            raise WorldFormatError(f"block {key} is out of order or out of range.")
        if not 0 < count <= memory.voxels_per_side**3:
            raise WorldFormatError(f"block {key} declares {count} points.")
        rows.append((key, count, number))
        before, total = key, total + count
    if total > memory.max_points:
        raise WorldTooLargeError(f"the map declares {total} points, its own limit is {memory.max_points}.")
    return rows


def _get_block(source: "_Source", memory: SceneMemory, key: int, count: int, number: int) -> np.ndarray:
    block = blk.freeze(source.bytes_of(number, count * blk.POINT.itemsize).view(blk.POINT))
    problem = blk.block_problem(block, key, memory.voxel, memory.voxels_per_side)
    if problem:
        raise WorldFormatError(f"block {key} of the map {problem}.")
    DIGESTS.learn(block, source.names[number])
    return block


# -- keyframes and arrays -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Where contents come from, and their hashes."""

    read: Read
    names: list[str]

    def bytes_of(self, number: int, size: int) -> np.ndarray:
        if not 0 <= number < len(self.names):
            raise WorldFormatError(f"the world's manifest lists no content {number}.")
        return self.read(number, size)


@dataclass(frozen=True)
class _Row:
    """An array that a manifest declares."""

    number: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def get(self, source: _Source) -> np.ndarray:
        values = source.bytes_of(self.number, self.num_bytes)
        if self.dtype.kind == "b" and values.size and values.max() > 1:
            raise WorldFormatError("an array of booleans holds other values.")
        array = values.view(self.dtype).reshape(self.shape)
        array.flags.writeable = False
        DIGESTS.learn(array, source.names[self.number])
        return array


def _put(contents: Contents, array: np.ndarray | Tensor) -> int:
    values = as_numpy(array)
    return _add(contents, DIGESTS.of(array), values.nbytes, lambda: codecs.encode_array(values))


def _put_array(contents: Contents, name: str, array: np.ndarray) -> dict[str, Any]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise WorldFormatError(f"array name {name!r:.60}: use letters, digits, '_', '.' and '-'.")
    if not isinstance(array, np.ndarray) or array.dtype.str not in _DTYPES:
        raise WorldFormatError(f"array {name!r}: expected an array of numbers, got {type(array).__name__}.")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "content": _put(contents, array)}


def _array_row(name: str, row: Any) -> _Row:
    dtype, shape = typed(row, "dtype", str), typed(row, "shape", list)
    sizes = all(type(side) is int and 0 <= side < 2**31 for side in shape)
    if not _NAME.fullmatch(name) or dtype not in _DTYPES or len(shape) > 8 or not sizes:
        raise WorldFormatError(f"array {name!r:.60} is declared as {dtype!r:.20} {shape!r:.60}.")
    return _Row(typed(row, "content", int), np.dtype(dtype), tuple(shape))


def _put_keyframe(contents: Contents, keyframe: Keyframe) -> dict[str, Any]:
    height, width = keyframe.depth.shape
    return {
        "step": int(keyframe.step),
        "size": [height, width],
        "c2w": keyframe.c2w.double().flatten().tolist(),
        "frame": _put(contents, keyframe.frame),
        "depth": _put(contents, keyframe.depth),
    }


def _keyframe_row(row: Any) -> tuple[_Row, _Row, Tensor, int]:
    size, c2w, step = typed(row, "size", list), typed(row, "c2w", list), typed(row, "step", int)
    if len(size) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in size):
        raise WorldFormatError(f"a keyframe declares the size {size!r:.60}.")
    if len(c2w) != 16 or not all(isinstance(x, int | float) and abs(x) < 1e9 for x in c2w):
        raise WorldFormatError("a keyframe has an impossible pose.")
    if not -(2**31) <= step < 2**31:
        raise WorldFormatError(f"a keyframe declares step {step}.")
    frame = _Row(typed(row, "frame", int), np.dtype("|u1"), (*size, 3))
    depth = _Row(typed(row, "depth", int), np.dtype("<f2"), tuple(size))
    return frame, depth, torch.tensor(c2w, dtype=torch.float32).reshape(4, 4), step


def _get_keyframe(source: _Source, frame: _Row, depth: _Row, c2w: Tensor, step: int) -> Keyframe:
    picture, metres = (torch.from_numpy(row.get(source).copy()) for row in (frame, depth))
    DIGESTS.learn(picture, source.names[frame.number])
    DIGESTS.learn(metres, source.names[depth.number])
    return Keyframe(picture, metres, c2w, step)


# -- JSON -----------------------------------------------------------------------------------------------


def to_json(manifest: dict[str, Any]) -> bytes:
    """The one spelling of a manifest: sorted keys, no spaces, finite numbers."""
    try:
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
        same = json.loads(text) == manifest
    except (TypeError, ValueError, RecursionError) as cause:
        raise WorldFormatError(f"meta and settings must be plain JSON data ({cause}).") from cause
    if not same:
        raise WorldFormatError("meta and settings must be plain JSON data: text keys, lists, no tuples.")
    return text.encode()


def from_json(data: bytes) -> dict[str, Any]:
    """Parse a manifest; keys that occur twice, NaN and absurd depth are refused.

    Raises:
        WorldFormatError: If it is not a JSON object of this format.
    """
    try:
        manifest = json.loads(
            data, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as cause:
        raise WorldFormatError(f"the world's manifest is not readable ({cause}).") from cause
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise WorldFormatError("the world's manifest is not one of this format.")
    return manifest


def typed(container: Any, key: Any, kind: type) -> Any:
    """`container[key]`, which must be there and of this type."""
    present = isinstance(container, Mapping) if isinstance(key, str) else isinstance(container, list)
    if not present or (key not in container if isinstance(key, str) else key >= len(container)):
        raise WorldFormatError(f"the world's manifest lacks {key!r}.")
    value = container[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WorldFormatError(f"the world's manifest has {type(value).__name__} in {key!r}.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WorldFormatError("the world's manifest has a key twice.")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def _no_constant(text: str) -> float:
    raise WorldFormatError(f"the world's manifest holds {text}.")
