"""`spatia view`: open a world in the browser."""

import signal
import threading
import time
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from spatia_env.errors import ActionError
from spatia_env.viewer.gc import keep


@dataclass(frozen=True)
class ViewConfig:
    """Walk, speak, edit and fork a world in the browser.

    Without --scene, --image, --world or --case a furnished room is opened.
    """

    scene: str | None = None
    """Scene to open: a seed or a name"""
    image: Path | None = None
    """Photograph to open"""
    world: Path | None = None
    """World to open: a saved one (.spatia), a point cloud (.ply) or a COLMAP folder"""
    case: Path | None = None
    """Case folder to open: img.jpg, w2c.txt, intrinsics.txt, prompt.txt"""
    prompt: str | None = None
    """What the world is, in words"""
    seed: int = 0
    """Seed of the environment"""
    model: str | None = None
    """Checkpoint: a name or a folder; the packaged one by default"""
    size: tuple[int, int] | None = None
    """Height and width of the frames in pixels; those of --world by default, else the model's"""
    worlds: Path = Path("worlds")
    """Folder that worlds are saved in and opened from"""
    read_only: bool = False
    """Only look: nothing is generated, edited or saved"""
    port: int = 8080
    """Port; 0 takes a free one. A taken port is an error"""
    bind: str = "127.0.0.1"
    """IP address to listen on; any but loopback needs --token"""
    token: str | None = None
    """What the URL must carry, at least 16 characters"""
    allow_host: tuple[str, ...] = field(default=())
    """Further names by which browsers call this machine, such as studio.local"""
    budget: int = 2_000_000
    """Points that a browser is sent at most; far parts of larger worlds are coarser"""
    open_browser: bool = False
    """Open the URL in this machine's browser"""


DEFAULT_SCENE = "10038"


def main(argv: list[str]) -> int:
    """Run `spatia view` until it is interrupted."""
    config = tyro.cli(ViewConfig, args=argv, prog="spatia view")
    began = time.monotonic()
    playground, url = open_playground(config)
    keep()
    try:
        print(url, flush=True)
        print(f"opened in {time.monotonic() - began:.1f} s; Ctrl+C ends it", flush=True)
        if config.open_browser:
            webbrowser.open(url)
        _wait_for_the_end()
    finally:
        playground.close()
    return 0


def open_playground(config: ViewConfig) -> tuple[Any, str]:
    """The running playground and its URL.

    Raises:
        SpatiaError: As the options are bad, the port is taken, or viser is missing.
    """
    from spatia_env.viewer.saved_worlds import Library
    from spatia_env.viewer.server import open_server
    from spatia_env.viewer.session import Session

    options, caption = opening(config)
    server, url = open_server(config.bind, config.port, config.token, config.allow_host)
    try:
        # After the port is known to be free: what follows takes seconds.
        from spatia_env.viewer.app import Playground

        session = Session(make_env(config), Library(config.worlds), config.read_only)
        try:
            session.open(options, caption, config.seed)
            return Playground(server, session, config.budget), url
        except BaseException:
            session.close()
            raise
    except BaseException:
        server.stop()
        raise


def make_env(config: ViewConfig) -> Any:
    """The environment that a session walks in."""
    import gymnasium as gym

    given = {"model": config.model, "size": config.size or _size_of(config.world)}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    # A walk ends when its user says so.
    env = gym.make("spatia_env:SpatiaPath-v0", max_episode_steps=-1, debug=True, timings=True, **options)
    return env.unwrapped


def _size_of(path: Path | None) -> tuple[int, int] | None:
    """The size of a saved world's frames; None without one."""
    from spatia_env.world.reset import is_cloud
    from spatia_env.world.world import World

    return None if path is None or is_cloud(path) else World.load(path).state.size


def opening(config: ViewConfig) -> tuple[dict[str, Any], str]:
    """Reset options and a caption for what is to be opened.

    Raises:
        ActionError: If more than one thing is named.
        CaseError: If the case folder is incomplete.
    """
    named = [name for name in ("scene", "image", "world", "case") if getattr(config, name) is not None]
    if len(named) > 1:
        raise ActionError(f"--{' and --'.join(named)}: open one of them.")
    prompt = {} if config.prompt is None else {"prompt": config.prompt}
    if config.image is not None:
        return {"image": str(config.image), **prompt}, config.image.name
    if config.world is not None:
        return {"world": str(config.world), **prompt}, config.world.stem
    if config.case is not None:
        from spatia_env.release.case import read_case

        case = read_case(config.case)
        options = {
            "image": case.image,
            "prompt": case.prompt(0),
            "intrinsics": case.intrinsics,
            "mask": case.mask,
            **prompt,
        }
        return {key: value for key, value in options.items() if value is not None}, config.case.name
    name = config.scene or DEFAULT_SCENE
    return {"scene": int(name) if name.isdigit() else name, **prompt}, f"scene {name}"


def _wait_for_the_end() -> None:
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(0.5):
            pass
    finally:
        signal.signal(signal.SIGTERM, previous)
