"""`spatia bench viewer`: how fast the playground answers in a browser, and what it leaves behind.

The playground runs in a process of its own, as `spatia view` starts it; Chromium draws in software on the same
machine, so the times are those of a laptop without a GPU that does both. A million points are a map of that
size, sent to a browser that has just connected.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from spatia_env.bench.provenance import origin
from spatia_env.errors import ViewerError

MILLION = 1_000_000
CONNECTS = 200
WARM_UP = 40
"""Connections before memory is counted: allocators and caches fill first."""
PRESSES = 8


@dataclass(frozen=True)
class ViewerBenchConfig:
    """Measure the playground: first picture, key press, a million points, connections, requests to elsewhere."""

    out: Path = Path("out/bench/viewer")
    """Folder for results.json"""
    page: Path | None = None
    """Page whose table of the results is written anew, such as docs/playground.md"""
    scene: str = "10038"
    """Scene to open"""
    connects: int = CONNECTS
    """Connections that are opened and closed"""
    presses: int = PRESSES
    """Key presses"""
    size: tuple[int, int] = (128, 128)
    """Height and width of the frames in pixels"""

    @property
    def command(self) -> str:
        """What to type to get this again."""
        return (
            f"spatia bench viewer --out {self.out} --scene {self.scene} --size {self.size[0]} {self.size[1]}"
        )


def main(argv: list[str]) -> int:
    """Run `spatia bench viewer`."""
    config = tyro.cli(ViewerBenchConfig, args=argv, prog="spatia bench viewer")
    content = run_viewer_bench(config)
    for name, figure in content["figures"].items():
        print(f"{name:<28} {figure['value']:>10.3f}  reach {figure['reach']:<14} holds: {figure['holds']}")
    print(f"\n{config.out / 'results.json'}")
    if config.page is not None:
        write_table(config.page, config.out / "results.json")
    return 0


def run_viewer_bench(config: ViewerBenchConfig) -> dict[str, Any]:
    """Measure, write results.json and return its content.

    Raises:
        DependencyError: Chromium or Playwright is missing.
        ViewerError: The playground does not start.
    """
    from spatia_env.viewer.browser import find_chromium

    find_chromium()
    begun = os.getloadavg()[0]
    measured = {**first_picture(config), **answers(config), **connections(config), **million_points()}
    figures = {name: figure(config, measured[name], **reach) for name, reach in REACHES.items()}
    content = {
        "schema": "spatia-viewer/1",
        "run": {
            "command": config.command,
            **origin(),
            "load_before": round(begun, 2),
            "cores": os.cpu_count(),
        },
        "step_seconds": measured["step_seconds"],
        "figures": figures,
    }
    write_results(config.out, content)
    return content


def write_results(folder: Path, content: dict[str, Any]) -> None:
    """Write results.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


REACHES: dict[str, dict[str, Any]] = {
    "viewer_first_picture_s": {"title": "first picture after `spatia view` is called", "limit": 15.0, "unit": "s"},
    "viewer_key_to_preview_ms": {"title": "key press to preview in the browser", "limit": 150.0, "unit": "ms"},
    "viewer_key_to_clip_extra_s": {"title": "letting go to the clip, beyond the step", "limit": 0.3, "unit": "s"},
    "viewer_million_points_s": {"title": "a million points to the browser", "limit": 2.0, "unit": "s"},
    "viewer_connects_growth_mb": {"title": "200 connects: process growth", "limit": 32.0, "unit": "MB"},
    "viewer_connects_handles": {"title": "200 connects: file handles", "limit": 0.0, "unit": "handles"},
    "viewer_requests_elsewhere": {
        "title": "requests to anywhere but the server", "limit": 0.0, "unit": "requests",
    },
}  # fmt: skip
"""What each figure must not exceed. `key_to_clip_extra` is what a clip takes beyond the step itself."""


def figure(
    config: ViewerBenchConfig, values: list[float], title: str, limit: float, unit: str
) -> dict[str, Any]:
    """A figure of repeated measurements: the median, and the range of the values as its interval."""
    value = statistics.median(values)
    return {
        "title": title,
        "value": round(value, 4),
        "ci": [round(min(values), 4), round(max(values), 4)],
        "n": len(values),
        "unit": unit,
        "reach": f"<= {limit:g} {unit}".rstrip(),
        "holds": bool(value <= limit),
        "command": config.command,
    }


