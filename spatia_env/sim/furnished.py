"""Draws furnished scenes: rooms of a kind, with their neighbours behind open doors, and yards with a house.

Pure data, as `layout`. The first room, in which the first camera stands, has its middle at the origin; the rooms
next to it are reached through doors, arches or as the second arm of an L. Furniture stands as people put it: with its
back to a wall, chairs at tables, a television opposite to the sofa. Models are those of the scene's split (see
`assets`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from spatia_env.sim import assets
from spatia_env.sim.items import MUTED, Item
from spatia_env.sim.layout import (
    Decoration,
    Hole,
    Light,
    Opening,
    Room,
    ScenePlan,
    choose_texture,
    describe,
    draw_light,
    holes_of,
)

WALL = 0.12  # thickness of a wall between two rooms, metres
KINDS = {
    "living room": 3.0,
    "bedroom": 2.5,
    "kitchen": 2.0,
    "study": 1.7,
    "dining room": 1.5,
    "corridor": 1.2,
    "bathroom": 0.8,
    "storeroom": 0.7,
}
# Extent of the longer and the shorter side, metres.
SIZES = {
    "living room": ((4.6, 7.0), (3.8, 5.4)),
    "bedroom": ((4.0, 5.4), (3.4, 4.4)),
    "kitchen": ((4.0, 5.6), (3.2, 4.4)),
    "study": ((3.8, 5.2), (3.2, 4.2)),
    "dining room": ((4.2, 6.0), (3.6, 4.8)),
    "corridor": ((5.0, 7.6), (1.7, 2.3)),
    "bathroom": ((3.4, 4.4), (2.6, 3.2)),
    "storeroom": ((3.8, 5.6), (3.2, 4.6)),
}
FLOORS: dict[str, dict[str, float]] = {
    "kitchen": {"tiles": 4, "checks": 2, "planks": 1},
    "bathroom": {"tiles": 5, "checks": 1.5},
    "storeroom": {"concrete": 4, "planks": 1, "tiles": 1},
    "bedroom": {"planks": 3, "carpet": 3},
}
WALLS: dict[str, dict[str, float]] = {
    "bathroom": {"tiles": 3, "plaster": 2},
    "storeroom": {"concrete": 2, "bricks": 2, "plaster": 1},
    "kitchen": {"plaster": 4, "tiles": 1, "bricks": 0.5},
}
Interval = tuple[float, float]
Rectangle = tuple[float, float, float, float]  # low x, low y, high x, high y


def draw_plan(seed: int) -> ScenePlan:
    """The plan of furnished scene `seed` (see `assets.split_of` for the allowed seeds)."""
    split = assets.split_of(seed)
    outdoor = bool(np.random.default_rng([37, int(seed)]).random() < 0.2)
    # A plan in which the first camera would be boxed in is drawn again.
    for attempt in range(20):
        plan = _draw(np.random.default_rng([31, int(seed), attempt]), int(seed), split, outdoor)
        if plan is not None:
            return plan
    raise RuntimeError(f"furnished scene {seed}: no plan leaves room for a camera.")


def _draw(rng: np.random.Generator, seed: int, split: str, outdoor: bool) -> ScenePlan | None:
    rooms, openings, fence = _draw_yard(rng, split) if outdoor else (*_draw_house(rng, split), "")
    sketch = _empty_plan(seed, split, rooms, openings, fence, draw_light(rng, outdoor))
    decorations: list[Decoration] = []
    items: list[Item] = []
    for index, room in enumerate(rooms):
        placer = Placer(rng, split, sketch, index)
        FURNISH[room.kind](placer)
        items += placer.items
        decorations += (
            _decorate(rng, split, placer, index)
            if room.ceiling
            else _facade_windows(rng, split, room, openings[0])
        )
    camera = _draw_camera(rng, rooms[0], openings, items)
    if camera is None:
        return None
    eye, yaw, pitch = camera
    sky = _view(rng, split) if outdoor and rng.random() < 0.6 else ""
    inside = [item for item in items if _within(rooms[0], item)]
    own = [decoration for decoration in decorations if decoration.room == 0]
    windows = [Decoration("window", o.wall, 0, 0, 0, 0, 0) for o in openings if o.kind == "window"]
    doors = [Decoration("door", o.wall, 0, 0, 0, 0, 0) for o in openings if o.kind == "door"]
    prompt = describe(
        outdoor,
        rooms[0].floor,
        next(filter(None, rooms[0].walls)),
        fence,
        tuple(item for item in inside if item.word),
        (*own, *windows[:1], *doors[:1]),
        "" if outdoor else rooms[0].kind,
    )
    return dataclasses.replace(
        sketch,
        items=tuple(items),
        decorations=tuple(decorations),
        eye=eye,
        yaw=yaw,
        pitch=pitch,
        sky=sky,
        prompt=prompt,
    )


def _empty_plan(
    seed: int, split: str, rooms: list[Room], openings: list[Opening], fence: str, light: Light
) -> ScenePlan:
    first = rooms[0]
    return ScenePlan(
        seed,
        split,
        not first.ceiling,
        first.size,
        first.floor,
        first.walls,
        first.ceiling,
        fence,
        (),
        (),
        (0.0, 0.0, 1.4),
        0.0,
        0.0,
        light,
        "",
        tuple(rooms),
        tuple(openings),
    )


def _within(room: Room, item: Item) -> bool:
    return room.low[0] <= item.x <= room.high[0] and room.low[1] <= item.y <= room.high[1]


def _view(rng: np.random.Generator, split: str) -> str:
    """A panorama of open air, or "" where the split has none."""
    outside = ("city", "forest", "park", "sunset", "venice", "sunrise", "dawn", "sky", "courtyard")
    names = [name for name in assets.panorama_names(split) if name.startswith(outside)]
    return names[int(rng.integers(len(names)))] if names else ""


# -- rooms --------------------------------------------------------------------------------------------------------


def _draw_kind(rng: np.random.Generator, beside: str = "") -> str:
    """A kind of room, another one than the room beside it; corridors are likely neighbours."""
    weights = {kind: weight for kind, weight in KINDS.items() if kind != beside}
    if beside and beside != "corridor":
        weights["corridor"] = 4.0
    kinds = list(weights)
    return kinds[int(rng.choice(len(kinds), p=np.array(list(weights.values())) / sum(weights.values())))]


def _surfaces(rng: np.random.Generator, split: str, kind: str) -> tuple[str, tuple[str, str, str, str], str]:
    """Textures of a room's floor, walls and ceiling; one wall may differ."""
    floors = FLOORS.get(kind, {"planks": 4, "tiles": 1.5, "carpet": 1.5, "checks": 0.7, "concrete": 0.5})
    walls = WALLS.get(kind, {"plaster": 5, "stripes": 1.2, "bricks": 0.8, "concrete": 0.6, "planks": 0.4})
    floor, main = choose_texture(rng, split, floors), choose_texture(rng, split, walls)
    accent = choose_texture(rng, split, {"plaster": 3, "stripes": 1, "bricks": 1, "planks": 0.7})
    other = int(rng.integers(4)) if rng.random() < 0.35 else -1
    names = [accent if side == other else main for side in range(4)]
    return floor, (names[0], names[1], names[2], names[3]), choose_texture(rng, split, {"plaster": 1})


