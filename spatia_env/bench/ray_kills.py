"""`spatia bench ray`: kill Ray workers at random moments, and count the steps that are lost or repeated.

The same actions are played in one process without any kill; every step of every world must return the same.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from spatia_env.bench.core import write_json
from spatia_env.bench.provenance import origin
from spatia_env.distributed import RayVectorEnv
from spatia_env.recording import digest
from spatia_env.vector import SpatiaVectorEnv


@dataclass(frozen=True)
class RayKillsConfig:
    """Kill workers while worlds are stepped, and compare every step with an undisturbed run."""

    out: Path
    """Folder for results.json."""
    kills: int = 50
    """Workers to kill."""
    num_envs: int = 2
    """Worlds."""
    workers: int = 2
    """Ray workers."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the frames, pixels."""
    model: str = "spatia-tiny"
    """Checkpoint."""
    max_steps: int = 400
    """Give up after so many steps."""
    serve: bool = True
    """Share a served pipeline."""


class Killer:
    """Kills a random worker after a random pause, again and again, until told to stop.

    Args:
        env: Whose workers.
        kills: How many.
        pause: Mean seconds between kills.
    """

    def __init__(self, env: RayVectorEnv, kills: int, pause: float) -> None:
        self.env, self.kills, self.pause, self.done = env, kills, pause, 0
        self._rng, self._stop = np.random.default_rng(0), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self.done < self.kills and not self._stop.wait(float(self._rng.uniform(0.1, 2 * self.pause))):
            index = int(self._rng.integers(len(self.env.workers)))
            self.env.ray.kill(self.env.workers[index], no_restart=True)
            self.done += 1

    def stop(self) -> None:
        """No more kills."""
        self._stop.set()
        self._thread.join()


def run_ray_kills(config: RayKillsConfig) -> dict[str, Any]:
    """Play, kill, compare; the content of results.json."""
    options: dict[str, Any] = {
        "model": config.model, "size": config.size, "task": "return_home", "autoreset_mode": "SameStep",
        "max_episode_steps": 12,
    }  # fmt: skip
    begin = time.perf_counter()
    env = RayVectorEnv(config.num_envs, workers=config.workers, serve=config.serve, **options)
    env.action_space.seed(1)
    steps, kills = 0, 0
    hashes: list[str] = []
    actions: list[Any] = []
    try:
        observation, _ = env.reset(seed=3)
        hashes.append(digest(observation))
        pause = _step_seconds(env, hashes, actions)
        steps = len(actions)
        killer = Killer(env, config.kills, pause)
        try:
            while killer.done < config.kills and steps < config.max_steps:
                _step(env, hashes, actions)
                steps += 1
        finally:
            killer.stop()
            kills = killer.done
        for _ in range(2):  # the last to be killed must recover too
            _step(env, hashes, actions)
            steps += 1
        replaced = env.replaced
    finally:
        env.close()
    wrong = compare(config, options, hashes, actions)
    return {
        "run": {
            "kills": kills,
            "steps": steps,
            "replaced": replaced,
            "seconds": round(time.perf_counter() - begin, 1),
        },
        "wrong": wrong,
    }


def compare(config: RayKillsConfig, options: dict[str, Any], hashes: list[str], actions: list[Any]) -> int:
    """Steps whose result differs from an undisturbed run of the same actions in one process.

    Every world calls the model alone, as a batch may round a sum another way.
    """
    worlds = [SpatiaVectorEnv(1, **options) for _ in range(config.num_envs)]
    first = [world.reset(seed=3 + index)[0] for index, world in enumerate(worlds)]
    wrong = int(digest(_together(first)) != hashes[0])
    for expected, action in zip(hashes[1:], actions, strict=True):
        rows = []
        for index, world in enumerate(worlds):
            own = {"camera": action["camera"][index : index + 1], "event": action["event"][index : index + 1]}
            rows.append(world.step(own)[:4])
        observation = _together([row[0] for row in rows])
        wrong += int(
            _digest(observation, [np.concatenate([row[i] for row in rows]) for i in (1, 2, 3)]) != expected
        )
    for world in worlds:
        world.close()
    return wrong


def _step_seconds(env: RayVectorEnv, hashes: list[str], actions: list[Any]) -> float:
    begin = time.perf_counter()
    for _ in range(2):
        _step(env, hashes, actions)
    return (time.perf_counter() - begin) / 2


def _step(env: RayVectorEnv, hashes: list[str], actions: list[Any]) -> None:
    action = env.action_space.sample()
    actions.append(action)
    observation, *flags, _ = env.step(action)
    hashes.append(_digest(observation, flags))


def _digest(observation: Any, flags: Sequence[np.ndarray]) -> str:
    return digest(dict(observation) | {f"flag{i}": flag for i, flag in enumerate(flags)})


def _together(observations: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([one[key] for one in observations]) for key in observations[0]}


def main(argv: Sequence[str]) -> int:
    """Run `spatia bench ray`."""
    config = tyro.cli(RayKillsConfig, args=list(argv), prog="spatia bench ray")
    found = run_ray_kills(config)
    run = found["run"]
    command = f"spatia bench ray --kills {config.kills} --out {config.out}"
    figure = {
        "title": f"steps lost or repeated under {run['kills']} kills of Ray workers", "unit": "",
        "value": found["wrong"], "ci": [found["wrong"]] * 2, "n": run["steps"], "reach": "<= 0",
        "holds": found["wrong"] == 0 and run["kills"] >= config.kills, "command": command,
    }  # fmt: skip
    config.out.mkdir(parents=True, exist_ok=True)
    content = {"schema": "spatia-bench/1", "run": run | origin(), "figures": {"ray_lost_or_repeated": figure}}
    write_json(config.out / "results.json", content)
    print(
        f"{run['kills']} kills, {run['steps']} steps, {run['replaced']} workers replaced: {found['wrong']} steps differ"
    )
    return 0 if figure["holds"] else 1
