"""Regions of a map: a box, the object under a clicked pixel, the surface under a mask.

`region.select(memory)` gives, for each block that the region touches, which of its rows belong to it. A click grows a
segment (`grow`): large planes (floors, walls, table tops) are set aside first, unless the clicked point lies on one, so
that what stands on a floor is not joined to it. Of the rest, neighbours belong together when their colours differ
little and the surface between them is not a concave crease.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from spatia_env.errors import EditError, PoseError
from spatia_env.geometry import check_intrinsics, check_rigid
from spatia_env.io.validation import as_finite_array, as_real_number
from spatia_env.memory.point_map import SceneMemory, gather, keys_in_box
from spatia_env.memory.rendering import pixels_of
from spatia_env.memory.splatting import surface_tolerance

MAX_NEIGHBOURS = 12
CREASE = 0.3
"""Sine of the angle (about 17 degrees) by which two points must see each other above their own surface."""
PLANE_AREA = 0.8
"""m^2 from which a plane is large: more than the sides of most furniture, less than the floor around it."""
PLANE_DEPTH = (0.04, 0.15)
"""Metres from a plane within which points belong to it: the least, and the most, on noisy surfaces."""
MAX_PLANES = 6
_CELL = 0.05  # metres: areas are counted in squares of this edge
_ALONG = 0.8  # cosine between a point's normal and its plane's

Selection = dict[int, np.ndarray]
"""Block key -> bool [points of the block]; blocks of which nothing is chosen are left out."""


class Region(Protocol):
    """Anything that chooses points of a map."""

    def select(self, memory: SceneMemory) -> Selection:
        """The chosen rows of each block."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """What it is, as JSON data for the event log."""
        ...


@dataclass(frozen=True)
class Box:
    """An oriented box.

    Args:
        centre: Its middle [3], metres, world.
        size: Its edges [3], metres, positive.
        rotation: Its axes as columns [3, 3]; the world's by default.

    Raises:
        EditError: Edges that are not positive, NaN, or a matrix that is not a rotation.
    """

    centre: np.ndarray
    size: np.ndarray
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))

    def __post_init__(self) -> None:
        for name, shape in (("centre", (3,)), ("size", (3,)), ("rotation", (3, 3))):
            object.__setattr__(self, name, as_finite_array(getattr(self, name), name, shape, EditError))
        if (self.size <= 0).any():
            raise EditError(f"size={self.size.tolist()}: the edges of a box are positive metres.")
        gram = self.rotation @ self.rotation.T
        if np.abs(gram - np.eye(3)).max() > 1e-3 or np.linalg.det(self.rotation) < 0:
            raise EditError("rotation: use an orthonormal, right-handed 3x3 matrix.")

    @classmethod
    def between(cls, low: Any, high: Any) -> "Box":
        """The box along the world's axes from corner `low` [3] to corner `high` [3]."""
        low, high = (as_finite_array(v, n, (3,), EditError) for v, n in ((low, "low"), (high, "high")))
        if (high <= low).any():
            raise EditError(f"low={low.tolist()}, high={high.tolist()}: each of `high` must exceed `low`.")
        return cls((low + high) / 2, high - low)

    def contains(self, position: np.ndarray) -> np.ndarray:
        """Which points [n, 3] lie inside or on the surface: bool [n]."""
        local = (position.astype(np.float64) - self.centre) @ self.rotation
        return (np.abs(local) <= self.size / 2).all(-1)

    def select(self, memory: SceneMemory) -> Selection:
        """Points inside the box."""
        reach = np.abs(self.rotation) @ (self.size / 2)
        keys = keys_in_box(memory, self.centre - reach, self.centre + reach)
        chosen = {key: self.contains(memory.blocks[key]["position"]) for key in keys}
        return {key: rows for key, rows in chosen.items() if rows.any()}

    def as_dict(self) -> dict[str, Any]:
        """Centre, size and rotation."""
        parts = {name: getattr(self, name).tolist() for name in ("centre", "size", "rotation")}
        return {"kind": "box", **parts}


