"""A room with a table to edit, and an eye on it."""

import numpy as np
import torch

from maps import map_of_points
from spatia_env.geometry import intrinsics_from_fov, look_at
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory import blocks as blk
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.regions import Box

RED, GREY = (200, 30, 30), (120, 120, 120)
BOX = Box((1, 0, 0.2), (0.4, 0.4, 0.36))
EYE = look_at(torch.tensor([-0.4, -0.8, 1.2]), torch.tensor([1.0, 0.0, 0.1]))
LENS = intrinsics_from_fov(60, 96, 128)
SIZE = (96, 128)


def table() -> SceneMemory:
    """A grey floor of 2 m, and a red hollow box of about 0.3 m that stands on it at (1, 0); one point a voxel."""
    floor = np.argwhere(np.ones((100, 100, 1))) - [0, 50, 0]
    floor = floor[~((floor[:, 0] >= 42) & (floor[:, 0] < 58) & (floor[:, 1] >= -8) & (floor[:, 1] < 8))]
    box = np.argwhere(np.ones((16, 16, 15)))
    shell = (box[:, :2] == 0).any(1) | (box[:, :2] == 15).any(1) | (box[:, 2] == 14)
    box = box[shell] + [42, -8, 1]
    colour = np.array([GREY] * len(floor) + [RED] * len(box), np.uint8)
    return map_of_points((np.concatenate([floor, box]) + 0.5) * 0.02, colour)


def shifted(*by: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


def one_point(*at: float, count: int = 1) -> PointCloud:
    one = np.ones(count, np.float32)
    return PointCloud(
        np.array([at] * count, np.float32).reshape(-1, 3), np.ones((count, 3), np.uint8), one, one
    )


def in_box(rows: np.ndarray) -> np.ndarray:
    return BOX.contains(rows["position"])


def assert_sound(memory: SceneMemory) -> None:
    assert memory.num_points == sum(len(block) for block in memory.blocks.values())
    for key, block in memory.blocks.items():
        assert blk.block_problem(block, key, memory.voxel, memory.voxels_per_side) == ""
        assert not block.flags.writeable and len(block)


def pixel_of(point) -> tuple[float, float]:
    camera = (torch.tensor(point, dtype=torch.float32) - EYE[:3, 3]) @ EYE[:3, :3]
    u, v, w = (LENS @ camera).tolist()
    return u / w, v / w
