"""Renders of the map against a slow renderer."""

import math
import pickle

import numpy as np
import pytest
import torch

from maps import HEIGHT, WIDTH, K, grid_points, map_of_points, room_map, same_map, view_at
from rendering_oracle import close_holes_reference, render_points_reference
from rooms import room_colour, room_view
from spatia_env.geometry import intrinsics_from_fov, invert_se3
from spatia_env.memory import rendering
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.rendering import Render, close_holes, render_points, render_rows


def cloud_in_view(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator) * torch.tensor([3.0, 2.5, 2.0]) + torch.tensor(
        [0.3, -1.2, -1.0]
    )
    rgb = torch.rand(count, 3, generator=generator)
    radius = torch.rand(count, generator=generator) * 0.25 + 0.01
    weight = torch.rand(count, generator=generator) + 0.1
    return points, rgb, radius, weight


@pytest.mark.parametrize("seed", [0, 1])
def test_renders_are_those_of_the_slow_renderer(seed):
    points, rgb, radius, weight = cloud_in_view(60, seed)
    lens = intrinsics_from_fov(70, 11, 17)
    w2c = invert_se3(torch.stack([view_at(0.0, (-0.3, 0.1, 0.0)), view_at(0.5), view_at(math.pi)]))
    fast = render_points(points, rgb, radius, w2c, lens, 11, 17, weight)
    slow = render_points_reference(points, rgb, radius, w2c, lens, 11, 17, weight)
    assert torch.equal(fast.known, slow.known) and 0.05 < fast.known.float().mean() < 0.95
    assert (fast.rgb - slow.rgb).abs().max() < 1e-4 and (fast.depth - slow.depth).abs().max() < 1e-4


def test_the_same_view_comes_back():
    height = width = 128
    lens = intrinsics_from_fov(60, height, width)
    pose = view_at(0.6)[None]
    rgb, depth = room_view(pose, lens, height, width)
    memory, _ = SceneMemory().update(rgb, depth, torch.ones_like(depth), pose, lens, 0)
    view = memory.render(pose, lens, height, width)
    known = view.known[0] & (depth[0] > 1)
    error = ((view.rgb[0] - rgb[0])[:, known] ** 2).mean()
    assert known.float().mean() > 0.97 and -10 * torch.log10(error) >= 40
    assert (view.depth[0] - depth[0])[known].abs().max() < 0.05


def test_a_neighbouring_view_is_covered_and_right():
    lens = intrinsics_from_fov(60, 48, 64)
    pose = view_at(0.6)[None]
    rgb, depth = room_view(pose, lens, 48, 64)
    memory, _ = SceneMemory().update(rgb, depth, torch.ones_like(depth), pose, lens, 0)
    other = view_at(0.7, (0.25, -0.05, 0.08))[None]
    view = memory.render(other, lens, 48, 64)
    truth, true_depth = room_view(other, lens, 48, 64)
    inner = torch.zeros(48, 64, dtype=torch.bool)
    inner[8:-8, 12:-14] = True
    assert view.known[0][inner].float().mean() > 0.99
    covered = inner & view.known[0]
    assert (view.rgb[0] - truth[0])[:, covered].abs().mean() < 0.03
    assert ((view.depth[0] - true_depth[0]).abs() / true_depth[0])[covered].median() < 0.01


