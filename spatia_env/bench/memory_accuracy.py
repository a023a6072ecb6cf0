"""Probes of the map's accuracy: surface, tracking, what moves, and the cost of an update over time."""

from collections.abc import Mapping

import numpy as np
from scipy.spatial import cKDTree

from spatia_env.bench.episodes import generator, walk_path
from spatia_env.bench.memory_play import MAP_ROWS, Episode, ReplayEnv, film
from spatia_env.bench.memory_probes import Draw, Probe, Probed, Setting, figure
from spatia_env.sim.scenes import SimScene

SIZE = (128, 128)
NEAREST_THRESHOLD, RELATIVE_THRESHOLD = 0.05, 0.03
"""A point is right within the larger of these metres and this share of the depth it was seen at."""


def walk(seed: int, clips: int) -> Episode:
    """A walk through a still scene."""
    with SimScene(seed) as scene:
        return film(scene, walk_path(scene, generator(seed, "walk"), clips).numpy(), SIZE)


def surface_scores(points: np.ndarray, episode: Episode) -> dict[str, float]:
    """Precision, recall and F-score of map points [n, 3] against the true surface that any frame shows."""
    if not len(points):
        return {"precision": 0.0, "recall": 0.0, "fscore": 0.0}
    limit = np.maximum(NEAREST_THRESHOLD, RELATIVE_THRESHOLD * episode.surface_depth)
    away, nearest = cKDTree(episode.surface).query(points)
    precision = float((away <= limit[nearest]).mean())
    recall = float((cKDTree(points).query(episode.surface)[0] <= limit).mean())
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "fscore": 2 * precision * recall / both if both else 0.0,
    }


def probe_surface(setting: Setting) -> Probed:
    """The map against the true surface: with the first picture's depth, from the picture alone, with true depth."""
    scores: dict[str, dict[int, dict[str, float]]] = {name: {} for name in ("default", "oracle")}
    for name, cells in scores.items():
        env = ReplayEnv(MAP_ROWS[name], SIZE, setting.model)
        for seed in setting.seeds:
            episode = walk(seed, setting.clips)
            env.start(episode)
            for _ in env.clips():
                pass
            cells[seed] = surface_scores(env.world.memory.points()["position"], episode)
    figures = {
        "map_fscore": figure("map, first depth given", _column(scores["default"], "fscore"), 0.90),
        "map_fscore_oracle": figure("map, oracle depth", _column(scores["oracle"], "fscore"), 0.97),
    }
    return Probed(figures, {row: _means(cells) for row, cells in scores.items()})


def _column(cells: Mapping[int, Mapping[str, float]], name: str) -> dict[int, float]:
    return {seed: values[name] for seed, values in cells.items()}


def _means(cells: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    names = next(iter(cells.values()))
    return {name: float(np.mean([values[name] for values in cells.values()])) for name in names}


PROBES: dict[str, Probe] = {"surface": probe_surface}
PLOTS: dict[str, Draw] = {}
