import pytest
import torch

import maps
from spatia_env.errors import ActionError
from spatia_env.geometry import invert_se3
from spatia_env.release.retrieval import (
    match_references,
    overlap_counts,
    retrieve,
    visible_mask,
    visible_rows,
)

HEIGHT, WIDTH = 10, 16
K = torch.tensor([[12.0, 0, 7.5], [0, 11, 5.2], [0, 0, 1]])


def cameras(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, :3, 3] = 0.4 * torch.randn(count, 3, generator=generator)
    return poses


def cloud(count=300, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, generator=generator) * torch.tensor([3.0, 2, 4]) - torch.tensor([1.5, 1, 0.5])


def visible_slowly(points, w2c):
    masks = []
    for pose in w2c:
        pixels, mask = {}, []
        camera = points @ pose[:3, :3].T + pose[:3, 3]
        for x, y, z in camera:
            u = int(float(K[0, 0] * x / z + K[0, 2])) if z > 0 else -1
            v = int(float(K[1, 1] * y / z + K[1, 2])) if z > 0 else -1
            pixel = (u, v) if z > 0 and 0 <= u < WIDTH and 0 <= v < HEIGHT else None
            mask.append((pixel, float(z)))
            if pixel is not None:
                pixels[pixel] = min(pixels.get(pixel, float("inf")), float(z))
        masks.append([pixel is not None and z <= pixels[pixel] + 1e-6 for pixel, z in mask])
    return torch.tensor(masks)


def test_visibility_matches_the_obvious_loop():
    points, poses = cloud(), cameras(3)
    assert torch.equal(visible_mask(points, poses, K, HEIGHT, WIDTH), visible_slowly(points, poses))
    assert torch.equal(
        visible_mask(points, poses[:, :3], K, HEIGHT, WIDTH), visible_mask(points, poses, K, HEIGHT, WIDTH)
    )


def test_a_point_just_left_of_the_image_lands_in_its_first_column():
    points = torch.tensor([[(-0.9 - 7.5) / 12, 0, 1.0], [(-1.1 - 7.5) / 12, 0, 1.0]])
    assert visible_mask(points, torch.eye(4)[None], K, HEIGHT, WIDTH).tolist() == [[True, False]]


def test_chunks_do_not_hide_one_another():
    points = torch.tensor([[0.0, 0, 1], [0, 0, 2], [0, 0, 3]])
    pose = torch.eye(4)[None]
    assert visible_mask(points, pose, K, HEIGHT, WIDTH).tolist() == [[True, False, False]]
    assert visible_mask(points, pose, K, HEIGHT, WIDTH, chunk=2).tolist() == [[True, False, True]]


def test_bfloat16_rounds_counts_above_256():
    mask = torch.zeros(2, 1101, dtype=torch.bool)
    mask[0] = True
    mask[1, :200] = True
    assert overlap_counts(mask, mask).tolist() == [[1101, 200], [200, 200]]
    assert overlap_counts(mask, mask, "bfloat16").tolist() == [[1104, 200], [200, 200]]


def test_matches_are_one_to_one_and_best_in_sum():
    counts = torch.tensor([[9.0, 8, 0], [9, 1, 0]])
    assert match_references(counts) == [(0, 1), (1, 0)]
    assert match_references(torch.zeros(2, 2)) == [(0, 0), (1, 1)]


def test_more_targets_than_candidates_is_refused():
    with pytest.raises(ActionError, match="fewer targets"):
        match_references(torch.ones(3, 2))


def test_retrieval_finds_the_camera_itself():
    poses = cameras(5)
    assert retrieve(cloud(), poses[[3, 1]], poses, K, HEIGHT, WIDTH) == [(0, 3), (1, 1)]
    assert retrieve(cloud(), poses[[3, 1]], poses, K, HEIGHT, WIDTH, release_exact=True) == [(0, 3), (1, 1)]


def test_visible_rows_are_those_of_the_whole_cloud():
    memory = maps.room_map(4)
    poses = torch.stack([maps.view_at(0.3 * i, (0.2 * i - 1, 0.1, 0.05)) for i in range(9)])
    points = torch.from_numpy(memory.points()["position"].copy())
    expected = visible_mask(points, invert_se3(poses), maps.K, maps.HEIGHT, maps.WIDTH)
    found = visible_rows(memory, poses, maps.K, maps.HEIGHT, maps.WIDTH)
    for rows, mask in zip(found, expected, strict=True):
        # The two divide in a different order: a point on the border of a pixel may change sides.
        assert len(set(rows.tolist()) ^ set(mask.nonzero().flatten().tolist())) <= 2 and len(rows) > 20