BLOCK = re.compile(r"(<!-- viewer: (\S+) -->\n).*?(<!-- /viewer -->)", re.DOTALL)
"""Where a page holds the table: its file, relative to the page, then what is written anew."""


def write_table(page: Path, results: Path) -> None:
    """Write the table of some results into a page, and where they are."""
    file = Path(os.path.relpath(results, page.parent)).as_posix()
    text = BLOCK.sub(f"<!-- viewer: {file} -->\n<!-- /viewer -->", page.read_text(encoding="utf-8"))
    page.write_text(with_table(text, page.parent), encoding="utf-8")


def with_table(text: str, folder: Path) -> str:
    """A page's text with the tables that its results say.

    Raises:
        ViewerError: It has no block for one, or its results cannot be read.
    """
    if not BLOCK.search(text):
        raise ViewerError("the page has no block `<!-- viewer: results.json -->` ... `<!-- /viewer -->`.")

    def block(match: re.Match[str]) -> str:
        path = folder / match[2]
        if not path.exists():
            words = "Not measured yet: `spatia bench viewer --page` with this page writes a table here."
            return f"{match[1]}\n{words}\n\n{match[3]}"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return match[1] + "\n" + "\n".join(table_lines(content)) + "\n\n" + match[3]
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ViewerError(f"{path}: are no results ({cause!r}).") from cause

    return BLOCK.sub(block, text)


def table_lines(content: dict[str, Any]) -> list[str]:
    """The figures of some results as a Markdown table, and what they were measured on."""
    run = content["run"]
    lines = [
        f"`{run['command']}` on {run['cores']} CPU cores that also draw the browser's pictures, {run['date']}; "
        f"{run['load_before']:g} other processes wanted a core when it began. A step took "
        f"{content['step_seconds']:.2f} s. In brackets: the least and the most of several presses.",
        "",
        "| figure | value | reach | holds |",
        "|---|---|---|---|",
    ]
    for figure in content["figures"].values():
        low, high = figure["ci"]
        spread = f" [{low:.3g}, {high:.3g}]" if figure["n"] > 1 else ""
        value = f"{figure['value']:.3g} {figure['unit']}{spread}"
        holds = "yes" if figure["holds"] else "**no**"
        lines.append(f"| {figure['title']} | {value} | {figure['reach']} | {holds} |")
    return lines


