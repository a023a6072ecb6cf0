"""Occupancy grid, frontiers between free and unknown space, and path planning (A*).

Keyframes have depth, so each says which space it looked through. A cell is free when some keyframe saw through its
centre, occupied when the map has a point in it, and unknown otherwise. Where free cells meet unknown ones lies the
frontier.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.geometry import check_intrinsics
from spatia_env.io.validation import as_finite_array, as_real_number
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory, keys_in_box
from spatia_env.memory.queries import free_distance, occupied
from spatia_env.memory.rendering import pixels_of

CELL = 0.2
"""Edge of a cell in metres."""
PIECE = 1.0
"""Frontiers are cut into pieces of at most about this many metres."""
MAX_RANGE = 6.0
"""Metres in front of a keyframe that count as seen."""
_SIDES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
_AROUND = np.indices((3, 3, 3)).reshape(3, -1).T - 1
_MAX_NODES = 20_000
_GREED = 2  # the way to go counts this much more than the way gone: a fast search, and a way a little longer


@dataclass(frozen=True)
class Frontier:
    """A piece of the border between free and unknown space, at most about a metre across, facing one way.

    Attributes:
        position: The middle [3] of the cell nearest to its centre, metres: free, and next to the unknown.
        direction: Unit vector [3] into the unknown.
        area: m^2.
        surface: Whether a known surface runs into the unknown here.
    """

    position: np.ndarray
    direction: np.ndarray
    area: float
    surface: bool


@dataclass(frozen=True)
class SeenSpace:
    """Cells of space: a dense box of states from `low` (cell coordinates [3]); 0 unknown, 1 free, 2 occupied."""

    cell: float
    low: np.ndarray
    state: np.ndarray

    def at(self, cells: np.ndarray) -> np.ndarray:
        """States u8 [n] of cells [n, 3]; unknown outside the box."""
        local = cells - self.low
        inside = ((local >= 0) & (local < self.state.shape)).all(-1)
        local = np.where(inside[:, None], local, 0)
        return np.where(inside, self.state[tuple(local.T)], 0)

    def middle(self, cells: np.ndarray) -> np.ndarray:
        """World positions [n, 3] of the middles of cells."""
        return (cells + 0.5) * self.cell


def seen_space(
    memory: SceneMemory,
    keyframes: Sequence[Keyframe],
    K: Tensor,
    cell: float = CELL,
    max_range: float = MAX_RANGE,
) -> SeenSpace:
    """Which cells the keyframes looked through, and which the map fills.

    Args:
        memory: The map.
        keyframes: Pictures with depth and pose.
        K: Their intrinsics [3, 3].
        cell: Edge of a cell, metres.
        max_range: Depth beyond which a keyframe marks no cell as free, metres.

    Raises:
        ActionError: If there are no keyframes, or the numbers are not positive.
    """
    check_intrinsics(K, "K")
    cell, max_range = (
        as_real_number(v, n, ActionError) for v, n in ((cell, "cell"), (max_range, "max_range"))
    )
    if not keyframes:
        raise ActionError("there are no keyframes yet; reset or step first.")
    if not (0.02 <= cell <= 10 and 0 < max_range <= 100 and max_range / cell <= 200):
        raise ActionError(f"cell={cell!r}, max_range={max_range!r}: use metres, at most 200 cells of range.")
    corners = [_corners(keyframe, K, max_range) for keyframe in keyframes]
    low = np.floor(np.min(corners, axis=(0, 1)) / cell).astype(np.int64) - 1
    high = np.floor(np.max(corners, axis=(0, 1)) / cell).astype(np.int64) + 2
    if np.prod((high - low).astype(np.float64)) > 64e6:
        raise ActionError("the keyframes span too much space for these cells; use a larger `cell`.")
    state = np.zeros(high - low, np.uint8)
    for keyframe, corner in zip(keyframes, corners, strict=True):
        _mark_free(state, low, keyframe, corner, K, cell, max_range)
    for key in keys_in_box(memory, low * cell, high * cell):
        cells = np.floor(memory.blocks[key]["position"] / cell).astype(np.int64) - low
        inside = ((cells >= 0) & (cells < state.shape)).all(-1)
        state[tuple(cells[inside].T)] = 2
    return SeenSpace(cell, low, state)


def frontier(
    memory: SceneMemory,
    keyframes: Sequence[Keyframe],
    K: Tensor,
    cell: float = CELL,
    max_range: float = MAX_RANGE,
    min_area: float = 0.1,
) -> list[Frontier]:
    """Where free space meets unknown space, pieces of at least `min_area` m^2, largest first.

    The other arguments and what is raised are those of `seen_space`.
    """
    space = seen_space(memory, keyframes, K, cell, max_range)
    unknown = space.state == 0
    sides = np.stack([_beyond(unknown, side) for side in _SIDES], axis=-1)
    cells = np.argwhere((space.state == 1) & sides.any(-1))
    if not len(cells):
        return []
    sides = sides[tuple(cells.T)]
    towards = sides.astype(np.int64) @ _SIDES
    axis = np.abs(towards).argmax(-1)
    facing = 2 * axis + (np.take_along_axis(towards, axis[:, None], -1)[:, 0] < 0)
    place = (cells + space.low) // max(round(PIECE / cell), 1)
    piece = np.unique(np.column_stack([place, facing]), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(piece, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(piece[order])) + 1)
    found = [_piece(space, cells[group], sides[group]) for group in groups]
    found = [piece for piece in found if piece.area >= min_area]
    return sorted(found, key=lambda piece: (-piece.area, *piece.position.tolist()))


def nearest_unseen(
    memory: SceneMemory,
    keyframes: Sequence[Keyframe],
    K: Tensor,
    position: Any,
    cell: float = CELL,
    max_range: float = MAX_RANGE,
) -> Frontier | None:
    """The frontier nearest to a position [3] at which a known surface runs on unseen; else the nearest at all."""
    here = as_finite_array(position, "position", (3,), ActionError)
    pieces = frontier(memory, keyframes, K, cell, max_range)
    if not pieces:
        return None
    return min(pieces, key=lambda p: (not p.surface, float(np.linalg.norm(p.position - here))))


def find_path(
    memory: SceneMemory, start: Any, end: Any, radius: float = 0.15, step: float = 0.1
) -> np.ndarray | None:
    """A way [n, 3] for a ball from `start` [3] to `end` [3] around the points of the map, or None.

    A* on a grid of `step` metres; unobserved space counts as free. The path is then shortened by straight free lines.

    Raises:
        ActionError: Numbers that are not finite or positive.
    """
    a, b = (as_finite_array(v, n, (3,), ActionError) for v, n in ((start, "start"), (end, "end")))
    radius, step = (as_real_number(v, n, ActionError) for v, n in ((radius, "radius"), (step, "step")))
    if not (0 <= radius <= 10 and 0.01 <= step <= 10):
        raise ActionError(f"radius={radius!r}, step={step!r}: use metres.")
    if free_distance(memory, a, b, radius) >= np.linalg.norm(b - a) - 1e-9:
        return np.stack([a, b])
    if occupied(memory, b, radius):
        return None
    nodes = _search(memory, a, b, radius, step)
    return None if nodes is None else _shortened(memory, nodes, radius)


def _search(
    memory: SceneMemory, a: np.ndarray, b: np.ndarray, radius: float, step: float
) -> np.ndarray | None:
    goal = tuple(np.rint((b - a) / step).astype(int).tolist())
    came: dict[tuple[int, ...], tuple[int, ...] | None] = {(0, 0, 0): None}
    cost = {(0, 0, 0): 0}
    queue = [(float(np.abs(goal).sum()), (0, 0, 0))]
    blocked: dict[tuple[int, ...], bool] = {(0, 0, 0): False, goal: False}
    while queue and len(cost) < _MAX_NODES:
        _, node = heapq.heappop(queue)
        if node == goal:
            return _trace(came, node, a, b, step)
        for side in _SIDES.tolist():
            after = tuple(i + j for i, j in zip(node, side, strict=True))
            if after not in blocked:
                blocked[after] = bool(occupied(memory, a + np.array(after) * step, radius))
            if not blocked[after] and cost[node] + 1 < cost.get(after, 1 << 60):
                cost[after], came[after] = cost[node] + 1, node
                left = sum(abs(i - j) for i, j in zip(after, goal, strict=True))
                heapq.heappush(queue, (float(cost[after] + _GREED * left), after))
    return None


def _trace(
    came: dict[tuple[int, ...], tuple[int, ...] | None],
    node: tuple[int, ...],
    a: np.ndarray,
    b: np.ndarray,
    step: float,
) -> np.ndarray:
    nodes: list[tuple[int, ...]] = []
    at: tuple[int, ...] | None = node
    while at is not None:
        nodes.append(at)
        at = came[at]
    return np.concatenate([a + np.array(nodes[::-1]) * step, b[None]])


def _shortened(memory: SceneMemory, nodes: np.ndarray, radius: float) -> np.ndarray:
    """Fewer nodes, each reached from the one before in a straight free line."""
    kept, at = [nodes[0]], 0
    while at < len(nodes) - 1:
        reach = next(
            (
                j
                for j in range(len(nodes) - 1, at + 1, -1)
                if free_distance(memory, nodes[at], nodes[j], radius)
                >= np.linalg.norm(nodes[j] - nodes[at]) - 1e-9
            ),
            at + 1,
        )
        kept.append(nodes[reach])
        at = reach
    return np.stack(kept)


def _corners(keyframe: Keyframe, K: Tensor, max_range: float) -> np.ndarray:
    """The camera and the far corners of what it sees [5, 3], no farther than its depth."""
    height, width = keyframe.depth.shape
    far = min(float(keyframe.depth.float().max()), max_range)
    u = torch.tensor([0.0, width, 0.0, width])
    v = torch.tensor([0.0, 0.0, height, height])
    rays = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones(4)], dim=-1) * far
    world = rays.double() @ keyframe.c2w[:3, :3].double().T + keyframe.c2w[:3, 3].double()
    return np.concatenate([keyframe.c2w[None, :3, 3].double().numpy(), world.numpy()])


def _mark_free(
    state: np.ndarray,
    low: np.ndarray,
    keyframe: Keyframe,
    corners: np.ndarray,
    K: Tensor,
    cell: float,
    max_range: float,
) -> None:
    first = np.floor(corners.min(0) / cell).astype(np.int64)
    size = np.floor(corners.max(0) / cell).astype(np.int64) - first + 1
    cells = np.indices(tuple(size.tolist())).reshape(3, -1).T + first
    height, width = keyframe.depth.shape
    row, column, z, inside = pixels_of((cells + 0.5) * cell, keyframe.c2w, K, height, width)
    surface = keyframe.depth.double().numpy()[row, column]
    seen = inside & (surface > 0) & (z < np.minimum(surface, max_range))
    state[tuple((cells[seen] - low).T)] = 1


def _beyond(cells: np.ndarray, side: np.ndarray) -> np.ndarray:
    """The value one cell further in a direction, for every cell of a box; true beyond the box."""
    padded = np.pad(cells, 1, constant_values=True)
    return padded[tuple(slice(1 + s, 1 + s + n) for s, n in zip(side.tolist(), cells.shape, strict=True))]


def _piece(space: SeenSpace, cells: np.ndarray, sides: np.ndarray) -> Frontier:
    towards = (sides.astype(np.float64) @ _SIDES).sum(0)
    nearest = cells[np.linalg.norm(cells - cells.mean(0), axis=-1).argmin()]
    around = (cells[:, None] + _AROUND).reshape(-1, 3) + space.low
    return Frontier(
        position=space.middle(nearest + space.low),
        direction=towards / max(float(np.linalg.norm(towards)), 1e-9),
        area=float(sides.sum()) * space.cell**2,
        surface=bool((space.at(around) == 2).any()),
    )
