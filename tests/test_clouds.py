"""Worlds that begin as a point cloud: an export of a world opens again, and bad files are named."""

import numpy as np
import pytest
import torch

from spatia_env.errors import ActionError, WorldFormatError, WorldIOError, WorldTooLargeError
from spatia_env.geometry import intrinsics_from_fov, look_at
from spatia_env.io.ply import write_ply
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.export import export
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory
from spatia_env.world.reset import check_reset_options, is_cloud
from spatia_env.world.starts import open_cloud

SIZE = (32, 48)
K = intrinsics_from_fov(60, *SIZE)
C2W = look_at(torch.tensor([0.0, 0.0, 1.2]), torch.tensor([3.0, 0.0, 1.2]))


@pytest.fixture
def folder(tmp_path):
    """The export of a wall at three metres."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 3, *SIZE, generator=generator)
    depth = torch.full((1, *SIZE), 3.0)
    memory, _ = SceneMemory().update(rgb, depth, torch.ones_like(depth), C2W[None], K, 0)
    frame = (rgb[0].movedim(0, -1) * 255).round().to(torch.uint8)
    export(tmp_path / "world", memory, [Keyframe(frame, depth[0].half(), C2W, 0)], K, SIZE)
    return tmp_path / "world", memory, frame


def opened(source, **options):
    checked = check_reset_options({"world": source, **options})
    return open_cloud(checked, SceneMemory(), SIZE, num_preceding=4, seed=7)


def test_a_colmap_folder_begins_where_its_first_picture_was_taken(folder):
    path, memory, frame = folder
    state = opened(path, prompt="a wall")
    assert state.memory.num_points == memory.num_points and state.prompt == "a wall" and state.step == 0
    torch.testing.assert_close(state.c2w, C2W, atol=1e-5, rtol=0)
    torch.testing.assert_close(state.K, K, atol=1e-2, rtol=1e-3)
    assert torch.equal(state.keyframes[0].frame, frame) and torch.equal(state.preceding_frames[-1], frame)
    assert float((state.keyframes[0].depth.float() - 3).abs().max()) < 0.05
    assert set(state.memory.points()["layer"]) == {0}


def test_a_bare_cloud_is_seen_from_its_middle_or_from_where_one_says(folder):
    path, _, _ = folder
    state = opened(path / "points.ply")
    view = state.memory.render(state.c2w[None], state.K, *SIZE)
    assert float(view.known.float().mean()) > 0.02
    assert np.allclose(state.c2w[2, [0, 2]], 0, atol=1e-5), "the camera is level"
    again = opened(path / "points.ply", pose=C2W.numpy(), intrinsics=[0.9, 1.3, 0.5, 0.5])
    torch.testing.assert_close(again.c2w, C2W)
    assert abs(float(again.K[0, 0]) - 0.9 * SIZE[1]) < 1e-3


def test_what_is_a_cloud(folder, tmp_path):
    path, _, _ = folder
    assert is_cloud(path) and is_cloud(str(path / "points.PLY")) and not is_cloud(tmp_path / "a.spatia")
    with pytest.raises(ActionError, match="intrinsics"):
        check_reset_options({"world": "a.spatia", "intrinsics": [1, 1, 0.5, 0.5]})


def test_bad_files_and_views_are_named(folder, tmp_path):
    path, _, _ = folder
    away = C2W.numpy().copy()
    away[:3, 3] = (90, 0, 0)
    with pytest.raises(ActionError, match="pose"):
        opened(path, pose=away)
    with pytest.raises(WorldIOError):
        opened(tmp_path)
    nothing = np.zeros((0, 3), np.float32)
    empty = PointCloud(nothing, nothing.astype(np.uint8), nothing[:, 0], nothing[:, 0])
    write_ply(tmp_path / "empty.ply", empty)
    with pytest.raises(WorldFormatError, match="no points"):
        opened(tmp_path / "empty.ply")
    columns = "".join(f"property float {axis}\n" for axis in "xyz")
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {2**31}\n{columns}end_header\n"
    (tmp_path / "huge.ply").write_text(header)
    with pytest.raises(WorldTooLargeError):
        opened(tmp_path / "huge.ply")