@contextmanager
def running(config: ViewerBenchConfig) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`spatia view` in a process of its own, and its URL."""
    words = ["view", "--scene", config.scene, "--port", "0", "--size", *map(str, config.size)]
    command = [sys.executable, "-m", "spatia_env.cli", *words, "--worlds", str(config.out / "worlds")]
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


def first_picture(config: ViewerBenchConfig) -> dict[str, Any]:
    """Seconds from calling `spatia view` until a browser shows the first picture of the world."""
    from spatia_env.viewer.browser import Browser

    with Browser() as browser:  # opened before: a user's browser runs already
        began = time.monotonic()
        with running(config) as (_, url):
            page = browser.page(url)
            page.wait_for(lambda: page.tab.locator("img").count(), "the first picture")
            page.wait_for(lambda: any(p.std() > 5 for p in page.pictures()), "a picture that is not blank")
            seconds = time.monotonic() - began
    return {"viewer_first_picture_s": [seconds]}


def answers(config: ViewerBenchConfig) -> dict[str, Any]:
    """Milliseconds from a key press to another preview, seconds from letting go to the clip, beyond the step."""
    from spatia_env.viewer.browser import Browser

    previews, extra, steps = [], [], []
    with _in_process(config) as (app, url), Browser() as browser:
        page = browser.page(url)
        page.wait_for(app.server.get_clients, "a client")
        view = page.wait_for(lambda: app.views[next(iter(app.server.get_clients()))], "its view")
        page.wait_for(lambda: app.stage.settle(0.1), "the cloud")
        page.close_notice()
        page.wait_for(lambda: not view.placed, "its camera is where it was put")
        page.tab.evaluate(WATCH)
        for index in range(config.presses):
            count = len(app.session.timeline)
            page.wait_for(lambda: not view.placed and not app.session.queue.pending(), "rest")
            key = "KeyW" if index % 2 == 0 else "KeyS"
            previews.append(_press(page, key))
            released = time.monotonic()
            _wait_for_more(page, app, count)
            page.wait_for(lambda: not app.session.queue.pending(), "all of it")
            done = time.monotonic() - released
            clips = list(app.session.timeline)[count:]
            taken = sum(moment.numbers["seconds"] for moment in clips)
            steps += [moment.numbers["seconds"] for moment in clips]
            extra.append(done - taken)
        elsewhere = len(browser.elsewhere(url))
    return {
        "viewer_key_to_preview_ms": previews,
        "viewer_key_to_clip_extra_s": extra,
        "viewer_requests_elsewhere": [float(elsewhere)],
        "step_seconds": round(statistics.median(steps), 3),
    }


WATCH = """() => {
  window.__changed = 0;
  const images = () => [...document.querySelectorAll('img')];
  const seen = new MutationObserver(list => { for (const m of list) {
    if (m.target.tagName === 'IMG' && images().indexOf(m.target) >= 1) window.__changed = performance.now(); } });
  seen.observe(document.body, {subtree: true, attributes: true, attributeFilter: ['src']});
  window.addEventListener('keydown', () => { window.__pressed = performance.now(); window.__changed = 0; }, true);
}"""
"""Notes, on the page's own clock, when a key went down and when a picture below the player's changed after it."""


def _wait_for_more(page: Any, app: Any, count: int) -> None:
    page.wait_for(lambda: len(app.session.timeline) > count, "the clip")


def _press(page: Any, key: str) -> float:
    from spatia_env.viewer.browser import VIEW

    page.tab.locator(VIEW).hover()
    page.tab.keyboard.down(key)
    page.wait_for(lambda: page.tab.evaluate("window.__changed > 0"), "a preview")
    page.tab.keyboard.up(key)
    return float(page.tab.evaluate("window.__changed - window.__pressed"))


@contextmanager
def _in_process(config: ViewerBenchConfig) -> Iterator[tuple[Any, str]]:
    from spatia_env.viewer.cli import ViewConfig, open_playground

    app, url = open_playground(
        ViewConfig(scene=config.scene, port=0, size=config.size, worlds=config.out / "worlds")
    )
    try:
        yield app, url
    finally:
        app.close()


def million_points(count: int = MILLION) -> dict[str, Any]:
    """Seconds from a browser's connection until all of a map of a million points has come to it."""
    from spatia_env.viewer.browser import Browser
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
        return {"viewer_million_points_s": [prepared + arrived]}
    finally:
        server.stop()


def big_map(count: int) -> Any:
    """A map of `count` points: rooms' walls and floors in colour, a voxel apart."""
    from spatia_env.memory.cloud import PointCloud
    from spatia_env.memory.editing import start_from
    from spatia_env.memory.scene import SceneMemory

    side = int(np.ceil(np.sqrt(count)))
    column, row = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    x, y = (column.ravel()[:count] + 0.5) * 0.01, (row.ravel()[:count] + 0.5) * 0.01
    z = 0.005 + 0.01 * np.rint(40 + 30 * np.sin(x) * np.cos(1.3 * y))
    position = np.stack([x, y, z], axis=-1).astype(np.float32)
    colour = np.stack([60 + 20 * x, 60 + 20 * y, 40 + 200 * z], axis=-1).clip(0, 255).astype(np.uint8)
    ones = np.ones(count, np.float32)
    return start_from(SceneMemory(), PointCloud(position, colour, ones, ones * np.float32(0.01)))


def connections(config: ViewerBenchConfig) -> dict[str, Any]:
    """Megabytes and file handles by which the playground's process grows over many connections."""
    import psutil

    with running(config) as (process, url):
        watched = psutil.Process(process.pid)
        for _ in range(WARM_UP):
            connect_once(url)
        handles = settled(watched.num_fds)
        memory = watched.memory_info().rss
        for _ in range(config.connects):
            connect_once(url)
        left = settled(watched.num_fds)
        growth = (watched.memory_info().rss - memory) / 2**20
        return {
            "viewer_connects_growth_mb": [growth],
            "viewer_connects_handles": [float(left - handles)],
        }


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
