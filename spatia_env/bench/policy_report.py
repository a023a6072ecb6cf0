"""What `spatia bench policy` leaves behind: results.json, table.md, the policy scatter and the coverage curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.bench.core import write_json
from spatia_env.bench.rankings import agreement, mean_returns
from spatia_env.bench.report import SCHEMA, check_results
from spatia_env.bench.statistics import Estimate, cluster_bootstrap

PLANNER = "sweeping"
"""The planner that is compared with random; chosen on other scenes than those it is measured on."""
Units = Sequence[Mapping[str, Any]]


def write_policy_report(
    config: Any, units: Units, exploit: Units, lift: Mapping[str, Any] | None, run: dict[str, Any]
) -> dict[str, Any]:
    """Write every output under `config.out` and return the content of results.json."""
    both = {unit["scene"] for unit in units if unit["world"] == "imagined"}
    planner, units = units, [unit for unit in units if unit["scene"] in both]
    content = {
        "schema": SCHEMA,
        "run": run,
        "rows": {name: {} for name in dict.fromkeys(unit["policy"] for unit in units)},
        "suites": {"policy": policy_table(units)},
        "figures": figures(units, exploit, lift, config.command, planner),
        "failures": [],
        "problems": problems(units),
        "notes": [],
    }
    check_results(content)
    write_json(config.out / "results.json", content)
    (config.out / "table.md").write_text(table_text(content), encoding="utf-8")
    note = write_policy_plots(config.out / "plots", units)
    if note:
        print(note)
    return content


def returns(units: Units, world: str) -> dict[str, dict[str, float]]:
    """Return by policy and task ("explore-10100")."""
    out: dict[str, dict[str, float]] = {}
    for unit in units:
        if unit["world"] == world:
            out.setdefault(unit["policy"], {})[f"{unit['task']}-{unit['scene']}"] = float(unit["return"])
    return out


def policy_table(units: Units) -> dict[str, Any]:
    """Per policy: mean return, success and SPL in both worlds, true coverage gained a clip on `explore`."""
    table: dict[str, Any] = {}
    for policy in dict.fromkeys(unit["policy"] for unit in units):
        row: dict[str, float] = {}
        for world in ("imagined", "simulator"):
            mine = [u for u in units if (u["policy"], u["world"]) == (policy, world)]
            goals = [u for u in mine if u["task"] != "explore"]
            row[f"return_{world}"] = float(np.mean([u["return"] for u in mine]))
            if goals:
                row[f"success_{world}"] = float(np.mean([u["success"] for u in goals]))
            spl = [u["spl"] for u in goals if u["spl"] is not None]
            if spl:
                row[f"spl_{world}"] = float(np.mean(spl))
            gains = list(coverage_per_clip(units, policy, world).values())
            if gains:
                row[f"coverage_{world}"] = float(np.mean(gains))
        table[policy] = {name: round(value, 4) for name, value in row.items()}
    return table


def coverage_per_clip(units: Units, policy: str, world: str) -> dict[int, float]:
    """True m^2 gained a clip on `explore`, by scene."""
    return {
        unit["scene"]: (unit["coverage"][-1] - unit["coverage"][0]) / (len(unit["coverage"]) - 1)
        for unit in units
        if (unit["policy"], unit["world"], unit["task"]) == (policy, world, "explore")
    }


def figures(
    units: Units, exploit: Units, lift: Mapping[str, Any] | None, command: str, planner: Units | None = None
) -> dict[str, dict[str, Any]]:
    """The figures of the run; those of the planner from the units `planner`, which may hold more scenes."""
    planner = units if planner is None else planner
    out: dict[str, dict[str, Any]] = {}

    def add(
        name: str, title: str, estimate: Estimate | None, reach: float | None = None, unit: str = ""
    ) -> None:
        if estimate is not None:
            out[name] = {
                "title": title,
                "unit": unit,
                "value": round(estimate.value, 5),
                "ci": [round(estimate.low, 5), round(estimate.high, 5)],
                "n": estimate.n,
                "reach": None if reach is None else f">= {reach:g}",
                "holds": None if reach is None else estimate.value >= reach,
                "command": command,
            }

    agreed = agreement(returns(units, "imagined"), returns(units, "simulator"))
    add("policy_spearman", "rank correlation of imagined and true policy returns", agreed["spearman"], 0.85)
    add("policy_pearson", "correlation of imagined and true policy returns", agreed["pearson"])
    add("policy_mmrv", "mean maximum rank violation, in spreads of the true returns", agreed["mmrv"])
    seen = [coverage_per_clip(planner, policy, "simulator") for policy in (PLANNER, "random")]
    add(
        "planner_coverage_ratio",
        f"true surface a clip on explore, {PLANNER} over random",
        _ratio(*seen),
        2.0,
    )
    for name, metric, reach in (("planner_success", "success", 0.7), ("planner_spl", "spl", None)):
        per_scene = {
            u["scene"]: [float(u[metric] or 0)]
            for u in planner
            if (u["policy"], u["world"], u["task"]) == (PLANNER, "simulator", "image_goal")
        }
        estimate = cluster_bootstrap(per_scene) if per_scene else None
        add(name, f"{metric} of {PLANNER} on image_goal, true simulator", estimate, reach)
    if exploit:
        gap = {row["scene"]: [row["imagined"] - row["true"]] for row in exploit}
        base = {row["scene"]: [row["random_imagined"] - row["random_true"]] for row in exploit}
        add(
            "exploit_gap", "imagined minus true return of plans searched in the model", cluster_bootstrap(gap)
        )
        add("exploit_gap_random", "the same of random plans", cluster_bootstrap(base))
    if lift is not None:
        add(
            "optimisation_lift",
            "PPO trained inside, share of what PPO in the simulator gains",
            _lift(lift),
            0.7,
        )
    return out


def _ratio(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate | None:
    """Ratio of means over scenes, scenes resampled together."""
    scenes = sorted(a.keys() & b.keys())
    if not scenes or sum(b[s] for s in scenes) <= 0:
        return None
    table = np.array([[a[s], b[s]] for s in scenes])
    pick = np.random.default_rng(20260101).integers(len(scenes), size=(10_000, len(scenes)))
    means = table[pick].mean(1)
    ratios = means[:, 0] / np.maximum(means[:, 1], 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    value = float(table[:, 0].mean() / table[:, 1].mean())
    return Estimate(value, float(min(low, value)), float(max(high, value)), len(scenes))


def _lift(lift: Mapping[str, Any]) -> Estimate | None:
    random, inside, true = (np.array(lift[name]) for name in ("random", "imagined", "simulator"))
    gained = float(true.mean() - random.mean())
    if gained <= 1e-6:
        return None  # nothing was learnt in the simulator either: there is no share of it
    value = float(inside.mean() - random.mean()) / gained
    pick = np.random.default_rng(20260101).integers(len(random), size=(10_000, len(random)))
    base = random[pick].mean(1)
    below = true[pick].mean(1) - base
    shares = np.divide(inside[pick].mean(1) - base, below, out=np.full(len(pick), value), where=below > 1e-6)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Estimate(value, float(min(low, value)), float(max(high, value)), len(random))


def problems(units: Units) -> list[str]:
    """What must be true of any run; empty if all is well."""
    true = returns(units, "simulator")
    names = list(true)
    if {"still", "frontier"} <= set(names):
        means = dict(zip(names, mean_returns(true, list(true[names[0]])), strict=True))
        if means["still"] >= means["frontier"]:
            return [
                "doing nothing scores above the frontier planner in the simulator: the tasks tell nothing"
            ]
    return []


def table_text(content: Mapping[str, Any]) -> str:
    """The run as Markdown."""
    lines = ["# spatia bench policy", "", f"Made by `{content['run']['command']}`.", ""]
    lines += ["| figure | value | reach | holds |", "|---|---|---|---|"]
    for name, figure in content["figures"].items():
        low, high = figure["ci"]
        holds = {True: "yes", False: "**no**", None: ""}[figure["holds"]]
        lines.append(
            f"| {figure['title']} (`{name}`) | {figure['value']:.3f} [{low:.3f}, {high:.3f}], n = {figure['n']} "
            f"| {figure['reach'] or ''} | {holds} |"
        )
    lines += ["", *policy_lines(content["suites"]["policy"])]
    lines += [f"\nDo not trust this run: {problem}." for problem in content["problems"]]
    return "\n".join(lines) + "\n"


def policy_lines(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The policies' rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = ["| policy | " + " | ".join(column.replace("_", " ") for column in columns) + " |"]
    lines += ["|---" * (len(columns) + 1) + "|"]
    for policy, row in table.items():
        cells = " | ".join(f"{row[column]:.3f}" if column in row else "" for column in columns)
        lines.append(f"| {policy} | {cells} |")
    return lines


def write_policy_plots(folder: Path, units: Units) -> str:
    """Draw policies.png and coverage.png; a note if matplotlib is missing."""
    from spatia_env.bench.plots import NOTE

    try:
        import matplotlib.figure
    except ImportError:
        return NOTE
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("policies", _draw_scatter), ("coverage", _draw_coverage)):
        figure = matplotlib.figure.Figure(figsize=(6.4, 4.8), layout="constrained")
        draw(figure, units)
        figure.savefig(folder / f"{name}.png", dpi=130)
    return ""


def _draw_scatter(figure: Any, units: Units) -> None:
    """A dot a policy: its mean return in the simulator and in the generated world."""
    imagined, true = returns(units, "imagined"), returns(units, "simulator")
    tasks = list(true[next(iter(true))])
    x = mean_returns(true, tasks)
    y = mean_returns({policy: imagined[policy] for policy in true}, tasks)
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color="0.8", zorder=0)
    axes.scatter(x, y, s=22)
    axes.margins(0.08)
    # Numbers beside the dots, names beside the plot: names among the dots would cover each other.
    for number, (_, a, b, policy) in enumerate(sorted(zip(-x, x, y, true, strict=True)), 1):
        axes.annotate(str(number), (a, b), xytext=(3, 3), textcoords="offset points", fontsize=7)
        place = (1.02, 0.99 - 0.05 * number)
        axes.annotate(
            f"{number}  {policy}", place, xycoords="axes fraction", fontsize=7, annotation_clip=False
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("return in the simulator (spreads from the mean of all policies)")
    axes.set_ylabel("return in the generated world")


def _draw_coverage(figure: Any, units: Units) -> None:
    """True surface seen over the clips of `explore`, in the simulator."""
    axes, ends = figure.subplots(), []
    for policy in dict.fromkeys(unit["policy"] for unit in units):
        curves = [
            u["coverage"] for u in units
            if (u["policy"], u["world"], u["task"]) == (policy, "simulator", "explore")
        ]  # fmt: skip
        if curves:
            mean = np.mean(curves, axis=0)
            (line,) = axes.plot(range(len(mean)), mean, linewidth=1.2)
            ends.append((float(mean[-1]), policy, line.get_color(), len(mean) - 1))
    _label_ends(axes, sorted(ends))
    axes.set_xlabel("clip")
    axes.set_ylabel("true surface seen (m²)")


def _label_ends(axes: Any, ends: list[tuple[float, str, str, int]]) -> None:
    """Names beside the ends of curves, lowest first, each at least a line's height above the one before."""
    if not ends:
        return
    low, high = axes.get_ylim()
    place, last = low, max(clips for *_, clips in ends)
    for value, policy, colour, clips in ends:
        place = max(value, place + 0.028 * (high - low))
        axes.annotate(
            policy, (clips, value), xytext=(last * 1.03, place), va="center", fontsize=7, color=colour,
            annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(0, last * 1.32)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= last])
    axes.spines["bottom"].set_bounds(0, last)
    axes.set_ylim(low, max(high, place + 0.02 * (high - low)))
    axes.spines[["top", "right"]].set_visible(False)
