"""What a run leaves behind: results.json, table.md, per_scene.csv, plots and contact sheets."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spatia_env.bench.core import Unit, write_json
from spatia_env.bench.figures import compute_figures
from spatia_env.bench.results import Results, failures, notes, sanity, suite_tables
from spatia_env.bench.rows import ROWS
from spatia_env.bench.tables import summary_lines, table_text
from spatia_env.errors import SpatiaError

__all__ = ["ResultsError", "check_results", "read_results", "summary_lines", "table_text", "write_report"]

SCHEMA = "spatia-bench/1"
_FIGURE_KEYS = {"title", "unit", "value", "ci", "n", "reach", "holds", "command"}


class ResultsError(SpatiaError, ValueError):
    """A results file does not have the form that `spatia-bench/1` promises."""


def write_report(
    folder: Path, units: Sequence[Unit], run: dict[str, Any], command: str, plots: bool
) -> dict[str, Any]:
    """Write every output under `folder` and return the content of results.json."""
    from spatia_env.bench.plots import write_plots
    from spatia_env.bench.sheets import write_sheets
    from spatia_env.bench.videos import write_videos

    results = Results(units)
    content = {
        "schema": SCHEMA,
        "run": run,
        "rows": {name: ROWS[name].describe() for name in dict.fromkeys(unit.row for unit in units)},
        "suites": suite_tables(results),
        "figures": compute_figures(results, command, run.get("suite") in ("standard", "full")),
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
        write_videos(folder, list(units))
        note = write_plots(folder, content, results)
        if note:
            print(note)
    return content


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json.

    Raises:
        ResultsError: There is none, or it has another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise ResultsError(
            f"{path}: is no results file ({cause}); `spatia bench core` writes one."
        ) from cause
    if not isinstance(content, dict):
        raise ResultsError(f"{path}: is no results file; `spatia bench core` writes one.")
    check_results(content)
    return content


def check_results(content: dict[str, Any]) -> None:
    """Raise `ResultsError` unless `content` has the form of `spatia-bench/1`."""
    missing = {"schema", "run", "rows", "suites", "figures", "failures", "problems", "notes"} - content.keys()
    if missing or content.get("schema") != SCHEMA:
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
