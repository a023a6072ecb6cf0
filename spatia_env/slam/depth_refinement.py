"""Correct the depth that was written from one place, once the camera has seen it from another.

A keyframe's depth is an estimate until parallax has confirmed it. When a clip is filmed from farther away from a
keyframe than any picture before, its depth is refined with the pictures of both places (`multi_view_stereo`),
and the points that it shows move along its rays (`memory.warping`), with the depth of the other keyframes. This needs
poses that are right to a fraction of a pixel: where tracking has found that the camera strays, nothing is done.
"""

import dataclasses

import torch
from torch import Tensor

from spatia_env.geometry import invert_se3, unproject
from spatia_env.memory.keyframes import Keyframe, overlap
from spatia_env.memory.map import Map
from spatia_env.memory.rendering import Render
from spatia_env.memory.warping import scaled, slide
from spatia_env.slam.multi_view_stereo import refine

LEAST_BASELINE = 0.04
"""Share of its depth that a keyframe's camera and the clip's must be apart."""
WIDER = 1.2
"""The clip must be so many times as far from the keyframe as every picture before."""
LEAST_OVERLAP = 0.3
"""Share of the clip's last view that must show what the keyframe shows."""
MOST = 2
"""Keyframes that are refined in a step."""
SOURCES = 6
"""Pictures that take part, at most; half of them of the clip."""


def revise(scene_map: Map, rgb: Tensor, path: Tensor, view: Render) -> Map:
    """The map with the depth of keyframes corrected by a clip.

    Args:
        scene_map: The map before the clip.
        rgb: Frames [T, 3, H, W] in [0, 1].
        path: Their poses [T, 4, 4].
        view: The map along them.
    """
    for index in candidates(scene_map, path, view):
        keyframe = scene_map.keyframes[index]
        if not bool((keyframe.depth > 0).any()):
            continue
        others, poses = sources(scene_map.keyframes, index, rgb, path)
        picture = keyframe.frame.movedim(-1, 0).float() / 255
        factor = refine(picture, keyframe.depth.float(), keyframe.c2w, others, poses, scene_map.K)
        if factor is not None:
            scene_map = _slid(scene_map, keyframe, factor.exp())
    return scene_map


def candidates(scene_map: Map, path: Tensor, view: Render) -> list[int]:
    """Indices of the keyframes that the clip sees from a new distance, those that gain most first."""
    keyframes = list(scene_map.keyframes)
    centres = torch.stack([k.c2w[:3, 3] for k in keyframes])
    depths = torch.stack([_middle(k.depth) for k in keyframes])
    now = (centres - path[-1, :3, 3]).norm(dim=1) / depths
    before = torch.cdist(centres, centres).amax(1) / depths
    wider = (now > LEAST_BASELINE) & (now > WIDER * before)
    wider &= torch.tensor([k.step > 0 or not scene_map.measured for k in keyframes])
    if not bool(wider.any()):
        return []
    shown = overlap(keyframes, view[len(path) - 1 :], path[-1:], scene_map.K)[0]
    good = [i for i in range(len(keyframes)) if bool(wider[i]) and float(shown[i]) >= LEAST_OVERLAP]
    return sorted(good, key=lambda i: (-float(now[i] - before[i]), i))[:MOST]


def sources(keyframes: tuple[Keyframe, ...], index: int, rgb: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, H, W] and poses [N, 4, 4] to compare a keyframe with: of the clip, and the farthest others."""
    late = [len(rgb) - 1 - i * len(rgb) // SOURCES for i in range(SOURCES // 2)]
    away = [float((k.c2w[:3, 3] - keyframes[index].c2w[:3, 3]).norm()) for k in keyframes]
    far = sorted((i for i in range(len(keyframes)) if away[i] > 0.05), key=lambda i: (-away[i], i))[
        : SOURCES // 2
    ]
    pictures = [rgb[i] for i in late] + [keyframes[i].frame.movedim(-1, 0).float() / 255 for i in far]
    return torch.stack(pictures), torch.stack([path[i] for i in late] + [keyframes[i].c2w for i in far])


def _middle(depth: Tensor) -> Tensor:
    seen = depth[depth > 0].float()
    return seen.median() if len(seen) else torch.tensor(1e3)


def _slid(scene_map: Map, keyframe: Keyframe, factor: Tensor) -> Map:
    """The map with what a keyframe shows at another depth: the map, and every keyframe that shows it too."""
    depth, c2w, K = keyframe.depth.float(), keyframe.c2w, scene_map.K
    # What was measured stays.
    surface, _ = slide(scene_map.points, c2w, K, depth, factor, int(scene_map.measured)).bounded()
    keyframes = []
    for other in scene_map.keyframes:
        if other is keyframe:
            keyframes.append(dataclasses.replace(other, depth=(depth * factor).half()))
            continue
        if scene_map.measured and other.step == 0:
            keyframes.append(other)
            continue
        old = other.depth.float()
        points = unproject(old, K, other.c2w).flatten(0, 1)
        scale = scaled(points, c2w, K, depth, factor)
        if bool((scale == 1).all()):
            keyframes.append(other)
            continue
        moved = c2w[:3, 3] + (points - c2w[:3, 3]) * scale[:, None]
        w2c = invert_se3(other.c2w)
        z = (moved @ w2c[2, :3] + w2c[2, 3]).view_as(old)
        new = torch.where((old > 0) & (scale.view_as(old) != 1), z.clamp_min(0.05), old)
        keyframes.append(dataclasses.replace(other, depth=new.half()))
    return dataclasses.replace(scene_map, points=surface, keyframes=tuple(keyframes))
