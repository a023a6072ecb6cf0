"""`SpatiaAsyncVectorEnv`: worlds in worker processes, the model in this one, called once a step for all.

Workers look into memory, understand and remember at the same time; what they ask of the model comes here and is
answered in one batch. A worker that dies or does not answer in time raises `WorkerError` with its number: no
world has moved then. `restore_worker(index)` starts it again with its worlds as they were; `restart=True` does so
by itself and goes on.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

from spatia_env import errors, wire
from spatia_env.durable import request_from_plain
from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError, WorkerError
from spatia_env.models.clip_source import generate_clips
from spatia_env.vector.base import Outcome, WorldsVectorEnv
from spatia_env.vector.sync import _checked, _limited, base_action, view_env
from spatia_env.world.reset import check_reset_options

START_SECONDS = 300.0
"""A worker has so long to load its networks and make its worlds, beyond the timeout of a step."""


class WorkerProcess:
    """One worker: its process, its socket and its worlds.

    Args:
        index: Its number.
        worlds: The worlds it steps.
        options: Of their environments.
        folder: Where it keeps snapshots; None for none.
    """

    def __init__(self, index: int, worlds: list[int], options: dict[str, Any], folder: Path | None) -> None:
        self.index, self.worlds, self.folder = index, worlds, folder
        self._options = options
        self.start()

    def start(self) -> None:
        """Begin a process and ask it to make its worlds; `receive` then answers for that."""
        here, there = socket.socketpair()
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        thread = "main" if threading.current_thread() is threading.main_thread() else "other"
        # A program of its own, neither forked nor pickled: torch's threads and the caller's main module stay out.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spatia_env.worker", str(there.fileno()), thread],
            pass_fds=[there.fileno()],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        there.close()
        self.connection = here
        folder = None if self.folder is None else str(self.folder)
        self.send({"call": "open", "worlds": self.worlds, "options": self._options, "folder": folder})

    def send(self, message: dict[str, Any], seconds: float = START_SECONDS) -> None:
        """Ask for something.

        Raises:
            WorkerError: It is gone, or does not listen.
        """
        try:
            wire.send(self.connection, message, seconds)
        except TimeoutError as cause:
            raise self._gone("did not listen in time") from cause
        except OSError as cause:
            raise self._gone("died") from cause

    def receive(self, deadline: float) -> Any:
        """Its answer.

        Raises:
            WorkerError: It died, or did not answer by the deadline (`time.monotonic()`).
            SpatiaError: What it raised itself.
        """
        try:
            answer = wire.receive(self.connection, deadline)
        except TimeoutError as cause:
            raise self._gone("did not answer in time") from cause
        except (EOFError, OSError) as cause:
            raise self._gone("died") from cause
        if "error" in answer:
            name, text = answer["error"]
            kind = getattr(errors, name, None)
            raise kind(text) if kind is not None else RuntimeError(f"worker {self.index}: {name}: {text}")
        return answer["value"]

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def _gone(self, how: str) -> WorkerError:
        self.stop()
        return WorkerError(
            f"worker {self.index} (worlds {self.worlds}) {how}; no world has moved. Call "
            f"restore_worker({self.index}) to go on from its last snapshot, or close().",
            self.index,
        )


class RemoteWorld(gym.Env):
    """Stands for a world in a worker: hands out the outcome that was staged for its next call."""

    def __init__(self, template: SpatiaEnv) -> None:
        self.observation_space, self.action_space = template.observation_space, template.action_space
        self.metadata, self.render_mode = dict(template.metadata), None
        self.staged: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """What the worker's reset returned."""
        return self.staged

    def step(self, action: Any) -> Any:
        """What the worker's step returned."""
        return self.staged


