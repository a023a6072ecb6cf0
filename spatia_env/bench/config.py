"""What `spatia bench` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

DEV_SEEDS = range(10_000, 11_000)
SMOKE_EVENTS = ("red_ball_rolls", "night")


@dataclass(frozen=True)
class BenchConfig:
    """Measure against the simulator's ground truth; writes results.json, table.md, plots and sheets."""

    suite: tyro.conf.Positional[Literal["core", "smoke"]] = "core"
    """core: the table of the README (about 20 minutes on 2 cores); smoke: the same at one scene and two
    events
    """
    out: Path = Path("out/bench/core")
    """folder to write to; a run that was interrupted goes on where it was"""
    first_seed: int = DEV_SEEDS.start
    """first dev seed (10000-10999)"""
    scenes: int | None = None
    """how many scenes; 12 for core, 1 for smoke"""
    only: tuple[str, ...] = ()
    """only these suites (renderer autoencoder photographs walk loop zero leakage events time)"""
    rows: tuple[str, ...] = ()
    """only these rows"""
    events: tuple[str, ...] = ()
    """only these events, by name; all for core, two for smoke"""
    clips: int = 4
    """clips of a walk and of a loop, an even number"""
    size: tuple[int, int] = (128, 128)
    """height and width in pixels"""
    model: str | None = None
    """checkpoint: a name or a folder; the packaged one by default"""
    plots: bool = True
    """draw plots and contact sheets"""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The scene seeds."""
        count = self.scenes if self.scenes is not None else {"core": 12, "smoke": 1}[self.suite]
        return tuple(range(self.first_seed, self.first_seed + count))

    @property
    def event_names(self) -> tuple[str, ...]:
        """The events that are asked for; empty for all."""
        return self.events or (SMOKE_EVENTS if self.suite == "smoke" else ())

    @property
    def movers(self) -> int:
        """How many movers a scene the leakage suite shows."""
        return 1 if self.suite == "smoke" else 4

    @property
    def command(self) -> str:
        """What to type to get this again."""
        parts = ["spatia bench", self.suite, "--out", str(self.out)]
        if self.first_seed != DEV_SEEDS.start:
            parts += ["--first-seed", str(self.first_seed)]
        if self.scenes is not None:
            parts += ["--scenes", str(self.scenes)]
        for name in ("only", "rows", "events"):
            if getattr(self, name):
                parts += [f"--{name}", *getattr(self, name)]
        if self.clips != 4:
            parts += ["--clips", str(self.clips)]
        if self.size != (128, 128):
            parts += ["--size", *map(str, self.size)]
        return " ".join(parts + (["--model", self.model] if self.model else []))
