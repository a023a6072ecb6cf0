"""Regions of a map: by box, by a click on a picture, by a mask on a picture.

A region chooses points: `select(memory)` gives, for each block it touches, which of its rows it means.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import EditError, PoseError
from spatia_env.geometry import check_intrinsics, check_rigid
from spatia_env.io.validation import as_real_array, as_real_number
from spatia_env.memory.point_map import SceneMemory, gather, keys_in_box
from spatia_env.memory.regions import grow
from spatia_env.memory.splatting import surface_tolerance

Selection = dict[int, np.ndarray]
"""Block key -> bool [points of the block]; blocks of which nothing is chosen are left out."""


class Region(Protocol):
    """Anything that chooses points of a map."""

    def select(self, memory: SceneMemory) -> Selection:
        """The chosen rows of each block."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """What it is, as JSON data for the ledger."""
        ...


@dataclass(frozen=True)
class Box:
    """A box, turned as one likes.

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
            object.__setattr__(self, name, _numbers(getattr(self, name), name, shape))
        if (self.size <= 0).any():
            raise EditError(f"size={self.size.tolist()}: the edges of a box are positive metres.")
        gram = self.rotation @ self.rotation.T
        if np.abs(gram - np.eye(3)).max() > 1e-3 or np.linalg.det(self.rotation) < 0:
            raise EditError("rotation: use an orthonormal, right-handed 3x3 matrix.")

    @classmethod
    def between(cls, low: Any, high: Any) -> "Box":
        """The box along the world's axes from corner `low` [3] to corner `high` [3]."""
        low, high = _numbers(low, "low", (3,)), _numbers(high, "high", (3,))
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
        view = _seen(memory, self.c2w, self.K, height, width)
        return _split(view.keys, view.bounds, view.shown & self.mask[view.row, view.column])

    def as_dict(self) -> dict[str, Any]:
        """The pose and how many pixels."""
        return {"kind": "mask", "pixels": int(self.mask.sum()), "c2w": self.c2w.tolist()}


@dataclass(frozen=True)
class Click:
    """The connected thing that a picture shows at a pixel.

    It is grown from the point under the pixel over neighbours of similar colour. Floors, walls and other large
    planes are set aside first, unless one was clicked; see `segments.grow`.

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
        u, v = _numbers(self.pixel, "pixel", (2,)).tolist()
        height, width = self.size
        if not (0 <= u < width and 0 <= v < height):
            raise EditError(f"pixel=({u:g}, {v:g}) is outside the {width}x{height} picture.")
        for name in ("colour_tolerance", "max_radius"):
            if as_real_number(getattr(self, name), name, EditError) <= 0:
                raise EditError(f"{name}={getattr(self, name)!r}: use a positive number.")

    def select(self, memory: SceneMemory) -> Selection:
        """The segment under the pixel; empty where the map has nothing."""
        view = _seen(memory, self.c2w, self.K, *self.size)
        u, v = self.pixel
        away = np.where(view.shown, np.hypot(view.column + 0.5 - u, view.row + 0.5 - v), np.inf)
        if not len(away) or away.min() > 2:
            return {}
        seed = view.position[away.argmin()].astype(np.float64)
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
class _View:
    """Points of the blocks in a picture: each one's pixel, and whether it shows there."""

    keys: list[int]
    bounds: np.ndarray
    position: np.ndarray
    column: np.ndarray
    row: np.ndarray
    shown: np.ndarray


def _seen(memory: SceneMemory, c2w: Tensor, K: Tensor, height: int, width: int) -> _View:
    keys = memory.visible_keys(c2w[None], K, height, width).tolist()
    rows, bounds = gather(memory, keys)
    view = memory.render(c2w[None], K, height, width)
    depth, known = view.depth[0].double().numpy(), view.known[0].numpy()
    column, row, z, inside = pixels_of(rows["position"], c2w, K, height, width)
    surface = depth[row, column]
    shown = (
        inside & known[row, column] & (z <= surface + surface_tolerance(torch.from_numpy(surface)).numpy())
    )
    return _View(keys, bounds, rows["position"], column, row, shown)


def pixels_of(
    position: np.ndarray, c2w: Tensor, K: Tensor, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Column, row (clipped to the picture), z-depth, and whether inside, of points [n, 3] in a view."""
    pose, lens = c2w.double().numpy(), K.double().numpy()
    camera = (position.astype(np.float64) - pose[:3, 3]) @ pose[:3, :3]
    z = camera[:, 2]
    safe = np.where(z > 1e-6, z, 1.0)
    u = np.floor(camera[:, 0] / safe * lens[0, 0] + lens[0, 2])
    v = np.floor(camera[:, 1] / safe * lens[1, 1] + lens[1, 2])
    inside = (z > 1e-6) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return np.clip(u, 0, width - 1).astype(int), np.clip(v, 0, height - 1).astype(int), z, inside


def _split(keys: list[int], bounds: np.ndarray, chosen: np.ndarray) -> Selection:
    parts = {key: chosen[bounds[i] : bounds[i + 1]] for i, key in enumerate(keys)}
    return {key: rows for key, rows in parts.items() if rows.any()}


def _numbers(value: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    array = as_real_array(value, name, EditError)
    if array.shape != shape or not np.isfinite(array).all() or (np.abs(array) > 1e6).any():
        raise EditError(f"{name}: expected finite numbers {list(shape)}, got {array.tolist()!r:.80}.")
    return array


def _check_view(c2w: Tensor, K: Tensor) -> None:
    try:
        if not isinstance(c2w, torch.Tensor) or tuple(c2w.shape) != (4, 4) or not isinstance(K, torch.Tensor):
            raise PoseError("a view is a tensor c2w [4, 4] and a tensor K [3, 3]")
        check_rigid(c2w, "c2w")
        check_intrinsics(K, "K")
    except PoseError as cause:
        raise EditError(f"{cause}") from cause
