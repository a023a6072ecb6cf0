"""Model-predictive control by forks: score many actions by preview, imagine the best few, take the best.

A fork shares the map until it steps, so imagining costs a model call and no copy.

    python agents/fork_mpc.py --scene 10100 --steps 10
    python agents/fork_mpc.py --world spatia_env:SpatiaSim-v0     # the same in the true simulator
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from planning import cross_entropy, imagine, play, shoot, unseen_surface


@dataclass(frozen=True)
class Args:
    """Where to act, and for how long."""

    world: str = "spatia_env:Spatia-v0"
    """Id of the environment; "spatia_env:SpatiaSim-v0" is the true simulator."""
    task: str = "explore"
    """Task: explore, image_goal, return_home or find."""
    scene: int = 10100
    """Seed of the scene."""
    steps: int = 10
    """Clips."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the frames, pixels."""
    model: str = "spatia-tiny"
    """Checkpoint."""
    seed: int = 0
    """Of the agent."""
    method: str = "cem"
    """"shooting" or "cem", for the ranking by preview."""
    samples: int = 24
    """Actions scored by preview."""
    keep: int = 3
    """Actions imagined."""


class ForkMPC:
    """Plans one clip ahead with the task's own reward."""

    def __init__(self, args: Args) -> None:
        self.args, self.np_random = args, np.random.default_rng(args.seed)
        self.search = shoot if args.method == "shooting" else cross_entropy

    def __call__(self, env: Any, goal: dict[str, Any], step: int) -> np.ndarray:
        """A camera action [6]."""
        ranked = self.search(env, unseen_surface, self.np_random, self.args.samples)
        return imagine(env, ranked, self.args.keep)


def main(args: Args) -> dict[str, Any]:
    """Play one episode and return its result."""
    env = gym.make(args.world, task=args.task, size=args.size, model=args.model, judge=True)
    try:
        return play(env, ForkMPC(args), args.steps, args.scene, {"scene": args.scene})
    finally:
        env.close()


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
