"""PLY files: ours come back, others' are read, bad ones are refused before memory is taken."""

import os
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatia_env.errors import (
    SpatiaError,
    WorldCorruptError,
    WorldFormatError,
    WorldIOError,
    WorldTooLargeError,
)
from spatia_env.io.mesh import import_open3d
from spatia_env.io.ply import read_ply, write_ply
from spatia_env.io.point_cloud import PointCloud


def cloud_of(count: int, seed: int = 0) -> PointCloud:
    rng = np.random.default_rng(seed)
    return PointCloud(
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3)).astype(np.uint8),
        rng.random(count).astype(np.float32),
        rng.random(count).astype(np.float32),
    )


def same(a: PointCloud, b: PointCloud) -> bool:
    names = ("position", "colour", "confidence", "radius")
    return all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in names)


def header(*properties: str, count="2", form="binary_little_endian 1.0", extra: str = "") -> bytes:
    lines = ["ply", f"format {form}", f"element vertex {count}", *(f"property {p}" for p in properties)]
    return ("\n".join(lines) + "\n" + extra + "end_header\n").encode()


def floats(*values) -> bytes:
    return np.array(values, "<f4").tobytes()


XYZ = ("float x", "float y", "float z")
RGB = ("float red", "float green", "float blue")
DATA = np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_what_is_written_is_read(count, tmp_path):
    write_ply(tmp_path / "a.ply", cloud_of(count))
    assert same(read_ply(tmp_path / "a.ply"), cloud_of(count))
    assert os.listdir(tmp_path) == ["a.ply"]


def test_open3d_reads_what_is_written(tmp_path):
    o3d = import_open3d()
    write_ply(tmp_path / "a.ply", cloud_of(50))
    read = o3d.io.read_point_cloud(str(tmp_path / "a.ply"))
    assert np.allclose(np.asarray(read.points), cloud_of(50).position)
    assert np.array_equal(np.rint(np.asarray(read.colors) * 255), cloud_of(50).colour)


def test_large_files_are_read_in_pieces(tmp_path, monkeypatch):
    from spatia_env.io import ply

    monkeypatch.setattr(ply, "_CHUNK", 7)
    write_ply(tmp_path / "a.ply", cloud_of(40))
    assert same(read_ply(tmp_path / "a.ply"), cloud_of(40))


def test_defaults_of_what_a_file_does_not_say(tmp_path):
    (tmp_path / "a.ply").write_bytes(header(*XYZ) + DATA)
    cloud = read_ply(tmp_path / "a.ply")
    assert cloud.position.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (cloud.colour == 128).all() and (cloud.confidence == 1).all()
    assert np.allclose(cloud.radius, 0.01)


def test_other_types_orders_and_elements_are_read(tmp_path):
    row = np.dtype([("nx", "<f4"), ("z", "<f8"), ("y", "<f8"), ("x", "<f8"), ("red", "<f4"), ("green", "<f4"),
                    ("blue", "<f4"), ("label", "<i2")])  # fmt: skip
    rows = np.array([(9, 3, 2, 1, 0.0, 0.5, 1.0, -7)], row)
    properties = ("float nx", "double z", "double y", "float64 x", *RGB[:2], "float32 blue", "int16 label")
    faces = "element face 1\nproperty list uchar int vertex_indices\n"
    head = header(*properties, count="1", extra="comment hi\n" + faces)
    (tmp_path / "a.ply").write_bytes(head + rows.tobytes() + b"\x03" + bytes(12))
    cloud = read_ply(tmp_path / "a.ply")
    assert cloud.position.tolist() == [[1, 2, 3]] and cloud.colour.tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text_files_are_read(newline, tmp_path):
    text = "ply\nformat ascii 1.0\nobj_info x\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
    text += "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    text += "1 2 3 4 5 6\n-1e-1 +.5 0 7 8 9\n\n"
    (tmp_path / "a.ply").write_bytes(text.replace("\n", newline).encode())
    cloud = read_ply(tmp_path / "a.ply")
    assert np.allclose(cloud.position, [[1, 2, 3], [-0.1, 0.5, 0]]) and cloud.colour.tolist() == [
        [4, 5, 6],
        [7, 8, 9],
    ]


