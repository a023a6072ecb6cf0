"""Triangle meshes with texture coordinates: quads, boxes, cylinders, balls, the sky; arrays, no PyBullet.

Every function returns a `Mesh`. Texture coordinates lie in [0, 1] of the surface's texture unless said.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Mesh:
    """vertices [n, 3] metres, normals [n, 3], uvs [n, 2], triangles [m, 3]."""

    vertices: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray
    triangles: np.ndarray


def join(*meshes: Mesh) -> Mesh:
    """One mesh of several."""
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.uvs for m in meshes]),
        np.concatenate([m.triangles + s for m, s in zip(meshes, starts, strict=True)]),
    )


def quad(origin: ArrayLike, across: ArrayLike, up: ArrayLike, cells: int = 2) -> Mesh:
    """A rectangle from its lower left corner, seen from the front with `across` to the right and `up` upwards.

    It is cut into cells because the software renderer tests every pixel of a triangle's bounding box.
    """
    o, u, v = (np.asarray(a, dtype=float) for a in (origin, across, up))
    steps = np.linspace(0, 1, cells + 1)
    b, a = np.meshgrid(steps, steps, indexing="ij")
    uvs = np.stack([a.ravel(), b.ravel()], axis=1)
    vertices = o + uvs[:, :1] * u + uvs[:, 1:] * v
    normal = np.cross(u, v)
    normals = np.tile(normal / np.linalg.norm(normal), (len(vertices), 1))
    return Mesh(vertices, normals, uvs, _grid_triangles(cells, cells))


def _grid_triangles(rows: int, columns: int) -> np.ndarray:
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    corner = (i * (columns + 1) + j).ravel()
    right, above = corner + 1, corner + columns + 1
    return np.concatenate([np.stack([corner, right, above + 1], 1), np.stack([corner, above + 1, above], 1)])


def box(centre: tuple, size: tuple, metres: float = 1.2) -> Mesh:
    """An axis-aligned box; its texture covers `metres` x `metres`, faces take a window of it."""
    c, half = np.asarray(centre, dtype=float), np.asarray(size, dtype=float) / 2
    faces = []
    for axis in range(3):
        for sign in (1, -1):
            u, v = np.zeros(3), np.zeros(3)
            i, j = ((1, 2), (0, 2), (0, 1))[axis]
            u[i], v[j] = 2 * half[i], 2 * half[j]
            normal = np.zeros(3)
            normal[axis] = sign
            if np.dot(np.cross(u, v), normal) < 0:
                u = -u
            face = quad(c + normal * half - u / 2 - v / 2, u, v, cells=1)
            extent = np.array([np.abs(u).sum(), np.abs(v).sum()]) / metres
            faces.append(dataclasses.replace(face, uvs=np.minimum(face.uvs * np.minimum(extent, 1), 0.999)))
    return join(*faces)


def cylinder(radius: float, height: float, base: float = 0.0, sides: int = 20) -> Mesh:
    """An upright cylinder with caps; the texture goes round once."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
    vertices = np.concatenate([ring * radius + [0, 0, base], ring * radius + [0, 0, base + height]])
    u = np.linspace(0, 0.999, sides + 1)
    uvs = np.concatenate([np.stack([u, u * 0], 1), np.stack([u, u * 0 + 0.999], 1)])
    wall = Mesh(vertices, np.concatenate([ring, ring]), uvs, _grid_triangles(1, sides))
    return join(wall, _disc(radius, base + height, sides, 1), _disc(radius, base, sides, -1))


def _disc(radius: float, z: float, sides: int, sign: int) -> Mesh:
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], 1)
    vertices = np.concatenate([[[0, 0, z]], np.column_stack([unit * radius, np.full(sides, z)])])
    uvs = np.concatenate([[[0.5, 0.5]], 0.5 + unit * 0.45])
    a = np.arange(sides)
    first, second = a + 1, (a + 1) % sides + 1
    order = (first, second) if sign > 0 else (second, first)
    triangles = np.stack([np.zeros(sides, dtype=int), *order], 1)
    return Mesh(vertices, np.tile([0.0, 0, sign], (sides + 1, 1)), uvs, triangles)


def ball(
    radius: float, centre: tuple = (0.0, 0.0, 0.0), rings: int = 10, sides: int = 18, squash: float = 1.0
) -> Mesh:
    """A sphere, squashed along z."""
    polar, angle = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, rings + 1), np.linspace(0, 2 * np.pi, sides + 1), indexing="ij"
    )
    unit = np.stack(
        [np.cos(polar) * np.cos(angle), np.cos(polar) * np.sin(angle), np.sin(polar)], -1
    ).reshape(-1, 3)
    uvs = np.stack([angle / (2 * np.pi) * 0.999, (polar / np.pi + 0.5) * 0.999], -1).reshape(-1, 2)
    vertices = unit * radius * [1, 1, squash] + np.asarray(centre)
    normals = unit / [1, 1, squash]
    return Mesh(
        vertices, normals / np.linalg.norm(normals, axis=1, keepdims=True), uvs, _grid_triangles(rings, sides)
    )


def sky_dome(radius: float, light: tuple[float, float, float], sides: int = 28, rings: int = 7) -> Mesh:
    """The inside of a dome over the origin, from 2 degrees below the horizon.

    Its normals all point to the light, so that the painted sky is shaded evenly.
    """
    polar, angle = np.meshgrid(
        np.linspace(math.radians(-2), np.pi / 2, rings + 1),
        np.linspace(2 * np.pi, 0, sides + 1),
        indexing="ij",
    )
    unit = np.stack(
        [np.cos(polar) * np.cos(angle), np.cos(polar) * np.sin(angle), np.sin(polar)], -1
    ).reshape(-1, 3)
    height = np.linspace(0, 0.999, rings + 1)[:, None] * np.ones(sides + 1)
    uvs = np.stack([np.linspace(0, 0.999, sides + 1) * np.ones((rings + 1, 1)), height], -1).reshape(-1, 2)
    return Mesh(unit * radius, np.tile(light, (len(unit), 1)), uvs, _grid_triangles(rings, sides))


def flat_shaded(
    vertices: np.ndarray, normals: np.ndarray, triangles: np.ndarray, scale: float | np.ndarray = 1.0
) -> Mesh:
    """A loaded mesh, scaled; its texture is projected from the front."""
    scaled = vertices * scale
    span = np.ptp(scaled, axis=0) + 1e-6
    uvs = ((scaled - scaled.min(0)) / span)[:, [0, 2]] * 0.999
    return Mesh(scaled, normals, uvs, triangles)
