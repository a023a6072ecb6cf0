"""Runs a benchmark: schedules its (suite, scene, row) units, keeps each as one JSON file, and resumes.

A unit that is there and was made by the same code, checkpoint and settings is not measured again. A unit that
raised is a result too: it counts as the worst score, is listed, and is tried again by the next run.
"""

import importlib.util
import json
import os
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spatia_env.bench import matching, perceptual
from spatia_env.bench.config import BenchConfig
from spatia_env.bench.happenings import tasks
from spatia_env.bench.players import Players, check_frames
from spatia_env.bench.provenance import code_hash, fingerprint, origin
from spatia_env.bench.quality import Context
from spatia_env.bench.rows import ROWS
from spatia_env.bench.suites import SUITES, Suite
from spatia_env.bench.truths import Truths
from spatia_env.errors import ActionError

FILMED_ROWS = ("oracle", "default", "no-memory", "memory-render-only", "frozen-frame")
FILMED_SCENES = 4
"""Rows and first scenes whose frames are all kept, for side-by-side videos."""


@dataclass(frozen=True)
class Job:
    """One unit to measure."""

    suite: Suite
    scene: int
    row: str

    @property
    def name(self) -> str:
        """Its file name, without suffix."""
        return f"{self.suite.name}-{self.scene}-{self.row}"


@dataclass
class Unit:
    """What was measured of one (suite, scene, row).

    Attributes:
        suite: Name of the suite.
        scene: Seed, or number of the photograph.
        row: Name of the row.
        fingerprint: Of the code, checkpoint and settings that made it.
        values: Numbers; empty after a failure.
        error: What went wrong, "" if nothing did.
        seconds: How long it took.
        pictures: Labels of the rows of its picture grid under `frames/`, and how many columns each has.
        film: Frames of its film under `films/`, 0 for none.
    """

    suite: str
    scene: int
    row: str
    fingerprint: str
    values: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    pictures: dict[str, int] = field(default_factory=dict)
    film: int = 0


def run_bench(config: BenchConfig) -> dict[str, Any]:
    """Measure what is missing, write every output, and return what is in results.json.

    Raises:
        ActionError: Seeds outside the dev range, or unknown suites, rows or events.
        CheckpointError: The checkpoint cannot be loaded.
    """
    from spatia_env.bench.report import write_report

    jobs = plan(config)
    started = time.time()
    with Players(config.size, config.model) as players:
        checkpoint = ""
        if any(ROWS[job.row].env is not None for job in jobs):
            check_frames(players)
            checkpoint = players.checkpoint_id
        units = measure(config, jobs, players, checkpoint)
    run = describe_run(config, checkpoint) | {"seconds": round(time.time() - started, 1)}
    return write_report(config.out, units, run, config.command, config.plots)


def plan(config: BenchConfig) -> list[Job]:
    """The units of a run in order: scene by scene, so that its suites and rows share the truth, and a run that is
    stopped has whole scenes.

    Raises:
        ActionError: Seeds outside the run's range, or unknown suites, rows or events.
    """
    _check(config)
    suites = [
        suite
        for suite in SUITES.values()
        if (suite.name in config.only if config.only else config.wide or not suite.wide)
    ]
    return [
        Job(suite, scene, row)
        for scene in dict.fromkeys(scene for suite in suites for scene in suite.subjects(config.seeds))
        for suite in suites
        if scene in suite.subjects(config.seeds)
        for row in suite.rows_of(config.wide)
        if (not config.rows or row in config.rows) and _can_play(row)
    ]


def _can_play(row: str) -> bool:
    """Whether what a row needs is installed; `report` notes it where not."""
    return not ROWS[row].needs or importlib.util.find_spec(ROWS[row].needs) is not None


def _check(config: BenchConfig) -> None:
    allowed = config.allowed
    if not config.seeds or not all(seed in allowed for seed in config.seeds):
        raise ActionError(
            f"bench {config.suite}: scenes {config.seeds[:1]} to {config.seeds[-1:]} are not {config.split} seeds "
            f"({allowed.start}-{allowed.stop - 1}); test seeds are for the full benchmark, and for it alone."
        )
    if config.clips < 2 or config.clips % 2:
        raise ActionError(
            f"bench --clips: {config.clips}; give an even number, as loops go out and come back."
        )
    tasks(config.event_names)
    for name, given, known in (("--only", config.only, SUITES), ("--rows", config.rows, ROWS)):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ActionError(
                f"bench {name}: {', '.join(unknown)} does not exist; there are {', '.join(known)}."
            )


