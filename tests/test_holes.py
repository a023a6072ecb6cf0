"""Gaps in splatted surfaces: closed where the surface runs on, open where something unseen lies behind."""

import numpy as np
import pytest
import torch

from maps import HEIGHT, WIDTH, K, grid_points, map_of_points, room_map, view_at
from spatia_env.memory import rendering
from spatia_env.memory.rendering import Render, _close_holes_reference, close_holes


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
    fast, slow = (f(Render(rgb, depth, known)) for f in (close_holes, _close_holes_reference))
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
    once = rendering.render_rows(rows, poses, K, HEIGHT, WIDTH)
    monkeypatch.setattr(rendering, "PIECES", (piece * 40, piece * 40))
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        with torch.inference_mode(threads == 2):
            again = rendering.render_rows(rows, poses, K, HEIGHT, WIDTH)
        assert all(torch.equal(getattr(once, n), getattr(again, n)) for n in ("rgb", "depth", "known"))
    assert once.known.any()
