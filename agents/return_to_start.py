"""Go out, then come back to the first pose: closes a loop, which is what a remembered world is for.

python agents/return_to_start.py --scene 10100 --steps 10
python agents/return_to_start.py --world spatia_env:SpatiaSim-v0     # the same in the true simulator
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from planning import play, towards


@dataclass(frozen=True)
class Args:
    """Where to act, and for how long."""

    world: str = "spatia_env:Spatia-v0"
    """Id of the environment; "spatia_env:SpatiaSim-v0" is the true simulator."""
    task: str = "return_home"
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
    out: int = 3
    """Clips of the way out."""


class ReturnToStart:
    """Turns and walks away, then goes straight back."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.start: np.ndarray | None = None

    def __call__(self, env: Any, goal: dict[str, Any], step: int) -> np.ndarray:
        """A camera action [6]."""
        here = env.world.c2w.double().numpy()
        if step == 0:
            self.start = here
        return np.array([0, 0, 0.3, 0, 0.9, 0]) if step < self.args.out else towards(here, self.start)


def main(args: Args) -> dict[str, Any]:
    """Play one episode and return its result."""
    env = gym.make(args.world, task=args.task, size=args.size, model=args.model, judge=True)
    try:
        return play(env, ReturnToStart(args), args.steps, args.scene, {"scene": args.scene})
    finally:
        env.close()


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
