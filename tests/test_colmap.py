"""COLMAP text models, transforms.json and the export folder."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from maps import HEIGHT, WIDTH, K, keyframes_of, map_of_points
from spatia_env.errors import SpatiaError, WorldFormatError, WorldIOError, WorldTooLargeError
from spatia_env.io.colmap import ColmapImage, quaternion, read_colmap, rotation_of, write_colmap
from spatia_env.io.ply import read_ply
from spatia_env.memory.export import export, read_points, to_opengl, transforms

LENS = K.double().numpy()


@pytest.fixture
def memory():
    points = np.random.default_rng(0).uniform(-2, 2, (40, 3)).astype(np.float32)
    memory = map_of_points(points, np.arange(120, dtype=np.uint8).reshape(40, 3))
    key, block = next(iter(memory.blocks.items()))
    edited = block.copy()
    edited["layer"] = 1
    return memory.with_blocks({key: edited})


@pytest.fixture
def model(memory, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    images = [
        ColmapImage(f"{i}.png", k.c2w.double().numpy(), LENS * [[i + 1], [i + 1], [1]], (HEIGHT, WIDTH))
        for i, k in enumerate(keyframes_of([0.1, 1.0, 2.0]))
    ]
    write_colmap(folder, images, memory.to_cloud())
    return folder, images


def test_quaternions_are_those_of_scipy():
    for rotation in [
        *Rotation.random(50, random_state=0),
        Rotation.from_euler("x", 180, degrees=True),
        Rotation.identity(),
    ]:
        x, y, z, w = rotation.as_quat(canonical=True)
        mine = np.array(quaternion(rotation.as_matrix()))
        assert np.allclose(mine, (w, x, y, z)) or np.allclose(-mine, (w, x, y, z))
        assert np.allclose(rotation_of(tuple(mine)), rotation.as_matrix())


def test_a_model_comes_back(model, memory):
    folder, images = model
    read = read_colmap(folder)
    assert [image.name for image in read.images] == ["0.png", "1.png", "2.png"]
    for mine, theirs in zip(images, read.images, strict=True):
        assert np.allclose(mine.c2w, theirs.c2w, atol=1e-6) and np.allclose(mine.K, theirs.K)
        assert mine.size == theirs.size
    assert read.cloud.position.tobytes() == memory.to_cloud().position.tobytes()
    assert read.cloud.colour.tobytes() == memory.to_cloud().colour.tobytes()


def test_a_point_is_seen_where_colmap_projects_it(model):
    folder, images = model
    words = (folder / "images.txt").read_text().splitlines()[1].split()
    w, x, y, z, *t = (float(v) for v in words[1:8])
    lens = [float(v) for v in (folder / "cameras.txt").read_text().splitlines()[1].split()[4:]]
    point = images[0].c2w @ [0.3, -0.2, 2.0, 1.0]
    camera = Rotation.from_quat([x, y, z, w]).apply(point[:3]) + t
    pixel = lens[0] * camera[0] / camera[2] + lens[2], lens[1] * camera[1] / camera[2] + lens[3]
    assert np.allclose(pixel, (LENS @ [0.15, -0.1, 1.0])[:2], atol=1e-4)


def test_equal_cameras_are_written_once(memory, tmp_path):
    image = ColmapImage("a.png", np.eye(4), LENS, (HEIGHT, WIDTH))
    write_colmap(tmp_path, [image, image], memory.to_cloud())
    assert len((tmp_path / "cameras.txt").read_text().splitlines()) == 2


def test_opengl_looks_along_minus_z():
    c2w = keyframes_of([0.7])[0].c2w.double().numpy()
    theirs = to_opengl(c2w)
    assert np.allclose(-theirs[:3, 2], c2w[:3, 2]) and np.allclose(theirs[:3, 1], -c2w[:3, 1])
    assert np.allclose(theirs[:3, 0], c2w[:3, 0]) and np.allclose(theirs[:3, 3], c2w[:3, 3])
    assert np.allclose(to_opengl(theirs), c2w)


def test_transforms_name_what_the_folder_holds():
    content = transforms([ColmapImage("000000.png", np.eye(4), LENS, (HEIGHT, WIDTH))])
    frame = content["frames"][0]
    assert frame["file_path"] == "images/000000.png" and (frame["w"], frame["h"]) == (WIDTH, HEIGHT)
    assert np.allclose([frame["fl_x"], frame["cx"], frame["cy"]], [LENS[0, 0], WIDTH / 2, HEIGHT / 2])
    assert frame["transform_matrix"] == np.diag([1.0, -1, -1, 1]).tolist()


def test_export_into_a_folder(memory, tmp_path):
    keyframes = keyframes_of([0.1, 1.0])
    target = export(tmp_path / "out", memory, keyframes, K, (HEIGHT, WIDTH))
    assert sorted(os.listdir(target)) == ["depth", "images", "points.ply", "sparse", "transforms.json"]
    assert len(read_ply(target / "points.ply")) == len(read_points(target)) == memory.num_points
    content = json.loads((target / "transforms.json").read_text())
    for frame, keyframe in zip(content["frames"], keyframes, strict=True):
        with Image.open(target / frame["file_path"]) as picture:
            assert np.array_equal(np.asarray(picture), keyframe.frame.numpy())
        with Image.open(target / frame["depth_file_path"]) as picture:
            metres = np.asarray(picture).astype(np.float64) * content["depth_unit_scale_factor"]
        assert np.abs(metres - keyframe.depth.double().numpy()).max() <= 0.00051
        assert np.allclose(to_opengl(np.array(frame["transform_matrix"])), keyframe.c2w, atol=1e-6)
    assert os.listdir(tmp_path) == ["out"]


def test_export_of_layers(memory, tmp_path):
    edited = int((memory.points()["layer"] == 1).sum())
    for layers, count in ((None, 40), ([0], 40 - edited), ([1], edited), ([], 0)):
        export(tmp_path / "a.ply", memory, [], K, (HEIGHT, WIDTH), layers=layers)
        assert len(read_ply(tmp_path / "a.ply")) == count


def test_export_refuses_what_it_would_overwrite(memory, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorldIOError, match="not empty"):
        export(tmp_path / "full", memory, [], K, (HEIGHT, WIDTH))
    with pytest.raises(WorldFormatError, match=r"NAME\.ply"):
        export(tmp_path / "a.stl", memory, [], K, (HEIGHT, WIDTH))
    export(tmp_path / "empty", memory, [], K, (HEIGHT, WIDTH))
    assert sorted(os.listdir(tmp_path)) == ["empty", "full"]


def test_an_export_that_fails_leaves_nothing(memory, tmp_path):
    broken = keyframes_of([0.1])
    object.__setattr__(broken[0], "c2w", torch.full((4, 4), torch.nan))
    with pytest.raises((ValueError, np.linalg.LinAlgError)):
        export(tmp_path / "out", memory, broken, K, (HEIGHT, WIDTH))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "line", "error"),
    [
        ("cameras.txt", "1 PINHOLE 32 24 20 20 16", WorldFormatError),
        ("cameras.txt", "1 RADIAL 32 24 20 16 12 0 0", WorldFormatError),
        ("cameras.txt", "1 PINHOLE -32 24 20 20 16 12", WorldFormatError),
        ("cameras.txt", "1 PINHOLE 99999999999999999999 24 20 20 16 12", WorldFormatError),
        ("cameras.txt", "1 PINHOLE 32 24 nan 20 16 12", WorldFormatError),
        ("cameras.txt", "1 PINHOLE 32 24 0 20 16 12", WorldFormatError),
        ("cameras.txt", "1 PINHOLE 32 24 1e999 20 16 12", WorldFormatError),
        ("images.txt", "9 1 0 0 0 0 0 0 1 ../../etc/passwd", WorldFormatError),
        ("images.txt", "9 1 0 0 0 0 0 0 1 /etc/passwd", WorldFormatError),
        ("images.txt", r"9 1 0 0 0 0 0 0 1 C:\x.png", WorldFormatError),
        ("images.txt", "9 1 0 0 0 0 0 0 1 " + "n" * 300, WorldFormatError),
        ("images.txt", "9 1 0 0 0 0 0 0 1 a\0b.png", WorldFormatError),
        ("images.txt", "9 1 0 0 0 0 0 0 77 a.png", WorldFormatError),
        ("images.txt", "1 1 0 0 0 0 0 0 1 a.png", WorldFormatError),
        ("images.txt", "9 2 0 0 0 0 0 0 1 a.png", WorldFormatError),
        ("images.txt", "9 1 0 0 0 0 0 inf 1 a.png", WorldFormatError),
        ("images.txt", "9 1 0 0 0 0 0 0 1", WorldFormatError),
        ("images.txt", "x 1 0 0 0 0 0 0 1 a.png", WorldFormatError),
        ("points3D.txt", "1 0 0 nan 1 2 3 0", WorldFormatError),
        ("points3D.txt", "1 0 0 1e8 1 2 3 0", WorldFormatError),
        ("points3D.txt", "1 0 0 0 1 2 300 0", WorldFormatError),
        ("points3D.txt", "1 0 0 0 1 2 -3 0", WorldFormatError),
        ("points3D.txt", "1 0 0 0 1 2", WorldFormatError),
        ("points3D.txt", "1 0 0 0 1 2 3 0 " + "7 " * 600_000, WorldTooLargeError),
    ],
)
def test_malformed_lines_are_named(file, line, error, model):
    folder, _ = model
    (folder / file).write_text((folder / file).read_text() + line + "\n")
    number = len((folder / file).read_text().splitlines())
    with pytest.raises(error, match=rf"{file}, line {number}"):
        read_colmap(folder)


def test_other_bad_models(model, tmp_path):
    folder, _ = model
    with pytest.raises(WorldTooLargeError):
        read_colmap(folder, max_points=39)
    (folder / "points3D.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(WorldFormatError, match="UTF-8"):
        read_colmap(folder)
    (folder / "points3D.txt").unlink()
    with pytest.raises(WorldIOError):
        read_colmap(folder)
    os.mkfifo(folder / "points3D.txt")
    with pytest.raises(WorldIOError):
        read_colmap(folder)


def test_models_cut_at_many_places_never_raise_anything_else(model, ram_path):
    folder, _ = model
    for file in ("cameras.txt", "images.txt", "points3D.txt"):
        whole = (folder / file).read_bytes()
        cut = ram_path / "cut"
        shutil.copytree(folder, cut)
        for length in range(0, len(whole), 13):
            (cut / file).write_bytes(whole[:length])
            try:
                read_colmap(cut)
            except SpatiaError:
                continue
        shutil.rmtree(cut)
