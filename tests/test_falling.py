"""Where small things would fall: against one pixel at a time, and against the simulator that shows them there."""

import numpy as np
import pytest
import torch

from spatia_env.geometry import intrinsics_from_fov, look_at, path_from_twist
from spatia_env.models import spatial_conditioning as particles
from spatia_env.models.autoencoder import TinyAutoencoder
from spatia_env.models.spatial_conditioning import (
    FALLING_CHANNELS,
    falling_in_view,
    place_planes,
    with_falling,
)
from spatia_env.sim.scenes import SimScene

HEIGHT, WIDTH = 64, 96


def slow_covered(centres, radii, c2w, K, depth):
    """Every pixel asks every ball."""
    out = np.zeros(depth.shape, dtype=bool)
    w2c = np.linalg.inv(c2w)
    for centre, radius in zip(centres, radii, strict=True):
        x, y, z = (w2c @ [*centre, 1.0])[:3]
        if z <= 0.5:
            continue
        u, v, r = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2], max(radius * K[0, 0] / z, 0.75)
        for row in range(depth.shape[0]):
            for column in range(depth.shape[1]):
                near = np.hypot(column + 0.5 - u, row + 0.5 - v) <= r
                if near and (depth[row, column] == 0 or depth[row, column] > z):
                    out[row, column] = True
    return out


@pytest.fixture(scope="module")
def view():
    K = intrinsics_from_fov(60.0, HEIGHT, WIDTH)
    start = look_at(torch.tensor([1.0, 2.0, 1.4]), torch.tensor([2.0, 3.0, 1.2]))
    return K, start, path_from_twist(start, torch.tensor([0.1, 0.0, 0.2, 0.0, 0.2, 0.1]), 8)


def test_covered_pixels_are_those_of_the_slow_way(view):
    K, _, path = view
    rng = np.random.default_rng(0)
    centres = rng.uniform((0, 1, 0), (4, 5, 3), (40, 3))
    radii = rng.uniform(0.001, 0.2, 40)
    depth = rng.uniform(0.5, 4, (HEIGHT, WIDTH)) * (rng.random((HEIGHT, WIDTH)) < 0.8)
    two, depths = path[[0, 7]].double().numpy(), np.stack([depth, depth[::-1]])
    fast = particles.covered(np.stack([centres, centres + 0.1]), radii, two, K.double().numpy(), depths)
    assert 0.02 < fast.mean() < 0.9
    for shown, moved, pose, hides in zip(fast, (centres, centres + 0.1), two, depths, strict=True):
        np.testing.assert_array_equal(shown, slow_covered(moved, radii, pose, K.double().numpy(), hides))


def test_flakes_stay_in_the_world_and_drift(view):
    eye = np.array([0.3, -1.0, 1.5])
    here, beside = particles.flakes(eye, 2.0), particles.flakes(eye + [0.4, 0.1, 0.0], 2.0)
    # All but those at the edges of the box are the same flakes.
    same = (np.abs(here - beside) < 1e-9).all(1)
    assert same.mean() > 0.8 and np.abs(here - eye).max() <= particles.FLAKE_BOX.max() / 2
    later = particles.flakes(eye, 2.1) - here
    moved = np.abs(later - 0.1 * particles.FLAKE_DRIFT).max(1) < 1e-9
    assert moved.mean() > 0.9


def test_snow_of_the_simulator_falls_where_the_planes_say():
    with SimScene(3) as scene:
        c2w = torch.from_numpy(np.asarray(scene.initial_c2w))
        K = scene.K(HEIGHT, WIDTH)
        scene.start_event("snow", c2w.numpy(), np.random.default_rng(0))
        path = path_from_twist(c2w, torch.tensor([0.0, 0.0, 0.1, 0.0, 0.2, 0.0]), 8)
        for _ in range(8):  # a clip before
            scene.advance()
        shots = []
        for pose in path:
            scene.advance()
            shots.append(scene.render(pose.numpy(), HEIGHT, WIDTH))
    depth = np.stack([shot.depth for shot in shots])
    planes = particles.falling_planes(path.numpy(), c2w.numpy(), K, depth, 1)
    np.testing.assert_array_equal(planes[0], np.stack([shot.dynamic for shot in shots]))
    assert 0.01 < planes[0].mean() < 0.2


