"""PyBullet, imported without its greeting: it prints a build time to stdout, which would spoil JSON there."""

import ctypes
import os
import sys
from types import ModuleType


def _import_quietly() -> ModuleType:
    sys.stdout.flush()
    # The line is written by C code, so the file descriptor itself has to point elsewhere for a moment.
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        import pybullet

        return pybullet
    finally:
        # C buffers what it prints to a pipe: it must leave while stdout still points nowhere.
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


pybullet = _import_quietly()
