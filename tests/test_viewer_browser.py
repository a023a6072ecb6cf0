"""The playground in Chromium: what a user does, and what the screen shows.

Skipped, with the reason, where Chromium or Playwright cannot be had. `pytest -m slow tests/test_viewer_browser.py`
runs all of it; screenshots go to out/viewer.
"""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from spatia_env.errors import DependencyError
from spatia_env.viewer import export_html, paths
from spatia_env.viewer.cli import ViewConfig, open_playground
from tests.browser import Browser, find_chromium
from tests.perf.viewer_latency import connect_once, connections, settled

try:
    find_chromium()
    MISSING = ""
except DependencyError as error:
    MISSING = str(error)

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "Chromium is here"),
    pytest.mark.timeout(900),
]
SHOTS = Path(__file__).parent.parent / "out" / "viewer"
HOSTILE = (
    "<script>window.__pwned=1</script>",
    '"><img src=x onerror="window.__pwned=1">',
    "<svg/onload=window.__pwned=1>",
    "[x](javascript:window.__pwned=1)",
)


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def playground(tmp_path_factory):
    app, url = open_playground(ViewConfig(port=0, size=(64, 96), worlds=tmp_path_factory.mktemp("worlds")))
    yield app, url
    app.close()


@pytest.fixture
def page(browser, playground):
    app, url = playground
    before = set(app.server.get_clients())
    opened = browser.page(url)
    new = opened.wait_for(lambda: set(app.server.get_clients()) - before, "the client is connected")
    opened.client_id = next(iter(new))
    opened.wait_for(lambda: app.scene.wait_until_sent(0.1), "the cloud has been sent")
    yield opened
    opened.tab.close()


def idle(page, app) -> None:
    page.wait_for(lambda: not app.session.queue.pending(), "nothing waits")


def picks(page, app) -> bool:
    """Click here and there, until something was hit."""
    for down in (0.5, 0.56, 0.62, 0.45, 0.4):
        page.click_view(0.5, down)
        page.pause(2)
        if app.edit.picked is not None:
            return True
    return False


