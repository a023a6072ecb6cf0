"""Parts of the playground without a screen: paths, timeline, queue, files, text, player and objects."""

import threading
import time

import numpy as np
import pytest
import torch

from spatia_env.errors import ActionError, EditError, SpatiaError, ViewerError
from spatia_env.geometry import look_at, pose_error, so3_exp
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.editing import start_from
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.queries import raycast
from spatia_env.viewer import html, objects, paths, player
from spatia_env.viewer.cli import ViewConfig, opening
from spatia_env.viewer.files import SavedWorlds, read_obj
from spatia_env.viewer.jobs import MAX_WAITING, JobQueue
from spatia_env.viewer.player import FPS, Player
from spatia_env.viewer.scene_view import stacked
from spatia_env.viewer.session import place_of
from spatia_env.viewer.timeline import MAX_MOMENTS, Timeline
from spatia_env.viewer.views import upright
from tests.viewer_parts import HOSTILE, clip_of

# -- paths -----------------------------------------------------------------------------------------------------


def test_rows_of_numbers_are_metres_and_degrees():
    path = paths.from_text("0 0 0.4 0 90; 1, 0, 0", 5)
    assert len(path) == 2 and path[0].shape == (5, 4, 4)
    expected = so3_exp(torch.tensor([0.0, np.pi / 2, 0.0])).numpy()
    np.testing.assert_allclose(path[0][-1][:3, :3], expected, atol=1e-6)
    np.testing.assert_allclose(path[1][-1][:3, 3], [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    "text", ["", " ; ", "1 2 3 4 5 6 7", "nan", "0 0 9", "0 0 0 0 181", "one", "0\n" * 17, "1e999"]
)
def test_bad_rows_are_refused(text):
    with pytest.raises(ActionError):
        paths.from_text(text, 4)


def test_a_far_view_becomes_several_clips_that_end_there():
    start = torch.eye(4)
    end = torch.eye(4)
    end[:3, :3], end[:3, 3] = so3_exp(torch.tensor([0.1, 1.2, 0.0])), torch.tensor([0.7, -0.1, 1.4])
    path = paths.to_view(start, end, 5)
    assert len(path) == 4  # 1.57 m at most 0.5 m a clip
    reached = start.double()
    for clip in path:
        reached = reached @ torch.from_numpy(clip[-1]).double()
    metres, degrees = pose_error(reached.float(), end)
    assert float(metres) < 1e-4 and float(degrees) < 0.01
    end[:3, 3] = torch.tensor([0.0, 0.0, 30.0])
    with pytest.raises(ActionError, match="at most"):
        paths.to_view(start, end, 5)


def test_a_view_that_rolled_is_shown_upright():
    level = look_at(torch.tensor([1.0, 2.0, 1.5]), torch.tensor([2.0, 4.0, 1.0]))
    rolled = level.clone()
    rolled[:3, :3] = level[:3, :3] @ so3_exp(torch.tensor([0.0, 0.0, 0.3]))
    metres, degrees = pose_error(upright(rolled), level)
    assert float(metres) < 1e-5 and float(degrees) < 0.01
    down = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    assert upright(down) is down


def test_presets_and_moves_become_clips():
    assert len(paths.from_name("orbit_left", 4, 1.0)) == 2
    np.testing.assert_allclose(paths.from_name("forward", 4)[0][-1][:3, 3], [0, 0, 0.5], atol=1e-6)
    with pytest.raises(ActionError):
        paths.from_name("sideways", 4)


# -- timeline --------------------------------------------------------------------------------------------------


def test_the_timeline_forks_where_one_jumped_back():
    line = Timeline()
    for name in ("start", "a", "b"):
        line.add("start" if name == "start" else "clip", name, "", name, clip_of())
    line.go(1)
    other = line.add("clip", "c", "rain", "c", clip_of())
    assert other.parent == 1 and [m.caption for m in line.branch()] == ["start", "a", "c"]
    assert [m.caption for m in line.tips()] == ["b", "c"]
    assert line.lanes() == {0: 0, 1: 0, 2: 0, 3: 1}
    assert [m.caption for m in line.branch(2)] == ["start", "a", "b"]
    for wrong in (-1, 4, "0", None):
        with pytest.raises(ViewerError):
            line[wrong]


def test_old_clips_shrink_to_their_last_frame_and_the_tree_is_bounded():
    line = Timeline()
    for index in range(MAX_MOMENTS):
        line.add("clip", str(index), "", index, clip_of(frames=2, height=2, width=3))
    assert len(line[0].clip.frames) == 1 and len(line[0].clip.references) == 0
    assert len(line.now.clip.frames) == 2
    with pytest.raises(ViewerError, match="512"):
        line.check_room()


# -- queue -----------------------------------------------------------------------------------------------------


def test_one_job_at_a_time_in_order_and_what_a_client_left_is_dropped():
    jobs, seen, hold = JobQueue(), [], threading.Event()
    started = threading.Event()

    def first(job):
        started.set()
        hold.wait(10)
        seen.append("first")

    running = jobs.submit("first", 1, first)
    started.wait(10)
    mine = jobs.submit("mine", 1, lambda job: seen.append("mine"))
    other = jobs.submit("other", 2, lambda job: seen.append("other"))
    assert [job.label for job in jobs.pending()] == ["first", "mine", "other"]
    assert jobs.stop(1) == 2 and mine.wait(1).phase == "dropped"  # what runs ends by itself
    assert running.stopping and jobs.stop(1) == 0 and not other.stopping
    hold.set()
    assert running.wait(10).phase == "done" and other.wait(10).phase == "done"
    assert seen == ["first", "other"]
    jobs.close()


def test_a_job_that_fails_says_why_and_the_next_runs(capfd):
    jobs = JobQueue()

    def bad(job):
        raise EditError("there is nothing")

    def worse(job):
        raise ZeroDivisionError("oh")

    assert jobs.submit("bad", None, bad).wait(10).error == "there is nothing"
    assert "ZeroDivisionError" in jobs.submit("worse", None, worse).wait(10).error
    assert jobs.submit("good", None, lambda job: None).wait(10).phase == "done"
    jobs.close()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_queue_is_bounded():
    jobs, hold, started = JobQueue(), threading.Event(), threading.Event()
    jobs.submit("running", None, lambda job: (started.set(), hold.wait(10)))
    started.wait(10)
    for index in range(MAX_WAITING):
        jobs.submit(str(index), None, lambda job: None)
    with pytest.raises(ViewerError, match="waiting"):
        jobs.submit("one more", None, lambda job: None)
    hold.set()
    jobs.close()


# -- saved worlds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "a\\b", "", "A", "con", "nul", "-a", "a" * 65, "a\0", "a.b", None, 7]
)
def test_names_of_worlds_are_ids(tmp_path, name):
    with pytest.raises(ViewerError):
        SavedWorlds(tmp_path).path(name)


