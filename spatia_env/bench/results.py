"""From units to numbers: means, paired gains and tables of rows.

Failures count: a unit that raised has the worst value of every metric. In a paired difference a baseline that
failed gives no credit: its scene counts as a difference of at most 0.
"""

from collections.abc import Sequence
from typing import Any

from spatia_env.bench import matching, perceptual
from spatia_env.bench.core import Unit
from spatia_env.bench.statistics import Estimate, cluster_bootstrap, paired_difference

LOWER_IS_BETTER = (
    "depth",
    "leakage",
    "growth",
    "seconds",
    "outside",
    "preview",
    "map_accuracy",
    "map_chamfer",
    "stlpips",
    "loss",
    "background",
    "degrees",
    "units",
)
SINGLE = ("mover", "condition", "ending")
"""Kinds of events that are asked for one at a time."""
WORST_LOW = 0.0
"""Worst value where more is better (dB, shares)."""
WORST_HIGH = {"seconds": 60.0, "preview_ms": 10_000.0, "loss": 60.0, "background": 60.0, "degrees": 15.0}
"""Worst values where less is better; 1 for shares and relative errors."""


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better; the name of a closed path may stand before it."""
    return metric.rsplit(".", 1)[-1].startswith(LOWER_IS_BETTER)


def worst_of(metric: str) -> float:
    """What a failed unit scores on a metric."""
    if lower_is_better(metric):
        name = metric.rsplit(".", 1)[-1]
        return next((worst for start, worst in WORST_HIGH.items() if name.startswith(start)), 1.0)
    return WORST_LOW


class Results:
    """The units of a run, looked up by suite, row and metric."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = list(units)

    def of(self, suite: str, row: str) -> list[Unit]:
        """The units of a suite and a row, in order of their scenes."""
        return [unit for unit in self.units if (unit.suite, unit.row) == (suite, row)]

    def metrics(self, suite: str) -> list[str]:
        """Names of the plain-number metrics of a suite, in the order in which they were written."""
        names: dict[str, None] = {}
        for unit in self.units:
            if unit.suite == suite:
                names |= dict.fromkeys(k for k, v in unit.values.items() if isinstance(v, int | float))
        return list(names)

    def scalars(self, suite: str, row: str, metric: str) -> dict[int, float]:
        """A number per scene; the worst for units that failed or could not give a finite one."""
        out = {}
        for unit in self.of(suite, row):
            if unit.error or (metric in unit.values and unit.values[metric] is None):
                out[unit.scene] = worst_of(metric)
            elif metric in unit.values:
                out[unit.scene] = float(unit.values[metric])
        return out

    def lists(self, suite: str, row: str, metric: str) -> dict[int, list[float]]:
        """Numbers per scene, such as the times of steps."""
        return {
            unit.scene: [worst_of(metric)] if unit.error else [float(v) for v in unit.values[metric]]
            for unit in self.of(suite, row)
        }

    def mean(self, suite: str, row: str, metric: str) -> Estimate | None:
        """The mean over scenes with its interval, None if nothing was measured."""
        values = self.scalars(suite, row, metric)
        return cluster_bootstrap({scene: [value] for scene, value in values.items()}) if values else None

    def gain(self, suite: str, row: str, baseline: str, metric: str) -> Estimate | None:
        """The mean of row - baseline over scenes, paired; None if the scenes of one are missing."""
        first, second = self.scalars(suite, row, metric), self.scalars(suite, baseline, metric)
        failed = {unit.scene for unit in self.of(suite, baseline) if unit.error}
        both = sorted(first.keys() & second.keys())
        if not both:
            return None
        second |= {scene: max(second[scene], first[scene]) for scene in failed & set(both)}
        return paired_difference({s: first[s] for s in both}, {s: second[s] for s in both})

    def events(self, row: str, kinds: tuple[str, ...] = SINGLE, name: str = "") -> Estimate | None:
        """Share of asked events that happened, all single ones or those of some kinds or one name."""
        clusters = {}
        for unit in self.of("events", row):
            clips = [c for c in unit.values.get("clips", []) if c["event"]]
            chosen = [c for c in clips if (c["event"] == name if name else c["kind"] in kinds)]
            # A scene that failed counts as one miss for each clip that others have.
            clusters[unit.scene] = [float(c["success"]) for c in chosen] if clips else [0.0]
        return cluster_bootstrap(clusters) if any(clusters.values()) else None

    def false_events(self, row: str, kinds: tuple[str, ...] = ()) -> Estimate | None:
        """Share of clips in which a judge saw an event though none was asked for: quiet clips, denials, absent things
        and those of walks; or only some kinds of the suite `events`.
        """
        clusters: dict[int, list[float]] = {}
        for unit in self.of("events", row):
            clips = unit.values.get("clips", [])
            quiet = [c for c in clips if not c["event"] and (not kinds or c["kind"] in kinds)]
            failed = [] if clips else [1.0]
            clusters.setdefault(unit.scene, []).extend([float(bool(c["found"])) for c in quiet] + failed)
        for unit in [] if kinds else self.of("walk", row):
            found = unit.values.get("found", [])
            clusters.setdefault(unit.scene, []).extend([float(bool(names)) for names in found])
            if unit.error:
                clusters[unit.scene].append(1.0)
        return cluster_bootstrap(clusters) if any(clusters.values()) else None

    def event_names(self) -> list[str]:
        """All events that were asked for."""
        names: dict[str, None] = {}
        for unit in self.units:
            if unit.suite == "events":
                names |= dict.fromkeys(c["event"] for c in unit.values.get("clips", []) if c["event"])
        return list(names)


