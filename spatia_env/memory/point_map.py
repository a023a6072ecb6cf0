"""The point map: an immutable map of points in blocks that clips are fused into and views are rendered from.

`update` returns a new map that shares every untouched block with the old one, so a snapshot is a reference
and a fork is O(1). Cost follows what the cameras see, not the age of the world. `keys_in_box` and `keys_along` find
blocks near something without looking at the whole map.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError, WorldFullError
from spatia_env.geometry import invert_se3
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory import blocks as blk
from spatia_env.memory.fusion import Growth, merge, observe
from spatia_env.memory.rendering import Render, render_rows
from spatia_env.memory.visibility import looked_through


@dataclass(frozen=True)
class SceneMemory:
    """Points in blocks of space.

    Args:
        voxel: Edge of a voxel in metres; one voxel holds one point.
        block: Edge of a block in metres, a multiple of `voxel`.
        max_points: The map never holds more; blocks that were seen longest ago go first, see `bounded`.
        on_full: "evict" applies that rule, "error" raises `WorldFullError` and leaves the map as it was.
        carve: Remove points that confident new views look through.
        blocks: Points (`blocks.POINT`) by packed block coordinates; never written to.
        num_points: Points in all blocks.

    Raises:
        ActionError: If the edges are not positive and finite, or `block` is not a multiple of `voxel`.
    """

    voxel: float = 0.01
    block: float = 0.5
    max_points: int = 5_000_000
    on_full: str = "evict"
    carve: bool = True
    blocks: Mapping[int, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    num_points: int = 0

    def __post_init__(self) -> None:
        problem = blk.grid_problem(self.voxel, self.block)
        if problem or self.on_full not in ("evict", "error") or self.max_points < 1:
            raise ActionError(
                problem
                or f"max_points={self.max_points!r}, on_full={self.on_full!r}: max_points is at least 1, "
                'on_full is "evict" or "error".'
            )

    @property
    def voxels_per_side(self) -> int:
        """Voxels along the edge of a block."""
        return round(self.block / self.voxel)

    @property
    def num_bytes(self) -> int:
        """Bytes that the points take in memory, without the mapping's own overhead."""
        return self.num_points * blk.POINT.itemsize

    def points(self) -> np.ndarray:
        """All points as one structured array (`blocks.POINT`), in the order of the block keys."""
        return self._gather(np.sort(np.fromiter(self.blocks, dtype=np.int64, count=len(self.blocks))))

    def to_cloud(self, layers: Collection[int] | None = None) -> PointCloud:
        """The points of some `layers` (0 observed, 1 edited; all by default), in the order of the block keys."""
        rows = self.points()
        return PointCloud.of_rows(rows if layers is None else rows[np.isin(rows["layer"], list(layers))])

    def visible_points(self, c2w: Tensor, K: Tensor, height: int, width: int) -> np.ndarray:
        """Points of all blocks that at least one camera `c2w` [V, 4, 4] has in its frustum."""
        return self._gather(self.visible_keys(c2w, K, height, width))

    def render(
        self, c2w: Tensor, K: Tensor, height: int, width: int, layers: Collection[int] | None = None
    ) -> Render:
        """Render the map along `c2w` [V, 4, 4]; see `rendering.render_rows`.

        With `layers`, only points of these are drawn (0 observed, 1 written by edits), as in `export`.
        """
        rows = self.visible_points(c2w, K, height, width)
        if layers is not None:
            rows = rows[np.isin(rows["layer"], list(layers))]
        return render_rows(rows, c2w, K, height, width)

    def update(
        self,
        rgb: Tensor,
        depth: Tensor,
        weight: Tensor,
        c2w: Tensor,
        K: Tensor,
        step: int,
        confirm_only: Tensor | None = None,
    ) -> tuple["SceneMemory", Growth]:
        """Write a clip's static pixels into the map.

        Args:
            rgb: Colours [T, 3, H, W] in [0, 1].
            depth: z-depth [T, H, W] in metres; 0 = none.
            weight: Confidence [T, H, W] in [0, 1]; 0 = do not write (dynamic, unsure, sky).
            c2w: Camera poses [T, 4, 4].
            K: Intrinsics [3, 3] in pixels.
            step: Index of the step, kept with each point.
            confirm_only: Pixels [T, H, W] that may confirm an existing voxel but not open a new one
                (they were rendered from this very map, so they carry no new surface).

        Returns:
            The new map and what changed. The old map is untouched.

        Raises:
            WorldFullError: With `on_full="error"`, when the map would exceed `max_points`.
        """
        seen = observe(rgb, depth, weight, c2w, K, confirm_only, self.voxel, self.voxels_per_side)
        carved = self._carve(depth, weight, c2w, K) if self.carve else {}
        touched = np.unique(seen.block)
        old = [carved.get(key, self.blocks.get(key, blk.EMPTY)) for key in touched.tolist()]
        merged, growth = merge(touched, old, seen, step, self.voxels_per_side**3)
        memory, evicted = self.with_blocks({**carved, **merged}).bounded()
        removed = sum(len(self.blocks[key]) - len(block) for key, block in carved.items())
        return memory, dataclasses.replace(growth, carved=removed, evicted=evicted)

    def _carve(self, depth: Tensor, weight: Tensor, c2w: Tensor, K: Tensor) -> dict[int, np.ndarray]:
        """Blocks without the points that the new views look through."""
        keys = self.visible_keys(c2w, K, depth.shape[-2], depth.shape[-1])
        if not len(keys):
            return {}
        owned = [self.blocks[key] for key in keys.tolist()]
        points = np.concatenate(owned)
        gone = looked_through(points["position"], depth, weight, invert_se3(c2w), K)
        gone &= points["layer"] != blk.EDITED
        if not gone.any():
            return {}
        bounds = np.cumsum([0, *(len(block) for block in owned)])
        hit = np.unique(np.searchsorted(bounds, np.flatnonzero(gone), side="right") - 1)
        return {
            int(keys[i]): blk.freeze(owned[i][~gone[bounds[i] : bounds[i + 1]]].copy()) for i in hit.tolist()
        }

    def bounded(self) -> tuple["SceneMemory", int]:
        """The map within `max_points`, and how many points were evicted for that.

        Whole blocks go: those without edits first, then those that were seen longest ago, then by key.
        """
        excess = self.num_points - self.max_points
        if excess <= 0:
            return self, 0
        if self.on_full == "error":
            raise WorldFullError(
                f"the map would hold {self.num_points} points, more than max_points={self.max_points}; "
                'raise max_points, use a coarser voxel, or set on_full="evict".'
            )
        order = sorted(
            (bool((block["layer"] == blk.EDITED).any()), int(block["last_step"].max()), key)
            for key, block in self.blocks.items()
        )
        dropped, gone = 0, {}
        for _, _, key in order:
            if dropped >= excess:
                break
            dropped += len(self.blocks[key])
            gone[key] = blk.EMPTY
        return self.with_blocks(gone), dropped

    def with_blocks(self, changed: Mapping[int, np.ndarray]) -> "SceneMemory":
        """A map in which these blocks replace the old ones; empty ones disappear."""
        blocks, count = dict(self.blocks), self.num_points
        for key, block in changed.items():
            count += len(block) - len(blocks.pop(key, blk.EMPTY))
            if len(block):
                blocks[key] = block
        return dataclasses.replace(self, blocks=MappingProxyType(blocks), num_points=count)

    def _gather(self, keys: np.ndarray) -> np.ndarray:
        return blk.concatenate([self.blocks[key] for key in keys.tolist()])

    def visible_keys(self, c2w: Tensor, K: Tensor, height: int, width: int) -> np.ndarray:
        """Sorted keys of the blocks whose bounding sphere meets the frustum of any camera."""
        keys = np.sort(np.fromiter(self.blocks, dtype=np.int64, count=len(self.blocks)))
        if not len(keys):
            return keys
        centre = torch.from_numpy(((blk.unpack_blocks(keys) + 0.5) * self.block).astype(np.float32))
        w2c = invert_se3(c2w)
        camera = centre @ w2c[:, :3, :3].transpose(-1, -2) + w2c[:, None, :3, 3]
        reach = self.block * 3**0.5 / 2
        x, y, z = camera.unbind(-1)
        fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
        inside = z > -reach
        # Signed distances to the four side planes through the camera centre.
        for distance in (
            _plane(x, z, cx / fx),
            _plane(-x, z, (width - cx) / fx),
            _plane(y, z, cy / fy),
            _plane(-y, z, (height - cy) / fy),
        ):
            inside &= distance > -reach
        return keys[inside.any(0).numpy()]


