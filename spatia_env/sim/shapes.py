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


def pierced(
    origin: ArrayLike, across: ArrayLike, up: ArrayLike, holes: list[tuple[float, float, float, float]]
) -> Mesh | None:
    """A `quad` without rectangles (left, right, bottom, top) in [0, 1]; None where nothing is left."""
    o, u, v = (np.asarray(a, dtype=float) for a in (origin, across, up))
    xs = np.unique(np.clip([0, 0.5, 1, *(h[0] for h in holes), *(h[1] for h in holes)], 0, 1))
    ys = np.unique(np.clip([0, 0.5, 1, *(h[2] for h in holes), *(h[3] for h in holes)], 0, 1))
    b, a = np.meshgrid(ys, xs, indexing="ij")
    uvs = np.stack([a.ravel(), b.ravel()], axis=1)
    normal = np.cross(u, v)
    normals = np.tile(normal / np.linalg.norm(normal), (len(uvs), 1))
    middle_y, middle_x = np.meshgrid((ys[1:] + ys[:-1]) / 2, (xs[1:] + xs[:-1]) / 2, indexing="ij")
    solid = np.ones(middle_x.size, dtype=bool)
    for left, right, bottom, top in holes:
        x, y = middle_x.ravel(), middle_y.ravel()
        solid &= ~((x > left) & (x < right) & (y > bottom) & (y < top))
    if not solid.any():
        return None
    triangles = _grid_triangles(len(ys) - 1, len(xs) - 1).reshape(2, -1, 3)[:, solid].reshape(-1, 3)
    return Mesh(o + uvs[:, :1] * u + uvs[:, 1:] * v, normals, np.minimum(uvs, 0.999), triangles)


def drum(radius: float, low: float, high: float, normal: ArrayLike, sides: int = 14) -> Mesh:
    """Half of an upright cylinder seen from inside, from -x over +y to +x; every normal is `normal`.

    The texture goes from left to right as seen from the middle.
    """
    angle = np.linspace(np.pi, 0, sides + 1)
    ring = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1)
    heights = np.linspace(low, high, 3)
    vertices = np.concatenate([np.column_stack([ring, np.full(sides + 1, z)]) for z in heights])
    across, up = np.meshgrid(np.linspace(0, 0.999, sides + 1), np.linspace(0, 0.999, 3))
    uvs = np.stack([across.ravel(), up.ravel()], axis=1)
    return Mesh(
        vertices, np.tile(np.asarray(normal, dtype=float), (len(vertices), 1)), uvs, _grid_triangles(2, sides)
    )


def curtain(width: float, height: float, folds: int = 5, depth: float = 0.05) -> Mesh:
    """Cloth in the plane y = 0 from z = 0 to `height`, in folds, seen from -y."""
    count = 2 * folds
    x = np.linspace(-width / 2, width / 2, count + 1)
    y = depth * (np.arange(count + 1) % 2 - 0.5)
    vertices = np.concatenate([np.column_stack([x, y, np.full(count + 1, z)]) for z in (0.0, height)])
    tilt = np.where(np.arange(count + 1) % 2 == 0, 0.35, -0.35)
    normals = np.column_stack([tilt, np.full(count + 1, -0.93), np.zeros(count + 1)])
    uvs = np.column_stack([np.tile(np.linspace(0, 0.999, count + 1), 2), np.repeat([0, 0.999], count + 1)])
    return Mesh(vertices, np.tile(normals, (2, 1)), uvs, _grid_triangles(1, count))


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
