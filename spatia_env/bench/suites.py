"""Which suites there are, and which rows each of them measures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spatia_env.bench.edits import measure_edit
from spatia_env.bench.engine import measure_engine
from spatia_env.bench.happenings import measure_events
from spatia_env.bench.loops import measure_drift, measure_loop
from spatia_env.bench.map_suite import measure_memory
from spatia_env.bench.probes import (
    PHOTOGRAPHS,
    measure_autoencoder,
    measure_leakage,
    measure_photographs,
    measure_renderer,
    measure_time,
)
from spatia_env.bench.quality import Context, Measured, measure_walk, measure_zero
from spatia_env.bench.rows import Row
from spatia_env.bench.sweeps import SWEEP_ROWS, measure_sweep
from spatia_env.bench.ws_static import measure_ws_static

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
MORE_ROWS = (
    "no-scene-render",
    "no-continuation",
    "no-slam",
    "no-dynamic-filter",
    "memory+inpaint",
    "memory+surfaces",
)
FEW_SCENES = 4


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: As typed.
        summary: What it measures, one line.
        measure: Measures one (scene, row).
        rows: The rows, by name.
        more: Rows that only wide runs (standard, full) measure.
        over: What is counted as a scene: "scenes", "few" (the first few scenes), or "photographs".
        wide: Whether only wide runs have it.
    """

    name: str
    summary: str
    measure: Callable[..., Measured]
    rows: tuple[str, ...]
    more: tuple[str, ...] = ()
    over: str = "scenes"
    wide: bool = False

    def subjects(self, scenes: tuple[int, ...]) -> tuple[int, ...]:
        """The scene seeds (or photograph numbers) that this suite measures when the run has these scenes."""
        if self.over == "photographs":
            return tuple(range(len(PHOTOGRAPHS)))
        return scenes[:FEW_SCENES] if self.over == "few" else scenes

    def rows_of(self, wide: bool) -> tuple[str, ...]:
        """The rows of a wide run, or of another."""
        return self.rows + (self.more if wide else ())

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
                over="photographs",
            ),
            Suite("walk", "four clips against the truth", measure_walk, PICTURE_ROWS, MORE_ROWS),
            Suite("loop", "back to the first pose", measure_loop, LOOP_ROWS, MORE_ROWS),
            Suite(
                "drift",
                "back to the first pose after 2, 6 and 16 clips",
                measure_drift,
                ("oracle", "default", "no-memory", "frozen-frame"),
                wide=True,
            ),
            Suite(
                "ws-static",
                "WorldScore's eight camera paths and chains of them",
                measure_ws_static,
                ("oracle", "default", "no-memory", "no-scene-render", "frozen-frame"),
                wide=True,
            ),
            Suite("zero", "five zero moves after a walk", measure_zero, ("default",)),
            Suite("leakage", "what moves must not enter the map", measure_leakage, ("default",)),
            Suite("events", "does what the text says happen", measure_events, ("oracle", "default")),
            Suite(
                "edit", "edits show, last, and leave the rest alone", measure_edit, ("default",), wide=True
            ),
            Suite(
                "memory",
                "true frames with movers through our SLAM and map",
                measure_memory,
                ("oracle", "default", "no-slam", "no-dynamic-filter"),
                over="few",
                wide=True,
            ),
            Suite(
                "sweep",
                "voxel edge and number of references",
                measure_sweep,
                SWEEP_ROWS,
                over="few",
                wide=True,
            ),
            Suite("engine", "latency, memory, repeats", measure_engine, ("default",), over="few", wide=True),
            Suite("time", "seconds a step", measure_time, ("default",), over="few"),
        )
    }
)
