"""Imagined points of a map: surroundings that nobody has seen, filled in once around a place.

They are points of the layer `blocks.IMAGINED`: drawn like all others, saved, forked and exported with their layer.
Their `views` are 0 until a clip has shown them. What is observed later replaces them, and they never take a voxel that
holds something else, nor space that a keyframe has looked through.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import invert_se3
from spatia_env.io.images import to_float, to_uint8
from spatia_env.memory import blocks as blk
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.panorama import ALL_AROUND, extend_to_sphere, panorama_points, render_sphere_points
from spatia_env.memory.point_map import SceneMemory, keys_in_box
from spatia_env.memory.rendering import Render, sample_at
from spatia_env.memory.splatting import surface_tolerance

WEIGHT = 0.05
"""Confidence of an imagined point: where it lies among observed ones, those count."""
FOOTPRINT = 1.5
"""Least radius in voxels: the points of two neighbouring voxels are up to so far apart, and near surfaces must not fall
apart into dots.
"""
FARTHEST = 30.0
"""Metres around the eye within which the map is looked at."""
MARGIN, RELATIVE_MARGIN = 0.06, 0.04
"""Metres, plus a share of the depth, that a point must lie in front of what a keyframe saw to be left out."""
MAX_KEYFRAMES = 16
"""Keyframes that are tested for that: the first, and the last ones."""


def known_sphere(points: SceneMemory, eye: Tensor, height: int, width: int) -> Render:
    """What the map shows in all directions around `eye` [3]: one view [1, 2 height, width], distances along rays.

    The middle `height` rows are the panorama from +45 to -45 degrees (`memory.panorama`).
    """
    place = eye.double().numpy()
    keys = keys_in_box(points, place - FARTHEST, place + FARTHEST)
    rows = blk.concatenate([points.blocks[key] for key in keys])
    position = torch.from_numpy(np.ascontiguousarray(rows["position"]))
    rgb = torch.from_numpy(to_float(rows["colour"]).astype(np.float32))
    radius, weight = (torch.from_numpy(rows[name].astype(np.float32)) for name in ("radius", "weight"))
    return render_sphere_points(position, rgb, radius, eye, height, width, weight)


def with_imagined(
    points: SceneMemory,
    keyframes: Sequence[Keyframe],
    K: Tensor,
    eye: Tensor,
    rgb: Tensor,
    distance: Tensor,
    known: Tensor,
    step: int,
) -> tuple[SceneMemory, int]:
    """The map with the unknown part of a completed panorama as imagined points, and how many were added.

    Args:
        points: The map.
        keyframes: Its keyframes: space that they looked through stays free.
        K: Their intrinsics [3, 3] in pixels.
        eye: Where the panorama was taken [3].
        rgb: Its colours [3, H, W] in [0, 1].
        distance: Metres along its rays [H, W], positive everywhere.
        known: What the map shows, bool [2 H, W] over all directions (`known_sphere`).
        step: Of the world, kept with each point.
    """
    whole = extend_to_sphere(rgb, distance)
    cloud = panorama_points(*whole, eye, ~known, ALL_AROUND)
    free = ~_looked_through(cloud.positions, keyframes, K)
    return _added(points, cloud.positions[free], cloud.rgb[free], cloud.radius[free], step)


def mark_shown(points: SceneMemory, view: Render, c2w: Tensor, K: Tensor) -> tuple[SceneMemory, float]:
    """The map whose imagined points a clip has shown count as seen, and their surface in square metres.

    Args:
        points: The map.
        view: Its render along the clip's path.
        c2w: The path [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
    """
    size = (view.depth.shape[-2], view.depth.shape[-1])
    w2c, tolerance, area, changed = invert_se3(c2w), surface_tolerance(view.depth), 0.0, {}
    for key in points.visible_keys(c2w, K, *size).tolist():
        block = points.blocks[key]
        unshown = (block["layer"] == blk.IMAGINED) & (block["views"] == 0)
        if not unshown.any():
            continue
        position = torch.from_numpy(np.ascontiguousarray(block["position"][unshown]))
        surface, z, inside = sample_at(position, w2c, K, view.depth + tolerance)
        shown = (inside & (z <= surface)).any(0).numpy()
        if shown.any():
            rows, which = block.copy(), np.flatnonzero(unshown)[shown]
            rows["views"][which] = 1
            area += float((rows["radius"][which].astype(np.float64) ** 2).sum())
            changed[key] = blk.freeze(rows)
    return points.with_blocks(changed), area


def shown_rows(rows: np.ndarray) -> np.ndarray:
    """Those of some points that were given or shown before."""
    return rows[(rows["layer"] != blk.IMAGINED) | (rows["views"] > 0)]


def without_unshown(points: SceneMemory) -> SceneMemory:
    """The map without imagined points that no clip has shown."""
    changed = {}
    for key, block in points.blocks.items():
        kept = shown_rows(block)
        if len(kept) < len(block):
            changed[key] = blk.freeze(kept.copy())
    return points.with_blocks(changed)


def _looked_through(position: Tensor, keyframes: Sequence[Keyframe], K: Tensor) -> Tensor:
    """Which positions [N, 3] lie in front of what a keyframe saw: bool [N]."""
    tested = [*keyframes[:1], *keyframes[1:][-(MAX_KEYFRAMES - 1) :]]
    depth = torch.stack([keyframe.depth.float() for keyframe in tested])
    w2c = invert_se3(torch.stack([keyframe.c2w for keyframe in tested]))
    surface, z, inside = sample_at(position, w2c, K, depth)
    through = inside & (surface > 0) & (z < surface * (1 - RELATIVE_MARGIN) - MARGIN)
    return through.any(0)


def _added(
    points: SceneMemory, position: Tensor, rgb: Tensor, radius: Tensor, step: int
) -> tuple[SceneMemory, int]:
    """The map with imagined points in voxels that are empty, the finest of each voxel."""
    limit = blk.MAX_BLOCK * points.block * 0.99
    within = (position.abs() < limit).all(1)
    place, spacing = position[within].numpy(), radius[within].numpy()
    key, voxel = blk.locate(place, points.voxel, points.voxels_per_side)
    order = np.lexsort((spacing, voxel, key))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(key[order]) != 0) | (np.diff(voxel[order]) != 0)
    chosen = order[first]
    rows = np.zeros(len(chosen), dtype=blk.POINT)
    rows["voxel"], rows["position"] = voxel[chosen], place[chosen]
    rows["radius"] = np.maximum(spacing[chosen], FOOTPRINT * points.voxel)
    rows["colour"], rows["weight"] = to_uint8(rgb[within].numpy()[chosen]), WEIGHT
    rows["layer"], rows["first_step"], rows["last_step"] = blk.IMAGINED, step, step
    owner, changed, count = key[chosen], {}, 0
    starts = np.flatnonzero(np.diff(owner, prepend=owner[:1] - 1))
    for begin, end in zip(starts, [*starts[1:], len(owner)], strict=True):
        at = int(owner[begin])
        old = points.blocks.get(at, blk.EMPTY)
        new = rows[begin:end]
        new = new[~np.isin(new["voxel"], old["voxel"])]
        both = np.concatenate([old, new])
        changed[at] = blk.freeze(both[np.argsort(both["voxel"], kind="stable")])
        count += len(new)
    return points.with_blocks(changed).bounded()[0], count