def _draw_house(rng: np.random.Generator, split: str) -> tuple[list[Room], list[Opening]]:
    """A room around the origin, one to three neighbours, and windows in the sides that are left."""
    kind = _draw_kind(rng)
    (long, short), height = SIZES[kind], float(rng.uniform(2.45, 3.0))
    extent = [float(rng.uniform(*long)), float(rng.uniform(*short))]
    if rng.random() < 0.5:
        extent.reverse()
    half = (extent[0] / 2, extent[1] / 2)
    first = Room(kind, (-half[0], -half[1]), half, height, *_surfaces(rng, split, kind))
    rooms, openings = [first], list[Opening]()
    sides = [int(side) for side in rng.permutation(4)]
    if kind in ("living room", "kitchen", "study", "dining room") and rng.random() < 0.35:
        _add_alcove(rng, rooms, openings, sides.pop())
    count = int(rng.choice(3, p=(0.45, 0.4, 0.15))) + (2 if kind == "corridor" else 1)
    for side in sides[:count]:
        _add_neighbour(rng, split, rooms, openings, side)
    taken = {opening.wall for opening in openings}
    for side in (side for side in range(4) if side not in taken):
        openings += _draw_windows(rng, split, first, side)
    return rooms, openings


def _beside(room: Room, side: int, interval: Interval, depth: float, gap: float) -> tuple[Interval, Interval]:
    """Lower and upper corner of a rectangle behind side `side` of a room, along `interval` of it."""
    axis, sign = side % 2, 1 if side < 2 else -1
    near = (room.high if sign > 0 else room.low)[axis] + sign * gap
    across = sorted((near, near + sign * depth))
    low, high = [interval[0]] * 2, [interval[1]] * 2
    low[axis], high[axis] = across[0], across[1]
    return (low[0], low[1]), (high[0], high[1])


def _interval(rng: np.random.Generator, room: Room, side: int, length: float) -> Interval:
    """A part of this length, or the whole, of a room's side."""
    low, high = room.low[1 - side % 2], room.high[1 - side % 2]
    length = min(length, high - low)
    start = float(rng.uniform(low, high - length))
    return start, start + length


def _add_alcove(rng: np.random.Generator, rooms: list[Room], openings: list[Opening], side: int) -> None:
    """The second arm of an L, of the same surfaces."""
    room = rooms[0]
    whole = room.size[1 - side % 2]
    if whole < 3.4:
        return
    low, high = room.low[1 - side % 2], room.high[1 - side % 2]
    length = float(rng.uniform(1.8, whole - 1.2))
    interval = (low, low + length) if rng.random() < 0.5 else (high - length, high)
    corners = _beside(room, side, interval, float(rng.uniform(1.6, 3.0)), 0.0)
    walls = list(room.walls)
    walls[(side + 2) % 4] = ""
    alcove = Room(
        "alcove", *corners, room.height, room.floor, (walls[0], walls[1], walls[2], walls[3]), room.ceiling
    )
    middle = (interval[0] + interval[1]) / 2
    openings.append(Opening("open", 0, len(rooms), side, middle, length, 0.0, room.height, 0))
    rooms.append(alcove)


def _add_neighbour(
    rng: np.random.Generator, split: str, rooms: list[Room], openings: list[Opening], side: int
) -> None:
    """A room behind a door or an arch in side `side` of the first room."""
    room = rooms[0]
    kind = _draw_kind(rng, room.kind)
    (long, short), whole = SIZES[kind], room.size[1 - side % 2]
    deep, wide = float(rng.uniform(*long)), float(rng.uniform(*short))
    if wide > whole or (kind == "corridor" and rng.random() < 0.5):
        deep, wide = wide, deep  # its longer side lies along the wall
    interval = _interval(rng, room, side, wide)
    arch = rng.random() < 0.22
    width = float(rng.uniform(1.2, 1.7)) if arch else float(rng.uniform(0.82, 0.98))
    width = min(width, interval[1] - interval[0] - 0.4)
    height = float(rng.uniform(2.0, 2.12)) + (0.15 if arch else 0.0)
    margin = width / 2 + 0.14
    along = float(rng.uniform(interval[0] + margin, interval[1] - margin))
    corners = _beside(room, side, interval, min(deep, 4.6), WALL)
    floor, walls, ceiling = _surfaces(rng, split, kind)
    rooms.append(Room(kind, *corners, room.height, floor, walls, ceiling))
    opening = Opening(
        "arch" if arch else "door", 0, len(rooms) - 1, side, along, width, 0.0, height, _seed(rng)
    )
    openings.append(opening)


