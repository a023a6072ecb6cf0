"""Which suites there are, and which rows each of them measures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spatia_env.bench.happenings import measure_events
from spatia_env.bench.probes import (
    PHOTOGRAPHS,
    measure_autoencoder,
    measure_leakage,
    measure_photographs,
    measure_renderer,
    measure_time,
)
from spatia_env.bench.quality import Context, Measured, measure_loop, measure_walk, measure_zero
from spatia_env.bench.rows import Row

PICTURE_ROWS = (
    "oracle",
    "default",
    "default-picture-only",
    "no-memory",
    "no-references",
    "memory-render-only",
    "memory-filled",
    "frozen-frame",
)
LOOP_ROWS = tuple(name for name in PICTURE_ROWS if name != "default-picture-only")
TIMED_SCENES = 4


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: As typed.
        summary: What it measures, one line.
        measure: Measures one (scene, row).
        rows: The rows, by name.
        over: What is counted as a scene: "scenes", "timed" (the first few scenes), or "photographs".
    """

    name: str
    summary: str
    measure: Callable[..., Measured]
    rows: tuple[str, ...]
    over: str = "scenes"

    def subjects(self, scenes: tuple[int, ...]) -> tuple[int, ...]:
        """The scene seeds (or photograph numbers) that this suite measures when the run has these scenes."""
        if self.over == "photographs":
            return tuple(range(len(PHOTOGRAPHS)))
        return scenes[:TIMED_SCENES] if self.over == "timed" else scenes

    def run(self, context: Context, scene: int, row: Row, events: tuple[str, ...]) -> Measured:
        """Measure one unit."""
        if self.name == "events":
            return self.measure(context, scene, row, events)
        return self.measure(context, scene, row)


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            Suite(
                "renderer", "a frame through an empty map and back", measure_renderer, ("memory-render-only",)
            ),
            Suite("autoencoder", "true frames encoded and decoded", measure_autoencoder, ("default",)),
            Suite(
                "photographs",
                "photographs encoded and decoded",
                measure_photographs,
                ("default",),
                "photographs",
            ),
            Suite("walk", "four clips against the truth", measure_walk, PICTURE_ROWS),
            Suite("loop", "out and back to the first pose", measure_loop, LOOP_ROWS),
            Suite("zero", "five zero moves after a walk", measure_zero, ("default",)),
            Suite("leakage", "what moves must not enter the map", measure_leakage, ("default",)),
            Suite("events", "does what the text says happen", measure_events, ("oracle", "default")),
            Suite("time", "seconds a step", measure_time, ("default",), "timed"),
        )
    }
)
