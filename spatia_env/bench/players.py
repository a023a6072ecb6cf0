"""How the rows play. This is the only module that knows the environment.

Rows with `env` options play through `gym.make("spatia_env:SpatiaPath-v0", ...)`, or the same class with one part
switched off, and are given the start picture (with or without its depth) and nothing else of the truth. `oracle`,
`frozen-frame` and the rows of the memory alone need no model: ceiling and floors.
"""

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from spatia_env.batching import ClipRequest, Pending
from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.guard import check_no_truth
from spatia_env.bench.matching import inpaint
from spatia_env.bench.rows import ROWS, Row
from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError
from spatia_env.memory.rendering import Render
from spatia_env.memory.scene import SceneMemory
from spatia_env.slam.geometry import Geometry

ENV_ID = "spatia_env:SpatiaPath-v0"


@dataclass(frozen=True)
class Clip:
    """What a row showed in one step.

    Attributes:
        frames: u8 [8, H, W, 3].
        depth: z-depth f32 [8, H, W] in metres, 0 = none.
        known: bool [8, H, W], rendered from memory.
        seconds: Wall time of the step.
        info: The environment's `info`; empty for rows without one.
    """

    frames: np.ndarray
    depth: np.ndarray
    known: np.ndarray
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


class Player(Protocol):
    """A row at play: `start` opens an episode, `play` makes its next clip along poses c2w [8, 4, 4]."""

    def start(self, truth: Truth) -> None:
        """Open the episode's scene."""
        ...

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """The next clip along `path` (world poses), with an event in words."""
        ...


class OraclePlayer:
    """Shows the truth."""

    def start(self, truth: Truth) -> None:
        """Open the episode's scene."""
        self.truth, self.next = truth, 0

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """The true frames of the next clip."""
        span = self.truth.clip(self.next)
        if not np.allclose(self.truth.c2w[span], path, atol=1e-5):
            raise ActionError("oracle: it can only follow the episode's own path.")
        self.next += 1
        return Clip(self.truth.frames[span], self.truth.depth[span], self.truth.seen_before[span])


class FrozenPlayer:
    """Repeats the start picture."""

    def start(self, truth: Truth) -> None:
        """Open the episode's scene."""
        self.frame, self.depth = truth.frames[0], truth.depth[0]

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """The start picture, eight times."""
        count = len(path)
        frames, depth = np.repeat(self.frame[None], count, 0), np.repeat(self.depth[None], count, 0)
        return Clip(frames, depth, np.ones(depth.shape, bool))


class MemoryRenderPlayer:
    """Renders the points of the start picture, by the memory's own renderer.

    Args:
        fill: What fills the holes: "", "nearest" (known pixel of the same frame) or "inpaint" (colours by OpenCV,
            depth of the nearest known pixel).
    """

    def __init__(self, fill: str = "") -> None:
        self.fill = fill

    def start(self, truth: Truth) -> None:
        """Open the episode's scene."""
        self.K, self.size = torch.from_numpy(truth.K), truth.size
        rgb = torch.from_numpy(truth.frames[:1]).movedim(-1, 1).float() / 255
        depth, c2w = torch.from_numpy(truth.depth[:1]), torch.from_numpy(truth.c2w[:1])
        self.memory, _ = SceneMemory().update(rgb, depth, (depth > 0).float(), c2w, self.K, 0)

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """The map along the path, black where it has nothing unless that is to be filled."""
        view = self.memory.render(torch.from_numpy(path), self.K, *self.size)
        frames = (view.rgb.movedim(1, -1) * 255).round().clamp(0, 255).byte().numpy()
        depth, known = view.depth.numpy(), view.known.numpy()
        if self.fill:
            for index in range(len(frames)):
                rows, columns = nearest_known(known[index])
                nearest = frames[index, rows, columns]
                frames[index] = inpaint(frames[index], known[index]) if self.fill == "inpaint" else nearest
                depth[index] = depth[index, rows, columns]
        return Clip(frames, depth, known)


