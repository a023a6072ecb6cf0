"""From posed frames to a metric, upright episode with depth: what the map is built from.

Poses of structure from motion have an arbitrary world and an arbitrary unit. `upright` turns the world so that +Z is
up; `metric_scale` finds the length of a unit in metres, as the one at which depth and motion explain each other.
Depth comes from an estimator (the packaged network clip by clip on its own map, as at play; MapAnything from all
frames at once) or from files.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import invert_se3, orthonormalise, project, unproject
from spatia_env.memory.map import Map
from spatia_env.memory.point_map import SceneMemory
from spatia_env.slam.depth_network import LEAST_CONFIDENCE, Geometry, GeometryEstimator, static_weight
from spatia_env.train.episodes import FRAMES, clip_span
from spatia_env.world.starts import EYE_HEIGHT

SCALES = (0.02, 50.0)
"""Metres that a unit of the poses may be long."""
PAIRS = 12
"""Pairs of frames that the scale is judged by."""
MOVING = 0.5
LEAST_OVERLAP = 0.3
"""Share of a frame that another one must show to be compared with it."""
CLIPPED = 1.5
"""Differences of texture, in units of its contrast, do not count for more: things move, and hide one another."""

DepthSource = Literal["network", "mapanything", "folder"]


@dataclass(frozen=True)
class DepthConfig:
    """Where the depth of posed videos comes from."""

    source: DepthSource = "network"
    """network (the packaged geometry network), mapanything, or folder (depth/ beside the frames)"""
    model: str = "spatia-tiny"
    """checkpoint that holds the geometry network"""
    mapanything: Path = Path("weights/mapanything")
    """folder of MapAnything's weights"""
    scale: float = 0.0
    """metres that a unit of the poses is long; 0 finds it for every episode"""


def open_estimator(config: DepthConfig) -> GeometryEstimator | None:
    """The estimator of a source; None for depth from files.

    Raises:
        DependencyError: MapAnything is not installed.
        CheckpointError: Weights are missing.
    """
    if config.source == "folder":
        return None
    if config.source == "mapanything":
        from spatia_env.slam.mapanything import MapAnythingGeometry

        return MapAnythingGeometry.from_pretrained(config.mapanything)
    from spatia_env.models.loading import load_checkpoint
    from spatia_env.slam.loading import load_estimator

    return load_estimator(load_checkpoint(config.model))


def upright(c2w: np.ndarray) -> np.ndarray:
    """Poses f64 [N, 4, 4] in a world whose +Z is up, the first camera heading along +Y at the origin.

    Up is the mean of the cameras' own: people hold them upright, and where one looks down another looks ahead.
    """
    up = -c2w[:, :3, 1].mean(0)
    up /= max(float(np.linalg.norm(up)), 1e-9)
    forward = c2w[0, :3, 2] - up * (c2w[0, :3, 2] @ up)
    if np.linalg.norm(forward) < 1e-6:  # it looks straight up or down: any heading will do
        forward = -c2w[0, :3, 1] + up * (c2w[0, :3, 1] @ up)
    forward /= np.linalg.norm(forward)
    turn = np.stack([np.cross(forward, up), forward, up])
    out = np.tile(np.eye(4), (len(c2w), 1, 1))
    out[:, :3, :3] = turn @ c2w[:, :3, :3]
    out[:, :3, 3] = (c2w[:, :3, 3] - c2w[0, :3, 3]) @ turn.T
    return out


def placed(c2w: np.ndarray, scale: float) -> Tensor:
    """Poses f32 [N, 4, 4] in metres, the first camera at the eye height that lone pictures are given."""
    poses = torch.from_numpy(c2w).clone()
    poses[:, :3, 3] *= scale
    poses[:, 2, 3] += EYE_HEIGHT
    return orthonormalise(poses).float()


def lone_depths(estimator: GeometryEstimator, rgb: Tensor, c2w: Tensor, K: Tensor) -> Tensor:
    """Metric depth [N, H, W] of pictures [N, 3, H, W], each by itself: it knows nothing of the poses' unit."""
    nothing = torch.zeros(1, *rgb.shape[-2:])
    depths = []
    for picture, pose in zip(rgb, c2w, strict=True):
        black = torch.zeros(1, *picture.shape)
        # One picture at its own place: the map is empty, and no baseline can be misread.
        seen = estimator(picture[None], pose[None], K, black, nothing, nothing.bool(), pose_ground(pose))
        depths.append(seen.depth[0])
    return torch.stack(depths)


def pose_ground(c2w: Tensor) -> float:
    """World z of the ground that a lone camera stands on."""
    return float(c2w[2, 3]) - EYE_HEIGHT


