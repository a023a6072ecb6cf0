"""Many machines, on Ray: a served pipeline that batches, workers that step worlds, worlds in a shared store.

```python
from spatia_env.vector.ray import RayVectorEnv

env = RayVectorEnv(8, workers=4, store="/shared/worlds", view="rl", task="explore")
```

Only what conditions a clip travels to the model; a world stays with its worker and, step by step, in the store. A
worker may die at any moment: another takes its worlds up from the store, and a step that was committed is not
made again. Ray is for networks that you trust. Needs `pip install 'spatia-env[ray]'`.
"""

import contextlib
import copy
import dataclasses
import hashlib
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from spatia_env.actions import decode_action
from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError, DependencyError, WorkerError
from spatia_env.models.clip_source import ClipRequest, ModelClips
from spatia_env.vector.base import Outcome, Reset, WorldsVectorEnv
from spatia_env.vector.ray_store import Head, StaleEpochError, WorldStore, pack, unpack
from spatia_env.world.world import World

MAX_RETRIES = 20
"""A step is tried on so many workers, one after the other."""

Arrays = dict[str, Any]


def import_ray() -> Any:
    """The module, or an error that says how to install it.

    Raises:
        DependencyError: Ray is missing.
    """
    try:
        import ray
        import ray.serve
    except ImportError as cause:
        raise DependencyError("scale-out needs Ray: pip install 'spatia-env[ray]'.") from cause
    return ray


def save_env(env: SpatiaEnv) -> bytes:
    """The world as `World.save` writes it, and what no world has: the task's fields, the scene, the random state."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.spatia"
        env.world.save(path)
        world = np.frombuffer(path.read_bytes(), np.uint8)
    task: Any = env.task
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    random = env.np_random.bit_generator.state
    return pack({"world": world, "scene": env.scene, "task": fields, "np_random": random})


def load_env(env: SpatiaEnv, state: bytes) -> None:
    """Go on where `save_env` was called: the same actions then give the same observations and rewards.

    Raises:
        WorldFormatError, WorldCorruptError, WorldIOError: As the world is bad.
    """
    saved = unpack(state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.spatia"
        path.write_bytes(saved["world"].tobytes())
        env.restore(World.load(path).state, saved["scene"])
    env.np_random.bit_generator.state = saved["np_random"]
    env.task = copy.copy(env.task)
    for name, value in saved["task"].items():
        setattr(env.task, name, tuple(value) if isinstance(value, list) else value)


class EnvWorker:
    """Steps worlds of a store; any worker can step any of them.

    Args:
        store: Folder of the `WorldStore`.
        options: What `SpatiaEnv` takes.
        generate: From the arrays of a `ClipRequest` to a clip u8 [T, H, W, 3]; None calls the model here.
    """

    def __init__(
        self, store: str, options: dict[str, Any], generate: Callable[[Arrays], np.ndarray] | None = None
    ) -> None:
        torch.set_num_threads(1)
        self.store = WorldStore(store)
        self._options, self._generate = options, generate
        self._envs: dict[str, tuple[int, SpatiaEnv]] = {}

    def reset(
        self, world: str, token: str, seed: int | None, options: dict[str, Any] | None
    ) -> tuple[int, bytes]:
        """Reset a world; its epoch, and observation and info, packed. Without a seed its random numbers go on."""
        return self._once(world, token, None, lambda env: env.reset(seed=seed, options=options))

    def step(self, world: str, token: str, epoch: int, action: Any) -> tuple[int, bytes]:
        """Step a world from an epoch; its new epoch, and what `SpatiaEnv.step` returns, packed.

        Raises:
            StaleEpochError: The world has left this epoch by another call.
            SpatiaError: As `SpatiaEnv.step` raises.
        """
        return self._once(world, token, epoch, lambda env: self._step(env, action))

    def _once(
        self, world: str, token: str, epoch: int | None, call: Callable[[SpatiaEnv], Any]
    ) -> tuple[int, bytes]:
        """Commit a call, or hand out what it returned if it is committed already: its answer was lost."""
        head = self.store.head(world)
        if head.token != token and epoch in (None, head.epoch):
            env = self._at(world, head)
            outcome = pack(call(env))
            new = Head(head.epoch + 1, token, save_env(env), outcome)
            if self.store.commit(world, new):
                self._envs[world] = (new.epoch, env)
                return new.epoch, outcome
            head = self.store.head(world)
        if head.token != token:
            raise StaleEpochError(
                f"world {world!r} is at epoch {head.epoch}; a call from {epoch} comes too late."
            )
        return head.epoch, head.outcome

    def _at(self, world: str, head: Head) -> SpatiaEnv:
        """The environment of a world as it was committed: the one at hand, or the store's."""
        at, env = self._envs.pop(world, (0, None))
        env = SpatiaEnv(**self._options) if env is None else env
        if at != head.epoch:
            load_env(env, head.state)
        return env

    def _step(self, env: SpatiaEnv, action: Any) -> Outcome:
        if self._generate is None or not isinstance(env.clip_source, ModelClips):
            return env.step(action)
        prepared = env.prepare(action)
        if prepared.request is None:
            return env.commit(prepared)
        clip = self._generate(_request_arrays(prepared.request))
        return env.commit(prepared, torch.from_numpy(np.array(clip)))


