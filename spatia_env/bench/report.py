"""What a run leaves behind: results.json, table.md, per_scene.csv, plots and contact sheets."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spatia_env.bench.core import Unit, write_json
from spatia_env.bench.figures import compute_figures
from spatia_env.bench.results import Results, failures, notes, sanity, suite_tables
from spatia_env.bench.rows import ROWS
from spatia_env.bench.suites import SUITES
from spatia_env.errors import SpatiaError

SCHEMA = "spatia-bench/1"
TABLES = {
    "walk": (
        "psnr_all",
        "psnr_observed",
        "psnr_unobserved",
        "psnr_seen_before",
        "ssim_all",
        "depth_absrel",
        "map_fscore",
    ),
    "loop": ("psnr_c", "psnr_c_raw", "ssim_c", "followed", "psnr_turning"),
    "zero": ("psnr_zero", "psnr_zero_step", "growth"),
    "leakage": ("leakage", "leakage_pixels", "leakage_no_filter"),
}
_FIGURE_KEYS = {"title", "unit", "value", "ci", "n", "reach", "holds", "command"}


class ResultsError(SpatiaError, ValueError):
    """A results file does not have the form that `spatia-bench/1` promises."""


def write_report(
    folder: Path, units: Sequence[Unit], run: dict[str, Any], command: str, plots: bool
) -> dict[str, Any]:
    """Write every output under `folder` and return the content of results.json."""
    from spatia_env.bench.plots import write_plots
    from spatia_env.bench.sheets import write_sheets

    results = Results(units)
    content = {
        "schema": SCHEMA,
        "run": run,
        "rows": {name: ROWS[name].describe() for name in dict.fromkeys(unit.row for unit in units)},
        "suites": suite_tables(results),
        "figures": compute_figures(results, command),
        "failures": failures(results),
        "problems": sanity(results),
        "notes": notes(results, run["hardware"]["cores"]),
    }
    check_results(content)
    write_json(folder / "results.json", content)
    write_csv(folder / "per_scene.csv", units)
    (folder / "table.md").write_text(table_text(content), encoding="utf-8")
    if plots:
        write_sheets(folder, list(units))
        note = write_plots(folder, content, results)
        if note:
            print(note)
    return content


def check_results(content: dict[str, Any]) -> None:
    """Raise `ResultsError` unless `content` has the form of `spatia-bench/1`."""
    missing = {"schema", "run", "rows", "suites", "figures", "failures", "problems", "notes"} - content.keys()
    if missing or content["schema"] != SCHEMA:
        raise ResultsError(f"results: not of schema {SCHEMA}; missing {sorted(missing)}.")
    for name, figure in content["figures"].items():
        if set(figure) != _FIGURE_KEYS:
            raise ResultsError(f"results: figure {name} has the keys {sorted(figure)}.")
        low, high = figure["ci"]
        if not low <= figure["value"] + 1e-4 or not figure["value"] <= high + 1e-4 or figure["n"] < 1:
            raise ResultsError(
                f"results: figure {name} lies outside of its interval, or has no scenes: {figure}."
            )
        if (figure["reach"] is None) != (figure["holds"] is None):
            raise ResultsError(f"results: figure {name} must have both a reach and holds, or neither.")


def write_csv(path: Path, units: Sequence[Unit]) -> None:
    """One line per suite, scene, row and plain-number metric."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["suite", "scene", "row", "metric", "value", "error"])
        for unit in units:
            if unit.error:
                writer.writerow([unit.suite, unit.scene, unit.row, "", "", unit.error])
            for metric, value in unit.values.items():
                if isinstance(value, int | float):
                    writer.writerow([unit.suite, unit.scene, unit.row, metric, f"{value:.6g}", ""])


