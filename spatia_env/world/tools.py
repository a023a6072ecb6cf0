"""`world.edit` and `world.query`: changing a world by hand, and asking what is in it.

Both work on the world's own camera where none is given. An edit changes the map and everything that the next
clip is shown of it: keyframes, and the last frames. It goes into the ledger, and `undo` takes it back, also when
the world has gone on meanwhile. A call that raises leaves the world as it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError, EditError
from spatia_env.events.log import LedgerRow
from spatia_env.geometry import check_rigid
from spatia_env.memory import editing, exploration, queries
from spatia_env.memory.cloud import PointCloud
from spatia_env.memory.history import MAX_HISTORY, EditRecord, revert
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.regions import Box, Click, Mask, Region
from spatia_env.memory.repainting import repaint
from spatia_env.memory.scene import SceneMemory

if TYPE_CHECKING:
    from spatia_env.world.world import World, WorldState

__all__ = ["Edits", "WorldEdits", "WorldQueries", "halted"]

BODY = 0.15
"""Metres around the camera that stay free with `block_collisions`."""

Edit = Callable[[SceneMemory], tuple[SceneMemory, EditRecord]]


@dataclass(frozen=True, eq=False)
class _Change:
    """An edit that was made: its record, and the pictures (keyframes, then the last frames) before and after it."""

    record: EditRecord
    pictures: tuple[tuple[Keyframe, Keyframe], ...]
    last: tuple[Tensor, Tensor] | None
    last_after: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class Edits:
    """Edits that can be taken back and done again, the last `MAX_HISTORY`; immutable. A file does not hold them."""

    done: tuple[_Change, ...] = field(default=(), repr=False)
    undone: tuple[_Change, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.done)


class WorldEdits:
    """Edits of a world: `world.edit`. Each returns what it did, and is a row of the ledger.

    Regions are a `Box`, or what `box`, `click` and `mask` make.

    Raises:
        EditError: An impossible region, transform or colour, or a region that holds no point.
        WorldFullError: The map would exceed `max_points` and `on_full="error"`.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def box(self, centre: Any, size: Any, rotation: Any = None) -> Box:
        """The region of a box: `centre` [3] and `size` [3] in metres, `rotation` [3, 3] with its axes as columns."""
        return Box(centre, size) if rotation is None else Box(centre, size, rotation)

    def click(self, pixel: tuple[float, float], c2w: Any = None, max_radius: float = 1.5) -> Click:
        """The connected thing at `pixel` (u, v) of the view from `c2w` [4, 4], the last frame by default."""
        state = self._world.state
        return Click(pixel, _pose(c2w, state), state.K, state.size, max_radius=max_radius)

    def mask(self, mask: Any, c2w: Any = None) -> Mask:
        """The surface in the pixels of `mask` bool [H, W] in the view from `c2w` [4, 4], the last frame by default."""
        state = self._world.state
        if np.shape(mask) != tuple(state.size):
            raise EditError(f"mask: expected shape {list(state.size)}, got {list(np.shape(mask))}.")
        return Mask(np.asarray(mask), _pose(c2w, state), state.K)

    def remove(self, region: Region) -> EditRecord:
        """Take the points of a region away."""
        return self._apply(lambda memory: editing.remove(memory, region))

    def move(self, region: Region, transform: Any) -> EditRecord:
        """Move a region's points by a rigid transform [4, 4] of the world."""
        return self._apply(lambda memory: editing.move(memory, region, transform))

    def rotate(self, region: Region, rotvec: Any, pivot: Any = None) -> EditRecord:
        """Turn a region's points by a rotation vector [3] (radians, world axes) about `pivot` [3], by default their
        middle.
        """
        return self._apply(lambda memory: editing.rotate(memory, region, rotvec, pivot))

    def insert(
        self, source: PointCloud | str | os.PathLike[str], c2w: Any = None, scale: float = 1.0
    ) -> EditRecord:
        """Put in a cloud (`PointCloud.of_mesh`, another world's `extract`), a PLY file or a COLMAP folder."""
        step = self._world.state.step
        return self._apply(lambda memory: editing.insert(memory, source, c2w, scale, step))

    def recolor(self, region: Region, rgb: Any, keep_shading: bool = True) -> EditRecord:
        """Paint a region's points: `rgb` [3] from 0 to 255."""
        return self._apply(lambda memory: editing.recolor(memory, region, rgb, keep_shading))

    def freeze(self, region: Region) -> EditRecord:
        """Keep a region's points as they are, whatever later clips show."""
        return self._apply(lambda memory: editing.freeze(memory, region))

    def extract(self, region: Region) -> PointCloud:
        """The points of a region in world coordinates, to be inserted elsewhere; the world stays as it is."""
        return editing.extract(self._world.memory, region)

    def undo(self) -> EditRecord:
        """Take the last edit back: exactly, where nothing has been seen since."""
        edits = self._world.state.edits
        if not edits.done:
            raise EditError("there is no edit to undo.")
        state, change = _reverted(self._world.state, edits.done[-1], "undo")
        history = Edits(edits.done[:-1], (*edits.undone, change))
        self._world.state = dataclasses.replace(state, edits=history)
        return change.record

    def redo(self) -> EditRecord:
        """Do again what was undone last."""
        edits = self._world.state.edits
        if not edits.undone:
            raise EditError("there is no edit to redo.")
        state, change = _reverted(self._world.state, edits.undone[-1], "redo")
        history = Edits((*edits.done, change), edits.undone[:-1])
        self._world.state = dataclasses.replace(state, edits=history)
        return change.record

    def _apply(self, edit: Edit) -> EditRecord:
        before = self._world.state
        if not self._world.remembers:
            raise EditError('this world has no map to edit; make the environment with memory="points".')
        memory, record = edit(before.memory)
        keyframes = repaint(before.keyframes, before.memory, memory, record, before.K)
        state, change = _with_pictures(before, memory, record, keyframes, _last(before, memory, record))
        history = Edits((*before.edits.done, change)[-MAX_HISTORY:])
        self._world.state = dataclasses.replace(state, edits=history)
        return record


