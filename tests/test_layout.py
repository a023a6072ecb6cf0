"""Planes of the map, and new surface that continues them, on the analytic room."""

import numpy as np
import pytest
import torch

from rooms import room_view
from spatia_env.geometry import intrinsics_from_fov, look_at, path_from_twist, pixel_rays, unproject
from spatia_env.slam.depth_network import Geometry
from spatia_env.slam.plane_labels import continue_planes
from spatia_env.slam.planes import Plane, find_planes, plane_depth

H, W, T = 48, 64, 2
K = intrinsics_from_fov(60.0, H, W)


def seen(turn: float = 0.0):
    start = look_at(torch.tensor([-0.8, -0.6, 0.1]), torch.tensor([2.0 + turn, 1.6, -0.5]))
    path = path_from_twist(start, torch.tensor([0.05, 0.0, 0.1, 0.0, 0.05, 0.0]), T)
    return path, *room_view(path, K, H, W)


def distances(planes, points):
    return np.stack([np.abs(points @ plane.normal - plane.offset) for plane in planes])


def test_planes_of_a_room_are_found():
    path, _, depth = seen()
    points = unproject(depth, K, path).reshape(-1, 3).numpy()
    planes = find_planes(points)
    assert {round(abs(p.offset), 2) for p in planes if p.upright} <= {2.0, 2.5}
    assert {round(p.offset, 2) for p in planes if not p.upright} == {-1.4}  # it looks down
    assert (distances(planes, points).min(0) < 0.02).mean() > 0.98


def test_turned_walls_are_found_and_clutter_is_not():
    rng = np.random.default_rng(0)
    along, up = rng.uniform(-2, 2, 4000), rng.uniform(0, 2.5, 4000)
    angle = np.radians(17)
    normal = np.array([np.cos(angle), np.sin(angle), 0])
    wall = (
        3 * normal + along[:, None] * np.array([-normal[1], normal[0], 0]) + up[:, None] * np.array([0, 0, 1])
    )
    noise = rng.normal(0, 0.004, wall.shape)
    (plane,) = find_planes(np.concatenate([wall + noise, rng.uniform(-3, 3, (800, 3))]))
    assert abs(plane.normal @ normal) > np.cos(np.radians(0.5))
    assert abs(plane.offset) == pytest.approx(3, abs=0.01)
    assert find_planes(rng.uniform(-3, 3, (4000, 3))) == []
    assert find_planes(np.zeros((0, 3))) == []


def test_depth_of_a_plane_along_rays():
    path, _, depth = seen()
    rays = pixel_rays(K, H, W) @ path[0, :3, :3].T
    normal, offset = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([2.0, -1.4])
    z = plane_depth(normal, offset, rays, path[0, :3, 3])
    points = path[0, :3, 3] + rays * depth[0][..., None]
    wall, floor = (points[..., 0] - 2).abs() < 1e-4, (points[..., 2] + 1.4).abs() < 1e-4
    assert wall.any() and floor.any()
    assert torch.allclose(z[..., 0][wall], depth[0][wall], atol=1e-3)
    assert torch.allclose(z[..., 1][floor], depth[0][floor], atol=1e-3)
    assert (z[..., 1][points[..., 2] > 1] == 0).all()


@pytest.mark.parametrize("bias", [0.9, 1.1])
def test_new_surface_goes_onto_the_planes_of_the_map(bias):
    path, rgb, depth = seen()
    known = torch.ones(T, H, W, dtype=torch.bool)
    known[..., 40:] = False
    estimate = torch.where(known, depth, bias * depth)
    geometry = Geometry(estimate, torch.full_like(depth, 0.5), torch.zeros_like(depth))
    points = unproject(depth, K, path)[known].numpy()
    found = continue_planes(geometry, rgb, path, K, known, find_planes(points))
    error = (found.depth / depth).log().abs()
    assert torch.equal(found.depth[known], depth[known])
    assert float((error[~known] < 0.02).float().mean()) > 0.8
    assert float(error[~known].mean()) < 0.4 * abs(np.log(bias))
    assert (geometry.depth == estimate).all()


def test_without_planes_or_new_surface_nothing_changes():
    path, rgb, depth = seen()
    known = torch.ones(T, H, W, dtype=torch.bool)
    geometry = Geometry(1.1 * depth, torch.full_like(depth, 0.5), torch.zeros_like(depth))
    same = continue_planes(geometry, rgb, path, K, known, [Plane(np.array([0.0, 0.0, 1.0]), -1.4)])
    assert same is geometry
