"""What is carved, what is not written, and what is: against slow, obvious versions."""

import dataclasses
import math

import numpy as np
import torch

from rooms import room_view
from spatia_env.geometry import intrinsics_from_fov, invert_se3, look_at
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.map import Map
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.rendering import pixels_of, sample_at
from spatia_env.memory.visibility import MARGIN, seen_through, standing

HEIGHT, WIDTH = 18, 26
K = intrinsics_from_fov(70, HEIGHT, WIDTH)


def camera(x: float, y: float) -> torch.Tensor:
    return look_at(torch.tensor([x, y, 1.0]), torch.tensor([4.0, 0.0, 1.0]))


def picture(depth: torch.Tensor, c2w: torch.Tensor) -> Keyframe:
    return Keyframe(torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8), depth.half(), c2w, 0)


def slow(depth, new, c2w, keyframes):
    out = torch.zeros_like(new)
    for t, row, column in new.nonzero().tolist():
        z = float(depth[t, row, column])
        ray = torch.tensor([(column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1], 1.0])
        point = c2w[t, :3, :3] @ (ray * z) + c2w[t, :3, 3]
        for key in keyframes:
            x, y, far = (key.c2w[:3, :3].T @ (point - key.c2w[:3, 3])).tolist()
            if far <= 0:
                continue
            u, v = math.floor(K[0, 0] * x / far + K[0, 2]), math.floor(K[1, 1] * y / far + K[1, 2])
            if not (0 <= u < WIDTH and 0 <= v < HEIGHT):
                continue
            around = key.depth[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2].float()
            if float(around.max()) > far * 1.04 + MARGIN:
                out[t, row, column] = True
    return out


def test_the_fast_search_finds_what_a_slow_one_finds():
    generator = torch.Generator().manual_seed(0)
    depth = 1 + 3 * torch.rand(2, HEIGHT, WIDTH, generator=generator)
    new = torch.rand(2, HEIGHT, WIDTH, generator=generator) < 0.6
    c2w = torch.stack([camera(0, 0.3), camera(0.2, 0.5)])
    keyframes = [
        picture(4 * torch.rand(HEIGHT, WIDTH, generator=generator), camera(0, 0)),
        picture(torch.full((HEIGHT, WIDTH), 2.0), camera(-0.4, -0.2)),
    ]
    found = seen_through(depth, new, c2w, K, keyframes)
    agree = found == slow(depth, new, c2w, keyframes)
    assert float(agree.float().mean()) > 0.995, "rounding may move a point over the edge of a pixel"
    assert found.any() and not found[~new].any()


def test_a_thing_in_the_air_is_found_and_what_stands_behind_a_surface_is_not():
    earlier = picture(torch.full((HEIGHT, WIDTH), 4.0), camera(0, 0))
    c2w = camera(0, 0)[None]
    everything = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    assert seen_through(torch.full((1, HEIGHT, WIDTH), 3.0), everything, c2w, K, [earlier]).all()
    assert not seen_through(torch.full((1, HEIGHT, WIDTH), 3.9), everything, c2w, K, [earlier]).any()
    assert not seen_through(torch.full((1, HEIGHT, WIDTH), 6.0), everything, c2w, K, [earlier]).any()


def test_pictures_without_depth_and_no_pictures_say_nothing():
    c2w, near = camera(0, 0)[None], torch.full((1, HEIGHT, WIDTH), 1.0)
    everything = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    assert not seen_through(
        near, everything, c2w, K, [picture(torch.zeros(HEIGHT, WIDTH), camera(0, 0))]
    ).any()
    assert not seen_through(near, everything, c2w, K, []).any()


def test_of_many_pictures_those_that_look_there_are_asked():
    depth, everything = torch.full((1, HEIGHT, WIDTH), 1.0), torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    away = look_at(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([-4.0, 0.0, 1.0]))
    others = [picture(torch.full((HEIGHT, WIDTH), 4.0), away)] * 60
    facing = picture(torch.full((HEIGHT, WIDTH), 4.0), camera(0, 0))
    assert seen_through(depth, everything, camera(0, 0)[None], K, [*others, facing, *others]).all()


def test_images_are_read_where_points_fall():
    generator = torch.Generator().manual_seed(2)
    points = 6 * torch.rand(400, 3, generator=generator) - 1.5
    poses = torch.stack([camera(0, 0.3), camera(-1.0, -0.5)])
    images = torch.rand(2, HEIGHT, WIDTH, generator=generator)
    value, z, inside = sample_at(points, invert_se3(poses), K, images)
    for view, point in zip(*np.indices((2, 400)).reshape(2, -1).tolist(), strict=True):
        x, y, far = (poses[view, :3, :3].T @ (points[point] - poses[view, :3, 3])).tolist()
        column, row = (math.floor(K[i, i] * p / max(far, 1e-6) + K[i, 2]) for i, p in enumerate((x, y)))
        assert bool(inside[view, point]) == (far > 0 and 0 <= column < WIDTH and 0 <= row < HEIGHT)
        assert abs(float(z[view, point]) - far) < 1e-5
        if inside[view, point]:
            assert value[view, point] == images[view, row, column]
    row, column, depth, visible = pixels_of(points.numpy(), poses[1], K, HEIGHT, WIDTH)
    assert np.array_equal(visible, inside[1].numpy()) and np.allclose(depth, z[1].numpy(), atol=1e-5)
    assert np.array_equal(images[1].numpy()[row, column][visible], value[1].numpy()[visible])


# -- objects at rest --------------------------------------------------------------------------------------


H, W, T = 48, 64, 8
LENS = intrinsics_from_fov(60, H, W)
HERE = look_at(torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
PATH = HERE.expand(T, 4, 4)
RGB, DEPTH = (x[0] for x in room_view(HERE[None], LENS, H, W))


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
    memory, _ = SceneMemory().update(RGB[None], DEPTH[None], torch.ones(1, H, W), HERE[None], LENS, step=0)
    frame = (RGB.movedim(0, -1) * 255).round().to(torch.uint8)
    keyframe = Keyframe(frame, DEPTH.half(), HERE, 0)
    return Map(memory, (keyframe,), LENS, (H, W))


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
    assert standing(depth, known, PATH, LENS, [old, new], 2)[:, 20, 36].all()
    masked = dataclasses.replace(old, depth=torch.where(old.depth == 1.5, 0, old.depth))
    assert not standing(depth, known, PATH, LENS, [old, masked, new], 2).any()
    assert not standing(depth, known, PATH, LENS, [new], 2).any()
    assert not standing(depth, torch.zeros_like(depth), PATH, LENS, [old, new], 2).any()
