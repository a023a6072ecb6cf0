"""Kills Ray workers at random moments and counts the steps that are lost or repeated.

The same actions are played in one process without any kill; every step of every world must return the same.
`python tests/ray_kills.py --kills 50` prints the counts as JSON; 0 under `wrong` is right.
"""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from spatia_env.recording import digest
from spatia_env.vector.ray import RayVectorEnv
from spatia_env.vector.sync import SpatiaVectorEnv


@dataclass(frozen=True)
class RayKillsConfig:
    """Kill workers while worlds are stepped, and compare every step with an undisturbed run."""

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
    pause: float = 0.0
    """Mean seconds between kills; 0 takes four times the first step's."""
    max_steps: int = 400
    """Give up after so many steps."""
    serve: bool = True
    """Share a served pipeline."""


class Killer:
    """Kills a worker that lives after a random pause, again and again, until told to stop.

    Args:
        env: Whose workers.
        kills: How many.
        pause: Mean seconds between kills; long enough for a new worker to begin, or no step would ever be made.
    """

    def __init__(self, env: RayVectorEnv, kills: int, pause: float) -> None:
        self.env, self.kills, self.pause, self.done = env, kills, pause, 0
        self._killed: list[Any] = []
        self._rng, self._stop = np.random.default_rng(0), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self.done < self.kills and not self._stop.wait(float(self._rng.uniform(0.1, 2 * self.pause))):
            living = [worker for worker in self.env.workers if worker not in self._killed]
            if living:
                worker = living[int(self._rng.integers(len(living)))]
                self.env.ray.kill(worker, no_restart=True)
                self._killed.append(worker)
                self.done += 1

    def stop(self) -> None:
        """No more kills."""
        self._stop.set()
        self._thread.join()


class Played:
    """Actions, and what every step of every world returned: hashes of all of it, and of the clip's frames alone."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.actions: list[Any] = []
        self.steps: list[list[str]] = []
        self.clips: list[list[str]] = []

    def reset(self) -> None:
        """Reset the worlds from a fixed seed."""
        observation, _ = self.env.reset(seed=3)
        self.steps.append([digest(_row(observation, i)) for i in range(self.env.num_envs)])

    def step(self, action: Any | None = None) -> None:
        """Step the worlds, by default with random actions."""
        action = self.env.action_space.sample() if action is None else action
        observation, rewards, terminated, truncated, infos = self.env.step(action)
        self.actions.append(action)
        worlds = range(self.env.num_envs)
        self.steps.append(
            [digest(_row(observation, i), rewards[i], terminated[i], truncated[i]) for i in worlds]
        )
        ended = terminated | truncated
        last = [infos["final_obs"][i] if ended[i] else _row(observation, i) for i in worlds]
        self.clips.append([digest(observation["frames"]) for observation in last])


class Undisturbed(SpatiaVectorEnv):
    """The worlds in one process. A clip is made alone or with the others', whichever the other run did.

    The served pipeline batches what arrives together, and a batch may round a sum another way; either is the model's
    clip for this very state. A step that was lost or repeated is neither.
    """

    wanted: Sequence[str] = ()

    def generate(self, pending: Any) -> dict[int, Any]:
        """One clip for every world, made in a batch or alone."""
        clips = super().generate(pending)
        for index, clip in clips.items():
            if digest(clip.numpy()) != self.wanted[index]:
                clips |= super().generate({index: pending[index]})
        return clips


def run_ray_kills(config: RayKillsConfig) -> dict[str, Any]:
    """Play, kill, compare; how many steps of a world were wrong, and what was run."""
    options: dict[str, Any] = {
        "model": config.model, "size": config.size, "task": "return_home", "autoreset_mode": "SameStep",
        "max_episode_steps": 12,
    }  # fmt: skip
    begin = time.perf_counter()
    env = RayVectorEnv(config.num_envs, workers=config.workers, serve=config.serve, **options)
    env.action_space.seed(1)
    played = Played(env)
    try:
        env.ray.get([worker.__ray_ready__.remote() for worker in env.workers])
        played.reset()
        start = time.perf_counter()
        played.step()  # the first of a process, as every worker that is begun must make one
        killer = Killer(env, config.kills, config.pause or 4 * (time.perf_counter() - start))
        try:
            with tqdm(desc="kills", unit="kill", total=config.kills) as bar:
                while killer.done < config.kills and len(played.actions) < config.max_steps:
                    played.step()
                    bar.update(killer.done - bar.n)
        finally:
            killer.stop()
        for _ in range(2):  # the last to be killed must recover too
            played.step()
        replaced = env.replaced
    finally:
        env.close()
    return {
        "run": {
            "kills": killer.done,
            "steps": len(played.actions),
            "replaced": replaced,
            "seconds": round(time.perf_counter() - begin, 1),
        },
        "wrong": compare(config, options, played),
    }


def compare(config: RayKillsConfig, options: dict[str, Any], played: Played) -> int:
    """Steps of a world whose result differs by a bit from an undisturbed run of the same actions in one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have it: another number of threads rounds sums another way
    try:
        env = Undisturbed(config.num_envs, **options)
        again = Played(env)
        again.reset()
        steps = zip(played.actions, played.clips, strict=True)
        for action, clips in tqdm(steps, desc="undisturbed", unit="step", total=len(played.actions)):
            env.wanted = clips
            again.step(action)
        env.close()
    finally:
        torch.set_num_threads(threads)
    pairs = zip(played.steps, again.steps, strict=True)
    return sum(got != made for row, other in pairs for got, made in zip(row, other, strict=True))


def _row(observation: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    return {key: value[index] for key, value in observation.items()}


if __name__ == "__main__":
    print(json.dumps(run_ray_kills(tyro.cli(RayKillsConfig)), indent=1))