@dataclass(frozen=True)
class Mask:
    """The surface that a picture shows in some of its pixels.

    Args:
        mask: bool [H, W].
        c2w: Pose of the picture [4, 4].
        K: Its intrinsics [3, 3] in pixels.

    Raises:
        EditError: If they are not that.
    """

    mask: np.ndarray
    c2w: Tensor
    K: Tensor

    def __post_init__(self) -> None:
        mask = np.asarray(self.mask)
        if mask.ndim != 2 or mask.dtype != bool or not mask.size:
            raise EditError(f"mask: expected bool [H, W], got {mask.dtype} {list(mask.shape)}.")
        object.__setattr__(self, "mask", mask.copy())
        _check_view(self.c2w, self.K)

    def select(self, memory: SceneMemory) -> Selection:
        """Points that the picture shows inside the mask."""
        height, width = self.mask.shape
        view = view_of(memory, self.c2w, self.K, height, width)
        return _split(view.keys, view.bounds, view.shown & self.mask[view.row, view.column])

    def as_dict(self) -> dict[str, Any]:
        """The pose and how many pixels."""
        return {"kind": "mask", "pixels": int(self.mask.sum()), "c2w": self.c2w.tolist()}


@dataclass(frozen=True)
class Click:
    """The connected object that a picture shows at a pixel.

    It is grown from the point under the pixel over neighbours of similar colour; see `grow`.

    Args:
        pixel: (u, v): column and row, in pixels of the picture; (0.5, 0.5) is the centre of the first.
        c2w: Pose of the picture [4, 4].
        K: Its intrinsics [3, 3].
        size: (H, W) of the picture.
        colour_tolerance: Largest step between neighbours, as a share of black to white.
        max_radius: Metres around the pixel's point beyond which nothing is chosen.

    Raises:
        EditError: If the pixel is outside, or a number is not positive.
    """

    pixel: tuple[float, float]
    c2w: Tensor
    K: Tensor
    size: tuple[int, int]
    colour_tolerance: float = 0.08
    max_radius: float = 1.5

    def __post_init__(self) -> None:
        _check_view(self.c2w, self.K)
        u, v = as_finite_array(self.pixel, "pixel", (2,), EditError).tolist()
        height, width = self.size
        if not (0 <= u < width and 0 <= v < height):
            raise EditError(f"pixel=({u:g}, {v:g}) is outside the {width}x{height} picture.")
        for name in ("colour_tolerance", "max_radius"):
            if as_real_number(getattr(self, name), name, EditError) <= 0:
                raise EditError(f"{name}={getattr(self, name)!r}: use a positive number.")

    def select(self, memory: SceneMemory) -> Selection:
        """The segment under the pixel; empty where the map has nothing."""
        view = view_of(memory, self.c2w, self.K, *self.size)
        u, v = self.pixel
        away = np.where(view.shown, np.hypot(view.column + 0.5 - u, view.row + 0.5 - v), np.inf)
        if not len(away) or away.min() > 2:
            return {}
        seed = view.points["position"][away.argmin()].astype(np.float64)
        near = keys_in_box(memory, seed - self.max_radius, seed + self.max_radius)
        rows, bounds = gather(memory, near)
        inside = np.linalg.norm(rows["position"] - seed, axis=-1) <= self.max_radius
        eye = self.c2w[:3, 3].double().numpy()
        start = int(np.linalg.norm(rows["position"][inside] - seed, axis=-1).argmin())
        reach = 2.0 * max(memory.voxel, float(rows["radius"][inside][start]))
        chosen = np.zeros(len(rows), bool)
        chosen[np.flatnonzero(inside)] = grow(
            rows["position"][inside], rows["colour"][inside], start, eye, reach, self.colour_tolerance
        )
        return _split(near, bounds, chosen)

    def as_dict(self) -> dict[str, Any]:
        """The pixel and the pose."""
        return {"kind": "click", "pixel": list(self.pixel), "c2w": self.c2w.tolist()}


