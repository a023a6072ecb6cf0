"""Many machines, on Ray: a served pipeline that batches, workers that step worlds, worlds in a shared store.

```python
from spatia_env.distributed import RayVectorEnv

env = RayVectorEnv(8, workers=4, store="/shared/worlds", view="rl", task="explore")
```

Only what conditions a clip travels to the model; a world stays with its worker and, step by step, in the store. A
worker may die at any moment: another takes its worlds up from the store, and a step that was committed is not
made again. Ray is for networks that you trust. Needs `pip install 'spatia-env[ray]'`.
"""

import dataclasses
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from spatia_env import wire
from spatia_env.durable import load_env, request_from_plain, request_to_plain, save_env
from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError, DependencyError, WorkerError
from spatia_env.models.clip_source import generate_clips
from spatia_env.vector.base import Outcome, WorldsVectorEnv
from spatia_env.vector.ray_store import Head, StaleEpochError, WorldStore, action_hash
from spatia_env.vector.sync import StagedEnv, _checked, _limited, base_action, view_env
from spatia_env.workers import RemoteWorld, _plain
from spatia_env.world.reset import check_reset_options

MAX_RETRIES = 20
"""A step is tried on so many workers, one after the other."""


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


class EnvWorker:
    """Steps worlds of a store; any worker can step any of them.

    Args:
        store: Folder of the `WorldStore`.
        options: What `SpatiaEnv` takes, as plain values.
        generate: From a packed `ClipRequest` to a packed clip; None calls the model here.
    """

    def __init__(self, store: str, options: dict[str, Any], generate: Any = None) -> None:
        import torch

        torch.set_num_threads(1)
        self.store = WorldStore(store)
        self._options: dict[str, Any] = {k: tuple(v) if k == "size" else v for k, v in options.items()}
        self._generate = generate
        self._envs: dict[str, tuple[int, StagedEnv]] = {}

    def ready(self) -> bool:
        """Whether it is there."""
        return True

    def reset(self, world: str, message: bytes) -> bytes:
        """Reset a world; observation and info, packed. `message` packs `seed`, `options` and the reset's `token`."""
        given = wire.unpack(message)
        head = self.store.head(world) if self.store.has(world) else None
        if head is not None and head.epoch == 0 and head.action == given["token"]:
            return head.outcome  # it was committed, and its answer lost
        # The random numbers of a world that was there go on.
        env = StagedEnv(**self._options) if head is None else self._at(world, head)
        outcome = wire.pack(list(env.reset(seed=given["seed"], options=given["options"])))
        if self._commit(world, head, Head(0, given["token"], {}, outcome), env):
            return outcome
        head = self.store.head(world)
        if head.epoch == 0 and head.action == given["token"]:
            return head.outcome
        raise StaleEpochError(f"world {world!r} has moved on; this reset comes too late.")

    def step(self, world: str, epoch: int, message: bytes) -> bytes:
        """Step a world from an epoch; what `SpatiaEnv.step` returns, packed.

        Raises:
            StaleEpochError: The world has left this epoch with another action, or was reset.
            SpatiaError: As `SpatiaEnv.step` raises.
        """
        action = wire.unpack(message)
        name, head = action_hash(action), self.store.head(world)
        if head.epoch == epoch + 1 and head.action == name:
            return head.outcome  # it was committed, and its answer lost
        if head.epoch != epoch:
            raise StaleEpochError(
                f"world {world!r} is at epoch {head.epoch}; a step from {epoch} comes too late."
            )
        env = self._at(world, head)
        outcome = wire.pack(list(self._advance(env, action)))
        if not self._commit(world, head, Head(epoch + 1, name, {}, outcome), env):
            return self.step(world, epoch, message)
        return outcome

    def _commit(self, world: str, since: Head | None, head: Head, env: StagedEnv) -> bool:
        """Save and commit what comes after `since`; what was too late leaves no file."""
        saved = save_env(env, self._path(world, head.epoch))
        if not self.store.commit(world, since, dataclasses.replace(head, saved=saved)):
            Path(saved["path"]).unlink(missing_ok=True)
            return False
        self._envs[world] = (0 if since is None else since.stamp + 1, env)
        return True

    def _advance(self, env: StagedEnv, action: Any) -> Any:
        pending = env.prepare(action)
        if not pending.imagines:
            return env.finish(pending)
        if self._generate is None or not env.shares:
            return env.finish(pending, env.unbatched(pending))
        import torch

        clip = self._generate(wire.pack(request_to_plain(env.request(pending))))
        return env.finish(pending, torch.from_numpy(wire.unpack(clip)))

    def _at(self, world: str, head: Head) -> StagedEnv:
        """The environment of a world as it was committed: the one at hand, or the store's."""
        at, env = self._envs.pop(world, (-1, None))
        if env is None or at != head.stamp:
            env = StagedEnv(**self._options) if env is None else env
            load_env(env, head.saved)
        return env

    def _path(self, world: str, epoch: int) -> Path:
        # A name of its own: a late worker must not write into what another has committed.
        return self.store.folder / f"{world}-{epoch}-{uuid.uuid4().hex[:12]}.spatia"


