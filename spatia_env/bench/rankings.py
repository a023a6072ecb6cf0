"""Does one world rank policies as another does? Correlations and rank violations of mean returns.

The mean maximum rank violation is that of SIMPLER (Li et al., 2024, arXiv 2405.05941).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from spatia_env.bench.statistics import RESAMPLES, Estimate

_SEED = 20260101


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two vectors [n], ties sharing their mean rank; 0 where one is constant."""
    return pearson(_ranks(a), _ranks(b))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two vectors [n]; 0 where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 1e-12 else 0.0


def mean_maximum_rank_violation(imagined: np.ndarray, true: np.ndarray) -> float:
    """Mean over policies of the largest true gap to a policy that the imagined returns order the other way."""
    wrong = (imagined[:, None] < imagined[None]) != (true[:, None] < true[None])
    return float((np.abs(true[:, None] - true[None]) * wrong).max(1).mean())


def _ranks(values: np.ndarray) -> np.ndarray:
    order = np.sort(values)
    low, high = np.searchsorted(order, values, "left"), np.searchsorted(order, values, "right")
    return (low + high - 1) / 2


def mean_returns(returns: Mapping[str, Mapping[str, float]], tasks: list[str]) -> np.ndarray:
    """Mean over tasks [policies] of returns[policy][task], each task scaled by its spread over policies.

    A task whose returns are large would otherwise decide the ranking alone.
    """
    table = np.array([[per_task[task] for task in tasks] for per_task in returns.values()], np.float64)
    spread = table.std(0)
    return ((table - table.mean(0)) / np.where(spread > 1e-9, spread, 1.0)).mean(1)


def agreement(
    imagined: Mapping[str, Mapping[str, float]],
    true: Mapping[str, Mapping[str, float]],
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """`spearman`, `pearson` and `mmrv` of policies' returns, with intervals from resampling tasks.

    Args:
        imagined: Return of each policy on each task in the generated world.
        true: The same in the simulator.
        resamples: How many resamples.

    Raises:
        ValueError: The two do not hold the same policies and tasks, or fewer than three policies.
    """
    policies = list(true)
    tasks = list(true[policies[0]]) if policies else []
    if set(imagined) != set(true) or any(
        set(imagined[p]) != set(tasks) or set(true[p]) != set(tasks) for p in true
    ):
        raise ValueError("agreement: the two worlds did not play the same policies and tasks.")
    if len(policies) < 3:
        raise ValueError(f"agreement: {len(policies)} policies; a ranking needs at least 3.")
    ordered = {policy: imagined[policy] for policy in policies}
    functions: dict[str, Any] = {
        "spearman": spearman,
        "pearson": pearson,
        "mmrv": mean_maximum_rank_violation,
    }
    rng = np.random.default_rng(_SEED)
    draws = [list(rng.choice(tasks, len(tasks))) for _ in range(resamples)]
    pairs = [(mean_returns(ordered, draw), mean_returns(true, draw)) for draw in draws]
    best = mean_returns(ordered, tasks), mean_returns(true, tasks)
    out = {}
    for name, function in functions.items():
        low, high = np.percentile([function(*pair) for pair in pairs], [2.5, 97.5])
        value = function(*best)
        out[name] = Estimate(value, float(min(low, value)), float(max(high, value)), len(policies))
    return out
