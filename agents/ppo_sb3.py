"""PPO of stable-baselines3 on a vector of worlds that share one model call.

pip install "spatia-env[rl]"
python agents/ppo_sb3.py --total-steps 20000
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import tyro

from spatia_env.vector.sb3 import as_sb3


@dataclass(frozen=True)
class Args:
    """What to train, and for how long."""

    env_id: str = "spatia_env:SpatiaRL-v0"
    """SpatiaRL-v0 or SpatiaDiscrete-v0."""
    task: str = "explore"
    """Task."""
    num_envs: int = 4
    """Worlds side by side."""
    total_steps: int = 20_000
    """Steps of all worlds together."""
    num_steps: int = 32
    """Steps of each world between updates."""
    horizon: int = 16
    """Clips of an episode."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the frames, pixels."""
    model: str = "spatia-tiny"
    """Checkpoint of the world."""
    seed: int = 1
    """Of policy and worlds."""
    save: str = ""
    """File for the trained policy; none by default."""


def main(args: Args) -> dict[str, Any]:
    """Train, and return the mean return of the last episodes."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor

    envs = gym.make_vec(
        args.env_id, args.num_envs, max_episode_steps=args.horizon, autoreset_mode="SameStep",
        task=args.task, size=args.size, model=args.model,
    )  # fmt: skip
    env = VecMonitor(as_sb3(envs))
    ppo = PPO(
        "MultiInputPolicy", env, n_steps=args.num_steps, batch_size=args.num_envs * args.num_steps // 2,
        n_epochs=4, gamma=0.95, seed=args.seed, verbose=0,
    )  # fmt: skip
    ppo.learn(args.total_steps)
    if args.save:
        ppo.save(args.save)
    episodes = [float(episode["r"]) for episode in ppo.ep_info_buffer or []]
    env.close()
    mean = round(sum(episodes) / len(episodes), 4) if episodes else None
    return {"steps": ppo.num_timesteps, "episodes": len(episodes), "episodic_return": mean}


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
