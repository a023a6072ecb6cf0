"""`spatia bench compare a.json b.json`: paired differences between two runs, scene by scene.

For every row and metric that both have, b - a over the scenes of both, with an interval by resampling scenes. A
difference is called better or worse where its interval excludes 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from spatia_env.bench.core import write_json
from spatia_env.bench.report import ResultsError, read_results
from spatia_env.bench.results import lower_is_better
from spatia_env.bench.statistics import paired_difference


@dataclass(frozen=True)
class CompareConfig:
    """Paired differences between two runs of the benchmark."""

    first: tyro.conf.Positional[Path]
    """results.json to compare with"""
    second: tyro.conf.Positional[Path]
    """results.json of the other run"""
    rows: tuple[str, ...] = ("default",)
    """rows to compare; `all` for every row of both"""
    suites: tuple[str, ...] = ()
    """only these suites"""
    out: Path | None = None
    """write the differences as JSON to this file"""


def main(argv: list[str]) -> int:
    """Run `spatia bench compare`."""
    config = tyro.cli(CompareConfig, args=argv, prog="spatia bench compare", description=__doc__)
    first, second = read_results(config.first), read_results(config.second)
    differences = compare(first, second, config.rows, config.suites)
    print("\n".join(lines_of(first, second, differences)))
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.out, {"first": first["run"], "second": second["run"], "differences": differences})
    return 0


def compare(
    first: dict[str, Any],
    second: dict[str, Any],
    rows: tuple[str, ...] = ("all",),
    suites: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """One entry per suite, row and metric of both runs.

    Raises:
        ResultsError: The runs were measured at different sizes or by different protocols, or share no scene.
    """
    for name in ("size", "protocol"):
        if first["run"][name] != second["run"][name]:
            raise ResultsError(
                f"compare: {name} differs ({first['run'][name]} and {second['run'][name]}); measure one of them again."
            )
    out = []
    for suite in first["suites"].keys() & second["suites"].keys():
        if suites and suite not in suites:
            continue
        tables = [run["suites"][suite]["rows"] for run in (first, second)]
        for row in tables[0]:
            if row in tables[1] and (row in rows or "all" in rows):
                out += _metrics(suite, row, tables[0][row], tables[1][row])
    if not out:
        raise ResultsError("compare: the runs share no suite, row and scene.")
    order = list(first["suites"])
    return sorted(out, key=lambda entry: order.index(entry["suite"]))


def _metrics(suite: str, row: str, first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    out = []
    for metric, cell in first.items():
        if metric not in second or "scenes" not in cell or "scenes" not in second[metric]:
            continue
        a, b = cell["scenes"], second[metric]["scenes"]
        both = sorted(a.keys() & b.keys())
        if not both:
            continue
        estimate = paired_difference({int(s): b[s] for s in both}, {int(s): a[s] for s in both})
        out.append(
            {
                "suite": suite, "row": row, "metric": metric, "first": sum(a[s] for s in both) / len(both),
                "second": sum(b[s] for s in both) / len(both), "difference": estimate.value,
                "ci": [estimate.low, estimate.high], "n": len(both),
                "verdict": verdict(metric, estimate.low, estimate.high),
            }
        )  # fmt: skip
    return out


def verdict(metric: str, low: float, high: float) -> str:
    """Better, worse, or "" where the interval of the difference holds 0."""
    if low <= 0 <= high:
        return ""
    return "better" if (low > 0) != lower_is_better(metric) else "worse"


def lines_of(first: dict[str, Any], second: dict[str, Any], differences: list[dict[str, Any]]) -> list[str]:
    """The differences as Markdown."""
    lines = [
        f"a: {first['run']['checkpoint'] or 'no model'}, {first['run']['date']}, code {first['run']['code']}",
        f"b: {second['run']['checkpoint'] or 'no model'}, {second['run']['date']}, code {second['run']['code']}",
        "",
        "| suite | row | metric | a | b | b - a | 95 % interval | scenes | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in differences:
        low, high = entry["ci"]
        lines.append(
            f"| {entry['suite']} | {entry['row']} | {entry['metric']} | {entry['first']:.4g} | {entry['second']:.4g} "
            f"| {entry['difference']:+.4g} | {low:.4g} to {high:.4g} | {entry['n']} | {entry['verdict']} |"
        )
    return lines
