"""Draws the plan of a scene from its seed: sizes, surfaces, furniture, camera, light and the prompt.

Pure data: nothing here knows PyBullet. The world's origin is the middle of the floor, +Z is up, metres.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from spatia_env.sim import assets
from spatia_env.sim.textures import NAMES, texture_rng

CORRIDOR_LENGTH = 2.1  # metres kept free in front of the first camera
CORRIDOR_HALF_WIDTH = 0.55


@dataclasses.dataclass(frozen=True)
class Item:
    """A piece of furniture or clutter standing on the floor; sizes in metres, yaw in radians."""

    kind: str
    x: float
    y: float
    yaw: float
    size: tuple[float, float, float]
    texture: str
    colour: tuple[float, float, float]
    mass: float = 0.0
    word: str = ""

    @property
    def radius(self) -> float:
        """Radius of the circle around its footprint."""
        return math.hypot(self.size[0], self.size[1]) / 2


@dataclasses.dataclass(frozen=True)
class Decoration:
    """A panel painted on wall `wall`: centre along the wall and above the floor, and its size, in metres."""

    kind: str
    wall: int
    along: float
    above: float
    width: float
    height: float
    seed: int
    photo: str = ""


@dataclasses.dataclass(frozen=True)
class Light:
    """Direction towards the light, ambient and diffuse shares, and the colour of the light."""

    direction: tuple[float, float, float]
    ambient: float
    diffuse: float
    colour: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class ScenePlan:
    """Everything that decides what a scene looks like."""

    seed: int
    split: str
    outdoor: bool
    size: tuple[float, float, float]
    floor: str
    walls: tuple[str, str, str, str]
    ceiling: str
    fence: str
    decorations: tuple[Decoration, ...]
    items: tuple[Item, ...]
    eye: tuple[float, float, float]
    yaw: float
    pitch: float
    light: Light
    prompt: str


def draw_plan(seed: int) -> ScenePlan:
    """The plan of scene `seed` (see `assets.split_of` for the allowed seeds)."""
    split = assets.split_of(seed)
    rng = np.random.default_rng([7, int(seed)])
    outdoor = bool(rng.random() < 0.25)
    if outdoor:
        size = (float(rng.uniform(6.4, 8.0)), float(rng.uniform(6.4, 8.0)), float(rng.uniform(1.3, 2.0)))
    else:
        size = (float(rng.uniform(4.0, 7.0)), float(rng.uniform(4.0, 7.0)), float(rng.uniform(2.6, 3.2)))
    eye, yaw, pitch = _draw_camera(rng, size)
    floor, walls, ceiling, fence = _draw_surfaces(rng, split, outdoor)
    items = _draw_items(rng, split, outdoor, size, eye, yaw)
    decorations = () if outdoor else _draw_decorations(rng, split, size)
    light = _draw_light(rng, outdoor)
    prompt = describe(outdoor, floor, walls[0], fence, items, decorations)
    return ScenePlan(int(seed), split, outdoor, size, floor, walls, ceiling, fence, decorations, items,
                     eye, yaw, pitch, light, prompt)


def _draw_camera(rng: np.random.Generator, size: tuple[float, float, float]) -> tuple[tuple[float, float, float], float, float]:
    """An eye near one edge that looks across the scene, with 3 m to the opposite wall or as far as it goes."""
    for _ in range(200):
        angle = rng.uniform(-math.pi, math.pi)
        reach = rng.uniform(0.6, 0.95)
        x = math.cos(angle) * reach * (size[0] / 2 - 0.75)
        y = math.sin(angle) * reach * (size[1] / 2 - 0.75)
        yaw = math.atan2(-y, -x) + rng.normal(0, 0.22)
        if min(_to_wall(size, x, y, yaw + d) for d in (-0.4, -0.2, 0, 0.2, 0.4)) > 2.6:
            break
    else:  # cannot happen for rooms of 4 m and more, but a plan must always exist
        x, y, yaw = -(size[0] / 2 - 0.8), 0.0, 0.0
    eye = (float(x), float(y), float(rng.uniform(1.2, 1.6)))
    return eye, float(yaw), math.radians(rng.uniform(-15, 5))


def _to_wall(size: tuple[float, float, float], x: float, y: float, yaw: float) -> float:
    """Distance from (x, y) along `yaw` to the boundary."""
    dx, dy = math.cos(yaw), math.sin(yaw)
    tx = (math.copysign(size[0] / 2, dx) - x) / dx if abs(dx) > 1e-9 else math.inf
    ty = (math.copysign(size[1] / 2, dy) - y) / dy if abs(dy) > 1e-9 else math.inf
    return min(tx, ty)


def _choose(rng: np.random.Generator, split: str, kinds: dict[str, float], photos: tuple[str, ...] = ()) -> str:
    """A texture id of one of these kinds (with weights); photographed surfaces only in the train split."""
    names = list(kinds)
    kind = names[int(rng.choice(len(names), p=np.array(list(kinds.values())) / sum(kinds.values())))]
    use_photo, photo_index = rng.random() < 0.12, rng.random()
    ids = assets.texture_ids(kind, split)
    chosen = ids[int(rng.integers(len(ids)))]
    if use_photo and photos and split == "train":
        return f"photo:{photos[int(photo_index * len(photos))]}"
    return chosen


def _draw_surfaces(rng: np.random.Generator, split: str, outdoor: bool) -> tuple[str, tuple[str, str, str, str], str, str]:
    if outdoor:
        floor = _choose(rng, split, {"grass": 4, "paving": 2, "gravel": 1, "dirt": 1, "concrete": 1}, assets.PHOTO_SURFACES)
        fence = ("fence", "hedge", "wall")[int(rng.integers(3))]
        kind = {"fence": "planks", "hedge": "hedge", "wall": "bricks"}[fence]
        border = _choose(rng, split, {kind: 1})
        return floor, (border,) * 4, "", fence
    floor = _choose(rng, split, {"planks": 4, "tiles": 3, "carpet": 2, "checks": 1.5, "concrete": 1})
    main = _choose(rng, split, {"plaster": 5, "stripes": 1.5, "bricks": 1.5, "concrete": 1})
    accent = _choose(rng, split, {"plaster": 2, "stripes": 1, "bricks": 1.5, "planks": 0.7})
    walls = [main] * 4
    if rng.random() < 0.45:
        walls[int(rng.integers(1, 4))] = accent
    ceiling = _choose(rng, split, {"plaster": 1})
    return floor, tuple(walls), ceiling, ""


INDOOR = {"table": 2.0, "chair": 1.5, "shelf": 1.2, "cabinet": 1.5, "crate": 3.0, "barrel": 1.5, "ball": 0.8, "mesh": 1.6, "blob": 1.2, "plant": 0.8}
OUTDOOR = {"bench": 1.5, "crate": 2.0, "tree": 2.0, "planter": 1.5, "barrel": 1.5, "boulder": 2.0, "table": 0.8, "ball": 0.4, "mesh": 0.6}
WORDS = {
    "table": "table", "chair": "chair", "shelf": "shelf", "cabinet": "cabinet", "crate": "box", "barrel": "drum",
    "ball": "ball", "blob": "sculpture", "plant": "plant", "bench": "bench", "tree": "tree", "planter": "planter",
    "boulder": "boulder",
}
MESH_WORDS = {"mug": "mug", "torus": "ring", "bunny": "rabbit figure", "lego": "toy brick", "prism": "wedge"}
MUTED = (
    (0.62, 0.56, 0.48), (0.48, 0.53, 0.58), (0.56, 0.48, 0.46), (0.5, 0.55, 0.48), (0.66, 0.64, 0.6),
    (0.42, 0.42, 0.46), (0.6, 0.52, 0.56), (0.44, 0.5, 0.5), (0.7, 0.64, 0.54),
)


def _draw_items(rng: np.random.Generator, split: str, outdoor: bool, size: tuple[float, float, float],
                eye: tuple[float, float, float], yaw: float) -> tuple[Item, ...]:
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
        "table": (u(0.8, 1.4), u(0.6, 0.9), u(0.6, 0.8)), "chair": (0.45, 0.45, u(0.8, 1.0)),
        "shelf": (u(0.7, 1.1), 0.34, u(1.3, 2.0)), "cabinet": (u(0.5, 1.1), u(0.4, 0.55), u(0.6, 1.5)),
        "crate": (u(0.3, 0.7), u(0.3, 0.6), u(0.25, 0.7)), "bench": (u(1.0, 1.5), 0.42, 0.48),
        "planter": (u(0.5, 0.9), u(0.4, 0.6), u(0.6, 1.0)),
    }
    round_sizes = {
        "barrel": (u(0.34, 0.6), u(0.5, 0.95)), "ball": (u(0.28, 0.5), 0), "blob": (0.5, u(0.4, 0.7)),
        "plant": (u(0.5, 0.8), u(0.8, 1.4)), "tree": (u(1.0, 1.6), u(2.0, 3.0)), "boulder": (u(0.5, 1.0), u(0.35, 0.8)),
        "mesh": (0.6, u(0.9, 1.3)),
    }
    texture_kind = {
        "table": "wood", "chair": "wood", "shelf": "wood", "cabinet": "wood", "crate": "planks", "bench": "wood",
        "planter": "bricks", "barrel": "stripes", "ball": "stripes", "tree": "hedge", "plant": "hedge", "boulder": "concrete",
    }.get(kind, "concrete")
    if kind in ("crate", "cabinet") and rng.random() < 0.5:
        texture_kind = ("plaster", "checks", "stripes")[int(rng.integers(3))]
    ids = assets.texture_ids(texture_kind, split)
    texture = ids[int(rng.integers(len(ids)))]
    colour = tuple(float(c) for c in np.clip(np.array(MUTED[int(rng.integers(len(MUTED)))]) * u(0.8, 1.15), 0, 0.8))
    mass = {"crate": 6.0, "ball": 1.5, "blob": 4.0, "mesh": 4.0, "chair": 5.0}.get(kind, 0.0)
    word = WORDS.get(kind, "")
    if kind in sizes:
        size = tuple(float(s) for s in sizes[kind])
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
    return Item(kind, 0.0, 0.0, float(u(-math.pi, math.pi)), size, texture, colour, mass, word)


AGAINST_WALL = ("shelf", "cabinet", "bench", "planter")


def _place(rng: np.random.Generator, item: Item, size: tuple[float, float, float], eye: tuple[float, float, float],
           yaw: float) -> Item | None:
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


def _draw_decorations(rng: np.random.Generator, split: str, size: tuple[float, float, float]) -> tuple[Decoration, ...]:
    """Panels on the walls that do not overlap: pictures, a window, a door."""
    wanted = ["picture"] * int(rng.integers(1, 5)) + ["window"] * int(rng.random() < 0.5) + ["door"] * int(rng.random() < 0.7)
    photos = assets.PHOTOS[split]
    out: list[Decoration] = []
    for kind in wanted:
        width, height, above = {
            "picture": (rng.uniform(0.55, 1.2), rng.uniform(0.5, 0.95), rng.uniform(1.45, 1.75)),
            "window": (rng.uniform(0.9, 1.6), rng.uniform(0.9, 1.3), 1.55),
            "door": (rng.uniform(0.85, 1.0), rng.uniform(2.0, 2.15), None),
        }[kind]
        above = height / 2 if above is None else above
        for _ in range(10):
            wall = int(rng.integers(4))
            half = size[1 if wall % 2 == 0 else 0] / 2 - width / 2 - 0.25
            along = rng.uniform(-half, half)
            if all(o.wall != wall or abs(o.along - along) > (o.width + width) / 2 + 0.15 for o in out):
                photo = photos[int(rng.integers(len(photos)))] if kind == "picture" and rng.random() < 0.7 else ""
                out.append(Decoration(kind, wall, float(along), float(above), float(width), float(height),
                                      int(rng.integers(1 << 30)), photo))
                break
    return tuple(out)


def _draw_light(rng: np.random.Generator, outdoor: bool) -> Light:
    angle, height = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 1.3)
    direction = (math.cos(angle) * math.cos(height), math.sin(angle) * math.cos(height), math.sin(height))
    ambient = rng.uniform(0.74, 0.9)
    warm = rng.uniform(-1, 1)
    colour = (1.0, 1.0 - 0.03 * abs(warm), 1.0 - 0.1 * warm) if warm > 0 else (1.0 + 0.08 * warm, 1.0 + 0.02 * warm, 1.0)
    diffuse = rng.uniform(0.24, 0.36)
    return Light(tuple(float(d) for d in direction), float(ambient), float(diffuse), tuple(float(c) for c in colour))


def tone_word(texture_id: str) -> str:
    """A plain colour word for a plain wall."""
    from spatia_env.sim.textures import PLASTERS, _pick

    r, g, b = _pick(texture_rng(texture_id), PLASTERS)
    if max(r, g, b) - min(r, g, b) < 18:
        return "white" if (r + g + b) / 3 > 180 else "grey"
    if b >= max(r, g):
        return "pale blue"
    return "pale green" if g > r else ("beige" if g > b + 6 else "pale pink")


def surface_phrase(texture_id: str) -> str:
    """The adjective of a surface: "wooden", "brick", "white"..."""
    kind = {"photo:grass": "grass", "photo:gravel": "gravel"}.get(
        texture_id, texture_id.rsplit("-", 1)[0]
    )
    return tone_word(texture_id) if kind == "plaster" else NAMES[kind]


def describe(outdoor: bool, floor: str, wall: str, fence: str, items: tuple[Item, ...],
             decorations: tuple[Decoration, ...]) -> str:
    """One sentence about the scene, for the model's prompt."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.word] = counts.get(item.word, 0) + 1
    numbers = ("", "a", "two", "three", "four", "five", "six", "seven", "eight")
    things = []
    for word, count in counts.items():
        plural = {"box": "boxes", "bench": "benches", "shelf": "shelves", "toy brick": "toy bricks"}.get(word, word + "s")
        things.append(f"a {word}" if count == 1 else f"{numbers[min(count, 8)]} {plural}")
    for kind in ("door", "window"):
        if any(d.kind == kind for d in decorations):
            things.append(f"a {kind}")
    pictures = sum(d.kind == "picture" for d in decorations)
    if pictures:
        things.append("a picture" if pictures == 1 else "pictures")
    if outdoor:
        border = {"fence": "a wooden fence", "hedge": "a hedge", "wall": "a brick wall"}[fence]
        ground = surface_phrase(floor)
        start = f"a yard with {'grass' if ground == 'grass' else f'{ground} ground'} and {border}"
    else:
        start = f"a room with a {surface_phrase(floor)} floor and {surface_phrase(wall)} walls"
    if not things:
        return start
    listed = things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
    return f"{start}, with {listed}"