def suite_tables(results: Results) -> dict[str, Any]:
    """Every suite's plain-number metrics: rows -> metric -> mean, interval, n and share of the gap that is
    closed.

    `normalised` is (mean - floor) / (oracle - floor), where both were measured (floor: frozen frame).
    """
    tables: dict[str, Any] = {}
    for suite in dict.fromkeys(unit.suite for unit in results.units):
        rows = dict.fromkeys(unit.row for unit in results.units if unit.suite == suite)
        table = {row: _row_table(results, suite, row) for row in rows}
        floor, oracle = table.get("frozen-frame", {}), table.get("oracle", {})
        for cells in table.values():
            for metric, cell in cells.items():
                if metric in floor and metric in oracle:
                    gap = oracle[metric]["mean"] - floor[metric]["mean"]
                    if abs(gap) > 1e-9:
                        cell["normalised"] = round((cell["mean"] - floor[metric]["mean"]) / gap, 4)
        tables[suite] = {"rows": table}
    if results.event_names():
        tables["events"]["by_event"] = {
            row: {
                name: round(e.value, 4)
                for name in results.event_names()
                if (e := results.events(row, name=name))
            }
            for row in ("oracle", "default")
            if results.of("events", row)
        }
    return tables


def _row_table(results: Results, suite: str, row: str) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for metric in results.metrics(suite):
        estimate = results.mean(suite, row, metric)
        if estimate is not None:
            interval = [round(estimate.low, 5), round(estimate.high, 5)]
            scenes = {str(scene): round(v, 5) for scene, v in results.scalars(suite, row, metric).items()}
            cells[metric] = {
                "mean": round(estimate.value, 5), "ci95": interval, "n": estimate.n, "scenes": scenes,
            }  # fmt: skip
    return cells


def failures(results: Results) -> list[dict[str, Any]]:
    """The units that raised, with what they said."""
    return [
        {"suite": u.suite, "scene": u.scene, "row": u.row, "error": u.error} for u in results.units if u.error
    ]


def missing_packages() -> list[str]:
    """What could not be measured because an optional package is not installed."""
    out = []
    if not matching.available():
        out.append(
            "OpenCV is not installed: no match accuracy, camera control, smoothness or row memory+inpaint"
        )
    if not perceptual.available():
        out.append("stlpips-pytorch is not installed: no perceptual distance")
    return out


def notes(results: Results, cores: int) -> list[str]:
    """What a reader should know about this run; empty if nothing."""
    load = max(results.scalars("time", "default", "load").values(), default=0.0)
    # The run itself keeps one core per thread busy.
    if load > cores + 1:
        busy = (
            f"the machine was busy with other things (load {load:.1f} on {cores} cores): times are too long"
        )
        return [busy, *missing_packages()]
    return missing_packages()


def sanity(results: Results) -> list[str]:
    """What must be true of any run: the oracle is the ceiling and a frozen frame does not win. Empty if all
    is well.
    """
    problems = []
    for suite, metric in (("walk", "psnr_all"), ("loop", "psnr_c")):
        means = {
            row: results.mean(suite, row, metric)
            for row in {u.row for u in results.units if u.suite == suite}
        }
        values = {row: estimate.value for row, estimate in means.items() if estimate}
        if "oracle" in values and values["oracle"] < max(values.values()):
            problems.append(f"{suite}: a row scores above the oracle on {metric}: {values}")
    frozen = results.scalars("loop", "frozen-frame", "followed")
    if any(frozen.values()):
        problems.append("loop: a frozen frame counts as having followed the excursion")
    if any(unit.error for unit in results.of("events", "oracle")):
        problems.append("events: the judges could not be checked on every scene")
    return problems