class WorldQueries:
    """Questions to a world: `world.query`. None of them changes it.

    Raises:
        ActionError, PoseError: Numbers that are not finite, or not a pose.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def raycast(
        self, origin: Any = None, direction: Any = None, max_distance: float = queries.MAX_DISTANCE
    ) -> queries.Hit | None:
        """The first point that a ray meets, or None; from the camera, and straight ahead, by default."""
        c2w = self._world.c2w
        start = c2w[:3, 3] if origin is None else origin
        return queries.raycast(
            self._world.memory, start, c2w[:3, 2] if direction is None else direction, max_distance
        )

    def visible(self, c2w: Any = None) -> np.ndarray:
        """The points (`blocks.POINT`) that a camera at `c2w` [4, 4] sees; the last frame's by default."""
        state = self._world.state
        return queries.visible(state.memory, _pose(c2w, state), state.K, *state.size)

    def occupied(self, position: Any, radius: float = 0.0) -> bool | np.ndarray:
        """Whether a ball of `radius` metres around positions [3] or [n, 3] touches a point: bool, or bool [n]."""
        return queries.occupied(self._world.memory, position, radius)

    def free_distance(self, end: Any, start: Any = None, radius: float = BODY) -> float:
        """How many metres a ball can go towards `end` [3], from the camera by default, before it touches a point."""
        start = self._world.c2w[:3, 3] if start is None else start
        return queries.free_distance(self._world.memory, start, end, radius)

    def path(self, end: Any, start: Any = None, radius: float = BODY) -> np.ndarray | None:
        """A way [n, 3] through free space to `end`, from the camera by default, or None.

        Both ends are positions [3] or poses [4, 4]. Unseen space counts as free.
        """
        begin = self._world.c2w if start is None else start
        return exploration.find_path(self._world.memory, _place(begin, "start"), _place(end, "end"), radius)

    def frontier(self, min_area: float = 0.1) -> list[exploration.Frontier]:
        """Where free space meets what nobody has seen, largest piece first."""
        state = self._world.state
        return exploration.frontier(state.memory, state.keyframes, state.K, min_area=min_area)

    def nearest_unseen(self, position: Any = None) -> exploration.Frontier | None:
        """Where the nearest known surface runs on unseen, from the camera by default; None when all is seen."""
        state = self._world.state
        here = state.c2w[:3, 3] if position is None else _place(position, "position")
        return exploration.nearest_unseen(state.memory, state.keyframes, state.K, here)