def _draw_windows(rng: np.random.Generator, split: str, room: Room, side: int) -> list[Opening]:
    """One or two windows with a view, or none."""
    low, high = room.low[1 - side % 2], room.high[1 - side % 2]
    count = int(rng.integers(0, 3)) if high - low > 4.2 else int(rng.integers(0, 2))
    width = min(float(rng.uniform(0.9, 1.7)), (high - low) / 2.4)
    bottom, top = float(rng.uniform(0.75, 1.0)), float(rng.uniform(2.0, 2.25))
    if room.kind == "bathroom":
        width, bottom = 0.7, 1.45
    view = _view(rng, split) if rng.random() < 0.7 else ""
    out = []
    for k in range(count):
        share = (k + 0.5) / count
        along = float(low + share * (high - low) + rng.uniform(-0.1, 0.1))
        out.append(Opening("window", 0, -1, side, along, width, bottom, top, _seed(rng), view))
    return out


def _draw_yard(rng: np.random.Generator, split: str) -> tuple[list[Room], list[Opening], str]:
    """A fenced yard with a house along one of its sides, whose door may stand open."""
    half = (float(rng.uniform(3.3, 4.3)), float(rng.uniform(3.3, 4.3)))
    fence = ("fence", "hedge", "wall")[int(rng.integers(3))]
    border = choose_texture(rng, split, {{"fence": "planks", "hedge": "hedge", "wall": "bricks"}[fence]: 1})
    house = choose_texture(rng, split, {"plaster": 4, "bricks": 2, "planks": 1, "stripes": 0.3})
    ground = choose_texture(rng, split, {"grass": 5, "paving": 1.5, "gravel": 1.0, "dirt": 0.6})
    side = int(rng.integers(4))
    walls = [border] * 4
    walls[side] = house
    height = float(rng.uniform(1.2, 1.9))
    yard = Room("yard", (-half[0], -half[1]), half, height, ground, (walls[0], walls[1], walls[2], walls[3]))
    rooms, openings = [yard], list[Opening]()
    _add_neighbour(rng, split, rooms, openings, side)
    return rooms, openings, fence


def _facade_windows(rng: np.random.Generator, split: str, yard: Room, door: Opening) -> list[Decoration]:
    """Windows of the house, beside its door."""
    low, high = yard.low[1 - door.wall % 2], yard.high[1 - door.wall % 2]
    sign = (-1, 1, 1, -1)[door.wall]  # from the world's axis to the right of somebody who looks at the wall
    out = []
    for share in (0.18, 0.5, 0.82):
        along, width = low + share * (high - low), float(rng.uniform(0.9, 1.3))
        if abs(along - door.along) > (width + door.width) / 2 + 0.3 and rng.random() < 0.8:
            place = sign * (along - yard.middle[1 - door.wall % 2])
            out.append(Decoration("window", door.wall, float(place), 1.5, width, 1.15, _seed(rng), "dark"))
    return out


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 30))


# -- the first camera ---------------------------------------------------------------------------------------------


def _draw_camera(
    rng: np.random.Generator, room: Room, openings: list[Opening], items: list[Item]
) -> tuple[tuple[float, float, float], float, float] | None:
    """An eye in the first room with 45 cm free around it and 2 m ahead of it, or None."""
    boxes = [_footprint(item, 0.0) for item in items if item.kind not in FLAT and item.z < 1.7]
    half = np.array(room.high)
    best, most = None, -math.inf
    for _ in range(120):
        x, y = (rng.uniform(-1, 1, 2) * np.maximum(half - 0.55, 0.05)).tolist()
        yaw = math.atan2(-y, -x) + rng.normal(0, 0.4)
        ahead = [(x + math.cos(yaw) * r, y + math.sin(yaw) * r) for r in np.arange(0.4, 2.1, 0.4)]
        if _crowded(boxes, x, y, 0.45) or any(
            _crowded(boxes, *p, 0.3) or (np.abs(p) > half - 0.3).any() for p in ahead
        ):
            continue
        seen = _seen(items, openings, x, y, yaw) + 1.5 * math.hypot(x, y) + rng.uniform(0, 2)
        if seen > most:
            best, most = (x, y, yaw), seen
    if best is None:
        return None
    eye = (best[0], best[1], float(rng.uniform(1.25, 1.6)))
    return eye, float(best[2]), math.radians(rng.uniform(-16, 0))


def _seen(items: list[Item], openings: list[Opening], x: float, y: float, yaw: float) -> float:
    """How much a view shows: pieces of furniture, and openings, within 30 degrees of its axis."""
    places = [(item.x, item.y, min(item.size[2], 1.0)) for item in items if item.kind not in FLAT]
    for o in openings:
        places.append((*((0.0, o.along) if o.wall % 2 == 0 else (o.along, 0.0)), 0.5))
    total = 0.0
    for px, py, weight in places:
        bearing = math.remainder(math.atan2(py - y, px - x) - yaw, 2 * math.pi)
        if abs(bearing) < 0.5 and 0.9 < math.hypot(px - x, py - y) < 6:
            total += weight
    return total


def _crowded(boxes: list[Rectangle], x: float, y: float, radius: float) -> bool:
    return any(math.hypot(x - min(max(x, b[0]), b[2]), y - min(max(y, b[1]), b[3])) < radius for b in boxes)


# -- furniture ----------------------------------------------------------------------------------------------------