def test_links_out_of_the_folder_are_not_worlds(tmp_path):
    (tmp_path / "outside").write_bytes(b"x")
    folder = tmp_path / "worlds"
    folder.mkdir()
    (folder / "link.spatia").symlink_to(tmp_path / "outside")
    (folder / "good.spatia").write_bytes(b"x")
    (folder / "Bad Name.spatia").write_bytes(b"x")
    library = SavedWorlds(folder)
    assert library.names() == ["good"]
    with pytest.raises(ViewerError):
        library.existing("link")


# -- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [*HOSTILE, "\x1b[31mred", "a\u202eb\u2066c", "\0"])
def test_text_is_text_in_every_piece_of_html(words):
    line = Timeline()
    line.add("start", words, words, None, clip_of())
    jobs = JobQueue()
    hold, started = threading.Event(), threading.Event()
    jobs.submit(words, None, lambda job: (started.set(), hold.wait(10)))
    started.wait(10)
    pieces = [
        html.tree(line),
        html.note(words),
        html.numbers([(words, words)]),
        html.jobs(jobs.pending(), 0.5),
    ]
    hold.set()
    jobs.close()
    for piece in pieces:
        assert "<script" not in piece and "<img" not in piece
        assert all(character.isprintable() for character in piece)
        assert not {"\u202e", "\u2066", "\x1b"} & set(piece)


def test_captions_in_pictures_are_cut_and_never_fail():
    for words in (*HOSTILE, "x" * 5000, "\x1b[0m", "日本語 " * 40, ""):
        bar = player.text_bar(words, 90, 22)
        assert bar.shape == (22, 90, 3)
    assert (player.text_bar("hello", 90, 22) != player.text_bar("", 90, 22)).any()


# -- pictures and the player ---------------------------------------------------------------------------------------


def test_layers_show_what_they_say():
    clip = clip_of()
    clip.known[1, 2:4, 3] = False
    shown = player.layer_frames(clip, "known / imagined")
    assert (shown[1, 2, 3] != clip.frames[1, 2, 3]).any() and (shown[1, 0] == clip.frames[1, 0]).all()
    assert len(player.layer_frames(clip, "references")) == 2
    assert player.layer_frames(clip, "depth").shape == clip.frames.shape


def test_clips_play_side_by_side_until_the_longest_ends():
    line = Timeline()
    moments = [line.add("clip", "a", "", None, clip_of(frames, value=40 * frames)) for frames in (2, 5)]
    reel = player.Reel(moments, "clip", width=206)
    assert len(reel) == 5
    left, right = reel[4][10, 10], reel[4][10, 196]
    assert tuple(left) == (80, 80, 80) and tuple(right) == (200, 200, 200)


def test_the_player_advances_loops_stops_and_seeks():
    line = Timeline()
    shown = Player(100)
    assert shown.frame(0.0) is None
    shown.show([line.add("clip", "a", "", None, clip_of(3))])
    start, seen = time.monotonic() + 1 / FPS, []
    for tick in range(4):
        shown.frame(start + tick / FPS)
        seen.append(shown.position[0])
    assert seen == [1, 2, 0, 1]
    shown.seek(99)
    shown.frame(start + 100)
    assert shown.position == (2, 3) and not shown.playing
    shown.looping = False
    shown.play(True)
    assert shown.position[0] == 0


