"""Suite `memory`: true frames, with something moving in them, through the environment's own SLAM and map.

So a figure of the map is one of the map, not of what a generator imagined (`memory_play`); `spatia bench memory`
has many more probes of it.
"""

from typing import Any

import numpy as np

from spatia_env.bench import metrics
from spatia_env.bench.episodes import FRAMES, generator, walk_path
from spatia_env.bench.memory_play import MAP_ROWS, Episode, ReplayEnv, film
from spatia_env.bench.quality import Context, Measured
from spatia_env.bench.rows import Row
from spatia_env.events.vocabulary import EVENTS
from spatia_env.sim.scenes import FRAME_SECONDS, SimScene

CLIPS = 4
SAMPLES = 12_000


def measure_memory(context: Context, scene: int, row: Row) -> Measured:
    """The map after four clips against the static surface that the cameras saw."""
    episode: Episode = context.source.kept(("moving", scene), lambda: moving_episode(scene, context.size))
    with_env = ReplayEnv(MAP_ROWS[row.name], context.size, context.players.model)
    try:
        with_env.start(episode)
        depth, growth = [], []
        for info in with_env.clips():
            assert with_env.geometry is not None
            depth.append(with_env.geometry.depth.numpy())
            growth.append(int(info["memory"]["points"]))
        points = np.asarray(with_env.world.memory.points()["position"])
    finally:
        with_env.close()
    values = score_memory(points, episode, scene)
    static = ~episode.dynamic[1:]
    values["depth_absrel"] = metrics.depth_absrel(np.concatenate(depth), episode.depth[1:], static)
    values["points_clips"] = growth
    return Measured(values)


def moving_episode(seed: int, size: tuple[int, int]) -> Episode:
    """A walk during which a mover of the vocabulary comes in."""
    movers = [event.name for event in EVENTS if event.kind == "mover"]
    with SimScene(seed) as scene:
        path = walk_path(scene, generator(seed, "walk"), CLIPS).numpy()
        scene.start_event(movers[seed % len(movers)], path[FRAMES], generator(seed, "event"))
        return film(scene, path, size, advance=FRAME_SECONDS)


def score_memory(points: np.ndarray, episode: Episode, seed: int) -> dict[str, Any]:
    """Accuracy, completeness and F-scores of map points [N, 3], and the share that lies on no static surface."""
    rng = np.random.default_rng(seed)
    cloud, surface = (_sample(p, rng) for p in (points, episode.surface))
    tight = metrics.map_scores(cloud, surface, threshold=0.02)
    scores = metrics.map_scores(cloud, surface, threshold=0.05)
    return {
        **{f"map_{name}": value for name, value in scores.items()},
        "map_fscore_2cm": tight["fscore"],
        "leakage_ghosts": metrics.ghost_share(cloud, surface),
        "points": len(points),
    }


def _sample(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return points if len(points) <= SAMPLES else points[rng.choice(len(points), SAMPLES, replace=False)]
