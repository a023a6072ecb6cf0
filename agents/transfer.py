"""Does what is learnt in the generated world hold in the true one, and the reverse?

    python agents/transfer.py --ppo.total-steps 20000

Trains the same PPO (agents/ppo.py) in the generated world and in the simulator, and evaluates either in both.
`lift` is the share of what training in the simulator gains, over an untrained agent, that training in the
generated world gains too.
"""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).parent))
import ppo as learner

WORLDS = {"imagined": "spatia_env:SpatiaRL-v0", "simulator": "spatia_env:SpatiaSim-v0"}


@dataclass(frozen=True)
class Args:
    """Training, and how many scenes judge it."""

    ppo: learner.Args = field(default_factory=learner.Args)
    """Of the training."""
    scenes: int = 5
    """Dev scenes of the evaluation."""


def main(args: Args) -> dict[str, Any]:
    """Mean returns by (trained in, evaluated in), and the lift."""
    scenes = range(10_100, 10_100 + args.scenes)
    table: dict[str, dict[str, float]] = {}
    for name, steps in (
        ("untrained", 0),
        ("imagined", args.ppo.total_steps),
        ("simulator", args.ppo.total_steps),
    ):
        run = dataclasses.replace(args.ppo, env_id=WORLDS.get(name, WORLDS["imagined"]))
        if steps:
            agent, _ = learner.train(run)
        else:
            agent = untrained(run)
        table[name] = {
            world: round(float(np.mean(learner.evaluate(agent, run, id_, scenes))), 4)
            for world, id_ in WORLDS.items()
        }
    gained = {name: row["simulator"] - table["untrained"]["simulator"] for name, row in table.items()}
    lift = round(gained["imagined"] / gained["simulator"], 4) if gained["simulator"] > 0 else None
    return {"returns": table, "lift": lift}


def untrained(args: learner.Args) -> learner.Agent:
    """An agent with its first weights."""
    envs = learner.make_envs(dataclasses.replace(args, num_envs=1))
    agent = learner.Agent(envs.single_observation_space, envs.single_action_space)
    envs.close()
    return agent


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