def metric_scale(rgb: Tensor, depth: Tensor, c2w: np.ndarray, K: Tensor) -> float:
    """Metres that a unit of the poses is long, so that a frame warped by its depth looks like another frame.

    Args:
        rgb: Frames [N, 3, H, W] in [0, 1].
        depth: Metric z-depth [N, H, W], 0 = none.
        c2w: Poses f64 [N, 4, 4] in their own unit.
        K: Intrinsics [3, 3] in pixels.

    Returns:
        The scale; 1 where the camera does not move, so that there is none.
    """
    centres = c2w[:, :3, 3]
    reach = float(np.linalg.norm(centres - centres[0], axis=1).max())
    if len(rgb) < 2 or reach < 1e-9:
        return 1.0
    pairs = _pairs(centres)
    rgb = _texture(rgb)
    # The unit is searched for in steps of the whole motion against the scene's depth, then more finely.
    typical = float(depth[depth > 0].median()) / reach if bool((depth > 0).any()) else 1.0 / reach
    factors = np.geomspace(0.003, 2.0, 40)
    for _ in range(2):
        costs = [_disagreement(rgb, depth, c2w, K, pairs, typical * factor) for factor in factors]
        best = int(np.argmin(costs))
        low, high = factors[max(best - 1, 0)], factors[min(best + 1, len(factors) - 1)]
        found, factors = factors[best], np.geomspace(low, high, 13)
    return float(np.clip(typical * found, *SCALES))


def _texture(rgb: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] without their light: what is left of each after a blur of 9 pixels, at unit contrast."""
    blurred = F.avg_pool2d(rgb, 9, 1, 4, count_include_pad=False)
    detail = rgb - blurred
    return detail / detail.std((1, 2, 3), keepdim=True).clamp_min(1e-4)


def _pairs(centres: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of frames with the longest baselines among those a few frames apart."""
    count = len(centres)
    gaps = sorted({max(1, count // 8), max(1, count // 4), max(1, count // 2)})
    pairs = [(i, i + gap) for gap in gaps for i in range(0, count - gap)]
    order = sorted(pairs, key=lambda p: -float(np.linalg.norm(centres[p[0]] - centres[p[1]])))
    return order[: 3 * PAIRS : 3] or order[:1]


def _disagreement(
    rgb: Tensor, depth: Tensor, c2w: np.ndarray, K: Tensor, pairs: list[tuple[int, int]], scale: float
) -> float:
    """Mean difference of colour between frames and what others show of them at this scale."""
    scaled = torch.from_numpy(c2w).clone()
    scaled[:, :3, 3] *= scale
    poses = scaled.float()
    height, width = rgb.shape[-2:]
    total = []
    for i, j in pairs:
        points = unproject(depth[i : i + 1], K, poses[i : i + 1])[0].reshape(-1, 3)
        uv, z = project(points, invert_se3(poses[j : j + 1]), K)
        grid = uv[0] / torch.tensor([width, height]) * 2 - 1
        seen = F.grid_sample(rgb[j : j + 1], grid.view(1, height, width, 2), align_corners=False)[0]
        valid = (z[0] > 0.05) & (grid.abs() <= 1).all(-1) & (depth[i].flatten() > 0)
        moved = (rgb[i] - seen).abs().mean(0).flatten().clamp(max=CLIPPED)
        # A motion so large that little is left to compare explains nothing.
        enough = float(valid.float().mean()) >= LEAST_OVERLAP
        total.append(moved[valid].mean() if enough else moved.new_tensor(CLIPPED))
    return float(torch.stack(total).mean())


def understand(
    estimator: GeometryEstimator, rgb: Tensor, c2w: Tensor, K: Tensor, whole: bool
) -> tuple[Tensor, Tensor]:
    """Depth f32 and what moves, bool, [1 + 8 n, H, W] of an episode.

    Args:
        estimator: Of depth.
        rgb: Frames [1 + 8 n, 3, H, W] in [0, 1].
        c2w: Metric poses [1 + 8 n, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        whole: Hand over all frames at once (an estimator that needs no map); else clip by clip, on a map that grows.
    """
    if whole:
        nothing = torch.zeros(len(rgb), *rgb.shape[-2:])
        seen = [estimator(rgb, c2w, K, torch.zeros_like(rgb), nothing, nothing.bool(), pose_ground(c2w[0]))]
    else:
        seen = _clip_by_clip(estimator, rgb, c2w, K)
    depth = torch.cat([part.depth * (part.confidence >= LEAST_CONFIDENCE) for part in seen])
    return depth, torch.cat([part.dynamic > MOVING for part in seen])


def _clip_by_clip(estimator: GeometryEstimator, rgb: Tensor, c2w: Tensor, K: Tensor) -> list[Geometry]:
    """Geometry of the first picture and of every clip, each on the map that its predecessors left, as at play."""
    frames, ground = (rgb * 255).round().byte().movedim(1, -1), pose_ground(c2w[0])
    nothing = torch.zeros(1, *rgb.shape[-2:])
    first = estimator(rgb[:1], c2w[:1], K, torch.zeros_like(rgb[:1]), nothing, nothing.bool(), ground)
    # Nothing can be told apart as moving in one picture.
    seen = [replace(first, dynamic=nothing)]
    scene_map = Map.begin(SceneMemory(), frames[0], first.depth[0], static_weight(seen[0])[0], c2w[0], K)
    for number in range((len(rgb) - 1) // FRAMES):
        span = clip_span(number)
        view = scene_map.render(c2w[span])
        found = estimator(rgb[span], c2w[span], K, view.rgb, view.depth, view.known, ground)
        seen.append(found)
        scene_map, _ = scene_map.integrate(frames[span], found.depth, static_weight(found), c2w[span], view)
    return seen