def serve_pipeline(model: str, max_batch: int = 16, wait_seconds: float = 0.02, name: str = "spatia") -> Any:
    """Serve a checkpoint's pipeline on Ray: requests that arrive together share a model call.

    Returns:
        A handle whose `generate.remote(packed request)` gives a packed clip.
    """
    ray = import_ray()

    @ray.serve.deployment(num_replicas=1, max_ongoing_requests=4 * max_batch)
    class Pipeline:
        """Holds the model."""

        def __init__(self, model: str) -> None:
            from spatia_env.models.loading import load_checkpoint

            self.pipeline = load_checkpoint(model).pipeline

        @ray.serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=wait_seconds)
        async def generate(self, requests: list[bytes]) -> list[bytes]:
            """One clip a request."""
            clips = generate_clips(self.pipeline, [request_from_plain(wire.unpack(r)) for r in requests])
            return [wire.pack(clip.numpy()) for clip in clips]

    deployment: Any = Pipeline
    ray.serve.start(proxy_location="Disabled")  # actors call it by its handle; nothing listens for HTTP
    return ray.serve.run(deployment.bind(model), name=name, route_prefix=None)


class ServedGenerate:
    """Asks a served pipeline; what a worker is given as `generate`."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __call__(self, request: bytes) -> bytes:
        """The packed clip of a packed request."""
        return self.handle.generate.remote(request).result()


class RayVectorEnv(WorldsVectorEnv):
    """N worlds stepped by K Ray actors around one served pipeline.

    Args:
        num_envs: N.
        workers: K.
        store: Folder that all machines see; None makes one on this machine and removes it.
        view, max_episode_steps, autoreset_mode, num_events: As for `SpatiaVectorEnv`.
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
        mode = _checked(num_envs, autoreset_mode)
        if not (isinstance(workers, int) and 1 <= workers <= num_envs) or timeout <= 0:
            raise ActionError(
                f"workers={workers!r}, timeout={timeout!r}: use 1 to {num_envs} workers, and seconds."
            )
        if not self.ray.is_initialized():
            self.ray.init(include_dashboard=False, log_to_driver=False)
        template = SpatiaEnv(**options)
        self.proxies = [RemoteWorld(template) for _ in range(num_envs)]
        self.envs: list[gym.Env] = [
            _limited(view_env(proxy, view, num_events), max_episode_steps) for proxy in self.proxies
        ]
        first = self.envs[0]
        super().__init__(num_envs, first.observation_space, first.action_space, first.metadata, mode)
        self._own = None if store is not None else tempfile.mkdtemp(prefix="spatia-worlds-")
        self.folder, self.timeout = str(store if store is not None else self._own), timeout
        self._run = uuid.uuid4().hex[:8]
        self._options = {key: list(v) if isinstance(v, tuple) else v for key, v in options.items()}
        model = str(options.get("model", "spatia-tiny"))
        self._handle = serve_pipeline(model, name=f"spatia-{self._run}") if serve else None
        self.epochs = [0] * num_envs
        self.replaced = 0
        self.workers = [self._start() for _ in range(workers)]

    def _start(self) -> Any:
        generate = None if self._handle is None else ServedGenerate(self._handle)
        actor = self.ray.remote(num_cpus=0, max_restarts=0)(EnvWorker)
        return actor.remote(self.folder, self._options, generate)

    def _reset_worlds(
        self, seeds: dict[int, int | None], options: dict[str, Any] | None
    ) -> dict[int, tuple[Any, dict[str, Any]]]:
        check_reset_options(options)
        calls = {
            world: (
                "reset",
                self._name(world),
                wire.pack({"seed": seed, "options": options, "token": uuid.uuid4().hex}),
            )
            for world, seed in seeds.items()
        }
        out = {}
        for world, answer in self._call(calls).items():
            self.proxies[world].staged, self.epochs[world] = tuple(answer), 0
            out[world] = self.envs[world].reset()
        return out

    def _step_worlds(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        calls = {
            world: (
                "step", self._name(world), self.epochs[world], wire.pack(_plain(base_action(self.envs[world], action))),
            )
            for world, action in actions.items()
        }  # fmt: skip
        outcomes: dict[int, Any] = {}
        for world, answer in self._call(calls).items():
            self.epochs[world] += 1
            self.proxies[world].staged = tuple(answer)
            observation, reward, *rest = self.envs[world].step(actions[world])
            outcomes[world] = (observation, float(reward), *rest)
        return outcomes

    def _call(self, calls: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call the workers of some worlds; those whose worker is lost are tried again on a new one."""
        done: dict[int, Any] = {}
        for _ in range(MAX_RETRIES):
            asked = {world: self._ask(world, call) for world, call in calls.items() if world not in done}
            if not asked:
                return {world: done[world] for world in calls}
            lost: set[int] = set()
            for world, answer in asked.items():
                got = self._answer(answer)
                if got is None:
                    lost.add(world % len(self.workers))
                else:
                    done[world] = wire.unpack(got)
            for index in sorted(lost):
                self.ray.kill(self.workers[index])
                self.workers[index] = self._start()
                self.replaced += 1
        raise WorkerError(
            f"worlds {sorted(set(calls) - set(done))}: {MAX_RETRIES} workers were lost in a row.", None
        )

    def _ask(self, world: int, call: tuple[Any, ...]) -> Any:
        method, *arguments = call
        try:
            return getattr(self.workers[world % len(self.workers)], method).remote(*arguments)
        except self.ray.exceptions.RayActorError:
            return None
        except self.ray.exceptions.ObjectStoreFullError as cause:
            raise _store_is_full() from cause

    def _answer(self, reference: Any) -> bytes | None:
        """A worker's answer; None if it is lost."""
        if reference is None:
            return None
        lost = (self.ray.exceptions.RayActorError, self.ray.exceptions.GetTimeoutError)
        full = (self.ray.exceptions.ObjectStoreFullError, self.ray.exceptions.OutOfDiskError)
        try:
            return self.ray.get(reference, timeout=self.timeout)
        except self.ray.exceptions.RayTaskError as error:
            # The cause is the worker's own exception, which says more than Ray's wrapper.
            cause = error.as_instanceof_cause()
            raise _store_is_full() if isinstance(cause, full) else cause from None
        except lost:
            return None
        except full as cause:
            raise _store_is_full() from cause

    def _name(self, world: int) -> str:
        return f"{self._run}_{world}"

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers and the served pipeline; Ray itself is left running."""
        for worker in self.workers:
            self.ray.kill(worker)
        if self._handle is not None:
            self.ray.serve.delete(f"spatia-{self._run}")
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        else:
            WorldStore(self.folder).tidy(f"{self._run}_")


def _store_is_full() -> WorkerError:
    return WorkerError(
        "Ray's object store is full; no step is lost. Give it more with ray.init(object_store_memory=...), or use "
        "fewer worlds, and repeat the step.",
        None,
    )
