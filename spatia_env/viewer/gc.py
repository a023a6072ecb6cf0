"""Memory of the process, as the system sees it."""

import ctypes
import functools
import gc
from collections.abc import Callable


def keep() -> None:
    """Take what a process has made so far out of garbage collection; for programs, not for libraries.

    The imports alone make 1.8 million objects: looking through all of them takes half a second, and Python by itself
    does so only when a quarter as many are new.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Hand what clients left behind back to the system; for some seconds after they left.

    What a connection leaves holds itself in circles: 0.2 MB each that nothing looks for (docs/log.md). And glibc keeps
    what threads freed in pools of their own; elsewhere than with glibc nothing more happens.
    """
    if gc.get_freeze_count():  # else it would hold up everyone
        gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # not glibc
        return None
