"""The playground without a screen: paths, timeline, queue, tiles, text, things, and a session on the real model."""

import contextlib
import threading
import time
import types

import numpy as np
import pytest
import torch

from spatia_env.cameras import look_at, pose_error, so3_exp
from spatia_env.errors import ActionError, EditError, PromptError, SpatiaError, ViewerError
from spatia_env.memory import blocks as blk
from spatia_env.memory.cloud import PointCloud
from spatia_env.memory.editing import start_from
from spatia_env.memory.queries import raycast
from spatia_env.memory.scene import SceneMemory
from spatia_env.viewer import clouds, markup, paths, pictures, things
from spatia_env.viewer.cli import ViewConfig, make_env, opening
from spatia_env.viewer.jobs import MAX_WAITING, JobQueue
from spatia_env.viewer.library import Library
from spatia_env.viewer.moments import MAX_MOMENTS, Clip, Moment, Timeline
from spatia_env.viewer.player import FPS, Player
from spatia_env.viewer.session import Session, place_of
from spatia_env.viewer.stage import quaternion, stacked
from spatia_env.viewer.views import View, Views, upright

HOSTILE = (
    "<script>window.__pwned=1</script>",
    '"><img src=x onerror="window.__pwned=1">',
    "${alert(1)}",
    "[a](javascript:1)",
)


def clip_of(frames: int = 3, height: int = 6, width: int = 8, value: int = 50) -> Clip:
    pose = np.broadcast_to(np.eye(4, dtype=np.float32), (frames, 4, 4)).copy()
    picture = np.full((frames, height, width, 3), value, np.uint8)
    return Clip(
        picture, np.ones((frames, height, width), np.float16), pose, np.ones((frames, height, width), bool),
        picture, picture[:2], (0.5, 0.25), np.zeros((frames, height, width), bool),
    )  # fmt: skip


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
    metres, degrees = pose_error(paths.end_of(path, start), end)
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
    assert len(paths.from_preset("orbit_left", 4, 1.0)) == 2
    np.testing.assert_allclose(paths.from_move("forward", 4)[0][-1][:3, 3], [0, 0, 0.5], atol=1e-6)
    with pytest.raises(ActionError):
        paths.from_move("sideways", 4)


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
    assert jobs.drop(1) == 1 and mine.wait(1).phase == "dropped"
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
        Library(tmp_path).path(name)


def test_links_out_of_the_folder_are_not_worlds(tmp_path):
    (tmp_path / "outside").write_bytes(b"x")
    folder = tmp_path / "worlds"
    folder.mkdir()
    (folder / "link.spatia").symlink_to(tmp_path / "outside")
    (folder / "good.spatia").write_bytes(b"x")
    (folder / "Bad Name.spatia").write_bytes(b"x")
    library = Library(folder)
    assert library.names() == ["good"]
    with pytest.raises(ViewerError):
        library.existing("link")


# -- tiles -------------------------------------------------------------------------------------------------------


def memory_of(count: int, extent: float = 5.0, seed: int = 0) -> SceneMemory:
    rng = np.random.default_rng(seed)
    position = rng.uniform(-extent, extent, (count, 3)).astype(np.float32)
    colour = rng.integers(0, 256, (count, 3)).astype(np.uint8)
    cloud = PointCloud(position, colour, np.ones(count, np.float32), np.full(count, 0.01, np.float32))
    return start_from(SceneMemory(), cloud)


NOWHERE = np.zeros((0, 3))


def sent(tiles: clouds.TiledMap, eyes=NOWHERE, look=None) -> list:
    drawn = []
    for tile, fine in tiles.due(eyes, look):
        drawn.append((tile, fine, tiles.draw(tile, fine, "colour", 1, look)))
    return drawn


def test_every_point_is_sent_once_and_finely_in_the_end():
    memory = memory_of(3000)
    tiles = clouds.TiledMap()
    tiles.show(memory)
    drawn = sent(tiles)
    final = {tile: drawing for tile, fine, drawing in drawn if fine}
    points = np.concatenate([d.position + d.centre for d in final.values()])
    expected = memory.points()["position"]
    assert len(points) == len(expected)
    np.testing.assert_allclose(np.sort(points.ravel()), np.sort(expected.ravel()), atol=1e-5)
    assert [fine for _, fine, _ in drawn] == sorted(fine for _, fine, _ in drawn)  # coarse ones first
    assert sent(tiles) == []