def table_text(content: dict[str, Any]) -> str:
    """The run as Markdown: figures with their reach, then a table per suite."""
    run = content["run"]
    lines = [
        f"# spatia bench {run['suite']}",
        "",
        f"Checkpoint `{run['checkpoint']}`, scenes {run['seeds'][0]} to {run['seeds'][-1]} "
        f"({len(run['seeds'])}), {run['size'][0]}x{run['size'][1]}, {run['date']}; "
        f"{run['hardware']['cores']} cores ({run['hardware']['processor'] or run['hardware']['machine']}).",
        f"Made by `{run['command']}`. In brackets: 95 % intervals, scenes resampled whole.",
        "",
        *figure_lines(content["figures"]),
        *(f"\nNote: {note}." for note in content["notes"]),
    ]
    for suite, table in content["suites"].items():
        lines += ["", *_suite_lines(suite, table)]
    if content["failures"]:
        lines += ["", "## Failures (each counts as the worst score)", ""]
        lines += [f"- {f['suite']} {f['scene']} {f['row']}: {f['error']}" for f in content["failures"]]
    if content["problems"]:
        lines += ["", "## Do not trust this run", "", *(f"- {problem}" for problem in content["problems"])]
    return "\n".join(lines) + "\n"


def figure_lines(figures: dict[str, dict[str, Any]]) -> list[str]:
    """The figures as a Markdown table: those with a reach first."""
    lines = ["| figure | value | reach | holds |", "|---|---|---|---|"]
    for with_reach in (True, False):
        for name, figure in figures.items():
            if (figure["reach"] is not None) == with_reach:
                holds = {True: "yes", False: "**no**", None: ""}[figure["holds"]]
                lines.append(
                    f"| {figure['title']} (`{name}`) | {format_figure(figure)} | {_reach(figure)} | {holds} |"
                )
    return lines


def format_figure(figure: dict[str, Any]) -> str:
    """A figure's value with its interval: "25.31 dB [24.80, 25.90]", shares in percent."""
    unit = figure["unit"]
    numbers = [figure["value"], *figure["ci"]]
    if not unit:
        value, low, high = (f"{100 * number:.1f}" for number in numbers)
        return f"{value} % [{low}, {high}]"
    value, low, high = (f"{number:.3g}" if unit in ("s", "ms") else f"{number:.2f}" for number in numbers)
    return f"{value} {unit} [{low}, {high}]"


def _reach(figure: dict[str, Any]) -> str:
    if figure["reach"] is None:
        return ""
    sign, number = figure["reach"].split()
    return f"{sign} {float(number) * 100:g} %" if not figure["unit"] else f"{sign} {number} {figure['unit']}"


def _suite_lines(suite: str, table: dict[str, Any]) -> list[str]:
    lines = [f"## {suite}: {SUITES[suite].summary}", ""]
    rows = table["rows"]
    present = list(dict.fromkeys(metric for cells in rows.values() for metric in cells))
    metrics = [name for name in TABLES.get(suite, present) if name in present]
    if metrics:
        lines += ["| row | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
        for row, cells in rows.items():
            lines.append(f"| {row} | " + " | ".join(_cell(cells.get(metric)) for metric in metrics) + " |")
    for row, shares in table.get("by_event", {}).items():
        lines += ["", f"{row}: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())]
    return lines


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    gap = f" ({100 * cell['normalised']:.0f} %)" if "normalised" in cell else ""
    return f"{cell['mean']:.4g} [{cell['ci95'][0]:.4g}, {cell['ci95'][1]:.4g}]{gap}"


def summary_lines(content: dict[str, Any]) -> list[str]:
    """The figures with a reach, for a terminal."""
    figures = {name: figure for name, figure in content["figures"].items() if figure["reach"] is not None}
    width = max((len(name) for name in figures), default=0)
    lines = []
    for name, figure in figures.items():
        mark = "ok  " if figure["holds"] else "MISS"
        lines.append(f"{mark} {name:<{width}}  {format_figure(figure):<30} reach {_reach(figure)}")
    lines += [f"failed: {f['suite']} {f['scene']} {f['row']}: {f['error']}" for f in content["failures"]]
    lines += [f"note: {note}" for note in content["notes"]]
    lines += [f"do not trust this run: {problem}" for problem in content["problems"]]
    return lines
