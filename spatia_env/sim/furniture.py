"""Furniture and clutter: the visual mesh and the collision shape of each kind of item.

Local frame: the middle of the footprint is the origin, +Z up, the back of a shelf or bench is at +y.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from spatia_env.sim import assets, shapes
from spatia_env.sim.items import Item
from spatia_env.sim.shapes import Mesh


@dataclasses.dataclass(frozen=True)
class Part:
    """One body: what is seen and what is touched.

    Attributes:
        mesh: the visible triangles.
        solids: collision primitives, ("box", centre, half extents), ("cylinder", centre, radius, height) or
            ("sphere", centre, radius).
        texture: a texture id, or "" for the plain `colour`.
        colour: RGB in [0, 1].
    """

    mesh: Mesh
    solids: tuple[tuple, ...]
    texture: str
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


def _boxes(boxes: list[tuple[tuple, tuple]], texture: str) -> Part:
    mesh = shapes.join(*(shapes.box(c, s) for c, s in boxes))
    return Part(mesh, tuple(("box", c, tuple(v / 2 for v in s)) for c, s in boxes), texture)


def _table(item: Item) -> list[Part]:
    w, d, h = item.size
    legs = [
        ((x * (w / 2 - 0.06), y * (d / 2 - 0.06), (h - 0.05) / 2), (0.07, 0.07, h - 0.05))
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return [_boxes([((0, 0, h - 0.025), (w, d, 0.05)), *legs], item.texture)]


def _chair(item: Item) -> list[Part]:
    w, d, h = item.size
    legs = [
        ((x * (w / 2 - 0.03), y * (d / 2 - 0.03), 0.22), (0.05, 0.05, 0.44)) for x in (-1, 1) for y in (-1, 1)
    ]
    back = ((0, d / 2 - 0.025, (0.48 + h) / 2), (w, 0.05, h - 0.48))
    return [_boxes([((0, 0, 0.46), (w, d, 0.05)), back, *legs], item.texture)]


def _shelf(item: Item) -> list[Part]:
    w, d, h = item.size
    sides = [((x * (w / 2 - 0.02), 0, h / 2), (0.04, d, h)) for x in (-1, 1)]
    boards = [
        ((0, 0, z), (w - 0.08, d, 0.04)) for z in np.linspace(0.05, h - 0.02, max(3, round(h / 0.42) + 1))
    ]
    back = ((0, d / 2 - 0.01, h / 2), (w - 0.08, 0.02, h))
    return [_boxes([*sides, *boards, back], item.texture)]


def _cabinet(item: Item) -> list[Part]:
    w, d, h = item.size
    return [
        _boxes([((0, 0, h / 2), (w, d, h)), ((0, 0, h - 0.015), (w + 0.04, d + 0.03, 0.03))], item.texture)
    ]


def _crate(item: Item) -> list[Part]:
    return [_boxes([((0, 0, item.size[2] / 2), item.size)], item.texture)]


def _bench(item: Item) -> list[Part]:
    w, d, h = item.size
    feet = [((x * (w / 2 - 0.12), 0, (h - 0.07) / 2), (0.1, d * 0.8, h - 0.07)) for x in (-1, 1)]
    return [_boxes([((0, 0, h - 0.035), (w, d, 0.07)), *feet], item.texture)]


def _barrel(item: Item) -> list[Part]:
    r, h = item.size[0] / 2, item.size[2]
    return [Part(shapes.cylinder(r, h), (("cylinder", (0, 0, h / 2), r, h),), item.texture)]


def _ball(item: Item) -> list[Part]:
    r = item.size[0] / 2
    return [Part(shapes.ball(r, (0, 0, r)), (("sphere", (0, 0, r), r),), item.texture)]


def _plant(item: Item) -> list[Part]:
    w, _, h = item.size
    pot = Part(shapes.cylinder(0.16, 0.3), (("cylinder", (0, 0, 0.15), 0.16, 0.3),), "", (0.55, 0.42, 0.36))
    crown = shapes.join(
        shapes.ball(w * 0.36, (0, 0, 0.3 + (h - 0.3) * 0.35), 7, 12, 0.9),
        shapes.ball(w * 0.28, (0.05, 0.03, h - w * 0.24), 7, 12),
    )
    return [pot, Part(crown, (("sphere", (0, 0, 0.3 + (h - 0.3) * 0.4), w * 0.33),), item.texture)]


def _tree(item: Item) -> list[Part]:
    w, _, h = item.size
    trunk = Part(
        shapes.cylinder(0.1, h * 0.5, sides=10),
        (("cylinder", (0, 0, h * 0.25), 0.1, h * 0.5),),
        "",
        (0.42, 0.34, 0.27),
    )
    crown = shapes.join(
        shapes.ball(w * 0.42, (0, 0, h * 0.52), 7, 12, 0.8),
        shapes.ball(w * 0.36, (0.1, 0.05, h * 0.72), 7, 12),
        shapes.ball(w * 0.25, (-0.04, 0, h - w * 0.2), 6, 10),
    )
    return [trunk, Part(crown, (("sphere", (0, 0, h * 0.65), w * 0.4),), item.texture)]


def _planter(item: Item) -> list[Part]:
    w, d, h = item.size
    base = 0.4
    bush = shapes.join(
        *(shapes.ball(d * 0.48, (x * w * 0.25, 0, base + d * 0.1), 6, 12, (h - base) / d) for x in (-1, 1))
    )
    trough = _boxes([((0, 0, base / 2), (w, d, base))], item.texture)
    return [trough, Part(bush, (), "hedge-" + item.texture.rsplit("-", 1)[1])]


def _mesh(item: Item) -> list[Part]:
    vertices, normals, triangles = assets.load_mesh(item.texture)
    scale = np.full(3, item.size[2])
    if item.kind in ("blob", "boulder"):
        extent = np.ptp(vertices, axis=0)
        scale = np.full(3, min(item.size[0] / max(extent[0], extent[1]), item.size[2] / extent[2]))
        if item.kind == "boulder":
            scale = np.array([item.size[0] / extent[0], item.size[0] / extent[1], item.size[2] / extent[2]])
    mesh = shapes.flat_shaded(vertices, normals, triangles, scale)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    solid = ("box", tuple((low + high) / 2), tuple((high - low) / 2))
    return [Part(mesh, (solid,), "", item.colour)]


def _model(item: Item) -> list[Part]:
    mesh, _ = assets.load_furniture(item.texture)
    box = mesh.vertices.max(0) - mesh.vertices.min(0)
    vertices = mesh.vertices * (np.array(item.size) / np.maximum(box, 1e-6))
    low, high = vertices.min(0), vertices.max(0)
    solid = ("box", tuple((low + high) / 2), tuple((high - low) / 2))
    return [Part(dataclasses.replace(mesh, vertices=vertices), (solid,), f"model:{item.texture}", item.colour)]


BUILDERS: dict[str, Callable[[Item], list[Part]]] = {
    "table": _table,
    "chair": _chair,
    "shelf": _shelf,
    "cabinet": _cabinet,
    "crate": _crate,
    "bench": _bench,
    "barrel": _barrel,
    "ball": _ball,
    "plant": _plant,
    "tree": _tree,
    "planter": _planter,
    "mesh": _mesh,
    "blob": _mesh,
    "boulder": _mesh,
    "model": _model,
}


def build_item(item: Item) -> list[Part]:
    """The bodies of an item in its local frame."""
    return BUILDERS[item.kind](item)
