"""Puts a planned scene into the physics engine: floor, walls or fence, ceiling or sky, furniture."""

from __future__ import annotations

import functools

import numpy as np

from spatia_env.sim import assets, painting, rooms, shapes
from spatia_env.sim.engine import Engine
from spatia_env.sim.furniture import build_item
from spatia_env.sim.layout import ScenePlan
from spatia_env.sim.textures import draw_texture

OUTWARD = ((1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0))
SKY_RADIUS = 6.5
ITEM_TEXELS = 48  # along an item's texture of 1.2 m


def build_shell(engine: Engine, plan: ScenePlan) -> dict[int, str]:
    """Add what encloses the scene; returns body ids with their names."""
    if plan.rooms:
        return rooms.build_rooms(engine, plan)
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
            body = engine.add_part(part, (item.x, item.y, item.z), item.yaw, item.mass, texture)
            names[body] = item.word
            if item.mass:
                movable.append(body)
    return names | rooms.build_doors(engine, plan), movable


@functools.lru_cache(maxsize=256)
def item_texture(texture_id: str) -> np.ndarray:
    """The texture of furniture, uint8 [H, W, 3]: a model's own, or a surface of 1.2 m x 1.2 m."""
    if texture_id.startswith("model:"):
        return assets.load_furniture(texture_id[6:])[1]
    return np.clip(draw_texture(texture_id, 1.2, 1.2, ITEM_TEXELS / 1.2), 0, 255).astype(np.uint8)
