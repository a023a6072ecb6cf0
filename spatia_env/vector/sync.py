"""`SpatiaVectorEnv`: N worlds, one batched model call a step.

The three parts of `SpatiaEnv.step` for all worlds at once: every world prepares, the model is called once,
every world finishes. With one world a step is bit for bit that of a single environment.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from spatia_env.env import SpatiaEnv, Step
from spatia_env.errors import ActionError
from spatia_env.models.clip_source import Pending, generate_clips
from spatia_env.vector.base import Outcome, WorldsVectorEnv, autoreset_mode
from spatia_env.world.reset import check_reset_options
from spatia_env.wrappers import DiscreteActions, FlatCamera, LastFrameObservation

T = TypeVar("T")


class StagedEnv(SpatiaEnv):
    """A world whose next step may have been computed beside others': `step` then hands that out."""

    _staged: Step | None = None

    def step(self, action: Any) -> Step:
        """What was staged, or a step of its own."""
        staged, self._staged = self._staged, None
        return super().step(action) if staged is None else staged

    def stage(self, outcome: Step) -> None:
        """Keep what the next `step` returns."""
        self._staged = outcome

    def unbatched(self, pending: Pending) -> torch.Tensor:
        """A clip u8 [T, H, W, 3] of its own, where `shares` is False."""
        return self._imagine(pending)

    @property
    def shares(self) -> bool:
        """Whether its clips come from the model, and not from the map."""
        return not self.render_only


def view_env(env: gym.Env, view: str = "", num_events: int | None = None) -> gym.Env:
    """`env` as `Spatia-v0` ("") shows it, `SpatiaRL-v0` ("rl") or `SpatiaDiscrete-v0` ("discrete").

    Raises:
        ActionError: If there is no such view.
    """
    if view == "rl":
        return FlatCamera(LastFrameObservation(env))
    if view == "discrete":
        return DiscreteActions(LastFrameObservation(env), num_events)
    if view:
        raise ActionError(f"view={view!r}: use '', 'rl' or 'discrete'.")
    return env


class SpatiaVectorEnv(WorldsVectorEnv):
    """N worlds that share one model in one process.

    Args:
        num_envs: N.
        view: "" for the observations and actions of `Spatia-v0`, "rl" or "discrete" for those of `SpatiaRL-v0`
            and `SpatiaDiscrete-v0`.
        max_episode_steps: Time limit of each world; None for none.
        autoreset_mode: "NextStep", "SameStep" or "Disabled", as in Gymnasium 1.2 and later.
        threads: Worlds are prepared and finished by so many threads; None takes torch's number of threads.
        num_events: Of the discrete view.
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
        mode = _checked(num_envs, autoreset_mode)
        self.worlds = [StagedEnv(**options) for _ in range(num_envs)]
        self.envs = [_limited(view_env(world, view, num_events), max_episode_steps) for world in self.worlds]
        first = self.envs[0]
        super().__init__(num_envs, first.observation_space, first.action_space, first.metadata, mode)
        self.render_mode = first.render_mode
        self.pipeline = self.worlds[0].pipeline
        threads = min(num_envs, torch.get_num_threads() if threads is None else threads)
        self._pool = ThreadPoolExecutor(threads, "world", _one_thread) if threads > 1 else None

    def _step_worlds(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        indices = list(actions)
        pending = dict(zip(indices, self._map(lambda i: self._prepare(i, actions[i]), indices), strict=True))
        clips = self._generate(pending)
        finished = self._map(lambda i: self.worlds[i].finish(pending[i], clips.get(i)), indices)
        outcomes: dict[int, Any] = {}
        for index, outcome in zip(indices, finished, strict=True):
            self.worlds[index].stage(outcome)
            observation, reward, *rest = self.envs[index].step(actions[index])
            outcomes[index] = (observation, float(reward), *rest)
        return outcomes

    def _prepare(self, index: int, action: Any) -> Pending:
        return self.worlds[index].prepare(base_action(self.envs[index], action))

    def _generate(self, pending: dict[int, Pending]) -> dict[int, torch.Tensor]:
        """A clip for every world that does not stand still."""
        requests, clips = {}, {}
        for index, step in pending.items():
            if not step.imagines:
                continue
            world = self.worlds[index]
            if world.shares:
                requests[index] = world.request(step)
            else:
                clips[index] = world.unbatched(step)
        made = generate_clips(self.pipeline, list(requests.values()))
        return clips | dict(zip(requests, made, strict=True))

    def _reset_worlds(
        self, seeds: dict[int, int | None], options: dict[str, Any] | None
    ) -> dict[int, tuple[Any, dict[str, Any]]]:
        check_reset_options(options)
        return {index: self.envs[index].reset(seed=seed, options=options) for index, seed in seeds.items()}

    def _map(self, function: Callable[[int], T], indices: list[int]) -> list[T]:
        if self._pool is None or len(indices) == 1:
            return [function(index) for index in indices]
        return list(self._pool.map(function, indices))

    def render(self) -> tuple[Any, ...]:
        """What each world renders."""
        return tuple(env.render() for env in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every world, or read an attribute, such as `call("snapshot")`."""
        found = [getattr(world, name) for world in self.worlds]
        return tuple(one(*args, **kwargs) if callable(one) else one for one in found)

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the worlds."""
        if self._pool is not None:
            self._pool.shutdown()
        for env in self.envs:
            env.close()


def base_action(env: gym.Env, action: Any) -> Any:
    """What the world itself is asked, beneath the wrappers that translate actions."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.ActionWrapper):
            action = env.action(action)
        env = env.env
    return action


def make_vec(num_envs: int = 1, workers: int = 0, **options: Any) -> WorldsVectorEnv:
    """Entry point of `gym.make_vec`: `workers=K` steps the worlds in K processes (see `workers`)."""
    if not workers:
        return SpatiaVectorEnv(num_envs, **options)
    from spatia_env.workers import SpatiaAsyncVectorEnv

    return SpatiaAsyncVectorEnv(num_envs, workers=workers, **options)


def make_rl_vec(**options: Any) -> WorldsVectorEnv:
    """Entry point of `gym.make_vec` for `SpatiaRL-v0`."""
    return make_vec(view="rl", **options)


def make_discrete_vec(**options: Any) -> WorldsVectorEnv:
    """Entry point of `gym.make_vec` for `SpatiaDiscrete-v0`."""
    return make_vec(view="discrete", **options)


def _checked(num_envs: int, mode: Any) -> AutoresetMode:
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise ActionError(f"num_envs={num_envs!r}: use a whole number, at least 1.")
    return autoreset_mode(mode)


def _limited(env: gym.Env, max_episode_steps: int | None) -> gym.Env:
    return env if max_episode_steps is None or max_episode_steps < 0 else TimeLimit(env, max_episode_steps)


def _one_thread() -> None:
    # The worlds are the parallel part; torch's own threads would stand in each other's way.
    torch.set_num_threads(1)
