"""`SpatiaVectorEnv`: N worlds in one process, one batched model call a step.

The three parts of `SpatiaEnv.step` for all worlds at once: every world prepares, the model is called once,
every world commits. With one world a step is bit for bit that of a single environment.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
from gymnasium.vector import AutoresetMode

from spatia_env.env import SpatiaEnv
from spatia_env.vector.base import Outcome, Reset, WorldsVectorEnv
from spatia_env.world.step import PreparedStep

T = TypeVar("T")


class SpatiaVectorEnv(WorldsVectorEnv):
    """N worlds that share one model. A call that raises leaves every world as it was.

    Args:
        num_envs: N.
        view, max_episode_steps, autoreset_mode, num_events: See `autoreset.WorldsVectorEnv`.
        threads: Worlds are prepared and finished by so many threads; None takes torch's number of threads.
        **options: What `SpatiaEnv` takes.

    Raises:
        ActionError: Fewer than one world, a mode that does not exist, or bad options.
    """

    def __init__(
        self,
        num_envs: int = 1,
        view: str = "",
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
        num_events: int | None = None,
        **options: Any,
    ) -> None:
        first = SpatiaEnv(**options)
        super().__init__(first, num_envs, view, max_episode_steps, autoreset_mode, num_events)
        self.worlds = [first] + [SpatiaEnv(**options) for _ in range(num_envs - 1)]
        threads = min(num_envs, torch.get_num_threads() if threads is None else threads)
        self._pool = ThreadPoolExecutor(threads, "world", _one_thread) if threads > 1 else None

    def reset_worlds(self, seeds: dict[int, int | None], options: dict[str, Any] | None) -> dict[int, Reset]:
        """Reset worlds, one after the other."""
        with self._all_or_none(seeds):
            return {
                index: self.worlds[index].reset(seed=seed, options=options) for index, seed in seeds.items()
            }

    def step_worlds(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        """Step worlds with one model call."""
        with self._all_or_none(actions):
            prepared = self._each(lambda i: self.worlds[i].prepare(actions[i]), actions)
            clips = self.generate(prepared)
            return self._each(lambda i: self.worlds[i].commit(prepared[i], clips.get(i)), actions)

    def generate(self, prepared: dict[int, PreparedStep]) -> dict[int, torch.Tensor]:
        """A clip u8 [T, H, W, 3] for every prepared step but the no-ops."""
        requests = {index: step.request for index, step in prepared.items() if step.request is not None}
        clips = self.worlds[0].clip_source.generate(list(requests.values()))
        return dict(zip(requests, clips, strict=True))

    def render(self) -> tuple[Any, ...]:
        """What each world renders."""
        return tuple(world.render() for world in self.worlds)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every world, or read an attribute, such as `call("snapshot")`."""
        found = [getattr(world, name) for world in self.worlds]
        return tuple(one(*args, **kwargs) if callable(one) else one for one in found)

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the worlds."""
        if self._pool is not None:
            self._pool.shutdown()
        for world in self.worlds:
            world.close()

    def _each(self, function: Callable[[int], T], indices: Iterable[int]) -> dict[int, T]:
        indices = list(indices)
        if self._pool is None or len(indices) == 1:
            return {index: function(index) for index in indices}
        futures = {index: self._pool.submit(function, index) for index in indices}
        wait(futures.values())  # if one raises, the others must have ended before worlds are put back
        return {index: future.result() for index, future in futures.items()}

    @contextlib.contextmanager
    def _all_or_none(self, indices: Iterable[int]) -> Iterator[None]:
        """Put these worlds back as they were, random state included, if the block raises."""
        opened = [index for index in indices if self._observations[index] is not None]
        before = {index: self.worlds[index].fork() for index in opened}
        try:
            yield
        except BaseException:
            for index, world in before.items():
                vars(self.worlds[index]).update(vars(world))
            raise


def make_rl_vec(**options: Any) -> SpatiaVectorEnv:
    """Entry point of `gym.make_vec` for `SpatiaRL-v0`."""
    return SpatiaVectorEnv(view="rl", **options)


def make_discrete_vec(**options: Any) -> SpatiaVectorEnv:
    """Entry point of `gym.make_vec` for `SpatiaDiscrete-v0`."""
    return SpatiaVectorEnv(view="discrete", **options)


def _one_thread() -> None:
    # The worlds are the parallel part; torch's own threads would stand in each other's way.
    torch.set_num_threads(1)
