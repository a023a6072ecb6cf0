"""Model-predictive control by preview: score many actions by what the map shows, take the best.

Random shooting or the cross-entropy method. On `image_goal` it looks for the goal's picture in the map, and
goes where it matches.

    python agents/preview_mpc.py --scene 10100 --steps 10
    python agents/preview_mpc.py --world spatia_env:SpatiaSim-v0     # the same in the true simulator
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from spatia_env.planning import cross_entropy, find_view, play, shoot, towards, unseen_surface


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
    """"shooting" or "cem"."""
    samples: int = 24
    """Actions scored a round."""
    good_match: float = -0.1
    """Likeness of the goal's picture (-1 to 0) above which its place counts as found."""


class PreviewMPC:
    """Renders candidates from the map; the model is called only for the one that is taken."""

    def __init__(self, args: Args) -> None:
        self.args, self.np_random = args, np.random.default_rng(args.seed)
        self.search = shoot if args.method == "shooting" else cross_entropy
        self.start: np.ndarray | None = None

    def __call__(self, env: Any, goal: dict[str, Any], step: int) -> np.ndarray:
        """A camera action [6]."""
        here = env.world.c2w.double().numpy()
        if step == 0:
            self.start = here
        if "image" in goal:
            pose, likeness = find_view(env, goal["image"], self.start, self.np_random)
            if likeness > self.args.good_match:
                return towards(here, pose)
        return self.search(env, unseen_surface, self.np_random, self.args.samples)[0]


def main(args: Args) -> dict[str, Any]:
    """Play one episode and return its result."""
    env = gym.make(args.world, task=args.task, size=args.size, model=args.model, judge=True)
    try:
        return play(env, PreviewMPC(args), args.steps, args.scene, {"scene": args.scene})
    finally:
        env.close()


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
