"""What floor and walls would show where the map knows nothing, and a decoder that may show it."""

import numpy as np
import pytest
import torch

from spatia_env.env import SpatiaEnv
from spatia_env.geometry import intrinsics_from_fov, look_at, path_from_twist, pixel_rays
from spatia_env.models.autoencoder import TinyAutoencoder
from spatia_env.slam.depth_network import Geometry
from spatia_env.slam.plane_extrapolation import (
    CONTINUED_PLANES,
    Bound,
    continue_surfaces,
    find_bounds,
    first_met,
    follow_surfaces,
)
from spatia_env.slam.planes import Plane

H, W, T = 60, 80, 3
K = intrinsics_from_fov(70.0, H, W)
FLOOR, WALL = Plane(np.array([0.0, 0.0, 1.0]), -1.4), Plane(np.array([0.0, 1.0, 0.0]), 3.0)


def colours(points: torch.Tensor) -> torch.Tensor:
    """A chequered floor and a striped wall: RGB [..., 3] of points [..., 3]."""
    cell = (points / 0.45).floor().long()
    floor = 0.35 + 0.4 * ((cell[..., 0] + cell[..., 1]) % 2).float()
    wall = 0.5 + 0.3 * (cell[..., 0] % 2).float()
    grey = torch.where(points[..., 2] < -1.39, floor, wall)
    return grey[..., None] * torch.tensor([1.0, 0.9, 0.8])


def scene():
    """Pictures, depth and poses of a floor and an endless wall, seen by a camera that turns left."""
    start = look_at(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, -0.9]))
    path = path_from_twist(start, torch.tensor([0.0, 0.0, 0.0, 0.0, 0.25, 0.0]), T)
    rays = torch.einsum("tij,hwj->thwi", path[:, :3, :3], pixel_rays(K, H, W))
    met, _ = first_met(
        [Bound(FLOOR), Bound(WALL)], path[:, None, None, :3, 3].expand(rays.shape).reshape(-1, 3).numpy(),
        rays.reshape(-1, 3).numpy(),
    )  # fmt: skip
    depth = torch.from_numpy(met).view(T, H, W)
    depth = torch.where(depth.isfinite(), depth, torch.zeros(()))
    points = path[:, None, None, :3, 3] + rays * depth[..., None]
    return colours(points).movedim(-1, 1), depth, path


def half_known():
    rgb, depth, path = scene()
    known = torch.ones(T, H, W, dtype=torch.bool)
    known[:, :, :30] = False
    shown = rgb * known[:, None]
    return rgb, depth, shown, depth * known, known, path


def test_floor_and_wall_go_on_in_depth_and_colour():
    rgb, depth, shown, z, known, path = half_known()
    found = continue_surfaces(shown, z, known, path, K)
    on = found.depth > 0
    assert not (on & known).any() and float(on[~known & (depth > 0)].float().mean()) > 0.9
    assert float((found.depth / depth - 1)[on].abs().median()) < 0.02
    error = (found.rgb - rgb).abs().mean(1)[on]
    flat = (rgb.movedim(1, -1)[known].mean(0)[:, None, None] - rgb).abs().mean(1)[on]
    assert float(error.mean()) < 0.6 * float(flat.mean())
    planes = found.planes()
    assert planes.shape == (CONTINUED_PLANES, T, H, W)
    assert torch.equal(planes[3] > 0, on) and not planes[:, ~on].any()
    assert float(planes.abs().max()) <= 1


def test_it_repeats_exactly_and_leaves_what_it_is_given():
    _, _, shown, z, known, path = half_known()
    kept = shown.clone(), z.clone()
    first, second = (continue_surfaces(shown, z, known, path, K) for _ in range(2))
    assert torch.equal(first.rgb, second.rgb) and torch.equal(first.depth, second.depth)
    assert torch.equal(kept[0], shown) and torch.equal(kept[1], z)


def test_what_a_clip_shows_of_it_lies_on_the_surface_and_the_rest_stays_as_estimated():
    _, _, shown, z, known, path = half_known()
    told = continue_surfaces(shown, z, known, path, K)
    on = told.depth > 0
    frames = torch.where(on[:, None], told.rgb, shown).clone()
    frames[:, :, 20:50, 4:20] = torch.tensor([1.0, 0.0, 1.0])[:, None, None]  # something else stands there
    dynamic = torch.zeros(T, H, W)
    dynamic[1, 50:56, 4:20] = 1.0
    estimated = Geometry(torch.full((T, H, W), 2.0), torch.full((T, H, W), 0.3), dynamic)
    geometry, follows = follow_surfaces(estimated, frames, told)
    assert not follows[~on].any() and not follows[:, 22:48, 6:18].any() and not follows[1, 50:56, 4:20].any()
    assert float(follows[:, :16, :26][on[:, :16, :26]].float().mean()) > 0.95
    assert torch.equal(geometry.depth[follows], told.depth[follows])
    assert torch.equal(geometry.depth[~follows], estimated.depth[~follows])
    assert geometry.confidence[follows].min() > 0.8 and torch.equal(geometry.dynamic, dynamic)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_goes_on_from_nothing_or_beyond_everything(share):
    rgb, depth, path = scene()
    known = torch.full((T, H, W), bool(share))
    found = continue_surfaces(rgb * share, depth * share, known, path, K)
    sky = depth == 0
    assert not found.depth[~sky if share else sky | ~sky].any()


