"""Turn recorded episodes into training samples with the very memory, renderer and retrieval of the env.

For every clip of an episode: the map as it stood before the clip, rendered along the clip's path, and the
keyframes that would be retrieved. The map is built from true depth with planted errors (scale, smooth noise),
since at play it is built from estimates.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.memory.keyframes import Keyframe, select_references
from spatia_env.memory.point_map import SceneMemory

REFERENCES = 2
KEYFRAME_STRIDE = 4


@dataclass(frozen=True)
class CorruptionConfig:
    """Errors planted in the depth that the map is built from."""

    scale: float = 0.04
    """standard deviation of the log scale of each frame's depth, one draw per clip"""
    noise: float = 0.02
    """standard deviation of a smooth relative error (8x8 grid, one draw per frame)"""
    clean_share: float = 0.4
    """share of episodes with true depth"""


def remember_episode(
    episode: dict, corruption: CorruptionConfig, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Simulate the memory over an episode (see `episodes.record_episode`).

    Returns `render` u8 [n, 8, H, W, 3], `known` bool [n, 8, H, W], `map_depth` f16 [n, 8, H, W] and
    `references` i64 [n, R]: indices of frames of the episode.
    """
    frames, c2w, K = episode["frames"], episode["c2w"], episode["K"]
    depth = _corrupt(episode["depth"].float(), corruption, rng)
    rgb = frames.movedim(-1, 1).float() / 255
    static = (~_dilate(episode["dynamic"])).float()
    height, width = frames.shape[1:3]
    memory, _ = SceneMemory().update(rgb[:1], depth[:1], static[:1], c2w[:1], K, 0)
    keyframes, indices = [Keyframe(frames[0], depth[0].half(), c2w[0], 0)], [0]
    out: dict[str, list[Tensor]] = {"render": [], "known": [], "map_depth": [], "references": []}
    for number, clip in enumerate(episode["meta"]["clips"]):
        span = slice(1 + 8 * number, 9 + 8 * number)
        view = memory.render(c2w[span], K, height, width)
        chosen, _ = select_references(keyframes, view, c2w[span], K, REFERENCES)
        out["render"].append((view.rgb.movedim(1, -1) * 255).round().byte())
        out["known"].append(view.known)
        out["map_depth"].append(view.depth.half())
        out["references"].append(torch.tensor([indices[i] for i in chosen]))
        if clip["conditions"]:
            continue
        memory, _ = memory.update(rgb[span], depth[span], static[span], c2w[span], K, number + 1, view.known)
        for index in range(span.start + KEYFRAME_STRIDE - 1, span.stop, KEYFRAME_STRIDE):
            seen = torch.where(static[index] > 0, depth[index], 0)
            keyframes.append(Keyframe(frames[index], seen.half(), c2w[index], number + 1))
            indices.append(index)
    return {name: torch.stack(values) for name, values in out.items()}


def _corrupt(depth: Tensor, config: CorruptionConfig, rng: np.random.Generator) -> Tensor:
    if rng.random() < config.clean_share:
        return depth
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    clips = 1 + (len(depth) - 1 + 7) // 8
    scale = torch.exp(config.scale * torch.randn(clips, generator=generator))
    per_frame = torch.cat([scale[:1], scale[1:].repeat_interleave(8)])[: len(depth)]
    # What is written later is tied to the map (completion follows the known depth), so it drifts less.
    per_frame[1:] = per_frame[1:].sqrt() * per_frame[0]
    grid = config.noise * torch.randn(len(depth), 1, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(grid, depth.shape[-2:], mode="bilinear", align_corners=False)
    return depth * per_frame[:, None, None] * torch.exp(smooth[:, 0])


def _dilate(mask: Tensor) -> Tensor:
    return torch.nn.functional.max_pool2d(mask.float()[:, None], 5, 1, 2)[:, 0] > 0
