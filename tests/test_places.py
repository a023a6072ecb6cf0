"""The planes that say where things are, against pixel by pixel arithmetic."""

import numpy as np
import pytest
import torch

from spatia_env.geometry import intrinsics_from_fov, look_at, path_from_twist, upright
from spatia_env.models.spatial_conditioning import (
    CELLS,
    FAR,
    PLACE_CHANNELS,
    place_planes,
    with_preceding,
    without_points,
)

HEIGHT, WIDTH, STRIDE = 64, 96, 16


@pytest.fixture(scope="module")
def clip():
    generator = torch.Generator().manual_seed(0)
    K = intrinsics_from_fov(60.0, HEIGHT, WIDTH)
    start = look_at(torch.tensor([1.0, 2.0, 1.4]), torch.tensor([2.0, 3.0, 1.0]))
    c2w = path_from_twist(start, torch.tensor([0.1, 0.0, 0.4, 0.0, 0.3, 0.1]), 3)
    depth = 1 + 3 * torch.rand(3, HEIGHT, WIDTH, generator=generator)
    known = torch.rand(3, HEIGHT, WIDTH, generator=generator) < 0.6
    known[:, :STRIDE, :STRIDE] = False
    return depth * known, known, c2w, start, K


def slow_planes(depth, known, c2w, start, K):
    """One latent pixel and one sub-cell at a time."""
    rows, columns = HEIGHT // STRIDE, WIDTH // STRIDE
    out = np.zeros((PLACE_CHANNELS, len(depth), rows, columns))
    frame = np.linalg.inv(upright(start.double().numpy()))
    K = K.double().numpy()
    edge = STRIDE // CELLS
    for t in range(len(depth)):
        pose = frame @ c2w[t].double().numpy()
        for row in range(rows):
            for column in range(columns):
                for cell in range(CELLS**2):
                    top = row * STRIDE + cell // CELLS * edge
                    left = column * STRIDE + cell % CELLS * edge
                    inside = known[t, top : top + edge, left : left + edge].numpy()
                    if not inside.any():
                        continue
                    z = depth[t, top : top + edge, left : left + edge].numpy()[inside].mean()
                    ray = np.linalg.inv(K) @ [left + edge / 2, top + edge / 2, 1.0]
                    point = pose[:3, :3] @ (ray * z) + pose[:3, 3]
                    out[cell : 3 * CELLS**2 : CELLS**2, t, row, column] = point / (
                        1 + np.linalg.norm(point) / FAR
                    )
                u, v = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
                ray = pose[:3, :3] @ (np.linalg.inv(K) @ [u, v, 1.0])
                out[-8:-5, t, row, column] = ray / np.linalg.norm(ray)
                out[-5:-2, t, row, column] = pose[:3, 3]
                out[-2:, t, row, column] = 2 * u / WIDTH - 1, 2 * v / HEIGHT - 1
    return out


def test_planes_are_those_of_pixel_by_pixel_arithmetic(clip):
    fast = place_planes(*clip, HEIGHT // STRIDE, WIDTH // STRIDE)
    assert fast.shape == (PLACE_CHANNELS, 3, HEIGHT // STRIDE, WIDTH // STRIDE)
    np.testing.assert_allclose(fast.numpy(), slow_planes(*clip), atol=2e-5)
    assert not fast[:-8, :, 0, 0].any() and fast[:-8, :, 1, 1].any()


def test_turning_the_whole_world_about_its_vertical_changes_nothing(clip):
    depth, known, c2w, start, K = clip
    turn = look_at(torch.tensor([3.0, -1.0, 0.5]), torch.tensor([4.0, 1.0, 0.5]))
    motion = torch.from_numpy(upright(turn.numpy())).float()
    fast = place_planes(depth, known, c2w, start, K, 4, 6)
    moved = place_planes(depth, known, motion @ c2w, motion @ start, K, 4, 6)
    torch.testing.assert_close(fast, moved, atol=2e-5, rtol=0)


@pytest.mark.parametrize("target", [(1.0, 2.0, 3.0), (1.0, 2.0, -3.0)])
def test_a_camera_that_looks_straight_up_or_down_has_a_frame_too(target):
    up = torch.tensor([0.0, 1.0, 0.0])
    pose = look_at(torch.tensor([1.0, 2.0, 0.0]), torch.tensor(target), up)
    frame = torch.from_numpy(upright(pose.numpy())).float()
    torch.testing.assert_close(frame[:3, :3], torch.eye(3))
    torch.testing.assert_close(frame[:3, 3], pose[:3, 3])


def test_given_frames_know_their_place_in_the_picture_only(clip):
    planes = place_planes(*clip, 4, 6)[None]
    whole = with_preceding(planes, 2)
    assert torch.equal(whole[:, :, 2:], planes)
    assert not whole[:, :-2, :2].any() and torch.equal(whole[:, -2:, 0], planes[:, -2:, 0])


def test_a_forgotten_map_leaves_rays_and_cameras(clip):
    planes = place_planes(*clip, 4, 6)
    forgotten = without_points(planes)
    assert not forgotten[:-8].any() and torch.equal(forgotten[-8:], planes[-8:]) and planes[:-8].any()