def nearest_known(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column [H, W] of the known pixel nearest to each pixel; its own where nothing is known [H, W]."""
    if not known.any():
        own = np.indices(known.shape)
        return own[0], own[1]
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return nearest[0], nearest[1]


class SwitchedEnv(SpatiaEnv):
    """The environment with a part switched off that has no option of its own.

    Args:
        show_render: Whether the model sees the map's render.
        filter: Whether what moves is kept out of the map.
        voxel: Metres between points of the map; its blocks are the multiple of it nearest to their usual edge.
        options: Of `SpatiaEnv`.
    """

    def __init__(self, show_render: bool, filter: bool, voxel: float, **options: Any) -> None:
        super().__init__(action="path", **options)
        self.show_render, self.filter = show_render, filter
        block = round(self.empty_memory.block / voxel) * voxel
        self.empty_memory = dataclasses.replace(self.empty_memory, voxel=voxel, block=block)

    def request(self, pending: Pending) -> ClipRequest:
        """What the model is asked for the clip of a prepared step."""
        view = pending.view
        if self.show_render or view is None:
            return super().request(pending)
        nothing = Render(*(torch.zeros_like(part) for part in (view.rgb, view.depth, view.known)))
        return super().request(dataclasses.replace(pending, view=nothing, continued=None))

    def _understand(self, frames: Tensor, path: Tensor, view: Render) -> Geometry:
        geometry = super()._understand(frames, path, view)
        return (
            geometry
            if self.filter
            else dataclasses.replace(geometry, dynamic=torch.zeros_like(geometry.dynamic))
        )


class EnvPlayer:
    """Plays through the environment.

    Args:
        row: Which switches.
        size: (height, width).
        model: Checkpoint name or folder, None for the default.
        debug: Ask for control images.
        timings: Ask for seconds per stage.
    """

    def __init__(
        self,
        row: Row,
        size: tuple[int, int],
        model: str | None = None,
        debug: bool = True,
        timings: bool = False,
    ) -> None:
        options = dict(row.env or {}) | ({} if model is None else {"model": model})
        options |= {"size": size, "debug": debug, "timings": timings}
        whole = row.show_render and row.filter and row.voxel == ROWS["default"].voxel
        switches = (row.show_render, row.filter, row.voxel)
        self.env: gym.Env = gym.make(ENV_ID, **options) if whole else SwitchedEnv(*switches, **options)
        self.depth = row.depth

    @property
    def unwrapped(self) -> Any:
        """The environment without Gymnasium's wrappers."""
        return self.env.unwrapped

    def start(self, truth: Truth) -> None:
        """Reset to the scene; the environment gets its seed, and learns of it what a user would."""
        self.open(truth.scene, truth.c2w[0])

    def open(self, scene: int, c2w: np.ndarray) -> None:
        """Reset to scene `scene`, whose start pose in the simulator is `c2w` [4, 4]."""
        observation, info = self.env.reset(seed=scene, options={"scene": scene, "depth": self.depth})
        check_no_truth(observation, info)
        self.last = np.asarray(c2w, np.float64)

    def play(self, path: np.ndarray, event: str = "") -> Clip:
        """One step of the environment."""
        action = self.action(path, event)
        begin = time.perf_counter()
        observation, _, _, _, info = self.env.step(action)
        seconds = time.perf_counter() - begin
        check_no_truth(observation, info)
        self.last = np.asarray(path[-1], np.float64)
        frames, depth, known = (np.asarray(observation[key]) for key in ("frames", "depth", "known"))
        return Clip(frames, depth, known > 0, seconds, info)

    def action(self, path: np.ndarray, event: str = "") -> dict[str, Any]:
        """The environment's action for world poses `path` [8, 4, 4]."""
        relative = np.linalg.inv(self.last) @ np.asarray(path, np.float64)
        # A rest is exact; rounding must not make it a tiny move.
        relative = np.where(np.abs(relative - np.eye(4)) < 1e-7, np.eye(4), relative)
        return {"path": relative.astype(np.float32), "event": event}

    def preview_seconds(self, path: np.ndarray) -> float:
        """Wall time of a preview along `path`."""
        action = self.action(path)
        begin = time.perf_counter()
        self.unwrapped.preview(action)
        return time.perf_counter() - begin

    @property
    def points(self) -> np.ndarray:
        """World points [N, 3] of the map."""
        return np.asarray(self.unwrapped.world.memory.points()["position"])


class Players:
    """Keeps one player a row, so that a checkpoint is loaded once; a context manager that closes them."""

    def __init__(self, size: tuple[int, int], model: str | None = None) -> None:
        self.size, self.model = size, model
        self._envs: dict[tuple[str, bool], EnvPlayer] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Players":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._envs.clear()

    def get(self, row: Row) -> Player:
        """The player of a row."""
        if row.env is not None:
            return self.env(row)
        makers: dict[str, Callable[[], Player]] = {
            "oracle": OraclePlayer,
            "frozen-frame": FrozenPlayer,
            "memory-render-only": MemoryRenderPlayer,
            "memory-filled": lambda: MemoryRenderPlayer("nearest"),
            "memory+inpaint": lambda: MemoryRenderPlayer("inpaint"),
        }
        return makers[row.name]()

    def env(self, row: Row, timed: bool = False) -> EnvPlayer:
        """The environment of a row; `timed` asks for seconds per stage and leaves the debug pictures out."""
        key = (row.name, timed)
        if key not in self._envs:
            player = EnvPlayer(row, self.size, self.model, debug=not timed, timings=timed)
            self._stack.callback(player.env.close)
            self._envs[key] = player
        return self._envs[key]

    @property
    def checkpoint_id(self) -> str:
        """Which weights are measured: name and hash."""
        return str(self.env(ROWS["default"]).unwrapped.checkpoint_id)

    @property
    def shape_frames(self) -> int:
        """Frames a step of the checkpoint; the episodes are cut for 8."""
        return int(self.env(ROWS["default"]).unwrapped.shape.num_frames)


def check_frames(players: Players) -> None:
    """Raise `ActionError` unless the checkpoint makes clips of the length that the episodes are cut for."""
    if players.shape_frames != FRAMES:
        raise ActionError(
            f"bench: episodes have clips of {FRAMES} frames, this checkpoint makes {players.shape_frames}."
        )
