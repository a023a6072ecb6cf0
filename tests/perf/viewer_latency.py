"""How fast the playground answers in Chromium, and what it leaves behind: `python -m tests.perf.viewer_latency`.

Chromium draws in software on the same machine, so the times are those of a laptop without a GPU that does both.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro

from spatia_env.errors import ViewerError
from spatia_env.viewer.cli import ViewConfig, open_playground
from tests.browser import VIEW, Browser, Page

TARGETS = {  # what each figure must not exceed, and its unit
    "first picture after `spatia view` is called": (15.0, "s"),
    "key press to preview in the browser": (150.0, "ms"),
    "letting go to the clip, beyond the step": (0.3, "s"),
    "200 connects: process growth": (32.0, "MB"),
    "200 connects: file handles": (0.0, "handles"),
    "requests to anywhere but the server": (0.0, "requests"),
}
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


def main(scene: str = "10038", size: tuple[int, int] = (128, 128), presses: int = 8) -> int:
    """Measure, and print a table in Markdown; 1 when a target is missed.

    Args:
        scene: Scene to open.
        size: Height and width of the frames in pixels.
        presses: Key presses.
    """
    with tempfile.TemporaryDirectory(prefix="spatia-") as folder:
        view = ViewConfig(scene=scene, port=0, size=size, worlds=Path(folder))
        first = first_picture(view)
        previews, extra, elsewhere = keys(view, presses)
        megabytes, handles = connections(view)
    print("| figure | value | target | met |\n|---|---|---|---|")
    missed = 0
    measured = ([first], previews, extra, [megabytes], [handles], [elsewhere])
    for (name, (limit, unit)), values in zip(TARGETS.items(), measured, strict=True):
        value = statistics.median(values)
        spread = f" [{min(values):.3g}, {max(values):.3g}]" if len(values) > 1 else ""
        missed += value > limit
        met = "yes" if value <= limit else "**no**"
        print(f"| {name} | {value:.3g} {unit}{spread} | <= {limit:g} {unit} | {met} |")
    return int(missed > 0)


@contextmanager
def running(config: ViewConfig) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`spatia view` in a process of its own, as a user has it, and its URL."""
    size = ["--size", *map(str, config.size)] if config.size else []
    words = ["view", "--scene", str(config.scene), "--port", "0", *size, "--worlds", str(config.worlds)]
    command = [sys.executable, "-m", "spatia_env.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if found := re.match(r"http://\S+", line):
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
            page.wait_for(lambda: any(p.std() > 5 for p in page.pictures()), "a picture that is not blank")
            return time.monotonic() - began


def keys(config: ViewConfig, presses: int) -> tuple[list[float], list[float], float]:
    """Milliseconds to another preview, seconds from letting go to the clip beyond the step, requests elsewhere."""
    previews, extra = [], []
    app, url = open_playground(config)
    try:
        with Browser() as browser:
            page = browser.page(url)
            page.wait_for(app.server.get_clients, "a client")
            view = page.wait_for(lambda: app.views[next(iter(app.server.get_clients()))], "its view")
            page.wait_for(lambda: app.scene.wait_until_sent(0.1), "the cloud")
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
                step = app.session.timeline[first].numbers["seconds"]
                previews.append(times["preview"] - times["pressed"])
                extra.append((times["clip"] - times["released"]) / 1000 - step)
            return previews, extra, float(len(browser.elsewhere(url)))
    finally:
        app.close()


def press(page: Page, key: str) -> dict[str, float]:
    """Hold a key until a preview has come, let go, wait for the clip: the page's times in milliseconds."""
    page.tab.locator(VIEW).hover()
    page.tab.keyboard.down(key)
    page.pause(0.2)  # the view then stands elsewhere than the walker, so a clip follows
    page.wait_for(lambda: page.tab.evaluate("'preview' in window.__times"), "a preview", 60)
    page.tab.keyboard.up(key)
    page.wait_for(lambda: page.tab.evaluate("'clip' in window.__times"), "the clip", 60)
    return dict(page.tab.evaluate("window.__times"))


def connections(config: ViewConfig) -> tuple[float, float]:
    """Megabytes and file handles by which a playground grows over 200 connections.

    Before they are counted a browser has walked two clips in it and 40 connections have filled caches.
    """
    import psutil

    with running(config) as (process, url):
        with Browser() as browser:
            page = browser.page(url)
            quiet = page.tab.get_by_text("Nothing is being generated.")
            page.wait_for(quiet.count, "the panels")
            for _ in range(2):
                page.click("turn left")
                page.wait_for(lambda: not quiet.count(), "a clip is generated")
                page.wait_for(quiet.count, "it is there")
        watched = psutil.Process(process.pid)
        for _ in range(40):
            connect_once(url)
        handles, memory = settled(watched.num_fds), watched.memory_info().rss
        for _ in range(200):
            connect_once(url)
        left = settled(watched.num_fds)
        return (watched.memory_info().rss - memory) / 2**20, float(left - handles)


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

    camera: dict[str, Any] = {
        "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, 0.0, 1.0], "fov": 1.2,
        "near": 0.01, "far": 100.0, "image_height": 600, "image_width": 800, "look_at": [0.0, 1.0, 1.0],
        "up_direction": [0.0, 0.0, 1.0],
    }  # fmt: skip
    address, token = url.split("/?token=")
    with connect(
        address.replace("http", "ws", 1),
        origin=address,
        additional_headers={"Cookie": f"spatia_{address.rsplit(':', 1)[1]}={token}"},
        subprotocols=[f"viser-v{viser.__version__}"],
        max_size=None,
        compression=None,
    ) as link:
        link.send(msgspec.msgpack.encode(camera))
        link.recv(timeout=30)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
