"""Draws the plan of a scene from its seed: sizes, surfaces, furniture, camera, light and the prompt.

Pure data: nothing here knows PyBullet. The world's origin is the middle of the floor, +Z is up, metres.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from spatia_env.sim import assets
from spatia_env.sim.items import Item, draw_items
from spatia_env.sim.prompts import describe


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
    items = draw_items(rng, split, outdoor, size, eye, yaw)
    decorations = () if outdoor else _draw_decorations(rng, split, size)
    light = _draw_light(rng, outdoor)
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


def _choose(
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
        floor = _choose(
            rng,
            split,
            {"grass": 4, "paving": 2, "gravel": 1, "dirt": 1, "concrete": 1},
            assets.PHOTO_SURFACES,
        )
        fence = ("fence", "hedge", "wall")[int(rng.integers(3))]
        kind = {"fence": "planks", "hedge": "hedge", "wall": "bricks"}[fence]
        border = _choose(rng, split, {kind: 1})
        return floor, (border,) * 4, "", fence
    floor = _choose(rng, split, {"planks": 4, "tiles": 3, "carpet": 2, "checks": 1.5, "concrete": 1})
    main = _choose(rng, split, {"plaster": 5, "stripes": 1.5, "bricks": 1.5, "concrete": 1})
    accent = _choose(rng, split, {"plaster": 2, "stripes": 1, "bricks": 1.5, "planks": 0.7})
    other = int(rng.integers(1, 4)) if rng.random() < 0.45 else 0
    second, third, fourth = (accent if other == i else main for i in (1, 2, 3))
    ceiling = _choose(rng, split, {"plaster": 1})
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


def _draw_light(rng: np.random.Generator, outdoor: bool) -> Light:
    angle, height = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 1.3)
    x, y, z = math.cos(angle) * math.cos(height), math.sin(angle) * math.cos(height), math.sin(height)
    ambient, warm = float(rng.uniform(0.74, 0.9)), float(rng.uniform(-1, 1))
    warm_colour = (1.0, 1.0 - 0.03 * abs(warm), 1.0 - 0.1 * warm)
    cool_colour = (1.0 + 0.08 * warm, 1.0 + 0.02 * warm, 1.0)
    return Light((x, y, z), ambient, float(rng.uniform(0.24, 0.36)), warm_colour if warm > 0 else cool_colour)
