"""World files: bit-exact, incremental, and safe against bad input. Crashes are in test_storage_faults.py."""

import dataclasses
import json
import os
import resource
import sqlite3
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maps import clip_at, grid_points, keyframes_of, map_of_points, room_map, same_map
from spatia_env.errors import (
    SpatiaError,
    WorldCorruptError,
    WorldFormatError,
    WorldIOError,
    WorldTooLargeError,
    WorldVersionError,
)
from spatia_env.memory import blocks as blk
from spatia_env.memory import bundle, codecs, database
from spatia_env.memory.scene import SceneMemory
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


def assert_same(a: BundleState, b: BundleState) -> None:
    assert same_map(a.memory, b.memory)
    assert dataclasses.replace(a.memory, blocks={}) == dataclasses.replace(b.memory, blocks={})
    assert (a.meta, a.settings) == (b.meta, b.settings)
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        assert array.dtype == b.arrays[name].dtype and array.shape == b.arrays[name].shape
        assert array.tobytes() == b.arrays[name].tobytes()
    assert len(a.keyframes) == len(b.keyframes)
    for one, other in zip(a.keyframes, b.keyframes, strict=True):
        assert one.step == other.step
        for name in ("frame", "depth", "c2w"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)


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
    monkeypatch.setattr(bundle, "_VERIFIED", {})
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


# -- bad files ---------------------------------------------------------------------------------------------


def damage_content(path) -> None:
    with sqlite3.connect(path) as base:
        row, data = base.execute("SELECT id, data FROM contents ORDER BY length(data) DESC").fetchone()
        base.execute("UPDATE contents SET data = ? WHERE id = ?", (data[:-9] + b"\0" * 9, row))
    base.close()


def rewrite(path, change) -> None:
    """Change a file's manifest (a function of the JSON object, or new bytes) with a hash that fits."""
    base = sqlite3.connect(path)
    (data,) = base.execute("SELECT data FROM manifests").fetchone()
    manifest = json.loads(zlib.decompress(data))
    text = change(manifest)
    text = text if isinstance(text, bytes) else json.dumps(manifest).encode()
    name = codecs.digest(np.frombuffer(text, np.uint8))
    base.execute("UPDATE manifests SET hash = ?, size = ?, data = ?", (name, len(text), zlib.compress(text)))
    base.commit()
    base.close()


def put_rows(path, rows: np.ndarray) -> None:
    """Replace the first block of a file by other rows, with hashes that fit."""

    def change(manifest):
        key, _, number = manifest["blocks"][0]
        codec, data = codecs.encode_points(rows, key, manifest["memory"]["voxel"], 50)
        values = (codec, rows.nbytes, data, manifest["contents"][number][1])
        with sqlite3.connect(path) as base:
            base.execute("UPDATE contents SET codec = ?, size = ?, data = ? WHERE id = ?", values)
        base.close()
        manifest["blocks"][0][1] = len(rows)
        manifest["contents"][number][0] = codecs.digest(rows)

    rewrite(path, change)


