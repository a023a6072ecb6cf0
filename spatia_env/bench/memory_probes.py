"""What the probes of `spatia bench memory` are told, and what they return.

A probe module (`memory_accuracy`, `memory_costs`) has `PROBES`: name -> function of a `Setting` that returns
`Probed`; and `PLOTS`: file name -> function (matplotlib figure, data of all probes by name) that draws one and
tells whether it did.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.bench.statistics import cluster_bootstrap


@dataclass(frozen=True)
class Setting:
    """What a probe may use.

    Attributes:
        seeds: Dev scenes, one per repetition.
        clips: Clips of an episode.
        model: Checkpoint, None for the packaged one.
        folder: A folder of the probe's own for whatever it writes; it exists.
    """

    seeds: tuple[int, ...]
    clips: int
    model: str | None
    folder: Path


@dataclass
class Probed:
    """What a probe found.

    Attributes:
        figures: Entries of results.json by id, as `figure` makes them.
        rows: Table cells: row ("default", "oracle", "no-slam", ...) -> metric -> value.
        data: Plain data behind plots.
        pictures: Contact sheets, u8 [H, W, 3] by file name (without suffix).
    """

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


Probe = Callable[[Setting], Probed]
Draw = Callable[[Any, Mapping[str, Any]], bool]


def figure(
    title: str, values: Mapping[int, float], reach: float | None = None, least: bool = True, unit: str = ""
) -> dict[str, Any]:
    """An entry of results.json: the mean over scenes (or repetitions) with its interval, against its reach.

    Args:
        title: What it is, one line.
        values: One number per scene or repetition.
        reach: What it must reach; None where it is only reported.
        least: Whether it must be at least the reach (else at most).
        unit: "ms", "m", ...; "" for shares.
    """
    estimate = cluster_bootstrap({key: [value] for key, value in values.items()})
    holds = None
    if reach is not None:
        holds = bool(estimate.value >= reach if least else estimate.value <= reach)
    return {
        "title": title,
        "unit": unit,
        "value": round(estimate.value, 5),
        "ci": [round(estimate.low, 5), round(estimate.high, 5)],
        "n": estimate.n,
        "reach": None if reach is None else f"{'>=' if least else '<='} {reach:g}",
        "holds": holds,
    }
