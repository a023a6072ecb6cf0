"""Frontier exploration (Yamauchi, 1997) on the generated world's own map.

python agents/frontier.py --scene 10100 --steps 10
python agents/frontier.py --world spatia_env:SpatiaSim-v0     # the same in the true simulator
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from planning import explore_frontier, play


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


def act(env: Any, goal: dict[str, Any], step: int) -> np.ndarray:
    """A camera action [6] towards the nearest place where known space meets unknown space."""
    return explore_frontier(env)


def main(args: Args) -> dict[str, Any]:
    """Play one episode and return its result."""
    env = gym.make(args.world, task=args.task, size=args.size, model=args.model, judge=True)
    try:
        return play(env, act, args.steps, args.scene, {"scene": args.scene})
    finally:
        env.close()


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
