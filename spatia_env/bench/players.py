"""How the rows play. This is the only module that knows the environment.

Rows with `env` options play through `gym.make("spatia_env:SpatiaPath-v0", ...)`, or the same class with one part
switched off, and are given the start picture (with or without its depth) and nothing else of the truth. The others
are in `floors`.
"""

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.floors import Clip, FrozenPlayer, MemoryRenderPlayer, OraclePlayer, Player
from spatia_env.bench.guard import check_no_truth
from spatia_env.bench.rows import ROWS, Row
from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError
from spatia_env.memory.rendering import Render
from spatia_env.models.clip_source import ClipRequest, Pending
from spatia_env.slam.depth_network import Geometry

ENV_ID = "spatia_env:SpatiaPath-v0"


class SwitchedEnv(SpatiaEnv):
    """The environment with a part switched off that has no option of its own.

    Args:
        show_render: Whether the model sees the map's render.
        filter: Whether what moves is kept out of the map.
        continues: Whether the model is told how surfaces go on beyond the render.
        voxel: Metres between points of the map; its blocks are the multiple of it nearest to their usual edge.
        options: Of `SpatiaEnv`.
    """

    def __init__(
        self, show_render: bool, filter: bool, continues: bool, voxel: float, **options: Any
    ) -> None:
        super().__init__(action="path", **options)
        self.show_render, self.filter, self.continues = show_render, filter, continues
        block = round(self.empty_memory.block / voxel) * voxel
        self.empty_memory = dataclasses.replace(self.empty_memory, voxel=voxel, block=block)

    def prepare(self, action: Any) -> Pending:
        """Decode an action and look into memory; see `SpatiaEnv.prepare`."""
        pending = super().prepare(action)
        return pending if self.continues else dataclasses.replace(pending, continued=None)

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
        switches = (row.show_render, row.filter, row.continues, row.voxel)
        whole = switches == (True, True, True, ROWS["default"].voxel)
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
            "memory+surfaces": lambda: MemoryRenderPlayer("surfaces"),
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
