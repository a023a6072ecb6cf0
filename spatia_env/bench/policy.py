"""`spatia bench policy`: policies of graded skill, in the generated world and in the simulator.

Units are (policy, task, world); each is one JSON file, and what is there is not played again. A policy acts in
either world through the same observations, map and rewards. Truth is the simulator's return.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from tqdm import tqdm

from spatia_env.bench.core import plain, write_json
from spatia_env.bench.planning import as_action
from spatia_env.bench.policies import POLICIES, Memo
from spatia_env.bench.policy_report import PLANNER, write_policy_report
from spatia_env.bench.provenance import code_hash, fingerprint, origin
from spatia_env.errors import ActionError
from spatia_env.io.validation import near_miss

TASKS = ("explore", "image_goal", "return_home", "find")
WORLDS = {"imagined": "spatia_env:Spatia-v0", "simulator": "spatia_env:SpatiaSim-v0"}
FIRST_SCENE = 10_100
"""Dev scenes from here on; none was trained on."""


@dataclass(frozen=True)
class PolicyBenchConfig:
    """Play frozen policies in the generated world and in the simulator, and compare their returns."""

    out: Path
    """Folder for results.json, table.md, plots and units; what it holds is not played again."""
    scenes: int = 5
    """Scenes; each gives one task of each kind."""
    planner_scenes: int = 12
    """Scenes of the figures that compare the planner with random, in the simulator."""
    steps: int = 10
    """Clips of an episode."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the frames, pixels."""
    policies: tuple[str, ...] = ()
    """Only these; all by default."""
    tasks: tuple[str, ...] = ()
    """Only these kinds; all by default."""
    model: str = "spatia-tiny"
    """Checkpoint: a name or a folder."""
    ppo_steps: int = 0
    """Train PPO for so many steps in either world, for the optimisation lift; 0 leaves it out."""
    exploit_scenes: int = 3
    """Scenes on which the cross-entropy method searches for what the model overrates."""

    @property
    def command(self) -> str:
        """The command line of this run."""
        parts = ["spatia bench policy --out", str(self.out), f"--scenes {self.scenes} --steps {self.steps}"]
        parts += [f"--size {self.size[0]} {self.size[1]}", f"--ppo-steps {self.ppo_steps}"]
        parts += [f"--planner-scenes {self.planner_scenes} --exploit-scenes {self.exploit_scenes}"]
        for name in ("policies", "tasks"):
            if getattr(self, name):
                parts += [f"--{name}", *getattr(self, name)]
        return " ".join(parts + ([f"--model {self.model}"] if self.model != "spatia-tiny" else []))


@dataclass(frozen=True)
class PolicyUnit:
    """One episode to play."""

    policy: str
    task: str
    scene: int
    world: str

    @property
    def name(self) -> str:
        """Its file name, without suffix."""
        return f"{self.world}-{self.task}-{self.scene}-{self.policy}"


def run_policy_bench(config: PolicyBenchConfig) -> dict[str, Any]:
    """Play what is missing, write every output and return the content of results.json.

    Raises:
        ActionError: Unknown policies or tasks, or nothing to compare.
    """
    from spatia_env.bench.exploit import run_exploit
    from spatia_env.bench.lift import run_lift

    _check(config)
    (config.out / "units").mkdir(parents=True, exist_ok=True)
    code, players = code_hash(), Players(config)
    try:
        units = [
            measure(config, unit, players, code) for unit in tqdm(plan(config), desc="policy", unit="episode")
        ]
        exploit = run_exploit(config, players, code)
    finally:
        players.close()
    lift = run_lift(config, code)
    run = {"command": config.command, "suite": "policy", "model": config.model, **origin()}
    return write_policy_report(config, units, exploit, lift, run)


def plan(config: PolicyBenchConfig) -> list[PolicyUnit]:
    """All episodes, scene by scene, so that a run that is cut off can be reported with fewer scenes.

    More scenes for the planner's figures follow, in the simulator alone.
    """
    policies, tasks = config.policies or tuple(POLICIES), config.tasks or TASKS
    units = [
        PolicyUnit(policy, task, scene, world)
        for scene in scenes(config)
        for task in tasks
        for world in WORLDS
        for policy in policies
    ]
    more = range(scenes(config).stop, FIRST_SCENE + config.planner_scenes)
    compared = [("random", "explore"), (PLANNER, "explore"), (PLANNER, "image_goal")]
    return units + [
        PolicyUnit(policy, task, scene, "simulator")
        for scene in more
        for policy, task in compared
        if policy in policies and task in tasks
    ]


