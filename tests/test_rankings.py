"""Rankings of policies: against scipy, against slow obvious code, and on planted orders."""

import numpy as np
import pytest
from scipy import stats

from spatia_env.bench.policy_report import _lift, _ratio, figures, table_text
from spatia_env.bench.rankings import agreement, mean_maximum_rank_violation, pearson, spearman


def test_correlations_are_scipys():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 12).astype(float), rng.normal(size=12)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
        assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert pearson(np.ones(4), np.arange(4.0)) == 0


def slow_mmrv(imagined, true):
    worst = []
    for i in range(len(true)):
        gaps = [0.0]
        for j in range(len(true)):
            if (imagined[i] < imagined[j]) != (true[i] < true[j]):
                gaps.append(abs(true[i] - true[j]))
        worst.append(max(gaps))
    return sum(worst) / len(worst)


def test_rank_violation():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=9), rng.normal(size=9)
    assert mean_maximum_rank_violation(a, b) == pytest.approx(slow_mmrv(a, b))
    assert mean_maximum_rank_violation(a, 3 * a + 1) == 0
    assert mean_maximum_rank_violation(-b, b) > mean_maximum_rank_violation(b + rng.normal(0, 0.05, 9), b)


def planted(noise: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    skill = np.linspace(0, 1, 8)
    names, tasks = [f"p{i}" for i in range(8)], [f"t{i}" for i in range(6)]
    scale = dict(zip(tasks, rng.uniform(0.1, 30, 6), strict=True))
    true = {
        n: {t: scale[t] * (s + rng.normal(0, 0.02)) for t in tasks} for n, s in zip(names, skill, strict=True)
    }
    other = {
        n: {t: scale[t] * (s + rng.normal(0, noise)) for t in tasks}
        for n, s in zip(names, skill, strict=True)
    }
    return other, true


def test_agreement_falls_with_noise():
    values = [agreement(*planted(noise), resamples=200)["spearman"].value for noise in (0.02, 0.6, 5.0)]
    assert values[0] > 0.95 and values[0] > values[1] > values[2]
    estimate = agreement(*planted(0.6), resamples=200)["pearson"]
    assert estimate.low <= estimate.value <= estimate.high and estimate.n == 8
    other, true = planted(0.1)
    del other["p0"]
    with pytest.raises(ValueError, match="the same policies"):
        agreement(other, true)


def test_ratio_and_lift():
    assert _ratio({1: 4.0, 2: 6.0}, {1: 2.0, 2: 3.0}).value == pytest.approx(2.0)
    assert _ratio({1: 4.0}, {1: 0.0}) is None
    lift = {"random": [0.0, 1.0], "imagined": [2.0, 3.0], "simulator": [4.0, 5.0]}
    assert _lift(lift).value == pytest.approx(0.5)
    assert _lift(lift | {"simulator": [0.0, 0.5]}) is None


def test_figures_and_table_of_a_planted_run():
    units = [
        {"policy": p, "task": t, "scene": s, "world": w, "return": r * (1 + s), "success": float(r > 1),
         "spl": 0.5 * r, "coverage": [1.0, 1.0 + r * 2, 1.0 + r * 4]}
        for p, r in (("still", 0.1), ("random", 1.0), ("sweeping", 3.0))
        for t in ("explore", "image_goal") for s in (1, 2) for w in ("imagined", "simulator")
    ]  # fmt: skip
    found = figures(units, [], None, "cmd")
    assert found["planner_coverage_ratio"]["value"] == pytest.approx(3.0)
    assert found["planner_coverage_ratio"]["holds"] and found["planner_success"]["value"] == 1
    assert found["policy_spearman"]["value"] == 1 and found["policy_mmrv"]["value"] == 0
    suites = {"policy": {"still": {"a": 1.0}}}
    text = table_text({"run": {"command": "cmd"}, "figures": found, "suites": suites, "problems": []})
    assert "| still | 1.000 |" in text and "policy_spearman" in text
