"""WorldScore's arithmetic: from evaluation.json of every item to the two scores, with intervals over items."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.bench.statistics import two_way_bootstrap
from spatia_env.errors import DatasetError

STATIC = (
    "camera_control", "object_control", "content_alignment", "3d_consistency", "photometric_consistency",
    "style_consistency", "subjective_quality",
)  # fmt: skip
DYNAMIC = ("motion_accuracy", "motion_magnitude", "motion_smoothness")
ASPECTS = STATIC + DYNAMIC


def aggregate(aspects: Mapping[str, float]) -> dict[str, float]:
    """The static score (mean of 7 aspects), the dynamic one (of all 10; what is missing is 0) and their mean."""
    static = round(float(np.mean([aspects.get(name, 0.0) for name in STATIC])), 2)
    dynamic = round(float(np.mean([aspects.get(name, 0.0) for name in ASPECTS])), 2)
    return {
        "WorldScore-Static": static,
        "WorldScore-Dynamic": dynamic,
        # Half a cent is rounded up, as in the published tables.
        "average": float(np.floor((static + dynamic) / 2 * 100 + 0.5 + 1e-9) / 100),
    }


def read_evaluations(output: Path, movement: str) -> dict[str, dict[str, Any]]:
    """evaluation.json of every item under worldscore_output/static or /dynamic, by the item's folder.

    Raises:
        DatasetError: One of them cannot be read.
    """
    depth = "*/*/*/*" if movement == "static" else "*/*/*"
    found = {}
    for path in sorted((output / movement).glob(f"{depth}/evaluation.json")):
        try:
            found[str(path.parent.relative_to(output))] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as cause:
            raise DatasetError(f"{path}: cannot be read ({cause}); delete it and evaluate again.") from cause
    return found


def aspect_scores(
    evaluations: Iterable[Mapping[str, Any]], aspects: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Per aspect `value` (0 to 100, as the benchmark rounds), `ci` over items and `n` items.

    Every metric of an aspect is averaged over the items that have it; the aspect is the mean of its metrics.
    """
    by_metric: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for index, evaluation in enumerate(evaluations):
        for aspect, metrics in evaluation.items():
            for metric, scores in metrics.items():
                if aspect in aspects and scores:
                    by_metric[aspect][metric][index] = float(np.mean(scores["score_normalized"]))
    out = {}
    for aspect in aspects:
        if not by_metric[aspect]:
            continue
        value = float(np.mean([np.mean(list(scores.values())) for scores in by_metric[aspect].values()]))
        items: dict[int, list[float]] = defaultdict(list)
        for scores in by_metric[aspect].values():
            for index, score in scores.items():
                items[index].append(score)
        spread = two_way_bootstrap(np.array([[np.mean(v)] for v in items.values()]))
        out[aspect] = {
            "value": round(100 * value, 2),
            "ci": [100 * spread.low, 100 * spread.high],
            "n": len(items),
        }
    return out


def collect(output: Path) -> dict[str, Any]:
    """Everything under worldscore_output: aspects, aggregates, how many items were evaluated.

    Raises:
        DatasetError: Nothing was evaluated, or the benchmark's own worldscore.json disagrees.
    """
    evaluations = {movement: read_evaluations(output, movement) for movement in ("static", "dynamic")}
    if not any(evaluations.values()):
        raise DatasetError(f"{output}: has no evaluation.json; run `python worldscore.py evaluate` first.")
    aspects = aspect_scores(evaluations["static"].values(), STATIC)
    aspects |= aspect_scores(evaluations["dynamic"].values(), DYNAMIC)
    totals = aggregate({name: cell["value"] for name, cell in aspects.items()})
    _agree(output / "worldscore.json", {name: cell["value"] for name, cell in aspects.items()} | totals)
    return {"aspects": aspects, "totals": totals, "items": {name: len(e) for name, e in evaluations.items()}}


def _agree(path: Path, ours: Mapping[str, float]) -> None:
    if not path.is_file():
        return
    theirs = json.loads(path.read_text(encoding="utf-8"))
    off = {n: (v, theirs[n]) for n, v in ours.items() if n in theirs and abs(v - theirs[n]) > 0.011}
    if off:
        raise DatasetError(f"{path}: differs from the items' scores (ours, there): {off}; evaluate again.")
