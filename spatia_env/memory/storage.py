"""One world, one file (`.spatia`): a SQLite database of contents, and for each save a manifest that names them by hash.

A save is one transaction of a rollback journal: it adds the contents that are new, adds a manifest, drops
what no manifest names any more, and is on the disk when the call returns. A process that dies, a full disk
or a refused write leaves the world of the save before. Between saves there is one file; beside it a
`-journal` exists while a save runs or after one was killed, and the next open uses it up.

Files are not trusted. Sizes are checked before anything is opened, SQLite runs no triggers, views or
functions of the file, and what is read is compared with its hash before it is used. `manifest` turns a world into
contents and back; `docs/memory.md` describes the format.
"""

import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.errors import (
    SpatiaError,
    WorldCorruptError,
    WorldFormatError,
    WorldIOError,
    WorldTooLargeError,
    WorldVersionError,
)
from spatia_env.io import atomic
from spatia_env.memory import codecs
from spatia_env.memory.manifest import (
    BundleState,
    Contents,
    Read,
    content_rows,
    describe,
    from_json,
    rebuild,
    to_json,
)

__all__ = ["BundleState", "SaveReport", "load_bundle", "save_bundle", "saves"]

MAX_BYTES = 4 << 30
"""A world may declare this many bytes of contents in all, unpacked; `load_bundle(max_bytes=)` changes it."""
_LOCK = threading.RLock()
"""Held over every use of a file: closing any descriptor of it drops all POSIX locks of the process on it."""
_VERIFIED: dict[tuple[int, int], str] = {}
"""(device, inode) -> hash of the manifest that this process last wrote or read there, with all contents."""
APPLICATION_ID = 0x53504154  # "SPAT", at byte 68 of the file
VERSION = 1  # at byte 60
MAX_RECORD = 256 << 20
"""No record of the file is longer than this."""
_SCHEMA = {
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


@dataclass(frozen=True)
class SaveReport:
    """What a save did: its number, contents `written` and `kept`, their bytes, and the size of the file."""

    save: int
    written: int
    kept: int
    bytes_written: int
    file_bytes: int


def save_bundle(path: str | os.PathLike[str], state: BundleState, keep: int = 1) -> SaveReport:
    """Write a world; the file then holds it, or, if this raises, what it held before.

    (If the very last system call of a save fails, the one that makes the removal of the journal durable, it raises
    although the file holds the new world.) Contents that the file has from a save or load of this process are not
    written again.

    Args:
        path: A new file, or one that holds a world.
        state: What to write.
        keep: How many saves the file remembers, this one included; see `load_bundle(save=)`.

    Raises:
        WorldIOError: The system refuses, the disk is full, or another process is saving.
        WorldFormatError: `path` is not a world, or the state cannot be written.
    """
    target = atomic.as_path(path, "world")
    if not isinstance(keep, int) or keep < 1:
        raise WorldFormatError(f"keep={keep!r}: keep at least one save.")
    manifest, contents = describe(state)
    to_json(manifest)  # refuse what cannot be written before anything is touched
    with _LOCK, _errors(target, "saved"):
        if not os.path.lexists(target):
            report = _create(target, manifest, contents)
            if report is not None:
                return report
        atomic.sweep(target)
        return _extend(target, manifest, contents, keep)


def load_bundle(
    path: str | os.PathLike[str], save: int | None = None, max_bytes: int = MAX_BYTES
) -> BundleState:
    """Read a world, every array bit for bit as it was saved.

    Args:
        path: A file that `save_bundle` wrote.
        save: Which of the saves that the file remembers; the last by default.
        max_bytes: Refuse worlds that declare more than this, unpacked.

    Raises:
        WorldCorruptError: It is cut short or altered.
        WorldVersionError: A newer version wrote it.
        WorldTooLargeError: It declares too much.
        WorldFormatError: It is not a world.
        WorldIOError: The system refuses, or another process is saving for longer than 10 seconds.
    """
    target = atomic.as_path(path, "world")
    with _LOCK, _errors(target, "read"), closing(_open(target, write=False)) as base:
        base.execute("BEGIN")
        _check_schema(base, target)
        _check_pages(base, target)
        number, name, text = _manifest(base, save)
        manifest = from_json(text)
        state = rebuild(manifest, _reader(base, content_rows(manifest)), max_bytes)
        base.execute("COMMIT")
        if number == _last(base):
            _VERIFIED[_identity(target)] = name
    return state


def saves(path: str | os.PathLike[str]) -> list[int]:
    """Numbers of the saves that a world file remembers; the raises of `load_bundle` hold."""
    target = atomic.as_path(path, "world")
    with _LOCK, _errors(target, "read"), closing(_open(target, write=False)) as base:
        _check_schema(base, target)
        return [row[0] for row in base.execute("SELECT save FROM manifests ORDER BY save")]


# -- writing --------------------------------------------------------------------------------------------


def _create(target: Path, manifest: dict[str, Any], contents: Contents) -> SaveReport | None:
    """Build a new file under another name and link it into place; None if the name is taken meanwhile."""
    # A journal without its world would be taken for the new one's.
    with suppress(FileNotFoundError):
        os.unlink(f"{target}-journal")
    with atomic.scratch(target) as (temporary, handle):
        with closing(_connect(temporary, "rw")) as base:
            # Nobody sees this file before it is whole, so it needs no journal, and one fsync at its end.
            base.execute("PRAGMA journal_mode=OFF")
            base.execute("PRAGMA synchronous=OFF")
            base.execute(f"PRAGMA application_id={APPLICATION_ID}")
            base.execute(f"PRAGMA user_version={VERSION}")
            base.execute("BEGIN")
            for statement in _SCHEMA.values():
                base.execute(statement)
            written, rows = _insert(base, contents, {})
            name, size = _insert_manifest(base, 1, manifest, rows)
            base.execute("COMMIT")
        os.fsync(handle)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return None
        except OSError:  # a file system without hard links
            os.rename(temporary, target)
        atomic.sync_folder(target.parent)
        _VERIFIED[_identity(target)] = name
        return SaveReport(1, len(contents), 0, written + size, os.stat(target).st_size)


def _extend(target: Path, manifest: dict[str, Any], contents: Contents, keep: int) -> SaveReport:
    """Add a save to a file that holds a world, in one transaction."""
    with closing(_open(target, write=True)) as base:
        base.execute("PRAGMA journal_mode=DELETE")
        base.execute("PRAGMA synchronous=EXTRA")  # FULL, and the removal of the journal is on the disk too
        base.execute("BEGIN IMMEDIATE")
        try:
            _check_schema(base, target)
            number, name, last = _manifest(base)
            # Only what this process wrote or checked is known to be what its hash says.
            verified = _VERIFIED.get(_identity(target)) == name
            if not verified:
                _check_pages(base, target)
            known = dict(content_rows(from_json(last))) if verified else {}
            written, rows = _insert(base, contents, known)
            name, size = _insert_manifest(base, number + 1, manifest, rows)
            _drop_old(base, number + 1, keep, set(rows.values()), verified)
            base.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite has rolled back already where it had to
                base.execute("ROLLBACK")
            raise
    _VERIFIED[_identity(target)] = name
    kept = len(contents.keys() & known.keys())
    return SaveReport(number + 1, len(contents) - kept, kept, written + size, os.stat(target).st_size)


def _insert(
    base: sqlite3.Connection, contents: Contents, known: dict[str, int]
) -> tuple[int, dict[str, int]]:
    """Write the contents that are not `known`; how many bytes they took, and the row of each content."""
    written = 0
    rows: dict[str, int] = {}
    for name, content in contents.items():
        if name in known:
            rows[name] = known[name]
            continue
        codec, data = content.encode()
        values = (codec, content.size, data)
        row = base.execute("INSERT INTO contents(codec, size, data) VALUES(?, ?, ?)", values).lastrowid
        rows[name] = row or 0  # never None after an INSERT
        written += len(data)
    return written, rows


def _insert_manifest(
    base: sqlite3.Connection, number: int, manifest: dict[str, Any], rows: dict[str, int]
) -> tuple[str, int]:
    """Write a manifest; its hash and the bytes it took."""
    text = to_json({**manifest, "contents": [[name, row] for name, row in rows.items()]})
    name, data = codecs.digest(np.frombuffer(text, np.uint8)), zlib.compress(text, 6)
    base.execute("INSERT INTO manifests VALUES(?, ?, ?, ?)", (number, name, len(text), data))
    return name, len(data)


def _drop_old(base: sqlite3.Connection, number: int, keep: int, named: set[int], verified: bool) -> None:
    """Forget all but the last `keep` manifests, and what no manifest names; the pages are used again."""
    present: set[int] = set()
    for (save,) in base.execute("SELECT save FROM manifests WHERE save < ?", (number,)).fetchall():
        rows = {row for _, row in content_rows(from_json(_manifest(base, save)[2]))}
        (present if save <= number - keep else named).update(rows)
    if not verified:  # rows that no manifest names cannot come from us, but may be there
        present = {row for (row,) in base.execute("SELECT id FROM contents")}
    base.execute("DELETE FROM manifests WHERE save <= ?", (number - keep,))
    base.executemany("DELETE FROM contents WHERE id = ?", [(row,) for row in sorted(present - named)])


# -- reading --------------------------------------------------------------------------------------------


def _reader(base: sqlite3.Connection, rows: list[tuple[str, int]]) -> Read:
    def read(number: int, size: int) -> np.ndarray:
        name, row = rows[number]
        found = base.execute("SELECT codec, size, data FROM contents WHERE id = ?", (row,)).fetchone()
        if found is None:
            raise WorldCorruptError(f"the content {name[:12]} is missing.")
        codec, declared, data = found
        if declared != size or not isinstance(data, bytes):
            raise WorldCorruptError(f"the content {name[:12]} has {declared} bytes where {size} belong.")
        values = codecs.decode(codec, data, size)
        if codecs.digest(values) != name:
            raise WorldCorruptError(f"the content {name[:12]} differs from its hash.")
        return values

    return read


def _manifest(base: sqlite3.Connection, save: int | None = None) -> tuple[int, str, bytes]:
    """Number, hash and text of a save."""
    number = _last(base) if save is None else save
    row = base.execute("SELECT hash, size, data FROM manifests WHERE save = ?", (number,)).fetchone()
    if row is None:
        remembered = [r[0] for r in base.execute("SELECT save FROM manifests ORDER BY save LIMIT 100")]
        raise WorldFormatError(f"the file remembers no save {save!r}; it has {remembered}.")
    name, size, data = row
    if not (isinstance(size, int) and isinstance(data, bytes)):
        raise WorldCorruptError("the manifest is not of its table's types.")
    if size > MAX_RECORD:
        raise WorldTooLargeError(f"the manifest declares {size} bytes.")
    text = codecs.inflate(data, size)
    if codecs.digest(np.frombuffer(text, np.uint8)) != name:
        raise WorldCorruptError("the manifest differs from its hash.")
    return number, name, text


def _last(base: sqlite3.Connection) -> int:
    number = base.execute("SELECT max(save) FROM manifests").fetchone()[0]
    if number is None:
        raise WorldCorruptError("the file holds no save.")
    return number


def _identity(target: Path) -> tuple[int, int]:
    status = os.stat(target)
    return status.st_dev, status.st_ino


# -- the SQLite file ------------------------------------------------------------------------------------


def _open(target: Path, write: bool) -> sqlite3.Connection:
    """A connection to an existing world after the checks that need no SQLite."""
    interrupted = _check_journal(target)
    _check_header(target)
    # A killed save is undone by whoever opens the file next, which takes the right to write.
    base = _connect(target, "rw" if write or interrupted else "ro")
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
    # Under the exclusive lock no other process can be using it; if the lock is refused, one may be.
    with suppress(sqlite3.OperationalError):
        base.execute("BEGIN EXCLUSIVE")
        with suppress(FileNotFoundError):
            os.unlink(f"{target}-journal")
        base.execute("COMMIT")
    base.execute(f"PRAGMA busy_timeout={int(1000 * _WAIT)}")


def _check_header(target: Path) -> None:
    size = atomic.regular_size(target, "world")
    with atomic.open_regular(target, "world") as stream:
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
        size = atomic.regular_size(journal, "journal")
        with atomic.open_regular(journal, "journal") as stream:
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


def _connect(target: Path, mode: str) -> sqlite3.Connection:
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
def _errors(target: Path, done: str) -> Iterator[None]:
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


def _check_schema(base: sqlite3.Connection, target: Path) -> None:
    """Refuse anything but our two tables: no triggers, views, virtual tables or generated columns."""
    rows = base.execute("SELECT type, name, sql FROM sqlite_schema LIMIT 10").fetchall()
    if sorted(map(str, rows)) != sorted(str(("table", name, sql)) for name, sql in _SCHEMA.items()):
        raise WorldFormatError(f"{str(target)!r} has tables that are not those of a world.")


def _check_pages(base: sqlite3.Connection, target: Path) -> None:
    """The file is as long as it says, and its pages hang together."""
    pages, size = (base.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size != os.stat(target).st_size:
        raise WorldCorruptError("the file is longer or shorter than it declares.")
    problem = base.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise WorldCorruptError(f"the file's pages do not hang together ({problem:.200}).")
