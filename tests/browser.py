"""Drives a browser: for tests, latency measurements and the pictures of the documentation.

Playwright with the system's Chromium, drawing in software. What a user would do is done by name: tabs, buttons,
keys; what the screen shows is read back as pixels.
"""

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.errors import DependencyError, ViewerError

FLAGS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)
VIEW = "canvas[data-engine]"
"""The view between the panels; another canvas lies over it and lets everything through."""
SHOWN_PICTURES = """() => [...document.querySelectorAll('img')]
  .filter(image => image.complete && image.naturalWidth).map(image => image.getBoundingClientRect())
  .map(box => [Math.max(0, box.left), Math.max(0, box.top),
               Math.min(innerWidth, box.right), Math.min(innerHeight, box.bottom)].map(Math.round))
  .filter(([left, top, right, bottom]) => right - left > 1 && bottom - top > 1)"""
"""Left, top, right and bottom of the pictures that are loaded and on the screen. Asking for an element's own
screenshot would wait until it holds still, which on a busy machine it does not."""
TIMEOUT = 300_000
"""Milliseconds for which the browser is waited for: it draws in software, perhaps beside a training run."""
CLICK_TIMEOUT = 60_000
"""Milliseconds within which the mouse presses a button; after that the button is told."""
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """The path of an installed Chromium.

    Raises:
        DependencyError: If there is none, or Playwright is missing.
    """
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError as cause:
        raise DependencyError('driving a browser needs playwright: pip install "spatia-env[dev]"') from cause
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    raise DependencyError("driving a browser needs Chromium; on Debian: apt-get install chromium")


class Browser:
    """Chromium with one or several pages; use it in a `with` block.

    Attributes:
        errors: What the pages' scripts raised or logged as errors.
        requests: URLs that the pages asked for, `data:` and `blob:` aside.
        received: Bytes that came through the pages' WebSockets.
    """

    def __init__(self, size: tuple[int, int] = (1440, 860)) -> None:
        self._size = size
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.received = 0

    def __enter__(self) -> "Browser":
        from playwright.sync_api import sync_playwright

        path = find_chromium()
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        return self

    def __exit__(self, *exc: object) -> None:
        self._chromium.close()
        self._playwright.stop()

    def page(self, url: str) -> "Page":
        """Open a URL in a page of its own."""
        width, height = self._size
        tab: Any = self._chromium.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", self._logged)
        tab.on("request", lambda request: self._asked(request.url))
        tab.on("websocket", self._listen)
        tab.set_default_timeout(TIMEOUT)
        tab.goto(url)
        return Page(tab)

    def elsewhere(self, url: str) -> list[str]:
        """Requests that went anywhere but to the server of a URL."""
        own = url.split("?", maxsplit=1)[0].rstrip("/")
        return [asked for asked in self.requests if not asked.startswith((own, own.replace("http", "ws", 1)))]

    def _logged(self, line: Any) -> None:
        if line.type == "error":
            self.errors.append(line.text)

    def _asked(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.requests.append(url)

    def _listen(self, socket: Any) -> None:
        self.requests.append(socket.url)
        socket.on("framereceived", self._count)

    def _count(self, payload: Any) -> None:
        self.received += len(payload)


class Page:
    """One page of the playground."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab

    def wait_for(self, condition: Callable[[], Any], what: str, timeout: float = 300.0) -> Any:
        """Let the page live until a condition holds; its value.

        Raises:
            ViewerError: If it does not come to hold in time.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            self.tab.wait_for_timeout(30)
        raise ViewerError(f"the page did not come to this within {timeout:g} s: {what}")

    def pause(self, seconds: float) -> None:
        """Let the page live for a while."""
        self.tab.wait_for_timeout(1000 * seconds)

    def open_tab(self, name: str) -> None:
        """Open a tab of the panel."""
        self.tab.get_by_role("tab", name=name, exact=True).click()
        self.pause(0.3)

    def click(self, name: str) -> None:
        """Press the button with exactly this name."""
        from playwright.sync_api import TimeoutError as TookTooLong

        button = self.tab.get_by_role("button", name=name, exact=True).first
        try:
            button.click(timeout=CLICK_TIMEOUT)
        except TookTooLong:
            # Chromium answers for the mouse when it draws its next picture, which on a starved machine may never come.
            button.dispatch_event("click")

    def write(self, label: str, words: str) -> None:
        """Write into a text field."""
        # viser's text fields are not tied to their labels
        row = f"//label[normalize-space(.)='{label}']/ancestor::div[contains(@class, 'Flex-root')][1]"
        self.tab.locator(f"xpath={row}//input").first.fill(words)

    def switch(self, label: str, on: bool = True) -> None:
        """Set a checkbox."""
        self.tab.get_by_label(label, exact=True).set_checked(on)

    def choose(self, label: str, option: str) -> None:
        """Choose from a list."""
        self.tab.get_by_label(label, exact=True).first.click()
        self.tab.get_by_role("option", name=option, exact=True).first.click()

    def hold(self, key: str, seconds: float) -> None:
        """Hold a key while the view has the focus."""
        self.tab.locator(VIEW).hover()
        self.tab.keyboard.down(key)
        self.pause(seconds)
        self.tab.keyboard.up(key)

    def click_view(self, across: float, down: float) -> None:
        """Click into the view, at shares of its visible width and height."""
        left, top, width, height = self.view_box()
        self.tab.mouse.click(left + across * width, top + down * height)

    def view_box(self) -> tuple[float, float, float, float]:
        """Left, top, width and height in pixels of the view between the panels."""
        box = self.tab.locator(VIEW).bounding_box()
        return (box["x"], box["y"], box["width"], box["height"])

    def view(self) -> np.ndarray:
        """The view u8 [H, W, 3] as it is on the screen."""
        left, top, width, height = self.view_box()
        clip = {"x": left, "y": top, "width": width, "height": height}
        return _pixels(self.tab.screenshot(clip=clip))

    def pictures(self) -> list[np.ndarray]:
        """The panel's pictures u8 [H, W, 3] as they are on the screen, from the top; those that are on it."""
        screen = _pixels(self.tab.screenshot())
        boxes = self.tab.evaluate(SHOWN_PICTURES)
        return [screen[top:bottom, left:right] for left, top, right, bottom in boxes]

    def element(self, selector: str) -> np.ndarray:
        """An element u8 [H, W, 3] as it is on the screen."""
        return _pixels(self.tab.locator(selector).screenshot())

    def shot(self, path: Path) -> None:
        """Save what is on the screen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.tab.screenshot(path=str(path))

    def download(self, name: str) -> bytes:
        """Press a button that downloads a file; its bytes."""
        with self.tab.expect_download(timeout=TIMEOUT) as expected:
            self.click(name)
        return Path(expected.value.path()).read_bytes()

    def is_pwned(self) -> bool:
        """Whether a script that a test smuggled in has run."""
        return bool(self.tab.evaluate("window.__pwned !== undefined"))

    def close_notice(self) -> None:
        """Close what viser says about drawing in software."""
        notice = self.tab.locator(".mantine-Notification-closeButton")
        if notice.count():
            notice.first.click()
            self.pause(0.3)


def _pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))
