"""Edits of a map: remove, move, rotate, insert, recolour, freeze, and back again.

Every edit is a function from a map to a new map and a record of what it did; the old map is untouched. Points
that an edit writes are of layer 1: updates neither carve nor change them. A record carries the blocks before
and after, so an edit can be taken back later, also when the world has gone on meanwhile.
"""

import os
from typing import Any

import numpy as np

from spatia_env.errors import EditError, WorldTooLargeError
from spatia_env.io.point_cloud import PointCloud, as_transform
from spatia_env.io.validation import as_real_array
from spatia_env.memory import blocks as blk
from spatia_env.memory.editing import EditHistory, EditRecord, overlaid, record_of, revert
from spatia_env.memory.fusion import MAX_WEIGHT, Observation, merge
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.regions import Box, Click, Mask, Region, Selection

__all__ = [
    "Box", "Click", "EditHistory", "EditRecord", "Mask", "Region", "extract", "freeze", "insert", "move",
    "recolor", "remove", "revert", "rotate", "start_from",
]  # fmt: skip

EDITED = 1
"""The layer of points that an edit wrote."""
MIN_WEIGHT = 1e-3


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

    vector = _vector(rotvec, "rotvec")
    if pivot is None:
        position = _rows(memory, _select(memory, region))["position"].astype(np.float64)
        pivot = (position.min(0) + position.max(0)) / 2
    centre = _vector(pivot, "pivot")
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
    cloud = source if isinstance(source, PointCloud) else _read(source)
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
    colour = _vector(rgb, "rgb")
    if (colour < 0).any() or (colour > 255).any():
        raise EditError(f"rgb={colour.tolist()}: use three numbers from 0 to 255.")
    selection = _select(memory, region)
    grey = _rows(memory, selection)["colour"].astype(np.float64) @ [0.299, 0.587, 0.114]
    mean = max(float(grey.mean()), 1.0)

    def paint(rows: np.ndarray) -> None:
        share = rows["colour"].astype(np.float64) @ [0.299, 0.587, 0.114] / mean
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


# -- parts ----------------------------------------------------------------------------------------------


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


def _changed(memory: SceneMemory, selection: Selection, change: Any) -> dict[int, np.ndarray]:
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
    columns = (
        key, local, cloud.position, cloud.colour / np.float32(255), weight, cloud.radius, np.zeros(len(cloud), bool)
    )  # fmt: skip
    seen = Observation(*(column[order] for column in columns))
    touched = np.unique(key)
    new, _ = merge(touched, [blk.EMPTY] * len(touched), seen, step, side**3)
    changed = {}
    for at, rows in new.items():
        rows = rows.copy()
        rows["layer"] = layer
        changed[at] = overlaid(memory.blocks.get(at, blk.EMPTY), rows)
    return memory.with_blocks(changed).bounded()[0]


def _read(source: str | os.PathLike[str]) -> PointCloud:
    from spatia_env.memory.export import read_points

    return read_points(source)


def _vector(value: Any, name: str) -> np.ndarray:
    array = as_real_array(value, name, EditError)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise EditError(f"{name}: expected three finite numbers, got {array.tolist()!r:.80}.")
    return array