def serve_pipeline(model: str, max_batch: int = 16, wait_seconds: float = 0.02, name: str = "spatia") -> Any:
    """Serve a checkpoint's pipeline on Ray: requests that arrive together share a model call.

    Returns:
        A handle whose `generate.remote(arrays of a ClipRequest)` gives a clip u8 [T, H, W, 3].
    """
    ray = import_ray()

    @ray.serve.deployment(num_replicas=1, max_ongoing_requests=4 * max_batch)
    class Pipeline:
        """Holds the model."""

        def __init__(self, model: str) -> None:
            from spatia_env.models.loading import load_checkpoint

            self.clips = ModelClips(load_checkpoint(model).generator)

        @ray.serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=wait_seconds)
        async def generate(self, requests: list[Arrays]) -> list[np.ndarray]:
            """One clip a request."""
            return [clip.numpy() for clip in self.clips.generate(list(map(_request, requests)))]

    deployment: Any = Pipeline
    ray.serve.start(proxy_location="Disabled")  # actors call it by its handle; nothing listens for HTTP
    return ray.serve.run(deployment.bind(model), name=name, route_prefix=None)


class RayVectorEnv(WorldsVectorEnv):
    """N worlds stepped by K Ray actors around one served pipeline.

    Args:
        num_envs: N.
        workers: K.
        store: Folder that all machines see; None makes one on this machine and removes it.
        view, max_episode_steps, autoreset_mode, num_events: See `autoreset.WorldsVectorEnv`.
        timeout: Seconds for a worker's part of a step; one that takes longer is replaced.
        serve: Share one served pipeline; False lets every worker call the model itself.
        **options: What `SpatiaEnv` takes, as plain values.

    Raises:
        DependencyError: Ray is missing. ActionError: Bad arguments.
    """

    def __init__(
        self,
        num_envs: int = 1,
        workers: int = 1,
        store: str | Path | None = None,
        view: str = "",
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        num_events: int | None = None,
        timeout: float = 300.0,
        serve: bool = True,
        **options: Any,
    ) -> None:
        self.ray = import_ray()
        self.template = SpatiaEnv(**options)
        super().__init__(self.template, num_envs, view, max_episode_steps, autoreset_mode, num_events)
        if not (isinstance(workers, int) and 1 <= workers <= num_envs) or timeout <= 0:
            raise ActionError(
                f"workers={workers!r}, timeout={timeout!r}: use 1 to {num_envs} workers, and seconds."
            )
        if not self.ray.is_initialized():
            self.ray.init(include_dashboard=False, log_to_driver=False)
        self._run, self.timeout = uuid.uuid4().hex[:8], timeout
        generate: Callable[[Arrays], np.ndarray] | None = None
        with contextlib.ExitStack() as opened:
            if store is None:
                store = opened.enter_context(tempfile.TemporaryDirectory(prefix="spatia-worlds-"))
            if serve:
                handle = serve_pipeline(str(options.get("model", "spatia-tiny")), name=f"spatia-{self._run}")
                opened.callback(self.ray.serve.delete, f"spatia-{self._run}")

                def generate(request: Arrays) -> np.ndarray:
                    return handle.generate.remote(request).result()

            self._opened = opened.pop_all()
        self._arguments = str(store), options, generate
        self.epochs = [0] * num_envs
        self.replaced = 0
        self.workers = [self._start() for _ in range(workers)]

    def reset_worlds(self, seeds: dict[int, int | None], options: dict[str, Any] | None) -> dict[int, Reset]:
        """Reset worlds, all at once."""
        return self._call(
            {world: ("reset", uuid.uuid4().hex, seed, options) for world, seed in seeds.items()}
        )

    def step_worlds(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        """Step worlds, all at once. A step that failed in part is finished by calling again with the same actions."""
        calls = {}
        for world, action in actions.items():
            motion, event = decode_action(action, self.template.kind, self.template.shape.num_frames)
            token = hashlib.sha256(motion.tobytes() + event.encode()).hexdigest()
            epoch = self.epochs[world]
            calls[world] = ("step", f"{epoch}-{token}", epoch, action)
        return self._call(calls)

    def _call(self, calls: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call the workers of some worlds; those whose worker is lost are tried again on a new one."""
        done: dict[int, tuple[int, bytes]] = {}
        for _ in range(MAX_RETRIES):
            asked = {world: self._ask(world, *call) for world, call in calls.items() if world not in done}
            answers = {world: self._answer(reference) for world, reference in asked.items()}
            done |= {world: answer for world, answer in answers.items() if answer is not None}
            if len(done) == len(calls):
                break
            for index in {world % len(self.workers) for world in calls if world not in done}:
                self.ray.kill(self.workers[index])
                self.workers[index] = self._start()
                self.replaced += 1
        else:
            lost = sorted(set(calls) - set(done))
            raise WorkerError(f"worlds {lost}: {MAX_RETRIES} workers were lost in a row.")
        for world, (epoch, _) in done.items():
            self.epochs[world] = epoch
        return {world: tuple(unpack(done[world][1])) for world in calls}

    def _start(self) -> Any:
        return self.ray.remote(num_cpus=0, max_restarts=0)(EnvWorker).remote(*self._arguments)

    def _ask(self, world: int, method: str, *arguments: Any) -> Any:
        """A reference to a worker's answer; None if the worker is lost."""
        worker = self.workers[world % len(self.workers)]
        return self._try(lambda: getattr(worker, method).remote(f"{self._run}_{world}", *arguments))

    def _answer(self, reference: Any) -> tuple[int, bytes] | None:
        if reference is None:
            return None
        return self._try(lambda: self.ray.get(reference, timeout=self.timeout))

    def _try(self, call: Callable[[], Any]) -> Any:
        """What a call of Ray returns; None if the worker is lost or does not answer in time."""
        ray = self.ray.exceptions
        try:
            try:
                return call()
            except ray.RayTaskError as error:
                # The cause is the worker's own exception, which says more than Ray's wrapper.
                raise error.as_instanceof_cause() from None
        except (ray.RayActorError, ray.GetTimeoutError):
            return None
        except (ray.ObjectStoreFullError, ray.OutOfDiskError) as cause:
            raise WorkerError(
                "Ray's object store is full; no step is lost. Give it more with ray.init(object_store_memory=...), "
                "or use fewer worlds, and repeat the step."
            ) from cause

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers and the served pipeline; Ray itself is left running, and so is a store that was given."""
        for worker in self.workers:
            self.ray.kill(worker)
        self._opened.close()


def _request_arrays(request: ClipRequest) -> Arrays:
    values = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    return {name: value.numpy() if torch.is_tensor(value) else value for name, value in values.items()}


def _request(arrays: Arrays) -> ClipRequest:
    # Copies: what Ray hands out cannot be written to, which torch warns of.
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
        for name, value in arrays.items()
    }
    return ClipRequest(**tensors)
