"""What `spatia bench` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

DEV_SEEDS = range(10_000, 11_000)
TEST_SEEDS = range(20_000, 20_200)
SMOKE_EVENTS = ("red_ball_rolls", "night")
SCENES = {"smoke": 1, "core": 12, "standard": 8, "full": 60}
LOOPS = (
    ("glance", 1), ("orbit", 2), ("loop", 2), ("square", 4), ("look-away", 4), ("lawnmower", 6), ("loop", 6),
    ("revisit", 6),
)  # fmt: skip
"""Closed paths of `standard` and `full` besides the loop of four clips."""


@dataclass(frozen=True)
class BenchConfig:
    """Measure against the simulator's ground truth; writes results.json, table.md, plots, sheets and videos.

    Other benches: memory, cost, vector, ray, policy. Tools: compare, readme, worldscore. Each has --help.
    """

    suite: tyro.conf.Positional[Literal["core", "smoke", "standard", "full"]] = "core"
    """core: the first table (about 20 minutes on 2 cores); smoke: the same at one scene and two events; standard:
    every suite on dev scenes (about 40 minutes); full: every suite on 60 test scenes, for nights
    """
    out: Path = Path("out/bench/core")
    """folder to write to; a run that was interrupted goes on where it was"""
    first_seed: int | None = None
    """first seed; 10000 (dev seeds end at 10999), for full 20000 (test seeds end at 20199)"""
    scenes: int | None = None
    """how many scenes; 12 for core, 1 for smoke, 8 for standard, 60 for full"""
    only: tuple[str, ...] = ()
    """only these suites"""
    rows: tuple[str, ...] = ()
    """only these rows"""
    events: tuple[str, ...] = ()
    """only these events, by name; all by default, two for smoke"""
    clips: int = 4
    """clips of a walk and of a loop, an even number"""
    size: tuple[int, int] = (128, 128)
    """height and width in pixels"""
    model: str | None = None
    """checkpoint: a name or a folder; the packaged one by default"""
    plots: bool = True
    """draw plots, contact sheets and videos"""
    truths: Path | None = Path("out/bench/truths")
    """where the simulator's pictures are kept between runs; None keeps nothing; full keeps nothing"""

    @property
    def wide(self) -> bool:
        """Whether every suite and row is measured."""
        return self.suite in ("standard", "full")

    @property
    def allowed(self) -> range:
        """The seeds that this run may look at: test seeds for full alone."""
        return TEST_SEEDS if self.suite == "full" else DEV_SEEDS

    @property
    def split(self) -> str:
        """Of seeds, assets and wordings."""
        return "test" if self.suite == "full" else "dev"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The scene seeds."""
        count = self.scenes if self.scenes is not None else SCENES[self.suite]
        first = self.allowed.start if self.first_seed is None else self.first_seed
        return tuple(range(first, first + count))

    @property
    def event_names(self) -> tuple[str, ...]:
        """The events that are asked for; empty for all."""
        return self.events or (SMOKE_EVENTS if self.suite == "smoke" else ())

    @property
    def movers(self) -> int:
        """How many movers a scene the leakage suite shows."""
        return 1 if self.suite == "smoke" else 4

    @property
    def loops(self) -> tuple[tuple[str, int], ...]:
        """Closed paths besides the loop of `clips` clips."""
        return LOOPS if self.wide else ()

    @property
    def truth_folder(self) -> Path | None:
        """Where truths are kept."""
        return None if self.suite == "full" else self.truths

    @property
    def command(self) -> str:
        """What to type to get this again."""
        parts = ["spatia bench", self.suite, "--out", str(self.out)]
        if self.first_seed is not None and self.first_seed != self.allowed.start:
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
