"""Panoramas of simulated scenes agree with their pictures."""

import math

import numpy as np
import pytest

from spatia_env.memory.panorama import panorama_rays
from spatia_env.sim.panorama import SURFACES, render_panorama
from spatia_env.sim.scenes import SimScene, camera_pose


@pytest.mark.parametrize("seed", [10003, 10001])
def test_a_panorama_shows_what_a_picture_shows(seed: int) -> None:
    with SimScene(seed) as scene:
        eye = np.array(scene.plan.eye)
        around = render_panorama(scene, eye, 64, 240)
        yaw = 0.7
        c2w = camera_pose(tuple(eye), yaw, 0.0)
        frame = scene.render(c2w, 96, 96)
        K = scene.K(96, 96)
    local = panorama_rays(64, 240).numpy() @ c2w[:3, :3]
    z = np.maximum(local[..., 2], 1e-6)
    u, v = local[..., 0] / z * K[0, 0] + K[0, 2], local[..., 1] / z * K[1, 1] + K[1, 2]
    inside = (local[..., 2] > 0.3) & (u > 1) & (u < 95) & (v > 1) & (v < 95)
    row, column = v[inside].astype(int), u[inside].astype(int)
    colour = np.abs(frame.rgb[row, column].astype(float) - around.rgb[inside]).mean()
    depth = frame.depth[row, column] / local[..., 2][inside]
    assert inside.sum() > 1000
    assert colour < 6
    assert np.median(np.abs(depth / around.distance[inside] - 1)) < 0.02


def test_all_directions_are_surfaces_of_a_kind() -> None:
    with SimScene(10001) as scene:
        eye, size = np.array(scene.plan.eye), scene.plan.size
        around = render_panorama(scene, eye, 48, 200)
    assert (around.distance > 0).all()
    assert (around.surface[0] != SURFACES.index("ground")).all()
    ground = around.surface == SURFACES.index("ground")
    heights = eye[2] + panorama_rays(48, 200).numpy()[..., 2] * around.distance
    assert ground.any() and np.abs(np.median(heights[ground])) < 0.03
    assert math.hypot(*size[:2]) > around.distance[ground].max()
