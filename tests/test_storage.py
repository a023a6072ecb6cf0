"""World files: bit-exact, incremental, and safe against bad input. Crashes are in test_storage_faults.py."""

import dataclasses
import os
import resource
import sqlite3

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maps import clip_at, keyframes_of, room_map
from saved import assert_same, damage_content
from spatia_env.errors import (
    SpatiaError,
    WorldFormatError,
    WorldIOError,
)
from spatia_env.memory import blocks as blk
from spatia_env.memory import codecs, storage
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.storage import BundleState, load_bundle, save_bundle, saves


@pytest.fixture(scope="module")
def state() -> BundleState:
    generator = torch.Generator().manual_seed(3)
    arrays = {
        "c2w": np.eye(4, dtype=np.float32),
        "frames": torch.randint(0, 255, (2, 6, 8, 3), generator=generator, dtype=torch.uint8).numpy(),
        "generator": generator.get_state().numpy(),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 3)),
        "scalar": np.array(2.5),
    }
    meta = {"prompt": "a room, ünïcode", "seed": 2**127 + 1, "ledger": [{"step": 1, "text": "it rains"}]}
    return BundleState(room_map(2, block=1.0), keyframes_of([0.0, 1.0]), arrays, meta, {"version": "x"})


@pytest.fixture(scope="module")
def later(state) -> BundleState:
    return dataclasses.replace(
        state, memory=room_map(1, state.memory, first=2), keyframes=[*state.keyframes, *keyframes_of([2.0])],
        meta={"prompt": "later"},
    )  # fmt: skip


# -- what is written is read, bit for bit ----------------------------------------------------------------


def test_a_world_comes_back_bit_for_bit(state, ram_path):
    report = save_bundle(ram_path / "a.spatia", state)
    assert report.save == 1 and report.kept == 0 and report.written > 3
    assert_same(load_bundle(ram_path / "a.spatia"), state)
    assert os.listdir(ram_path) == ["a.spatia"]


def test_an_empty_world_comes_back(ram_path):
    empty = BundleState(SceneMemory(voxel=0.02, max_points=7, on_full="error", carve=False))
    save_bundle(ram_path / "a", empty)
    assert_same(load_bundle(ram_path / "a"), empty)


def test_loading_and_saving_gives_the_same_file(state, ram_path):
    save_bundle(ram_path / "a", state)
    save_bundle(ram_path / "b", load_bundle(ram_path / "a"))
    assert (ram_path / "a").read_bytes() == (ram_path / "b").read_bytes()


@settings(max_examples=40, deadline=None)
@given(
    st.binary(max_size=20 * blk.POINT.itemsize),
    st.integers(0, 2**42 - 1),
    st.sampled_from([(0.01, 50), (0.3, 1)]),
)
def test_any_points_survive_their_encoding(data, key, grid):
    rows = np.frombuffer(data[: len(data) // blk.POINT.itemsize * blk.POINT.itemsize], dtype=blk.POINT)
    codec, packed = codecs.encode_points(rows, key, *grid)
    assert codecs.decode(codec, packed, rows.nbytes).tobytes() == rows.tobytes()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=192), st.sampled_from(["u1", "<i2", "<f2", "<f4", "<i8", "<f8"]), st.booleans())
