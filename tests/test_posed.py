"""Folders of posed videos: what is read, and what every bad line, file and frame is told."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rooms import room_view
from spatia_env.errors import DatasetError, PoseError, PromptError, SpatiaError, VideoError
from spatia_env.geometry import intrinsics_from_fov, invert_se3, look_at, path_from_twist
from spatia_env.io.video import write_video
from spatia_env.train.posed import camera_files, read_cameras, read_captions, windows, write_cameras
from spatia_env.train.posed_frames import find_frames, read_planes, read_rows
from spatia_env.train.posed_geometry import metric_scale, placed, upright

H, W, N = 48, 80, 17
LENS = np.array([0.9, 1.5, 0.5, 0.5])
ADDRESS = "https://www.youtube.com/watch?v=abc-1&t=3"
TIMES = 33_367 * np.arange(N) + 1_000_000


@pytest.fixture(scope="module")
def walk():
    """Poses, pictures and depth of a walk in the analytic room."""
    K = torch.tensor([[LENS[0] * W, 0, W / 2], [0, LENS[1] * H, H / 2], [0, 0, 1]]).float()
    c2w = look_at(torch.tensor([0.3, -0.8, 0.1]), torch.tensor([0.6, 2.0, 0.0]))[None]
    for twist in ([0.2, 0, 0.3, 0, 0.2, 0], [0.1, 0.05, 0.25, 0, -0.3, 0]):
        c2w = torch.cat([c2w, path_from_twist(c2w[-1], torch.tensor(twist), 8)])
    rgb, depth = room_view(c2w, K, H, W)
    rgb = (rgb * 6).round() / 6  # edges, as rooms have them
    frames = (rgb.movedim(1, -1) * 255).round().byte().numpy()
    return c2w.double().numpy(), frames, depth.numpy()


@pytest.fixture()
def folder(tmp_path, walk):
    """A folder with one clip, "a": cameras in its own world and unit, pictures by timestamp."""
    c2w, frames, _ = walk
    write_cameras(tmp_path / "cameras" / "a.txt", ADDRESS, TIMES, LENS, c2w)
    (tmp_path / "frames" / "a").mkdir(parents=True)
    for time, frame in zip(TIMES, frames, strict=True):
        Image.fromarray(frame).save(tmp_path / "frames" / "a" / f"{time}.png")
    return tmp_path


def edit(folder, line, change):
    """Change the columns of one line (from 1) of the camera file and return its path."""
    path = folder / "cameras" / "a.txt"
    lines = path.read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")
    return path


def column(index, value):
    def change(line):
        parts = line.split()
        parts[index] = value
        return " ".join(parts)

    return change


def test_cameras_come_back_as_they_were_written(folder, walk):
    video = read_cameras(folder / "cameras" / "a.txt")
    assert (video.name, video.source) == ("a", "abc-1")
    assert video.lines[0] == 2 and (video.timestamps == TIMES).all()
    np.testing.assert_allclose(video.intrinsics, LENS, atol=1e-8)
    np.testing.assert_allclose(video.c2w, walk[0], atol=1e-6)


def test_the_published_form_is_read(tmp_path):
    """A line as the data set has it: 19 columns, w2c row by row."""
    rows = "0.999 0.02 0.03 0.1 -0.02 0.9991 0.01 0.2 -0.03 -0.01 0.9995 0.3"
    matrix = np.array(rows.split(), float).reshape(3, 4)
    u, _, vh = np.linalg.svd(matrix[:, :3])
    matrix[:, :3] = u @ vh
    numbers = " ".join(f"{v:.9f}" for v in matrix.ravel())
    (tmp_path / "0000cc6d8b108390.txt").write_text(
        f"https://www.youtube.com/watch?v=xyz\n52553000 0.47 0.84 0.5 0.5 0.000000000 0.000000000 {numbers}\n\n"
    )
    video = read_cameras(camera_files(tmp_path)[0])
    np.testing.assert_allclose(invert_se3(video.c2w)[0, :3], matrix, atol=1e-8)
    assert video.timestamps.tolist() == [52553000]


@pytest.mark.parametrize(
    ("line", "change", "error", "words"),
    [
        (5, lambda line: line + " 1", DatasetError, "line 5.*20 columns"),
        (5, lambda line: "", None, ""),
        (6, column(3, "half"), DatasetError, "line 6.*not a number"),
        (6, column(9, "nan"), DatasetError, "line 6.*NaN"),
        (7, column(0, str(TIMES[2])), DatasetError, "line 7.*rise"),
        (7, column(0, "1000.5"), DatasetError, "line 7.*whole microseconds"),
        (4, column(1, "0.8"), DatasetError, "line 4.*zooms"),
        (4, column(5, "-0.1"), DatasetError, "line 4.*undistort"),
        (8, column(7, "1.3"), PoseError, "line 8.*rotation"),
        (8, column(12, "0.5"), PoseError, "line 8"),
        (1, lambda line: "1 2 3", DatasetError, "line 1.*address"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(folder, line, change, error, words):
    path = edit(folder, line, change)
    if error is None:  # blank lines are no lines
        assert len(read_cameras(path).c2w) == N - 1
        return
    with pytest.raises(error, match=words) as caught:
        read_cameras(path)
    assert str(path) in str(caught.value) and isinstance(caught.value, SpatiaError)


def test_mirrored_poses_and_pixels_for_a_lens_are_refused(folder):
    for index in (7, 8, 9):
        path = edit(folder, 3, lambda line, i=index: column(i, f"{-float(line.split()[i]):.9f}")(line))
    with pytest.raises(PoseError, match=r"line 3.*mirrored"):
        read_cameras(path)
    for row in range(2, N + 2):
        edit(folder, row, column(1, "960.0"))
    edit(folder, 3, lambda line: (folder / "cameras" / "a.txt").read_text().splitlines()[1])
    with pytest.raises((PoseError, DatasetError)):
        read_cameras(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DatasetError, match="not a folder"):
        camera_files(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no camera file"):
        camera_files(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DatasetError, match="line 1"):
        read_cameras(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(ADDRESS + "\n\n")
    with pytest.raises(DatasetError, match="no camera"):
        read_cameras(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DatasetError, match="UTF-8"):
        read_cameras(tmp_path / "a.txt")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text(ADDRESS)
    with pytest.raises(DatasetError, match="names must differ"):
        camera_files(tmp_path)


def test_captions(tmp_path):
    path = tmp_path / "captions.json"
    assert read_captions(path) == {}
    path.write_text(json.dumps({"a": " a kitchen ", "b.mp4": ["a yard", "another"]}))
    assert read_captions(path) == {"a": "a kitchen", "b": "a yard"}
    for text, error in (("[1]", DatasetError), ('{"a": 3}', DatasetError), ("{", DatasetError)):
        path.write_text(text)
        with pytest.raises(error, match=r"captions\.json"):
            read_captions(path)
    path.write_text(json.dumps({"a": "bell\u0007"}))
    with pytest.raises(PromptError, match="'a'"):
        read_captions(path)


def test_episodes_do_not_overlap_and_keep_their_stride():
    found = windows(70, 17, 2, 0)
    assert [rows[0] for rows in found] == [0, 33] and (np.diff(found[1]) == 2).all() and found[1][-1] == 65
    assert len(windows(70, 17, 2, 1)) == 1
    assert windows(16, 17, 1, 0) == []


def test_pictures_by_timestamp_are_fitted_with_their_lens(folder, walk):
    video = read_cameras(folder / "cameras" / "a.txt")
    rows = np.array([0, 5, 16])
    frames, K, stored = read_rows(find_frames(folder, video), video, rows, (H, W))
    np.testing.assert_array_equal(frames, walk[1][rows])
    assert stored == (H, W) and K[0, 0] == pytest.approx(0.9 * W)
    smaller, K, _ = read_rows(find_frames(folder, video), video, rows, (32, 32))
    assert smaller.shape == (3, 32, 32, 3) and K[0, 2] == pytest.approx(16)
    # The height decides: the sides are cropped, so the focal length follows it.
    assert K[0, 0] == pytest.approx(0.9 * W * 32 / H)


def nearest(frames, truth):
    """Which true frame each frame resembles most."""
    return np.abs(frames[:, None].astype(float) - truth[None]).mean((2, 3, 4)).argmin(1)


def test_films_by_frame_and_by_time_show_the_same(folder, walk):
    for picture in (folder / "frames" / "a").iterdir():
        picture.unlink()
    (folder / "frames" / "a").rmdir()
    video = read_cameras(folder / "cameras" / "a.txt")
    with pytest.raises(VideoError, match=r"a\.mp4.*abc-1\.mp4"):
        find_frames(folder, video)
    rows = np.arange(0, N, 2)
    lead = np.zeros((30, H, W, 3), np.uint8)
    write_video(folder / "videos" / "abc-1.mp4", np.concatenate([lead, walk[1]]), 29.97)
    by_time, _, _ = read_rows(find_frames(folder, video), video, rows, (H, W))
    assert nearest(by_time, walk[1]).tolist() == rows.tolist()
    write_video(folder / "videos" / "a.mp4", walk[1], 30)
    by_frame, _, _ = read_rows(find_frames(folder, video), video, rows, (H, W))
    assert nearest(by_frame, walk[1]).tolist() == rows.tolist()


def test_bad_frames_are_told_apart(folder, walk):
    video = read_cameras(folder / "cameras" / "a.txt")
    rows = np.arange(N)
    pictures = folder / "frames" / "a"
    with pytest.raises(DatasetError, match="smaller than 96x64"):
        read_rows(pictures, video, rows, (64, 96))
    Image.fromarray(walk[1][3][:40]).save(pictures / f"{TIMES[3]}.png")
    with pytest.raises(DatasetError, match=r"line 5.*80x40.*80x48"):
        read_rows(pictures, video, rows, (32, 32))
    (pictures / f"{TIMES[3]}.png").write_bytes(b"not a picture")
    with pytest.raises(VideoError, match=str(TIMES[3])):
        read_rows(pictures, video, rows, (32, 32))
    (pictures / f"{TIMES[3]}.png").unlink()
    with pytest.raises(VideoError, match=rf"line 5.*{TIMES[3]}.*16 pictures for 17 cameras"):
        read_rows(pictures, video, rows, (32, 32))


def test_bad_films_are_told_apart(folder, walk):
    video = read_cameras(folder / "cameras" / "a.txt")
    short = write_video(folder / "videos" / "a.mp4", walk[1][:12], 30)
    with pytest.raises(VideoError, match=r"12 frames.*17 cameras"):
        read_rows(short, video, np.arange(4), (32, 32))
    whole = write_video(folder / "videos" / "abc-1.mp4", walk[1][:12], 30)
    with pytest.raises(VideoError, match="ends before"):
        read_rows(whole, video, np.arange(N), (32, 32))
    whole.write_bytes(b"no film at all")
    with pytest.raises(VideoError, match="cannot be decoded"):
        read_rows(whole, video, np.arange(N), (32, 32))


def test_depth_and_masks_beside_the_frames(folder, walk):
    video = read_cameras(folder / "cameras" / "a.txt")
    rows = np.array([2, 3])
    for kind in ("depth", "masks"):
        (folder / kind / "a").mkdir(parents=True)
    Image.fromarray((walk[2][2] * 1000).astype(np.uint16)).save(folder / "depth" / "a" / f"{TIMES[2]}.png")
    np.save(folder / "depth" / "a" / f"{TIMES[3]}.npy", walk[2][3])
    depth = read_planes(folder, video, rows, (H, W), (H, W), "depth")
    np.testing.assert_allclose(depth, walk[2][rows], atol=1.1e-3)
    with pytest.raises(DatasetError, match=rf"line 4.*{TIMES[2]}"):
        read_planes(folder, video, rows, (H, W), (H, W), "masks")
    np.save(folder / "depth" / "a" / f"{TIMES[3]}.npy", walk[2][3][:9])
    with pytest.raises(DatasetError, match="sizes must agree"):
        read_planes(folder, video, rows, (H, W), (H, W), "depth")
    np.save(folder / "depth" / "a" / f"{TIMES[3]}.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DatasetError, match="cannot be read as depth"):
        read_planes(folder, video, rows, (H, W), (H, W), "depth")


def test_any_world_becomes_upright_and_any_unit_metres(walk):
    c2w, frames, depth = walk
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = turn, [3, -2, 5]
    other = world @ c2w
    other[:, :3, 3] /= 3.7
    level = upright(other)
    assert np.abs(level[0, :3, 3]).max() < 1e-9 and abs(level[0, 0, 2]) < 0.05
    # The walk is nearly level, so its tilt is kept: down is down again.
    np.testing.assert_allclose(level[:, :3, 1] @ [0, 0, 1], c2w[:, :3, 1] @ [0, 0, 1], atol=0.05)
    K = torch.tensor([[LENS[0] * W, 0, W / 2], [0, LENS[1] * H, H / 2], [0, 0, 1]]).float()
    rgb = torch.from_numpy(frames).movedim(-1, 1).float() / 255
    rgb, depth, level = rgb[::2], depth[::2], level[::2]
    scale = metric_scale(rgb, torch.from_numpy(depth), level, K)
    assert scale == pytest.approx(3.7, rel=0.04)
    # A light that fades does not change it, and twice the depth is twice the metres.
    fading = rgb * torch.linspace(1, 0.4, len(rgb))[:, None, None, None]
    assert metric_scale(fading, torch.from_numpy(depth), level, K) == pytest.approx(3.7, rel=0.04)
    assert metric_scale(rgb, 2 * torch.from_numpy(depth), level, K) == pytest.approx(7.4, rel=0.04)
    path = placed(level, scale)
    moved = (path[-1, :3, 3] - path[0, :3, 3]).norm()
    assert float(moved) == pytest.approx(np.linalg.norm(c2w[-1, :3, 3] - c2w[0, :3, 3]), rel=0.05)
    assert float(path[0, 2, 3]) == pytest.approx(1.4)


def test_a_camera_that_only_turns_has_no_unit(walk):
    still = np.tile(np.eye(4), (9, 1, 1))
    rgb = torch.rand(9, 3, 32, 32)
    assert metric_scale(rgb, torch.ones(9, 32, 32), still, intrinsics_from_fov(60, 32, 32)) == 1.0
