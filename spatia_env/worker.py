"""The program of a worker process: some worlds, stepped as its parent says. `python -m spatia_env.worker FD`.

It never calls the model: it sends what each world asks of it, and is sent the clips. It ends when its parent
does.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spatia_env import wire
from spatia_env.durable import load_env, request_to_plain, save_env
from spatia_env.errors import SpatiaError
from spatia_env.models.clip_source import Pending
from spatia_env.vector.sync import StagedEnv

_PR_SET_PDEATHSIG = 1


class Worker:
    """The worlds of one process, and the calls its parent may make."""

    def __init__(self) -> None:
        self.envs: dict[int, StagedEnv] = {}
        self.pending: dict[int, Pending] = {}
        self.before: dict[int, tuple[Any, Any]] = {}
        self.folder: Path | None = None
        self.slots: dict[int, int] = {}

    def open(self, worlds: list[int], options: dict[str, Any], folder: str | None) -> None:
        """Make the environments of these worlds."""
        options = {key: tuple(v) if key == "size" else v for key, v in options.items()}
        self.envs = {world: StagedEnv(**options) for world in worlds}
        self.folder = None if folder is None else Path(folder)

    def reset(self, seeds: dict[str, Any], options: dict[str, Any] | None) -> dict[str, Any]:
        """Reset worlds by name; returns observation, info and snapshot of each."""
        out = {}
        for name, seed in seeds.items():
            observation, info = self.envs[int(name)].reset(seed=seed, options=options)
            out[name] = (observation, info, self._save(int(name)))
        return out

    def prepare(self, actions: dict[str, Any]) -> dict[str, Any]:
        """Look into memory; returns what each world asks of the model, None where it stands still."""
        pending = {int(name): self.envs[int(name)].prepare(action) for name, action in actions.items()}
        self.pending = pending
        requests = {}
        for world, step in pending.items():
            request = None
            if step.imagines:
                env = self.envs[world]
                request = (
                    request_to_plain(env.request(step))
                    if env.shares
                    else {"clip": env.unbatched(step).numpy()}
                )
            requests[str(world)] = request
        return requests

    def finish(self, clips: dict[str, np.ndarray | None]) -> dict[str, Any]:
        """Understand and remember; returns outcome and snapshot of each world."""
        out = {}
        self.before = {int(n): (self.envs[int(n)].snapshot(), self.envs[int(n)].task) for n in clips}
        for name, clip in clips.items():
            env = self.envs[int(name)]
            env.task = _copy(env.task)
            frames = None if clip is None else torch.from_numpy(clip)
            out[name] = (*env.finish(self.pending[int(name)], frames), self._save(int(name)))
        return out

    def rollback(self) -> None:
        """Undo the last `finish`."""
        for world, (state, task) in self.before.items():
            self.envs[world].restore(state)
            self.envs[world].task = task
            self.slots[world] = 1 - self.slots.get(world, 0)
        self.before = {}

    def load(self, saved: dict[str, Any]) -> None:
        """Take worlds up from their snapshots."""
        for name, snapshot in saved.items():
            load_env(self.envs[int(name)], snapshot)
            self.slots[int(name)] = int(Path(snapshot["path"]).stem[-1])

    def _save(self, world: int) -> dict[str, Any] | None:
        """A snapshot beside the last one, which stays until the parent has acknowledged this one."""
        if self.folder is None:
            return None
        slot = self.slots[world] = 1 - self.slots.get(world, 1)
        return save_env(self.envs[world], self.folder / f"world-{world}-{slot}.spatia")


def _copy(task: Any) -> Any:
    import copy

    return copy.copy(task)


def serve(connection: socket.socket) -> None:
    """Answer calls until the other end closes."""
    worker = Worker()
    while True:
        try:
            message = wire.receive(connection)
        except (EOFError, OSError):
            return
        try:
            answer: Any = {"value": getattr(worker, message.pop("call"))(**message)}
        except (SpatiaError, ValueError, RuntimeError, OSError) as error:
            answer = {"error": [type(error).__name__, str(error)]}
        wire.send(connection, answer)


def main() -> None:
    """Serve the socket whose number is the first argument; "main" beside it if the parent's main thread began us."""
    if "main" in sys.argv[2:]:  # Linux counts the end of the thread that began us as the parent's death
        with contextlib.suppress(OSError, AttributeError):  # elsewhere the closed socket ends us
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
