"""Edits of a map: remove, move, rotate, insert, recolour, freeze; how they are undone; and keyframes brought into line.

Every edit is a function from a map to a new map and an `EditRecord`; the old map is untouched. Points that an edit
writes are of layer 1: updates neither carve nor change them. A record holds the blocks before and after, so `revert`
can take the edit back later, also when the map has changed meanwhile.

Keyframes are what the model is shown of the past. Where an edit changed what a keyframe's camera sees, `repaint` takes
its pixels and depth from the new map; where the new map has nothing, the hole is filled from its surroundings and has
no depth.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.errors import EditError, WorldTooLargeError
from spatia_env.io.images import to_float, to_uint8
from spatia_env.io.point_cloud import PointCloud, as_transform
from spatia_env.io.validation import as_finite_array
from spatia_env.memory import blocks as blk
from spatia_env.memory.export import read_points
from spatia_env.memory.fusion import MAX_WEIGHT, Observation, merge
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.regions import Region, Selection
from spatia_env.memory.rendering import Render, pixels_of
from spatia_env.memory.splatting import surface_tolerance

EDITED = blk.EDITED
MIN_WEIGHT = 1e-3
MAX_HISTORY = 64
"""Edits that a world keeps for undo."""
CHANGED = 0.02
"""Difference in colour (of 1) or depth (relative) by which a pixel of two renders counts as changed."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class EditRecord:
    """What an edit did.

    Attributes:
        kind: "remove", "move", "insert", "recolor", "freeze", or "undo" and "redo".
        points: How many points were chosen or written.
        low: Lowest corner [3] in metres of what changed, in the old map and the new.
        high: Highest corner [3].
        details: What was asked for, as JSON data.
        changes: For each changed block its rows before and after.
    """

    kind: str
    points: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    details: dict[str, Any] = field(default_factory=dict)
    changes: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON data for the event log, without the blocks."""
        return {
            "kind": self.kind,
            "points": self.points,
            "low": list(self.low),
            "high": list(self.high),
            **self.details,
        }

    def changed_points(self) -> np.ndarray:
        """Rows (`blocks.POINT`) that are in only one of the two maps: what pictures of either would show."""
        parts = [blk.EMPTY]
        for before, after in self.changes.values():
            parts += [_only_in(before, after), _only_in(after, before)]
        return np.concatenate(parts)


def remove(memory: SceneMemory, region: Region) -> tuple[SceneMemory, EditRecord]:
    """Take the points of a region out of the map.

    Raises:
        EditError: If the region holds no points.
    """
    selection = _select(memory, region)
    after = memory.with_blocks(_without(memory, selection))
    return after, record_of("remove", memory, after, _count(selection), region=region.as_dict())


def move(memory: SceneMemory, region: Region, transform: Any) -> tuple[SceneMemory, EditRecord]:
    """Move the points of a region by a rigid transform of the world [4, 4]; they replace what is there.

    Raises:
        EditError: If the region holds no points, or the transform is not rigid or leads too far away.
    """
    matrix = as_transform(transform)
    selection = _select(memory, region)
    rows = _rows(memory, selection)
    moved = PointCloud.of_rows(rows).moved(matrix)
    lifted = memory.with_blocks(_without(memory, selection))
    after = _written(lifted, moved, int(rows["last_step"].max()))
    details = {"region": region.as_dict(), "transform": matrix.tolist()}
    return after, record_of("move", memory, after, len(rows), **details)


def rotate(
    memory: SceneMemory, region: Region, rotvec: Any, pivot: Any = None
) -> tuple[SceneMemory, EditRecord]:
    """Turn the points of a region by a rotation vector [3] (radians, world axes) about `pivot` [3].

    The pivot is the middle of the points' bounds by default; see `move`.
    """
    from scipy.spatial.transform import Rotation

    vector = as_finite_array(rotvec, "rotvec", (3,), EditError)
    if pivot is None:
        position = _rows(memory, _select(memory, region))["position"].astype(np.float64)
        pivot = (position.min(0) + position.max(0)) / 2
    centre = as_finite_array(pivot, "pivot", (3,), EditError)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(vector).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre
    return move(memory, region, matrix)


def insert(
    memory: SceneMemory,
    source: PointCloud | str | os.PathLike[str],
    c2w: Any = None,
    scale: float = 1.0,
    step: int = 0,
) -> tuple[SceneMemory, EditRecord]:
    """Put points into the map; they replace what is in their voxels.

    Args:
        memory: The map.
        source: A cloud (see `extract` and `PointCloud.of_mesh`), or a PLY file or COLMAP folder to read.
        c2w: Rigid transform [4, 4] from the cloud to the world; the identity by default.
        scale: Applied first.
        step: Step that the points are dated.

    Raises:
        EditError: If there are no points, or the transform is not rigid or leads too far away.
        WorldTooLargeError: If there are more points than the map may hold.
        WorldFullError: If the map is full and `on_full="error"`.
    """
    cloud = source if isinstance(source, PointCloud) else read_points(source)
    if not len(cloud):
        raise EditError("insert: the source holds no points.")
    if len(cloud) > 4 * memory.max_points:
        raise WorldTooLargeError(f"{len(cloud)} points do not fit a map of max_points={memory.max_points}.")
    matrix = as_transform(np.eye(4) if c2w is None else c2w, "c2w")
    after = _written(memory, cloud.moved(matrix, scale), step)
    return after, record_of("insert", memory, after, len(cloud), c2w=matrix.tolist(), scale=float(scale))


def recolor(
    memory: SceneMemory, region: Region, rgb: Any, keep_shading: bool = True
) -> tuple[SceneMemory, EditRecord]:
    """Paint the points of a region.

    Args:
        memory: The map.
        region: What to paint.
        rgb: Colour [3], integers from 0 to 255.
        keep_shading: Scale the colour by each point's brightness relative to the region's mean, so that light
            and texture stay; otherwise every point gets the same colour.

    Raises:
        EditError: If the region holds no points or the colour is none.
    """
    colour = as_finite_array(rgb, "rgb", (3,), EditError)
    if (colour < 0).any() or (colour > 255).any():
        raise EditError(f"rgb={colour.tolist()}: use three numbers from 0 to 255.")
    selection = _select(memory, region)
    grey = _rows(memory, selection)["colour"].astype(np.float64) @ LUMA
    mean = max(float(grey.mean()), 1.0)

    def paint(rows: np.ndarray) -> None:
        share = rows["colour"].astype(np.float64) @ LUMA / mean
        light = share[:, None] if keep_shading else 1.0
        rows["colour"] = np.rint(np.clip(colour * light, 0, 255))

    after = memory.with_blocks(_changed(memory, selection, paint))
    details = {"region": region.as_dict(), "rgb": colour.tolist(), "keep_shading": bool(keep_shading)}
    return after, record_of("recolor", memory, after, _count(selection), **details)


def freeze(memory: SceneMemory, region: Region) -> tuple[SceneMemory, EditRecord]:
    """Keep the points of a region as they are: updates will neither carve nor change them.

    Raises:
        EditError: If the region holds no points.
    """
    selection = _select(memory, region)
    after = memory.with_blocks(_changed(memory, selection, lambda rows: None))
    return after, record_of("freeze", memory, after, _count(selection), region=region.as_dict())


def extract(memory: SceneMemory, region: Region) -> PointCloud:
    """The points of a region as a cloud in world coordinates, to be inserted elsewhere.

    Raises:
        EditError: If the region holds no points.
    """
    return PointCloud.of_rows(_rows(memory, _select(memory, region)))


def start_from(memory: SceneMemory, cloud: PointCloud) -> SceneMemory:
    """The map with a cloud's points as if they had been seen: of layer 0, so that updates correct them.

    Raises:
        EditError: If the cloud reaches too far from the origin.
    """
    return _written(memory, cloud, 0, layer=0)


def revert(memory: SceneMemory, record: EditRecord, kind: str = "undo") -> tuple[SceneMemory, EditRecord]:
    """Take back what a record did, in a map that may have changed since.

    Blocks that are as the edit left them become exactly what they were. In others the edit's points go and
    the points that it took away return to voxels that are still empty; what was seen since stays.
    """
    changed = {}
    for key, (before, after) in record.changes.items():
        current = memory.blocks.get(key, blk.EMPTY)
        changed[key] = before if _same(current, after) else _taken_back(current, before, after)
    reverted, _ = memory.with_blocks(changed).bounded()
    details = {"of": record.details.get("of", record.kind)}
    return reverted, record_of(kind, memory, reverted, record.points, **details)


def record_of(kind: str, before: SceneMemory, after: SceneMemory, points: int, **details: Any) -> EditRecord:
    """The record of an edit from the two maps; `details` are what was asked for."""
    changes = {}
    for key in sorted(before.blocks.keys() | after.blocks.keys()):
        old, new = before.blocks.get(key, blk.EMPTY), after.blocks.get(key, blk.EMPTY)
        if old is not new:
            changes[key] = (old, new)
    record = EditRecord(kind, points, (), (), details, changes)
    position = record.changed_points()["position"].astype(np.float64)
    low, high = (position.min(0), position.max(0)) if len(position) else (np.zeros(3), np.zeros(3))
    return EditRecord(kind, points, tuple(low.tolist()), tuple(high.tolist()), details, changes)


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
        row, column, z, inside = pixels_of(position, keyframe.c2w, K, height, width)
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
        changed = _differs(old, new)
        if bool(changed.any()):
            out[index] = _repainted(keyframe, new, changed)
    return out


# -- points ---------------------------------------------------------------------------------------------


def _select(memory: SceneMemory, region: Region) -> Selection:
    selection = region.select(memory)
    if not selection:
        raise EditError(f"the {region.as_dict().get('kind', 'region')} matches no point of the map.")
    return selection


def _count(selection: Selection) -> int:
    return sum(int(rows.sum()) for rows in selection.values())


def _rows(memory: SceneMemory, selection: Selection) -> np.ndarray:
    return np.concatenate([memory.blocks[key][selection[key]] for key in sorted(selection)])


def _without(memory: SceneMemory, selection: Selection) -> dict[int, np.ndarray]:
    return {key: blk.freeze(memory.blocks[key][~rows]) for key, rows in selection.items()}


def _changed(
    memory: SceneMemory, selection: Selection, change: Callable[[np.ndarray], None]
) -> dict[int, np.ndarray]:
    """Blocks in which `change` was applied to the chosen rows, which become edited ones."""
    blocks = {}
    for key, chosen in selection.items():
        block = memory.blocks[key].copy()
        rows = block[chosen]
        change(rows)
        rows["layer"] = EDITED
        block[chosen] = rows
        blocks[key] = blk.freeze(block)
    return blocks


def _written(memory: SceneMemory, cloud: PointCloud, step: int, layer: int = EDITED) -> SceneMemory:
    """The map with a cloud's points, one a voxel, in place of what was in their voxels; within `max_points`."""
    if not np.isfinite(cloud.position).all() or not np.isfinite(cloud.confidence).all():
        raise EditError("a point is NaN or infinite; leave such points out.")
    limit = blk.MAX_BLOCK * memory.block * 0.99
    if (np.abs(cloud.position) >= limit).any():
        raise EditError(f"points would lie beyond {limit:.0f} m of the origin, the limit of a map.")
    side = memory.voxels_per_side
    key, local = blk.locate(cloud.position, memory.voxel, side)
    order = np.argsort(key * np.int64(side**3) + local, kind="stable")
    weight = np.clip(cloud.confidence, MIN_WEIGHT, MAX_WEIGHT)
    confirm_only = np.zeros(len(cloud), bool)
    columns = (key, local, cloud.position, to_float(cloud.colour), weight, cloud.radius, confirm_only)
    seen = Observation(*(column[order] for column in columns))
    touched = np.unique(key)
    new, _ = merge(touched, [blk.EMPTY] * len(touched), seen, step, side**3)
    changed = {}
    for at, rows in new.items():
        rows = rows.copy()
        rows["layer"] = layer
        changed[at] = overlaid(memory.blocks.get(at, blk.EMPTY), rows)
    return memory.with_blocks(changed).bounded()[0]