def halted(
    memory: SceneMemory, c2w: Tensor, path: Tensor, radius: float = BODY
) -> tuple[Tensor, dict[str, Any]]:
    """A path whose camera stops where a ball around it would touch a surface; it goes on turning.

    Args:
        memory: The map.
        c2w: Where the camera is [4, 4].
        path: Where it is told to go [T, 4, 4].
        radius: Of the ball, metres.

    Returns:
        The path; and, where it was stopped, the `frame` at which, the `position` [3] there and the metres it got,
        `distance`, as JSON data; empty where it was not.
    """
    here, gone = c2w[:3, 3].double().numpy(), 0.0
    for frame, target in enumerate(path[:, :3, 3].double().numpy()):
        length = float(np.linalg.norm(target - here))
        free = queries.free_distance(memory, here, target, radius) if length > 1e-9 else length
        if free < length - 1e-6:
            here = here + (target - here) * (free / length)
            stopped = path.clone()
            stopped[frame:, :3, 3] = torch.from_numpy(here).to(path.dtype)
            return stopped, {"frame": frame, "position": here.tolist(), "distance": gone + free}
        here, gone = target, gone + length
    return path, {}


# -- parts ----------------------------------------------------------------------------------------------


def _with_pictures(
    before: WorldState,
    memory: SceneMemory,
    record: EditRecord,
    keyframes: Sequence[Keyframe],
    last: tuple[Tensor, Tensor] | None,
) -> tuple[WorldState, _Change]:
    """The state after an edit, with its row in the ledger, and how to take it back."""
    frames, depth = last or (before.preceding_frames, before.depth)
    row = LedgerRow(before.step, json.dumps(record.as_dict(), sort_keys=True), record.kind, "edit")
    state = dataclasses.replace(
        before,
        memory=memory,
        keyframes=tuple(keyframes),
        preceding_frames=frames,
        depth=depth,
        ledger=(*before.ledger, row),
    )
    pictures = tuple(
        (old, new) for old, new in zip(before.keyframes, keyframes, strict=True) if old is not new
    )
    given = None if last is None else (before.preceding_frames, before.depth)
    return state, _Change(record, pictures, given, last)


def _last(state: WorldState, after: SceneMemory, record: EditRecord) -> tuple[Tensor, Tensor] | None:
    """The frames that precede the next clip, and the last depth, after an edit; None where it does not show there.

    All of them become the last one: where the others were taken is not known, and the model sees a camera that
    stood still, as after a reset.
    """
    frame = Keyframe(state.preceding_frames[-1], state.depth.half(), state.c2w, state.step)
    new = repaint([frame], state.memory, after, record, state.K)[0]
    if new is frame:
        return None
    frames = new.frame.expand(len(state.preceding_frames), *new.frame.shape).clone()
    same = new.depth == frame.depth  # only what changed loses the precision of f32
    return frames, torch.where(same, state.depth, new.depth.float())


def _reverted(state: WorldState, change: _Change, kind: str) -> tuple[WorldState, _Change]:
    """The state with a change taken back, pictures included: those it made become what they were, later ones are
    repainted.
    """
    memory, record = revert(state.memory, change.record, kind)
    former = {id(new): old for old, new in change.pictures}
    later = [k for k in state.keyframes if id(k) not in former]
    repainted = dict(zip(map(id, later), repaint(later, state.memory, memory, record, state.K), strict=True))
    keyframes = [former.get(id(k)) or repainted[id(k)] for k in state.keyframes]
    if change.last_after is not None and state.preceding_frames is change.last_after[0]:
        last = change.last
    else:
        last = _last(state, memory, record)
    return _with_pictures(state, memory, record, keyframes, last)


def _pose(value: Any, state: WorldState) -> Tensor:
    if value is None:
        return state.c2w
    pose = _tensor(value, "c2w")
    check_rigid(pose, "c2w")
    return pose


def _tensor(value: Any, name: str) -> Tensor:
    from spatia_env.checks import as_real_array

    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return torch.from_numpy(as_real_array(value, name, ActionError)).float()


def _place(value: Any, name: str) -> Any:
    """The position of a pose [4, 4]; a position [3] as it is."""
    if np.shape(value) != (4, 4):
        return value
    pose = _tensor(value, name)
    check_rigid(pose, name)
    return pose[:3, 3]
