"""Scripted paths: orbit, lawnmower, panorama, and WorldScore's eight, as named presets.

python agents/scripted.py --scene 10100 --steps 10
python agents/scripted.py --world spatia_env:SpatiaSim-v0     # the same in the true simulator
"""

import json
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from planning import play
from spatia_env.actions import WORLDSCORE_PRESETS, preset


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
    path: str = "panorama"
    """orbit, lawnmower, panorama, worldscore, or any preset of `spatia_env.actions`."""


def camera_path(name: str) -> np.ndarray:
    """The camera actions [clips, 6] of a named path."""
    if name == "orbit":
        return np.concatenate([preset("orbit_left", 1.5)] * 6)
    if name == "panorama":
        return preset("panorama_right")
    if name == "lawnmower":
        # Lanes to and fro, looking ahead all the while, each half a metre on.
        lane, on = preset("move_right", 1.5), preset("push_in", 0.5)
        return np.concatenate([lane, on, -lane, on, lane, on, -lane])
    if name == "worldscore":
        # Each of the eight from the same place: there and back.
        there = [preset(one) for one in WORLDSCORE_PRESETS]
        return np.concatenate([np.concatenate([path, -path[::-1]]) for path in there])
    return preset(name)


class Scripted:
    """Follows a path; stands still at its end."""

    def __init__(self, args: Args) -> None:
        self.path = camera_path(args.path)

    def __call__(self, env: Any, goal: dict[str, Any], step: int) -> np.ndarray:
        """A camera action [6]."""
        return self.path[step] if step < len(self.path) else np.zeros(6)


def main(args: Args) -> dict[str, Any]:
    """Play one episode and return its result."""
    env = gym.make(args.world, task=args.task, size=args.size, model=args.model, judge=True)
    try:
        return play(env, Scripted(args), args.steps, args.scene, {"scene": args.scene})
    finally:
        env.close()


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