BAD = {
    "empty": (b"", WorldFormatError),
    "not ply": (b"PLYX\n" * 20, WorldFormatError),
    "header only": (b"ply\n", WorldFormatError),
    "no end": (header(*XYZ)[:-11], WorldFormatError),
    "big endian": (header(*XYZ, form="binary_big_endian 1.0") + DATA, WorldFormatError),
    "unknown format": (header(*XYZ, form="gzip 1.0") + DATA, WorldFormatError),
    "other version": (header(*XYZ, form="binary_little_endian 2.0") + DATA, WorldFormatError),
    "no format": (b"ply\nelement vertex 1\nproperty float x\nend_header\n", WorldFormatError),
    "truncated": (header(*XYZ) + DATA[:-1], WorldCorruptError),
    "too long": (header(*XYZ) + DATA + b"x", WorldCorruptError),
    "CRLF in binary": (header(*XYZ).replace(b"\n", b"\r\n") + DATA, WorldFormatError),
    "count negative": (header(*XYZ, count="-1") + DATA, WorldFormatError),
    "count text": (header(*XYZ, count="many") + DATA, WorldFormatError),
    "count fraction": (header(*XYZ, count="2.0") + DATA, WorldFormatError),
    "count 2^31": (header(*XYZ, count=str(2**31)) + DATA, WorldTooLargeError),
    "count 2^32+10": (header(*XYZ, count=str(2**32 + 10)) + DATA, WorldTooLargeError),
    "count 2^64": (header(*XYZ, count=str(2**64)) + DATA, WorldTooLargeError),
    "count 1e9": (header(*XYZ, count="1000000000") + DATA, WorldTooLargeError),
    "count beyond data": (header(*XYZ, count="1000000") + DATA, WorldCorruptError),
    "list x": (header("list uchar float x", "float y", "float z") + DATA, WorldFormatError),
    "double x": (header("float x", *XYZ) + DATA, WorldFormatError),
    "no z": (header("float x", "float y", "float w") + DATA, WorldFormatError),
    "int x": (header("int x", "float y", "float z") + DATA, WorldFormatError),
    "unknown type": (header("quaternion x", "float y", "float z") + DATA, WorldFormatError),
    "two colours of three": (header(*XYZ, "uchar red", "uchar green") + bytes(28), WorldFormatError),
    "colours mixed": (header(*XYZ, "uchar red", "uchar green", "float blue") + bytes(36), WorldFormatError),
    "colours short": (header(*XYZ, "ushort red", "ushort green", "ushort blue") + bytes(36), WorldFormatError),
    "long name": (header(*XYZ, "float " + "n" * 10_000) + bytes(32), WorldFormatError),
    "long comment": (header(*XYZ, extra="comment " + "c" * 20_000_000 + "\n") + DATA, WorldFormatError),
    "many properties": (header(*XYZ, *(f"float p{i}" for i in range(200))) + bytes(10_000), WorldFormatError),
    "200,000 properties": (header(*XYZ, *(f"float p{i}" for i in range(200_000))), WorldFormatError),
    "faces first": (header(*XYZ).replace(b"element", b"element f 0\nelement") + DATA, WorldFormatError),
    "twice vertices": (header(*XYZ, extra="element vertex 2\n") + DATA, WorldFormatError),
    "not ASCII": (header(*XYZ, extra="comment \xff\n") + DATA, WorldFormatError),
    "nonsense line": (header(*XYZ, extra="hello world\n") + DATA, WorldFormatError),
    "NaN": (header(*XYZ) + np.array([0, np.nan, 0, 0, 0, 0], "<f4").tobytes(), WorldFormatError),
    "infinite": (header(*XYZ) + np.array([0, 0, 0, 0, 0, -np.inf], "<f4").tobytes(), WorldFormatError),
    "far away": (header(*XYZ) + np.array([0, 0, 1e7, 0, 0, 0], "<f4").tobytes(), WorldFormatError),
    "big-endian data": (header(*XYZ) + cloud_of(2).position.astype(">f4").tobytes(), WorldFormatError),
    "colour 300": (header(*XYZ, *RGB, count="1") + floats(0, 0, 0, 300, 0, 0), WorldFormatError),
    "confidence NaN": (header(*XYZ, "float confidence", count="1") + floats(0, 0, 0, np.nan), WorldFormatError),
    "radius negative": (header(*XYZ, "float radius", count="1") + floats(0, 0, 0, -1), WorldFormatError),
    "text words": (header(*XYZ, form="ascii 1.0") + b"1 2 foo\n1 2 3\n", WorldFormatError),
    "text 1e400": (header(*XYZ, form="ascii 1.0") + b"1 2 1e400\n1 2 3\n", WorldFormatError),
    "text underscores": (header(*XYZ, form="ascii 1.0") + b"1 2 1_0\n1 2 3\n", WorldFormatError),
    "text short row": (header(*XYZ, form="ascii 1.0") + b"1 2 3\n1 2\n", WorldFormatError),
    "text long row": (header(*XYZ, form="ascii 1.0") + b"1 2 3 4\n1 2 3\n", WorldFormatError),
    "text long token": (header(*XYZ, form="ascii 1.0") + b"1 2 " + b"3" * 5_000_000 + b"\n1 2 3\n", WorldFormatError),
    "text missing row": (header(*XYZ, form="ascii 1.0", count="3") + b"1 2 3\n1 2 3.0000000\n", WorldCorruptError),
    "text more rows": (header(*XYZ, form="ascii 1.0", count="1") + b"1 2 3\n1 2 3\n", WorldCorruptError),
    "text count 1e8": (header(*XYZ, form="ascii 1.0", count="49999999") + b"1 2 3\n", WorldCorruptError),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    data, error = BAD[name]
    path = tmp_path / "a.ply"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error, match=r"a\.ply"):
        read_ply(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_files_cut_at_every_byte(tmp_path):
    write_ply(tmp_path / "a.ply", cloud_of(3))
    whole = (tmp_path / "a.ply").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a.ply").write_bytes(whole[:length])
        with pytest.raises(WorldFormatError):
            read_ply(tmp_path / "a.ply")


WHOLE: list[bytes] = []


@settings(max_examples=300, deadline=None)
@given(at=st.lists(st.tuples(st.integers(0, 330), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_files_give_points_or_a_typed_error(at, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.ply"
    if not WHOLE:
        write_ply(path, cloud_of(4))
        WHOLE.append(path.read_bytes())
    data = bytearray(WHOLE[0])
    for place, value in at:
        data[place % len(data)] = value
    path.write_bytes(data)
    try:
        cloud = read_ply(path)
    except SpatiaError:
        return
    assert np.isfinite(cloud.position).all() and cloud.position.shape == (len(cloud), 3)


def test_the_limit_on_points(tmp_path):
    write_ply(tmp_path / "a.ply", cloud_of(10))
    assert len(read_ply(tmp_path / "a.ply", max_points=10)) == 10
    with pytest.raises(WorldTooLargeError, match="limit is 9"):
        read_ply(tmp_path / "a.ply", max_points=9)


def test_names_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in (tmp_path / "pipe", tmp_path / "link", tmp_path, "/dev/zero", tmp_path / "missing", ""):
        with pytest.raises(WorldIOError):
            read_ply(name)
    with pytest.raises(WorldIOError):
        write_ply(tmp_path, cloud_of(1))
    with pytest.raises(WorldIOError):
        write_ply(tmp_path / "link", cloud_of(1))


def test_a_full_disk_leaves_the_old_file(tmp_path):
    write_ply(tmp_path / "a.ply", cloud_of(10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(WorldIOError):
            write_ply(tmp_path / "a.ply", cloud_of(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["a.ply"]
    assert same(read_ply(tmp_path / "a.ply"), cloud_of(10))