FLAT = ("rug", "path")
# What serves where the split has no model of a role: kind, size and texture of a plain piece.
PLAIN = {
    "chair": ("chair", (0.45, 0.45, 0.92), "wood"),
    "office chair": ("chair", (0.48, 0.48, 0.95), "plaster"),
    "table": ("table", (1.5, 0.85, 0.74), "wood"),
    "coffee table": ("table", (1.0, 0.6, 0.42), "wood"),
    "desk": ("table", (1.4, 0.7, 0.74), "wood"),
    "bookcase": ("shelf", (0.95, 0.34, 1.85), "wood"),
    "wardrobe": ("closet", (1.3, 0.6, 2.0), "wood"),
    "sideboard": ("closet", (1.4, 0.42, 0.6), "wood"),
    "chest of drawers": ("closet", (0.9, 0.45, 0.95), "wood"),
    "tv stand": ("closet", (1.5, 0.42, 0.5), "wood"),
    "nightstand": ("closet", (0.45, 0.4, 0.5), "wood"),
    "kitchen cabinet": ("closet", (0.6, 0.6, 0.88), ""),
    "wall cabinet": ("closet", (0.6, 0.36, 0.7), ""),
    "refrigerator": ("closet", (0.65, 0.65, 1.75), ""),
    "washbasin": ("closet", (0.7, 0.48, 0.82), ""),
    "box": ("crate", (0.5, 0.4, 0.4), "planks"),
    "plant": ("plant", (0.6, 0.6, 1.1), "hedge"),
    "stool": ("chair", (0.4, 0.4, 0.5), "wood"),
    "bench": ("bench", (1.3, 0.42, 0.48), "wood"),
    "flower box": ("planter", (0.8, 0.45, 0.75), "bricks"),
    "shower": ("closet", (0.9, 0.9, 2.0), ""),
}
TINTED = {"sofa": 0.45, "armchair": 0.45, "bed": 0.3, "chair": 0.3, "office chair": 0.5, "wardrobe": 0.25}
WALL_YAW = (-math.pi / 2, 0.0, math.pi / 2, math.pi)  # of a piece whose back is at wall 0 to 3


