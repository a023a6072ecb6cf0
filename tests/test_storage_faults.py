"""Killed and failing saves: after any of them the file holds the world of before or the new one, whole."""

import dataclasses
import errno
import os
import pickle
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import faults
from maps import keyframes_of, map_of_points, same_map
from saved import assert_same
from spatia_env.errors import SpatiaError, WorldIOError
from spatia_env.io import atomic
from spatia_env.memory.storage import BundleState, load_bundle, save_bundle, saves

traced = pytest.mark.skipif(not faults.available(), reason="children cannot be traced here")


def world(version: int) -> BundleState:
    """A small world; each version changes one block of several."""
    points = [[0.5 + block, 0.5, 0.01 * version * (block == 2)] for block in range(4)]
    memory = map_of_points(points, block=1.0)
    return BundleState(memory, keyframes_of([0.0, float(version)]), meta={"version": version})


def naive_save(path: Path, state: BundleState) -> None:
    """How not to do it: overwrite in place."""
    with open(path, "wb", buffering=4096) as stream:
        pickle.dump(
            (state.meta, {k: bytes(b) for k, b in state.memory.blocks.items()}, b"x" * 50_000), stream
        )


def naive_load(path: Path) -> BundleState:
    with open(path, "rb") as stream:
        meta, _, _ = pickle.load(stream)
    return world(meta["version"])


class Bench:
    """A folder in which saves are disturbed and the outcome is looked at."""

    def __init__(
        self, folder: Path, fresh: bool = False, save: Callable = save_bundle, load: Callable = load_bundle
    ):
        self.folder, self.fresh, self.save, self.load = folder, fresh, save, load
        self.old, self.new = world(0), world(1)
        self.path, self.original = folder / "w.spatia", folder.parent / "original"
        save(self.original, self.old)

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        if not self.fresh:
            shutil.copy(self.original, self.path)

    def disturbed(self, **fault) -> faults.Outcome:
        self.reset()
        prepare = (lambda: None) if self.fresh else (lambda: self.load(self.path))
        return faults.run(self._work, prepare=prepare, **fault)

    def _work(self) -> None:
        try:
            self.save(self.path, self.new)
        except WorldIOError:
            os._exit(7)

    def result(self) -> str:
        """Which world the file holds now: "old", "new", or "none" when there is no file."""
        if not self.path.exists():
            assert self.fresh
            return "none"
        loaded = self.load(self.path)
        version = loaded.meta["version"]
        assert_same(loaded, (self.old, self.new)[version])
        return ("old", "new")[version]


@pytest.fixture
def bench(ram_path):
    return Bench(ram_path / "saves")


@traced
@pytest.mark.parametrize("fresh", [False, True])
def test_killed_at_every_call_that_changes_files(ram_path, fresh):
    bench = Bench(ram_path / "saves", fresh)
    calls = bench.disturbed().calls
    assert calls > 10
    found = Counter()
    for at in range(1, calls + 1):
        assert bench.disturbed(at=at).code == -signal.SIGKILL
        found[bench.result()] += 1
        if not fresh:
            assert os.listdir(bench.folder) == ["w.spatia"]  # loading has cleaned up
        save_bundle(bench.path, world(2))
        assert os.listdir(bench.folder) == ["w.spatia"]  # saving has swept
    assert found["none" if fresh else "old"] > 5
    assert found["new"] >= 1


@traced
def test_the_same_harness_finds_the_faults_of_a_naive_writer(ram_path):
    bench = Bench(ram_path / "saves", save=naive_save, load=naive_load)
    calls = bench.disturbed().calls
    broken = 0
    for at in range(1, calls + 1):
        bench.disturbed(at=at)
        try:
            bench.result()
        except (EOFError, pickle.UnpicklingError):
            broken += 1
    assert broken >= calls // 2


