"""Panoramas: rays, splatting against slow code, points made of them, and what lies above and below."""

import math

import pytest
import torch

from spatia_env.memory.panorama import (
    ALL_AROUND,
    ELEVATION,
    extend_to_sphere,
    panorama_coordinates,
    panorama_points,
    panorama_rays,
    render_panorama_points,
    render_sphere_points,
)

ROOM = torch.tensor([2.0, 3.0, 1.5])  # half-extents of a room around the origin, metres


def room_distance(rays: torch.Tensor) -> torch.Tensor:
    """Metres from the origin to the walls of `ROOM` along unit rays [..., 3]."""
    return (ROOM / rays.abs().clamp_min(1e-9)).amin(-1)


def room_colour(rays: torch.Tensor) -> torch.Tensor:
    """Smooth colours [3, ...] of the walls."""
    return ((rays * room_distance(rays)[..., None]) / ROOM * 0.4 + 0.5).movedim(-1, 0)


@pytest.mark.parametrize("highest", [ELEVATION, ALL_AROUND])
def test_coordinates_invert_rays(highest: float) -> None:
    rays = panorama_rays(6, 20, highest)
    assert torch.allclose(rays.norm(dim=-1), torch.ones(6, 20))
    u, v = panorama_coordinates(3.7 * rays, 6, 20, highest)
    assert torch.allclose(u, torch.arange(20) + 0.5 + torch.zeros(6, 1), atol=1e-3)
    assert torch.allclose(v, torch.arange(6)[:, None] + 0.5 + torch.zeros(20), atol=1e-3)


def test_the_middle_looks_along_x_and_columns_turn_to_the_right() -> None:
    rays = panorama_rays(2, 8)
    assert rays[:, 3:5, 0].min() > 0.6  # +X
    assert rays[0, 6, 1] < 0  # right of it is -Y
    assert rays[0, 0, 2] > 0 > rays[1, 0, 2]  # the first row looks up


def slow_nearest(points: torch.Tensor, eye: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Distance to the nearest point within half a pixel of each pixel's centre, 0 = none: one by one."""
    out = torch.zeros(height, width)
    for point in points:
        x, y, z = (point - eye).tolist()
        far = math.sqrt(x * x + y * y + z * z)
        column = (math.pi - math.atan2(y, x)) / (2 * math.pi) * width
        row = (1 - math.asin(z / far) / ELEVATION) * height / 2
        if 0 <= row < height:
            at = int(row), int(column) % width
            out[at] = far if out[at] == 0 else min(float(out[at]), far)
    return out


def test_render_shows_the_nearest_points_as_slow_code_does() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(60, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.3])
    points = torch.nn.functional.normalize(directions, dim=1) * (1 + torch.rand(60, 1, generator=generator))
    eye = torch.tensor([0.1, -0.2, 0.05])
    seen = render_panorama_points(points, torch.rand(60, 3), torch.full((60,), 1e-3), eye, 24, 100)
    nearest = slow_nearest(points, eye, 24, 100)
    hit = nearest > 0
    # A point lies on its pixel, or is averaged with one at most a surface's thickness behind.
    assert seen.known[0][hit].float().mean() > 0.95
    both = hit & seen.known[0]
    assert (seen.depth[0][both] - nearest[both]).abs().max() < 0.02 + 0.04 * 2


def test_a_surface_across_the_last_column_is_whole() -> None:
    rays = panorama_rays(16, 64)
    behind = rays[:, torch.arange(-8, 8)].reshape(-1, 3)  # around heading 180 degrees
    seen = render_panorama_points(
        2 * behind, torch.full((256, 3), 0.5), torch.full((256,), 0.2), torch.zeros(3), 16, 64
    )
    known = seen.known[0, 2:-2]
    assert known[:, :7].all() and known[:, -7:].all() and not known[:, 12:-12].any()
    assert torch.allclose(seen.depth[0, 2:-2, :7], torch.tensor(2.0), atol=1e-4)


