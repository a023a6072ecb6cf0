"""Paints whole surfaces: texture, pictures and doors, soft shadows in corners and under furniture, the sky.

Light that does not move is painted in, as in a light map: the renderer's own shadows would darken every room
under its ceiling. Moving bodies therefore cast no shadow, and a static render of the scene without them
differs from the true frame at their own pixels only.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from spatia_env.sim.assets import load_panorama, load_photo
from spatia_env.sim.items import Item
from spatia_env.sim.layout import Decoration, ScenePlan
from spatia_env.sim.textures import draw_texture, metre_grid, smooth_noise


def paint_floor(plan: ScenePlan) -> np.ndarray:
    """The floor as uint8 [H, W, 3], row 0 at +y, column 0 at -x; a yard's ground reaches to the sky."""
    width, depth = ground_size(plan)
    scale = plan.texels if not plan.outdoor else 28.0 if plan.rooms else 40.0
    colours = draw_texture(plan.floor, depth, width, scale)
    rows, columns = colours.shape[:2]
    x = (np.arange(columns) + 0.5) * width / columns - width / 2
    y = depth / 2 - (np.arange(rows) + 0.5) * depth / rows
    x, y = np.meshgrid(x, y)
    for item in plan.items:
        if item.kind in ("rug", "path"):
            _lay(colours, item, x, y)
    shade = np.ones_like(x)
    to_wall = wall_distance(plan, x, y)
    shade *= 1 - 0.28 * np.exp(-np.maximum(to_wall, 0) / 0.22)
    for item in plan.items:
        if item.z < 0.2 and item.kind not in ("rug", "path"):
            shade *= _item_shadow(item, plan, x, y)
    return _finish(colours * shade[..., None])


def ground_size(plan: ScenePlan) -> tuple[float, float]:
    """Extent of the floor along x and y."""
    if plan.outdoor:
        return (18.8, 18.8) if plan.rooms else (13.2, 13.2)
    return (plan.size[0], plan.size[1])