# -- things --------------------------------------------------------------------------------------------------------


def room_with_a_box() -> SceneMemory:
    axis = np.arange(-1.5, 1.5, 0.02)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    floor = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3).astype(np.float32)
    grey = np.full((len(floor), 3), 120, np.uint8)
    ground = PointCloud(floor, grey, np.ones(len(floor), np.float32), np.full(len(floor), 0.02, np.float32))
    box = objects.shape("box", 0.4, (220, 40, 40)).moved(np.eye(4))
    return start_from(start_from(SceneMemory(), ground), box)


def test_a_ray_picks_the_thing_and_not_the_floor():
    memory = room_with_a_box()
    picked = objects.pick(memory, [0.0, -2.0, 1.2], [0.0, 2.0, -1.0])
    assert (picked.colour[:, 0] > picked.colour[:, 1] + 50).all()
    assert 0.3 < picked.size.max() < 0.5 and abs(picked.centre[2] - 0.2) < 0.08
    with pytest.raises(EditError, match="nothing"):
        objects.pick(memory, [0, -2, 1.2], [0, 0, 1])


def test_a_click_between_points_picks_what_is_drawn_there():
    axis = np.arange(-0.5, 0.5, 0.08)  # far apart for their size
    x, z = np.meshgrid(axis, axis, indexing="ij")
    wall = np.stack([x, np.full_like(x, 4.0), z], -1).reshape(-1, 3).astype(np.float32)
    cloud = PointCloud(
        wall, np.full((len(wall), 3), 90, np.uint8), np.ones(len(wall), np.float32),
        np.full(len(wall), 0.02, np.float32),
    )  # fmt: skip
    memory = start_from(SceneMemory(), cloud)
    aim = wall[40] + np.array([0.04, 0, 0.04])
    assert raycast(memory, [0, 0, 0], aim) is None
    picked = objects.pick(memory, [0, 0, 0], aim)
    assert np.abs(picked.hit - aim).max() < 0.08
    for nowhere in ([0, -1, 0], [0, 0, 0]):
        with pytest.raises(SpatiaError):
            objects.pick(memory, [0, 0, 0], nowhere)


@pytest.mark.parametrize("name", objects.SHAPES)
def test_shapes_stand_on_their_origin(name):
    cloud = objects.shape(name, 0.5, (10, 200, 30))
    low, high = cloud.position.min(0), cloud.position.max(0)
    np.testing.assert_allclose(low[2], 0, atol=1e-6)
    np.testing.assert_allclose(high - low, [0.5, 0.5, 0.5], atol=0.01)
    with pytest.raises(EditError):
        objects.shape(name, 50, (0, 0, 0))


def test_obj_meshes_are_read_and_malformed_ones_refused():
    text = b"# a square\nv 0 0 0 1 0 0\nv 1 0 0 1 0 0\nv 1 1 0 1 0 0\nv 0 1 0 1 0 0\nusemtl ../../x\nf 1/1 2/2 3/3 -1\n"
    cloud = read_obj(text, spacing=0.1)
    assert np.ptp(cloud.position[:, 0]) == 1 and (cloud.colour == [255, 0, 0]).all()
    for bad in (
        b"",
        b"v 1 2\nf 1 1 1",
        b"v 0 0 0\nf 1 2 3",
        b"v a b c",
        b"v 0 0 0\nf x",
        b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3",
        b"v 0 0 0\nf",
        b"\xff" * 100,
    ):
        with pytest.raises(EditError):
            read_obj(bad)


def test_an_event_is_placed_where_something_moved():
    clip = clip_of(frames=2, height=20, width=30)
    K = torch.tensor([[30.0, 0, 15.0], [0, 30.0, 10.0], [0, 0, 1]])
    clip.depth[:] = 3.0
    clip.dynamic[1, 5:15, 20:30] = True
    x, y, z = place_of(clip, K)
    assert abs(x - 1.0) < 0.2 and abs(y) < 0.2 and abs(z - 3) < 1e-3
    clip.dynamic[:] = False
    np.testing.assert_allclose(place_of(clip, K), [0, 0, 1.5], atol=1e-6)


def test_labels_of_events_at_one_place_stand_above_one_another():
    spots = stacked([(0, 0, 1.0), (0.1, 0, 1.0), (0, 0.1, 1.02), (5, 0, 1.0)])
    np.testing.assert_allclose([z for _, _, z in spots], [1.0, 1.12, 1.26, 1.0])


# -- what to open ----------------------------------------------------------------------------------------------------


def test_one_thing_is_opened():
    assert opening(ViewConfig())[0] == {"scene": 10038}
    assert opening(ViewConfig(scene="demo", prompt="a room"))[0] == {"scene": "demo", "prompt": "a room"}
    with pytest.raises(ActionError, match="one of them"):
        opening(ViewConfig(scene="1", world="x"))
