"""Puts a planned scene into the physics engine: floor, walls or fence, ceiling or sky, openings, furniture."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from spatia_env.sim import assets, painting, shapes
from spatia_env.sim.engine import Engine
from spatia_env.sim.items import build_item
from spatia_env.sim.layout import Opening, Room, ScenePlan, room_plan
from spatia_env.sim.textures import draw_texture

OUTWARD = ((1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0))
SKY_RADIUS = 6.5
ITEM_TEXELS = 48  # along an item's texture of 1.2 m
WALL_YAW = (-np.pi / 2, 0.0, np.pi / 2, np.pi)  # turns +y outwards through wall 0 to 3
GAP = 0.12  # between the walls of two rooms, metres
DOME_RADIUS = 9.3
VIEW_RADIUS = 2.6  # metres from a window to what is seen through it
VIEW_LOW, VIEW_HIGH = -3.5, 7.5
FRAMES = ((0.82, 0.8, 0.76), (0.45, 0.34, 0.25), (0.6, 0.47, 0.34), (0.3, 0.3, 0.32))
HOUSE_HEIGHT = 3.1  # of the wall that a yard shares with a house, metres
SOIL = 0.015  # the floor of a house stands this much above its yard


def build_shell(engine: Engine, plan: ScenePlan) -> dict[int, str]:
    """Add what encloses the scene; returns body ids with their names."""
    if plan.rooms:
        return build_rooms(engine, plan)
    width, depth = painting.ground_size(plan)
    floor = shapes.quad((-width / 2, -depth / 2, 0), (width, 0, 0), (0, depth, 0), cells=4)
    solid = ("box", (0.0, 0.0, -0.5), (width / 2 + 1, depth / 2 + 1, 0.5))
    # The shell gives back every bounce in full: how much a body bounces is its own affair.
    names = {
        engine.add(
            floor, texture=engine.texture(painting.paint_floor(plan)), solids=(solid,), restitution=1.0
        ): "floor"
    }
    for side in range(4):
        names[_build_side(engine, plan, side)] = plan.fence if plan.outdoor else f"wall {side}"
    if plan.outdoor:
        dome = shapes.sky_dome(SKY_RADIUS, plan.light.direction)
        names[engine.add(dome, texture=engine.texture(painting.paint_sky(plan)))] = "sky"
        return names
    w, d, h = plan.size
    ceiling = shapes.quad((-w / 2, d / 2, h), (w, 0, 0), (0, -d, 0))
    solid = ("box", (0.0, 0.0, h + 0.5), (w / 2 + 1, d / 2 + 1, 0.5))
    texture = engine.texture(painting.paint_ceiling(plan))
    names[engine.add(ceiling, texture=texture, solids=(solid,), restitution=1.0)] = "ceiling"
    return names


def _build_side(engine: Engine, plan: ScenePlan, side: int) -> int:
    """Wall or fence `side` (0: +x, 1: +y, 2: -x, 3: -y), facing inwards; solid up to 5 m."""
    half, length = plan.size[side % 2] / 2, plan.size[1 - side % 2]
    outward = np.array(OUTWARD[side], dtype=float)
    right = np.cross(outward, [0, 0, 1])
    corner = outward * half - right * length / 2
    mesh = shapes.quad(corner, right * length, (0, 0, plan.size[2]))
    paint = painting.paint_fence if plan.outdoor else painting.paint_wall
    extent = np.abs(outward) * 0.5 + np.abs(right) * (length / 2 + 1) + np.array([0, 0, 2.5])
    solid = ("box", tuple(outward * (half + 0.5) + [0, 0, 2.5]), tuple(extent))
    return engine.add(mesh, texture=engine.texture(paint(plan, side)), solids=(solid,), restitution=1.0)


def build_items(engine: Engine, plan: ScenePlan) -> tuple[dict[int, str], list[int]]:
    """Add the furniture; returns body ids with their names, and the ids of those that can be moved."""
    names: dict[int, str] = {}
    movable = []
    for item in plan.items:
        if item.kind in ("rug", "path"):  # painted on the floor
            continue
        for part in build_item(item):
            texture = engine.texture(item_texture(part.texture)) if part.texture else -1
            place = (item.x, item.y, item.z)
            body = engine.add(part.mesh, place, item.yaw, texture, part.colour, part.solids, item.mass)
            names[body] = item.word
            if item.mass:
                movable.append(body)
    return names | build_doors(engine, plan), movable


@functools.lru_cache(maxsize=256)
def item_texture(texture_id: str) -> np.ndarray:
    """The texture of furniture, uint8 [H, W, 3]: a model's own, or a surface of 1.2 m x 1.2 m."""
    if texture_id.startswith("model:"):
        return assets.load_furniture(texture_id[6:])[1]
    return np.clip(draw_texture(texture_id, 1.2, 1.2, ITEM_TEXELS / 1.2), 0, 255).astype(np.uint8)


