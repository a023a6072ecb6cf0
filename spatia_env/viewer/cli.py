"""`spatia view`: open a world in the browser."""

import gc
import os
import signal
import threading
import time
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from spatia_env.errors import ActionError, ViewerError

TOKEN_VARIABLE = "SPATIA_VIEW_TOKEN"
DEFAULT_SCENE = "10038"


@dataclass(frozen=True)
class ViewConfig:
    """Walk, speak, edit and fork a world in the browser.

    Without --scene, --image, --world or --case a furnished room is opened. The URL that is printed carries a random
    token, which a browser must have; the environment variable SPATIA_VIEW_TOKEN or --token-file gives another.
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
    """IP address to listen on"""
    token_file: Path | None = None
    """File with the token: 16 to 256 letters, digits, '-' and '_'"""
    allow_host: tuple[str, ...] = field(default=())
    """Further names by which browsers call this machine, such as studio.local"""
    budget: int = 2_000_000
    """Points that a browser is sent at most; far parts of larger worlds are coarser"""
    open_browser: bool = False
    """Open the URL in this machine's browser"""


def main(argv: list[str]) -> int:
    """Run `spatia view` until it is interrupted."""
    config = tyro.cli(ViewConfig, args=argv, prog="spatia view")
    began = time.monotonic()
    playground, url = open_playground(config)
    # What was imported stays: looking through all of it takes the garbage collector half a second each time.
    gc.collect()
    gc.freeze()
    try:
        print(url, flush=True)
        print(f"opened in {time.monotonic() - began:.1f} s; Ctrl+C ends it", flush=True)
        if config.open_browser:
            webbrowser.open(url)
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        ended.wait()
    finally:
        playground.close()
    return 0


def open_playground(config: ViewConfig) -> tuple[Any, str]:
    """The running playground and its URL.

    Raises:
        SpatiaError: As the options are bad, the port is taken, or viser is missing.
    """
    from spatia_env.viewer.server import open_server

    options, caption = opening(config)
    server, url = open_server(config.bind, config.port, read_token(config.token_file), config.allow_host)
    try:
        # After the port is known to be free: what follows takes seconds.
        from spatia_env.viewer.app import Playground
        from spatia_env.viewer.files import SavedWorlds
        from spatia_env.viewer.session import Session

        session = Session(make_env(config), SavedWorlds(config.worlds), config.read_only)
        try:
            session.open(options, caption, config.seed)
            return Playground(server, session, config.budget), url
        except BaseException:
            session.close()
            raise
    except BaseException:
        server.stop()
        raise


def read_token(path: Path | None) -> str | None:
    """The token in a file or in the environment; None when neither is given. A command line would show it to all.

    Raises:
        ViewerError: If the file cannot be read.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        with path.open(encoding="ascii") as file:
            return file.read(1000).strip()
    except (OSError, ValueError) as cause:
        raise ViewerError(f"--token-file {path}: cannot be read ({cause}).") from cause


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
        given = {"image": case.image, "intrinsics": case.intrinsics, "mask": case.mask}
        options = {"prompt": case.prompt(0)} | {
            key: value for key, value in given.items() if value is not None
        }
        return options | prompt, config.case.name
    name = config.scene or DEFAULT_SCENE
    return {"scene": int(name) if name.isdigit() else name, **prompt}, f"scene {name}"
