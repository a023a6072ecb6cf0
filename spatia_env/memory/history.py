"""What edits did, and how they are taken back, also in a map that has changed since."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spatia_env.errors import EditError
from spatia_env.memory import blocks as blk
from spatia_env.memory.point_map import SceneMemory

MAX_HISTORY = 64


@dataclass(frozen=True, eq=False)
class EditRecord:
    """What an edit did.

    Attributes:
        kind: "remove", "move", "insert", "recolor", "freeze", or "undo" and "redo".
        points: How many points were chosen or written.
        low: Lowest corner [3] in metres of what changed, in the old map and the new.
        high: Highest corner [3].
        details: What was asked for, as JSON data.
        changes: For each changed block its rows before and after.
    """

    kind: str
    points: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    details: dict[str, Any] = field(default_factory=dict)
    changes: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON data for a ledger, without the blocks."""
        return {
            "kind": self.kind,
            "points": self.points,
            "low": list(self.low),
            "high": list(self.high),
            **self.details,
        }

    def changed_points(self) -> np.ndarray:
        """Rows (`blocks.POINT`) that are in only one of the two maps: what pictures of either would show."""
        parts = [blk.EMPTY]
        for before, after in self.changes.values():
            parts += [_only_in(before, after), _only_in(after, before)]
        return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class EditHistory:
    """Edits that can be taken back and done again, the last `MAX_HISTORY` of them; immutable."""

    done: tuple[EditRecord, ...] = ()
    undone: tuple[EditRecord, ...] = ()

    def with_edit(self, record: EditRecord) -> "EditHistory":
        """The history after a new edit; what had been undone cannot be redone any more."""
        return EditHistory((*self.done, record)[-MAX_HISTORY:])

    def undo(self, memory: SceneMemory) -> tuple[SceneMemory, "EditHistory", EditRecord]:
        """Take back the last edit; see `revert`.

        Raises:
            EditError: If there is none.
        """
        if not self.done:
            raise EditError("there is no edit to undo.")
        reverted, record = revert(memory, self.done[-1])
        return reverted, EditHistory(self.done[:-1], (*self.undone, record)), record

    def redo(self, memory: SceneMemory) -> tuple[SceneMemory, "EditHistory", EditRecord]:
        """Do again what was undone last.

        Raises:
            EditError: If nothing was undone since the last edit.
        """
        if not self.undone:
            raise EditError("there is no edit to redo.")
        reverted, record = revert(memory, self.undone[-1], "redo")
        return reverted, EditHistory((*self.done, record), self.undone[:-1]), record


def revert(memory: SceneMemory, record: EditRecord, kind: str = "undo") -> tuple[SceneMemory, EditRecord]:
    """Take back what a record did, in a map that may have changed since.

    Blocks that are as the edit left them become exactly what they were. In others the edit's points go and
    the points that it took away return to voxels that are still empty; what was seen since stays.
    """
    changed = {}
    for key, (before, after) in record.changes.items():
        current = memory.blocks.get(key, blk.EMPTY)
        changed[key] = before if _same(current, after) else _taken_back(current, before, after)
    reverted, _ = memory.with_blocks(changed).bounded()
    details = {"of": record.details.get("of", record.kind)}
    return reverted, record_of(kind, memory, reverted, record.points, **details)


def record_of(kind: str, before: SceneMemory, after: SceneMemory, points: int, **details: Any) -> EditRecord:
    """The record of an edit from the two maps; `details` are what was asked for."""
    changes = {}
    for key in sorted(before.blocks.keys() | after.blocks.keys()):
        old, new = before.blocks.get(key, blk.EMPTY), after.blocks.get(key, blk.EMPTY)
        if old is not new:
            changes[key] = (old, new)
    record = EditRecord(kind, points, (), (), details, changes)
    position = record.changed_points()["position"].astype(np.float64)
    low, high = (position.min(0), position.max(0)) if len(position) else (np.zeros(3), np.zeros(3))
    return EditRecord(kind, points, tuple(low.tolist()), tuple(high.tolist()), details, changes)


def overlaid(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Rows of `new`, and those of `old` in other voxels, sorted by voxel."""
    rows = np.concatenate([old[~np.isin(old["voxel"], new["voxel"])], new])
    return blk.freeze(rows[np.argsort(rows["voxel"], kind="stable")])


def _taken_back(current: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    left = current[~np.isin(current["voxel"], _only_in(after, before)["voxel"])]
    lost = _only_in(before, after)
    return overlaid(left, lost[~np.isin(lost["voxel"], left["voxel"])])


def _only_in(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows that `others` has not, or has with other values."""
    place = np.searchsorted(others["voxel"], rows["voxel"])
    place = np.minimum(place, max(len(others) - 1, 0))
    if not len(others):
        return rows
    raw = np.dtype((np.void, blk.POINT.itemsize))
    return rows[np.ascontiguousarray(others[place]).view(raw) != np.ascontiguousarray(rows).view(raw)]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or (len(a) == len(b) and a.tobytes() == b.tobytes())