class Placer:
    """Puts furniture into one room without overlap, and keeps the ways through its doors free.

    Args:
        rng: draws everything.
        split: whose models and textures to use.
        plan: rooms and openings.
        index: of the room.
    """

    def __init__(self, rng: np.random.Generator, split: str, plan: ScenePlan, index: int) -> None:
        self.rng, self.split, self.room = rng, split, plan.rooms[index]
        self.items: list[Item] = []
        self.holes = holes_of(plan, index)
        self._floor: list[Rectangle] = [self._doorway(hole) for hole in self.holes if hole.bottom == 0]
        self._windows = [
            _front(self.on_wall(h.wall, (h.left + h.right) / 2, 0.0), h.right - h.left, 0.3)
            for h in self.holes
            if h.bottom > 0
        ]

    # -- where

    def on_wall(self, wall: int, along: float, distance: float) -> tuple[float, float, float]:
        """Place and yaw of something `distance` from a wall and `along` it, counted as in `Hole`."""
        middle, half = self.room.middle, (self.room.size[0] / 2, self.room.size[1] / 2)
        outward = ((1, 0), (0, 1), (-1, 0), (0, -1))[wall]
        right = (outward[1], -outward[0])
        reach = half[wall % 2] - distance
        x = middle[0] + outward[0] * reach + right[0] * along
        y = middle[1] + outward[1] * reach + right[1] * along
        return float(x), float(y), WALL_YAW[wall]

    def _doorway(self, hole: Hole) -> Rectangle:
        """The floor in front of an opening that must stay free."""
        place = self.on_wall(hole.wall, (hole.left + hole.right) / 2, 0.0)
        return _front(place, hole.right - hole.left + 0.1, 0.9)

    def fits(self, item: Item, margin: float = 0.04) -> bool:
        """True if the item stands in the room and overlaps nothing."""
        box = _footprint(item, margin)
        low, high = self.room.low, self.room.high
        if box[0] + margin < low[0] - 1e-6 or box[1] + margin < low[1] - 1e-6:
            return False
        if box[2] - margin > high[0] + 1e-6 or box[3] - margin > high[1] + 1e-6:
            return False
        if item.z + item.size[2] > self.room.height - 0.03 and self.room.ceiling:
            return False
        if item.z + item.size[2] > 1.0 and any(_overlap(box, window) for window in self._windows):
            return False
        return not any(_overlap(box, other) for other in self._floor)

    # -- what

    def model(self, role: str) -> Item | None:
        """A piece that serves as `role`, not placed yet; None where the split has none and it has no plain form."""
        names = assets.furniture_names(role, self.split)
        pick, use_plain = self.rng.random(), self.rng.random()
        if not names or (role in PLAIN and use_plain < 0.15):
            return self.plain(role) if role in PLAIN else None
        name = names[int(pick * len(names))]
        row = assets.furniture_index()[name]
        scale = self._scale(role)
        w, d, h = (v * scale for v in row["size"])
        return Item("model", 0.0, 0.0, 0.0, (w, d, h), name, self.tint(role), 0.0, role, row["elevation"])

    def plain(self, role: str) -> Item:
        """A piece of `PLAIN` that serves as `role`, not placed yet."""
        kind, (w, d, h), texture = PLAIN[role]
        ids = assets.texture_ids(texture, self.split) if texture else [""]
        size, pick = self._scale(role), self.rng.random()
        colour = (1.0, 1.0, 1.0) if texture else (0.84, 0.84, 0.82)
        item = Item(
            kind, 0.0, 0.0, 0.0, (w * size, d * size, h * size), ids[int(pick * len(ids))], colour, 0.0, role
        )
        return dataclasses.replace(item, z=1.45) if role == "wall cabinet" else item

    def _scale(self, role: str) -> float:
        return 1.0 if "cabinet" in role else float(self.rng.uniform(0.94, 1.06))  # cabinets stand in rows

    def tint(self, role: str) -> tuple[float, float, float]:
        """Factors of a model's colours: fabrics come in many colours, wood is lighter or darker."""
        rng, amount = self.rng, TINTED.get(role, 0.12)
        hue, light = rng.random(), rng.uniform(1 - 0.6 * amount, 1.0)
        strength = amount * rng.uniform(0, 1)
        wave = 0.5 + 0.5 * np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
        r, g, b = (light * (1 - strength * (1 - wave))).tolist()
        return r, g, b

    # -- placing

    def put(self, item: Item | None, x: float, y: float, yaw: float, margin: float = 0.04) -> Item | None:
        """The item at a place, if it fits there."""
        if item is None:
            return None
        placed = dataclasses.replace(item, x=float(x), y=float(y), yaw=float(yaw))
        if not self.fits(placed, margin):
            return None
        self.keep(placed)
        return placed

    def keep(self, item: Item) -> None:
        """Add an item without asking whether it fits."""
        self.items.append(item)
        if item.kind not in FLAT and item.z < 1.0:
            self._floor.append(_footprint(item, 0.0))

    def against_wall(
        self, role: str, walls: tuple[int, ...] = (0, 1, 2, 3), gap: float = 0.03
    ) -> Item | None:
        """A piece with its back to one of these walls."""
        for _ in range(3):  # another one may be smaller
            item = self.model(role)
            placed = None if item is None else self.back_to_wall(item, walls, gap)
            if placed is not None:
                return placed
        return None

    def back_to_wall(
        self, item: Item, walls: tuple[int, ...] = (0, 1, 2, 3), gap: float = 0.03
    ) -> Item | None:
        """This piece with its back to one of these walls, at a free place."""
        for wall in self.rng.permutation(walls):
            room = self.room.size[1 - wall % 2] / 2 - item.size[0] / 2 - 0.06
            for share in self.rng.uniform(-1, 1, 8) if room > 0 else ():
                placed = self.put(item, *self.on_wall(wall, share * room, gap + item.size[1] / 2))
                if placed is not None:
                    return placed
        return None

    def in_front(self, role: str, of: Item, distance: float, turned: bool = True) -> Item | None:
        """A piece in front of another, facing it (`turned`) or the same way; `distance` between their edges."""
        item = self.model(role)
        if item is None:
            return None
        reach = of.size[1] / 2 + distance + item.size[1] / 2
        x, y = of.x + math.sin(of.yaw) * reach, of.y - math.cos(of.yaw) * reach
        return self.put(item, x, y, of.yaw + (math.pi if turned else 0.0), 0.01)

    def beside(self, role: str, of: Item, sign: int, gap: float = 0.06) -> Item | None:
        """A piece at the side of another, the same way, their backs in line."""
        item = self.model(role)
        if item is None:
            return None
        side, back = sign * (of.size[0] / 2 + gap + item.size[0] / 2), (of.size[1] - item.size[1]) / 2
        c, s = math.cos(of.yaw), math.sin(of.yaw)
        return self.put(item, of.x + c * side - s * back, of.y + s * side + c * back, of.yaw, 0.01)

    def on_top(self, role: str, of: Item | None, shift: float = 0.3) -> None:
        """A small piece on another one."""
        item = self.model(role) if of is not None else None
        if item is None or of is None or item.size[0] > of.size[0] or item.size[1] > of.size[1] + 0.05:
            return
        side = self.rng.uniform(-shift, shift) * (of.size[0] - item.size[0])
        x, y = of.x + math.cos(of.yaw) * side, of.y + math.sin(of.yaw) * side
        self.items.append(dataclasses.replace(item, x=x, y=y, yaw=of.yaw, z=of.z + of.size[2]))

    def corner(self, role: str) -> Item | None:
        """A piece in a corner."""
        item = self.model(role)
        for corner in self.rng.permutation(4):
            if item is None:
                return None
            sx, sy = ((1, 1), (-1, 1), (-1, -1), (1, -1))[int(corner)]
            reach = max(item.size[:2]) / 2 + 0.08
            x = self.room.middle[0] + sx * (self.room.size[0] / 2 - reach)
            y = self.room.middle[1] + sy * (self.room.size[1] / 2 - reach)
            placed = self.put(item, x, y, float(self.rng.integers(4)) * math.pi / 2)
            if placed is not None:
                return placed
        return None

    def somewhere(self, role: str, tries: int = 14) -> Item | None:
        """A piece at any free place, turned by any quarter."""
        item = self.model(role)
        for _ in range(tries if item is not None else 0):
            x, y = self.rng.uniform(self.room.low, self.room.high)
            placed = self.put(item, x, y, float(self.rng.integers(4)) * math.pi / 2, 0.15)
            if placed is not None:
                return placed
        return None

    def hang(self, role: str, height: float) -> Item | None:
        """A piece on a wall, its middle at this height."""
        item = self.model(role)
        if item is None:
            return None
        return self.back_to_wall(dataclasses.replace(item, z=height - item.size[2] / 2), gap=0.0)

    def seats(self, table: Item, role: str, count: int, margin: float = -0.03) -> None:
        """Seats around a table, facing it, the two long sides first."""
        w, d = table.size[0] / 2, table.size[1] / 2
        per_side = max(1, min(3, int(table.size[0] / 0.62)))
        places = [
            (((k + 0.5) / per_side - 0.5) * 2 * w, sign * d, sign)
            for k in range(per_side)
            for sign in (1, -1)
        ]
        spots = [(x, y, 0.0 if sign > 0 else math.pi) for x, y, sign in places]
        spots += [(w, 0.0, -math.pi / 2), (-w, 0.0, math.pi / 2)]
        chair = self.model(role)
        for x, y, turn in spots[:count]:
            if chair is None:
                return
            out = chair.size[1] / 2 - 0.14 + self.rng.uniform(0, 0.12)  # pushed under the table a little
            x, y = x - math.sin(turn) * out, y + math.cos(turn) * out
            c, s = math.cos(table.yaw), math.sin(table.yaw)
            placed = dataclasses.replace(
                chair, x=table.x + c * x - s * y, y=table.y + s * x + c * y, yaw=table.yaw + turn
            )
            others, self._floor = self._floor, [b for b in self._floor if b != _footprint(table, 0.0)]
            free = self.fits(placed, margin)
            self._floor = others
            if free:
                self.keep(placed)

    def rug(self, x: float, y: float, width: float, depth: float, yaw: float) -> None:
        """A rug, painted on the floor."""
        kinds = ("carpet", "checks", "stripes", "carpet")
        ids = assets.texture_ids(kinds[int(self.rng.integers(4))], self.split)
        low, high = self.room.low, self.room.high
        box = _turned_box(x, y, width, depth, yaw)
        if box[0] > low[0] and box[1] > low[1] and box[2] < high[0] and box[3] < high[1]:
            texture = ids[int(self.rng.integers(len(ids)))]
            colour = MUTED[int(self.rng.integers(len(MUTED)))]
            self.items.append(Item("rug", x, y, yaw, (width, depth, 0.01), texture, colour, 0.0, "rug"))


