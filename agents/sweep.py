"""Sweep: look all around from a step aside each time, then take the views that promise most surface.

python agents/sweep.py --scene 10100 --steps 10
python agents/sweep.py --world spatia_env:SpatiaSim-v0     # the same in the true simulator
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from information_gain import best_view, sweep
from planning import play


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


class Sweep:
    """One full turn of twelve clips, up and down by turns; then the best of many views on a guess of the room."""

    def __init__(self, args: Args) -> None:
        self.np_random, self.side = np.random.default_rng(args.seed), 0.0

    def __call__(self, env: Any, goal: dict[str, Any], step: int) -> np.ndarray:
        """A camera action [6]."""
        if step >= 12:
            return best_view(env, self.np_random)[0]
        camera = sweep(env, step, self.side)
        self.side = float(np.sign(camera[4]))
        return camera


def main(args: Args) -> dict[str, Any]:
    """Play one episode and return its result."""
    env = gym.make(args.world, task=args.task, size=args.size, model=args.model, judge=True)
    try:
        return play(env, Sweep(args), args.steps, args.scene, {"scene": args.scene})
    finally:
        env.close()


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
