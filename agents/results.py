"""Make the results table of agents/README.md: every planning agent, in both worlds, on the same scenes.

    python agents/results.py --scenes 3 --steps 10

A run that was cut off goes on where it was: episodes are kept in `--out`, by their arguments and the checkpoint.
"""

import dataclasses
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

RUNS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("random_walk", "explore", {}),
    ("scripted", "explore", {"path": "panorama"}),
    ("scripted", "explore", {"path": "lawnmower"}),
    ("scripted", "explore", {"path": "orbit"}),
    ("scripted", "explore", {"path": "worldscore"}),
    ("preview_mpc", "explore", {"method": "shooting"}),
    ("preview_mpc", "explore", {"method": "cem"}),
    ("fork_mpc", "explore", {}),
    ("sweep", "explore", {}),
    ("frontier", "explore", {}),
    ("next_best_view", "explore", {}),
    ("random_walk", "image_goal", {}),
    ("preview_mpc", "image_goal", {"method": "cem"}),
    ("random_walk", "return_home", {}),
    ("return_to_start", "return_home", {}),
)
WORLDS = {"imagined": "spatia_env:Spatia-v0", "simulator": "spatia_env:SpatiaSim-v0"}
MARK = "<!-- results -->"


@dataclass(frozen=True)
class Args:
    """How much to play."""

    scenes: int = 3
    """Dev scenes, from 10100 on."""
    steps: int = 10
    """Clips of an episode."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the frames, pixels."""
    model: str = "spatia-tiny"
    """Checkpoint."""
    readme: Path = FOLDER / "README.md"
    """The page whose table is replaced."""
    out: Path = Path("out/agents")
    """Folder for the episodes; remove it to play all of them again, as after a change of the code."""
    runs: tuple[int, ...] = ()
    """Only these rows, by number; all by default."""


def main(args: Args) -> str:
    """Play, write the table into the page, and return it."""
    lines = [
        "| agent | task | return | success | SPL | true m² a clip | return, simulator | success | m² a clip |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    checkpoint = _checkpoint(args)
    for number, (name, task, options) in enumerate(RUNS):
        if args.runs and number not in args.runs:
            continue
        agent = importlib.import_module(name)
        cells = {}
        for world, id_ in WORLDS.items():
            given = {"world": id_, "task": task, "steps": args.steps, "size": args.size, "model": args.model}
            base = agent.Args(**given, **options)
            episodes = [
                _episode(args, agent, name, dataclasses.replace(base, scene=10_100 + scene), checkpoint)
                for scene in range(args.scenes)
            ]
            cells[world] = {
                key: _mean(episodes, key) for key in ("return", "success", "spl", "coverage_per_clip")
            }
        label = " ".join([name, *map(str, options.values())])
        first, second = cells["imagined"], cells["simulator"]
        row = [label, task, *first.values(), second["return"], second["success"], second["coverage_per_clip"]]
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    command = f"python agents/results.py --scenes {args.scenes} --steps {args.steps}"
    table = "\n".join(
        [*lines, "", f"Made by `{command}` at {args.size[0]}x{args.size[1]} with `{checkpoint}`."]
    )
    page = args.readme.read_text(encoding="utf-8")
    head, _, rest = page.partition(MARK)
    _, _, tail = rest.partition(MARK)
    args.readme.write_text(f"{head}{MARK}\n{table}\n{MARK}{tail}", encoding="utf-8")
    return table


def _checkpoint(args: Args) -> str:
    env: Any = gym.make(WORLDS["imagined"], size=args.size, model=args.model)
    env.close()
    return str(env.unwrapped.checkpoint_id)


def _episode(args: Args, agent: Any, name: str, given: Any, checkpoint: str) -> dict[str, Any]:
    """What the agent's `main` returns, from its file where it was played before."""
    about = {"agent": name, "checkpoint": checkpoint, **json.loads(json.dumps(dataclasses.asdict(given)))}
    label = "-".join([name, given.task, *map(str, dataclasses.asdict(given).values())])
    path = args.out / ("".join(c if c.isalnum() or c in "-." else "_" for c in label) + ".json")
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["about"] == about:
            return found["result"]
    result = agent.main(given)
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "result": result}), encoding="utf-8")
    return result


def _mean(episodes: list[dict[str, Any]], key: str) -> str:
    values = [float(episode[key]) for episode in episodes if key in episode]
    return f"{np.mean(values):.2f}" if values else ""


if __name__ == "__main__":
    main(tyro.cli(Args))
