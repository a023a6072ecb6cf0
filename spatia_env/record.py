"""`spatia record`: play episodes and write them down."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from tqdm import tqdm

from spatia_env.actions import PRESETS, preset
from spatia_env.errors import ActionError
from spatia_env.io.validation import near_miss
from spatia_env.recording import RecordEpisodes
from spatia_env.wrappers import RecordClips


@dataclass(frozen=True)
class RecordConfig:
    """Play episodes and write them down: a film and a JSON each, and on request Minari or WebDataset."""

    out: Path
    """Folder to write to; episodes are numbered on from what it holds."""
    id: str = "Spatia-v0"
    """Id of the environment."""
    episodes: int = 1
    """How many."""
    steps: int = 8
    """Clips of an episode."""
    path: str = "random"
    """"random", or the name of a camera path such as "look_around"."""
    scene: str | None = None
    """Scene to open, a seed or a name; drawn from the seed by default."""
    task: str = "none"
    """Task."""
    size: tuple[int, int] = (128, 128)
    """Height and width of the frames, pixels."""
    model: str = "spatia-tiny"
    """Checkpoint."""
    seed: int = 0
    """Of the first episode; the next has the next."""
    arrays: bool = False
    """Also an npz of depth, poses and known."""
    minari: str | None = None
    """Also a Minari dataset of this name, such as spatia/walk-v0."""
    shards: Path | None = None
    """Also WebDataset shards, in this new folder."""


def run_record(config: RecordConfig) -> list[Path]:
    """Play and record; the JSON files.

    Raises:
        ActionError: Unknown path, task or scene, or a dataset that is there already.
    """
    if config.path != "random" and config.path not in PRESETS:
        raise ActionError(
            f"record --path: unknown {config.path!r}{near_miss(config.path, ('random', *PRESETS))}"
        )
    env: Any = gym.make(
        f"spatia_env:{config.id}", task=config.task, size=config.size, model=config.model,
        max_episode_steps=config.steps,
    )  # fmt: skip
    collected = None
    if config.minari is not None:
        from spatia_env.datasets import check_minari, collector

        check_minari(config.minari)
        # The innermost: a dataset names its environment without the recorders around it.
        env = collected = collector(env)
    env = recorder = RecordEpisodes(env, config.out)
    env = RecordClips(env, config.out, arrays=config.arrays)
    if config.shards is not None:
        from spatia_env.datasets import RecordShards

        env = RecordShards(env, config.shards)
    try:
        _play(config, env)
        if collected is not None:
            from spatia_env.datasets import save_minari

            save_minari(collected, str(config.minari))
    finally:
        env.close()
    return recorder.paths


def _play(config: RecordConfig, env: Any) -> None:
    options = None
    if config.scene is not None:
        options = {"scene": int(config.scene) if config.scene.isdigit() else config.scene}
    camera = None if config.path == "random" else preset(config.path)
    env.action_space.seed(config.seed)
    for episode in tqdm(range(config.episodes), desc="record", unit="episode"):
        env.reset(seed=config.seed + episode, options=options)
        for step in range(config.steps):
            action = env.action_space.sample()
            if camera is not None:
                motion = camera[step] if step < len(camera) else np.zeros(6, np.float32)
                action = {"camera": motion, "event": ""}
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break


def main(argv: list[str]) -> int:
    """Run `spatia record`."""
    config = tyro.cli(RecordConfig, args=argv, prog="spatia record")
    for path in run_record(config):
        print(f"wrote {path}")
    return 0