@dataclass(frozen=True)
class View:
    """Points [n] of the blocks in a camera's frustum.

    Attributes:
        keys: Of these blocks.
        bounds: Where each block begins among the points [len(keys) + 1].
        points: Rows (`blocks.POINT`).
        column: Of the pixel that each falls on.
        row: Likewise.
        shown: bool, whether it lies on the nearest surface of that pixel.
    """

    keys: list[int]
    bounds: np.ndarray
    points: np.ndarray
    column: np.ndarray
    row: np.ndarray
    shown: np.ndarray


def view_of(memory: SceneMemory, c2w: Tensor, K: Tensor, height: int, width: int) -> View:
    """The points near a camera's frustum, their pixels, and which of them lie on the surface that it sees."""
    keys = memory.visible_keys(c2w[None], K, height, width).tolist()
    rows, bounds = gather(memory, keys)
    view = memory.render(c2w[None], K, height, width)
    row, column, z, inside = pixels_of(rows["position"], c2w, K, height, width)
    surface = view.depth[0].double()[row, column]
    near = z <= (surface + surface_tolerance(surface)).numpy()
    shown = inside & view.known[0].numpy()[row, column] & near
    return View(keys, bounds, rows, column, row, shown)


def _split(keys: list[int], bounds: np.ndarray, chosen: np.ndarray) -> Selection:
    parts = {key: chosen[bounds[i] : bounds[i + 1]] for i, key in enumerate(keys)}
    return {key: rows for key, rows in parts.items() if rows.any()}


def _check_view(c2w: Tensor, K: Tensor) -> None:
    try:
        if not isinstance(c2w, torch.Tensor) or tuple(c2w.shape) != (4, 4) or not isinstance(K, torch.Tensor):
            raise PoseError("a view is a tensor c2w [4, 4] and a tensor K [3, 3]")
        check_rigid(c2w, "c2w")
        check_intrinsics(K, "K")
    except PoseError as cause:
        raise EditError(f"{cause}") from cause


def grow(
    position: np.ndarray,
    colour: np.ndarray,
    seed: int,
    eye: np.ndarray,
    reach: float,
    colour_tolerance: float,
) -> np.ndarray:
    """Which points [n] are connected to point `seed`: bool [n].

    Args:
        position: [n, 3] metres.
        colour: u8 [n, 3].
        seed: Index of the point to grow from.
        eye: Where it is looked at from [3]; normals are turned to it.
        reach: Metres between points that touch.
        colour_tolerance: Largest difference of colour between neighbours, root mean square, in [0, 1].
    """
    position = position.astype(np.float64)
    if len(position) == 1:
        return np.ones(1, bool)
    distance, index = cKDTree(position).query(
        position, k=min(MAX_NEIGHBOURS + 1, len(position)), distance_upper_bound=reach
    )
    near = np.isfinite(distance) & (distance > 0)
    normal = _normals(position, np.where(near, index, 0), near, eye)
    free = ~_other_planes(position, _coarse_normals(position), seed)
    first, column = near.nonzero()
    second, apart = index[first, column], distance[first, column]
    difference = colour[first].astype(np.float64) - colour[second]
    alike = np.sqrt((difference**2).mean(-1)) <= 255 * colour_tolerance
    direction = (position[second] - position[first]) / apart[:, None]
    above = (normal[first] * direction).sum(-1) > CREASE
    below = -(normal[second] * direction).sum(-1) > CREASE
    joined = alike & ~(above & below) & free[first] & free[second]
    edges = (np.ones(joined.sum()), (first[joined], second[joined]))
    label = connected_components(coo_matrix(edges, shape=(len(position),) * 2), directed=False)[1]
    return label == label[seed]