@pytest.fixture
def world(ram_path):
    points = grid_points((0.1, 0.1, 0.1), (0.2, 0.2, 0.1))
    memory = map_of_points(points, block=1.0)
    path = ram_path / "w.spatia"
    save_bundle(path, BundleState(memory, keyframes_of([0.0]), {"x": np.arange(3.0)}, {"prompt": "p"}))
    return path


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: m["blocks"][0].__setitem__(1, -1), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(1, 2**31), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(1, 2**32 + 10), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(1, 2**64), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(1, 100_000), WorldCorruptError),
        (lambda m: m["blocks"][0].__setitem__(1, True), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(1, 2.0), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(0, 2**62), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(2, 10**6), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(2, -1), WorldFormatError),
        (lambda m: m["blocks"][0].__setitem__(2, m["arrays"]["x"]["content"]), WorldCorruptError),
        (lambda m: m["contents"][0].__setitem__(0, "0" * 64), WorldCorruptError),
        (lambda m: m["contents"][0].__setitem__(0, "../../etc/passwd"), WorldFormatError),
        (lambda m: m["contents"][0].__setitem__(1, 10**6), WorldCorruptError),
        (lambda m: m["contents"][0].__setitem__(1, 2**70), WorldFormatError),
        (lambda m: m["contents"][0].__setitem__(1, -1), WorldFormatError),
        (lambda m: m["contents"].append(m["contents"][0]), WorldFormatError),
        (lambda m: m["contents"].reverse(), WorldCorruptError),
        (lambda m: m.pop("contents"), WorldFormatError),
        (lambda m: m["blocks"].append(m["blocks"][0]), WorldFormatError),
        (lambda m: m.__setitem__("blocks", {}), WorldFormatError),
        (lambda m: m.pop("keyframes"), WorldFormatError),
        (lambda m: m["memory"].__setitem__("voxel", 0), WorldFormatError),
        (lambda m: m["memory"].__setitem__("voxel", 0.03), WorldFormatError),
        (lambda m: m["memory"].__setitem__("max_points", 1), WorldTooLargeError),
        (lambda m: m["memory"].__setitem__("on_full", "explode"), WorldFormatError),
        (lambda m: m["memory"].__setitem__("carve", "yes"), WorldFormatError),
        (lambda m: m["memory"].__setitem__("blocks", {}), WorldFormatError),
        (lambda m: m["keyframes"][0].__setitem__("c2w", [0] * 15), WorldFormatError),
        (lambda m: m["keyframes"][0].__setitem__("size", [2**20, 2**20]), WorldFormatError),
        (lambda m: m["keyframes"][0].__setitem__("size", [16384, 16384]), WorldCorruptError),
        (lambda m: m["keyframes"][0].__setitem__("size", [-24, -32]), WorldFormatError),
        (lambda m: m["keyframes"][0].__setitem__("step", 2**40), WorldFormatError),
        (lambda m: m["arrays"]["x"].__setitem__("dtype", "|O"), WorldFormatError),
        (lambda m: m["arrays"]["x"].__setitem__("shape", [10**6, 10**6]), WorldTooLargeError),
        (lambda m: m["arrays"]["x"].__setitem__("shape", [2**62, 4]), WorldFormatError),
        (lambda m: m["arrays"]["x"].__setitem__("shape", [-3]), WorldFormatError),
        (lambda m: m["arrays"].__setitem__("../y", m["arrays"]["x"]), WorldFormatError),
        (lambda m: b"", WorldFormatError),
        (lambda m: b"[]", WorldFormatError),
        (lambda m: b'{"format":"spatia-world","format":"spatia-world"}', WorldFormatError),
        (lambda m: b'{"format":"spatia-world","x":NaN}', WorldFormatError),
        (lambda m: b'{"format":"spatia-world","x":1e999}', WorldFormatError),
        (lambda m: b'{"format":"spatia-world","x":' + b"9" * 10**6 + b"}", WorldFormatError),
        (lambda m: b"[" * 100_000, WorldFormatError),
        (lambda m: b"\xff\xfe", WorldFormatError),
    ],
)  # fmt: skip
def test_manifests_that_lie(change, error, world):
    rewrite(world, change)
    with pytest.raises(error) as caught:
        load_bundle(world)
    assert str(world) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position", np.nan), ("position", np.inf), ("position", 1e7), ("position", 0.9), ("weight", np.nan),
        ("weight", -1), ("radius", np.nan), ("radius", np.inf), ("radius", -1), ("voxel", -1), ("voxel", 50**3),
        ("voxel", 0),
    ],
)  # fmt: skip
def test_points_that_no_map_can_hold(field, value, world):
    rows = next(iter(load_bundle(world).memory.blocks.values())).copy()
    rows[field][-1] = value
    put_rows(world, rows)
    with pytest.raises(WorldFormatError, match="block"):
        load_bundle(world)


def test_contents_that_differ_from_their_hash(world):
    damage_content(world)
    with pytest.raises(WorldCorruptError):
        load_bundle(world)


def test_a_small_record_that_claims_to_be_large(world):
    bomb = zlib.compress(b"\0" * 2**26, 9)
    with sqlite3.connect(world) as base:
        base.execute("UPDATE manifests SET data = ?, size = ?", (bomb, 2**40))
    base.close()
    with pytest.raises(WorldTooLargeError):
        load_bundle(world)
    with sqlite3.connect(world) as base:
        base.execute("UPDATE manifests SET size = ?", (2**20,))
    base.close()
    with pytest.raises(WorldCorruptError):
        load_bundle(world)


def test_a_world_beyond_the_limit(world):
    with pytest.raises(WorldTooLargeError, match="max_bytes"):
        load_bundle(world, max_bytes=1000)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE extra(x)", "CREATE VIEW extra AS SELECT 1", "CREATE INDEX extra ON contents(size)",
        "CREATE TRIGGER extra AFTER INSERT ON manifests BEGIN DELETE FROM contents; END", "DROP TABLE contents",
        "ALTER TABLE contents ADD COLUMN extra TEXT", "CREATE VIRTUAL TABLE extra USING fts5(x)",
    ],
)  # fmt: skip
def test_schemas_that_are_not_ours(statement, world):
    with sqlite3.connect(world) as base:
        base.execute(statement)
    base.close()
    before = world.read_bytes()
    with pytest.raises(WorldFormatError):
        load_bundle(world)
    with pytest.raises(WorldFormatError):
        save_bundle(world, BundleState(SceneMemory()))
    assert world.read_bytes() == before


