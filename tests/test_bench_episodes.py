"""Episodes of the benchmark: deterministic paths through free space, and exact masks of what was seen."""

import numpy as np
import pytest
import torch

from rooms import room_view
from spatia_env.bench import episodes
from spatia_env.geometry import intrinsics_from_fov, invert_se3, look_at, path_from_twist
from spatia_env.sim.scenes import SimScene

SCENE = 10001
SIZE = (48, 64)


@pytest.fixture(scope="module")
def walk():
    return episodes.record(SCENE, "walk", SIZE)


@pytest.fixture(scope="module")
def loop():
    return episodes.record(SCENE, "loop", SIZE)


def test_an_episode_is_decided_by_its_seed(walk):
    again = episodes.record(SCENE, "walk", SIZE)
    for name in ("frames", "depth", "c2w", "observed", "seen_before"):
        assert np.array_equal(getattr(walk, name), getattr(again, name)), name
    other = episodes.record(SCENE + 1, "walk", SIZE)
    assert not np.array_equal(walk.c2w, other.c2w)


def test_shapes_and_clips(walk):
    assert walk.frames.shape == (33, *SIZE, 3)
    assert walk.clips == 4
    assert [walk.clip(i) for i in (0, 3)] == [slice(1, 9), slice(25, 33)]
    assert walk.size == SIZE


@pytest.mark.parametrize("scene", [10000, 10005, 10011])
@pytest.mark.parametrize("maker", [episodes.walk_path, episodes.loop_path])
def test_paths_move_through_free_space_within_what_a_step_allows(scene, maker):
    with SimScene(scene) as simulated:
        path = maker(simulated, np.random.default_rng(scene), 4)
        ends = path[4::4, :3, 3].numpy()
        assert all(simulated.is_free(centre, episodes.CLEARANCE) for centre in ends)
    starts, ends = path[:-8:8], path[8::8]
    relative = invert_se3(starts) @ ends
    assert (relative[:, :3, 3].abs() <= 0.5).all()
    angle = torch.rad2deg(
        torch.arccos(((relative[:, 0, 0] + relative[:, 1, 1] + relative[:, 2, 2] - 1) / 2).clamp(-1, 1))
    )
    assert (angle <= 30).all()
    assert (relative - torch.eye(4)).abs().amax((1, 2)).min() > 0.01


def test_a_loop_returns_over_the_same_poses_and_leaves_the_view(loop):
    assert np.array_equal(loop.c2w[-1], loop.c2w[0])
    assert np.array_equal(loop.c2w, loop.c2w[::-1])
    assert loop.observed[16].mean() < 0.8
    assert np.array_equal(loop.frames[-1], loop.frames[0])


def test_a_zero_episode_walks_and_then_rests():
    truth = episodes.record(SCENE, "zero", (32, 48), 4)
    assert not np.array_equal(truth.c2w[16], truth.c2w[0])
    assert (truth.c2w[16:] == truth.c2w[16]).all()


def test_unknown_kinds_and_odd_loops_are_refused():
    with pytest.raises(ValueError, match="there are walk"):
        episodes.record(SCENE, "flight", SIZE)
    with SimScene(SCENE) as simulated, pytest.raises(ValueError, match="even number"):
        episodes.loop_path(simulated, np.random.default_rng(0), 3)


def test_all_of_the_start_picture_is_observed_and_seen_before_holds_more(walk):
    assert walk.observed[0].all()
    assert not (walk.observed & ~walk.seen_before).any()
    assert np.array_equal(walk.observed[1:9], walk.seen_before[1:9])
    assert walk.seen_before[9:].mean() > walk.observed[9:].mean()
    assert 0.2 < walk.observed[1:].mean() < 0.98


def test_observed_pixels_have_the_colour_of_the_start_picture(walk):
    """Warped by the truth, the start picture agrees where `observed` says so, and nowhere near as well elsewhere."""
    frame = 16
    rgb = torch.from_numpy(walk.frames[:1]).movedim(-1, 1).float()
    from spatia_env.slam.depth_network import warp_grid

    grid, _ = warp_grid(
        torch.from_numpy(walk.depth[frame])[None],
        torch.from_numpy(walk.c2w[frame])[None],
        torch.from_numpy(walk.c2w[0])[None],
        torch.from_numpy(walk.K),
    )
    warped = torch.nn.functional.grid_sample(rgb, grid, padding_mode="border", align_corners=False)[0]
    error = (warped.movedim(0, -1).numpy() - walk.frames[frame]).__abs__().mean(-1)
    inside, outside = error[walk.observed[frame]], error[~walk.observed[frame]]
    assert np.median(inside) < 4
    assert np.median(outside) > 3 * np.median(inside)


def test_seen_from_equals_a_ray_through_the_empty_room():
    """In a convex room everything inside another camera's view is visible to it."""
    K = intrinsics_from_fov(60, 30, 42)
    start = look_at(torch.tensor([-1.0, -1.5, 0.1]), torch.tensor([1.0, 1.5, -0.1]))
    c2w = torch.stack([start, *path_from_twist(start, torch.tensor([0.2, 0, 0.3, 0, 0.5, 0]), 3)])
    _, depth = room_view(c2w, K, 30, 42)
    visible = episodes.seen_from(depth[3], c2w[3], depth[:3], c2w[:3], K)
    expected = torch.zeros_like(visible)
    for view in range(3):
        for row in range(30):
            for column in range(42):
                ray = torch.tensor([(column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1], 1.0])
                point = torch.cat([ray * depth[3, row, column], torch.ones(1)])
                x, y, z, _ = (invert_se3(c2w[view]) @ c2w[3] @ point).tolist()
                u, v = float(K[0, 0]) * x / z + 21, float(K[1, 1]) * y / z + 15
                expected[view, row, column] = z > 0.05 and 0 <= u < 42 and 0 <= v < 30
    assert (visible == expected).float().mean() > 0.99
    assert 0.1 < visible.float().mean() < 0.95


def test_seen_from_knows_what_is_hidden():
    """A screen in front of the other camera hides the wall behind it."""
    K = intrinsics_from_fov(60, 30, 42)
    eye = torch.eye(4)
    wall, screen = torch.full((30, 42), 4.0), torch.full((1, 30, 42), 4.0)
    screen[:, :, :21] = 1.0
    visible = episodes.seen_from(wall, eye, screen, eye[None], K)[0]
    assert not visible[:, :21].any()
    assert visible[:, 21:].all()
    assert not episodes.seen_from(torch.zeros(30, 42), eye, screen, eye[None], K).any()


def test_a_gentle_path_stays_within_a_few_degrees():
    start = look_at(torch.zeros(3), torch.tensor([1.0, 1.0, 0.0]))
    path = episodes.gentle_path(start, np.random.default_rng(3), 2)
    assert path.shape == (16, 4, 4)
    assert torch.allclose(path[:, :3, 3], start[:3, 3].expand(16, 3), atol=1e-6)
    cos = (path[:, :3, 2] @ start[:3, 2]).clamp(-1, 1)
    assert 1 < float(torch.rad2deg(torch.arccos(cos)).max()) < 6.1
