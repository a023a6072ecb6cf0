"""How fast the playground answers in Chromium, and what it leaves behind: what `spatia bench viewer` measures.

Chromium draws in software on the same machine, so the times are those of a laptop without a GPU that does both.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from spatia_env.errors import ViewerError
from spatia_env.viewer.browser import VIEW, Browser, Page
from spatia_env.viewer.cli import ViewConfig, open_playground

HELD_SECONDS = 0.2
"""A key is held for so long at least: the view then stands elsewhere than the walker, so a clip follows."""
STEPS_WAITED = 60.0
"""Seconds within which an answer comes or none will."""
WATCH = """() => {
  const images = () => [...document.querySelectorAll('img')];
  let times = window.__times = {};
  const note = what => { if (!(what in times)) times[what] = performance.now(); };
  document.addEventListener('load', event => {
    if (event.target.tagName !== 'IMG') return;
    if (images().indexOf(event.target) > 0) note('preview'); else if ('released' in times) note('clip');
  }, true);
  addEventListener('keydown', event => {
    if (!event.repeat) times = window.__times = {pressed: event.timeStamp}; }, true);
  addEventListener('keyup', event => { times.released = event.timeStamp; }, true);
}"""
"""Notes, on the page's own clock, when a key went down and up, and when the next preview, below the player's
picture, and the next picture of the player had come and were decoded."""


@contextmanager
def running(config: ViewConfig) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`spatia view` in a process of its own, as a user has it, and its URL.

    Raises:
        ViewerError: If it ends without one.
    """
    size = ["--size", *map(str, config.size)] if config.size else []
    words = ["view", "--scene", str(config.scene), "--port", "0", *size, "--worlds", str(config.worlds)]
    command = [sys.executable, "-m", "spatia_env.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.match(r"http://\S+", line)
            if found:
                yield process, found.group(0)
                return
        raise ViewerError("spatia view ended without a URL; run it to see why.")
    finally:
        process.terminate()
        process.wait(60)


def first_picture(config: ViewConfig) -> float:
    """Seconds from calling `spatia view` until a browser shows the first picture of the world."""
    with Browser() as browser:  # opened before: a user's browser runs already
        began = time.monotonic()
        with running(config) as (_, url):
            page = browser.page(url)
            loaded = "[...document.images].some(image => image.complete && image.naturalWidth > 100)"
            page.wait_for(lambda: page.tab.evaluate(loaded), "the first picture")
            seconds = time.monotonic() - began
            page.wait_for(lambda: any(p.std() > 5 for p in page.pictures()), "a picture that is not blank")
    return seconds


@contextmanager
def _opened(config: ViewConfig) -> Iterator[tuple[Any, str]]:
    app, url = open_playground(config)
    try:
        yield app, url
    finally:
        app.close()


def answers(config: ViewConfig, presses: int) -> dict[str, list[float]]:
    """What keys do: milliseconds to another preview, seconds from letting go to the clip, beyond the step.

    Returns:
        `preview_ms`, `clip_extra_s` and `step_s`, one for each press, and `elsewhere`: requests to other servers.
    """
    found: dict[str, list[float]] = {"preview_ms": [], "clip_extra_s": [], "step_s": []}
    with _opened(config) as (app, url), Browser() as browser:
        page = browser.page(url)
        page.wait_for(app.server.get_clients, "a client")
        view = page.wait_for(lambda: app.views[next(iter(app.server.get_clients()))], "its view")
        page.wait_for(lambda: app.stage.settle(0.1), "the cloud")
        page.pause(2)
        page.close_notice()
        page.tab.evaluate(WATCH)
        for index in range(presses):
            page.wait_for(
                lambda: not view.placed and not view.moved and not app.session.queue.pending(), "rest"
            )
            settled(lambda: view.previews, 1.0)
            app.player.play(False)  # what changes next in its place is the clip
            first = len(app.session.timeline)
            times = press(page, "KeyW" if index % 2 == 0 else "KeyS")
            seconds = app.session.timeline[first].numbers["seconds"]
            found["preview_ms"].append(times["preview"] - times["pressed"])
            found["clip_extra_s"].append((times["clip"] - times["released"]) / 1000 - seconds)
            found["step_s"].append(seconds)
        found["elsewhere"] = [float(len(browser.elsewhere(url)))]
    return found


def press(page: Page, key: str) -> dict[str, float]:
    """Hold a key until a preview has come, let go, wait for the clip: the page's times in milliseconds.

    Raises:
        ViewerError: If one of them does not come.
    """

    def noted(what: str) -> Callable[[], bool]:
        return lambda: bool(page.tab.evaluate(f"'{what}' in window.__times"))

    page.tab.locator(VIEW).hover()
    page.tab.keyboard.down(key)
    try:
        page.pause(HELD_SECONDS)
        page.wait_for(noted("preview"), "a preview", STEPS_WAITED)
    finally:
        page.tab.keyboard.up(key)
    page.wait_for(noted("clip"), "the clip", STEPS_WAITED)
    times: dict[str, float] = page.tab.evaluate("window.__times")
    return times


def million_points(count: int) -> float:
    """Seconds from a map of so many points, and a browser's connection, until all of them have come to it.

    Raises:
        ViewerError: If other points were sent than the map has.
    """
    from spatia_env.viewer.clouds import TiledMap
    from spatia_env.viewer.server import open_server

    server, url = open_server(port=0)
    try:
        server.scene.set_up_direction("+z")
        tiles, sent = TiledMap(), 0
        memory = big_map(count)
        began = time.monotonic()
        tiles.show(memory)
        for tile, fine in tiles.due(np.zeros((0, 3))):
            drawing = tiles.draw(tile, fine, "colour", 0)
            name = "/cloud/" + "_".join(map(str, tile)).replace("-", "m")
            server.scene.add_point_cloud(
                name, drawing.position, drawing.colour, position=drawing.centre, point_size=0.01
            )
            sent += len(drawing.position) if fine else 0
        prepared = time.monotonic() - began
        with Browser() as browser:
            page = browser.page(url)
            page.wait_for(lambda: any(r.startswith("ws://") for r in browser.requests), "a connection")
            opened = time.monotonic()
            page.wait_for(lambda: browser.received >= 9 * sent, "all points")
            arrived = time.monotonic() - opened
        if sent != memory.num_points:
            raise ViewerError(f"{sent} of {memory.num_points} points were to be sent finely.")
        return prepared + arrived
    finally:
        server.stop()


def big_map(count: int) -> Any:
    """A map of `count` points: rooms' walls and floors in colour, a voxel apart."""
    from spatia_env.io.point_cloud import PointCloud
    from spatia_env.memory.editing import start_from
    from spatia_env.memory.point_map import SceneMemory

    side = int(np.ceil(np.sqrt(count)))
    column, row = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    x, y = (column.ravel()[:count] + 0.5) * 0.01, (row.ravel()[:count] + 0.5) * 0.01
    z = 0.005 + 0.01 * np.rint(40 + 30 * np.sin(x) * np.cos(1.3 * y))
    position = np.stack([x, y, z], axis=-1).astype(np.float32)
    colour = np.stack([60 + 20 * x, 60 + 20 * y, 40 + 200 * z], axis=-1).clip(0, 255).astype(np.uint8)
    ones = np.ones(count, np.float32)
    return start_from(SceneMemory(), PointCloud(position, colour, ones, ones * np.float32(0.01)))


def connections(config: ViewConfig, count: int, warm_up: int, walks: int) -> dict[str, float]:
    """By how much the playground's process grows over many connections, after a browser has walked in it.

    Args:
        config: What is opened.
        count: Connections that are counted.
        warm_up: Connections before memory is counted: allocators and caches fill first.
        walks: Clips that a browser walks before that.

    Returns:
        `growth_mb` and `handles`.
    """
    import psutil

    with running(config) as (process, url):
        if walks:
            walk_in_browser(url, walks)
        watched = psutil.Process(process.pid)
        for _ in range(warm_up):
            connect_once(url)
        handles = settled(watched.num_fds)
        memory = watched.memory_info().rss
        for _ in range(count):
            connect_once(url)
        left = settled(watched.num_fds)
        growth = (watched.memory_info().rss - memory) / 2**20
        return {"growth_mb": growth, "handles": float(left - handles)}


def walk_in_browser(url: str, count: int) -> None:
    """Open a playground in a browser, walk some clips by button, leave."""
    quiet = "Nothing is being generated."
    with Browser() as browser:
        page = browser.page(url)
        page.wait_for(lambda: page.tab.get_by_text(quiet).count(), "the panels")
        for _ in range(count):
            page.click("turn left")
            page.wait_for(lambda: not page.tab.get_by_text(quiet).count(), "a clip is generated")
            page.wait_for(lambda: page.tab.get_by_text(quiet).count(), "it is there")
        page.pause(1)


def settled(count: Callable[[], int], seconds: float = 3.0) -> int:
    """A count, once it has not changed for a while."""
    last, since = count(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.2)
        if count() != last:
            last, since = count(), time.monotonic()
    return last


def connect_once(url: str) -> None:
    """Connect as a page does, say where the camera is, take what comes first, and leave."""
    import msgspec
    import viser
    from websockets.sync.client import connect
    from websockets.typing import Origin, Subprotocol

    protocol = Subprotocol(f"viser-v{viser.__version__}")
    camera = {
        "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, 0.0, 1.0], "fov": 1.2,
        "near": 0.01, "far": 100.0, "image_height": 600, "image_width": 800, "look_at": [0.0, 1.0, 1.0],
        "up_direction": [0.0, 0.0, 1.0],
    }  # fmt: skip
    with connect(
        url.replace("http", "ws", 1),
        origin=Origin(url.rstrip("/")),
        subprotocols=[protocol],
        max_size=None,
        compression=None,
    ) as link:
        link.send(msgspec.msgpack.encode(camera))
        link.recv(timeout=30)
