"""A thing that stops before known surface becomes map after two clips; one that goes on moving does not."""

import dataclasses

import torch
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.visibility import standing

from rooms import room_view
from spatia_env.geometry import intrinsics_from_fov, look_at
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.map import Map

H, W, T = 48, 64, 8
K = intrinsics_from_fov(60, H, W)
HERE = look_at(torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
PATH = HERE.expand(T, 4, 4)
RGB, DEPTH = (x[0] for x in room_view(HERE[None], K, H, W))


def clip(column: int, speed: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames u8 and depth of a red box before the wall that starts at `column`, `speed` columns a frame."""
    frames = (RGB.movedim(0, -1) * 255).round().to(torch.uint8).repeat(T, 1, 1, 1)
    depth = DEPTH.repeat(T, 1, 1)
    for i in range(T):
        at = round(column + speed * i)
        frames[i, 16:32, at : at + 12] = torch.tensor([255, 0, 0], dtype=torch.uint8)
        depth[i, 16:32, at : at + 12] = 1.5
    return frames, depth


def seen_map() -> Map:
    memory, _ = SceneMemory().update(RGB[None], DEPTH[None], torch.ones(1, H, W), HERE[None], K, step=0)
    frame = (RGB.movedim(0, -1) * 255).round().to(torch.uint8)
    keyframe = Keyframe(frame, DEPTH.half(), HERE, 0)
    return Map(memory, (keyframe,), K, (H, W))


def watch(scene: Map, frames: torch.Tensor, depth: torch.Tensor) -> tuple[Map, int]:
    """Take a clip into the map; and how many points of the box are in it then."""
    scene, _ = scene.integrate(frames, depth, torch.ones_like(depth), PATH, scene.render(PATH))
    position = scene.points.points()["position"]
    return scene, int((abs(position[:, 0] - 0.5) < 0.05).sum())


def test_a_thing_that_stops_becomes_map_after_it_has_stood_still_for_two_clips():
    scene = seen_map()
    scene, seen = watch(scene, *clip(10, speed=3))
    assert seen == 0  # it arrives
    scene, seen = watch(scene, *clip(31))
    assert seen == 0  # it stands still for eight views, then for eight more
    scene, seen = watch(scene, *clip(31))
    assert seen > 100  # and is believed
    view = scene.render(PATH)
    assert abs(float(view.depth[-1, 24, 36]) - 1.5) < 0.03


def test_what_goes_on_moving_never_does():
    scene = seen_map()
    for start, speed in ((2, 2.2), (20, 2.2), (38, 2.2), (20, -1.5)):
        scene, seen = watch(scene, *clip(start, speed=speed))
        assert seen == 0


def test_what_the_mask_keeps_out_does_not_count():
    _, depth = clip(31)
    known = DEPTH.expand(T, H, W)
    old, new = (
        Keyframe(torch.zeros(H, W, 3, dtype=torch.uint8), depth[0].half(), HERE, step) for step in (1, 2)
    )
    assert standing(depth, known, PATH, K, [old, new], 2)[:, 20, 36].all()
    masked = dataclasses.replace(old, depth=torch.where(old.depth == 1.5, 0, old.depth))
    assert not standing(depth, known, PATH, K, [old, masked, new], 2).any()
    assert not standing(depth, known, PATH, K, [new], 2).any()
    assert not standing(depth, torch.zeros_like(depth), PATH, K, [old, new], 2).any()
