"""Runs the benchmark: plays groups scene by scene, keeps each (group, scene, system) as one JSON file, and resumes.

A unit that is there and was made by the same code, checkpoint and settings is not measured again. A unit
that raised is kept as a failure, listed, and tried again by the next run.
"""

import functools
import json
import multiprocessing
import os
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

import spatia_env.bench.groups  # noqa: F401  (registers groups and figures)
from spatia_env.bench import features, vision
from spatia_env.bench.files import write_grid, write_json
from spatia_env.bench.provenance import code_hash, fingerprint, origin
from spatia_env.bench.reference import Reference, load_reference
from spatia_env.bench.registry import GROUPS, SIZE, Group, Stage, figures_of
from spatia_env.bench.systems import SYSTEMS, Players, systems_of
from spatia_env.errors import ActionError

DEV_SEEDS = range(10_000, 11_000)
TEST_SEEDS = range(20_000, 20_200)
FIRST_DEV = 10_020
SUITES = ("smoke", "core", "full")
SMOKE = {
    "groups": ("viewpoint", "known", "events", "things"),
    "systems": ("oracle", "default", "memory+inpaint", "overlay"),
}
"""What `smoke` plays."""


@dataclass(frozen=True)
class BenchConfig:
    """Measure against the simulator's truth; writes results.json, table.csv, table.md, plots and contact sheets.

    Other verbs: compare, readme, policy, worldscore, re10k. Each has --help.
    """

    suite: tyro.conf.Positional[Literal["smoke", "core", "full"]] = "core"
    """smoke: a scene, few rows (seconds); core: dev scenes (about 25 minutes on 2 cores); full: test scenes,
    for nights
    """
    out: Path = Path("out/bench/core")
    """folder to write to; a run that was interrupted goes on where it was"""
    groups: tuple[str, ...] = ()
    """only these groups"""
    systems: tuple[str, ...] = ()
    """only these rows"""
    scenes: int | None = None
    """at most so many scenes a group"""
    first_seed: int | None = None
    """first scene; 10020 (dev seeds end at 10999), for full 20000 (test seeds end at 20199)"""
    model: str | None = None
    """checkpoint: a name or a folder; the packaged one by default"""
    workers: int | None = None
    """processes; one a core by default, one for smoke"""
    piece: tuple[int, int] = (0, 1)
    """of full, play this piece of so many (0 4, 1 4, ...) and report what is there"""
    report_only: bool = False
    """play nothing; report what is there"""
    plots: bool = True
    """draw plots and contact sheets"""

    @property
    def split(self) -> str:
        """Of seeds, assets and wordings."""
        return "test" if self.suite == "full" else "dev"

    @property
    def first(self) -> int:
        """The first scene's seed."""
        if self.first_seed is not None:
            return self.first_seed
        return TEST_SEEDS.start if self.suite == "full" else FIRST_DEV

    @property
    def processes(self) -> int:
        """How many processes play."""
        return self.workers or (1 if self.suite == "smoke" else os.cpu_count() or 1)


@dataclass(frozen=True)
class Job:
    """One (group, scene, system) to play."""

    group: str
    scene: int
    system: str

    @property
    def name(self) -> str:
        """Its file name, without suffix."""
        return f"{self.group}-{self.scene}-{self.system}"


def plan(config: BenchConfig) -> tuple[list[list[Job]], list[str]]:
    """The jobs of a run by scene, so that groups and systems share its truth; and notes of what cannot be played.

    Raises:
        ActionError: Unknown groups or systems, or seeds outside of the run's range.
    """
    _check(config)
    wanted = config.groups or (SMOKE["groups"] if config.suite == "smoke" else tuple(GROUPS))
    rows = config.systems or (SMOKE["systems"] if config.suite == "smoke" else tuple(SYSTEMS))
    notes: list[str] = []
    scenes: dict[tuple[str, int], list[Job]] = {}
    for group in (GROUPS[name] for name in wanted):
        lacking = group.missing()
        if lacking:
            notes.append(f"group {group.name}: {lacking}")
            continue
        names = [name for name in group.systems if name in rows]
        for system in systems_of(names):
            if system.missing():
                notes.append(f"row {system.name}: {system.missing()}")
                continue
            for scene in subjects(config, group):
                scenes.setdefault((group.subjects, scene), []).append(Job(group.name, scene, system.name))
    return list(scenes.values()), list(dict.fromkeys(notes))