def measure(config: BenchConfig, jobs: list[Job], players: Players, checkpoint: str) -> list[Unit]:
    """All units, from their files where those are still valid."""
    (config.out / "units").mkdir(parents=True, exist_ok=True)
    code, units = code_hash(), []
    bar = tqdm(jobs, desc=f"bench {config.suite}", unit="unit", mininterval=1)
    with Truths(config.size, config.truth_folder) as truths:
        context = Context(
            players, config.size, config.clips, config.movers, config.split, config.loops, config.wide, truths
        )
        for job in bar:
            bar.set_postfix_str(job.name, refresh=False)
            units.append(_unit(config, context, job, fingerprint_of(config, job, checkpoint, code)))
    return units


def _unit(config: BenchConfig, context: Context, job: Job, fingerprint: str) -> Unit:
    from spatia_env.bench.sheets import write_grid

    path = config.out / "units" / f"{job.name}.json"
    unit = read_unit(path, fingerprint)
    if unit is None:
        unit, pictures, film = measure_unit(config, context, job, fingerprint)
        write_grid(config.out / "frames" / f"{job.name}.jpg", pictures)
        unit.pictures = {label: len(frames) for label, frames in pictures.items()}
        if film is not None and job.row in FILMED_ROWS and job.scene in config.seeds[:FILMED_SCENES]:
            unit.film = len(film)
            write_grid(config.out / "films" / f"{job.name}.jpg", {"film": film})
        write_json(path, unit.__dict__)
    return unit


def measure_unit(
    config: BenchConfig, context: Context, job: Job, fingerprint: str
) -> tuple[Unit, dict[str, np.ndarray], np.ndarray | None]:
    """Measure one unit; an error becomes part of it."""
    unit, begin = Unit(job.suite.name, job.scene, job.row, fingerprint), time.perf_counter()
    pictures: dict[str, np.ndarray] = {}
    film = None
    try:
        measured = job.suite.run(context, job.scene, ROWS[job.row], config.event_names)
        unit.values, pictures, film = plain(measured.values), measured.pictures, measured.film
    except Exception as error:  # noqa: BLE001 - a row that fails is a result: the worst score, listed
        unit.error = f"{type(error).__name__}: {error}"
        tqdm.write(f"{job.name} failed: {unit.error}\n{traceback.format_exc(limit=-3)}")
    unit.seconds = round(time.perf_counter() - begin, 3)
    return unit, pictures, film


def plain(value: Any) -> Any:
    """NumPy and torch numbers as Python's own, for JSON; not-finite floats as None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def read_unit(path: Path, fingerprint: str) -> Unit | None:
    """The unit in a file, None if there is none, it failed, or something else made it."""
    try:
        unit = Unit(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return unit if unit.fingerprint == fingerprint and not unit.error else None


def write_json(path: Path, value: Any) -> None:
    """Write JSON; the file appears under its name when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def fingerprint_of(config: BenchConfig, job: Job, checkpoint: str, code: str) -> str:
    """A hash of everything that decides a unit."""
    return fingerprint(
        {
            "code": code,
            # Ceilings and floors do not change with the checkpoint.
            "checkpoint": checkpoint if ROWS[job.row].env is not None else "",
            "row": ROWS[job.row].describe(),
            "size": list(config.size),
            "clips": config.clips,
            "events": list(config.event_names) if job.suite.name == "events" else [],
            "movers": config.movers if job.suite.name == "leakage" else 0,
            "loops": [list(loop) for loop in config.loops] if job.suite.name == "loop" else [],
            "several": config.wide and job.suite.name == "events",
            "optional": [perceptual.version(), matching.available()],
        }
    )


def describe_run(config: BenchConfig, checkpoint: str) -> dict[str, Any]:
    """What was run, on what, with which versions."""
    return {
        "command": config.command,
        "suite": config.suite,
        "split": config.split,
        "checkpoint": checkpoint,
        "seeds": list(config.seeds),
        "size": list(config.size),
        **origin(),
    }