def colours_of(picture: np.ndarray) -> int:
    return len(np.unique(picture[::4, ::4].reshape(-1, 3) // 16, axis=0))


def test_the_page_connects_and_shows_the_cloud_and_the_picture(browser, playground, page):
    app, url = playground
    page.wait_for(lambda: colours_of(page.view()) > 25, "the view shows the cloud")
    pictures = page.wait_for(page.pictures, "the clip is shown")
    wanted = app.session.now.clip.frames[-1].mean((0, 1))
    np.testing.assert_allclose(pictures[0][:-26].mean((0, 1)), wanted, atol=12)
    page.shot(SHOTS / "start.png")
    assert browser.elsewhere(url) == [] and not [e for e in browser.errors if "Content Security" in e]


def test_walk_by_button_and_by_key(playground, page):
    app, _ = playground
    idle(page, app)
    count, before = len(app.session.timeline), page.view()
    page.click("turn left")
    page.wait_for(lambda: len(app.session.timeline) == count + 1, "a clip")
    assert app.session.now.caption == "turn left"
    page.wait_for(lambda: np.abs(page.view().astype(int) - before).mean() > 5, "the view has turned")
    view = app.views[page.client_id]
    page.wait_for(lambda: not view.placed, "the browser's camera is where it was put")
    previews, start = view.previews, app.session.now.state.c2w.clone()
    for _ in range(20):  # a page that draws seldom may miss a short press
        page.hold("KeyW", 0.25)
        if settled(lambda: view.previews > previews, 2):
            break
    assert view.previews > previews, "a preview while moving"
    page.wait_for(lambda: app.session.now.caption.startswith("to my view"), "the clip after letting go")
    idle(page, app)
    ahead = (app.session.now.state.c2w[:3, 3] - start[:3, 3]) @ start[:3, 2]
    assert 0.05 < float(ahead) < 3
    page.shot(SHOTS / "walked.png")


@pytest.mark.slow
def test_events_side_by_side_and_hostile_ones(browser, playground, page):
    app, _ = playground
    idle(page, app)
    page.open_tab("Speak")
    page.write("events", "night falls")
    page.tab.keyboard.press("Tab")
    page.click("Play side by side")
    page.wait_for(lambda: len(app.session.timeline.beside(app.session.now)) == 2, "two clips")
    page.wait_for(lambda: len(app.player.moments) == 2, "both are played")
    page.pause(0.5)
    page.shot(SHOTS / "side-by-side.png")
    for words in HOSTILE:
        page.write("happens", words)
        page.tab.keyboard.press("Tab")
        page.click("Say it")
        page.wait_for(lambda words=words: app.session.now.event == words, f"said {words}")
    for words in ("\x1b[31mred", "a\u202eb"):
        count = len(app.session.timeline)
        page.write("happens", words)
        page.tab.keyboard.press("Tab")
        page.click("Say it")
        page.wait_for(lambda: page.tab.get_by_text("does not print").count(), "it says why not")
        assert len(app.session.timeline) == count
    page.open_tab("See")
    page.pause(1)
    page.shot(SHOTS / "hostile.png")
    assert not page.is_pwned() and not browser.errors


@pytest.mark.slow
def test_edit_undo_fork_save_reload(playground, page):
    app, _url = playground
    app.session.begin({"scene": 10038}, "scene 10038").wait(240)
    page.wait_for(lambda: len(app.session.timeline) == 1 and app.scene.wait_until_sent(0.1), "a new world")
    view = app.views[page.client_id]
    page.wait_for(lambda: not view.placed, "the browser's camera is where it was put")
    start = app.session.now.state.memory
    page.open_tab("Edit")
    page.switch("A click picks a thing")
    page.pause(0.5)
    page.wait_for(lambda: app.edit.listening, "clicks pick")
    page.wait_for(lambda: picks(page, app), "a click picked something")
    page.wait_for(lambda: page.tab.get_by_text("points, ").count(), "the page says what is picked")
    page.shot(SHOTS / "picked.png")
    page.click("Recolour")
    page.wait_for(lambda: app.session.now.kind == "edit", "an edit")
    assert app.session.now.state.memory is not start
    page.click("undo")
    page.wait_for(lambda: app.session.now.caption == "undo", "undone")
    undone = app.session.now.state.memory.points()
    assert undone.tobytes() == start.points().tobytes()
    page.switch("A click picks a thing", False)
    page.wait_for(lambda: app.timeline.moment.value == app.session.now.title, "the timeline shows it")
    page.choose("moment", "0 · scene 10038")
    page.wait_for(lambda: app.timeline.moment.value.startswith("0 "), "the start is chosen")
    page.click("jump here")
    page.wait_for(lambda: app.session.timeline.now_id == 0, "back at the start")
    page.open_tab("Walk")
    page.click("turn right")
    page.wait_for(lambda: app.session.now.caption == "turn right", "a fork")
    assert app.session.now.parent == 0 and max(app.session.timeline.lanes().values()) == 1
    page.open_tab("World")
    page.click("Save")
    page.wait_for(lambda: app.session.saved.names() == ["my-world"], "it is saved")
    assert page.download("cloud (PLY)").startswith(b"ply\n")
    assert page.download("film (mp4)")[4:8] == b"ftyp"
    assert page.download("page (HTML)").startswith(b"<!doctype html>")
    page.tab.reload()
    page.wait_for(lambda: page.tab.get_by_role("tab", name="Walk").count(), "the page is back")
    page.wait_for(lambda: colours_of(page.view()) > 20, "with its world")
    page.shot(SHOTS / "reloaded.png")


@pytest.mark.slow
def test_stop_ends_a_walk_after_its_present_clip(playground, page):
    app, _ = playground
    idle(page, app)
    count = len(app.session.timeline)
    app.session.walk(paths.from_text("0 0 0.1; " * 12, app.session.num_frames), "", "numbers")
    page.wait_for(lambda: len(app.session.timeline) > count, "the first clip")
    page.click("Stop")
    idle(page, app)
    assert len(app.session.timeline) < count + 12
    page.wait_for(lambda: not page.tab.get_by_role("button", name="Stop").is_visible(), "nothing to stop")


@pytest.mark.slow
def test_two_clients_see_one_world_and_a_vanished_one_leaves_nothing_waiting(browser, playground, page):
    app, url = playground
    idle(page, app)
    before = set(app.server.get_clients())
    other = browser.page(url)
    other_id = next(iter(other.wait_for(lambda: set(app.server.get_clients()) - before, "the second client")))
    count = len(app.session.timeline)
    release, step = threading.Event(), app.session.env.step

    def slow_step(action):
        release.wait(60)
        return step(action)

    app.session.env.step = slow_step
    try:
        other.click("turn left")
        page.wait_for(lambda: [job.phase for job in app.session.queue.pending()] == ["running"], "it runs")
        other.click("turn right")
        page.wait_for(lambda: len(app.session.queue.pending()) == 2, "one waits")
        label = page.tab.get_by_text("turn right")
        page.wait_for(lambda: label.count() > 1, "the first client's queue shows it too")
        other.tab.close()
        page.wait_for(lambda: other_id not in app.server.get_clients(), "it has gone")
        page.wait_for(lambda: len(app.session.queue.pending()) == 1, "what it had waiting has gone with it")
    finally:
        release.set()
        app.session.env.step = step
    page.wait_for(lambda: len(app.session.timeline) == count + 1, "what ran ends by itself")
    page.click("turn left")
    page.wait_for(lambda: len(app.session.timeline) == count + 2, "the other goes on")
    assert app.views[other_id] is None and app.session.timeline[count].caption == "turn left"


def own_threads() -> int:
    """Threads of the process but those of pools, which grow to their size and no further."""
    return sum(not thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


@pytest.mark.slow
def test_two_hundred_connects_leave_nothing_behind(playground):
    app, url = playground
    assert settled(lambda: len(app.session.queue.pending())) == 0
    process = psutil.Process(os.getpid())
    for _ in range(40):
        connect_once(url)
    settled(lambda: len(app.server.get_clients()))
    handles, threads = settled(process.num_fds), own_threads()
    for _ in range(200):
        connect_once(url)
    assert settled(lambda: len(app.server.get_clients())) == 0
    assert settled(process.num_fds) <= handles and own_threads() <= threads + 2


@pytest.mark.slow
def test_two_hundred_connects_do_not_grow_a_playground_that_a_browser_has_walked_in(tmp_path):
    # `connections` opens the playground in a process of its own, as a user has it; it runs in another one itself: here
    # Playwright may be running already, and two do not go in a thread.
    config = ViewConfig(scene="10038", port=0, size=(128, 128), worlds=tmp_path)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        megabytes, handles = pool.submit(connections, config).result()
    assert megabytes <= 32 and handles <= 0


@pytest.mark.slow
def test_a_read_only_playground_has_no_way_to_change_anything(browser, tmp_path):
    app, url = open_playground(ViewConfig(port=0, size=(64, 96), worlds=tmp_path, read_only=True))
    try:
        page = browser.page(url)
        page.wait_for(lambda: app.server.get_clients(), "the client is connected")
        page.wait_for(lambda: page.tab.get_by_role("tab", name="See", exact=True).count(), "the panel")
        for name in ("Walk", "Speak", "Edit", "World"):
            assert page.tab.get_by_role("tab", name=name, exact=True).count() == 0
        assert page.tab.get_by_role("button", name="jump here").count() == 0
        page.tab.close()
    finally:
        app.close()


def test_an_exported_page_opens_from_disk_and_shows_its_cloud(browser, tmp_path):
    rng = np.random.default_rng(0)
    points = rng.uniform([-1, -1, 1], [1, 1, 3], (20_000, 3)).astype(np.float32)
    colours = rng.integers(40, 255, (20_000, 3)).astype(np.uint8)
    pose = np.broadcast_to(np.eye(4, dtype=np.float32), (5, 4, 4)).copy()
    K = np.array([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]], np.float32)
    frames = np.full((5, 24, 32, 3), (200, 60, 40), np.uint8)
    events = (
        export_html.PlacedEvent(1, HOSTILE[0], (0, 0, 2)),
        export_html.PlacedEvent(3, HOSTILE[1], (0, 0, 2)),
    )
    path = tmp_path / "episode.html"
    path.write_text(
        export_html.render(export_html.Episode(HOSTILE[1], frames, pose, K, points, colours, events))
    )
    asked, wrong = len(browser.requests), len(browser.errors)
    page = browser.page(path.as_uri())
    page.wait_for(lambda: page.tab.evaluate("document.getElementById('film').readyState >= 2"), "the film")
    for button in ("Follow the camera", "From above"):
        page.click(button)
        page.wait_for(lambda: colours_of(page.element("#canvas")) > 60, f"{button}: the cloud is drawn")
    assert (np.abs(page.element("#film").astype(int)[8, 8] - [200, 60, 40]) < 16).all()
    assert page.tab.locator("#title").inner_text() == HOSTILE[1]
    assert [row.inner_text() for row in page.tab.locator("li").all()] == [event.text for event in events]
    page.shot(SHOTS / "exported.png")
    assert (
        browser.requests[asked:] == [path.as_uri()] and browser.errors[wrong:] == [] and not page.is_pwned()
    )
    page.tab.close()