def test_a_file_without_a_save(world):
    with sqlite3.connect(world) as base:
        base.execute("DELETE FROM manifests")
    base.close()
    with pytest.raises(WorldCorruptError, match="no save"):
        load_bundle(world)


@pytest.mark.parametrize("version", [0, 2, 2**31 - 1])
def test_other_versions(version, world):
    with sqlite3.connect(world) as base:
        base.execute(f"PRAGMA user_version={version}")
    base.close()
    with pytest.raises(WorldVersionError, match="update"):
        load_bundle(world)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"SQLite format 3\0", b"ply\n" + b"x" * 5000, b"\0" * 100_000]
)
def test_files_that_are_no_worlds(content, ram_path):
    path = ram_path / "a"
    path.write_bytes(content)
    for use in (load_bundle, lambda p: save_bundle(p, BundleState(SceneMemory()))):
        with pytest.raises(WorldFormatError):
            use(path)
    assert path.read_bytes() == content


def test_other_sqlite_files_are_left_alone(ram_path):
    path = ram_path / "a"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE mine(x)")
    base.close()
    before = path.read_bytes()
    with pytest.raises(WorldFormatError, match="not a world"):
        save_bundle(path, BundleState(SceneMemory()))
    assert path.read_bytes() == before


def test_names_that_are_no_files(world, ram_path):
    os.mkfifo(ram_path / "pipe")
    (ram_path / "folder").mkdir()
    (ram_path / "link").symlink_to(world)
    (ram_path / "dangling").symlink_to(ram_path / "nowhere")
    for name in ("pipe", "folder", "link", "dangling"):
        for use in (load_bundle, lambda p: save_bundle(p, BundleState(SceneMemory()))):
            with pytest.raises(WorldIOError):
                use(ram_path / name)
    for name in ("/dev/zero", "", "a\0b", ram_path / "missing", world / "below", 7):
        with pytest.raises(WorldIOError):
            load_bundle(name)
    assert not (ram_path / "nowhere").exists()


def test_journals_that_point_elsewhere_are_not_followed(world, ram_path):
    victim = ram_path / "victim"
    victim.write_text("precious")
    name = str(victim).encode()
    total = sum(name) & 0xFFFFFFFF
    end = name + len(name).to_bytes(4, "big") + total.to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7")
    (ram_path / "w.spatia-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + b"\0" * 504 + end)
    with pytest.raises(WorldFormatError, match="journal"):
        load_bundle(world)
    assert victim.read_text() == "precious"
    (ram_path / "w.spatia-journal").unlink()
    (ram_path / "w.spatia-journal").symlink_to(victim)
    with pytest.raises(WorldIOError, match="symbolic link"):
        load_bundle(world)
    (ram_path / "w.spatia-journal").unlink()
    (ram_path / "w.spatia-wal").write_bytes(b"x")
    with pytest.raises(WorldFormatError, match="-wal"):
        load_bundle(world)


def test_files_cut_anywhere(world):
    whole = world.read_bytes()
    cuts = sorted(
        {0, 1, 15, 16, 60, 99, 100, 511, 512, *range(0, len(whole), len(whole) // 64), len(whole) - 1}
    )
    for length in cuts:
        world.write_bytes(whole[:length])
        with pytest.raises(WorldFormatError):
            load_bundle(world)
    for junk in (b"x", b"\0" * 4096):
        world.write_bytes(whole + junk)
        with pytest.raises(WorldCorruptError):
            load_bundle(world)


def flips(path, positions) -> int:
    """Flip one byte at a time; each file must load as it was or raise a typed error. Returns how many raised."""
    whole, before, raised = path.read_bytes(), load_bundle(path), 0
    for at in positions:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            assert_same(load_bundle(path), before)
        except (WorldFormatError, WorldIOError, WorldTooLargeError):
            raised += 1
        for ending in ("-journal", "-wal", "-shm"):
            assert not os.path.exists(f"{path}{ending}")
    path.write_bytes(whole)
    return raised


def test_flipped_bytes_never_give_another_world(world):
    size = world.stat().st_size
    positions = [*range(100), *np.random.default_rng(0).integers(0, size, 250).tolist()]
    assert flips(world, positions) > 100


@pytest.mark.slow
def test_every_flipped_byte(world):
    assert flips(world, range(world.stat().st_size)) > 1000


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
    monkeypatch.setattr(database, "_WAIT", 0.05)
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
