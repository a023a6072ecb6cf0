"""Kill a process that saves a world again and again, and look at what the file holds.

`tests/test_storage_faults.py` kills at every write call in turn, which needs a tracer; this needs only signals.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spatia_env.bench.big_maps import room_map
from spatia_env.errors import SpatiaError
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.storage import BundleState, load_bundle, save_bundle

Save = Callable[[Path, BundleState], None]
Holds = Callable[[Path], tuple[int, bytes]]
VERSIONS = 250
_LONGEST = 0.06  # seconds after the first save at which the last kill falls


@dataclass(frozen=True)
class Kills:
    """How many of the kills left a file that is not one of the last two worlds, and how many saves were done."""

    bad: int
    saves: int


def version_of(memory: SceneMemory, version: int) -> BundleState:
    """A small world; each version changes one block of several, and says which it is."""
    key = sorted(memory.blocks)[0]
    block = memory.blocks[key].copy()
    block["colour"] = version
    return BundleState(memory.with_blocks({key: block}), meta={"version": version})


def save_properly(path: Path, state: BundleState) -> None:
    """As the package saves."""
    save_bundle(path, state)


def holds_properly(path: Path) -> tuple[int, bytes]:
    """Version and points of a world's file."""
    state = load_bundle(path)
    return int(state.meta["version"]), state.memory.points().tobytes()


def save_in_place(path: Path, state: BundleState) -> None:
    """How not to do it, the control: over what is there."""
    with open(path, "wb", buffering=4096) as stream:
        stream.write(bytes([state.meta["version"]]))
        stream.write(state.memory.points().tobytes())


def holds_in_place(path: Path) -> tuple[int, bytes]:
    """Version and points of the control's file."""
    content = path.read_bytes()
    return content[0], content[1:]


def kill_saves(folder: Path, times: int, save: Save, holds: Holds, seed: int = 0) -> Kills:
    """Let a child save version after version, kill it at a random moment, and read the file; `times` times.

    After a save has returned in the child, the file must hold that version or the one that was being saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, chance = folder / "world", np.random.default_rng(seed)
    path.unlink(missing_ok=True)
    memory = room_map(2_000)
    bad = saves = 0
    for _ in range(times):
        said = _killed_child(path, memory, save, float(chance.uniform(0, _LONGEST)))
        saves += len(said)
        last = said[-1] if said else 0
        bad += not _sound(path, memory, holds, {last, (last + 1) % VERSIONS})
    return Kills(bad, saves)


def _killed_child(path: Path, memory: SceneMemory, save: Save, delay: float) -> bytes:
    """The versions that a child said it had saved before it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            torch.set_num_threads(1)  # the threads of the parent are not there
            for number in range(1_000_000):  # until it is killed
                save(path, version_of(memory, number % VERSIONS))
                os.write(writing, bytes([number % VERSIONS]))
        finally:
            os._exit(1)  # never back into the parent's code
    os.close(writing)
    first = os.read(reading, 1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rest = b""
    while part := os.read(reading, 1 << 16):
        rest += part
    os.close(reading)
    return first + rest


def _sound(path: Path, memory: SceneMemory, holds: Holds, versions: set[int]) -> bool:
    """Whether the file holds one of these versions, whole."""
    try:
        version, points = holds(path)
    except (SpatiaError, OSError, IndexError):
        return False
    return version in versions and points == version_of(memory, version).memory.points().tobytes()
