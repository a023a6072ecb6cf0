import pytest
import torch

from spatia_env.release import renderer
from spatia_env.release.renderer import render_discs

HEIGHT, WIDTH = 9, 14
K = torch.tensor([[13.0, 0, 6.2], [0, 12, 5.1], [0, 0, 1]])


def scene(count=60):
    generator = torch.Generator().manual_seed(4)
    points = torch.rand(count, 3, generator=generator) * torch.tensor([2.0, 1.5, 2]) + torch.tensor(
        [-1, -0.7, 0.7]
    )
    return points, torch.rand(count, 3, generator=generator)


def render_slowly(points, colors, pose, radius, count, project):
    image = torch.zeros(4, HEIGHT, WIDTH)
    camera = points @ pose[:3, :3].T + pose[:3, 3]
    for v in range(HEIGHT):
        for u in range(WIDTH):
            near = []
            for (x, y, z), color in zip(camera, colors, strict=True):
                px, py = project(float(x), float(y), float(z))
                distance = (u + 0.5 - px) ** 2 + (v + 0.5 - py) ** 2
                if z > 0 and distance <= radius**2:
                    near.append((float(z), 1 - distance / radius**2, color))
            left = 1.0
            for _, weight, color in sorted(near, key=lambda item: item[0])[:count]:
                image[:, v, u] += left * weight * torch.cat([color, torch.ones(1)])
                left *= 1 - weight
    return image


def opencv(x, y, z):
    return 13 * x / z + 6.2, 12 * y / z + 5.1


def released(x, y, z):
    stretch = HEIGHT / (HEIGHT - 1)
    return (
        WIDTH / 2 + stretch * (13 * x / z - (6.2 - (WIDTH - 1) / 2)),
        HEIGHT / 2 + stretch * (12 * y / z - (5.1 - (HEIGHT - 1) / 2)),
    )


@pytest.mark.parametrize(("projection", "project"), [("opencv", opencv), ("release", released)])
def test_matches_the_obvious_loop(projection, project):
    points, colors = scene()
    pose = torch.eye(4)
    pose[0, 3] = 0.1
    rgb, coverage = render_discs(points, colors, pose[None], K, HEIGHT, WIDTH, 0.4, 3, projection)
    expected = render_slowly(points, colors, pose, 0.4 * HEIGHT / 2, 3, project)
    torch.testing.assert_close(torch.cat([rgb[0], coverage], dim=0), expected, atol=1e-5, rtol=1e-5)


def test_parts_give_the_same_picture(monkeypatch):
    points, colors = scene()
    whole = render_discs(points, colors, torch.eye(4)[None], K, HEIGHT, WIDTH, 0.4)
    monkeypatch.setattr(renderer, "_FRAGMENTS", 200)
    parts = render_discs(points, colors, torch.eye(4)[None], K, HEIGHT, WIDTH, 0.4)
    torch.testing.assert_close(parts, whole)


def test_points_behind_the_camera_and_an_empty_map_show_nothing():
    points, colors = scene()
    for cloud, paint in ((-points, colors), (points[:0], colors[:0])):
        rgb, coverage = render_discs(cloud, paint, torch.eye(4).repeat(2, 1, 1), K, HEIGHT, WIDTH)
        assert rgb.shape == (2, 3, HEIGHT, WIDTH) and not rgb.any() and not coverage.any()
