"""Atomic file writing: a crash or a full disk leaves either the old file or the new one, and nothing else.

What is written goes to a temporary file beside its destination, under a lock, and is renamed when it is
complete and on the disk. Leftovers of killed processes are recognised by their missing lock and removed.
"""

import fcntl
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from spatia_env.errors import WorldIOError

_SUFFIX = ".tmp"


def as_path(path: str | os.PathLike[str], what: str) -> Path:
    """An absolute path with its last component unresolved.

    Raises:
        WorldIOError: If it is empty, has a NUL byte, or is not text.
    """
    try:
        text = os.fspath(path)
    except TypeError as cause:
        raise WorldIOError(f"{what}: expected a path, got {type(path).__name__}.") from cause
    if not isinstance(text, str) or not text or "\0" in text:
        raise WorldIOError(f"{what}: {text!r} is not a path.")
    return Path(os.path.abspath(text))


def regular_size(path: Path, what: str) -> int:
    """Bytes of a regular file; nothing is opened, so a pipe or a device cannot hang the caller.

    Raises:
        WorldIOError: If it is missing, or a link, a folder, a pipe or a device.
    """
    try:
        status = os.lstat(path)
    except (OSError, ValueError) as cause:
        raise WorldIOError(f"{what} {str(path)!r} cannot be opened ({cause}); check the path.") from cause
    if stat.S_ISLNK(status.st_mode):
        raise WorldIOError(f"{what} {str(path)!r} is a symbolic link; give the file that it points to.")
    if not stat.S_ISREG(status.st_mode):
        raise WorldIOError(f"{what} {str(path)!r} is not a regular file.")
    return status.st_size


def open_regular(path: Path, what: str) -> BinaryIO:
    """Open a regular file for reading; the raises of `regular_size` hold."""
    regular_size(path, what)
    try:
        # Not following a link and not blocking closes the gap between the check and the opening.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as cause:
        raise WorldIOError(f"{what} {str(path)!r} cannot be opened ({cause}).") from cause
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise WorldIOError(f"{what} {str(path)!r} is not a regular file.")
    return os.fdopen(handle, "rb")


@contextmanager
def replacing(path: str | os.PathLike[str], what: str = "file", swept: bool = True) -> Iterator[BinaryIO]:
    """A file to write into; on leaving it takes the place of `path`, complete and on the disk.

    Args:
        path: The file; its folder is made.
        what: It, in error messages.
        swept: Remove first what killed writers of it left, which reads the whole folder.

    Raises:
        WorldIOError: If the system refuses; `path` is then as it was.
    """
    target = as_path(path, what)
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise WorldIOError(f"{what} {str(target)!r} exists and is not a regular file; choose another name.")
    with io_errors(what, target), scratch(target, swept=swept) as (name, handle):
        with os.fdopen(os.dup(handle), "wb") as stream:
            yield stream
        os.fsync(handle)
        os.replace(name, target)
        sync_folder(target.parent)


def write_text(path: str | os.PathLike[str], text: str, what: str = "file") -> Path:
    """Write UTF-8 text atomically; see `replacing`."""
    with replacing(path, what) as stream:
        stream.write(text.encode())
    return Path(path)


@contextmanager
def replacing_folder(path: str | os.PathLike[str], what: str = "folder") -> Iterator[Path]:
    """A folder to write into; on leaving it becomes `path`, which must not exist or be empty.

    Raises:
        WorldIOError: If `path` holds something, or the system refuses; nothing is left behind.
    """
    target = as_path(path, what)
    with io_errors(what, target):
        if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
            raise WorldIOError(f"{what} {str(target)!r} exists and is not empty; choose a new name.")
        with scratch(target, folder=True) as (name, _):
            yield name
            os.replace(name, target)
            sync_folder(target.parent)


@contextmanager
def io_errors(what: str, path: Path) -> Iterator[None]:
    """Turn what the operating system raises into `WorldIOError`."""
    try:
        yield
    except WorldIOError:
        raise
    except OSError as cause:
        reason = cause.strerror or str(cause)
        raise WorldIOError(
            f"{what} {str(path)!r} could not be written ({reason}); it is as it was."
        ) from cause


@contextmanager
def scratch(target: Path, folder: bool = False, swept: bool = True) -> Iterator[tuple[Path, int]]:
    """Name and descriptor of a new, locked file (or folder) beside `target`; the name goes on leaving."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if swept:
        sweep(target)
    name, handle = _create(target, folder)
    try:
        yield name, handle
    finally:
        with suppress(OSError):  # what stays is swept by the next writer
            _remove(name)
        os.close(handle)


def _create(target: Path, folder: bool) -> tuple[Path, int]:
    while True:
        name = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_SUFFIX}")
        if folder:
            name.mkdir()
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks has no sweeping either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have swept it in the moment before it was locked.
        if name.exists() and os.path.samestat(os.stat(name), os.fstat(handle)):
            return name, handle
        os.close(handle)


def sweep(target: Path) -> int:
    """Remove temporary files and folders that killed writers of `target` left; returns how many."""
    removed = 0
    for name in target.parent.glob(f".{glob.escape(target.name)}.*{_SUFFIX}"):
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # a link, or already gone: not ours
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(name)
            removed += 1
        except OSError:  # its writer is alive
            continue
        finally:
            os.close(handle)
    return removed


def _remove(name: Path) -> None:
    if name.is_dir() and not name.is_symlink():
        shutil.rmtree(name, ignore_errors=True)
    else:
        name.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)