# -- furnished scenes -------------------------------------------------------------------------------------------


def build_rooms(engine: Engine, plan: ScenePlan) -> dict[int, str]:
    """Add floors, walls, ceilings, frames and views; returns body ids with their names."""
    names: dict[int, str] = {}
    house = next((o.wall for o in plan.openings if o.bottom == 0), 0) if plan.outdoor else -1
    for index, room in enumerate(plan.rooms):
        names |= _build_room(engine, plan, index, room)
    if house >= 0:
        names[_build_roof(engine, plan, house)] = "wall roof"
    for opening in plan.openings:
        if opening.kind != "open":
            names[_build_frame(engine, plan, opening)] = "wall frame"
    for wall in range(4):
        windows = [o for o in plan.openings if o.kind == "window" and o.wall == wall]
        if windows:
            names[_build_view(engine, plan, windows)] = "sky outside"
        for window in windows:
            names |= _build_curtains(engine, plan, window)
    if plan.outdoor:
        dome = shapes.sky_dome(DOME_RADIUS, plan.light.direction)
        names[engine.add(dome, texture=engine.texture(painting.paint_sky(plan)))] = "sky"
    return names


def _build_room(engine: Engine, plan: ScenePlan, index: int, room: Room) -> dict[int, str]:
    own, middle = room_plan(plan, index), room.middle
    suffix = "" if index == 0 else f" of {room.kind} {index}"
    width, depth = painting.ground_size(own)
    level = np.array([0, 0, SOIL if index and plan.outdoor else 0.0])
    floor = shapes.quad(middle + level - [width / 2, depth / 2, 0], (width, 0, 0), (0, depth, 0), cells=4)
    solid = ("box", tuple(middle - [0, 0, 0.5]), (width / 2, depth / 2, 0.5))
    texture = engine.texture(painting.paint_floor(own))
    names = {engine.add(floor, texture=texture, solids=(solid,), restitution=1.0): f"floor{suffix}"}
    for side in range(4):
        if room.walls[side]:
            body = _build_inner_wall(engine, own, middle, side)
            if body is not None:
                names[body] = f"wall {side}{suffix}" if room.ceiling else plan.fence
    if room.ceiling:
        w, d, h = room.size
        ceiling = shapes.quad(middle + [-w / 2, d / 2, h], (w, 0, 0), (0, -d, 0))
        solid = ("box", tuple(middle + [0, 0, h + 0.5]), (w / 2, d / 2, 0.5))
        texture = engine.texture(painting.paint_ceiling(own))
        names[engine.add(ceiling, texture=texture, solids=(solid,), restitution=1.0)] = f"ceiling{suffix}"
    return names


def _build_inner_wall(engine: Engine, own: ScenePlan, middle: np.ndarray, side: int) -> int | None:
    """Wall `side` of a room, without its holes; that of a house is higher than a yard's fence."""
    house = own.outdoor and any(hole.wall == side for hole in own.holes)
    if house:
        own = dataclasses.replace(own, size=(*own.size[:2], HOUSE_HEIGHT))
    half, length, height = own.size[side % 2] / 2, own.size[1 - side % 2], own.size[2]
    outward = np.array(OUTWARD[side], dtype=float)
    right = np.cross(outward, [0, 0, 1])
    corner = middle + outward * half - right * length / 2
    holes = [
        (h.left / length + 0.5, h.right / length + 0.5, h.bottom / height, h.top / height)
        for h in own.holes
        if h.wall == side
    ]
    mesh = shapes.pierced(corner, right * length, (0, 0, height), holes)
    if mesh is None:
        return None
    paint = painting.paint_wall if house or not own.outdoor else painting.paint_fence
    texture = engine.texture(paint(own, side))
    solids = _wall_solids(corner, right, outward, length, 5.0 if own.outdoor else height, holes, height)
    return engine.add(mesh, texture=texture, solids=solids, restitution=1.0)


