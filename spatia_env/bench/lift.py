"""Optimisation lift: how much of what training in the simulator gains does training in the generated world gain?

PPO of stable-baselines3 is trained for the same steps in either world on `explore` and judged in the simulator;
lift = (imagined - random) / (simulator - random).
"""

from typing import Any

import gymnasium as gym
import numpy as np

from spatia_env.bench.provenance import fingerprint
from spatia_env.errors import DependencyError

IDS = {"imagined": "spatia_env:SpatiaRL-v0", "simulator": "spatia_env:SpatiaSim-v0"}
HORIZON = 16


def run_lift(config: Any, code: str) -> dict[str, Any] | None:
    """True returns of random actions and of the two policies, one per scene; None without `ppo_steps`.

    Raises:
        DependencyError: stable-baselines3 is missing.
    """
    if not config.ppo_steps:
        return None
    from spatia_env.bench.policy import cached

    print_ = fingerprint(
        {"code": code, "model": config.model, "size": list(config.size), "steps": config.ppo_steps}
    )
    return cached(config.out / "units" / "lift.json", print_, lambda: _lift(config))


def _lift(config: Any) -> dict[str, Any]:
    from spatia_env.bench.policy import scenes

    judge = _make("simulator", config)
    out: dict[str, Any] = {"random": [episode(judge, None, scene) for scene in scenes(config)]}
    for world in IDS:
        policy = train(world, config)
        out[world] = [episode(judge, policy, scene) for scene in scenes(config)]
    judge.close()
    return out


def train(world: str, config: Any) -> Any:
    """PPO after `config.ppo_steps` steps in a world, on training scenes."""
    try:
        from stable_baselines3 import PPO
    except ImportError as cause:
        raise DependencyError("--ppo-steps needs stable-baselines3: pip install 'spatia-env[rl]'.") from cause
    env = _make(world, config)
    model = PPO("MultiInputPolicy", env, n_steps=64, batch_size=64, n_epochs=4, gamma=0.9, seed=0)
    model.learn(config.ppo_steps)
    env.close()
    return model


def episode(env: gym.Env, policy: Any, scene: int) -> float:
    """Return of one episode; without a policy, of random actions."""
    observation, _ = env.reset(seed=scene, options={"scene": scene})
    rng, total = np.random.default_rng(scene), 0.0
    for _ in range(HORIZON):
        if policy is None:
            action = rng.uniform(-1, 1, 6).astype(np.float32)
        else:
            action, _ = policy.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        if terminated or truncated:
            break
    return total


def _make(world: str, config: Any) -> gym.Env:
    options: dict[str, Any] = {"view": "rl"} if world == "simulator" else {}
    return gym.make(
        IDS[world], max_episode_steps=HORIZON, task="explore", size=config.size, model=config.model, **options
    )
