"""What a run leaves behind: table.csv (one row a group, figure, system, scene and sentence), results.json, table.md,
plots and contact sheets.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import spatia_env.bench.groups  # noqa: F401  (registers groups and figures)
from spatia_env.bench.files import read_grid, write_json
from spatia_env.bench.reference import load_reference
from spatia_env.bench.registry import FIGURES, GROUPS, SIZE, Figure
from spatia_env.bench.statistics import Estimate, mean_of, pooled
from spatia_env.bench.systems import SYSTEMS
from spatia_env.errors import SpatiaError
from spatia_env.io.images import contact_sheet, write_sheet

SCHEMA = "spatia-bench/2"
COLUMNS = ["group", "figure", "system", "scene", "sentence", "value"]
SHEETS = 3
"""Scenes of each group that have a contact sheet."""
NO_PLOTS = 'no plots: matplotlib is not installed; `pip install "spatia-env[bench]"`, then run the same command again'


class ResultsError(SpatiaError, ValueError):
    """A results file does not have the form that `spatia-bench/2` promises."""


def write_report(
    folder: Path,
    units: Sequence[dict[str, Any]],
    run: dict[str, Any],
    notes: list[str],
    reference: Path,
    plots: bool,
) -> dict[str, Any]:
    """Write every output under `folder` and return the content of results.json."""
    table = tidy(units)
    rows = summary(table) + pooled_summary(folder, units, reference)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "run": run | {"cpu_seconds": round(sum(unit.get("cpu_seconds", 0.0) for unit in units), 1)},
        "systems": {name: SYSTEMS[name].summary for name in dict.fromkeys(unit["system"] for unit in units)},
        "figures": [
            describe(figure, rows)
            for figure in FIGURES.values()
            if any(r["figure"] == figure.name for r in rows)
        ],
        "rows": rows,
        "failures": [
            {"unit": f"{u['group']}-{u['scene']}-{u['system']}", "error": u["error"]}
            for u in units
            if u["error"]
        ],
        "notes": notes + busy(run),
    }
    check_results(content)
    table.to_csv(folder / "table.csv", index=False)
    write_json(folder / "results.json", content)
    (folder / "table.md").write_text("\n".join(table_text(content)) + "\n", encoding="utf-8")
    if plots:
        write_sheets(folder, units)
        if not write_plots(folder, content):
            content["notes"].append(NO_PLOTS)
    return content


def tidy(units: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a value; `sentence` is "" where a figure has one value a scene."""
    rows = []
    for unit in units:
        for name, value in unit["values"].items():
            parts = value if isinstance(value, dict) else {"": value}
            rows += [
                (unit["group"], name, unit["system"], unit["scene"], key, number)
                for key, number in parts.items()
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean and interval of every figure and system."""
    grouped = table.groupby(["group", "figure", "system"], sort=False)
    return [row_of(str(g), str(f), str(s), mean_of(part)) for (g, f, s), part in grouped]  # type: ignore[misc]


def row_of(group: str, figure: str, system: str, estimate: Estimate) -> dict[str, Any]:
    """A row of results.json."""
    numbers = {name: round(getattr(estimate, name), 5) for name in ("value", "low", "high")}
    return {"group": group, "figure": figure, "system": system, **numbers, "n": estimate.n}


def pooled_summary(folder: Path, units: Sequence[dict[str, Any]], reference: Path) -> list[dict[str, Any]]:
    """Figures of all scenes at once, from the features that the units kept."""
    out, known = [], None
    for figure in (item for item in FIGURES.values() if item.pool is not None):
        for system in dict.fromkeys(unit["system"] for unit in units if unit["group"] == figure.group):
            records = _features(folder, units, figure, system)
            if not records:
                continue
            known = known or load_reference(reference, SIZE)
            estimate = pooled(figure.pool(records, known), len(records))  # type: ignore[misc]
            if math.isfinite(estimate.value):
                out.append(row_of(figure.group, figure.name, system, estimate))
    return out


def _features(folder: Path, units: Sequence[dict[str, Any]], figure: Figure, system: str) -> list[np.ndarray]:
    found = []
    for unit in units:
        if unit["group"] == figure.group and unit["system"] == system and not unit["error"]:
            path = folder / "units" / f"{unit['group']}-{unit['scene']}-{system}.npz"
            if path.is_file():
                with np.load(path, allow_pickle=False) as file:
                    if figure.name in file and len(file[figure.name]):
                        found.append(file[figure.name])
    return found


def describe(figure: Figure, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A figure's title, unit, direction, target, and whether that is met (None without a target or its
    row).
    """
    system, rule = target_of(figure)
    value = next((r["value"] for r in rows if r["figure"] == figure.name and r["system"] == system), None)
    met = None if value is None or not rule else meets(value, rule)
    fields = ("name", "title", "unit", "better", "target", "group")
    return {name: getattr(figure, name) for name in fields} | {"row": system, "met": met}


def target_of(figure: Figure) -> tuple[str, str]:
    """The row that a target is for, and its rule: "oracle <= 5" is for the oracle, "<= 5" for the default."""
    first, _, rest = figure.target.partition(" ")
    return (first, rest) if first in SYSTEMS else ("default", figure.target)


def meets(value: float, rule: str) -> bool:
    """Whether a value is on the right side of a rule such as ">= 0.5"."""
    sign, number = rule.split()
    return value >= float(number) if sign == ">=" else value <= float(number)


def busy(run: dict[str, Any]) -> list[str]:
    """A note where the machine had other work: times are then too long."""
    load, cores = run["hardware"]["load"], run["hardware"]["cores"]
    return (
        [f"the machine was busy (load {load} on {cores} cores): wall times are too long"]
        if load > cores + 1
        else []
    )


# -- reading


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json, or of that in a folder.

    Raises:
        ResultsError: There is none, or it has another form.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise ResultsError(
            f"{path}: is no results file ({cause}); `spatia bench core` writes one."
        ) from cause
    check_results(content)
    return content


def check_results(content: Any) -> None:
    """Raise `ResultsError` unless `content` has the form of `spatia-bench/2`."""
    keys = {"schema", "run", "systems", "figures", "rows", "failures", "notes"}
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or keys - content.keys():
        raise ResultsError(f"results: not of schema {SCHEMA}; `spatia bench core` writes it.")
    needed = {"checkpoint", "code", "commit", "date", "seeds", "hardware", "test_looks"}
    if needed - content["run"].keys():
        raise ResultsError(f"results: the run lacks {', '.join(sorted(needed - content['run'].keys()))}.")
    for row in content["rows"]:
        if not row["low"] <= row["value"] + 1e-4 or not row["value"] <= row["high"] + 1e-4 or row["n"] < 1:
            raise ResultsError(f"results: {row} lies outside of its interval, or has no scenes.")


# -- tables


def table_text(content: dict[str, Any]) -> list[str]:
    """Everything as Markdown."""
    lines = [
        "# spatia bench " + content["run"]["suite"],
        "",
        origin_line(content),
        "",
        *target_lines(content),
    ]
    for name in dict.fromkeys(figure["group"] for figure in content["figures"]):
        lines += [
            "",
            f"## {name}: {GROUPS[name].title if name in GROUPS else ''}",
            "",
            *group_lines(content, name),
        ]
    if content["failures"]:
        lines += [
            "",
            "## Failures",
            "",
            *(f"- {item['unit']}: {item['error']}" for item in content["failures"]),
        ]
    return lines


def origin_line(content: dict[str, Any]) -> str:
    """What was run, in a sentence or two."""
    run = content["run"]
    seeds = run["seeds"]
    scenes = f"{len(seeds)} {run['split']} scenes ({seeds[0]}-{seeds[-1]})" if seeds else "no scenes"
    size, hardware = run["size"], run["hardware"]
    notes = "".join(f" Note: {note}." for note in content["notes"])
    return (
        f"`{run['command']}`: checkpoint `{run['checkpoint']}`, code `{run['code']}` (commit "
        f"`{run['commit'] or 'unknown'}`), {scenes}, {size[0]}x{size[1]}, {hardware['cores']} CPU cores, "
        f"{run['date']}; test scenes looked at {run['test_looks']} times. In brackets: 95 % intervals, scenes and "
        f"sentences resampled.{notes}"
    )


def target_lines(content: dict[str, Any]) -> list[str]:
    """The figures with a target, those that miss it by most first, beside the rows without a model."""
    beside = ("oracle", "memory+inpaint", "frozen-frame")
    values = {(row["figure"], row["system"]): row for row in content["rows"]}
    lines = [
        "| figure | default | target | met | " + " | ".join(beside) + " |",
        "|---" * (4 + len(beside)) + "|",
    ]
    figures = [f for f in content["figures"] if f["met"] is not None]
    for figure in sorted(figures, key=lambda f: badness(f, values[f["name"], f["row"]]["value"])):
        own = values[figure["name"], figure["row"]]
        title = f"{figure['title']} (`{figure['name']}`)"
        cell = shown(own, figure["unit"]) + ("" if figure["row"] == "default" else f" ({figure['row']})")
        rule = figure["target"].removeprefix(figure["row"]).strip()
        others = [shown(values.get((figure["name"], name)), "", brackets=False) for name in beside]
        met = "yes" if figure["met"] else "**no**"
        lines.append(f"| {title} | {cell} | {rule} {figure['unit']} | {met} | " + " | ".join(others) + " |")
    return lines


def badness(figure: dict[str, Any], value: float) -> float:
    """Negative where a target is missed, by its share of the target: sorting puts what hurts most first."""
    sign, number = figure["target"].removeprefix(figure["row"]).split()
    target = float(number)
    gap = (value - target) / max(abs(target), 1e-6)
    return float(np.clip(gap if sign == ">=" else -gap, -9, 9))


def group_lines(content: dict[str, Any], group: str) -> list[str]:
    """A group's rows: a system each, a figure a column; titles of figures that have no target, as
    `target_lines` has the others.
    """
    figures = [figure for figure in content["figures"] if figure["group"] == group]
    values = {(row["figure"], row["system"]): row for row in content["rows"] if row["group"] == group}
    systems = [name for name in content["systems"] if any((f["name"], name) in values for f in figures)]
    order = {name: index for index, name in enumerate(SYSTEMS)}
    untold = [figure for figure in figures if figure["met"] is None]
    lines = [f"- `{f['name']}`: {f['title']}" + (f", {f['unit']}" if f["unit"] else "") for f in untold]
    lines += [
        "",
        "| row | " + " | ".join(figure["name"] for figure in figures) + " |",
        "|---" * (1 + len(figures)) + "|",
    ]
    for name in sorted(systems, key=lambda n: order.get(n, 99)):
        cells = [shown(values.get((figure["name"], name)), "") for figure in figures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def shown(row: dict[str, Any] | None, unit: str, brackets: bool = True) -> str:
    """A value with its interval, "" for none."""
    if row is None:
        return ""
    text = f"{digits(row['value'])} {unit}".strip()
    return text + (
        f" [{digits(row['low'])}, {digits(row['high'])}]" if brackets and row["low"] != row["high"] else ""
    )


def digits(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 100 else 0
    return f"{value:.{min(places, 3)}f}"


# -- pictures


def write_sheets(folder: Path, units: Sequence[dict[str, Any]]) -> list[Path]:
    """A contact sheet per group of its first scenes under `folder`/sheets, rows by system."""
    out = []
    for group in dict.fromkeys(unit["group"] for unit in units):
        mine = [unit for unit in units if unit["group"] == group and unit["pictures"]]
        for scene in list(dict.fromkeys(unit["scene"] for unit in mine))[:SHEETS]:
            rows = []
            for unit in (u for u in mine if u["scene"] == scene):
                name = f"{group}-{scene}-{unit['system']}"
                grids = read_grid(folder / "frames" / f"{name}.jpg", unit["pictures"])
                rows += [(f"{unit['system']}: {label}", frames) for label, frames in grids.items()]
            if rows:
                (folder / "sheets").mkdir(exist_ok=True)
                sheet = contact_sheet(rows, cell_height=112)
                out.append(write_sheet(folder / "sheets" / f"{group}-{scene}.png", sheet))
    return out


def write_plots(folder: Path, content: dict[str, Any]) -> bool:
    """Bars of every figure by system, a picture a group, under `folder`/plots; False without matplotlib."""
    try:
        import matplotlib.figure
    except ImportError:
        return False
    (folder / "plots").mkdir(exist_ok=True)
    for group in dict.fromkeys(figure["group"] for figure in content["figures"]):
        figures = [figure for figure in content["figures"] if figure["group"] == group]
        columns = min(4, len(figures))
        rows = math.ceil(len(figures) / columns)
        picture = matplotlib.figure.Figure(figsize=(3.4 * columns, 2.6 * rows), layout="constrained")
        for axes, figure in zip(picture.subplots(rows, columns, squeeze=False).flat, figures, strict=False):
            bars = [row for row in content["rows"] if row["figure"] == figure["name"]]
            centre = np.array([bar["value"] for bar in bars])
            spread = np.abs(np.array([[bar["low"], bar["high"]] for bar in bars]).T - centre)
            axes.barh(range(len(bars)), centre, xerr=spread)
            axes.set_yticks(range(len(bars)), [bar["system"] for bar in bars], fontsize=7)
            axes.invert_yaxis()
            axes.set_title(f"{figure['name']} {figure['unit']}", fontsize=8)
        picture.savefig(folder / "plots" / f"{group}.png", dpi=80)
    return True
