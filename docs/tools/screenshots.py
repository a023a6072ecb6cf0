"""The pictures of docs/playground.md: `python -m docs.tools.screenshots --out docs/images/playground`."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from spatia_env.viewer import paths
from spatia_env.viewer.cli import ViewConfig, open_playground
from tests.browser import Browser, Page


@dataclass(frozen=True)
class ScreenshotConfig:
    """Drive the playground through its functions and save what is on the screen."""

    out: Path = Path("docs/images/playground")
    """Folder to write to"""
    scene: str = "10038"
    """Scene to open"""
    model: str | None = None
    """Checkpoint: a name or a folder; the packaged one by default"""


def main(argv: list[str]) -> int:
    """Take the pictures."""
    config = tyro.cli(ScreenshotConfig, args=argv, prog="python -m docs.tools.screenshots")
    with tempfile.TemporaryDirectory(prefix="spatia-") as folder:
        options = ViewConfig(scene=config.scene, model=config.model, port=0, worlds=Path(folder))
        app, url = open_playground(options)
        try:
            with Browser() as browser:
                page = browser.page(url)
                page.wait_for(app.server.get_clients, "the client is connected")
                page.wait_for(lambda: app.scene.wait_until_sent(0.1), "the cloud has been sent")
                page.pause(2)
                page.close_notice()
                saved = Path(folder) / "walk.html"
                for take in (walk, layers, speak, see, branch, world, edit):
                    take(page, app)
                    page.shot(config.out / f"{take.__name__}.png")
                    if take is world:
                        saved.write_bytes(page.download("page (HTML)"))
                exported_page = browser.page(saved.as_uri())
                exported_page.pause(3)
                exported_page.click("From above")
                exported_page.pause(2)
                exported_page.shot(config.out / "page.png")
        finally:
            app.close()
    return 0


def walk(page: Page, app: Any) -> None:
    """After two moves."""
    _press(page, app, "forward")
    _press(page, app, "turn left")


def layers(page: Page, app: Any) -> None:
    """What of the clip was known, and what imagined."""
    page.choose("show", "known / imagined")
    _rest(page, app)


def speak(page: Page, app: Any) -> None:
    """Three events beside none."""
    page.choose("show", "clip")
    page.open_tab("Speak")
    page.write("events", "a blue box drops from above; night falls; a red alarm light comes on")
    page.tab.keyboard.press("Tab")
    page.click("Play side by side")
    page.wait_for(lambda: len(app.player.moments) == 4, "four clips")
    _rest(page, app)


def see(page: Page, app: Any) -> None:
    """From above, by age."""
    page.open_tab("See")
    page.choose("cloud by", "age")
    page.click("from above")
    _rest(page, app)


def branch(page: Page, app: Any) -> None:
    """Back to an early moment and on from there, compared."""
    page.open_tab("See")
    page.choose("cloud by", "colour")
    page.click("from the walker's eyes")
    page.open_tab("World")
    app.session.jump(1).wait(120)
    app.session.walk(paths.from_name("turn right", app.session.num_frames), "", "turn right").wait(120)
    page.wait_for(lambda: app.player.moments == (app.session.now,), "the fork")
    page.click("compare")
    _rest(page, app)


def world(page: Page, app: Any) -> None:
    """The world is saved under a name."""
    page.click("Save")
    page.wait_for(app.session.saved.names, "it is saved")
    _rest(page, app)


def edit(page: Page, app: Any) -> None:
    """A thing is picked."""
    app.session.jump(0).wait(120)
    _rest(page, app)
    page.open_tab("Edit")
    page.switch("A click picks a thing")
    page.pause(1)
    app.edit.tolerance.value = 0.12
    for across, down in ((0.43, 0.3), (0.42, 0.32), (0.06, 0.51), (0.67, 0.54)):
        before = app.edit.picked
        page.click_view(across, down)
        for _ in range(60):  # a busy machine takes its time; a click on nothing picks nothing at all
            page.pause(0.5)
            if app.edit.picked is not before:
                break
        picked = app.edit.picked
        if picked is not None and len(picked.position) > 40 and picked.size.max() < 1.3:
            break
    _rest(page, app)


def _press(page: Page, app: Any, name: str) -> None:
    count = len(app.session.timeline)
    page.click(name)
    page.wait_for(lambda: len(app.session.timeline) > count, f"the clip of {name}")
    _rest(page, app)


def _rest(page: Page, app: Any) -> None:
    page.wait_for(lambda: not app.session.queue.pending(), "nothing waits")
    page.wait_for(lambda: app.scene.wait_until_sent(0.1), "the cloud has been sent")
    page.pause(6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