def fail_every_call(bench: Bench, number: int, persistent: bool, stride: int) -> Counter:
    calls = bench.disturbed().calls
    found = Counter()
    for at in range(1, calls + 1, stride):
        outcome = bench.disturbed(at=at, fault=number, persistent=persistent)
        result = bench.result()
        assert outcome.code in (0, 7)
        assert result == "new" or outcome.code == 7
        left = [name for name in os.listdir(bench.folder) if name.endswith(".tmp")]
        assert len(left) <= 1  # only where the removal itself failed
        save_bundle(bench.path, world(2))
        assert os.listdir(bench.folder) == ["w.spatia"]
        found[outcome.code, result] += 1
    return found


@traced
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_failing_calls_give_a_typed_error_and_the_old_world(bench, number):
    found = fail_every_call(bench, number, persistent=False, stride=3)
    assert found[7, "old"] > 5


@traced
@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_every_failing_call(ram_path, number, persistent, fresh):
    fail_every_call(Bench(ram_path / "saves", fresh), number, persistent, 1)


def kill_at_random_moments(path: Path, times: int, save: Callable, load: Callable) -> tuple[int, int]:
    """SIGKILL a process that saves in a loop; how many files were lost or corrupt, and how many saves it made."""
    chance = random.Random(0)
    bad, acknowledged = 0, 0
    save(path, world(0))
    for _ in range(times):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # torch's pool of threads did not survive the fork: using it would hang
            os.close(reading)
            version = 0
            while True:  # until it is killed
                version = (version + 1) % 250
                save(path, world(version))
                os.write(writing, bytes([version]))
        os.close(writing)
        os.read(reading, 1)  # it is at work
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = os.read(reading, 1 << 16)
        os.close(reading)
        acknowledged += 1 + len(said)
        try:
            loaded = load(path)
            version = loaded.meta["version"]
            last = said[-1] if said else 1
            bad += version not in (last, (last + 1) % 250) or not same_map(
                loaded.memory, world(version).memory
            )
        except (SpatiaError, EOFError, pickle.UnpicklingError, OSError):
            bad += 1
            save(path, world(0)) if save is naive_save else None
    return bad, acknowledged


def test_killed_at_30_random_moments(ram_path):
    bad, saves = kill_at_random_moments(ram_path / "w", 30, save_bundle, load_bundle)
    assert bad == 0 and saves > 30


@pytest.mark.slow
def test_killed_at_200_random_moments_unlike_a_naive_writer(ram_path):
    assert kill_at_random_moments(ram_path / "w", 200, save_bundle, load_bundle)[0] == 0
    assert kill_at_random_moments(ram_path / "n", 200, naive_save, naive_load)[0] > 0


def test_left_over_files_are_swept_and_live_ones_kept(ram_path):
    target = ram_path / "w.spatia"
    for number in range(5):
        (ram_path / f".w.spatia.{number:016x}.tmp").write_bytes(b"x" * 100)
    (ram_path / ".w.spatia.folder.tmp").mkdir()
    (ram_path / ".other.spatia.00.tmp").write_bytes(b"x")
    (ram_path / "notes.tmp").write_bytes(b"x")
    with atomic.scratch(target) as (live, _):
        save_bundle(target, world(0))
        assert sorted(os.listdir(ram_path)) == sorted(
            [".other.spatia.00.tmp", live.name, "notes.tmp", "w.spatia"]
        )
    assert not live.exists()


def test_a_journal_without_its_world_is_not_applied(ram_path):
    path = ram_path / "w"
    save_bundle(path, world(0))
    shutil.copy(path, ram_path / "w-journal")
    path.unlink()
    save_bundle(path, world(1))
    assert_same(load_bundle(path), world(1))


def test_a_file_that_another_process_replaced_is_written_anew(ram_path):
    path, other = ram_path / "w", ram_path / "o"
    save_bundle(path, world(0))
    save_bundle(other, dataclasses.replace(world(3), meta={"version": 3, "other": True}))
    shutil.copyfile(other, path)  # the same inode, other contents
    report = save_bundle(path, world(1))
    assert report.kept == 0
    assert_same(load_bundle(path), world(1))
    assert saves(path) == [2]