def scattered(low, high, count=2000):
    return np.random.default_rng(0).uniform(low, high, (count, 3)).astype(np.float32)


def test_a_table_top_does_not_go_on():
    floor = scattered((-2, -2, -1.401), (2, 2, -1.399))
    table = scattered((0, 0, -0.701), (1, 1, -0.699), 600)
    planes = [FLOOR, Plane(np.array([0.0, 0.0, 1.0]), -0.7)]
    bounds, backdrop = find_bounds(planes, np.concatenate([floor, table]), np.zeros(3, np.float32))
    assert [bound.plane for bound in bounds] == [FLOOR] and not backdrop.any()


def test_a_hedge_ends_where_the_sky_is_seen_over_it_and_a_wall_does_not():
    hedge = scattered((-3, 2.99, -1.4), (3, 3.01, 0.5))
    sky = scattered((-4, 5.9, 2.0), (4, 6.1, 4.0), 500)
    eye = np.zeros(3, np.float32)
    (bound,), backdrop = find_bounds([WALL], np.concatenate([hedge, sky]), eye)
    assert bound.top == pytest.approx(0.5, abs=0.1)
    assert backdrop[2000:].all() and not backdrop[:2000].any()
    (bound,), backdrop = find_bounds([WALL], hedge, eye)
    assert bound.top > 1.5 and not backdrop.any()
    beside = scattered((3.5, 5.9, -1.0), (5, 6.1, 0.4), 500)
    assert find_bounds([WALL], np.concatenate([hedge, beside]), eye)[0] == []


def test_rays_pass_over_what_ends():
    origins = np.zeros((2, 3), np.float32)
    rays = np.array([[0, 1, 0.1], [0, 1, 0.9]], np.float32)
    met, which = first_met([Bound(FLOOR), Bound(WALL, 1.0)], origins, rays)
    assert which.tolist() == [1, -1] and met[0] == pytest.approx(3.0) and np.isinf(met[1])


def decoder(continued_planes: int) -> TinyAutoencoder:
    torch.manual_seed(0)
    return TinyAutoencoder(channels=(16, 16, 16), continued_planes=continued_planes).eval()


@torch.no_grad()
def test_a_decoder_shows_what_goes_on_as_far_as_it_trusts_it():
    latents = torch.randn(1, 48, 2, 2, 3)
    render, known = torch.rand(1, 3, 2, 32, 48) - 0.5, torch.zeros(1, 1, 2, 32, 48)
    known[..., 24:] = 1
    continued = torch.zeros(1, 4, 2, 32, 48)
    continued[:, :3, :, 8:, :] = 0.25
    continued[:, 3, :, 8:, :] = 0.5
    told = decoder(4)
    without = told.decode(latents, render, known)
    told.continued_head.bias.fill_(9.0)
    shown = told.decode(latents, render, known, None, continued)
    on = (continued[:, 3] > 0) & (known[:, 0] == 0)
    light = told.decode_parts(
        told.denormalise(latents[0].transpose(0, 1)), render[0].transpose(0, 1), known[0].transpose(0, 1)
    ).light
    expected = (1.25 * light - 1).transpose(0, 1)[None]
    assert torch.allclose(shown.movedim(1, -1)[on], expected.movedim(1, -1)[on], atol=1e-3)
    assert torch.allclose(shown.movedim(1, -1)[~on], without.movedim(1, -1)[~on], atol=1e-5)
    untold = decoder(0)
    assert torch.equal(
        untold.decode(latents, render, known, None, continued), untold.decode(latents, render, known)
    )


def test_the_packaged_model_is_told_of_it_when_it_turns_to_what_is_new():
    env = SpatiaEnv(size=(64, 96), imagination=False)
    env.reset(seed=0, options={"scene": 3})
    still, turn = np.zeros(6, np.float32), np.array([0, 0, 0, 0, 0.5, 0], np.float32)
    pending = env.prepare({"camera": turn, "event": ""})
    assert pending.continued is not None and pending.view is not None
    on = pending.continued.depth > 0
    assert on.any() and not (on & pending.view.known & (pending.view.depth > 0)).any()
    assert torch.equal(pending.request.continued[3] > 0, on)
    assert env.prepare({"camera": still, "event": ""}).request is None
