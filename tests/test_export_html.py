"""Pages of episodes: self-contained, faithful, and with texts that stay texts."""

import base64
import json
import re

import gymnasium as gym
import numpy as np
import pytest

from spatia_env.errors import ActionError, WorldFormatError
from spatia_env.io.video import read_video
from spatia_env.viewer import export_html
from spatia_env.viewer.export_html import Episode, PlacedEvent
from spatia_env.wrappers import RecordClips

HOSTILE = "</script><script>window.__pwned=1</script><img src=x onerror=alert(1)>"


def episode_of(count: int = 5, height: int = 12, width: int = 16) -> Episode:
    frames = np.full((count, height, width, 3), 90, np.uint8)
    pose = np.broadcast_to(np.eye(4, dtype=np.float32), (count, 4, 4)).copy()
    pose[:, 2, 3] = np.linspace(0, 1, count)
    K = np.array([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]], np.float32)
    points = np.random.default_rng(0).uniform(-2, 2, (50, 3)).astype(np.float32)
    return Episode(
        "a <b>room</b>",
        frames,
        pose,
        K,
        points,
        np.full((50, 3), 7, np.uint8),
        (PlacedEvent(2, HOSTILE, (0, 0, 2)),),
    )


def content_of(page: str) -> dict:
    return json.loads(
        re.search(r'<script id="content" type="application/json">(.*?)</script>', page, re.DOTALL).group(1)
    )


def test_a_page_holds_everything_and_fetches_nothing():
    episode = episode_of()
    page = export_html.render(episode)
    content = content_of(page)
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", page) and "http" not in page.replace(
        "http-equiv", ""
    )
    assert "default-src 'none'" in page
    packed = np.frombuffer(base64.b64decode(content["points"]), "<u2").reshape(-1, 3)
    points = np.array(content["low"]) + packed / 65535 * np.array(content["span"])
    np.testing.assert_allclose(points, episode.points, atol=1e-4)
    assert np.frombuffer(base64.b64decode(content["colours"]), np.uint8).tolist() == [7] * 150
    assert content["poses"][4][11] == 1.0 and len(content["poses"]) == 5
    assert content["events"] == [{"frame": 2, "text": HOSTILE, "place": [0, 0, 2]}]


def test_texts_cannot_break_out():
    page = export_html.render(episode_of())
    assert page.count("</script>") == export_html.TEMPLATE.read_text().count("</script>")
    assert "<img" not in page and content_of(page)["title"] == "a <b>room</b>"


def test_the_film_in_the_page_is_the_episode(tmp_path):
    page = export_html.render(episode_of(), scale=1)
    film = base64.b64decode(re.search(r"data:video/mp4;base64,([^\"]+)", page).group(1))
    (tmp_path / "film.mp4").write_bytes(film)
    frames = read_video(tmp_path / "film.mp4")
    assert frames.shape == (5, 12, 16, 3) and abs(int(frames.mean()) - 90) < 4


def test_a_cloud_of_frames_lies_where_the_cameras_saw_it():
    depth = np.full((2, 10, 14), 2.0, np.float32)
    frames = np.full((2, 10, 14, 3), 9, np.uint8)
    pose = np.broadcast_to(np.eye(4, dtype=np.float32), (2, 4, 4)).copy()
    pose[1, 0, 3] = 5.0
    K = np.array([[10.0, 0, 7], [0, 10, 5], [0, 0, 1]])
    points, colours = export_html.cloud_of_frames(frames, depth, pose, K)
    np.testing.assert_allclose(points[:, 2], 2, atol=1e-5)
    assert len(points) == len(colours) == 2 * 140 and points[:, 0].min() < -1.2 and points[:, 0].max() > 6.2


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("episode")
    env = gym.make("spatia_env:Spatia-v0", size=(64, 96))
    env = RecordClips(env, folder, arrays=True)
    env.reset(seed=3, options={"scene": "demo"})
    env.step({"camera": np.array([0, 0, 0, 0, 0.5, 0], np.float32), "event": HOSTILE})
    env.unwrapped.world.save(folder / "room.spatia")
    env.close()
    return folder


def test_recordings_and_worlds_become_pages(recorded, capsys):
    assert export_html.main([str(recorded)]) == 0
    page = (recorded / "episode-0000.html").read_text()
    content = content_of(page)
    assert len(content["poses"]) == 9 and content["events"][0]["frame"] == 1 and content["size"] == [96, 64]
    assert len(content["points"]) > 10_000
    assert export_html.main([str(recorded / "room.spatia"), "--out", str(recorded / "world.html")]) == 0
    assert content_of((recorded / "world.html").read_text())["events"][0]["text"] == HOSTILE
    assert "wrote" in capsys.readouterr().out


def test_what_is_no_episode_is_refused(tmp_path):
    with pytest.raises(ActionError, match="RecordClips"):
        export_html.find(tmp_path)
    with pytest.raises(ActionError):
        export_html.find(tmp_path / "none.npz")
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK\x03\x04junk")
    with pytest.raises(WorldFormatError):
        export_html.read_episode(bad)
    np.savez(tmp_path / "less.npz", pose=np.zeros((1, 4, 4)))
    with pytest.raises(WorldFormatError, match="lacks"):
        export_html.read_episode(tmp_path / "less.npz")
    with pytest.raises(ActionError, match="no frames"):
        export_html.render(
            Episode(
                "x",
                np.zeros((0, 4, 4, 3), np.uint8),
                np.zeros((0, 4, 4)),
                np.eye(3),
                np.zeros((0, 3)),
                np.zeros((0, 3)),
            )
        )
