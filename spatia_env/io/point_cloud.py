"""Coloured point clouds, as they are exchanged with files, meshes and other worlds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from spatia_env.errors import EditError, WorldTooLargeError
from spatia_env.geometry import rigid_problem
from spatia_env.io.validation import as_real_array, as_real_number

MAX_POINTS = 50_000_000
"""Clouds from files and meshes have at most this many points."""
MAX_COORDINATE = 1e6
"""Metres; files with points farther out are refused."""
DEFAULT_COLOUR, DEFAULT_RADIUS = 128, 0.01


@dataclass(frozen=True)
class PointCloud:
    """n coloured points in metres.

    Attributes:
        position: f32 [n, 3], finite.
        colour: u8 [n, 3].
        confidence: f32 [n], at least 0.
        radius: f32 [n], metres between samples: how large a point is drawn.
    """

    position: np.ndarray
    colour: np.ndarray
    confidence: np.ndarray
    radius: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    @classmethod
    def joined(cls, parts: "Sequence[PointCloud]") -> "PointCloud":
        """The points of several clouds, in their order; of none, no points."""
        none = np.zeros(0, np.float32)
        parts = [cls(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), none, none), *parts]
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    @classmethod
    def of_rows(cls, rows: np.ndarray) -> "PointCloud":
        """The points of a map's rows (`memory.blocks.POINT`)."""
        return cls(
            np.ascontiguousarray(rows["position"]),
            np.ascontiguousarray(rows["colour"]),
            np.ascontiguousarray(rows["weight"]),
            rows["radius"].astype(np.float32),
        )

    @classmethod
    def of_mesh(
        cls, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray, spacing: float = DEFAULT_RADIUS
    ) -> "PointCloud":
        """Points on a triangle mesh, at most `spacing` metres apart, with colours blended between vertices.

        Args:
            vertices: [n, 3] metres.
            faces: Indices of vertices [m, 3].
            colours: u8 [n, 3], of the vertices.
            spacing: Metres.

        Raises:
            EditError: If the arrays are not a mesh or the spacing is not positive.
            WorldTooLargeError: If more than `MAX_POINTS` points would be needed.
        """
        vertices, faces, colours = _check_mesh(vertices, faces, colours, spacing)
        corners = vertices[faces]
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(-1, initial=0)
        steps = np.ceil(longest / spacing).astype(np.int64) + 1
        if int(((steps + 1) * (steps + 2) // 2).sum()) > MAX_POINTS:
            raise WorldTooLargeError(f"the mesh needs more than {MAX_POINTS} points; use a larger spacing.")
        positions, tints = [np.zeros((0, 3))], [np.zeros((0, 3))]
        for count in np.unique(steps).tolist():
            mix = _barycentric(count)
            chosen = faces[steps == count]
            positions.append(np.einsum("pk,fkc->fpc", mix, vertices[chosen]).reshape(-1, 3))
            tints.append(np.einsum("pk,fkc->fpc", mix, colours[chosen].astype(np.float64)).reshape(-1, 3))
        position = np.concatenate(positions).astype(np.float32)
        size = len(position)
        return cls(
            position,
            np.rint(np.concatenate(tints)).astype(np.uint8),
            np.ones(size, np.float32),
            np.full(size, spacing, np.float32),
        )

    def moved(self, c2w: np.ndarray, scale: float = 1.0) -> "PointCloud":
        """The cloud scaled about its origin, then moved by the rigid `c2w` [4, 4] (cloud to world)."""
        c2w = as_transform(c2w)
        if not 0 < as_real_number(scale, "scale", EditError) < 1e6:
            raise EditError(f"scale={scale!r}: use a positive number.")
        position = (self.position.astype(np.float64) * scale) @ c2w[:3, :3].T + c2w[:3, 3]
        radius = (self.radius * scale).astype(np.float32)
        return PointCloud(position.astype(np.float32), self.colour, self.confidence, radius)

    def centred(self) -> "PointCloud":
        """The cloud with its origin in the middle of its lowest side, ready to be put somewhere."""
        if not len(self):
            return self
        low, high = self.position.min(0), self.position.max(0)
        origin = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)
        return PointCloud(self.position - origin, self.colour, self.confidence, self.radius)


def as_transform(value: object, name: str = "transform") -> np.ndarray:
    """A rigid transform [4, 4] as float64.

    Raises:
        EditError: If it is not finite, rigid and right-handed.
    """
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    matrix = as_real_array(value, name, EditError)
    problem = (
        f"expected [4, 4], got {list(matrix.shape)}" if matrix.shape != (4, 4) else rigid_problem(matrix)
    )
    if problem:
        raise EditError(f"{name}: {problem}.")
    return matrix


def _check_mesh(
    vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vertices = as_real_array(vertices, "vertices", EditError)
    faces, colours = np.asarray(faces), np.asarray(colours)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise EditError("vertices: expected finite numbers [n, 3].")
    if np.abs(vertices).max(initial=0) > MAX_COORDINATE:
        raise EditError(f"vertices: coordinates beyond {MAX_COORDINATE:g} m.")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise EditError("faces: expected indices [m, 3].")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise EditError(f"faces: indices must lie between 0 and {len(vertices) - 1}.")
    if colours.shape != vertices.shape or colours.dtype != np.uint8:
        raise EditError("colours: expected uint8, one RGB for each vertex.")
    if as_real_number(spacing, "spacing", EditError) <= 0:
        raise EditError(f"spacing={spacing!r}: use a positive number of metres.")
    return vertices, faces, colours


def _barycentric(steps: int) -> np.ndarray:
    """Weights [p, 3] of an even grid on a triangle, `steps` intervals along each side."""
    i, j = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij")
    inside = i + j <= steps
    i, j = i[inside], j[inside]
    return np.stack([i, j, steps - i - j], axis=-1) / steps
