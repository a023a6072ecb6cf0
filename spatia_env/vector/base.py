"""What every vector of worlds shares: batches of actions, autoreset, seeding and infos, as Gymnasium has them.

Subclasses say how to step some worlds and how to reset one; see `vector` (this process) and `workers` (others).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from spatia_env.errors import ActionError, ClosedEnvError
from spatia_env.io.validation import check_keys

Outcome = tuple[Any, float, bool, bool, dict[str, Any]]
_MODES = {mode.value: mode for mode in AutoresetMode}


def autoreset_mode(mode: Any) -> AutoresetMode:
    """Gymnasium's mode of this value.

    Raises:
        ActionError: If it is no mode, or several of them.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    if not isinstance(mode, str) or mode not in _MODES:
        raise ActionError(
            f"autoreset_mode={mode!r}: all worlds share one mode; use one of {', '.join(map(repr, _MODES))}."
        )
    return _MODES[mode]


def split_actions(space: gym.Space, actions: Any, count: int) -> list[Any]:
    """The actions of `count` worlds from a batch: arrays with a leading axis, or a list of single actions.

    Raises:
        ActionError: If the batch holds another number of actions, or lacks keys.
    """
    if isinstance(actions, list | tuple) and not isinstance(space, spaces.Tuple):
        return _counted(actions, count, "actions")
    if isinstance(space, spaces.Dict):
        if not isinstance(actions, Mapping):
            raise ActionError(
                f"actions: expected a dict of batches or a list of {count} dicts, got {type(actions).__name__}."
            )
        check_keys(actions, required=tuple(space.spaces), what="actions")
        columns = {key: _counted(value, count, f"actions[{key!r}]") for key, value in actions.items()}
        return [{key: column[index] for key, column in columns.items()} for index in range(count)]
    return _counted(actions, count, "actions")


def _counted(value: Any, count: int, name: str) -> list[Any]:
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or np.ndim(value) == 0:
        raise ActionError(f"{name}: expected {count} of them, one a world, got {value!r:.60}.")
    if len(value) != count:
        raise ActionError(f"{name}: holds {len(value)} actions for {count} worlds.")
    return list(value)


class WorldsVectorEnv(VectorEnv):
    """Autoreset, seeding and infos around `_step_worlds` and `_reset_worlds`.

    Args:
        num_envs: N.
        observation_space: Of one world.
        action_space: Of one world.
        metadata: Of one world.
        mode: When worlds that ended are reset.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: gym.Space,
        action_space: gym.Space,
        metadata: dict[str, Any],
        mode: AutoresetMode,
    ) -> None:
        self.num_envs, self.autoreset_mode = num_envs, mode
        self.metadata = dict(metadata) | {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._observations: list[Any] = [None] * num_envs
        self._ended = np.zeros(num_envs, dtype=bool)
        self._taken: dict[int, Outcome] | None = None

    def _step_worlds(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        """Step the worlds of these indices; none has moved if an action is refused."""
        raise TypeError(f"{type(self).__name__} does not say how to step.")

    def _reset_worlds(
        self, seeds: dict[int, int | None], options: dict[str, Any] | None
    ) -> dict[int, tuple[Any, dict[str, Any]]]:
        """Reset the worlds of these indices."""
        raise TypeError(f"{type(self).__name__} does not say how to reset.")

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all worlds, or those of `options["reset_mask"]`, a bool array [N].

        An int seeds world i with `seed + i`; the other options go to each world.

        Raises:
            ActionError: A mask or seeds of another form, or options that a world refuses.
            ClosedEnvError: After `close`.
        """
        self._check_open()
        options = dict(options) if options is not None else None
        mask = _mask(options, self.num_envs)
        seeds = _seeds(seed, self.num_envs)
        infos: dict[str, Any] = {}
        chosen = {int(index): seeds[index] for index in np.flatnonzero(mask)}
        for index, (observation, info) in self._reset_worlds(chosen, options).items():
            self._observations[index] = observation
            infos = self._add_info(infos, info, index)
        if any(observation is None for observation in self._observations):
            raise ActionError("reset: the first reset is of all worlds; leave reset_mask out.")
        self._ended[mask], self._taken = False, None
        return self._batch(), infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every world, resetting as the mode says; see Gymnasium's `VectorEnv`.

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
        # A step that was taken, but whose resets failed, is not taken again: the next call goes on with the resets.
        if self._taken is None:
            self._taken = self._step_worlds({i: row for i, row in enumerate(rows) if not waiting[i]})
        outcomes = self._taken
        fresh = [i for i in range(self.num_envs) if waiting[i]]
        for index, outcome in outcomes.items():
            observation, rewards[index], flags[0, index], flags[1, index], info = outcome
            if self.autoreset_mode == AutoresetMode.SAME_STEP and flags[:, index].any():
                infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, index)
                fresh.append(index)
            else:
                self._observations[index] = observation
                infos = self._add_info(infos, info, index)
        for index, (observation, info) in self._reset_worlds(dict.fromkeys(fresh), None).items():
            self._observations[index] = observation
            infos = self._add_info(infos, info, index)
        self._ended, self._taken = np.asarray(flags.any(0)), None
        return self._batch(), rewards, flags[0].copy(), flags[1].copy(), infos

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


def _seeds(seed: Any, count: int) -> list[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        return [int(seed) + index for index in range(count)]
    if isinstance(seed, str) or not hasattr(seed, "__len__") or len(seed) != count:
        raise ActionError(
            f"reset: seed is an int, or one seed for each of the {count} worlds; got {seed!r:.60}."
        )
    return list(seed)


def _mask(options: dict[str, Any] | None, count: int) -> np.ndarray:
    mask = None if options is None else options.pop("reset_mask", None)
    if mask is None:
        return np.ones(count, dtype=bool)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (count,) or not mask.any():
        shape = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ActionError(f"reset: reset_mask is a bool array [{count}] with at least one True; got {shape}.")
    return mask