def _wall_solids(
    corner: np.ndarray,
    right: np.ndarray,
    outward: np.ndarray,
    length: float,
    top: float,
    holes: list[tuple[float, float, float, float]],
    height: float,
) -> tuple[tuple, ...]:
    """Boxes behind a wall, none in its holes; up to `top` metres."""
    edges = sorted({0.0, 1.0, *(min(max(x, 0.0), 1.0) for h in holes for x in h[:2])})
    out = []
    for left, end in itertools.pairwise(edges):
        inside = [h for h in holes if h[0] < (left + end) / 2 < h[1]]
        bands = [(0.0, top)] if not inside else [(0.0, inside[0][2] * height), (inside[0][3] * height, top)]
        for low, high in bands:
            if high - low > 1e-6 and end - left > 1e-9:
                centre = corner + right * length * (left + end) / 2 + outward * GAP / 4
                extent = np.abs(right) * length * (end - left) / 2 + np.abs(outward) * GAP / 4
                out.append(("box", (*centre[:2], (low + high) / 2), (*extent[:2], (high - low) / 2)))
    return tuple(out)


def _build_roof(engine: Engine, plan: ScenePlan, side: int) -> int:
    """A slope that starts in front of a house's wall and rises behind it."""
    outward = np.array(OUTWARD[side], dtype=float)
    right = np.cross(outward, [0, 0, 1])
    length = plan.size[1 - side % 2] + 0.4
    eaves = outward * (plan.size[side % 2] / 2 - 0.35) - right * length / 2 + [0, 0, HOUSE_HEIGHT - 0.12]
    slope = shapes.quad(eaves, right * length, outward * 3.2 + np.array([0, 0, 1.7]), cells=3)
    board = shapes.quad(eaves - [0, 0, 0.12], right * length, (0, 0, 0.12), cells=2)
    under = shapes.quad(eaves - [0, 0, 0.12] + outward * 0.35, right * length, -outward * 0.35, cells=2)
    return engine.add(shapes.join(slope, board, under), colour=(0.52, 0.36, 0.3))


def _place(plan: ScenePlan, opening: Opening) -> tuple[np.ndarray, float]:
    """Origin on the floor in the wall's plane below the middle of an opening, and the yaw that turns +y outwards."""
    room = plan.rooms[opening.room]
    axis, sign = opening.wall % 2, 1 if opening.wall < 2 else -1
    place = np.zeros(3)
    place[axis] = (room.high if sign > 0 else room.low)[axis]
    place[1 - axis] = opening.along
    return place, WALL_YAW[opening.wall]


def _build_frame(engine: Engine, plan: ScenePlan, opening: Opening) -> int:
    """Jambs and head of a door or arch with its threshold, or a window with its bars."""
    rng = np.random.default_rng([17, opening.seed])
    place, yaw = _place(plan, opening)
    half, low, top = opening.width / 2, opening.bottom, opening.top
    band, lip = (0.09, 0.02) if opening.kind == "door" else (0.06, 0.015)
    deep, middle = GAP + 2 * lip, GAP / 2
    boxes = [
        shapes.box(
            (sign * (half + band / 2 - 0.01), middle, (low + top + band) / 2), (band, deep, top + band - low)
        )
        for sign in (-1, 1)
    ]
    boxes.append(shapes.box((0, middle, top + band / 2 - 0.01), (2 * half, deep, band)))
    if opening.kind == "window":
        boxes.append(shapes.box((0, middle - 0.05, low - 0.02), (2 * half + 2 * band, deep + 0.1, 0.05)))
        boxes.append(shapes.box((0, GAP * 0.7, (low + top) / 2), (0.05, 0.04, top - low)))
        if opening.width > 1.2 or rng.random() < 0.5:
            bar = low + (top - low) * 0.68
            boxes.append(shapes.box((0, GAP * 0.7, bar), (2 * half, 0.04, 0.05)))
    else:
        boxes.append(shapes.quad((-half, -0.01, 0.004), (2 * half, 0, 0), (0, GAP + 0.02, 0), cells=1))
    colour = FRAMES[int(rng.integers(len(FRAMES)))] if opening.kind != "window" else FRAMES[0]
    return engine.add(shapes.join(*boxes), tuple(place), yaw, colour=colour)