def scenes(config: PolicyBenchConfig) -> range:
    """The scenes of a run."""
    return range(FIRST_SCENE, FIRST_SCENE + config.scenes)


def _check(config: PolicyBenchConfig) -> None:
    for what, given, known in (("policies", config.policies, POLICIES), ("tasks", config.tasks, TASKS)):
        for name in given:
            if name not in known:
                raise ActionError(f"bench policy --{what}: unknown name {name!r}{near_miss(name, known)}")
    if len(config.policies or POLICIES) < 3 or config.scenes < 1 or config.steps < 1:
        raise ActionError("bench policy: give at least 3 policies, 1 scene and 1 step.")


class Players:
    """Environments by (world, task), made when they are first needed."""

    def __init__(self, config: PolicyBenchConfig) -> None:
        self.config = config
        self._envs: dict[tuple[str, str], gym.Env] = {}

    def env(self, world: str, task: str) -> Any:
        """The unwrapped environment of a world and a task."""
        if (world, task) not in self._envs:
            self._envs[world, task] = gym.make(
                WORLDS[world], task=task, judge=True, size=self.config.size, model=self.config.model
            )
        return self._envs[world, task].unwrapped

    def close(self) -> None:
        """Close them."""
        for env in self._envs.values():
            env.close()


def measure(config: PolicyBenchConfig, unit: PolicyUnit, players: Players, code: str) -> dict[str, Any]:
    """The unit's values, from its file where that still holds."""
    env = players.env(unit.world, unit.task)
    print_ = fingerprint(
        {
            "code": code,
            "checkpoint": env.checkpoint_id if unit.world == "imagined" else "",
            "size": list(config.size),
            "steps": config.steps,
        }
    )
    return cached(
        config.out / "units" / f"{unit.name}.json", print_, lambda: unit.__dict__ | play(env, unit, config)
    )


def cached(path: Path, print_: str, make: Any) -> dict[str, Any]:
    """The JSON object in a file if it has this fingerprint; else what `make()` returns, written there."""
    try:
        found = json.loads(path.read_text())
        if found.get("fingerprint") == print_:
            return found
    except (OSError, ValueError):
        pass
    made = plain({"fingerprint": print_, **make()})
    write_json(path, made)
    return made


def play(env: Any, unit: PolicyUnit, config: PolicyBenchConfig) -> dict[str, Any]:
    """One episode: return, success, SPL, and the true surface in m^2 seen before it and after each clip."""
    _, info = env.reset(seed=unit.scene, options={"scene": unit.scene})
    start = env.world.c2w.double().numpy().copy()
    # The same random numbers in both worlds.
    rng = np.random.default_rng([unit.scene, TASKS.index(unit.task), list(POLICIES).index(unit.policy)])
    memo = Memo(env, unit.task, info.get("goal", {}), rng, 0, start)
    rewards: list[float] = []
    coverage: list[float] = []
    ended, info = False, {}
    while memo.step < config.steps and not ended:
        _, reward, terminated, truncated, info = env.step(as_action(POLICIES[unit.policy](memo)))
        memo.step += 1
        rewards.append(float(reward))
        if not coverage:
            coverage.append(info["oracle"]["coverage"] - info["oracle"]["new_coverage"])
        coverage.append(info["oracle"]["coverage"])
        ended = terminated or truncated
    coverage += [coverage[-1]] * (config.steps + 1 - len(coverage))
    return {
        "return": sum(rewards),
        "success": float(info["is_success"]),
        "spl": info.get("spl"),
        "end": info.get("end", ""),
        "clips": memo.step,
        "coverage": coverage,
    }


def main(argv: Sequence[str]) -> int:
    """Run `spatia bench policy`."""
    config = tyro.cli(PolicyBenchConfig, args=list(argv), prog="spatia bench policy")
    content = run_policy_bench(config)
    for name, figure in content["figures"].items():
        reach = f", to reach {figure['reach']}" if figure["reach"] else ""
        print(
            f"{name}: {figure['value']:.3f} {figure['unit']} [{figure['ci'][0]:.3f}, {figure['ci'][1]:.3f}]{reach}"
        )
    print(f"\n{config.out / 'results.json'}, table.md, plots/")
    return 0