def test_render_of_points_of_a_panorama_gives_it_back() -> None:
    rays = panorama_rays(48, 160)
    distance, rgb, eye = room_distance(rays), room_colour(rays), torch.tensor([5.0, -4.0, 1.0])
    points = panorama_points(rgb, distance, eye, torch.ones(48, 160, dtype=torch.bool))
    assert torch.allclose(((points.positions - eye).abs() / ROOM).amax(1), torch.ones(1), atol=0.02)
    seen = render_panorama_points(points.positions, points.rgb, points.radius, eye, 48, 160)
    assert seen.known.all()
    assert (seen.rgb[0] - rgb).abs().mean() < 0.01
    assert ((seen.depth[0] - distance).abs() / distance).mean() < 0.01


def test_all_directions_of_a_room_are_known_and_right() -> None:
    rays = panorama_rays(96, 160, ALL_AROUND)
    distance, rgb, eye = room_distance(rays), room_colour(rays), torch.tensor([5.0, -4.0, 1.0])
    whole = torch.ones(96, 160, dtype=torch.bool)
    points = panorama_points(rgb, distance, eye, whole, ALL_AROUND)
    seen = render_sphere_points(points.positions, points.rgb, points.radius, eye, 48, 160)
    assert seen.depth.shape == (1, 96, 160)
    assert seen.known.float().mean() > 0.99
    error = (seen.depth[0] - distance).abs() / distance
    assert error[seen.known[0]].mean() < 0.02
    assert (seen.rgb[0] - rgb).abs().mean(0)[seen.known[0]].mean() < 0.02
    half = points.positions[:, 2] > eye[2]
    above = render_sphere_points(
        points.positions[half], points.rgb[half], points.radius[half], eye, 48, 160
    ).known[0]
    assert above[:40].all() and not above[56:].any()


def test_points_fill_a_floor_seen_at_a_grazing_angle() -> None:
    rays = panorama_rays(24, 96)
    eye_height, mask = 1.5, rays[..., 2] < -0.15
    distance = torch.where(mask, eye_height / rays[..., 2].abs(), 50.0)
    points = panorama_points(torch.zeros(3, 24, 96), distance, torch.zeros(3), mask)
    assert torch.allclose(points.positions[:, 2], torch.tensor(-eye_height), atol=1e-3)
    ahead = points.positions[(points.positions[:, 1].abs() < 0.2) & (points.positions[:, 0] > 0)]
    steps = ahead[:, 0].sort().values.diff()
    bare = torch.where(mask[:, 48], distance[:, 48], 0)
    largest = float(bare[bare > 0].diff().abs().max())
    assert float(steps.max()) < 0.5 * largest


def test_points_are_made_of_the_mask_only_and_jumps_stay_open() -> None:
    distance = torch.full((12, 40), 4.0)
    distance[:, 10:20] = 1.0
    mask = torch.zeros(12, 40, dtype=torch.bool)
    mask[:, 5:15] = True
    points = panorama_points(torch.zeros(3, 12, 40), distance, torch.zeros(3), mask)
    reach = points.positions.norm(dim=1)
    assert len(reach) >= 120
    assert ((reach - 1).abs() < 0.05).sum() + ((reach - 4).abs() < 0.05).sum() == len(reach)


def test_no_pixel_gives_no_point() -> None:
    none = torch.zeros(12, 40, dtype=torch.bool)
    assert len(panorama_points(torch.zeros(3, 12, 40), torch.ones(12, 40), torch.zeros(3), none).radius) == 0


def test_a_room_goes_on_above_and_below() -> None:
    rays = panorama_rays(40, 120)
    rgb, distance = extend_to_sphere(room_colour(rays), room_distance(rays))
    assert rgb.shape == (3, 80, 120) and distance.shape == (80, 120)
    assert torch.equal(distance[20:60], room_distance(rays))
    truth = room_distance(panorama_rays(80, 120, ALL_AROUND))
    assert ((distance - truth).abs() / truth).mean() < 0.03
    assert rgb.min() >= 0 and rgb.max() <= 1


def test_what_lies_below_takes_the_floors_colour_not_that_of_things_on_it() -> None:
    rays = panorama_rays(40, 120)
    distance = room_distance(rays)
    rgb = torch.zeros(3, 40, 120)
    rgb[1] = 1.0
    thing = torch.zeros(40, 120, dtype=torch.bool)
    thing[26:, 30:40] = True
    rgb[:, thing] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    distance[thing] = 0.8
    sphere, _ = extend_to_sphere(rgb, distance)
    assert float(sphere[0, 75:].max()) < 0.1
