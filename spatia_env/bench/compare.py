"""`spatia bench compare A B`: paired differences between two runs, scene by scene and sentence by sentence.

For every row and figure that both have, b - a over what both measured, with an interval by resampling. A
difference is called better or worse where its interval excludes 0.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from spatia_env.bench.report import COLUMNS, ResultsError, digits, read_results
from spatia_env.bench.statistics import mean_of


@dataclass(frozen=True)
class CompareConfig:
    """Paired differences between two runs of the benchmark."""

    first: tyro.conf.Positional[Path]
    """folder of the run to compare with (results.json and table.csv)"""
    second: tyro.conf.Positional[Path]
    """folder of the other run"""
    systems: tuple[str, ...] = ("default",)
    """rows to compare"""
    groups: tuple[str, ...] = ()
    """only these groups"""
    out: Path | None = None
    """write the differences as CSV to this file"""


def main(argv: list[str]) -> int:
    """Run `spatia bench compare`."""
    config = tyro.cli(CompareConfig, args=argv, prog="spatia bench compare", description=__doc__)
    table = compare(config.first, config.second, config.systems, config.groups)
    print("\n".join(lines_of(table)))
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(config.out, index=False)
    return 0


def read_table(folder: Path) -> pd.DataFrame:
    """The table.csv of a run.

    Raises:
        ResultsError: There is none, or it has other columns.
    """
    path = folder / "table.csv"
    try:
        table = pd.read_csv(path, keep_default_na=False)
    except (OSError, ValueError) as cause:
        raise ResultsError(
            f"{path}: is no table of a run ({cause}); `spatia bench core` writes one."
        ) from cause
    if list(table.columns) != COLUMNS:
        raise ResultsError(
            f"{path}: has the columns {', '.join(table.columns)}; measure again with this version."
        )
    return table


def compare(
    first: Path, second: Path, systems: tuple[str, ...] = ("default",), groups: tuple[str, ...] = ()
) -> pd.DataFrame:
    """One row a group, figure and system: both means, their difference, its interval, how many scenes, and the verdict.

    Raises:
        ResultsError: The runs were measured at different sizes or by different protocols, or share nothing.
    """
    runs = [read_results(folder) for folder in (first, second)]
    for name in ("size", "protocol"):
        a, b = (run["run"][name] for run in runs)
        if a != b:
            raise ResultsError(f"compare: {name} differs ({a} and {b}); measure one of them again.")
    better = {figure["name"]: figure["better"] for run in runs for figure in run["figures"]}
    keys = COLUMNS[:-1]
    both = read_table(first).merge(read_table(second), on=keys, suffixes=("_a", "_b"))
    both = both[both["system"].isin(systems)]
    if groups:
        both = both[both["group"].isin(groups)]
    if both.empty:
        raise ResultsError("compare: the runs share no group, row and scene.")
    both = both.assign(value=both["value_b"] - both["value_a"])
    rows = []
    for key, part in both.groupby(keys[:3], sort=False):
        estimate = mean_of(part)
        verdict = verdict_of(better[str(key[1])], estimate.low, estimate.high)
        means = part[["value_a", "value_b"]].mean()
        rows.append((*key, *means, estimate.value, estimate.low, estimate.high, estimate.n, verdict))
    columns = [*keys[:3], "a", "b", "difference", "low", "high", "scenes", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict_of(better: str, low: float, high: float) -> str:
    """Whether `b` is "better" or "worse"; "" where the interval holds 0 or neither direction is better."""
    if not better or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == (better == "high") else "worse"


def lines_of(table: pd.DataFrame) -> list[str]:
    """The differences as Markdown."""
    lines = ["| group | figure | row | a | b | b - a | 95 % interval | scenes | |", "|---" * 9 + "|"]
    for row in table.itertuples():
        numbers = (
            f"{digits(row.a)} | {digits(row.b)} | {row.difference:+.4g} | {row.low:.4g} to {row.high:.4g}"
        )
        lines.append(
            f"| {row.group} | {row.figure} | {row.system} | {numbers} | {row.scenes} | {row.verdict} |"
        )
    return lines
