"""Intervals over scenes: frames and events inside one scene are not independent, so scenes are resampled
whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
_SEED = 20260101


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval (equal to the mean with a single scene: no spread is known) and how many
    scenes.
    """

    value: float
    low: float
    high: float
    n: int


def cluster_bootstrap(clusters: Mapping[int, Sequence[float]], resamples: int = RESAMPLES) -> Estimate:
    """Mean of all values with the percentile interval of resampling clusters (scenes) with replacement.

    Args:
        clusters: The values of each scene; each value has the same weight.
        resamples: How many resamples.

    Raises:
        ValueError: No values, or one that is not finite: failures must have become worst scores before.
    """
    groups = [np.asarray(values, np.float64) for values in clusters.values() if len(values)]
    if not groups:
        raise ValueError("cluster_bootstrap: no values.")
    if not all(np.isfinite(group).all() for group in groups):
        raise ValueError("cluster_bootstrap: a value is not finite; failures count as the worst score.")
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups], np.float64)
    mean = float(sums.sum() / counts.sum())
    pick = np.random.default_rng(_SEED).integers(len(groups), size=(resamples, len(groups)))
    means = sums[pick].sum(1) / counts[pick].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(mean, float(low), float(high), len(groups))


def median_bootstrap(clusters: Mapping[int, Sequence[float]], resamples: int = RESAMPLES) -> Estimate:
    """Median of the scenes' medians with the percentile interval of resampling scenes: for times, which have
    tails.
    """
    medians = np.array([np.median(values) for values in clusters.values() if len(values)])
    if not len(medians) or not np.isfinite(medians).all():
        raise ValueError("median_bootstrap: no values, or one that is not finite.")
    pick = np.random.default_rng(_SEED).integers(len(medians), size=(resamples, len(medians)))
    low, high = np.percentile(np.median(medians[pick], axis=1), [2.5, 97.5])
    return Estimate(float(np.median(medians)), float(low), float(high), len(medians))


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], resamples: int = RESAMPLES
) -> Estimate:
    """Mean of first - second over the scenes of both, with its interval.

    Raises:
        ValueError: The two do not hold the same scenes.
    """
    if set(first) != set(second):
        raise ValueError(f"paired_difference: scenes differ: {sorted(set(first) ^ set(second))}.")
    return cluster_bootstrap({scene: [first[scene] - second[scene]] for scene in first}, resamples)


def ratio_bootstrap(
    first: Mapping[int, float], second: Mapping[int, float], resamples: int = RESAMPLES
) -> Estimate:
    """Mean of the first over mean of the second, scenes resampled in pairs.

    Raises:
        ValueError: The two do not hold the same scenes, or the second is 0 on average.
    """
    if set(first) != set(second) or not first:
        raise ValueError(f"ratio_bootstrap: scenes differ: {sorted(set(first) ^ set(second))}.")
    scenes = sorted(first)
    a, b = (np.array([values[s] for s in scenes], np.float64) for values in (first, second))
    if abs(b.mean()) < 1e-12:
        raise ValueError("ratio_bootstrap: the second is 0 on average.")
    pick = np.random.default_rng(_SEED).integers(len(a), size=(resamples, len(a)))
    below = b[pick].sum(1)
    ratios = a[pick].sum(1)[np.abs(below) > 1e-12] / below[np.abs(below) > 1e-12]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Estimate(float(a.mean() / b.mean()), float(low), float(high), len(a))
