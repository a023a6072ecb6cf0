"""Model-predictive control by preview: score many actions by what the map shows, take the best.

Random shooting or the cross-entropy method. On `image_goal` it looks around until the goal's picture fits the map
somewhere, and goes there.

    python agents/preview_mpc.py --scene 10100 --steps 10
    python agents/preview_mpc.py --world spatia_env:SpatiaSim-v0     # the same in the true simulator
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from image_localization import PictureSeeker
from planning import cross_entropy, play, shoot, unseen_surface


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


class PreviewMPC:
    """Renders candidates from the map; the model is called only for the one that is taken."""

    def __init__(self, args: Args) -> None:
        self.args, self.np_random = args, np.random.default_rng(args.seed)
        self.search = shoot if args.method == "shooting" else cross_entropy
        self.seeker: PictureSeeker | None = None

    def __call__(self, env: Any, goal: dict[str, Any], step: int) -> np.ndarray:
        """A camera action [6]."""
        if "image" in goal:
            if step == 0:
                self.seeker = PictureSeeker(env.world.c2w.double().numpy(), goal["image"], self.np_random)
            camera = self.seeker(env)
            if camera is not None:
                return camera
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