def build_doors(engine: Engine, plan: ScenePlan) -> dict[int, str]:
    """Add the open leaves of doors; returns body ids with their names."""
    names = {}
    for opening in plan.openings:
        if opening.kind == "door":
            names[_build_leaf(engine, plan, opening)] = "door"
    return names


def _build_leaf(engine: Engine, plan: ScenePlan, opening: Opening) -> int:
    rng = np.random.default_rng([19, opening.seed])
    place, yaw = _place(plan, opening)
    width, height, thick = opening.width - 0.03, opening.top - 0.02, 0.04
    front = shapes.quad((0, -thick / 2, 0), (width, 0, 0), (0, 0, height), cells=2)
    back = shapes.quad((width, thick / 2, 0), (-width, 0, 0), (0, 0, height), cells=2)
    edges = shapes.box((width / 2, 0, height / 2), (width - 0.001, thick - 0.002, height - 0.001))
    mesh = shapes.join(front, back, dataclasses.replace(edges, uvs=edges.uvs * 0.02))
    left = bool(rng.random() < 0.5)
    angle = np.radians(rng.uniform(84, 112))
    turn = angle if left else np.pi - angle
    c, s = np.cos(yaw), np.sin(yaw)
    hinge = np.array([-opening.width / 2 + 0.02 if left else opening.width / 2 - 0.02, GAP + 0.02])
    position = (place[0] + c * hinge[0] - s * hinge[1], place[1] + s * hinge[0] + c * hinge[1], 0.012)
    texture = engine.texture(painting.paint_door(opening.seed))
    solid = ("box", (width / 2, 0.0, height / 2), (width / 2, thick / 2, height / 2))
    return engine.add(mesh, position, yaw + turn, texture, solids=(solid,))


def _build_view(engine: Engine, plan: ScenePlan, windows: list[Opening]) -> int:
    """What is seen through the windows of one wall: half a cylinder behind it."""
    along = (windows[0].along + windows[-1].along) / 2
    spread = abs(windows[-1].along - windows[0].along) / 2 + windows[0].width / 2
    place, yaw = _place(plan, dataclasses.replace(windows[0], along=along))
    c, s = np.cos(-yaw), np.sin(-yaw)
    x, y, z = plan.light.direction
    drum = shapes.drum(VIEW_RADIUS + spread, VIEW_LOW, VIEW_HIGH, (c * x - s * y, s * x + c * y, z))
    picture = painting.paint_view(windows[0].view, windows[0].seed, VIEW_RADIUS + spread, VIEW_LOW, VIEW_HIGH)
    place = place + GAP * np.array(OUTWARD[windows[0].wall])
    return engine.add(drum, tuple(place), yaw, engine.texture(picture))


def _build_curtains(engine: Engine, plan: ScenePlan, window: Opening) -> dict[int, str]:
    rng = np.random.default_rng([23, window.seed])
    if rng.random() < 0.45:
        return {}
    kind = ("carpet", "stripes", "plaster", "carpet")[int(rng.integers(4))]
    ids = assets.texture_ids(kind, plan.split)
    picture = draw_texture(ids[int(rng.integers(len(ids)))], 1.2, 0.8, 40.0)
    texture = engine.texture(np.clip(picture * rng.uniform(0.95, 1.25), 0, 245).astype(np.uint8))
    width = window.width * rng.uniform(0.22, 0.36)
    bottom = 0.05 if rng.random() < 0.4 else window.bottom - 0.2
    place, yaw = _place(plan, window)
    c, s = np.cos(yaw), np.sin(yaw)
    names = {}
    for sign in (-1, 1):
        x, y = sign * (window.width / 2 + 0.02 - width * 0.2), -0.09
        at = (place[0] + c * x - s * y, place[1] + s * x + c * y, bottom)
        names[engine.add(shapes.curtain(width, window.top + 0.12 - bottom), at, yaw, texture)] = "curtain"
    return names
