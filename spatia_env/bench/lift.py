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
HORIZON = 8
"""Clips of an episode: a full turn takes 12, so turning on pays in every one."""


def run_lift(config: Any, code: str) -> dict[str, Any] | None:
    """True returns of random actions and of the two policies, one per scene; None without `ppo_steps`.

    Raises:
        DependencyError: stable-baselines3 is missing.
    """
    if not config.ppo_steps:
        return None
    from spatia_env.bench.policy import cached, scenes

    out: dict[str, Any] = {}
    for name in ("random", *IDS):  # each with a file of its own: training is the longest part of the run
        print_ = fingerprint({
            "code": code, "model": "" if name == "random" else _checkpoint(config), "size": list(config.size),
            "steps": config.ppo_steps, "scenes": list(scenes(config)),
        })  # fmt: skip
        path = config.out / "units" / f"lift-{name}.json"
        out[name] = cached(path, print_, lambda name=name: {"returns": _returns(name, config)})["returns"]
    return out


def _checkpoint(config: Any) -> str:
    from spatia_env.models.loading import load_checkpoint

    return load_checkpoint(config.model).id


def _returns(name: str, config: Any) -> list[float]:
    """True returns, one a scene, of random actions or of the policy trained in a world."""
    from spatia_env.bench.policy import scenes

    policy = None if name == "random" else train(name, config)
    judge = _make("simulator", config)
    try:
        return [episode(judge, policy, scene) for scene in scenes(config)]
    finally:
        judge.close()


def train(world: str, config: Any) -> Any:
    """PPO after `config.ppo_steps` steps in a world, on training scenes."""
    try:
        from stable_baselines3 import PPO
    except ImportError as cause:
        raise DependencyError("--ppo-steps needs stable-baselines3: pip install 'spatia-env[rl]'.") from cause
    env = _make(world, config)
    model = PPO(
        "MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=8, gamma=0.9, learning_rate=1e-3, seed=0
    )
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