def keys_in_box(memory: SceneMemory, low: np.ndarray, high: np.ndarray) -> list[int]:
    """Sorted keys of the map's blocks that meet the box from `low` [3] to `high` [3] metres."""
    # A voxel wider, since a point on the border of two blocks may be in either.
    first = np.floor((np.asarray(low, np.float64) - memory.voxel) / memory.block)
    last = np.floor((np.asarray(high, np.float64) + memory.voxel) / memory.block)
    first = np.clip(first, -blk.MAX_BLOCK - 1, blk.MAX_BLOCK + 1).astype(np.int64)
    last = np.clip(last, -blk.MAX_BLOCK - 2, blk.MAX_BLOCK).astype(np.int64)
    sides = last - first + 1
    if (sides <= 0).any():
        return []
    if np.prod(sides.astype(np.float64)) <= 2 * len(memory.blocks) + 64:
        grid = np.indices(tuple(sides.tolist())).reshape(3, -1).T + first
        return [key for key in blk.pack_blocks(grid).tolist() if key in memory.blocks]
    keys = np.sort(np.fromiter(memory.blocks, dtype=np.int64, count=len(memory.blocks)))
    at = blk.unpack_blocks(keys)
    return keys[((at >= first) & (at <= last)).all(-1)].tolist()


def keys_along(memory: SceneMemory, start: np.ndarray, end: np.ndarray, reach: float) -> list[int]:
    """Keys of the map's blocks within `reach` metres of the segment, those nearer to its start first."""
    length = float(np.linalg.norm(end - start))
    half = reach + memory.block / 4
    samples = np.linspace(0, 1, int(np.ceil(length / (memory.block / 2))) + 1)
    centres = start + samples[:, None] * (end - start)
    # Cubes of half-width `half` around samples half a block apart cover everything within `reach` of the segment.
    spans = np.arange(int(np.ceil(2 * half / memory.block)) + 1)
    offsets = np.minimum(spans * memory.block, 2 * half) - half
    corners = np.stack(np.meshgrid(offsets, offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 3)
    cells = np.floor((centres[:, None] + corners).reshape(-1, 3) / memory.block)
    inside = (np.abs(cells) <= blk.MAX_BLOCK).all(-1)
    found = dict.fromkeys(blk.pack_blocks(cells[inside]).tolist())
    return [key for key in found if key in memory.blocks]


def gather(memory: SceneMemory, keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of these blocks in one array, and where each block begins [len(keys) + 1]."""
    owned = [memory.blocks[key] for key in keys]
    bounds = np.cumsum([0, *(len(block) for block in owned)])
    return blk.concatenate(owned), bounds


def _plane(lateral: Tensor, z: Tensor, tangent: float) -> Tensor:
    return (lateral + z * tangent) / (1 + tangent**2) ** 0.5
