"""Worlds that several processes step, in a folder they share: every step is committed once, or not at all.

A world has an epoch, the number of its steps, and a stamp, the number of its commits. A step is computed from a
state and committed with compare-and-set: it becomes the world's next state only if nothing was committed since, and so
does a reset. Whoever repeats a step, because a worker died before or after its commit, is handed what was committed;
whoever comes late is refused.
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
    world TEXT PRIMARY KEY, epoch INTEGER NOT NULL, action TEXT NOT NULL, saved BLOB NOT NULL, outcome BLOB NOT NULL,
    stamp INTEGER NOT NULL)"""


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
        stamp: Number of commits before it, resets included.
    """

    epoch: int
    action: str
    saved: dict[str, Any]
    outcome: bytes
    stamp: int = 0


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
                "SELECT epoch, action, saved, outcome, stamp FROM head WHERE world = ?", (world,)
            ).fetchone()
        if row is None:
            raise ActionError(f"world {world!r}: not in {self.folder}; reset it first.")
        return Head(row[0], row[1], wire.unpack(row[2]), row[3], row[4])

    def has(self, world: str) -> bool:
        """Whether a world was ever begun."""
        with self._open() as database:
            return database.execute("SELECT 1 FROM head WHERE world = ?", (world,)).fetchone() is not None

    def commit(self, world: str, since: Head | None, head: Head) -> bool:
        """Make `head` the world's next state; False if anything was committed since the head `since`.

        `since` is None for a world that was never begun. The file of the state before is removed: nobody can commit
        from it any more.
        """
        values = (head.epoch, head.action, wire.pack(head.saved), head.outcome)
        with self._open() as database:
            if since is None:
                changed = database.execute(
                    "INSERT OR IGNORE INTO head VALUES (?, ?, ?, ?, ?, 0)", (world, *values)
                ).rowcount
            else:
                changed = database.execute(
                    "UPDATE head SET epoch = ?, action = ?, saved = ?, outcome = ?, stamp = stamp + 1 "
                    "WHERE world = ? AND stamp = ?",
                    (*values, world, since.stamp),
                ).rowcount
        if changed and since is not None:
            Path(since.saved["path"]).unlink(missing_ok=True)
        return changed == 1

    def tidy(self, run: str) -> None:
        """Remove the files that killed workers left behind, of worlds whose name begins so and which nobody steps."""
        with self._open() as database:
            rows = database.execute("SELECT saved FROM head").fetchall()
        kept = {Path(wire.unpack(row[0])["path"]).name for row in rows}
        for path in self.folder.glob(f"{run}*.spatia"):
            if path.name not in kept:
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
