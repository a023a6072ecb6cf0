"""How the geometry network fares on its own map: true frames, everything else as at play.

The first picture's depth opens the map, and every clip is estimated against the map that its predecessors left.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.memory.point_map import SceneMemory
from spatia_env.slam.depth_network import Geometry, GeometryEstimator, static_weight
from spatia_env.train.data import EpisodeFile, EpisodeStore
from spatia_env.train.geometry_data import Clip, read_clip, read_picture
from spatia_env.train.geometry_metrics import Tally


@dataclass(frozen=True)
class Rollout:
    """One episode on its own map: the map it ends with; estimates and truth of the first picture and each clip."""

    memory: SceneMemory
    geometries: list[Geometry]
    clips: list[Clip]


def roll(
    estimator: GeometryEstimator, episode: EpisodeFile, ground: float | None = 0.0, clips: int = 4
) -> Rollout:
    """Walk through the first `clips` clips of an episode; nothing is written while a condition holds."""
    picture = read_picture(episode, 0)
    first = estimator(*picture.seen(), ground=ground)
    height, width = picture.depth.shape[-2:]
    memory, _ = SceneMemory().update(
        picture.rgb, first.depth, static_weight(first), picture.c2w, picture.K, 0
    )
    geometries, seen = [first], [picture]
    for number in range(min(clips, episode.num_clips)):
        stored = read_clip(episode, number)
        view = memory.render(stored.c2w, stored.K, height, width)
        clip = Clip(
            stored.rgb, stored.depth, stored.dynamic, stored.c2w, stored.K, view.rgb, view.depth, view.known
        )
        geometry = estimator(*clip.seen(), ground=ground)
        if not episode.meta["clips"][number]["conditions"]:
            weight = static_weight(geometry)
            memory, _ = memory.update(
                clip.rgb, geometry.depth, weight, clip.c2w, clip.K, number + 1, view.known
            )
        geometries.append(geometry)
        seen.append(clip)
    return Rollout(memory, geometries, seen)


def evaluate_rollouts(
    estimator: GeometryEstimator, store: EpisodeStore, episodes: int = 12, ground: float | None = 0.0
) -> dict[str, float]:
    """Figures of `Tally` over all clips of `episodes` rollouts, and AbsRel of the first pictures and last clips.

    `absrel_aligned` is AbsRel after the median scale of each episode is taken out.
    """
    tally, firsts, lasts, aligned = Tally(), [], [], []
    for index in range(min(episodes, len(store))):
        rollout = roll(estimator, store.open(index), ground)
        for geometry, clip in zip(rollout.geometries[1:], rollout.clips[1:], strict=True):
            tally.add(geometry, clip.depth, clip.dynamic, clip.known)
        firsts.append(relative_error(rollout.geometries[0].depth, rollout.clips[0].depth))
        lasts.append(relative_error(rollout.geometries[-1].depth, rollout.clips[-1].depth))
        depth = torch.cat([geometry.depth for geometry in rollout.geometries])
        truth = torch.cat([clip.depth for clip in rollout.clips])
        scale = (truth / depth)[truth > 0].median()
        aligned.append(relative_error(depth * scale, truth))
    figures = tally.figures()
    figures["absrel_first"] = round(float(np.mean(firsts)), 4)
    figures["absrel_last"] = round(float(np.mean(lasts)), 4)
    figures["absrel_aligned"] = round(float(np.mean(aligned)), 4)
    return figures


def relative_error(depth: Tensor, truth: Tensor) -> float:
    """Mean of |depth - truth| / truth where there is a truth."""
    valid = truth > 0
    return float(((depth - truth).abs() / truth.clamp_min(1e-3))[valid].mean())
