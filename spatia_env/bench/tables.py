"""A run as Markdown: figures with their reach, and a table per suite."""

from typing import Any

from spatia_env.bench.suites import SUITES

TABLES = {
    "walk": (
        "psnr_all", "psnr_observed", "psnr_unobserved", "psnr_seen_before", "ssim_all", "stlpips_all",
        "stlpips_observed", "smooth_psnr", "depth_absrel", "map_fscore",
    ),
    "loop": ("psnr_c", "psnr_c_raw", "ssim_c", "stlpips_c", "match_c", "followed", "psnr_turning"),
    "drift": ("psnr_c_2", "psnr_c_6", "psnr_c_16", "loss_2_6", "loss_2_16", "slope", "worst_clip"),
    "zero": ("psnr_zero", "psnr_zero_step", "growth"),
    "leakage": ("leakage", "leakage_pixels", "leakage_no_filter"),
}  # fmt: skip
"""Columns; suites that are not here show all their numbers."""


def table_text(content: dict[str, Any]) -> str:
    """The whole run."""
    run = content["run"]
    lines = [
        f"# spatia bench {run['suite']}",
        "",
        f"Checkpoint `{run['checkpoint']}`, {run.get('split', 'dev')} scenes {run['seeds'][0]} to "
        f"{run['seeds'][-1]} ({len(run['seeds'])}), {run['size'][0]}x{run['size'][1]}, {run['date']}; "
        f"{run['hardware']['cores']} cores ({run['hardware']['processor'] or run['hardware']['machine']}).",
        f"Made by `{run['command']}`. In brackets: 95 % intervals, scenes resampled whole.",
        "",
        *figure_lines(content["figures"]),
        *(f"\nNote: {note}." for note in content["notes"]),
    ]
    for suite, table in content["suites"].items():
        lines += ["", *suite_lines(suite, table)]
    if content["failures"]:
        lines += ["", "## Failures (each counts as the worst score)", ""]
        lines += [f"- {f['suite']} {f['scene']} {f['row']}: {f['error']}" for f in content["failures"]]
    if content["problems"]:
        lines += ["", "## Do not trust this run", "", *(f"- {problem}" for problem in content["problems"])]
    return "\n".join(lines) + "\n"


def figure_lines(figures: dict[str, dict[str, Any]], reported: bool = True) -> list[str]:
    """The figures as a Markdown table: those with a reach first; the others only if `reported`."""
    lines = ["| figure | value | reach | holds |", "|---|---|---|---|"]
    for with_reach in (True, False) if reported else (True,):
        for name, figure in figures.items():
            if (figure["reach"] is not None) == with_reach:
                holds = {True: "yes", False: "**no**", None: ""}[figure["holds"]]
                lines.append(
                    f"| {figure['title']} (`{name}`) | {format_figure(figure)} | {format_reach(figure)} | {holds} |"
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
    return f"{value}{_after(unit)} [{low}, {high}]"


def format_reach(figure: dict[str, Any]) -> str:
    """The value to reach, in the figure's unit."""
    if figure["reach"] is None:
        return ""
    sign, number = figure["reach"].split()
    unit = figure["unit"]
    return f"{sign} {float(number) * 100:g} %" if not unit else f"{sign} {number}{_after(unit)}"


def _after(unit: str) -> str:
    return "" if unit == "points" else f" {unit}"


def suite_lines(suite: str, table: dict[str, Any]) -> list[str]:
    """A suite's rows and metrics."""
    summary = SUITES[suite].summary if suite in SUITES else ""
    lines = [f"## {suite}: {summary}", ""]
    rows = table["rows"]
    present = list(dict.fromkeys(metric for cells in rows.values() for metric in cells))
    metrics = [name for name in TABLES.get(suite, present) if name in present]
    lines += row_lines(rows, metrics)
    # Closed paths beside the main one have tables of their own.
    for path in dict.fromkeys(name.rsplit(".", 1)[0] for name in present if "." in name):
        inner = [name for name in present if name.rsplit(".", 1)[0] == path]
        short = {
            row: {m.rsplit(".", 1)[1]: c for m, c in cells.items() if m in inner}
            for row, cells in rows.items()
        }
        named = [name.rsplit(".", 1)[1] for name in inner]
        lines += ["", f"### {suite}: {path}", "", *row_lines({r: c for r, c in short.items() if c}, named)]
    for row, shares in table.get("by_event", {}).items():
        lines += ["", f"{row}: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())]
    return lines


def row_lines(rows: dict[str, dict[str, Any]], metrics: list[str]) -> list[str]:
    """Rows by metrics; nothing without metrics."""
    if not metrics:
        return []
    lines = ["| row | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for row, cells in rows.items():
        lines.append(f"| {row} | " + " | ".join(_cell(cells.get(metric)) for metric in metrics) + " |")
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
        lines.append(f"{mark} {name:<{width}}  {format_figure(figure):<30} reach {format_reach(figure)}")
    lines += [f"failed: {f['suite']} {f['scene']} {f['row']}: {f['error']}" for f in content["failures"]]
    lines += [f"note: {note}" for note in content["notes"]]
    lines += [f"do not trust this run: {problem}" for problem in content["problems"]]
    return lines