def test_balls_of_the_simulator_fall_where_the_planes_say():
    with SimScene(10001) as scene:  # a room with enough of free floor
        c2w = torch.from_numpy(np.asarray(scene.initial_c2w))
        K = scene.K(HEIGHT, WIDTH)
        still = scene.render(c2w.numpy(), HEIGHT, WIDTH).depth
        scene.start_event("balls_rain", c2w.numpy(), np.random.default_rng(0))
        shots = []
        for _ in range(8):
            scene.advance()
            shots.append(scene.render(c2w.numpy(), HEIGHT, WIDTH).dynamic)
    depth = np.broadcast_to(still, (8, HEIGHT, WIDTH))
    path = np.broadcast_to(c2w.numpy(), (8, 4, 4))
    planes = particles.falling_planes(path, c2w.numpy(), K, depth, 0)
    for shown, told in zip(shots[:5], planes[1], strict=False):
        assert shown.mean() > 0.01
        assert (shown & told).sum() > 0.8 * shown.sum()


def test_planes_are_the_same_before_every_camera_but_for_what_hides(view):
    K, start, path = view
    depth = torch.full((8, HEIGHT, WIDTH), 2.0)
    known = torch.rand(8, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.5
    hidden = falling_in_view(depth, known, path, start, K, 3)
    free = falling_in_view(depth, torch.zeros_like(known), path, start, K, 3)
    assert hidden.shape == (2, 8, HEIGHT, WIDTH) and hidden.any() and not (hidden & ~free).any()
    assert (free & ~hidden & known).any() and not (free & ~hidden & ~known).any()
    # The same clip of a world that is turned and moved: balls hang before the camera, wherever it is.
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    turn[:2, 3] = torch.tensor([4.0, -2.0])
    moved = falling_in_view(depth, torch.zeros_like(known), turn @ path, turn @ start, K, 3)
    assert (moved[1] == free[1]).float().mean() > 0.999


def test_sub_cells_of_what_falls_come_before_the_places(view):
    K, start, path = view
    depth, known = torch.zeros(8, HEIGHT, WIDTH), torch.zeros(8, HEIGHT, WIDTH, dtype=torch.bool)
    places = place_planes(depth, known, path, start, K, HEIGHT // 16, WIDTH // 16)[None]
    planes = falling_in_view(depth, known, path, start, K, 0)[None]
    told = with_falling(places, planes)
    assert told.shape[1] == FALLING_CHANNELS + places.shape[1]
    torch.testing.assert_close(told[:, FALLING_CHANNELS:], places)
    cell = (
        planes[0, 1, 5, 16 + 4 : 16 + 8, 32 + 8 : 32 + 12].float().mean()
    )  # of latent pixel (1, 2), row 1, column 2
    assert told[0, 16 + 4 * 1 + 2, 5, 1, 2] == pytest.approx(float(cell))


@torch.no_grad()
def test_the_decoder_begins_deaf_to_what_falls_and_can_show_single_flakes():
    torch.manual_seed(0)
    network = TinyAutoencoder(channels=(16, 16, 16), falling_planes=2).eval()
    latents = torch.randn(1, 48, 1, 2, 3)
    flake = torch.zeros(1, 2, 1, 32, 48)
    flake[:, 0, :, 9, 20] = 1
    nothing = network.decode(latents, falling=torch.zeros_like(flake))
    assert torch.equal(network.decode(latents, falling=flake), nothing)
    network.falling_in.weight.normal_()
    changed = (network.decode(latents, falling=flake) != nothing).any(1)[0, 0]
    assert changed[9, 20] and not changed[:, 40:].any()
    without = TinyAutoencoder(channels=(16, 16, 16))
    assert torch.equal(without.decode(latents, falling=flake), without.decode(latents))