def _turned_box(x: float, y: float, width: float, depth: float, yaw: float) -> Rectangle:
    c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
    half_x, half_y = (c * width + s * depth) / 2, (s * width + c * depth) / 2
    return x - half_x, y - half_y, x + half_x, y + half_y


def _footprint(item: Item, margin: float) -> Rectangle:
    """The rectangle along the axes that holds an item's footprint."""
    box = _turned_box(item.x, item.y, item.size[0], item.size[1], item.yaw)
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def _front(place: tuple[float, float, float], width: float, depth: float) -> Rectangle:
    """The floor up to `depth` in front of a place at a wall."""
    x, y, yaw = place
    return _turned_box(x + math.sin(yaw) * depth / 2, y - math.cos(yaw) * depth / 2, width, depth, yaw)


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    gap = 1e-6  # what touches does not overlap
    return a[0] < b[2] - gap and b[0] < a[2] - gap and a[1] < b[3] - gap and b[1] < a[3] - gap


# -- kinds of rooms -----------------------------------------------------------------------------------------------


def _living_room(p: Placer) -> None:
    sofa = p.against_wall("sofa")
    if sofa is not None:
        if sofa.size[1] < 1.2:
            p.rug(
                sofa.x + math.sin(sofa.yaw) * 1.2,
                sofa.y - math.cos(sofa.yaw) * 1.2,
                float(p.rng.uniform(1.9, 2.6)),
                float(p.rng.uniform(1.3, 1.8)),
                sofa.yaw,
            )
        table = p.in_front("coffee table", sofa, 0.35)
        if table is not None and p.rng.random() < 0.5:
            p.on_top("small plant", table)
        opposite = (WALL_YAW.index(sofa.yaw) + 2) % 4
        stand = p.against_wall("tv stand", (opposite,)) or p.against_wall("tv stand")
        if stand is not None and stand.kind == "closet":
            p.on_top("television", stand, 0.1)
        if table is not None and p.rng.random() < 0.7:
            p.beside("armchair", table, 1, 0.5)
        p.beside("plant", sofa, -1, 0.1)
    for role in ("bookcase", "armchair", "sideboard", "piano", "bookcase"):
        if p.rng.random() < (0.25 if role == "piano" else 0.6):
            placed = p.against_wall(role)
            if role == "sideboard":
                p.on_top("table lamp", placed)
    p.corner("plant")
    _extras(p)


def _bedroom(p: Placer) -> None:
    bed = p.against_wall("bed")
    if bed is not None:
        for sign in (1, -1):
            table = p.beside("nightstand", bed, sign)
            if p.rng.random() < 0.7:
                p.on_top("table lamp", table)
        p.rug(
            bed.x + math.sin(bed.yaw) * 1.0,
            bed.y - math.cos(bed.yaw) * 1.0,
            bed.size[0] + 1.0,
            1.6,
            bed.yaw,
        )
    p.against_wall("wardrobe")
    if p.rng.random() < 0.6:
        chest = p.against_wall("chest of drawers")
        p.on_top("small plant", chest)
    if p.rng.random() < 0.5:
        _desk(p)
    if p.rng.random() < 0.3:
        p.against_wall("crib")
    if p.rng.random() < 0.5:
        p.somewhere("toy")
    if p.rng.random() < 0.5:
        p.corner("plant")
    _extras(p)


def _desk(p: Placer) -> None:
    desk = p.against_wall("desk")
    if desk is None:
        return
    if p.in_front("office chair" if p.rng.random() < 0.6 else "chair", desk, -0.1) is None:
        p.in_front("chair", desk, 0.05)
    if desk.size[2] < 0.8:
        p.on_top("table lamp", desk)


def _kitchen(p: Placer) -> None:
    wall = int(np.argmax([p.room.size[1], p.room.size[0]])) + 2 * int(p.rng.integers(2))
    _counter(p, wall)
    table = p.somewhere("table", 30)
    if table is not None:
        p.seats(table, "chair", int(p.rng.integers(2, 5)))
        p.on_top("kitchen appliance", table)
    elif p.rng.random() < 0.8:
        p.against_wall("stool")
    if p.rng.random() < 0.5:
        p.corner("dustbin")
    if p.rng.random() < 0.5:
        p.corner("plant")
    _extras(p)