def subjects(config: BenchConfig, group: Group) -> range:
    """The scenes of a group: simulator seeds, or numbers from 0."""
    count = group.scenes[SUITES.index(config.suite)]
    count = count if config.scenes is None else min(count or config.scenes, config.scenes)
    first = config.first if group.subjects == "scenes" else 0
    return range(first, first + count)


def _check(config: BenchConfig) -> None:
    allowed = TEST_SEEDS if config.split == "test" else DEV_SEEDS
    if config.first not in allowed or config.first + max(config.scenes or 0, 1) - 1 not in allowed:
        raise ActionError(
            f"bench {config.suite}: scenes from {config.first} are not {config.split} seeds ({allowed.start}-"
            f"{allowed.stop - 1}); test seeds are for `full`, and for it alone."
        )
    unknown = sorted(set(config.groups) - set(GROUPS))
    if unknown:
        raise ActionError(
            f"bench --groups: {', '.join(unknown)} does not exist; there are {', '.join(GROUPS)}."
        )
    systems_of(config.systems)
    if not 0 <= config.piece[0] < config.piece[1]:
        raise ActionError(f"bench --piece: {config.piece}; give two numbers such as 0 4, 1 4, 2 4, 3 4.")


def run_bench(config: BenchConfig, command: str = "") -> dict[str, Any]:
    """Play what is missing, write every output and return the content of results.json.

    Raises as `plan` does; `command` is what was typed.
    """
    from spatia_env.bench.report import write_report

    chunks, notes = plan(config)
    config.out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with Players(config.model) as players:
        checkpoint = players.checkpoint_id(SIZE)
    reference = config.out / "reference.npz"
    jobs = [job for chunk in chunks for job in chunk]
    _reference(config, jobs)
    stamp = stamp_of(config, checkpoint)
    mine = [chunk for index, chunk in enumerate(chunks) if index % config.piece[1] == config.piece[0]]
    if not config.report_only:
        _measure(config, mine, stamp)
    units = [unit for job in jobs if (unit := read_unit(config.out, job, stamp)) is not None]
    if len(units) < len(jobs):
        notes.append(
            f"{len(jobs) - len(units)} of {len(jobs)} units are not measured yet; run the other pieces"
        )
    seeds = {job.scene for job in jobs if GROUPS[job.group].subjects == "scenes"}
    run = {
        "command": command or f"spatia bench {config.suite}",
        "suite": config.suite,
        "split": config.split,
        "checkpoint": checkpoint,
        "seeds": sorted(seeds),
        "size": list(SIZE),
        "test_looks": count_look(config, checkpoint),
        **origin(),
        "seconds": round(time.time() - started, 1),
    }
    return write_report(config.out, units, run, notes, reference, config.plots)


def _reference(config: BenchConfig, jobs: list[Job]) -> Reference | None:
    """The features of other true pictures, made if they are missing; None if no group compares with them."""
    if not any(GROUPS[job.group].compares for job in jobs):
        return None
    return load_reference(config.out / "reference.npz", SIZE)


def stamp_of(config: BenchConfig, checkpoint: str) -> str:
    """A hash of everything that decides a unit."""
    optional = [vision.available(), *(features.version(name) for name in features.FILES)]
    size = "small" if config.suite == "smoke" else "whole"
    return fingerprint(
        {"code": code_hash(), "checkpoint": checkpoint, "split": config.split, "kind": size, "with": optional}
    )


