"""Draws the plan of a scene from its seed: sizes, surfaces, furniture, camera, light and the prompt.

Pure data: nothing here knows PyBullet. The world's origin is the middle of the floor, +Z is up, metres.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from spatia_env.sim import assets
from spatia_env.sim.items import Item, draw_items
from spatia_env.sim.textures import NAMES, PLASTERS, pick_colour, texture_rng


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
    room: int = 0


@dataclasses.dataclass(frozen=True)
class Light:
    """Direction towards the light, ambient and diffuse shares, and the colour of the light."""

    direction: tuple[float, float, float]
    ambient: float
    diffuse: float
    colour: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Room:
    """A rectangle of floor from `low` to `high` (x, y), metres; textures of floor, walls and ceiling.

    A `height` without a ceiling is that of a yard's fence. Walls named "" are not built.
    """

    kind: str
    low: tuple[float, float]
    high: tuple[float, float]
    height: float
    floor: str
    walls: tuple[str, str, str, str]
    ceiling: str = ""

    @property
    def size(self) -> tuple[float, float, float]:
        """Extent along x, y and z."""
        return (self.high[0] - self.low[0], self.high[1] - self.low[1], self.height)

    @property
    def middle(self) -> np.ndarray:
        """Centre [3] of its floor."""
        return np.array([(self.low[0] + self.high[0]) / 2, (self.low[1] + self.high[1]) / 2, 0.0])


@dataclasses.dataclass(frozen=True)
class Opening:
    """A hole in wall `wall` of room `room`, and in the wall behind it where it leads to another room.

    Attributes:
        kind: "door", "arch", "open" (no wall remains above it) or "window".
        room: index of the room whose wall it is in.
        to: index of the room behind it, -1 for a window.
        wall: 0: +x, 1: +y, 2: -x, 3: -y.
        along: world coordinate of its centre along the wall (y of walls 0 and 2, x of walls 1 and 3).
        width: metres along the wall.
        bottom: its lower edge above the floor.
        top: its upper edge above the floor.
        seed: draws its leaf, frame or view.
        view: a panorama seen through a window; "" for a painted one.
    """

    kind: str
    room: int
    to: int
    wall: int
    along: float
    width: float
    bottom: float
    top: float
    seed: int
    view: str = ""


@dataclasses.dataclass(frozen=True)
class Hole:
    """A hole in a wall as seen from inside: from `left` to `right` of the wall's centre, `bottom` to `top`."""

    wall: int
    left: float
    right: float
    bottom: float
    top: float


@dataclasses.dataclass(frozen=True)
class ScenePlan:
    """Everything that decides what a scene looks like.

    A furnished scene has `rooms` and `openings`; `size`, `floor`, `walls` and `ceiling` are those of its first room,
    in which the first camera stands.
    """

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
    rooms: tuple[Room, ...] = ()
    openings: tuple[Opening, ...] = ()
    holes: tuple[Hole, ...] = ()
    sky: str = ""
    texels: float = 64.0  # a metre, on floors and walls


def room_plan(plan: ScenePlan, index: int) -> ScenePlan:
    """Room `index` of a furnished scene as a scene of its own, its middle at the origin."""
    room = plan.rooms[index]
    x, y, _ = room.middle
    items = [
        dataclasses.replace(item, x=item.x - x, y=item.y - y)
        for item in plan.items
        if room.low[0] <= item.x <= room.high[0] and room.low[1] <= item.y <= room.high[1]
    ]
    return dataclasses.replace(
        plan,
        outdoor=not room.ceiling,
        size=room.size,
        floor=room.floor,
        walls=room.walls,
        ceiling=room.ceiling,
        decorations=tuple(d for d in plan.decorations if d.room == index),
        items=tuple(items),
        holes=tuple(holes_of(plan, index)),
        texels=40.0 if index else 56.0,
    )


