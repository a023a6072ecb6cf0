"""Next best view: of many poses around, go to the one from which most surface is unknown, for its price.

The value of a pose is the share of its view that the map does not know, less `price` times the clips it takes.

    python agents/next_best_view.py --scene 10100 --steps 10
    python agents/next_best_view.py --world spatia_env:SpatiaSim-v0     # the same in the true simulator
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from planning import LIMITS, look, play, towards, unseen_surface
from spatia_env.geometry import se3_exp


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
    views: int = 32
    """Poses considered."""
    price: float = 0.15
    """Of a clip of travel, in shares of a view."""


class NextBestView:
    """Keeps a pose in mind until it is reached or nothing there is unknown any more."""

    def __init__(self, args: Args) -> None:
        self.args, self.np_random = args, np.random.default_rng(args.seed)

    def __call__(self, env: Any, goal: dict[str, Any], step: int) -> np.ndarray:
        """A camera action [6]."""
        here = env.world.c2w.double().numpy()
        clips = self.np_random.uniform(-1, 1, (self.args.views, 6)) * [1.5, 0, 2, 0, 6, 0]
        poses = (
            here @ se3_exp(clips * [1, 1, 1, 0, 0, 0] * LIMITS) @ se3_exp(clips * [0, 0, 0, 1, 1, 1] * LIMITS)
        )
        value = unseen_surface(*look(env, poses)) - self.args.price * np.abs(clips).max(1)
        return towards(here, poses[int(value.argmax())])


def main(args: Args) -> dict[str, Any]:
    """Play one episode and return its result."""
    env = gym.make(args.world, task=args.task, size=args.size, model=args.model, judge=True)
    try:
        return play(env, NextBestView(args), args.steps, args.scene, {"scene": args.scene})
    finally:
        env.close()


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