def test_an_update_sends_the_tiles_it_touched_and_no_others():
    memory = memory_of(3000)
    tiles = clouds.TiledMap()
    tiles.show(memory)
    sent(tiles)
    key = next(iter(memory.blocks))
    block = memory.blocks[key].copy()
    block["colour"] = 0
    changed = memory.with_blocks({key: blk.freeze(block)})
    tiles.show(changed)
    corner = tuple((blk.unpack_blocks(np.array([key]))[0] // clouds.BLOCKS_PER_TILE).tolist())
    assert [(tile, fine) for tile, fine, _ in sent(tiles)] == [(corner, True)]
    gone = {
        k: blk.EMPTY
        for k in changed.blocks
        if tuple((blk.unpack_blocks(np.array([k]))[0] // clouds.BLOCKS_PER_TILE).tolist()) == corner
    }
    tiles.show(changed.with_blocks(gone))
    assert tiles.gone() == [corner] and tiles.gone() == [] and sent(tiles) == []


def test_far_tiles_stay_coarse_within_the_budget_and_follow_the_eye():
    memory = memory_of(8000, extent=8.0)
    tiles = clouds.TiledMap(budget=3000)
    tiles.show(memory)
    eye = np.array([[7.0, 7.0, 7.0]])
    counts = {tile: len(d.position) for tile, _, d in sent(tiles, eye)}
    assert sum(counts.values()) <= 3000
    fine = tiles.wanted(eye)
    assert 0 < len(fine) < len(counts)
    farthest_fine = max(np.linalg.norm(tiles.centre(t) - eye[0]) for t in fine)
    assert all(np.linalg.norm(tiles.centre(t) - eye[0]) >= farthest_fine - 1e-9 for t in set(counts) - fine)
    moved = sent(tiles, -eye)
    assert any(is_fine for _, is_fine, _ in moved) and any(not is_fine for _, is_fine, _ in moved)


def test_another_colouring_means_all_again_and_shows_its_measure():
    memory = memory_of(500)
    tiles = clouds.TiledMap()
    tiles.show(memory)
    sent(tiles, look="colour")
    assert {tile for tile, fine, _ in sent(tiles, look="age") if fine} == set(tiles.wanted(NOWHERE))
    rows = memory.points().copy()
    rows["first_step"] = np.arange(len(rows)) % 4
    new = clouds.colours(rows, "age", 3)
    assert (new[rows["first_step"] == 3] == new[rows["first_step"] == 3][0]).all()
    assert (new[rows["first_step"] == 0][0] != new[rows["first_step"] == 3][0]).any()
    rows["layer"][:5] = 1
    edited = clouds.colours(rows, "static / dynamic", 3)
    assert (edited[:5, 0] > edited[:5, 1]).all() and (edited[5:, 2] >= edited[5:, 0]).all()


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
        markup.tree(line),
        markup.note(words),
        markup.numbers([(words, words)]),
        markup.jobs(jobs.pending(), 0.5),
    ]
    hold.set()
    jobs.close()
    for piece in pieces:
        assert "<script" not in piece and "<img" not in piece
        assert all(character.isprintable() for character in piece)
        assert not {"\u202e", "\u2066", "\x1b"} & set(piece)


def test_captions_in_pictures_are_cut_and_never_fail():
    for words in (*HOSTILE, "x" * 5000, "\x1b[0m", "日本語 " * 40, ""):
        bar = pictures.text_bar(words, 90, 22)
        assert bar.shape == (22, 90, 3)
    assert (pictures.text_bar("hello", 90, 22) != pictures.text_bar("", 90, 22)).any()


# -- pictures and the player ---------------------------------------------------------------------------------------


def test_layers_show_what_they_say():
    clip = clip_of()
    clip.known[1, 2:4, 3] = False
    shown = pictures.layer_frames(clip, "known / imagined")
    assert (shown[1, 2, 3] != clip.frames[1, 2, 3]).any() and (shown[1, 0] == clip.frames[1, 0]).all()
    assert len(pictures.layer_frames(clip, "references")) == 2
    assert pictures.layer_frames(clip, "depth").shape == clip.frames.shape


def test_clips_play_side_by_side_until_the_longest_ends():
    line = Timeline()
    moments = [line.add("clip", "a", "", None, clip_of(frames, value=40 * frames)) for frames in (2, 5)]
    reel = pictures.Reel(moments, "clip", width=206)
    assert len(reel) == 5
    left, right = reel[4][10, 10], reel[4][10, 196]
    assert tuple(left) == (80, 80, 80) and tuple(right) == (200, 200, 200)


def test_the_player_advances_loops_stops_and_seeks():
    line = Timeline()
    player = Player(100)
    assert player.frame(0.0) is None
    player.show([line.add("clip", "a", "", None, clip_of(3))])
    start, seen = player._due, []
    for tick in range(4):
        player.frame(start + tick / FPS)
        seen.append(player.position[0])
    assert seen == [1, 2, 0, 1]
    player.seek(99)
    player.frame(start + 100)
    assert player.position == (2, 3) and not player.playing
    player.looping = False
    player.play(True)
    assert player.position[0] == 0


# -- things --------------------------------------------------------------------------------------------------------


def room_with_a_box() -> SceneMemory:
    axis = np.arange(-1.5, 1.5, 0.02)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    floor = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3).astype(np.float32)
    grey = np.full((len(floor), 3), 120, np.uint8)
    ground = PointCloud(floor, grey, np.ones(len(floor), np.float32), np.full(len(floor), 0.02, np.float32))
    box = things.shape("box", 0.4, (220, 40, 40)).moved(np.eye(4))
    return start_from(start_from(SceneMemory(), ground), box)


def test_a_ray_picks_the_thing_and_not_the_floor():
    memory = room_with_a_box()
    picked = things.pick(memory, [0.0, -2.0, 1.2], [0.0, 2.0, -1.0])
    assert (picked.colour[:, 0] > picked.colour[:, 1] + 50).all()
    assert 0.3 < picked.size.max() < 0.5 and abs(picked.centre[2] - 0.2) < 0.08
    with pytest.raises(EditError, match="nothing"):
        things.pick(memory, [0, -2, 1.2], [0, 0, 1])


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
    picked = things.pick(memory, [0, 0, 0], aim)
    assert np.abs(picked.hit - aim).max() < 0.08
    for nowhere in ([0, -1, 0], [0, 0, 0]):
        with pytest.raises(SpatiaError):
            things.pick(memory, [0, 0, 0], nowhere)


@pytest.mark.parametrize("name", things.SHAPES)
def test_shapes_stand_on_their_origin(name):
    cloud = things.shape(name, 0.5, (10, 200, 30))
    low, high = cloud.position.min(0), cloud.position.max(0)
    np.testing.assert_allclose(low[2], 0, atol=1e-6)
    np.testing.assert_allclose(high - low, [0.5, 0.5, 0.5], atol=0.01)
    with pytest.raises(EditError):
        things.shape(name, 50, (0, 0, 0))


def test_obj_meshes_are_read_and_malformed_ones_refused():
    text = b"# a square\nv 0 0 0 1 0 0\nv 1 0 0 1 0 0\nv 1 1 0 1 0 0\nv 0 1 0 1 0 0\nusemtl ../../x\nf 1/1 2/2 3/3 -1\n"
    cloud = things.read_obj(text, spacing=0.1)
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
            things.read_obj(bad)


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


# -- a session on the real model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    opened = Session(make_env(ViewConfig(size=(64, 96))), Library(tmp_path_factory.mktemp("worlds")))
    opened.open({"scene": 10038}, "scene 10038")
    yield opened
    opened.close()


def done(job):
    job.wait(240)
    assert job.phase == "done", job.error
    return job


def test_a_session_walks_forks_saves_and_returns(session):
    start = session.now.state
    done(session.walk(paths.from_move("turn left", session.num_frames), "", "turn left"))
    first = session.now
    assert first.numbers["points"] == first.state.memory.num_points and first.clip.frames.shape[1:] == (
        64,
        96,
        3,
    )
    done(session.variants(paths.from_move("none", session.num_frames), ["", "night falls"], "stand"))
    siblings = session.timeline.beside(session.now)
    assert [m.event for m in siblings] == ["", "night falls"] and {m.parent for m in siblings} == {first.id}
    assert (siblings[0].clip.frames != siblings[1].clip.frames).any()
    done(session.jump(first.id))
    assert session.env.world.state is first.state and session.timeline[0].state is start
    film = session.film()
    assert len(film) == 1 + session.num_frames and (film[0] == session.timeline[0].clip.frames[-1]).all()
    done(session.save("a-world"))
    digest = session.now.state.memory.points().tobytes()
    done(session.load("a-world"))
    assert session.now.state.memory.points().tobytes() == digest and len(session.timeline) == 1


def test_a_preview_changes_nothing_and_shows_the_map(session):
    before = session.now.state
    frame, known = session.preview(before.c2w)
    assert frame.shape == (64, 96, 3) and known > 0.5 and session.env.world.state is before
    away = before.c2w.clone()
    away[:3, 3] += 500
    assert session.preview(away)[1] == 0.0


def test_hostile_words_are_refused_or_kept_as_text(session):
    path = paths.from_move("none", session.num_frames)
    for words in ("\x1b[31m", "a\u202eb", "x" * 300, "\0"):
        with pytest.raises(PromptError):
            session.walk(path, words, "x")
    assert session.queue.pending() == []
    done(session.walk(path, HOSTILE[0], "say"))
    assert session.now.event == HOSTILE[0] and session.now.state.ledger[-1].text == HOSTILE[0]


def test_read_only_refuses_what_changes_anything(session):
    session.read_only = True
    try:
        path = paths.from_move("none", session.num_frames)
        for ask in (
            lambda: session.walk(path, "", "x"),
            lambda: session.variants(path, [""], "x"),
            lambda: session.change("x", lambda edit: None),
            lambda: session.jump(0),
            lambda: session.save("x"),
            lambda: session.load("a-world"),
            lambda: session.begin({"scene": 1}, "x"),
        ):
            with pytest.raises(ViewerError, match="read-only"):
                ask()
    finally:
        session.read_only = False


def test_a_failed_job_leaves_the_world_as_it_was(session):
    before, count = session.now.state, len(session.timeline)

    def nothing(edit):
        raise EditError("nothing there")

    job = session.change("nothing", nothing).wait(60)
    assert job.phase == "failed" and session.env.world.state is before and len(session.timeline) == count


def test_a_moment_titles_itself():
    assert Moment(3, 2, "clip", "turn left", "rain", None, clip_of()).title == "3 · turn left · rain"


class Camera:
    """What viser says of a browser's camera."""

    def __init__(self, c2w: torch.Tensor) -> None:
        self.position, self.wxyz = c2w[:3, 3].numpy(), quaternion(c2w[:3, :3].double().numpy())


class Client:
    """A browser that does as it is told, late."""

    client_id = 1
    _outbox = types.SimpleNamespace(sanctioned_dead_writes=contextlib.nullcontext)
    _websock_connection = types.SimpleNamespace(get_message_buffer=lambda: Client._outbox)

    def __init__(self, c2w: torch.Tensor) -> None:
        self.camera = Camera(c2w)
        self.camera.on_update = lambda callback: setattr(self, "say", callback)

    def atomic(self):
        return contextlib.nullcontext()


def test_a_saved_world_is_opened_at_its_own_size(session, tmp_path):
    path = tmp_path / "room.spatia"
    session.env.world.save(path)
    for world, size in ((path, None), (tmp_path / "room.ply", (64, 96))):  # a cloud has none of its own
        env = make_env(ViewConfig(world=world, size=size))
        assert env.observation_space["frames"].shape[1:3] == session.now.state.size
        env.close()


def test_a_late_browser_is_not_taken_for_a_user_who_walks(session):
    walker = upright(session.now.state.c2w)
    away = walker.clone()
    away[:3, 3] += torch.tensor([3.0, 3.0, 3.0])
    rested = []
    views = Views(session, 32, rested.append)
    view = views.add(Client(away), types.SimpleNamespace(image=None), walks=True)
    view.client.say(Camera(away))  # before it was told where to be
    views.tick(time.monotonic() + 100)
    assert rested == [] and view.placed
    view.client.say(Camera(walker))
    assert not view.placed and not view.moved
    step = walker.clone()
    step[:3, 3] += 0.3 * walker[:3, 2]
    view.client.say(Camera(step))
    views.tick(time.monotonic())
    assert rested == []  # it has only just moved
    views.tick(time.monotonic() + 1)
    assert rested == [view] and view.moved == 0
    views.remove(1)
    views.close()


def test_a_browser_that_says_again_where_every_page_begins_does_not_walk(session):
    walker = upright(session.now.state.c2w)
    rested = []
    views = Views(session, 32, rested.append)
    view = views.add(Client(walker), types.SimpleNamespace(image=None), walks=True)
    view.client.say(Camera(walker))
    view.client.say(Camera(look_at(torch.tensor([3.0, 3.0, 3.0]), torch.zeros(3))))
    views.tick(time.monotonic() + 100)
    assert rested == [] and view.c2w.equal(walker)
    views.close()


def test_a_user_who_moves_before_the_browser_has_said_where_it_was_put_is_heard(session):
    walker = upright(session.now.state.c2w)
    away, on = walker.clone(), walker.clone()
    away[:3, 3] += torch.tensor([3.0, 3.0, 0.0])
    on[:3, :3] = so3_exp(torch.tensor([0.0, 0.0, 0.4])) @ walker[:3, :3]
    views = Views(session, 32, lambda view: None)
    view = views.add(Client(away), types.SimpleNamespace(image=None), walks=True)
    aside = away.clone()
    aside[:3, 3] += torch.tensor([0.3, 0.0, 0.0])
    view.client.say(Camera(aside))  # it was still being dragged where it was before
    assert view.placed and not view.moved
    view.client.say(Camera(on))
    assert not view.placed and view.moved and float(pose_error(view.c2w, on)[1]) < 0.1
    views.close()


def test_a_view_rests_sooner_where_the_browser_draws_quickly():
    quick, slow = View(None), View(None)
    for index in range(6):
        quick.move(torch.eye(4), 1 + 0.02 * index)
        slow.move(torch.eye(4), 1 + 0.15 * index)
    assert quick.rests(quick.moved + 0.13) and not quick.rests(quick.moved + 0.1)
    assert slow.rests(slow.moved + 0.25) and not slow.rests(slow.moved + 0.2)
    assert not View(None).rests(1e9)  # it has not moved


def test_a_view_that_rests_while_something_is_generated_is_walked_to_afterwards(session):
    rested, hold = [], threading.Event()
    views = Views(session, 32, rested.append)
    walker = upright(session.now.state.c2w)
    view = views.add(Client(walker), types.SimpleNamespace(image=None), walks=True)
    view.placed = 0.0
    job = session.queue.submit("a clip", None, lambda job: hold.wait(60))
    aside = walker.clone()
    aside[:3, 3] += torch.tensor([0.4, 0.0, 0.0])
    view.client.say(Camera(aside))
    views.tick(time.monotonic() + 1)
    views.refresh()  # a clip has come meanwhile: the view stays where it was moved to
    assert rested == [] and view.moved and float(pose_error(view.c2w, aside)[0]) < 1e-4
    hold.set()
    done(job)
    views.tick(time.monotonic() + 1)
    assert rested == [view] and not view.moved
    views.close()


class Gone:
    """A picture of a client that has left: viser refuses to change it."""

    def __setattr__(self, name, value):
        raise RuntimeError(f"Cannot assign to '{name}' on a removed handle.")


def test_a_client_that_left_does_not_end_the_previews_of_others(session):
    walker = upright(session.now.state.c2w)
    views = Views(session, 32, lambda view: None)
    gone, here = Client(walker), Client(walker)
    here.client_id = 2
    views.add(gone, Gone(), walks=True)
    for _ in range(500):
        if views[1] is None:
            break
        time.sleep(0.02)
    assert views[1] is None
    view = views.add(here, types.SimpleNamespace(image=None), walks=True)
    for _ in range(500):
        if view.previews:
            break
        time.sleep(0.02)
    assert view.previews == 1 and view.picture.image.shape[1] == 32
    views.close()


def test_a_preview_that_fails_is_printed_and_the_next_one_is_drawn(session, monkeypatch, capfd):
    preview, fails = session.preview, iter([True])

    def once_wrong(c2w):
        if next(fails, False):
            raise TypeError("oh")
        return preview(c2w)

    monkeypatch.setattr(session, "preview", once_wrong)
    views = Views(session, 32, lambda view: None)
    view = views.add(Client(session.now.state.c2w), types.SimpleNamespace(image=None), walks=True)
    for _ in range(500):
        if view.previews:
            break
        views.refresh()
        time.sleep(0.02)
    assert view.previews and "TypeError: oh" in capfd.readouterr().err
    views.close()