def _normals(position: np.ndarray, index: np.ndarray, near: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Unit normals [n, 3] by the spread of each point's neighbours [n, k], turned towards `eye`."""
    offset = np.where(near[..., None], position[index] - position[:, None], 0)
    offset = offset - offset.sum(1, keepdims=True) / (near.sum(1)[:, None, None] + 1)
    offset *= (near | (np.arange(near.shape[1]) == 0))[..., None]  # the first neighbour is the point itself
    normal = np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset))[1][:, :, 0]
    facing = ((eye - position) * normal).sum(-1)
    return np.where(facing[:, None] < 0, -normal, normal)


def _coarse_normals(position: np.ndarray) -> np.ndarray:
    """Unit normals [n, 3], up to their sign, of the points in the 27 cells around each point's."""
    cells, member = np.unique(np.floor(position / _CELL).astype(np.int64), axis=0, return_inverse=True)
    member = member.reshape(-1)
    local = position - position.mean(0)  # small numbers keep the differences below exact
    moments = np.concatenate([np.ones((len(local), 1)), local, _outer(local).reshape(-1, 9)], axis=1)
    sums = np.stack([np.bincount(member, column, len(cells)) for column in moments.T], axis=1)
    tree = cKDTree(cells)
    pairs = tree.query_pairs(1.01, p=np.inf, output_type="ndarray")
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], np.arange(len(cells))])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], np.arange(len(cells))])
    total = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(cells),) * 2).tocsr() @ sums
    mean = total[:, 1:4] / total[:, :1]
    spread = total[:, 4:].reshape(-1, 3, 3) / total[:, :1, None] - _outer(mean)
    return np.linalg.eigh(spread)[1][:, :, 0][member]


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :, None] * vectors[:, None, :]


def _other_planes(position: np.ndarray, normal: np.ndarray, seed: int) -> np.ndarray:
    """Points bool [n] of large planes on which `seed` does not lie."""
    left, other = np.ones(len(position), bool), np.zeros(len(position), bool)
    for _ in range(MAX_PLANES):
        plane = _largest_plane(position, normal, left)
        if plane is None:
            break
        left &= ~plane
        if not plane[seed]:
            other |= plane
    return other


def _largest_plane(position: np.ndarray, normal: np.ndarray, among: np.ndarray) -> np.ndarray | None:
    """Points bool [n] of a plane that many of the points `among` vote for; None if it is not large."""
    if not among.any():
        return None
    direction = _commonest_direction(normal[among])
    along = np.abs(normal @ direction) > _ALONG
    offset = position @ direction
    candidates = offset[among & along]
    if not len(candidates):
        return None
    values, counts = np.unique(np.round(candidates / PLANE_DEPTH[0]), return_counts=True)
    at = values[counts.argmax()] * PLANE_DEPTH[0]
    near = candidates[np.abs(candidates - at) <= PLANE_DEPTH[1]]
    at = np.median(near)
    depth = np.clip(4 * np.median(np.abs(near - at)), *PLANE_DEPTH)
    plane = among & along & (np.abs(offset - at) <= depth)
    across = np.linalg.svd(direction[None])[2][1:]  # two axes of the plane
    cells = np.unique(np.floor(position[plane] @ across.T / _CELL), axis=0)
    return plane if len(cells) * _CELL**2 >= PLANE_AREA else None


def _commonest_direction(normal: np.ndarray) -> np.ndarray:
    """The unit vector [3], up to its sign, that the most normals are near to."""
    strongest = np.abs(normal).argmax(-1)[:, None]
    folded = normal * np.sign(np.take_along_axis(normal, strongest, -1))
    _, member, counts = np.unique(np.round(folded * 4), axis=0, return_inverse=True, return_counts=True)
    mean = folded[member.reshape(-1) == counts.argmax()].mean(0)
    return mean / np.linalg.norm(mean)
