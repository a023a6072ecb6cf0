"""Furniture and clutter: what a scene can hold, where it stands, and the mesh and collision shape of each kind.

Walls are counted 0: +x, 1: +y, 2: -x, 3: -y. An item's own frame has the middle of its footprint at the origin, +Z up,
and the back of a shelf or bench at +y.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from spatia_env.sim import assets, shapes
from spatia_env.sim.shapes import Mesh

CORRIDOR_LENGTH = 2.1  # metres kept free in front of the first camera
CORRIDOR_HALF_WIDTH = 0.55


@dataclasses.dataclass(frozen=True)
class Item:
    """A piece of furniture or clutter standing on the floor, or `z` metres above it; yaw in radians.

    The `texture` of a kind "model" is the name of a shipped model; a kind "rug" or "path" is painted on the floor.
    """

    kind: str
    x: float
    y: float
    yaw: float
    size: tuple[float, float, float]
    texture: str
    colour: tuple[float, float, float]
    mass: float = 0.0
    word: str = ""
    z: float = 0.0

    @property
    def radius(self) -> float:
        """Radius of the circle around its footprint."""
        return math.hypot(self.size[0], self.size[1]) / 2


INDOOR = {
    "table": 2.0,
    "chair": 1.5,
    "shelf": 1.2,
    "cabinet": 1.5,
    "crate": 3.0,
    "barrel": 1.5,
    "ball": 0.8,
    "mesh": 1.6,
    "blob": 1.2,
    "plant": 0.8,
}
OUTDOOR = {
    "bench": 1.5,
    "crate": 2.0,
    "tree": 2.0,
    "planter": 1.5,
    "barrel": 1.5,
    "boulder": 2.0,
    "table": 0.8,
    "ball": 0.4,
    "mesh": 0.6,
}
WORDS = {
    "table": "table",
    "chair": "chair",
    "shelf": "shelf",
    "cabinet": "cabinet",
    "crate": "box",
    "barrel": "drum",
    "ball": "ball",
    "blob": "sculpture",
    "plant": "plant",
    "bench": "bench",
    "tree": "tree",
    "planter": "planter",
    "boulder": "boulder",
}
MESH_WORDS = {"mug": "mug", "torus": "ring", "bunny": "rabbit figure", "lego": "toy brick", "prism": "wedge"}
MUTED = (
    (0.62, 0.56, 0.48),
    (0.48, 0.53, 0.58),
    (0.56, 0.48, 0.46),
    (0.5, 0.55, 0.48),
    (0.66, 0.64, 0.6),
    (0.42, 0.42, 0.46),
    (0.6, 0.52, 0.56),
    (0.44, 0.5, 0.5),
    (0.7, 0.64, 0.54),
)


def draw_items(
    rng: np.random.Generator,
    split: str,
    outdoor: bool,
    size: tuple[float, float, float],
    eye: tuple[float, float, float],
    yaw: float,
) -> tuple[Item, ...]:
    """Furniture and clutter that do not overlap and leave the space before the first camera free.

    Args:
        rng: draws everything.
        split: whose textures and meshes to use.
        outdoor: a yard or a room.
        size: of the scene, metres.
        eye: of the first camera.
        yaw: of the first camera, radians.
    """
    weights = OUTDOOR if outdoor else INDOOR
    kinds, p = list(weights), np.array(list(weights.values())) / sum(weights.values())
    wanted = int(rng.integers(4, 9)) if outdoor else int(rng.integers(3, 8))
    items: list[Item] = []
    for _ in range(200):
        if len(items) == wanted:
            break
        item = _draw_item(rng, split, kinds[int(rng.choice(len(kinds), p=p))])
        placed = _place(rng, item, size, eye, yaw)
        if placed is not None and all(
            math.hypot(placed.x - o.x, placed.y - o.y) > placed.radius + o.radius + 0.08 for o in items
        ):
            items.append(placed)
    return tuple(items)


def _draw_item(rng: np.random.Generator, split: str, kind: str) -> Item:
    u = rng.uniform
    sizes = {
        "table": (u(0.8, 1.4), u(0.6, 0.9), u(0.6, 0.8)),
        "chair": (0.45, 0.45, u(0.8, 1.0)),
        "shelf": (u(0.7, 1.1), 0.34, u(1.3, 2.0)),
        "cabinet": (u(0.5, 1.1), u(0.4, 0.55), u(0.6, 1.5)),
        "crate": (u(0.3, 0.7), u(0.3, 0.6), u(0.25, 0.7)),
        "bench": (u(1.0, 1.5), 0.42, 0.48),
        "planter": (u(0.5, 0.9), u(0.4, 0.6), u(0.6, 1.0)),
    }
    round_sizes = {
        "barrel": (u(0.34, 0.6), u(0.5, 0.95)),
        "ball": (u(0.28, 0.5), 0),
        "blob": (0.5, u(0.4, 0.7)),
        "plant": (u(0.5, 0.8), u(0.8, 1.4)),
        "tree": (u(1.0, 1.6), u(2.0, 3.0)),
        "boulder": (u(0.5, 1.0), u(0.35, 0.8)),
        "mesh": (0.6, u(0.9, 1.3)),
    }
    texture_kind = {
        "table": "wood",
        "chair": "wood",
        "shelf": "wood",
        "cabinet": "wood",
        "crate": "planks",
        "bench": "wood",
        "planter": "bricks",
        "barrel": "stripes",
        "ball": "stripes",
        "tree": "hedge",
        "plant": "hedge",
        "boulder": "concrete",
    }.get(kind, "concrete")
    if kind in ("crate", "cabinet") and rng.random() < 0.5:
        texture_kind = ("plaster", "checks", "stripes")[int(rng.integers(3))]
    ids = assets.texture_ids(texture_kind, split)
    texture = ids[int(rng.integers(len(ids)))]
    r, g, b = np.clip(np.array(MUTED[int(rng.integers(len(MUTED)))]) * u(0.8, 1.15), 0, 0.8).tolist()
    mass = {"crate": 6.0, "ball": 1.5, "blob": 4.0, "mesh": 4.0, "chair": 5.0}.get(kind, 0.0)
    word = WORDS.get(kind, "")
    if kind in sizes:
        w, d, h = sizes[kind]
        size = (float(w), float(d), float(h))
    else:
        width, height = round_sizes[kind]
        size = (float(width), float(width), float(width if kind == "ball" else height))
    if kind in ("blob", "boulder"):
        numbers = assets.BLOB_RANGES[split]
        texture = f"blob-{numbers[int(rng.integers(len(numbers)))]:03d}"
    if kind == "mesh":
        names = assets.STATIC_MESHES[split]
        texture = names[int(rng.integers(len(names)))]
        word = MESH_WORDS[texture]
    return Item(kind, 0.0, 0.0, float(u(-math.pi, math.pi)), size, texture, (r, g, b), mass, word)


AGAINST_WALL = ("shelf", "cabinet", "bench", "planter")


def _place(
    rng: np.random.Generator,
    item: Item,
    size: tuple[float, float, float],
    eye: tuple[float, float, float],
    yaw: float,
) -> Item | None:
    """The item somewhere free of the camera's corridor, or None after a few tries."""
    for _ in range(12):
        if item.kind in AGAINST_WALL:
            wall = int(rng.integers(4))
            across = size[wall % 2] / 2 - item.size[1] / 2 - 0.04
            room = size[1 - wall % 2] / 2 - item.size[0] / 2 - 0.1
            along, sign = rng.uniform(-room, room), 1 if wall < 2 else -1
            x, y = (sign * across, along) if wall % 2 == 0 else (along, sign * across)
            turn = (-math.pi / 2, 0.0, math.pi / 2, math.pi)[wall]  # the back (local +y) to the wall
        else:
            reach = item.radius + 0.08
            if rng.random() < 0.7:  # most of them where the first camera looks
                distance, bearing = rng.uniform(1.6, 4.5), yaw + rng.uniform(-0.6, 0.6)
                x, y = eye[0] + distance * math.cos(bearing), eye[1] + distance * math.sin(bearing)
            else:
                x, y = rng.uniform(-0.5, 0.5) * size[0], rng.uniform(-0.5, 0.5) * size[1]
            if abs(x) > size[0] / 2 - reach or abs(y) > size[1] / 2 - reach:
                continue
            turn = item.yaw
        placed = dataclasses.replace(item, x=float(x), y=float(y), yaw=float(turn))
        if _clear_of_camera(placed, eye, yaw):
            return placed
    return None


