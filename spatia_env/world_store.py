"""Worlds that several processes step, in a folder they share: every step is committed once, or not at all.

A world has an epoch, the number of its steps. A step is computed from the state at an epoch and committed with
compare-and-set: it becomes the world's next state only if the world is still at that epoch. Whoever repeats a step,
because a worker died before or after its commit, is handed what was committed; whoever comes late is refused.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatia_env import wire
from spatia_env.errors import ActionError, SpatiaError, WorldIOError

BUSY_SECONDS = 60.0
_TABLE = """CREATE TABLE IF NOT EXISTS head (
    world TEXT PRIMARY KEY, epoch INTEGER NOT NULL, action TEXT NOT NULL, saved BLOB NOT NULL, outcome BLOB NOT NULL)"""


class StaleEpochError(SpatiaError, RuntimeError):
    """A step was asked of an epoch that the world has left, with another action than the one it took."""


@dataclass(frozen=True)
class Head:
    """A world's last commit.

    Attributes:
        epoch: Number of steps since the reset.
        action: Hash of the last step's action; after a reset, its token.
        saved: Where the state is, see `durable.save_env`.
        outcome: What the step (or the reset) returned, packed.
    """

    epoch: int
    action: str
    saved: dict[str, Any]
    outcome: bytes


class WorldStore:
    """The heads of worlds, in `worlds.db` of a folder; their files lie beside it.

    Args:
        folder: On a disk that all workers see.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.execute(_TABLE)

    def head(self, world: str) -> Head:
        """The last commit of a world.

        Raises:
            ActionError: If it was never begun.
        """
        with self._open() as database:
            row = database.execute(
                "SELECT epoch, action, saved, outcome FROM head WHERE world = ?", (world,)
            ).fetchone()
        if row is None:
            raise ActionError(f"world {world!r}: not in {self.folder}; reset it first.")
        return Head(row[0], row[1], wire.unpack(row[2]), row[3])

    def has(self, world: str) -> bool:
        """Whether a world was ever begun."""
        with self._open() as database:
            return database.execute("SELECT 1 FROM head WHERE world = ?", (world,)).fetchone() is not None

    def begin(self, world: str, token: str, saved: dict[str, Any], outcome: bytes) -> None:
        """Set a world to epoch 0, whatever it was; `token` names the reset."""
        row = (world, token, wire.pack(saved), outcome)
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO head VALUES (?, 0, ?, ?, ?)", row)

    def commit(self, world: str, epoch: int, action: str, saved: dict[str, Any], outcome: bytes) -> bool:
        """Make a step from `epoch` the world's next state; False if the world is no longer there."""
        row = (epoch + 1, action, wire.pack(saved), outcome, world, epoch)
        with self._open() as database:
            changed = database.execute(
                "UPDATE head SET epoch = ?, action = ?, saved = ?, outcome = ? WHERE world = ? AND epoch = ?",
                row,
            ).rowcount
        return changed == 1

    def sweep(self, world: str, epoch: int, keep: str) -> None:
        """Remove a world's files up to an epoch but the one that was committed."""
        for path in self.folder.glob(f"{world}-*.spatia"):
            number = path.stem.removeprefix(f"{world}-").split("-")[0]
            if str(path) != keep and number.isdigit() and int(number) <= epoch:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self.folder / "worlds.db", timeout=BUSY_SECONDS)
            try:
                with database:
                    database.execute("PRAGMA synchronous=FULL")
                    yield database
            finally:
                database.close()
        except sqlite3.Error as cause:
            raise WorldIOError(
                f"{self.folder}/worlds.db: {cause}; is the disk full or another one's?"
            ) from cause


def action_hash(action: Any) -> str:
    """SHA-256 of an action's plain values."""
    return hashlib.sha256(wire.pack(action)).hexdigest()
