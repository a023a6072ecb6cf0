"""Bring remembered pictures into line with an edit: a keyframe must not show what was removed.

Keyframes are what the model is shown of the past. Where an edit changed what a keyframe's camera would see,
its pixels and depth are taken from the new map; where the new map has nothing there, the hole is filled from
its surroundings and has no depth.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from spatia_env.memory.editing import EditRecord
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.rendering import Render, pixels_of
from spatia_env.memory.splatting import surface_tolerance

CHANGED = 0.02
"""Difference in colour (of 1) or depth (of itself) by which a pixel of two renders counts as changed."""


def stale(keyframes: Sequence[Keyframe], record: EditRecord, K: Tensor) -> list[int]:
    """Indices of the keyframes that look at what an edit changed, not hidden behind something nearer.

    Args:
        keyframes: Pictures with depth and pose.
        record: What was changed.
        K: Intrinsics [3, 3] of the keyframes.
    """
    position = record.changed_points()["position"]
    found = []
    for index, keyframe in enumerate(keyframes):
        height, width = keyframe.depth.shape
        column, row, z, inside = pixels_of(position, keyframe.c2w, K, height, width)
        surface = keyframe.depth.double()[row, column]
        limit = torch.where(surface > 0, surface + 2 * surface_tolerance(surface), torch.inf).numpy()
        if bool((inside & (z <= limit)).any()):
            found.append(index)
    return found


def repaint(
    keyframes: Sequence[Keyframe], before: SceneMemory, after: SceneMemory, record: EditRecord, K: Tensor
) -> list[Keyframe]:
    """The keyframes as they would have been after an edit; those that it does not concern are the same objects.

    Args:
        keyframes: Pictures with depth and pose.
        before: The map before the edit.
        after: The map after it.
        record: What was changed.
        K: Intrinsics [3, 3] of the keyframes.
    """
    out = list(keyframes)
    for index in stale(keyframes, record, K):
        keyframe = keyframes[index]
        old, new = (_view(memory, keyframe, K) for memory in (before, after))
        changed = _changed(old, new)
        if bool(changed.any()):
            out[index] = _repainted(keyframe, new, changed)
    return out


def _view(memory: SceneMemory, keyframe: Keyframe, K: Tensor) -> Render:
    height, width = keyframe.depth.shape
    return memory.render(keyframe.c2w[None], K, height, width)


def _changed(old: Render, new: Render) -> Tensor:
    """Pixels bool [H, W] that differ, and their neighbours, since objects are blurred into what is around."""
    colour = (old.rgb[0] - new.rgb[0]).abs().amax(0) > CHANGED
    depth = (old.depth[0] - new.depth[0]).abs() > CHANGED * new.depth[0].clamp_min(0.5)
    changed = colour | depth | (old.known[0] != new.known[0])
    return torch.nn.functional.max_pool2d(changed[None, None].float(), 3, 1, 1)[0, 0] > 0


def _repainted(keyframe: Keyframe, view: Render, changed: Tensor) -> Keyframe:
    known, rgb, depth = view.known[0], view.rgb[0], view.depth[0]
    picture = keyframe.frame.movedim(-1, 0).float() / 255
    picture = torch.where(changed & known, rgb, picture)
    picture = _filled(picture, ~(changed & ~known))
    frame = (picture * 255).round().clamp(0, 255).to(torch.uint8).movedim(0, -1).contiguous()
    frame = torch.where(changed[..., None], frame, keyframe.frame)
    metres = torch.where(known, depth, torch.zeros_like(depth)).to(keyframe.depth.dtype)
    return dataclasses.replace(keyframe, frame=frame, depth=torch.where(changed, metres, keyframe.depth))


def _filled(picture: Tensor, valid: Tensor) -> Tensor:
    """A picture [3, H, W] whose invalid pixels were filled from their surroundings, ring by ring."""
    mask = valid.float()[None]
    for _ in range(sum(picture.shape[-2:])):
        if bool(mask.all()) or not bool(mask.any()):
            break
        total = torch.nn.functional.avg_pool2d(torch.cat([picture * mask, mask])[None], 3, 1, 1)[0]
        ring = (mask == 0) & (total[3:] > 0)
        picture = torch.where(ring, total[:3] / total[3:].clamp_min(1e-6), picture)
        mask = mask.maximum(ring.float())
    return picture
