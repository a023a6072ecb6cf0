"""Triangle meshes of maps: where the surface is, what it looks like, and files that others read."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from maps import clip_at, grid_points, keyframes_of, map_of_points
from rooms import room_colour
from spatia_env.errors import DependencyError, WorldFormatError, WorldIOError
from spatia_env.geometry import intrinsics_from_fov, look_at
from spatia_env.io import mesh
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.editing import insert, remove
from spatia_env.memory.export import export, mesh_of
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.regions import Box

SIZE = (24, 32)
K = intrinsics_from_fov(60, *SIZE)
TURNS = [0.0, 1.1, 2.2]


@pytest.fixture(scope="module")
def room():
    memory = SceneMemory(voxel=0.02)
    for step in range(7):
        memory, _ = memory.update(*clip_at(0.9 * step, seed=step, height=72, width=96), step=step)
    return memory


@pytest.fixture(scope="module")
def eyes():
    return torch.stack([keyframe.c2w for keyframe in keyframes_of(TURNS)])


@pytest.fixture(scope="module")
def surface(room, eyes):
    return mesh_of(room, eyes)


def same_surface(one, other, colours: bool = True) -> None:
    """Files may order and repeat vertices as they like: every corner of each lies in the other, with its colour."""
    (a, faces, tints), (b, others, shades) = mesh.arrays_of(one), mesh.arrays_of(other)
    assert len(faces) == len(others)
    away, at = cKDTree(b).query(a)
    assert away.max() < 1e-4
    if colours:
        assert np.abs(tints.astype(int) - shades[at]).max() <= 1


def test_the_surface_lies_where_the_walls_are_and_looks_like_them(surface, room):
    vertices, faces, colours = mesh.arrays_of(surface)
    assert len(faces) > 2000 and faces.max() < len(vertices)
    points = room.points()["position"]
    assert np.quantile(cKDTree(points).query(vertices)[0], 0.95) < 0.1
    truth = room_colour(torch.from_numpy(vertices).float()).numpy()
    assert np.median(np.abs(colours / 255 - truth).max(-1)) < 0.1


def test_edits_show(room, eyes, surface):
    box = Box((2, 0, 0), (0.5, 1.0, 1.0))
    gone = mesh_of(remove(room, box)[0], eyes)
    inside = box.contains(mesh.arrays_of(surface)[0]), box.contains(mesh.arrays_of(gone)[0])
    assert inside[0].sum() > 50 and inside[1].sum() < 0.2 * inside[0].sum()
    ball = PointCloud.of_mesh(np.eye(3) * 0.4, np.array([[0, 1, 2]]), np.full((3, 3), 255, np.uint8), 0.02)
    edited, _ = insert(
        room, ball.moved(look_at(torch.tensor([1.2, 0, 0]), torch.tensor([0.0, 0, 0])).double())
    )
    only = mesh_of(edited, eyes, layers=[1])
    assert 0 < len(only.triangles) < 0.3 * len(surface.triangles)


@pytest.mark.parametrize("suffix", mesh.SUFFIXES)
def test_files_are_read_back(suffix, surface, tmp_path):
    path = mesh.write_mesh(tmp_path / f"room{suffix}", surface)
    same_surface(surface, mesh.read_mesh(path))
    cloud = PointCloud.of_mesh(*mesh.arrays_of(mesh.read_mesh(path)), spacing=0.1)
    assert len(cloud) > 1000
    assert [p.name for p in tmp_path.iterdir()] == [f"room{suffix}"]


def test_glb_is_whole_and_has_y_up(surface, tmp_path):
    data = mesh.write_mesh(tmp_path / "a.glb", surface).read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    document = json.loads(data[20 : 20 + size])
    rest, kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    assert kind == b"BIN\0" and rest == document["buffers"][0]["byteLength"] == len(data) - 28 - size
    low, high = np.asarray(surface.vertices).min(0), np.asarray(surface.vertices).max(0)
    position = document["accessors"][0]
    assert np.allclose(position["min"], [low[0], low[2], -high[1]], atol=1e-5)
    assert np.allclose(position["max"], [high[0], high[2], -low[1]], atol=1e-5)


def test_a_collider_is_small_and_as_large_as_the_room(surface):
    small = mesh.collider_of(surface, 1000)
    assert 100 < len(small.triangles) <= 1000 and not small.has_vertex_colors()
    for corner in ("get_min_bound", "get_max_bound"):
        assert np.abs(getattr(small, corner)() - getattr(surface, corner)()).max() < 0.25


def test_export_writes_meshes_and_colliders(room, surface, tmp_path):
    keyframes = keyframes_of(TURNS)
    same_surface(surface, mesh.read_mesh(export(tmp_path / "room.glb", room, keyframes, K, SIZE)))
    path = export(tmp_path / "room.obj", room, keyframes, K, SIZE, collider=True)
    assert len(mesh.read_mesh(path).triangles) < len(surface.triangles) / 2
    with pytest.raises(WorldFormatError, match="keyframes"):
        export(tmp_path / "a.glb", room, [], K, SIZE)
    with pytest.raises(WorldFormatError, match="no triangles"):
        export(tmp_path / "a.glb", room, keyframes, K, SIZE, layers=[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["room.glb", "room.obj"]


def test_a_wall_has_no_surface_where_nothing_was_seen():
    wall = map_of_points(grid_points((1.0, -0.6, -0.6), (1.0, 0.6, 0.6)) + 0.001)
    found = mesh_of(wall, look_at(torch.tensor([0.0, 0, 0]), torch.tensor([1.0, 0, 0]))[None])
    vertices = np.asarray(found.vertices)
    assert np.abs(vertices[:, 0] - 1.0).max() < 0.06 and np.abs(vertices[:, 1:]).max() < 0.7
    assert abs(found.get_surface_area() - 1.44) < 0.2


def test_what_is_no_mesh(tmp_path):
    (tmp_path / "a.glb").write_bytes(b"glTF, or so it says")
    with pytest.raises(WorldFormatError, match="no triangles"):
        mesh.read_mesh(tmp_path / "a.glb")
    with pytest.raises(WorldFormatError, match="stl"):
        mesh.read_mesh(tmp_path / "a.stl")
    with pytest.raises(WorldIOError):
        mesh.read_mesh(tmp_path / "none.obj")


def test_open3d_loads_without_a_system_libusb():
    code = (
        "from spatia_env.io.mesh import import_open3d as load; "
        "print(load().geometry.PointCloud().is_empty(), load() is load())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(DependencyError, match="pip install open3d") as caught:
        mesh.import_open3d()
    assert isinstance(caught.value, ImportError)


def test_missing_system_library_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "open3d.py").write_text(
        "raise ImportError('libusb-1.0.so.0: cannot open shared object file')"
    )
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyError, match=r"libusb-1\.0-0"):
        mesh.import_open3d()
