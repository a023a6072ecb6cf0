"""`spatia replay`: play recorded episodes again, and name the first step that differs."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from spatia_env.recording import first_difference, read_episode


@dataclass(frozen=True)
class ReplayConfig:
    """Play recorded episodes again and compare every step."""

    episodes: tyro.conf.Positional[tuple[Path, ...]]
    """JSON files that `spatia record` wrote."""
    verify: bool = True
    """Compare hashes; without, only say what is in the files."""


def run_replay(config: ReplayConfig) -> int:
    """Print a line an episode; the number of episodes that differ."""
    differing = 0
    for path in config.episodes:
        episode = read_episode(path)
        line = f"{path}: {episode['id']}, {len(episode['steps'])} steps, {episode['checkpoint']}"
        if config.verify:
            step = first_difference(episode)
            differing += step is not None
            line += ": every step repeats" if step is None else f": differs from step {step} on"
        print(line)
    return differing


def main(argv: list[str]) -> int:
    """Run `spatia replay`; 1 if an episode did not repeat."""
    return 1 if run_replay(tyro.cli(ReplayConfig, args=argv, prog="spatia replay")) else 0