def wall_distance(plan: ScenePlan, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Metres to the nearest wall of places on the floor; holes that reach the floor are no wall."""
    out = np.full(x.shape, np.inf)
    for wall in range(4):
        across = plan.size[wall % 2] / 2 - (x, y, -x, -y)[wall]
        gaps = sorted((h.left, h.right) for h in plan.holes if h.wall == wall and h.bottom == 0)
        if not gaps:
            out = np.minimum(out, across)
            continue
        along = (-y, x, y, -x)[wall]
        half, start = plan.size[1 - wall % 2] / 2, -plan.size[1 - wall % 2] / 2
        for left, right in [*gaps, (half, half)]:
            if left - start > 0.01:
                aside = np.maximum(np.maximum(start - along, along - left), 0)
                out = np.minimum(out, np.hypot(across, aside))
            start = right
    return out


def _lay(colours: np.ndarray, item: Item, x: np.ndarray, y: np.ndarray) -> None:
    """Paint a rug, with a border, or a path into a picture of the floor, in place."""
    c, s = math.cos(item.yaw), math.sin(item.yaw)
    u, v = c * (x - item.x) + s * (y - item.y), -s * (x - item.x) + c * (y - item.y)
    width, depth, _ = item.size
    inside = (np.abs(u) < width / 2) & (np.abs(v) < depth / 2)
    texture = draw_texture(item.texture, depth, width, 56.0)
    rows = ((depth / 2 - v[inside]) / depth * texture.shape[0]).astype(int).clip(0, texture.shape[0] - 1)
    columns = ((u[inside] + width / 2) / width * texture.shape[1]).astype(int).clip(0, texture.shape[1] - 1)
    picture = texture[rows, columns]
    if item.kind == "rug":
        edge = np.minimum(width / 2 - np.abs(u[inside]), depth / 2 - np.abs(v[inside]))
        border = ((edge < 0.14) & (edge > 0.05))[:, None]
        picture = np.where(border, np.array(item.colour) * 215, picture)
    colours[inside] = picture


def _item_shadow(item: Item, plan: ScenePlan, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Soft darkness around the foot of an item, leaning away from the light."""
    lean = -np.array(plan.light.direction[:2]) * min(0.16 * item.size[2], 0.2)
    c, s = math.cos(item.yaw), math.sin(item.yaw)
    dx, dy = x - item.x - lean[0], y - item.y - lean[1]
    u, v = np.abs(c * dx + s * dy), np.abs(-s * dx + c * dy)
    if item.kind in ("barrel", "ball", "plant", "tree", "blob", "boulder", "mesh"):
        foot = item.size[0] * {"tree": 0.35, "ball": 0.3, "plant": 0.3}.get(item.kind, 0.42)
        distance = np.maximum(np.hypot(u, v) - foot, 0)
    else:
        distance = np.hypot(np.maximum(u - item.size[0] / 2, 0), np.maximum(v - item.size[1] / 2, 0))
    strength = 0.22 if item.mass else 0.38  # light things can be pushed off their painted shadow
    return 1 - strength * np.exp(-distance / 0.12)


def paint_wall(plan: ScenePlan, wall: int) -> np.ndarray:
    """Wall `wall` (0: +x, 1: +y, 2: -x, 3: -y) seen from inside, as uint8 [H, W, 3], row 0 at the top."""
    width, height = plan.size[1 if wall % 2 == 0 else 0], plan.size[2]
    colours = draw_texture(plan.walls[wall], height, width, plan.texels)
    y, x = metre_grid(height, width, plan.texels)
    skirting = np.clip((y - (height - 0.1)) / 0.02, 0, 1)[..., None]
    colours = colours * (1 - skirting) + colours.mean((0, 1)) * 0.62 * skirting
    corner = np.minimum(np.minimum(x, width - x), height - y)
    shade = (1 - 0.2 * np.exp(-corner / 0.25)) * (1 - 0.1 * np.exp(-y / 0.3)) * (1.03 - 0.1 * y / height)
    colours = colours * shade[..., None]
    for decoration in plan.decorations:
        if decoration.wall == wall:
            _hang(colours, decoration, width, height)
    return _finish(colours)


def _hang(colours: np.ndarray, decoration: Decoration, width: float, height: float) -> None:
    """Paint a panel into a wall picture, in place."""
    rows, columns = colours.shape[:2]
    left = round((decoration.along + width / 2 - decoration.width / 2) / width * columns)
    top = round((height - decoration.above - decoration.height / 2) / height * rows)
    panel_columns = round(decoration.width / width * columns)
    panel_rows = min(round(decoration.height / height * rows), rows - max(top, 0))
    top, left = max(top, 0), max(left, 0)
    panel = _panel(decoration, panel_rows, panel_columns)
    target = colours[top : top + panel_rows, left : left + panel_columns]
    target[:] = panel[: target.shape[0], : target.shape[1]]


def _panel(decoration: Decoration, rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(decoration.seed)
    if decoration.kind == "door":
        return _door(rng, rows, columns)
    if decoration.kind == "window":
        return _window(rng, rows, columns, decoration.photo)
    frame = np.array(
        ((74, 60, 50), (200, 196, 188), (60, 62, 68), (150, 124, 84))[rng.integers(4)], np.float32
    )
    panel = np.tile(frame, (rows, columns, 1))
    border = max(3, round(0.05 * 64))
    inner = (columns - 2 * border, rows - 2 * border)
    picture = _photo_crop(rng, decoration.photo, inner) if decoration.photo else _abstract(rng, *inner)
    # Slightly muted, so that the saturated bodies of events stand out against every picture.
    grey = picture.mean(-1, keepdims=True)
    panel[border:-border, border:-border] = grey + 0.75 * (picture - grey)
    return panel


def _photo_crop(rng: np.random.Generator, name: str, size: tuple[int, int]) -> np.ndarray:
    photo = load_photo(name) if not name.startswith("panorama:") else _horizon(name[9:])
    aspect = size[0] / size[1]
    share = rng.uniform(0.6, 1.0)
    height = int(min(photo.shape[0], photo.shape[1] / aspect) * share)
    width = int(height * aspect)
    top = int(rng.integers(photo.shape[0] - height + 1))
    left = int(rng.integers(photo.shape[1] - width + 1))
    crop = Image.fromarray(photo[top : top + height, left : left + width])
    return np.asarray(crop.resize(size, Image.Resampling.BOX), dtype=np.float32)


def _horizon(name: str) -> np.ndarray:
    """The middle of a panorama, 30 degrees up and down, where it is nearly a picture."""
    picture = load_panorama(name)
    rows = picture.shape[0]
    return picture[rows // 3 : 2 * rows // 3]


def _abstract(rng: np.random.Generator, columns: int, rows: int) -> np.ndarray:
    """A painting of a few soft colour fields."""
    first, second, third = rng.uniform(60, 210, (3, 3)).astype(np.float32)
    a = np.clip(0.5 + smooth_noise(rng, rows, columns, 3, 3), 0, 1)[..., None]
    b = np.clip(0.5 + 2 * smooth_noise(rng, rows, columns, 2, 4), 0, 1)[..., None]
    return (first * a + second * (1 - a)) * b + third * (1 - b)


def _door(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    colour = np.array(
        ((150, 116, 84), (188, 184, 176), (110, 120, 130), (128, 92, 70))[rng.integers(4)], np.float32
    )
    panel = np.tile(colour, (rows, columns, 1))
    edge = max(3, round(0.06 * columns))
    for region in (np.s_[:edge], np.s_[:, :edge], np.s_[:, -edge:]):
        panel[region] = colour * 0.72
    for low, high in ((0.1, 0.45), (0.53, 0.92)):
        inset = panel[round(low * rows) : round(high * rows), round(0.2 * columns) : round(0.8 * columns)]
        inset[:] = colour * 0.88
    knob = round(0.5 * rows), round(0.86 * columns)
    panel[knob[0] - 2 : knob[0] + 3, knob[1] - 2 : knob[1] + 3] = (60, 56, 50)
    return panel


def _window(rng: np.random.Generator, rows: int, columns: int, view: str = "") -> np.ndarray:
    """A bright view of sky and hills, or of a panorama, behind a frame with a cross; "dark" as seen from outside."""
    y = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    sky = (
        np.array((176, 202, 222), np.float32) * (1 - y[..., None])
        + np.array((214, 222, 224), np.float32) * y[..., None]
    )
    hill = 0.68 + 0.12 * smooth_noise(rng, 4, columns, 2, 4)[0]
    far = np.clip((y - hill) * rows / 2, 0, 1)[..., None]
    panel = sky * (1 - far) + np.array((128, 146, 112), np.float32) * far
    if view == "dark":
        panel = panel * 0.35 + 24 * y[..., None]
    elif view:
        panel = _photo_crop(rng, view, (columns, rows))
    edge, bar = 4, 2
    for region in (
        np.s_[:edge],
        np.s_[-edge:],
        np.s_[:, :edge],
        np.s_[:, -edge:],
        np.s_[rows // 2 - bar : rows // 2 + bar],
        np.s_[:, columns // 2 - bar : columns // 2 + bar],
    ):
        panel[region] = (216, 212, 204)
    return panel


def paint_ceiling(plan: ScenePlan) -> np.ndarray:
    """The ceiling as uint8 [H, W, 3]: pale, a little darker towards the walls, with a lamp's glow."""
    colours = draw_texture(plan.ceiling, plan.size[1], plan.size[0], 24.0)
    y, x = metre_grid(plan.size[1], plan.size[0], 24.0)
    edge = np.minimum(np.minimum(x, plan.size[0] - x), np.minimum(y, plan.size[1] - y))
    for hole in plan.holes:
        if hole.top >= plan.size[2]:  # the ceiling goes on here
            edge = np.full_like(edge, 1.0)
    shade = 1.12 - 0.2 * np.exp(-edge / 0.4)
    glow = np.hypot(x - plan.size[0] / 2, y - plan.size[1] / 2)
    return _finish((0.45 * colours + 0.55 * 205) * (shade + 0.12 * np.exp(-((glow / 0.7) ** 2)))[..., None])


def paint_fence(plan: ScenePlan, side: int) -> np.ndarray:
    """The border of a yard along side `side`, seen from inside, as uint8 [H, W, 3]."""
    width, height = plan.size[1 if side % 2 == 0 else 0], plan.size[2]
    if plan.fence == "fence":  # boards stand upright: paint them lying and turn them
        colours = draw_texture(plan.walls[side], width, height, 48.0).swapaxes(0, 1)
    else:
        colours = draw_texture(plan.walls[side], height, width, 48.0)
    shade = 0.82 + 0.2 * np.linspace(1, 0, colours.shape[0])[:, None, None]
    return _finish(colours * shade)


def paint_sky(plan: ScenePlan) -> np.ndarray:
    """The sky all around as uint8 [H, W, 3]: gradient, soft clouds, hills at the horizon; or that of a panorama."""
    rng = np.random.default_rng([11, plan.seed])
    if plan.sky:
        return _finish(_sky_of(rng, plan.sky))
    return _finish(draw_sky(rng))


def _sky_of(rng: np.random.Generator, name: str) -> np.ndarray:
    """A panorama down to 2 degrees below its horizon, turned, as bright as a day."""
    picture = load_panorama(name)[: round(92 / 180 * load_panorama(name).shape[0])].astype(np.float32)
    return np.roll(picture, int(rng.integers(picture.shape[1])), axis=1) * _daylight(picture)


def _daylight(picture: np.ndarray) -> float:
    return float(np.clip(165 / max(picture.mean(), 1), 0.9, 1.35))


def paint_view(name: str, seed: int, radius: float, low: float, high: float, eye: float = 1.5) -> np.ndarray:
    """What lies outside of a window, uint8 [H, W, 3], for half a cylinder from `low` to `high` metres.

    Args:
        name: a panorama; "" for a painted sky over a plain.
        seed: draws the direction and the painted sky.
        radius: of the cylinder, metres.
        low: its lower end above the floor.
        high: its upper end.
        eye: height from which the panorama was seen.
    """
    rng = np.random.default_rng([13, seed])
    if name:
        whole = load_panorama(name).astype(np.float32) * _daylight(load_panorama(name)[:192])
    else:
        sky = draw_sky(rng)[: 192 * 90 // 92]
        green = np.array(((112, 128, 92), (138, 132, 112), (120, 122, 118))[rng.integers(3)], np.float32)
        ground = green * (0.8 + 0.3 * np.linspace(1, 0, len(sky), dtype=np.float32)[:, None, None])
        whole = np.concatenate([sky, np.broadcast_to(ground, sky.shape)])
    rows = np.linspace(high, low, 256)
    elevation = np.degrees(np.arctan2(rows - eye, radius))
    index = np.clip((90 - elevation) / 180 * whole.shape[0], 0, whole.shape[0] - 1).astype(int)
    columns = (np.arange(384) * whole.shape[1] // 768 + rng.integers(whole.shape[1])) % whole.shape[1]
    return _finish(whole[np.ix_(index, columns)] * 0.85 + 32)


def draw_sky(rng: np.random.Generator) -> np.ndarray:
    """A painted sky float32 [192, 768, 3] from the zenith to 2 degrees below the horizon."""
    rows, columns = 192, 768
    up = np.linspace(92, -2, rows, dtype=np.float32)[:, None, None] / 92
    tops, lows = (
        ((112, 150, 196), (140, 164, 190), (122, 158, 188)),
        ((206, 216, 222), (216, 212, 204), (196, 210, 220)),
    )
    top, low = np.array(tops[rng.integers(3)], np.float32), np.array(lows[rng.integers(3)], np.float32)
    mix = np.clip(up, 0, 1) ** 0.6
    sky = top * mix + low * (1 - mix)
    cloud = smooth_noise(rng, rows, columns, 7, 14) + 0.5 * smooth_noise(rng, rows, columns, 14, 30)
    cloud[:, -64:] = _blend_seam(cloud)
    amount = np.clip(cloud - rng.uniform(-0.1, 0.5), 0, 0.8)[..., None] * np.clip(up * 4, 0, 1)
    sky = sky * (1 - amount) + 232 * amount
    ridge = smooth_noise(rng, 4, columns, 2, 20)[0] + 0.3 * smooth_noise(rng, 4, columns, 2, 60)[0]
    ridge[-64:] = _blend_seam(ridge[None])[0]
    height = 5.0 + 4.0 * ridge
    degrees = np.linspace(92, -2, rows, dtype=np.float32)[:, None]
    hills = np.clip((height[None, :] - degrees) * 0.7, 0, 1)[..., None]
    green = np.array(((112, 132, 104), (124, 134, 120), (104, 122, 112))[rng.integers(3)], np.float32)
    return sky * (1 - hills) + green * hills


def _blend_seam(values: np.ndarray, width: int = 64) -> np.ndarray:
    """The last columns, bent towards the first so that the ring closes."""
    share = np.linspace(0, 1, width, dtype=np.float32)
    return values[:, -width:] * (1 - share) + values[:, :width][:, ::-1] * share


def _finish(colours: np.ndarray) -> np.ndarray:
    return np.clip(colours + 0.5, 0, 255).astype(np.uint8)


def paint_door(seed: int) -> np.ndarray:
    """A door's leaf as uint8 [H, W, 3]."""
    return _finish(_door(np.random.default_rng([29, seed]), 132, 56))
