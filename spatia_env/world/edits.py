"""`world.edit`: changing a world by hand.

An edit changes the map and everything that the next clip is shown of it: keyframes, and the last frames. It goes into
the ledger, and `undo` takes it back, also when the world has gone on meanwhile. A call that raises leaves the world as
it was. Where no camera is given, the last frame's is meant.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import EditError
from spatia_env.events.log import LedgerRow
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory import editing
from spatia_env.memory.editing import MAX_HISTORY, EditRecord, repaint, revert
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.regions import Box, Click, Mask, Region
from spatia_env.world.queries import pose_or_last
from spatia_env.world.state import Change, Edits, HoldsState, WorldState

Edit = Callable[[SceneMemory], tuple[SceneMemory, EditRecord]]


class WorldEdits:
    """Edits of a world: `world.edit`. Each returns what it did, and is a row of the ledger.

    Regions are a `Box`, or what `box`, `click` and `mask` make.

    Raises:
        EditError: An impossible region, transform or colour, or a region that holds no point.
        WorldFullError: The map would exceed `max_points` and `on_full="error"`.
    """

    def __init__(self, world: HoldsState) -> None:
        self._world = world

    def box(self, centre: Any, size: Any, rotation: Any = None) -> Box:
        """The region of a box: `centre` [3] and `size` [3] in metres, `rotation` [3, 3] with its axes as columns."""
        return Box(centre, size) if rotation is None else Box(centre, size, rotation)

    def click(self, pixel: tuple[float, float], c2w: Any = None, max_radius: float = 1.5) -> Click:
        """The connected thing at `pixel` (u, v) of the view from `c2w` [4, 4], the last frame by default."""
        state = self._world.state
        return Click(pixel, pose_or_last(c2w, state), state.K, state.size, max_radius=max_radius)

    def mask(self, mask: Any, c2w: Any = None) -> Mask:
        """The surface in the pixels of `mask` bool [H, W] in the view from `c2w` [4, 4], the last frame by default."""
        state = self._world.state
        if np.shape(mask) != tuple(state.size):
            raise EditError(f"mask: expected shape {list(state.size)}, got {list(np.shape(mask))}.")
        return Mask(np.asarray(mask), pose_or_last(c2w, state), state.K)

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
        return editing.extract(self._world.state.memory, region)

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
        if not before.map.writes:
            raise EditError('this world has no map to edit; make the environment with memory="points".')
        memory, record = edit(before.memory)
        keyframes = repaint(before.keyframes, before.memory, memory, record, before.K)
        state, change = _with_pictures(before, memory, record, keyframes, _last(before, memory, record))
        history = Edits((*before.edits.done, change)[-MAX_HISTORY:])
        self._world.state = dataclasses.replace(state, edits=history)
        return record


def _with_pictures(
    before: WorldState,
    memory: SceneMemory,
    record: EditRecord,
    keyframes: Sequence[Keyframe],
    last: tuple[Tensor, Tensor] | None,
) -> tuple[WorldState, Change]:
    """The state after an edit, with its row in the ledger, and how to take it back."""
    frames, depth = last or (before.preceding_frames, before.depth)
    row = LedgerRow(before.step, json.dumps(record.as_dict(), sort_keys=True), record.kind, "edit")
    state = dataclasses.replace(
        before,
        map=dataclasses.replace(before.map, points=memory, keyframes=tuple(keyframes)),
        preceding_frames=frames,
        depth=depth,
        ledger=(*before.ledger, row),
    )
    pictures = tuple(
        (old, new) for old, new in zip(before.keyframes, keyframes, strict=True) if old is not new
    )
    given = None if last is None else (before.preceding_frames, before.depth)
    return state, Change(record, pictures, given, last)


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


def _reverted(state: WorldState, change: Change, kind: str) -> tuple[WorldState, Change]:
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