def holes_of(plan: ScenePlan, index: int) -> list[Hole]:
    """Holes in the walls of room `index`, from both sides of every opening."""
    out = []
    for opening in plan.openings:
        for room, wall in ((opening.room, opening.wall), (opening.to, (opening.wall + 2) % 4)):
            if room == index:
                # Seen from inside, "right" is -y, +x, +y, -x on walls 0 to 3.
                centre = opening.along - plan.rooms[index].middle[1 - wall % 2]
                centre *= (-1, 1, 1, -1)[wall]
                half = opening.width / 2
                out.append(Hole(wall, centre - half, centre + half, opening.bottom, opening.top))
    return out


def free_boxes(plan: ScenePlan) -> list[tuple[list[float], list[float]]]:
    """Lower and upper corners of the space that the shell leaves free: rooms, and ways through their openings."""
    w, d, h = plan.size
    if not plan.rooms:
        return [([-w / 2, -d / 2, 0.0], [w / 2, d / 2, 4.0 if plan.outdoor else h])]
    boxes = [([*room.low, 0.0], [*room.high, room.height if room.ceiling else 4.0]) for room in plan.rooms]
    for opening in plan.openings:
        if opening.kind != "window":
            room, axis = plan.rooms[opening.room], opening.wall % 2
            edge = (room.high if opening.wall < 2 else room.low)[axis]
            low, high = [0.0, 0.0, 0.0], [0.0, 0.0, opening.top]
            low[axis], high[axis] = edge - 0.9, edge + 0.9
            low[1 - axis], high[1 - axis] = (
                opening.along - opening.width / 2,
                opening.along + opening.width / 2,
            )
            boxes.append((low, high))
    return boxes


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
    items = draw_items(rng, split, outdoor, size, eye, yaw)
    decorations = () if outdoor else _draw_decorations(rng, split, size)
    light = draw_light(rng, outdoor)
    prompt = describe(outdoor, floor, walls[0], fence, items, decorations)
    return ScenePlan(
        int(seed),
        split,
        outdoor,
        size,
        floor,
        walls,
        ceiling,
        fence,
        decorations,
        items,
        eye,
        yaw,
        pitch,
        light,
        prompt,
    )


def _draw_camera(
    rng: np.random.Generator, size: tuple[float, float, float]
) -> tuple[tuple[float, float, float], float, float]:
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


def choose_texture(
    rng: np.random.Generator, split: str, kinds: dict[str, float], photos: tuple[str, ...] = ()
) -> str:
    """A texture id of one of these kinds (with weights); photographed surfaces only in the train split."""
    names = list(kinds)
    kind = names[int(rng.choice(len(names), p=np.array(list(kinds.values())) / sum(kinds.values())))]
    use_photo, photo_index = rng.random() < 0.12, rng.random()
    ids = assets.texture_ids(kind, split)
    chosen = ids[int(rng.integers(len(ids)))]
    if use_photo and photos and split == "train":
        return f"photo:{photos[int(photo_index * len(photos))]}"
    return chosen


def _draw_surfaces(
    rng: np.random.Generator, split: str, outdoor: bool
) -> tuple[str, tuple[str, str, str, str], str, str]:
    if outdoor:
        floor = choose_texture(
            rng,
            split,
            {"grass": 4, "paving": 2, "gravel": 1, "dirt": 1, "concrete": 1},
            assets.PHOTO_SURFACES,
        )
        fence = ("fence", "hedge", "wall")[int(rng.integers(3))]
        kind = {"fence": "planks", "hedge": "hedge", "wall": "bricks"}[fence]
        border = choose_texture(rng, split, {kind: 1})
        return floor, (border,) * 4, "", fence
    floor = choose_texture(rng, split, {"planks": 4, "tiles": 3, "carpet": 2, "checks": 1.5, "concrete": 1})
    main = choose_texture(rng, split, {"plaster": 5, "stripes": 1.5, "bricks": 1.5, "concrete": 1})
    accent = choose_texture(rng, split, {"plaster": 2, "stripes": 1, "bricks": 1.5, "planks": 0.7})
    other = int(rng.integers(1, 4)) if rng.random() < 0.45 else 0
    second, third, fourth = (accent if other == i else main for i in (1, 2, 3))
    ceiling = choose_texture(rng, split, {"plaster": 1})
    return floor, (main, second, third, fourth), ceiling, ""


