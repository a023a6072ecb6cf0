"""`WorldsVectorEnv`: what every vector of worlds shares: batches of actions, autoreset, seeding and infos.

They follow Gymnasium's `SyncVectorEnv` (1.2 and later) in all three autoreset modes. Subclasses say how worlds are
reset and stepped together: `vector.sync.SpatiaVectorEnv` in this process, `vector.ray.RayVectorEnv` on Ray.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from gymnasium.wrappers import TimeLimit

from spatia_env.errors import ActionError, ClosedEnvError
from spatia_env.io.validation import check_keys
from spatia_env.world.reset import check_reset_options, check_seed
from spatia_env.wrappers import view_env

Reset = tuple[Any, dict[str, Any]]
Outcome = tuple[Any, float, bool, bool, dict[str, Any]]


class WorldProxy(gym.Env):
    """Stands below the wrappers of one world and returns what was computed for it beside others.

    Args:
        template: An environment with the same spaces.
    """

    def __init__(self, template: gym.Env) -> None:
        self.observation_space, self.action_space = template.observation_space, template.action_space
        self.metadata, self.render_mode = template.metadata, template.render_mode
        self.result: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """The result of the world's reset."""
        return self.result

    def step(self, action: Any) -> Outcome:
        """The result of the world's step."""
        return self.result


