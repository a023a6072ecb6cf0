"""Vectors of worlds for libraries that have a vector environment of their own.

`as_sb3(gym.make_vec("spatia_env:SpatiaRL-v0", 8, autoreset_mode="SameStep"))` is what stable-baselines3 trains on:
its `make_vec_env` would make N environments and call the model N times a step.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from spatia_env.errors import ActionError, DependencyError


def as_sb3(env: VectorEnv) -> Any:
    """A `stable_baselines3.common.vec_env.VecEnv` around a Gymnasium vector environment.

    Args:
        env: With `autoreset_mode="SameStep"`, which is how stable-baselines3 resets, and observations and
            actions it knows: those of `SpatiaRL-v0` and `SpatiaDiscrete-v0`.

    Raises:
        ActionError: Another mode, or an action space it does not know.
        DependencyError: stable-baselines3 is missing.
    """
    try:
        from stable_baselines3.common.vec_env import VecEnv
    except ImportError as cause:
        raise DependencyError("as_sb3 needs stable-baselines3: pip install 'spatia-env[rl]'.") from cause
    if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
        raise ActionError('as_sb3: make the environment with autoreset_mode="SameStep".')
    if not isinstance(env.single_action_space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete):
        raise ActionError(
            "as_sb3: stable-baselines3 knows no Dict actions; use SpatiaRL-v0 or SpatiaDiscrete-v0."
        )

    class Sb3VecEnv(VecEnv):
        """See `as_sb3`."""

        def __init__(self) -> None:
            super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
            self._actions: Any = None

        def reset(self) -> Any:
            seeds: Any = list(self._seeds)
            observation, infos = env.reset(seed=None if all(s is None for s in seeds) else seeds)
            self.reset_infos = split_infos(infos, self.num_envs)
            self._reset_seeds()
            self._reset_options()
            return observation

        def step_async(self, actions: np.ndarray) -> None:
            self._actions = actions

        def step_wait(self) -> Any:
            observation, rewards, terminated, truncated, infos = env.step(self._actions)
            rows = split_infos(infos, self.num_envs)
            for index in range(self.num_envs):
                if terminated[index] or truncated[index]:
                    last = rows[index].pop("final_info", {})
                    first, rows[index] = rows[index], dict(last)
                    rows[index]["terminal_observation"] = first.pop("final_obs")
                    self.reset_infos[index] = first
                rows[index]["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
            return observation, rewards.astype(np.float32), terminated | truncated, rows

        def close(self) -> None:
            env.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            if attr_name == "render_mode":
                return [env.render_mode for _ in self._get_indices(indices)]
            found = env.call(attr_name)  # type: ignore[attr-defined]
            return [found[index] for index in self._get_indices(indices)]

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise ActionError(f"as_sb3: {attr_name!r} cannot be set from outside; give it to gym.make_vec.")

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            found = env.call(method_name, *args, **kwargs)  # type: ignore[attr-defined]
            return [found[index] for index in self._get_indices(indices)]

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False for _ in self._get_indices(indices)]

    return Sb3VecEnv()


def split_infos(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Gymnasium's batched info as one dict a world; what a world did not report is left out."""
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        present = infos.get(f"_{key}", np.ones(count, dtype=bool))
        inner = split_infos(value, count) if isinstance(value, dict) else value
        for index in np.flatnonzero(present):
            rows[index][key] = inner[index]
    return rows