def _draw_decorations(
    rng: np.random.Generator, split: str, size: tuple[float, float, float]
) -> tuple[Decoration, ...]:
    """Panels on the walls that do not overlap: pictures, a window, a door."""
    wanted = (
        ["picture"] * int(rng.integers(1, 5))
        + ["window"] * int(rng.random() < 0.5)
        + ["door"] * int(rng.random() < 0.7)
    )
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
                photo = (
                    photos[int(rng.integers(len(photos)))] if kind == "picture" and rng.random() < 0.7 else ""
                )
                out.append(
                    Decoration(
                        kind,
                        wall,
                        float(along),
                        float(above),
                        float(width),
                        float(height),
                        int(rng.integers(1 << 30)),
                        photo,
                    )
                )
                break
    return tuple(out)


def draw_light(rng: np.random.Generator, outdoor: bool) -> Light:
    """A light from any side, 30 to 75 degrees high, warm or cool."""
    angle, height = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 1.3)
    x, y, z = math.cos(angle) * math.cos(height), math.sin(angle) * math.cos(height), math.sin(height)
    ambient, warm = float(rng.uniform(0.74, 0.9)), float(rng.uniform(-1, 1))
    warm_colour = (1.0, 1.0 - 0.03 * abs(warm), 1.0 - 0.1 * warm)
    cool_colour = (1.0 + 0.08 * warm, 1.0 + 0.02 * warm, 1.0)
    return Light((x, y, z), ambient, float(rng.uniform(0.24, 0.36)), warm_colour if warm > 0 else cool_colour)


# -- the prompt -------------------------------------------------------------------------------------------------


def tone_word(texture_id: str) -> str:
    """A plain colour word for a plain wall."""
    r, g, b = pick_colour(texture_rng(texture_id), PLASTERS)
    if max(r, g, b) - min(r, g, b) < 18:
        return "white" if (r + g + b) / 3 > 180 else "grey"
    if b >= max(r, g):
        return "pale blue"
    return "pale green" if g > r else ("beige" if g > b + 6 else "pale pink")


def surface_phrase(texture_id: str) -> str:
    """The adjective of a surface: "wooden", "brick", "white"..."""
    kind = {"photo:grass": "grass", "photo:gravel": "gravel"}.get(texture_id, texture_id.rsplit("-", 1)[0])
    return tone_word(texture_id) if kind == "plaster" else NAMES[kind]


def describe(
    outdoor: bool,
    floor: str,
    wall: str,
    fence: str,
    items: tuple[Item, ...],
    decorations: tuple[Decoration, ...],
    kind: str = "",
) -> str:
    """One sentence about the scene, for the model's prompt; `kind` names a furnished room."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.word] = counts.get(item.word, 0) + 1
    numbers = ("", "a", "two", "three", "four", "five", "six", "seven", "eight")
    things = []
    for word, count in counts.items():
        plural = {"box": "boxes", "bench": "benches", "shelf": "shelves", "flower box": "flower boxes"}.get(
            word, word + "s"
        )
        article = "an" if word[:1] in "aeiou" else "a"
        things.append(f"{article} {word}" if count == 1 else f"{numbers[min(count, 8)]} {plural}")
    for panel in ("door", "window"):
        if any(d.kind == panel for d in decorations):
            things.append(f"a {panel}")
    pictures = sum(d.kind == "picture" for d in decorations)
    if pictures:
        things.append("a picture" if pictures == 1 else "pictures")
    if outdoor:
        border = {"fence": "a wooden fence", "hedge": "a hedge", "wall": "a brick wall"}[fence]
        ground = surface_phrase(floor)
        start = f"a yard with {'grass' if ground == 'grass' else f'{ground} ground'} and {border}"
    else:
        start = f"a {kind or 'room'} with a {surface_phrase(floor)} floor and {surface_phrase(wall)} walls"
    if not things:
        return start
    listed = things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
    return f"{start}, with {listed}"