def _clear_of_camera(item: Item, eye: tuple[float, float, float], yaw: float) -> bool:
    dx, dy = item.x - eye[0], item.y - eye[1]
    ahead = dx * math.cos(yaw) + dy * math.sin(yaw)
    side = -dx * math.sin(yaw) + dy * math.cos(yaw)
    if math.hypot(dx, dy) < 1.0 + item.radius:
        return False
    inside = -0.5 < ahead < CORRIDOR_LENGTH + item.radius and abs(side) < CORRIDOR_HALF_WIDTH + item.radius
    return not inside


# -- bodies -----------------------------------------------------------------------------------------------------


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


def _closet(item: Item) -> list[Part]:
    """A cabinet with doors or drawers: panels in front of a darker body."""
    w, d, h = item.size
    columns, rows = max(1, round(w / 0.55)), max(1, round(h / (1.2 if h > 1.4 else 0.45)))
    panels = []
    for i in range(columns):
        for j in range(rows):
            x, z = ((i + 0.5) / columns - 0.5) * w, (j + 0.5) / rows * h
            panels.append(((x, -d / 2 + 0.004, z), (w / columns - 0.025, 0.03, h / rows - 0.025)))
            panels.append(((x, -d / 2 - 0.02, z + 0.3 * h / rows), (0.12, 0.02, 0.02)))
    body = _boxes([((0, 0.01, h / 2), (w, d - 0.02, h))], item.texture)
    front = shapes.join(*(shapes.box(c, s) for c, s in panels))
    shade = tuple(0.82 * c for c in item.colour)
    return [
        dataclasses.replace(body, colour=(shade[0], shade[1], shade[2])),
        Part(front, (), item.texture, item.colour),
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
    return [
        Part(dataclasses.replace(mesh, vertices=vertices), (solid,), f"model:{item.texture}", item.colour)
    ]


BUILDERS: dict[str, Callable[[Item], list[Part]]] = {
    "table": _table,
    "chair": _chair,
    "shelf": _shelf,
    "cabinet": _cabinet,
    "closet": _closet,
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