def test_what_is_behind_a_wall_does_not_show():
    wall = grid_points((1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    memory = map_of_points(
        np.concatenate([wall, wall + [1, 0, 0]]), np.repeat([[255, 0, 0], [0, 255, 0]], len(wall), 0)
    )
    view = memory.render(view_at(0.0, (0.0, 0.0, 0.0))[None], K, HEIGHT, WIDTH)
    assert view.known.any() and view.rgb[0, 1][view.known[0]].max() == 0
    assert (view.depth[0][view.known[0]] - 1).abs().max() < 0.1


def test_culling_changes_nothing():
    memory = room_map(4)
    for pose in (view_at(0.2), view_at(2.9, (-1.0, 1.0, 0.4))):
        rows = memory.points()
        position = torch.from_numpy(rows["position"].copy())
        colour, radius = (
            torch.from_numpy(rows["colour"].copy()).float() / 255,
            torch.from_numpy(rows["radius"].astype(np.float32)),
        )
        weight = (0.01 / radius.clamp_min(1e-3)) ** 2
        every = render_points(position, colour, radius, invert_se3(pose[None]), K, HEIGHT, WIDTH, weight)
        culled = memory.render(pose[None], K, HEIGHT, WIDTH)
        assert torch.equal(every.known, culled.known)
        assert torch.allclose(every.rgb, culled.rgb, atol=1e-5) and torch.allclose(
            every.depth, culled.depth, atol=1e-5
        )
        assert len(memory.visible_points(pose[None], K, HEIGHT, WIDTH)) < len(rows)


def test_an_empty_map_renders_and_looks_away():
    for memory, pose in ((SceneMemory(), view_at(0.0)), (room_map(1), view_at(math.pi))):
        view = memory.render(pose[None], K, HEIGHT, WIDTH)
        assert view.rgb.shape == (1, 3, HEIGHT, WIDTH) and view.depth.shape == view.known.shape == (
            1,
            HEIGHT,
            WIDTH,
        )
        assert not view.known.any() and view.rgb.max() == 0 and view.depth.max() == 0


def test_views_are_rendered_alone_or_together():
    memory, poses = room_map(3), torch.stack([view_at(0.1), view_at(1.0), view_at(2.0)])
    together = memory.render(poses, K, HEIGHT, WIDTH)
    for i in range(3):
        alone = memory.render(poses[i : i + 1], K, HEIGHT, WIDTH)
        for name in ("rgb", "depth", "known"):
            assert torch.allclose(getattr(alone, name), getattr(together[i : i + 1], name), atol=1e-5)


def test_colours_are_those_of_the_surface():
    memory = room_map(3)
    rows = memory.points()
    truth = room_colour(torch.from_numpy(rows["position"].copy())).numpy()
    assert np.abs(rows["colour"] / 255 - truth).mean() < 0.03


def test_maps_can_be_sent_to_other_processes():
    memory = room_map(1)
    sent = SceneMemory(voxel=memory.voxel).with_blocks(pickle.loads(pickle.dumps(dict(memory.blocks))))
    assert same_map(memory, sent)


# -- holes ----------------------------------------------------------------------------------------------


def picture(known, depth=2.0):
    known = torch.as_tensor(known)[None]
    z = torch.as_tensor(depth, dtype=torch.float32).expand(known.shape) * known
    shade = torch.linspace(0, 1, known.shape[2]).expand(3, *known.shape[1:])
    return Render((shade[None] * known[:, None]), z.contiguous(), known)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_holes_are_closed_as_by_the_slow_way(share):
    generator = torch.Generator().manual_seed(int(100 * share))
    known = torch.rand(2, 13, 19, generator=generator) < share
    depth = torch.where(torch.rand(2, 13, 19, generator=generator) < 0.7, 2.0, 3.5) * known
    rgb = torch.rand(2, 3, 13, 19, generator=generator) * known[:, None]
    fast, slow = (f(Render(rgb, depth, known)) for f in (close_holes, close_holes_reference))
    assert torch.equal(fast.known, slow.known) and (fast.known & ~known).any()
    assert (fast.rgb - slow.rgb).abs().max() < 1e-5 and (fast.depth - slow.depth).abs().max() < 1e-5
    assert torch.equal(fast.rgb[:, 0][known], rgb[:, 0][known]) and torch.equal(
        fast.depth[known], depth[known]
    )


def test_narrow_gaps_in_a_surface_are_closed_and_blended():
    known = np.ones((12, 20), bool)
    known[:, 8:10] = False
    closed = close_holes(picture(known))
    assert closed.known[0, 2:-2].all() and (closed.depth[0, 2:-2] - 2).abs().max() < 1e-6
    assert torch.allclose(closed.rgb[0, 0, 6, 8:10], torch.linspace(0, 1, 20)[8:10], atol=1e-5)


def test_wide_gaps_stay_open():
    known = np.ones((12, 20), bool)
    known[:, 8:11] = False
    assert torch.equal(close_holes(picture(known)).known[0], torch.as_tensor(known))


def test_gaps_between_a_thing_and_what_is_behind_it_stay_open():
    known = np.ones((12, 20), bool)
    known[:, 9:11] = False
    depth = torch.full((12, 20), 2.0)
    depth[:, 10:] = 3.0
    assert torch.equal(close_holes(picture(known, depth)).known[0], torch.as_tensor(known))


def test_nothing_known_is_nothing_closed():
    for share in (0.0, 1.0):
        view = picture(np.full((9, 9), share > 0))
        assert close_holes(view).known.float().mean() == share


def test_a_floor_seen_from_nearer_has_no_dots():
    """Rows of points four times as far apart along the view as across it, as a floor leaves them."""
    across, along = np.arange(-1.5, 1.5, 0.03) + 0.001, np.arange(1.2, 3.5, 0.12) + 0.001
    floor = np.stack(
        [*np.meshgrid(along, across, indexing="ij"), np.full((len(along), len(across)), -0.6)], -1
    )
    memory = map_of_points(floor.reshape(-1, 3), radius=0.03)
    view = memory.render(view_at(0.0, (0.0, 0.0, 0.0))[None], K, HEIGHT, WIDTH)
    rows = view.known[0, :, 8:-8].any(-1).nonzero().flatten()
    seen = view.known[0, int(rows[0]) : int(rows[-1]) + 1, 8:-8]
    assert len(rows) >= 6 and seen.all()


def test_what_is_just_outside_of_the_picture_helps_its_border():
    wall = grid_points((1.0, -1.5, -1.5), (1.0, 1.5, 1.5), 0.04)
    view = map_of_points(wall + 0.001, radius=0.04).render(
        view_at(0.0, (0.0, 0.0, 0.0))[None], K, HEIGHT, WIDTH
    )
    assert view.known.all()


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_pieces_and_threads_change_nothing(piece, monkeypatch):
    memory, poses = room_map(2), torch.stack([view_at(0.1), view_at(0.6)])
    rows = memory.visible_points(poses, K, HEIGHT, WIDTH)[:: max(1, 40 // piece)]
    once = render_rows(rows, poses, K, HEIGHT, WIDTH)
    monkeypatch.setattr(rendering, "PIECES", (piece * 40, piece * 40))
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        with torch.inference_mode(threads == 2):
            again = render_rows(rows, poses, K, HEIGHT, WIDTH)
        assert all(torch.equal(getattr(once, n), getattr(again, n)) for n in ("rgb", "depth", "known"))
    assert once.known.any()
