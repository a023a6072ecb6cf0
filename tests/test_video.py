import os

import numpy as np
import pytest
from PIL import Image

from spatia_env.errors import ActionError, VideoError
from spatia_env.io import video
from spatia_env.io.images import contact_sheet, depth_to_rgb, mask_to_rgb, write_sheet
from spatia_env.io.video import VideoWriter, read_video, write_video

H, W = 33, 47  # odd on purpose: the codec wants even sides


def ramp(count: int) -> np.ndarray:
    values = np.linspace(20, 230, count).astype(np.uint8)
    return np.tile(values[:, None, None, None], (1, H, W, 3))


def test_film_has_every_frame_in_order(tmp_path):
    path = write_video(tmp_path / "deep" / "a.mp4", ramp(11), fps=5)
    film = read_video(path)
    assert film.shape == (11, H + 1, W + 1, 3)
    assert np.abs(film[:, :H, :W].astype(int) - ramp(11)).max() <= 3
    assert os.listdir(tmp_path / "deep") == ["a.mp4"]


def test_writer_appends_clips_and_single_frames(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", scale=2) as writer:
        writer.append(ramp(3))
        writer.append(ramp(1)[0])
        assert not (tmp_path / "a.mp4").exists()
    assert read_video(tmp_path / "a.mp4").shape == (4, 2 * H, 2 * W, 3) and writer.num_frames == 4


def test_an_exception_leaves_no_film_and_the_old_one_alone(tmp_path):
    path = write_video(tmp_path / "a.mp4", ramp(2))
    before = path.read_bytes()
    with pytest.raises(RuntimeError), VideoWriter(path) as writer:
        writer.append(ramp(2))
        raise RuntimeError("stop")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, H, W, 3)), np.zeros((2, H, W), np.uint8), np.zeros((2, H, W, 4), np.uint8)],
    ids=["floats", "grey", "rgba"],
)
def test_bad_frames(tmp_path, frames):
    with pytest.raises(ActionError, match="uint8"):
        write_video(tmp_path / "a.mp4", frames)
    assert not os.listdir(tmp_path)


def test_frames_of_another_size(tmp_path):
    with pytest.raises(ActionError, match="after frames of"), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.append(ramp(1))
        writer.append(ramp(1)[:, :-1])


def test_writer_without_frames_writes_nothing(tmp_path):
    with VideoWriter(tmp_path / "a.mp4"):
        pass
    assert not os.listdir(tmp_path)


def test_ffmpeg_that_fails_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(video, "_ffmpeg", lambda: str(script))
    # Enough frames to fill the pipe of a process that has gone, and so few that they fit into it.
    for count in (1, 60):
        with pytest.raises(VideoError, match="No space left"):
            write_video(tmp_path / "out" / "a.mp4", ramp(count))
    assert not os.listdir(tmp_path / "out")


def test_what_is_no_film(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    for path in (tmp_path / "a.mp4", tmp_path / "none.mp4", tmp_path):
        with pytest.raises(VideoError, match="cannot be read"):
            read_video(path)


def test_depth_colours():
    depth = np.array([[0, 1, 2, 4]], np.float32)
    colours = depth_to_rgb(depth, far=4)
    assert colours.dtype == np.uint8 and colours.shape == (1, 4, 3)
    assert colours[0, 0].tolist() == [0, 0, 0]
    assert colours[0, 3].tolist() == [253, 231, 37]
    assert depth_to_rgb(np.zeros((2, 3, 4))).max() == 0


def test_mask_colours():
    assert mask_to_rgb(np.array([[0, 255]])).tolist() == [[[40] * 3, [235] * 3]]


def test_contact_sheet(tmp_path):
    rows = [("frames", ramp(4)), ("known", ramp(3))]
    sheet = contact_sheet(rows, ["start", "a very long caption that does not fit"], cell_height=66)
    assert sheet.height == 22 + 2 * (66 + 4)
    pixels = np.asarray(sheet)
    assert (np.abs(pixels[50].astype(int) - 230).max(axis=-1) <= 2).sum() >= 80  # the last cell of row one
    path = write_sheet(tmp_path / "sheet.png", sheet)
    assert np.array_equal(np.asarray(Image.open(path)), pixels) and os.listdir(tmp_path) == ["sheet.png"]
    with pytest.raises(ActionError):
        contact_sheet([])
    with pytest.raises(ActionError, match="'x'"):
        contact_sheet([("x", ramp(2) / 255)])
