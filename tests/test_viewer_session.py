"""The playground on the real model, without a screen: a session, and what browsers say of views."""

import contextlib
import math
import threading
import time
import types

import pytest
import torch

from spatia_env.errors import EditError, PromptError, ViewerError
from spatia_env.geometry import look_at, pose_error, so3_exp
from spatia_env.viewer import paths
from spatia_env.viewer.cli import ViewConfig, make_env
from spatia_env.viewer.files import SavedWorlds
from spatia_env.viewer.scene_view import quaternion
from spatia_env.viewer.session import TO_VIEW, Session
from spatia_env.viewer.timeline import Moment
from spatia_env.viewer.views import View, Views, upright
from tests.viewer_parts import HOSTILE, clip_of


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    opened = Session(make_env(ViewConfig(size=(64, 96))), SavedWorlds(tmp_path_factory.mktemp("worlds")))
    opened.open({"scene": 10038}, "scene 10038")
    yield opened
    opened.close()


def done(job):
    job.wait(240)
    assert job.phase == "done", job.error
    return job


def test_a_session_walks_forks_saves_and_returns(session):
    start = session.now.state
    done(session.walk(paths.from_name("turn left", session.num_frames), "", "turn left"))
    first = session.now
    assert first.numbers["points"] == first.state.memory.num_points and first.clip.frames.shape[1:] == (
        64,
        96,
        3,
    )
    done(session.variants(paths.from_name("stand still", session.num_frames), ["", "night falls"], "stand"))
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
    path = paths.from_name("stand still", session.num_frames)
    for words in ("\x1b[31m", "a\u202eb", "x" * 300, "\0"):
        with pytest.raises(PromptError):
            session.walk(path, words, "x")
    assert session.queue.pending() == []
    done(session.walk(path, HOSTILE[0], "say"))
    assert session.now.event == HOSTILE[0] and session.now.state.ledger[-1].text == HOSTILE[0]


def test_read_only_refuses_what_changes_anything(session):
    session.read_only = True
    try:
        path = paths.from_name("stand still", session.num_frames)
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


def test_a_browser_that_was_placed_twice_and_says_the_first_place_late_does_not_walk(session):
    walker = upright(session.now.state.c2w)
    rested = []
    views = Views(session, 32, rested.append)
    view = views.add(
        Client(look_at(torch.tensor([3.0, 3.0, 3.0]), torch.zeros(3))),
        types.SimpleNamespace(image=None),
        True,
    )
    earlier = walker.clone()
    earlier[:3, 3] += 0.5 * walker[:3, 0]
    view.c2w = earlier  # it was told to be there, has not said so, and is now told to be elsewhere
    views.go_to_walker(view)
    view.client.say(Camera(earlier))
    views.tick(time.monotonic() + 100)
    assert rested == [] and view.placed and view.c2w.equal(walker)
    view.client.say(Camera(walker))
    assert not view.placed and not view.moved
    view.client.say(Camera(earlier))  # this time its user went there
    views.tick(time.monotonic() + 1)
    assert rested == [view]
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
    assert 0.1 < quick.rests_at() - quick.moved < 0.13
    assert 0.2 < slow.rests_at() - slow.moved < 0.25
    assert View(None).rests_at() == math.inf  # it has not moved


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
    assert not job.stopping
    earlier = session.queue.submit(TO_VIEW, 1, lambda job: None)
    views.tick(time.monotonic() + 1)
    assert (
        earlier.phase == "dropped" and not job.stopping and rested == []
    )  # the later view replaces the earlier
    hold.set()
    done(job)
    views.tick(time.monotonic() + 1)
    assert rested == [view] and not view.moved
    views.close()


def test_a_walk_that_is_stopped_ends_after_its_present_clip(session):
    count, path = len(session.timeline), paths.from_text("0 0 0.02; " * 12, session.num_frames)
    job = session.walk(path, "", "slowly", owner=3)
    waiting = session.walk(path, "", "slowly", owner=3)
    while len(session.timeline) == count:
        time.sleep(0.02)
    assert session.queue.stop(2) == 0 and session.queue.stop(3) == 2
    assert done(job) and waiting.phase == "dropped"
    assert count < len(session.timeline) < count + 12


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