def test_any_array_survives_its_encoding(data, dtype, picture):
    item = np.dtype(dtype).itemsize
    array = np.frombuffer(data[: len(data) // (item * 6) * item * 6], dtype=dtype)
    array = array.reshape(-1, 2, 3) if picture else array
    codec, packed = codecs.encode_array(array)
    assert codecs.decode(codec, packed, array.nbytes).tobytes() == array.tobytes()


def test_points_take_at_most_20_bytes_on_disk(ram_path):
    memory, _ = SceneMemory().update(*clip_at(0.3, noise=0.002, height=96, width=128), step=0)
    report = save_bundle(ram_path / "a", BundleState(memory))
    assert memory.num_bytes == 36 * memory.num_points
    assert report.file_bytes <= 20 * memory.num_points


def test_what_is_loaded_cannot_be_written_to(state, ram_path):
    save_bundle(ram_path / "a", state)
    loaded = load_bundle(ram_path / "a")
    block = next(iter(loaded.memory.blocks.values()))
    for array in (block, loaded.arrays["c2w"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# -- only what is new is written -------------------------------------------------------------------------


def test_a_save_writes_and_hashes_only_what_is_new(state, later, ram_path, monkeypatch):
    path = ram_path / "a"
    first = save_bundle(path, state)
    hashed = []
    monkeypatch.setattr(
        codecs, "digest", lambda array, digest=codecs.digest: hashed.append(1) or digest(array)
    )
    again = save_bundle(path, state)
    assert again.written == 0 and again.kept == first.written
    assert len(hashed) <= 4 + len(
        state.arrays
    )  # manifests and arrays that may be written to; no block, no picture
    hashed.clear()
    third = save_bundle(path, later)
    changed = sum(later.memory.blocks[k] is not state.memory.blocks.get(k) for k in later.memory.blocks)
    assert third.written == changed + 2  # a keyframe's picture and depth
    assert len(hashed) <= changed + 2 + 4 + len(state.arrays)
    assert_same(load_bundle(path), later)


def test_a_file_stays_as_small_as_its_last_world(state, later, ram_path):
    path = ram_path / "a"
    for turn in range(8):
        save_bundle(path, (state, later)[turn % 2])
    largest = max(save_bundle(ram_path / name, s).file_bytes for name, s in (("b", state), ("c", later)))
    assert os.path.getsize(path) <= 2 * largest
    assert saves(path) == [8]


def test_earlier_saves_can_be_kept(state, later, ram_path):
    path = ram_path / "a"
    save_bundle(path, state)
    save_bundle(path, later, keep=2)
    assert saves(path) == [1, 2]
    assert_same(load_bundle(path, save=1), state)
    assert_same(load_bundle(path), later)
    save_bundle(path, later, keep=1)
    assert saves(path) == [3]
    with pytest.raises(WorldFormatError, match="no save 1"):
        load_bundle(path, save=1)


def test_contents_that_this_process_has_not_checked_are_written_anew(state, ram_path, monkeypatch):
    path = ram_path / "a"
    save_bundle(path, state)
    damage_content(path)
    monkeypatch.setattr(storage, "_VERIFIED", {})
    assert save_bundle(path, state).kept == 0
    assert_same(load_bundle(path), state)


def test_a_changed_array_is_hashed_again(ram_path):
    array = np.zeros(4)
    save_bundle(ram_path / "a", BundleState(SceneMemory(), arrays={"x": array}))
    array[0] = 1
    save_bundle(ram_path / "a", BundleState(SceneMemory(), arrays={"x": array}))
    assert load_bundle(ram_path / "a").arrays["x"][0] == 1


def test_a_changed_tensor_is_hashed_again(state, ram_path):
    keyframe = keyframes_of([0.5])[0]
    save_bundle(ram_path / "a", BundleState(SceneMemory(), [keyframe]))
    keyframe.frame[0, 0] = 77
    save_bundle(ram_path / "a", BundleState(SceneMemory(), [keyframe]))
    assert load_bundle(ram_path / "a").keyframes[0].frame[0, 0].tolist() == [77, 77, 77]


# -- what cannot be written is refused, and the file is as it was ------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"meta": {"x": float("nan")}}, {"meta": {"x": (1, 2)}}, {"meta": {1: 2}}, {"meta": {"x": {1, 2}}},
        {"settings": {"x": np.zeros(2)}}, {"arrays": {"../x": np.zeros(2)}}, {"arrays": {"": np.zeros(2)}},
        {"arrays": {"x": np.array([object()])}}, {"arrays": {"x": np.zeros(2, ">f4")}}, {"arrays": {"x": [1, 2]}},
    ],
)  # fmt: skip
def test_a_state_that_no_file_can_hold(change, state, ram_path):
    path = ram_path / "a"
    save_bundle(path, state)
    before = path.read_bytes()
    with pytest.raises(WorldFormatError):
        save_bundle(path, dataclasses.replace(state, **change))
    assert path.read_bytes() == before


def test_a_broken_map_is_not_written(state, ram_path):
    path = ram_path / "a"
    save_bundle(path, state)
    key, block = next(iter(state.memory.blocks.items()))
    broken = block.copy()
    broken["position"][0] = np.nan
    with pytest.raises(WorldFormatError, match="NaN"):
        save_bundle(path, dataclasses.replace(state, memory=state.memory.with_blocks({key: broken})))
    assert_same(load_bundle(path), state)


@pytest.mark.parametrize(
    "setting", [{"voxel": v} for v in (0.0, -1.0, float("nan"), float("inf"), 1e-12, 0.3)]
)
def test_maps_of_impossible_grids_are_refused(setting):
    with pytest.raises(SpatiaError):
        SceneMemory(**setting)


# -- the system says no ------------------------------------------------------------------------------------


@pytest.fixture
def file_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_world(state, later, ram_path, file_limit):
    path = ram_path / "a"
    save_bundle(path, state)
    size = path.stat().st_size
    for room in (0, 4096, 12_288):
        file_limit(size + room)
        with pytest.raises(WorldIOError):
            save_bundle(path, later)
        with pytest.raises(WorldIOError):
            save_bundle(ram_path / "new", later)
        file_limit(resource.RLIM_INFINITY)
        assert os.listdir(ram_path) == ["a"]
        assert_same(load_bundle(path), state)
    save_bundle(path, later)
    assert_same(load_bundle(path), later)


def test_two_writers_do_not_mix(state, later, ram_path, monkeypatch):
    path = ram_path / "a"
    save_bundle(path, state)
    monkeypatch.setattr(storage, "_WAIT", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(WorldIOError, match="another process"):
        save_bundle(path, later)
    assert_same(load_bundle(path), state)  # readers are not disturbed
    other.execute("ROLLBACK")
    other.close()
    save_bundle(path, later)
    assert_same(load_bundle(path), later)


def test_a_folder_that_cannot_be_made(ram_path):
    (ram_path / "file").write_text("x")
    with pytest.raises(WorldIOError):
        save_bundle(ram_path / "file" / "a.spatia", BundleState(SceneMemory()))
