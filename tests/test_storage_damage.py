"""World files that lie, are damaged or are none: each is named, nothing of it is believed."""

import json
import os
import sqlite3
import zlib

import numpy as np
import pytest

from maps import grid_points, keyframes_of, map_of_points
from saved import assert_same, damage_content
from spatia_env.errors import (
    WorldCorruptError,
    WorldFormatError,
    WorldIOError,
    WorldTooLargeError,
    WorldVersionError,
)
from spatia_env.memory import codecs
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.storage import BundleState, load_bundle, save_bundle


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
