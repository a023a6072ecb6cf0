"""A whole world of the analytic room, without a model or a simulator."""

from functools import cache

import torch

from maps import HEIGHT, WIDTH, K, keyframes_of, room_map, view_at
from rooms import room_view
from spatia_env.events.log import LedgerRow
from spatia_env.memory.map import Map
from spatia_env.world.state import WorldState
from spatia_env.world.world import World


@cache
def _state() -> WorldState:
    pose = view_at(0.0)
    rgb, depth = room_view(pose[None], K, HEIGHT, WIDTH)
    frame = (rgb[0].movedim(0, -1) * 255).round().to(torch.uint8)
    state = {
        "map": Map(room_map(3), tuple(keyframes_of([0.0, 0.3, 1.2, 3.0])), K, (HEIGHT, WIDTH), step=3),
        "c2w": pose, "start_c2w": pose, "prompt": "a room", "depth": depth[0],
        "preceding_frames": frame.expand(4, -1, -1, -1).clone(), "seed": 7, "ground": -1.4,
        "conditions": (("night", "at night"),), "ledger": (LedgerRow(1, "night falls", "night", "condition"),),
    }  # fmt: skip
    return WorldState(**state)


def room_world() -> World:
    """A world that has seen the room in three clips and looks along +X; its state is immutable, so it is shared."""
    return World(_state())
