"""What earlier pictures look through is empty; the fast search finds what a slow one finds."""

import math

import torch
from spatia_env.memory.visibility import MARGIN, seen_through

from spatia_env.geometry import intrinsics_from_fov, look_at
from spatia_env.memory.keyframes import Keyframe

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
