"""Opening a world's SQLite file with care: what is checked before, and under which limits it is read.

This module knows the file's two tables and nothing of what they hold.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spatia_env.errors import (
    SpatiaError,
    WorldCorruptError,
    WorldFormatError,
    WorldIOError,
    WorldTooLargeError,
    WorldVersionError,
)
from spatia_env.io import atomic as files

APPLICATION_ID = 0x53504154  # "SPAT", at byte 68 of the file
VERSION = 1  # at byte 60
MAX_RECORD = 256 << 20
"""No record of the file is longer than this."""
SCHEMA = {
    "contents": "CREATE TABLE contents(id INTEGER PRIMARY KEY, codec INTEGER NOT NULL, "
    "size INTEGER NOT NULL, data BLOB NOT NULL) STRICT",
    "manifests": "CREATE TABLE manifests(save INTEGER PRIMARY KEY, hash TEXT NOT NULL, "
    "size INTEGER NOT NULL, data BLOB NOT NULL) STRICT",
}
"""Contents have no index by hash, which every save would have to rewrite: manifests name their rows."""
_WAIT = 10.0  # seconds for another process that is saving
_JOURNAL_END = bytes.fromhex("d9d505f920a163d7")
_LIMITS = {
    "LENGTH": MAX_RECORD, "SQL_LENGTH": 10_000, "COLUMN": 16, "EXPR_DEPTH": 20, "COMPOUND_SELECT": 4,
    "VDBE_OP": 10_000, "FUNCTION_ARG": 8, "ATTACHED": 0, "LIKE_PATTERN_LENGTH": 100, "VARIABLE_NUMBER": 16,
    "TRIGGER_DEPTH": 1, "WORKER_THREADS": 0,
}  # fmt: skip
_PRAGMAS = (
    "trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "temp_store=MEMORY", "secure_delete=OFF",
    "cache_size=-32768",
)  # fmt: skip


def open(target: Path, write: bool) -> sqlite3.Connection:
    """A connection to an existing world after the checks that need no SQLite."""
    interrupted = _check_journal(target)
    _check_header(target)
    # A killed save is undone by whoever opens the file next, which takes the right to write.
    base = connect(target, "rw" if write or interrupted else "ro")
    try:
        if interrupted:
            base.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            _discard_journal(base, target)
    except BaseException:
        base.close()
        raise
    return base


def _discard_journal(base: sqlite3.Connection, target: Path) -> None:
    """Remove the journal of a save that was killed before it touched the file, which SQLite leaves behind."""
    base.execute("PRAGMA busy_timeout=0")
    # With the exclusive lock nobody else can be using it; without, it is somebody's.
    with suppress(sqlite3.OperationalError):
        base.execute("BEGIN EXCLUSIVE")
        with suppress(FileNotFoundError):
            os.unlink(f"{target}-journal")
        base.execute("COMMIT")
    base.execute(f"PRAGMA busy_timeout={int(1000 * _WAIT)}")


def _check_header(target: Path) -> None:
    size = files.regular_size(target, "world")
    with files.open_regular(target, "world") as stream:
        header = stream.read(100)
    if size < 512 or header[:16] != b"SQLite format 3\0":
        raise WorldFormatError(f"{str(target)!r} is not a world file.")
    application, version = (int.from_bytes(header[at : at + 4], "big") for at in (68, 60))
    if application != APPLICATION_ID or header[18:20] != b"\1\1":
        raise WorldFormatError(f"{str(target)!r} is a SQLite file, but not a world.")
    if version != VERSION:
        raise WorldVersionError(
            f"{str(target)!r} has format {version}, this version reads {VERSION}; update spatia_env."
        )


def _check_journal(target: Path) -> bool:
    """Whether a save may have been interrupted; refuses journals that SQLite would act on elsewhere."""
    for other in ("-wal", "-shm"):
        if os.path.lexists(f"{target}{other}"):
            raise WorldFormatError(f"'{target}{other}' exists; worlds have no such file. Remove it.")
    journal = Path(f"{target}-journal")
    if not os.path.lexists(journal):
        return False
    try:
        size = files.regular_size(journal, "journal")
        with files.open_regular(journal, "journal") as stream:
            stream.seek(max(size - len(_JOURNAL_END), 0))
            ending = stream.read(len(_JOURNAL_END))
    except WorldIOError:
        if not os.path.lexists(journal):  # the save that it belonged to has ended
            return False
        raise
    # It would name another file, which SQLite looks for and may delete. Ours never do.
    if ending == _JOURNAL_END:
        raise WorldFormatError(f"{str(journal)!r} is not the journal of a world; remove it.")
    return True


def connect(target: Path, mode: str) -> sqlite3.Connection:
    """A connection with our limits, for reading ("ro") or writing ("rw") a file that exists."""
    base = sqlite3.connect(
        f"{target.as_uri()}?mode={mode}", uri=True, timeout=_WAIT, isolation_level=None, cached_statements=16
    )
    try:
        for name, limit in _LIMITS.items():
            if hasattr(base, "setlimit"):  # Python 3.11
                base.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), limit)
        for pragma in _PRAGMAS:
            base.execute(f"PRAGMA {pragma}")
    except BaseException:
        base.close()
        raise
    return base


@contextmanager
def errors(target: Path, done: str) -> Iterator[None]:
    """Name the file in our errors, and turn what SQLite and the system raise into them."""
    try:
        yield
    except SpatiaError as error:
        if str(target) not in str(error):
            raise type(error)(f"{str(target)!r}: {error}") from error
        raise
    except sqlite3.OperationalError as cause:
        if "locked" in str(cause):
            raise WorldIOError(f"{str(target)!r}: another process is saving it; try again.") from cause
        raise WorldIOError(f"{str(target)!r} could not be {done} ({cause}); what it held is safe.") from cause
    except sqlite3.DataError as cause:
        raise WorldTooLargeError(f"{str(target)!r}: a record is too large ({cause}).") from cause
    except (sqlite3.Error, zlib.error, OverflowError) as cause:
        raise WorldCorruptError(f"{str(target)!r} is damaged ({cause}).") from cause
    except OSError as cause:
        raise WorldIOError(f"{str(target)!r} could not be {done} ({cause}); what it held is safe.") from cause


def check_schema(base: sqlite3.Connection, target: Path) -> None:
    """Refuse anything but our two tables: no triggers, views, virtual tables or generated columns."""
    rows = base.execute("SELECT type, name, sql FROM sqlite_schema LIMIT 10").fetchall()
    if sorted(map(str, rows)) != sorted(str(("table", name, sql)) for name, sql in SCHEMA.items()):
        raise WorldFormatError(f"{str(target)!r} has tables that are not those of a world.")


def check_pages(base: sqlite3.Connection, target: Path) -> None:
    """The file is as long as it says, and its pages hang together."""
    pages, size = (base.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size != os.stat(target).st_size:
        raise WorldCorruptError("the file is longer or shorter than it declares.")
    problem = base.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise WorldCorruptError(f"the file's pages do not hang together ({problem:.200}).")