class WorldsVectorEnv(VectorEnv):
    """Autoreset, seeding and infos around `reset_worlds` and `step_worlds`.

    Args:
        template: An environment with the spaces of all worlds.
        num_envs: N.
        view: "" for the observations and actions of `Spatia-v0`, "rl" or "discrete" for those of `SpatiaRL-v0`
            and `SpatiaDiscrete-v0`.
        max_episode_steps: Time limit of each world; None or a negative number for none.
        autoreset_mode: "NextStep", "SameStep" or "Disabled", as in Gymnasium.
        num_events: Of the discrete view.

    Raises:
        ActionError: Fewer than one world, or no such view or mode.
    """

    def __init__(
        self,
        template: gym.Env,
        num_envs: int,
        view: str,
        max_episode_steps: int | None,
        autoreset_mode: str | AutoresetMode,
        num_events: int | None,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ActionError(f"num_envs={num_envs!r}: use a whole number, at least 1.")
        self.num_envs, self.autoreset_mode = num_envs, _mode(autoreset_mode)
        self.proxies = [WorldProxy(template) for _ in range(num_envs)]
        views = [view_env(proxy, view, num_events) for proxy in self.proxies]
        limit = -1 if max_episode_steps is None else max_episode_steps
        self.envs: list[gym.Env] = [env if limit < 0 else TimeLimit(env, limit) for env in views]
        first = self.envs[0]
        self.metadata = dict(first.metadata) | {"autoreset_mode": self.autoreset_mode}
        self.render_mode = first.render_mode
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._observations: list[Any] = [None] * num_envs
        self._ended = np.zeros(num_envs, dtype=bool)
        self._taken: dict[int, Outcome] | None = None

    def reset_worlds(self, seeds: dict[int, int | None], options: dict[str, Any] | None) -> dict[int, Reset]:
        """Reset the worlds of these indices; what each `SpatiaEnv.reset` returns."""
        raise TypeError(f"{type(self).__name__} does not say how to reset.")

    def step_worlds(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        """Step the worlds of these indices; what each `SpatiaEnv.step` returns. None moves if one refuses."""
        raise TypeError(f"{type(self).__name__} does not say how to step.")

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all worlds, or those of `options["reset_mask"]`, a bool array [N].

        An int seeds world i with `seed + i`; the other options go to each world.

        Raises:
            ActionError, SeedError: A mask or seeds of another form, or options that a world refuses.
            ClosedEnvError: After `close`.
        """
        self._check_open()
        mask, options = _split_mask(options, self.num_envs)
        seeds = _seeds(seed, self.num_envs)
        check_reset_options(options)
        if any(o is None and not chosen for o, chosen in zip(self._observations, mask, strict=True)):
            raise ActionError("reset: the first reset is of all worlds; leave reset_mask out.")
        infos = self._reset({int(index): seeds[index] for index in np.flatnonzero(mask)}, options, {})
        self._ended[mask], self._taken = False, None
        return self._batch(), infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every world, resetting as the mode says; see Gymnasium's `VectorEnv`.

        Where the step succeeds and a reset after it fails, the next call returns that step and resets again.

        Raises:
            ActionError, PoseError, PromptError: If an action is not of the space: no world has moved then.
            ClosedEnvError: After `close`.
        """
        self._check_open()
        if any(observation is None for observation in self._observations):
            raise ActionError("no world is open; call reset() first.")
        rows = split_actions(self.single_action_space, actions, self.num_envs)
        waiting = self._waiting()
        rewards = np.zeros(self.num_envs)
        flags = np.zeros((2, self.num_envs), dtype=bool)
        infos: dict[str, Any] = {}
        if self._taken is None:
            self._taken = self._step({i: row for i, row in enumerate(rows) if not waiting[i]})
        fresh = [int(index) for index in np.flatnonzero(waiting)]
        for index, outcome in self._taken.items():
            observation, rewards[index], flags[0, index], flags[1, index], info = outcome
            if self.autoreset_mode == AutoresetMode.SAME_STEP and flags[:, index].any():
                infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, index)
                fresh.append(index)
            else:
                self._observations[index] = observation
                infos = self._add_info(infos, info, index)
        infos = self._reset(dict.fromkeys(fresh), None, infos)
        self._ended, self._taken = np.asarray(flags.any(0)), None
        return self._batch(), rewards, flags[0].copy(), flags[1].copy(), infos

    def _reset(
        self, seeds: dict[int, int | None], options: dict[str, Any] | None, infos: dict[str, Any]
    ) -> dict[str, Any]:
        for index, result in self.reset_worlds(seeds, options).items():
            self.proxies[index].result = result
            self._observations[index], info = self.envs[index].reset()
            infos = self._add_info(infos, info, index)
        return infos

    def _step(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        translated = {index: base_action(self.envs[index], action) for index, action in actions.items()}
        outcomes: dict[int, Outcome] = {}
        for index, result in self.step_worlds(translated).items():
            self.proxies[index].result = result
            observation, reward, *rest = self.envs[index].step(actions[index])
            outcomes[index] = (observation, float(reward), *rest)
        return outcomes

    def _add_info(
        self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int
    ) -> dict[str, Any]:
        """As Gymnasium's; what is a number in one world may be None in another, such as the step of a closed loop."""
        for key, value in env_info.items():
            held = vector_infos.get(key)
            if value is None and isinstance(held, np.ndarray) and held.dtype != object:
                loose = held.astype(object)
                loose[~vector_infos[f"_{key}"]] = None
                vector_infos[key] = loose
        return super()._add_info(vector_infos, env_info, env_num)

    def _waiting(self) -> np.ndarray:
        """Which worlds this step resets instead of stepping."""
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            return self._ended
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise ActionError(
                f"worlds {np.flatnonzero(self._ended).tolist()} have ended; reset them first: "
                "reset(options={'reset_mask': terminations | truncations})."
            )
        return np.zeros(self.num_envs, dtype=bool)

    def _batch(self) -> Any:
        out: Any = create_empty_array(self.single_observation_space, n=self.num_envs, fn=np.zeros)
        return deepcopy(concatenate(self.single_observation_space, self._observations, out))

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvError("this vector environment was closed; make a new one with gym.make_vec.")


def base_action(env: gym.Env, action: Any) -> Any:
    """The action of the world itself, beneath the wrappers that translate actions."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.ActionWrapper):
            action = env.action(action)
        env = env.env
    return action


def split_actions(space: gym.Space, actions: Any, count: int) -> list[Any]:
    """The actions of `count` worlds from a batch: arrays with a leading axis, or a list of single actions.

    Raises:
        ActionError: If the batch holds another number of actions, or lacks keys.
    """
    if isinstance(actions, list | tuple) or not isinstance(space, spaces.Dict):
        return _counted(actions, count, "actions")
    if not isinstance(actions, Mapping):
        raise ActionError(
            f"actions: expected a dict of batches or a list of {count} dicts, got {type(actions).__name__}."
        )
    check_keys(actions, required=tuple(space.spaces), what="actions")
    columns = {key: _counted(value, count, f"actions[{key!r}]") for key, value in actions.items()}
    return [{key: column[index] for key, column in columns.items()} for index in range(count)]


def _counted(value: Any, count: int, name: str) -> list[Any]:
    # Rows of lists may differ in length: each world judges its own.
    if not isinstance(value, list | tuple) and getattr(value, "ndim", 0) == 0:
        raise ActionError(f"{name}: expected {count} of them, one a world, got {value!r:.60}.")
    if len(value) != count:
        raise ActionError(f"{name}: holds {len(value)} actions for {count} worlds.")
    return list(value)


def _mode(mode: Any) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except (TypeError, ValueError) as cause:
        known = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ActionError(
            f"autoreset_mode={mode!r}: all worlds share one mode; use one of {known}."
        ) from cause


def _seeds(seed: Any, count: int) -> list[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        first = check_seed(seed)
        return [first + index for index in range(count)]  # type: ignore[operator]
    if not isinstance(seed, list | tuple | np.ndarray) or np.shape(seed)[:1] != (count,):
        raise ActionError(
            f"reset: seed is an int, or one seed for each of the {count} worlds; got {seed!r:.60}."
        )
    return [check_seed(one) for one in seed]


def _split_mask(options: Mapping[str, Any] | None, count: int) -> tuple[np.ndarray, dict[str, Any] | None]:
    """The mask of `reset(options=...)` as a bool array [N], and the other options."""
    if options is None:
        return np.ones(count, dtype=bool), None
    if not isinstance(options, Mapping):
        raise ActionError(f"reset: options are a dict, got {type(options).__name__}.")
    options = dict(options)
    mask = options.pop("reset_mask", None)
    if mask is None:
        return np.ones(count, dtype=bool), options
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (count,) or not mask.any():
        shape = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ActionError(f"reset: reset_mask is a bool array [{count}] with at least one True; got {shape}.")
    return mask, options
