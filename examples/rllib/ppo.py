"""RLlib's PPO on a generated world.

    pip install -r examples/rllib/requirements.txt
    python examples/rllib/ppo.py

RLlib has no default encoder for Dict observations, so the policy sees the picture alone.
"""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env


class PictureOnly(gym.ObservationWrapper):
    """The picture of `SpatiaRL-v0` as float32 [H, W, 3] in [0, 1]."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        given: Any = env.observation_space
        self.observation_space = spaces.Box(0, 1, given["image"].shape, np.float32)

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """The picture."""
        return observation["image"].astype(np.float32) / 255


def make(config: dict[str, Any]) -> gym.Env:
    """The environment, in RLlib's workers."""
    return PictureOnly(gym.make("spatia_env:SpatiaRL-v0", **config))


def main(iterations: int = 2, model: str = "spatia-tiny", batch: int = 64) -> int:
    """Train for some iterations of `batch` steps; how many steps were sampled."""
    register_env("spatia", make)
    options = {"task": "explore", "size": (64, 64), "model": model, "max_episode_steps": 8}
    config = (
        PPOConfig()
        .environment("spatia", env_config=options)
        # A step takes a good part of a second: a batch needs more than RLlib's 60 seconds.
        .env_runners(num_env_runners=1, sample_timeout_s=1800)
        .training(train_batch_size_per_learner=batch, minibatch_size=batch // 2, num_epochs=2)
        .rl_module(model_config=DefaultModelConfig(conv_filters=[[16, 8, 4], [32, 4, 2], [64, 3, 2]]))
    )
    algorithm = config.build_algo()
    sampled = 0
    for _ in range(iterations):
        runners = algorithm.train()["env_runners"]
        sampled = int(runners["num_env_steps_sampled_lifetime"])
        print(f"{sampled} steps, mean return {runners.get('episode_return_mean')}")
    algorithm.stop()
    return sampled


if __name__ == "__main__":
    main(model=sys.argv[1] if len(sys.argv) > 1 else "spatia-tiny")
