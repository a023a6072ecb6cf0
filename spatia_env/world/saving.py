"""Between `WorldState` and what a `.spatia` file holds; a file's contents are checked before they are used.

The file's hashes only say that it is as it was written. Here each name, type, shape and range is compared with what
`WorldState` needs; the map's and the keyframes' shapes were checked when they were read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spatia_env.errors import PoseError, WorldFormatError
from spatia_env.events.log import LedgerRow
from spatia_env.geometry import check_intrinsics, check_rigid
from spatia_env.memory.manifest import MAX_SIDE, BundleState
from spatia_env.memory.map import Map
from spatia_env.world.state import WorldState

POSES = ("c2w", "start_c2w")
OPTIONAL_POSES = ("drift",)
"""Poses that worlds saved before this version lack."""
ARRAYS = (*POSES, "K", "preceding_frames", "depth")
OPTIONAL_META = ("measured",)
"""Likewise, of entries."""
META = ("size", "prompt", "seed", "step", "moving", "ground", "conditions", "ledger")
MAX_TEXT = 100_000
MAX_REACH = 1e5
"""Metres from the origin that a camera may be."""


def to_bundle(state: WorldState) -> BundleState:
    """The state as plain data (`memory.storage.BundleState`), ready for `save_bundle`."""
    arrays = {
        "c2w": state.c2w.numpy(),
        "start_c2w": state.start_c2w.numpy(),
        "K": state.K.numpy(),
        "preceding_frames": state.preceding_frames.numpy(),
        "depth": state.depth.numpy(),
        "drift": state.drift.numpy(),
    }
    meta = {
        "size": list(state.size),
        "prompt": state.prompt,
        "seed": state.seed,
        "step": state.step,
        "moving": state.moving,
        "ground": state.ground,
        "measured": state.measured,
        "conditions": [list(pair) for pair in state.conditions],
        "ledger": [dataclasses.asdict(row) for row in state.ledger],
    }
    return BundleState(memory=state.memory, keyframes=list(state.keyframes), arrays=arrays, meta=meta)


def from_bundle(bundle: BundleState) -> WorldState:
    """The state that a file holds.

    Raises:
        WorldFormatError: Something is missing or wrong.
    """
    check_world(bundle)
    arrays: dict[str, Any] = {
        name: torch.from_numpy(np.array(value)) for name, value in bundle.arrays.items()
    }
    meta = bundle.meta
    drift = {"drift": arrays.pop("drift")} if "drift" in arrays else {}
    seen = Map(
        points=bundle.memory,
        keyframes=tuple(bundle.keyframes),
        K=arrays.pop("K"),
        size=(int(meta["size"][0]), int(meta["size"][1])),
        step=int(meta["step"]),
        measured=bool(meta.get("measured", True)),
        **drift,
    )
    return WorldState(
        map=seen,
        prompt=str(meta["prompt"]),
        seed=int(meta["seed"]),
        moving=bool(meta["moving"]),
        ground=None if meta["ground"] is None else float(meta["ground"]),
        conditions=tuple((str(name), str(phrase)) for name, phrase in meta["conditions"]),
        ledger=tuple(LedgerRow(**row) for row in meta["ledger"]),
        **arrays,
    )


def check_world(bundle: BundleState) -> None:
    """Refuse a bundle that `World` cannot be made of.

    Raises:
        WorldFormatError: Saying what is missing or wrong.
    """
    _check_names(bundle.arrays, ARRAYS, OPTIONAL_POSES, "array")
    _check_names(bundle.meta, META, OPTIONAL_META, "entry")
    size = _check_size(bundle.meta["size"])
    _check_arrays(bundle.arrays, size)
    _check_meta(bundle.meta)
    for number, keyframe in enumerate(bundle.keyframes):
        if tuple(keyframe.depth.shape) != size:
            _refuse(f"keyframe {number} is {list(keyframe.depth.shape)}, the world {list(size)}")
        _check_pose(keyframe.c2w.numpy(), f"keyframe {number}")
        _check_depth(keyframe.depth.numpy(), f"keyframe {number}")


def _check_names(
    found: Mapping[str, Any], needed: tuple[str, ...], optional: tuple[str, ...], what: str
) -> None:
    for name in needed:
        if name not in found:
            _refuse(f"the {what} {name!r} is missing")
    for name in found:
        if name not in (*needed, *optional):
            _refuse(f"the {what} {name!r:.60} is not one of a world's")


def _check_size(size: Any) -> tuple[int, int]:
    right = isinstance(size, list) and len(size) == 2
    if not right or not all(type(side) is int and 0 < side <= MAX_SIDE for side in size):
        _refuse(f"its size is {size!r:.60}")
    return size[0], size[1]


def _check_arrays(arrays: Mapping[str, np.ndarray], size: tuple[int, int]) -> None:
    for name in (*POSES, *OPTIONAL_POSES):
        if name in arrays:
            _check_pose(arrays[name], name)
    _check_type(arrays["K"], np.float32, (3, 3), "K")
    try:
        check_intrinsics(torch.from_numpy(np.array(arrays["K"])), "K")
    except PoseError as cause:
        raise WorldFormatError(f"the saved world cannot be used: {cause}") from cause
    frames = arrays["preceding_frames"]
    if frames.dtype != np.uint8 or frames.ndim != 4 or not len(frames) or frames.shape[1:] != (*size, 3):
        _refuse(f"preceding_frames are {frames.dtype} {list(frames.shape)}")
    _check_type(arrays["depth"], np.float32, size, "depth")
    _check_depth(arrays["depth"], "depth")


def _check_meta(meta: Mapping[str, Any]) -> None:
    _check_text(meta["prompt"], "prompt")
    for name, limit in (("seed", 2**64), ("step", 2**31)):
        if type(meta[name]) is not int or not 0 <= meta[name] < limit:
            _refuse(f"{name} is {meta[name]!r:.40}")
    for name in ("moving", "measured"):
        if type(meta.get(name, False)) is not bool:
            _refuse(f"{name} is {meta[name]!r:.40}")
    ground = meta["ground"]
    if ground is not None and (type(ground) not in (int, float) or not abs(ground) < MAX_REACH):
        _refuse(f"ground is {ground!r:.40}")
    conditions, ledger = meta["conditions"], meta["ledger"]
    if not isinstance(conditions, list) or not all(isinstance(c, list) and len(c) == 2 for c in conditions):
        _refuse("conditions are not pairs of texts")
    for text in (text for pair in conditions for text in pair):
        _check_text(text, "a condition")
    if not isinstance(ledger, list):
        _refuse("the ledger is not a list")
    for row in ledger:
        _check_row(row)


def _check_row(row: Any) -> None:
    names = {f.name for f in dataclasses.fields(LedgerRow)}
    if not isinstance(row, dict) or set(row) != names:
        _refuse("a row of the ledger has other columns than " + ", ".join(sorted(names)))
    for name, value in row.items():
        if name != "step":
            _check_text(value, f"{name} in the ledger")
        elif type(value) is not int or not 0 <= value < 2**31:
            _refuse(f"a row of the ledger has step {value!r:.40}")


def _check_text(value: Any, name: str) -> None:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        _refuse(f"{name} is not a text of at most {MAX_TEXT} characters")
    try:
        value.encode()
    except UnicodeEncodeError as cause:  # half of a surrogate pair, which JSON can hold
        raise WorldFormatError(f"the saved world cannot be used: {name} is not Unicode text.") from cause


def _check_pose(pose: np.ndarray, name: str) -> None:
    _check_type(pose, np.float32, (4, 4), name)
    try:
        check_rigid(torch.from_numpy(np.array(pose)), name)
    except PoseError as cause:
        raise WorldFormatError(f"the saved world cannot be used: {cause}") from cause
    if np.abs(pose[:3, 3]).max() > MAX_REACH:
        _refuse(f"{name} lies beyond {MAX_REACH:g} m")


def _check_depth(depth: np.ndarray, name: str) -> None:
    if not np.isfinite(depth).all() or (depth < 0).any():
        _refuse(f"{name} has a depth that is negative, NaN or infinite")


def _check_type(array: np.ndarray, dtype: Any, shape: tuple[int, ...], name: str) -> None:
    if array.dtype != dtype or array.shape != shape:
        _refuse(f"{name} is {array.dtype} {list(array.shape)}, not {np.dtype(dtype)} {list(shape)}")


def _refuse(problem: str) -> None:
    raise WorldFormatError(f"the saved world cannot be used: {problem}.")
