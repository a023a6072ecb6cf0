"""Queries of a map: ray casting, visible points, occupancy, free distance.

A point stands for a ball as large as the spacing of the samples around it, so surfaces have no gaps between their
points. Every query reads only the blocks it needs. Unobserved space counts as free; `frontiers` tells it apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.geometry import check_intrinsics, check_rigid
from spatia_env.io.validation import as_finite_array, as_real_array, as_real_number
from spatia_env.memory import blocks as blk
from spatia_env.memory.point_map import SceneMemory, gather, keys_along, keys_in_box
from spatia_env.memory.regions import view_of

COVER = 0.75
"""A point's ball in units of its spacing: a little more than half the diagonal of a grid of samples."""
MAX_DISTANCE = 20.0
"""Metres that rays reach by default."""


@dataclass(frozen=True)
class Hit:
    """Where a ray meets the map: `distance` m along it, the point's `position` [3], `colour` u8 [3] and `layer`."""

    distance: float
    position: np.ndarray
    colour: np.ndarray
    layer: int


def raycast(
    memory: SceneMemory, origin: Any, direction: Any, max_distance: float = MAX_DISTANCE
) -> Hit | None:
    """The first point that a ray meets, or None.

    Args:
        memory: The map.
        origin: Start [3] in metres, world.
        direction: Any length but 0 [3].
        max_distance: Metres.

    Raises:
        ActionError: Numbers that are not finite, or a direction of length 0.
    """
    start = as_finite_array(origin, "origin", (3,), ActionError)
    towards = as_finite_array(direction, "direction", (3,), ActionError)
    norm, reach = float(np.linalg.norm(towards)), _positive(max_distance, "max_distance")
    if norm < 1e-12:
        raise ActionError("direction: has length 0; give where to look.")
    towards = towards / norm
    keys = keys_along(memory, start, start + reach * towards, _largest_ball(memory))
    entry = _entries(memory, keys, start, towards)
    best, row = np.inf, None
    for at in np.argsort(entry, kind="stable").tolist():
        if entry[at] > best:
            break
        block = memory.blocks[keys[at]]
        along, across = _along_and_across(block["position"], start, towards)
        met = (across <= ball(memory, block["radius"])) & (along >= 0) & (along <= reach)
        first = int(np.where(met, along, np.inf).argmin())
        if met[first] and along[first] < best:
            best, row = float(along[first]), block[first]
    if row is None:
        return None
    return Hit(best, row["position"].copy(), row["colour"].copy(), int(row["layer"]))


def visible(memory: SceneMemory, c2w: Tensor, K: Tensor, height: int, width: int) -> np.ndarray:
    """The points (`blocks.POINT`) that a camera sees: inside its picture and on the nearest surface.

    Args:
        memory: The map.
        c2w: Pose [4, 4].
        K: Intrinsics [3, 3] in pixels.
        height: Pixels.
        width: Pixels.

    Raises:
        PoseError: If they are not a pose and a pinhole camera.
    """
    check_rigid(c2w, "c2w")
    check_intrinsics(K, "K")
    view = view_of(memory, c2w, K, height, width)
    return view.points[view.shown]


def occupied(memory: SceneMemory, position: Any, radius: float = 0.0) -> bool | np.ndarray:
    """Whether a ball of `radius` metres around positions [3] or [n, 3] touches a point: bool, or bool [n].

    Raises:
        ActionError: Numbers that are not finite, or a negative radius.
    """
    positions = as_real_array(position, "position", ActionError)
    if positions.shape[-1:] != (3,) or positions.ndim > 2 or not np.isfinite(positions).all():
        raise ActionError(
            f"position: expected finite numbers [3] or [n, 3], got shape {list(positions.shape)}."
        )
    reach = _positive(radius, "radius", zero=True)
    answers = [_touches(memory, one, reach) for one in np.atleast_2d(positions)]
    return answers[0] if positions.ndim == 1 else np.array(answers, dtype=bool)


def free_distance(memory: SceneMemory, start: Any, end: Any, radius: float = 0.15) -> float:
    """How many metres a ball can go from `start` [3] towards `end` [3] before it touches a point.

    Points that it touches already and moves away from do not stop it. Without obstacles this is the whole distance.

    Raises:
        ActionError: Numbers that are not finite, or a negative radius.
    """
    a, b = (as_finite_array(v, n, (3,), ActionError) for v, n in ((start, "start"), (end, "end")))
    reach = _positive(radius, "radius", zero=True)
    length = float(np.linalg.norm(b - a))
    if length < 1e-9:
        return 0.0
    towards = (b - a) / length
    rows, _ = gather(memory, keys_along(memory, a, b, reach + _largest_ball(memory)))
    along, across = _along_and_across(rows["position"], a, towards)
    touch = reach + ball(memory, rows["radius"])
    ahead = (across < touch) & (along > 0)
    contact = along[ahead] - np.sqrt(np.maximum(touch[ahead] ** 2 - across[ahead] ** 2, 0))
    return float(np.clip(contact.min(initial=length), 0, length))


def ball(memory: SceneMemory, radius: np.ndarray) -> np.ndarray:
    """Radii of the balls that points stand for, metres."""
    return COVER * np.clip(radius.astype(np.float64), memory.voxel, _largest_spacing(memory))


def _touches(memory: SceneMemory, position: np.ndarray, radius: float) -> bool:
    reach = radius + _largest_ball(memory)
    for key in keys_in_box(memory, position - reach, position + reach):
        block = memory.blocks[key]
        apart = np.linalg.norm(block["position"] - position, axis=-1)
        if (apart <= radius + ball(memory, block["radius"])).any():
            return True
    return False


def _along_and_across(
    position: np.ndarray, start: np.ndarray, towards: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of points [n, 3] along a ray and from it."""
    offset = position.astype(np.float64) - start
    along = offset @ towards
    return along, np.linalg.norm(offset - along[:, None] * towards, axis=-1)


def _entries(memory: SceneMemory, keys: list[int], start: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Least distance along the ray of anything in each block."""
    centre = (blk.unpack_blocks(np.array(keys, np.int64)) + 0.5) * memory.block
    return (centre - start) @ towards - memory.block * 3**0.5 / 2 - memory.voxel


def _largest_spacing(memory: SceneMemory) -> float:
    """Points count as at most this far apart, so that a ball never reaches beyond the next block."""
    return max(memory.voxel, memory.block / 8)


def _largest_ball(memory: SceneMemory) -> float:
    return COVER * _largest_spacing(memory)


def _positive(value: float, name: str, zero: bool = False) -> float:
    number = as_real_number(value, name, ActionError)
    if number < 0 or (number == 0 and not zero) or number > 1e5:
        raise ActionError(
            f"{name}={value!r}: use a {'non-negative' if zero else 'positive'} number of metres."
        )
    return number