def overlaid(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Rows of `new`, and those of `old` in other voxels, sorted by voxel."""
    rows = np.concatenate([old[~np.isin(old["voxel"], new["voxel"])], new])
    return blk.freeze(rows[np.argsort(rows["voxel"], kind="stable")])


def _taken_back(current: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    left = current[~np.isin(current["voxel"], _only_in(after, before)["voxel"])]
    lost = _only_in(before, after)
    return overlaid(left, lost[~np.isin(lost["voxel"], left["voxel"])])


def _only_in(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows that `others` has not, or has with other values."""
    place = np.searchsorted(others["voxel"], rows["voxel"])
    place = np.minimum(place, max(len(others) - 1, 0))
    if not len(others):
        return rows
    return rows[blk.raw(others[place]) != blk.raw(rows)]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or (len(a) == len(b) and a.tobytes() == b.tobytes())


# -- pictures -------------------------------------------------------------------------------------------


def _view(memory: SceneMemory, keyframe: Keyframe, K: Tensor) -> Render:
    height, width = keyframe.depth.shape
    return memory.render(keyframe.c2w[None], K, height, width)


def _differs(old: Render, new: Render) -> Tensor:
    """Pixels bool [H, W] that differ, and their neighbours, as splats blur object borders."""
    colour = (old.rgb[0] - new.rgb[0]).abs().amax(0) > CHANGED
    depth = (old.depth[0] - new.depth[0]).abs() > CHANGED * new.depth[0].clamp_min(0.5)
    changed = colour | depth | (old.known[0] != new.known[0])
    return F.max_pool2d(changed[None, None].float(), 3, 1, 1)[0, 0] > 0


def _repainted(keyframe: Keyframe, view: Render, changed: Tensor) -> Keyframe:
    known, rgb, depth = view.known[0], view.rgb[0], view.depth[0]
    picture = to_float(keyframe.frame.movedim(-1, 0))
    picture = torch.where(changed & known, rgb, picture)
    picture = _filled(picture, ~(changed & ~known))
    frame = to_uint8(picture).movedim(0, -1).contiguous()
    frame = torch.where(changed[..., None], frame, keyframe.frame)
    metres = torch.where(known, depth, torch.zeros_like(depth)).to(keyframe.depth.dtype)
    return dataclasses.replace(keyframe, frame=frame, depth=torch.where(changed, metres, keyframe.depth))


def _filled(picture: Tensor, valid: Tensor) -> Tensor:
    """A picture [3, H, W] whose invalid pixels were filled from their surroundings, ring by ring."""
    mask = valid.float()[None]
    for _ in range(sum(picture.shape[-2:])):
        if bool(mask.all()) or not bool(mask.any()):
            break
        total = F.avg_pool2d(torch.cat([picture * mask, mask])[None], 3, 1, 1)[0]
        ring = (mask == 0) & (total[3:] > 0)
        picture = torch.where(ring, total[:3] / total[3:].clamp_min(1e-6), picture)
        mask = mask.maximum(ring.float())
    return picture
