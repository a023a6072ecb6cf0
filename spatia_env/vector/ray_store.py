"""Worlds that several processes step, in a folder they share: every step is committed once, or not at all.

A world's epoch is the number of its commits: resets and steps. A step is computed from the state at one epoch and
committed by compare-and-set: it becomes the world's next state only if nothing was committed since. State and result
are one row of an SQLite file, so a commit is whole or absent, and a worker that is killed leaves nothing behind.
"""

import contextlib
import io
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.errors import SpatiaError, WorldIOError

BUSY_SECONDS = 60.0
_ARRAY = "__array__"
_TABLE = """CREATE TABLE IF NOT EXISTS head (
    world TEXT PRIMARY KEY, epoch INTEGER NOT NULL, token TEXT NOT NULL, state BLOB NOT NULL, outcome BLOB NOT NULL)"""


class StaleEpochError(SpatiaError, RuntimeError):
    """A step was asked of an epoch that the world has left by another call than this one."""


@dataclass(frozen=True)
class Head:
    """A world's last commit; the default is that of a world that was never begun.

    Attributes:
        epoch: Number of commits, this one included.
        token: Names the call that was committed, so that a repeated call is recognised.
        state: The world after it (`distributed.save_env`).
        outcome: What the call returned (`pack`).
    """

    epoch: int = 0
    token: str = ""
    state: bytes = b""
    outcome: bytes = b""


class WorldStore:
    """The last commit of every world, in `worlds.db` of a folder.

    Args:
        folder: On a disk that all workers see.

    Raises:
        WorldIOError: From every call, if the file cannot be read or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "worlds.db"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.execute(_TABLE)

    def head(self, world: str) -> Head:
        """The last commit of a world."""
        query = "SELECT epoch, token, state, outcome FROM head WHERE world = ?"
        with self._open() as database:
            row = database.execute(query, (world,)).fetchone()
        return Head() if row is None else Head(*row)

    def commit(self, world: str, head: Head) -> bool:
        """Make `head` the world's state; False if another commit than the one before its epoch is there."""
        values = head.epoch, head.token, head.state, head.outcome
        with self._open() as database:
            if head.epoch == 1:
                query = "INSERT OR IGNORE INTO head VALUES (?, ?, ?, ?, ?)"
                return database.execute(query, (world, *values)).rowcount == 1
            query = (
                "UPDATE head SET epoch = ?, token = ?, state = ?, outcome = ? WHERE world = ? AND epoch = ?"
            )
            return database.execute(query, (*values, world, head.epoch - 1)).rowcount == 1

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as database, database:
                database.execute("PRAGMA synchronous=FULL")
                yield database
        except sqlite3.Error as cause:
            raise WorldIOError(f"{self.path}: {cause}; is the disk full or another user's?") from cause


def pack(value: Any) -> bytes:
    """Plain values and arrays as bytes: an npz of the arrays, and JSON in which they are named. Tuples become lists."""
    arrays: dict[str, np.ndarray] = {}

    def replace(item: Any) -> Any:
        if not isinstance(item, np.ndarray):
            return item.item()  # a numpy number
        arrays[f"a{len(arrays)}"] = item
        return {_ARRAY: f"a{len(arrays) - 1}"}

    text = json.dumps(value, default=replace)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, json=np.array(text), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """The value of `pack`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return json.loads(str(arrays["json"]), object_hook=lambda d: arrays[d[_ARRAY]] if _ARRAY in d else d)