def _counter(p: Placer, wall: int) -> None:
    """A row of kitchen cabinets along a wall, with cabinets above them and a refrigerator at its end."""
    half = p.room.size[1 - wall % 2] / 2
    at, end = -half + 0.04, half - 0.04
    fridge = p.model("refrigerator")
    if fridge is not None:
        p.put(fridge, *p.on_wall(wall, at + fridge.size[0] / 2, fridge.size[1] / 2 + 0.02), margin=0.0)
        at += fridge.size[0] + 0.02
    upper_wanted = p.rng.random() < 0.8
    drawn = [p.model("kitchen cabinet") for _ in range(3)]
    units = [u for u in drawn if u is not None and u.size[1] < 0.8] or [p.plain("kitchen cabinet")]
    uppers = [p.model("wall cabinet") or p.plain("wall cabinet") for _ in range(2)]
    tint = p.tint("kitchen cabinet")
    units, uppers = ([dataclasses.replace(u, colour=tint) for u in row] for row in (units, uppers))
    count = 0
    while count < 8:
        unit = units[int(p.rng.integers(len(units)))]
        if at + unit.size[0] > end:
            break
        middle = at + unit.size[0] / 2
        placed = p.put(unit, *p.on_wall(wall, middle, unit.size[1] / 2 + 0.01), margin=0.0)
        if placed is not None and upper_wanted:
            upper = uppers[int(p.rng.integers(len(uppers)))]
            p.put(upper, *p.on_wall(wall, middle, upper.size[1] / 2), margin=0.0)
        if placed is not None and p.rng.random() < 0.25 and unit.size[2] < 1.0:
            p.on_top("kitchen appliance", placed)
        at += unit.size[0]
        count += 1


def _study(p: Placer) -> None:
    _desk(p)
    for _ in range(int(p.rng.integers(1, 4))):
        p.against_wall("bookcase")
    if p.rng.random() < 0.5:
        p.against_wall("armchair")
    if p.rng.random() < 0.4:
        p.against_wall("whiteboard", gap=0.1)
    if p.rng.random() < 0.5:
        p.against_wall("speaker")
    x, y, _ = p.room.middle
    if p.rng.random() < 0.6:
        p.rug(float(x), float(y), float(p.rng.uniform(1.5, 2.3)), float(p.rng.uniform(1.2, 1.7)), 0.0)
    if p.rng.random() < 0.4:
        p.somewhere("box")
    p.corner("plant")
    _extras(p)


def _dining_room(p: Placer) -> None:
    table = p.model("table" if p.rng.random() < 0.8 else "game table") or p.model("table")
    x, y, _ = p.room.middle
    if table is not None:
        turn = 0.0 if p.room.size[0] > p.room.size[1] else math.pi / 2
        dx, dy = p.rng.uniform(-0.6, 0.6, 2)
        placed = p.put(table, x + dx, y + dy, turn) or p.put(table, x + 1.0, y + 0.8, turn)
        placed = placed or p.somewhere("table", 30)
        if placed is not None:
            p.rug(placed.x, placed.y, placed.size[0] + 1.1, placed.size[1] + 1.1, placed.yaw)
            if placed.word == "table":
                p.seats(placed, "chair", int(p.rng.integers(4, 9)))
                p.on_top("small plant", placed, 0.1)
    for role in ("sideboard", "bookcase", "piano", "chest of drawers"):
        if p.rng.random() < 0.55:
            p.on_top("table lamp", p.against_wall(role))
    p.corner("plant")
    _extras(p)


def _bathroom(p: Placer) -> None:
    p.corner("shower")
    for role in ("washbasin", "toilet", "toilet", "towel rack"):
        p.against_wall(role)
    if p.rng.random() < 0.6:
        p.corner("dustbin")
    if p.rng.random() < 0.4:
        p.against_wall("chest of drawers")
    x, y, _ = p.room.middle
    p.rug(float(x), float(y), 0.9, 0.6, 0.0)
    _extras(p)


def _corridor(p: Placer) -> None:
    for role in ("sideboard", "bench", "bookcase", "plant", "clock", "chair"):
        if p.rng.random() < 0.35:
            placed = p.against_wall(role)
            if role == "sideboard":
                p.on_top("table lamp", placed)
    if p.rng.random() < 0.6:
        x, y, _ = p.room.middle
        w, d, _ = p.room.size
        p.rug(float(x), float(y), w - 0.7 if w > d else 0.9, 0.9 if w > d else d - 0.7, 0.0)
    _extras(p)


def _storeroom(p: Placer) -> None:
    for role in ("bookcase", "bookcase", "wardrobe", "motorbike", "wheelbarrow", "desk"):
        if p.rng.random() < 0.5:
            p.against_wall(role)
    for role in ("box", "box", "box", "barrel", "pallet", "fan", "bag", "game table"):
        if p.rng.random() < 0.55:
            p.somewhere(role)
    _extras(p)


def _alcove(p: Placer) -> None:
    if p.rng.random() < 0.6:
        table = p.somewhere("table", 25)
        if table is not None:
            p.seats(table, "chair", int(p.rng.integers(2, 5)))
    else:
        _desk(p)
    p.against_wall("bookcase")
    p.corner("plant")
    _extras(p)


def _extras(p: Placer) -> None:
    """What any room may have: a radiator under a window, a lamp at the ceiling."""
    windows = [hole for hole in p.holes if hole.bottom > 0]
    radiator = p.model("radiator")
    if radiator is not None and p.rng.random() < 0.8:
        if windows and radiator.size[2] < windows[0].bottom:
            hole = windows[0]
            place = p.on_wall(hole.wall, (hole.left + hole.right) / 2, radiator.size[1] / 2 + 0.04)
            p.put(dataclasses.replace(radiator, z=0.1), *place)
        elif not windows and p.rng.random() < 0.4:
            p.back_to_wall(dataclasses.replace(radiator, z=0.1))
    lamp = p.model("ceiling lamp")
    if lamp is not None and p.rng.random() < 0.55:
        x, y, _ = p.room.middle
        z = p.room.height - lamp.size[2]
        p.items.append(dataclasses.replace(lamp, x=float(x), y=float(y), z=float(z)))


