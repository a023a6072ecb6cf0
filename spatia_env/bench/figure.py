"""What a figure is: a number of the results with its reach, or one that is only reported."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spatia_env.bench.results import Results
from spatia_env.bench.statistics import Estimate, median_bootstrap


@dataclass(frozen=True)
class Figure:
    """A number with a reach, or one that is only reported.

    Attributes:
        id: Its key in results.json.
        title: What it is, one line.
        unit: "dB", "s", "ms", "m", "points" for plain numbers, or "" for shares.
        suite: The suite that it comes from, for its command.
        compute: From the results; None if its suite was not run.
        reach: The value to reach; None for numbers that are only reported.
        least: Whether the value must be at least the reach (else at most).
        strict: Whether it must be beyond it.
    """

    id: str
    title: str
    unit: str
    suite: str
    compute: Callable[[Results], Estimate | None]
    reach: float | None = None
    least: bool = True
    strict: bool = False

    def holds(self, value: float) -> bool | None:
        """Whether the reach is reached; None without one."""
        if self.reach is None:
            return None
        if self.strict:
            return value > self.reach if self.least else value < self.reach
        return value >= self.reach if self.least else value <= self.reach

    @property
    def sign(self) -> str:
        """The relation to the reach, as printed."""
        return (">" if self.least else "<") + ("" if self.strict else "=")

    def entry(self, results: Results, command: str) -> dict[str, Any] | None:
        """Its entry in results.json, None if nothing was measured for it."""
        estimate = self.compute(results)
        if estimate is None:
            return None
        return {
            "title": self.title,
            "unit": self.unit,
            "value": round(estimate.value, 5),
            "ci": [round(estimate.low, 5), round(estimate.high, 5)],
            "n": estimate.n,
            "reach": None if self.reach is None else f"{self.sign} {self.reach:g}",
            "holds": self.holds(estimate.value),
            "command": command,
        }


def mean(suite: str, row: str, metric: str) -> Callable[[Results], Estimate | None]:
    """Mean of a metric over scenes."""
    return lambda results: results.mean(suite, row, metric)


def gain(
    suite: str, baseline: str, metric: str, row: str = "default"
) -> Callable[[Results], Estimate | None]:
    """Mean of a row minus a baseline, scenes paired."""
    return lambda results: results.gain(suite, row, baseline, metric)


def median(metric: str) -> Callable[[Results], Estimate | None]:
    """Median of a metric of suite `time` over everything timed."""

    def compute(results: Results) -> Estimate | None:
        values = results.lists("time", "default", metric)
        return median_bootstrap(values) if values else None

    return compute
