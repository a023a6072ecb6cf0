"""Plots of a run. matplotlib is optional: without it a note says how to get them."""

from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.bench.results import Results
from spatia_env.bench.rows import SWEEPS

NOTE = "no plots: matplotlib is not installed; `pip install matplotlib`, then run the same command again."


def write_plots(folder: Path, content: dict[str, Any], results: Results) -> str:
    """Draw what was measured as png files under `folder`/plots; a note if that is not possible."""
    try:
        import matplotlib.figure
    except ImportError:
        return NOTE
    out = folder / "plots"
    out.mkdir(parents=True, exist_ok=True)
    draws = {
        "rows": _draw_rows, "clips": _draw_clips, "drift": _draw_drift, "sweeps": _draw_sweeps,
        "events": _draw_events,
    }  # fmt: skip
    for name, draw in draws.items():
        figure = matplotlib.figure.Figure(figsize=(8, 4.2), layout="constrained")
        if draw(figure, content, results):
            figure.savefig(out / f"{name}.png", dpi=130)
    return ""


def _draw_rows(figure: Any, content: dict[str, Any], results: Results) -> bool:
    """PSNR of every row on all and on observed pixels, with intervals."""
    rows = {r: c for r, c in content["suites"].get("walk", {}).get("rows", {}).items() if r != "oracle"}
    if not rows:
        return False
    axes = figure.subplots()
    for offset, metric in ((-0.18, "psnr_observed"), (0.18, "psnr_all")):
        cells = [(i, cells[metric]) for i, cells in enumerate(rows.values()) if metric in cells]
        mean = np.array([cell["mean"] for _, cell in cells])
        spread = np.abs(np.array([cell["ci95"] for _, cell in cells]).T - mean)
        axes.barh([i + offset for i, _ in cells], mean, 0.34, xerr=spread, label=metric)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("dB against the truth")
    figure.legend(loc="outside upper center", ncols=2)
    return True


def _draw_clips(figure: Any, content: dict[str, Any], results: Results) -> bool:
    """PSNR per clip: does a world get worse as it grows?"""
    axes, drawn = figure.subplots(), False
    for row in content["suites"].get("walk", {}).get("rows", {}):
        curves = [
            unit.values["psnr_clips"] for unit in results.of("walk", row) if "psnr_clips" in unit.values
        ]
        if curves and row != "oracle":
            mean = np.mean(curves, axis=0)
            axes.plot(range(1, len(mean) + 1), mean, marker="o", label=row)
            drawn = True
    axes.set_xlabel("clip")
    axes.set_ylabel("PSNR, all pixels (dB)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if drawn:
        figure.legend(loc="outside upper center", ncols=4)
    return drawn


def _draw_drift(figure: Any, content: dict[str, Any], results: Results) -> bool:
    """PSNR on observed pixels per clip of one long world, and PSNR_C at its returns."""
    axes, drawn = figure.subplots(), False
    for row, cells in content["suites"].get("drift", {}).get("rows", {}).items():
        if row == "oracle":
            continue
        curves = [
            u.values["observed_clips"] for u in results.of("drift", row) if "observed_clips" in u.values
        ]
        if not curves:
            continue
        # A clip that shows nothing of the start in any scene has no value.
        columns = [[c for c in column if c is not None] for column in zip(*curves, strict=True)]
        points = [(i + 1, float(np.mean(column))) for i, column in enumerate(columns) if column]
        (line,) = axes.plot(*zip(*points, strict=True), marker=".", label=row)
        back = [(n, cells[f"psnr_c_{n}"]["mean"]) for n in (2, 6, 16) if f"psnr_c_{n}" in cells]
        if back:
            axes.plot(
                *zip(*back, strict=True), "s", color=line.get_color(), label=f"{row}, back at the start"
            )
        drawn = True
    axes.set_xlabel("clip")
    axes.set_ylabel("PSNR, observed pixels (dB)")
    if drawn:
        figure.legend(loc="outside upper center", ncols=3)
    return drawn


def _draw_sweeps(figure: Any, content: dict[str, Any], results: Results) -> bool:
    """PSNR_C and observed PSNR along the voxel edge and the number of references."""
    rows = content["suites"].get("sweep", {}).get("rows", {})
    if not rows:
        return False
    pair = figure.subplots(1, 2)
    for axes, (axis, names) in zip(pair, SWEEPS.items(), strict=True):
        kept = [name for name in names if name in rows]
        for metric in ("psnr_c", "psnr_observed"):
            cells = [rows[name][metric] for name in kept]
            mean = np.array([cell["mean"] for cell in cells])
            spread = np.abs(np.array([cell["ci95"] for cell in cells]).T - mean)
            axes.errorbar(range(len(kept)), mean, yerr=spread, marker="o", capsize=3, label=metric)
        axes.set_xticks(range(len(kept)), [SHORT.get(name, name.rsplit("-", 1)[-1]) for name in kept])
        axes.set_xlabel(axis)
    pair[0].set_ylabel("dB")
    pair[0].legend()
    return True


SHORT = {"default": "1cm", "no-references": "0"}


def _draw_events(figure: Any, content: dict[str, Any], results: Results) -> bool:
    """Success of every event, beside the judges' own recall."""
    tables = content["suites"].get("events", {}).get("by_event", {})
    if not tables:
        return False
    names = results.event_names()
    figure.set_size_inches(8, 1.2 + 0.26 * len(names))
    axes = figure.subplots()
    for offset, (row, shares) in zip((-0.2, 0.2), tables.items(), strict=False):
        label = "judges on the simulator" if row == "oracle" else row
        axes.barh(
            [i + offset for i in range(len(names))],
            [shares.get(name, 0) for name in names],
            0.38,
            label=label,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("share of scenes")
    figure.legend(loc="outside upper center", ncols=2)
    return True