def _yard(p: Placer) -> None:
    for hole in (h for h in p.holes if h.bottom == 0):
        # A path from the door across the yard.
        x, y, yaw = p.on_wall(hole.wall, (hole.left + hole.right) / 2, 0.0)
        length = float(p.rng.uniform(0.5, 1.0)) * p.room.size[hole.wall % 2]
        x, y = x + math.sin(yaw) * length / 2, y - math.cos(yaw) * length / 2
        ids = assets.texture_ids(("paving", "gravel", "planks")[int(p.rng.integers(3))], p.split)
        texture = ids[int(p.rng.integers(len(ids)))]
        width = float(p.rng.uniform(0.9, 1.4))
        p.items.append(Item("path", x, y, yaw, (width, length, 0.01), texture, (1.0, 1.0, 1.0), 0.0, "path"))
    if p.rng.random() < 0.5:
        p.somewhere("playground")
    if p.rng.random() < 0.6:
        table = p.somewhere("table")
        if table is not None:
            p.seats(table, "chair", 4)
    for role in ("flower box", "bench", "flower box", "box", "barrel", "wheelbarrow", "motorbike"):
        if p.rng.random() < 0.5:
            p.against_wall(role, gap=0.06)
    for role in ("garden chair", "garden chair", "rock", "lantern", "mailbox", "rock", "parasol", "toy"):
        if p.rng.random() < 0.5:
            p.somewhere(role)
    for _ in range(int(p.rng.integers(1, 4))):
        _tree(p)


def _tree(p: Placer) -> None:
    rng = p.rng
    ids = assets.texture_ids("hedge", p.split)
    texture = ids[int(rng.integers(len(ids)))]
    width = float(rng.uniform(1.1, 1.9))
    size = (width, width, float(rng.uniform(2.2, 3.4)))
    tree = Item("tree", 0.0, 0.0, 0.0, size, texture, MUTED[0], 0.0, "tree")
    corner = p.rng.permutation(4)[0]
    sx, sy = ((1, 1), (-1, 1), (-1, -1), (1, -1))[int(corner)]
    reach = p.room.size[0] / 2 - width * 0.6, p.room.size[1] / 2 - width * 0.6
    p.put(
        tree,
        sx * reach[0] * rng.uniform(0.7, 1),
        sy * reach[1] * rng.uniform(0.7, 1),
        float(rng.uniform(-3, 3)),
    )


FURNISH: dict[str, Callable[[Placer], None]] = {
    "living room": _living_room,
    "bedroom": _bedroom,
    "kitchen": _kitchen,
    "study": _study,
    "dining room": _dining_room,
    "bathroom": _bathroom,
    "corridor": _corridor,
    "storeroom": _storeroom,
    "alcove": _alcove,
    "yard": _yard,
}


# -- on the walls -------------------------------------------------------------------------------------------------


def _decorate(rng: np.random.Generator, split: str, placer: Placer, index: int) -> list[Decoration]:
    """Pictures, and beside the first room closed doors and painted windows, clear of holes and tall furniture."""
    room = placer.room
    wanted = ["picture"] * int(rng.integers(2, 7))
    if index:
        wanted = ["door"] * int(rng.random() < 0.6) + ["window"] * int(rng.random() < 0.5) + wanted
    out: list[Decoration] = []
    for kind in wanted:
        width, height, above = {
            "picture": (rng.uniform(0.35, 1.1), rng.uniform(0.35, 0.9), rng.uniform(1.45, 1.75)),
            "window": (rng.uniform(0.9, 1.5), rng.uniform(0.9, 1.25), 1.5),
            "door": (rng.uniform(0.82, 0.95), 2.05, 1.025),
        }[kind]
        for _ in range(8):
            wall = int(rng.integers(4))
            reach = room.size[1 - wall % 2] / 2 - width / 2 - 0.15
            if reach <= 0 or not room.walls[wall]:
                continue
            along = float(rng.uniform(-reach, reach))
            if _wall_is_free(placer, out, wall, along, float(width), float(above - height / 2)):
                photo = _photo(rng, split) if kind == "picture" and rng.random() < 0.75 else ""
                if kind == "window" and rng.random() < 0.7:
                    view = _view(rng, split)
                    photo = f"panorama:{view}" if view else ""
                out.append(
                    Decoration(
                        kind, wall, along, float(above), float(width), float(height), _seed(rng), photo, index
                    )
                )
                break
    return out


def _photo(rng: np.random.Generator, split: str) -> str:
    """A photograph or a panorama to cut a picture from."""
    names = [*assets.PHOTOS[split], *(f"panorama:{name}" for name in assets.panorama_names(split))]
    return names[int(rng.integers(len(names)))]


def _wall_is_free(
    placer: Placer, others: list[Decoration], wall: int, along: float, width: float, bottom: float
) -> bool:
    left, right = along - width / 2 - 0.12, along + width / 2 + 0.12
    if any(h.wall == wall and h.left < right and left < h.right for h in placer.holes):
        return False
    if any(o.wall == wall and abs(o.along - along) < (o.width + width) / 2 + 0.12 for o in others):
        return False
    strip = _front(placer.on_wall(wall, along, 0.0), width, 0.25)
    return not any(
        item.z + item.size[2] > bottom + 0.05 and _overlap(strip, _footprint(item, 0.0))
        for item in placer.items
        if item.kind not in FLAT
    )
