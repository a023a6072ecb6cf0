"""Means with intervals: scenes are resampled whole, and where values belong to sentences, sentences too."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

RESAMPLES = 2000
FEW = 200
"""Resamples of pooled figures, which are not means."""
_SEED = 20260101


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval (equal to it with a single scene: no spread is known) and how many
    scenes.
    """

    value: float
    low: float
    high: float
    n: int


def mean_of(table: pd.DataFrame) -> Estimate:
    """Mean of `value` with the percentile interval of resampling `scene` and (where there are several) `sentence`.

    Raises:
        ValueError: No values, or one that is not finite.
    """
    if table.empty or not np.isfinite(table["value"]).all():
        raise ValueError("mean_of: no values, or one that is not finite.")
    matrix = table.pivot_table(index="scene", columns="sentence", values="value").to_numpy()
    return two_way_bootstrap(matrix)


def two_way_bootstrap(matrix: np.ndarray, resamples: int = RESAMPLES) -> Estimate:
    """Mean of a matrix [scenes, sentences] (NaN where a scene lacks a sentence), rows and columns
    resampled.
    """
    there = np.isfinite(matrix)
    values = np.where(there, matrix, 0.0)
    rng = np.random.default_rng(_SEED)
    rows = _counts(rng, matrix.shape[0], resamples)
    columns = _counts(rng, matrix.shape[1], resamples)
    total = ((rows @ values) * columns).sum(1)
    weight = ((rows @ there) * columns).sum(1)
    means = total[weight > 0] / weight[weight > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    value = float(values.sum() / there.sum())
    return Estimate(value, float(min(low, value)), float(max(high, value)), matrix.shape[0])


def _counts(rng: np.random.Generator, size: int, resamples: int) -> np.ndarray:
    """How often each of `size` things is drawn, [resamples, size]."""
    return rng.multinomial(size, np.full(size, 1 / size), resamples).astype(float)


def pooled(value_of: Callable[[np.ndarray], float], scenes: int) -> Estimate:
    """A figure of all scenes at once with the interval of resampling scenes; `value_of` takes how often each
    counts [scenes].
    """
    value = value_of(np.ones(scenes))
    draws = _counts(np.random.default_rng(_SEED), scenes, FEW)
    values = np.array([value_of(draw) for draw in draws])
    values = values[np.isfinite(values)]
    if scenes < 2 or not len(values):
        return Estimate(value, value, value, scenes)
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(value, float(min(low, value)), float(max(high, value)), scenes)