def count_look(config: BenchConfig, checkpoint: str) -> int:
    """How many runs have looked at test scenes, this one included where it does; kept in
    docs/results/test_looks.json.
    """
    path = Path("docs/results/test_looks.json")
    looks = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if config.split == "test" and not any(look["checkpoint"] == checkpoint for look in looks):
        looks.append({"checkpoint": checkpoint, "date": time.strftime("%Y-%m-%d", time.gmtime())})
        if path.parent.is_dir():
            write_json(path, looks)
    return len(looks)


# -- measuring


def _measure(config: BenchConfig, chunks: list[list[Job]], stamp: str) -> None:
    missing = [[job for job in chunk if not _is_done(config.out, job, stamp)] for chunk in chunks]
    todo = sorted((chunk for chunk in missing if chunk), key=len, reverse=True)
    play = functools.partial(_play_chunk, config, stamp)
    with tqdm(total=sum(map(len, todo)), desc=f"bench {config.suite}", unit="unit", mininterval=5) as bar:
        if config.processes == 1 or len(todo) < 2:
            for chunk in todo:
                bar.update(play(chunk))
            return
        with ProcessPoolExecutor(
            config.processes, multiprocessing.get_context("spawn"), _single_threaded
        ) as pool:
            for done in pool.map(play, todo):
                bar.update(done)


def _is_done(out: Path, job: Job, stamp: str) -> bool:
    unit = read_unit(out, job, stamp)
    return unit is not None and not unit["error"]


def _single_threaded() -> None:
    import torch

    torch.set_num_threads(1)


def _play_chunk(config: BenchConfig, stamp: str, chunk: list[Job]) -> int:
    """Play a scene's jobs; how many."""
    with Stage(config.model, config.split, _reference(config, chunk), config.suite == "smoke") as stage:
        for job in chunk:
            play_unit(stage, config.out, job, stamp)
    return len(chunk)


def play_unit(stage: Stage, out: Path, job: Job, stamp: str) -> dict[str, Any]:
    """Play one unit and write its JSON, the features of its pooled figures, and its pictures."""
    group, begin = GROUPS[job.group], time.process_time()
    unit: dict[str, Any] = {**job.__dict__, "stamp": stamp, "values": {}, "error": "", "pictures": {}}
    arrays: dict[str, np.ndarray] = {}
    try:
        record = group.play(stage, job.scene, SYSTEMS[job.system])
        for figure in figures_of(job.group):
            value = figure.measure(record)
            if figure.pool is not None and value is not None:
                arrays[figure.name] = np.asarray(value)
            elif value is not None:
                unit["values"][figure.name] = plain(value)
        if group.pictures is not None:
            unit["pictures"] = write_grid(out / "frames" / f"{job.name}.jpg", group.pictures(record))
    except Exception as error:  # noqa: BLE001 - a row that fails is a result, and is listed
        unit["error"] = f"{type(error).__name__}: {error}"
        tqdm.write(f"{job.name} failed: {unit['error']}\n{traceback.format_exc(limit=-4)}")
    unit["cpu_seconds"] = round(time.process_time() - begin, 2)
    (out / "units").mkdir(parents=True, exist_ok=True)
    if arrays:
        np.savez_compressed(out / "units" / f"{job.name}.npz", **arrays)  # type: ignore[arg-type]
    write_json(out / "units" / f"{job.name}.json", unit)
    return unit


def plain(value: Any) -> Any:
    """Numbers as Python's own; what is not finite raises.

    Raises:
        ValueError: A figure is not finite.
    """
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    number = float(value)
    if not np.isfinite(number):
        raise ValueError("a figure is not finite.")
    return round(number, 6)


def read_unit(out: Path, job: Job, stamp: str) -> dict[str, Any] | None:
    """A unit from its file, None if there is none or something else made it."""
    try:
        unit = json.loads((out / "units" / f"{job.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return unit if unit.get("stamp") == stamp else None