class SpatiaAsyncVectorEnv(WorldsVectorEnv):
    """N worlds in K worker processes around one model.

    Args:
        num_envs: N.
        workers: K, at most N.
        view, max_episode_steps, autoreset_mode, num_events: As for `SpatiaVectorEnv`.
        timeout: Seconds a worker has for its part of a step.
        restart: Start workers that failed again and repeat their part, instead of raising `WorkerError`.
        snapshots: Keep each world's last state on disk, so that workers can be restored.
        start_method: Only "spawn": forking after torch has started threads hangs.
        **options: What `SpatiaEnv` takes, as plain values.

    Raises:
        ActionError: Bad arguments. WorkerError: A worker could not start.
    """

    def __init__(
        self,
        num_envs: int = 1,
        workers: int = 1,
        view: str = "",
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        num_events: int | None = None,
        timeout: float = 120.0,
        restart: bool = False,
        snapshots: bool = True,
        start_method: str = "spawn",
        **options: Any,
    ) -> None:
        mode = _checked(num_envs, autoreset_mode)
        if start_method != "spawn":
            raise ActionError(
                f"start_method={start_method!r}: workers are programs of their own; a fork would inherit torch's "
                "locks without its threads, and hang. Leave it out, or use 'spawn'."
            )
        if not (isinstance(workers, int) and 1 <= workers <= num_envs) or timeout <= 0:
            raise ActionError(
                f"workers={workers!r}, timeout={timeout!r}: use 1 to {num_envs} workers, and seconds."
            )
        template = SpatiaEnv(**options)
        self.pipeline = template.pipeline
        self.proxies = [RemoteWorld(template) for _ in range(num_envs)]
        self.envs = [_limited(view_env(proxy, view, num_events), max_episode_steps) for proxy in self.proxies]
        first = self.envs[0]
        super().__init__(num_envs, first.observation_space, first.action_space, first.metadata, mode)
        self.timeout, self.restart = timeout, restart
        self._folder = Path(tempfile.mkdtemp(prefix="spatia-workers-")) if snapshots else None
        self._saved: dict[int, Any] = {}
        self.workers: list[WorkerProcess] = []
        try:
            for index in range(workers):
                worlds = list(range(index, num_envs, workers))
                self.workers.append(WorkerProcess(index, worlds, options, self._folder))
            self._collect(self.workers, START_SECONDS)
        except (errors.SpatiaError, RuntimeError, OSError):
            self.close()
            raise

    def restore_worker(self, index: int) -> None:
        """Start a worker again, its worlds as they were after the last step that was returned.

        Raises:
            WorkerError: It cannot start, or there are no snapshots.
        """
        worker = self.workers[index]
        worker.stop()
        worker.start()
        self._collect([worker], START_SECONDS)
        saved = {str(world): self._saved.get(world) for world in worker.worlds}
        if any(snapshot is None for snapshot in saved.values()):
            if self._saved:
                raise WorkerError(
                    f"worker {index}: no snapshots are kept; make the env with snapshots=True.", index
                )
            return
        worker.send({"call": "load", "saved": saved})
        self._collect([worker], START_SECONDS)

    def _reset_worlds(
        self, seeds: dict[int, int | None], options: dict[str, Any] | None
    ) -> dict[int, tuple[Any, dict[str, Any]]]:
        check_reset_options(options)
        try:
            answers = self._ask("reset", seeds, "seeds", options=options)
        except WorkerError as error:
            self._take_back(seeds, error.index)
            raise
        out = {}
        for world in seeds:
            *self.proxies[world].staged, self._saved[world] = answers[world]
            self.proxies[world].staged = tuple(self.proxies[world].staged)
            out[world] = self.envs[world].reset()
        return out

    def _step_worlds(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        plain = {world: _plain(base_action(self.envs[world], action)) for world, action in actions.items()}
        asked = self._ask("prepare", plain, "actions")
        clips: dict[int, Any] = {w: None if r is None else r.get("clip") for w, r in asked.items()}
        requests = {w: request_from_plain(r) for w, r in asked.items() if r is not None and "clip" not in r}
        made = generate_clips(self.pipeline, list(requests.values()))
        clips |= {world: clip.numpy() for world, clip in zip(requests, made, strict=True)}
        answers = self._finish(plain, clips)
        outcomes: dict[int, Any] = {}
        for world, action in actions.items():
            *outcome, self._saved[world] = answers[world]
            self.proxies[world].staged = tuple(outcome)
            observation, reward, *rest = self.envs[world].step(action)
            outcomes[world] = (observation, float(reward), *rest)
        return outcomes

    def _finish(self, actions: dict[int, Any], clips: dict[int, Any]) -> dict[int, Any]:
        """Let all worlds finish; where a worker fails, none has moved, or it repeats its part."""
        answers, failed = self._try("finish", clips, "clips")
        for error in failed:
            if not self.restart or error.index is None:
                healthy = [w for w in self.workers if w.index not in {e.index for e in failed}]
                for worker in healthy:
                    worker.send({"call": "rollback"}, self.timeout)
                self._collect(healthy, self.timeout)
                raise error
            self.restore_worker(error.index)
            mine = {world: clips[world] for world in self.workers[error.index].worlds if world in clips}
            # The same state, action and clip: the same outcome.
            self._ask("prepare", {world: actions[world] for world in mine}, "actions")
            answers |= self._ask("finish", mine, "clips")
        return answers

    def _take_back(self, seeds: dict[int, int | None], lost: int | None) -> None:
        """Where worlds were reset beside one that was not: all as they were, if they ever were opened."""
        for worker in self.workers:
            saved = {str(world): self._saved.get(world) for world in worker.worlds if world in seeds}
            if worker.index != lost and worker.process.poll() is None and saved and all(saved.values()):
                worker.send({"call": "load", "saved": saved}, self.timeout)
                self._collect([worker], self.timeout)

    def _ask(self, call: str, values: dict[int, Any], name: str, **more: Any) -> dict[int, Any]:
        answers, failed = self._try(call, values, name, **more)
        for error in failed:
            if not self.restart or error.index is None:
                raise error
            self.restore_worker(error.index)
            mine = {w: values[w] for w in self.workers[error.index].worlds if w in values}
            again, still = self._try(call, mine, name, **more)
            if still:
                raise still[0]
            answers |= again
        return answers

    def _try(
        self, call: str, values: dict[int, Any], name: str, **more: Any
    ) -> tuple[dict[int, Any], list[WorkerError]]:
        """Ask every worker for its worlds; the answers by world, and the workers that failed."""
        try:
            return self._exchange(call, values, name, **more)
        except KeyboardInterrupt:
            # What they would still answer must not be taken for another call's; snapshots hold the last step.
            for worker in self.workers:
                worker.stop()
            raise

    def _exchange(
        self, call: str, values: dict[int, Any], name: str, **more: Any
    ) -> tuple[dict[int, Any], list[WorkerError]]:
        asked, failed = [], []
        refused: errors.SpatiaError | RuntimeError | None = None
        for worker in self.workers:
            mine = {str(world): values[world] for world in worker.worlds if world in values}
            if mine:
                try:
                    worker.send({"call": call, name: mine, **more}, self.timeout)
                    asked.append(worker)
                except WorkerError as error:
                    failed.append(error)
        deadline = time.monotonic() + self.timeout
        answers: dict[int, Any] = {}
        for worker in asked:
            try:
                got = worker.receive(deadline)
                answers |= {int(world): value for world, value in got.items()}
            except WorkerError as error:
                failed.append(error)
            except (errors.SpatiaError, RuntimeError) as error:
                refused = error  # read the others' answers first, or they would be taken for the next call's
        if refused is not None:
            raise refused
        return answers, failed

    def _collect(self, workers: list[WorkerProcess], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for worker in workers:
            worker.receive(deadline)

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers and remove their snapshots."""
        for worker in getattr(self, "workers", []):
            worker.stop()
        if self._folder is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._folder)


def _plain(action: Any) -> Any:
    """An action as `wire` sends it; what is none is left for the world to refuse."""
    if isinstance(action, dict):
        return {str(key): _plain(value) for key, value in action.items()}
    if isinstance(action, torch.Tensor):
        return action.numpy()
    return action
