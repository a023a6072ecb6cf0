"""Perceptual distance, match accuracy, camera control and smoothness: each must see its planted fault."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from spatia_env.bench import matching, perceptual
from spatia_env.bench.camera_control import best_scale, camera_control
from spatia_env.bench.episodes import record
from spatia_env.bench.matching import Localiser, interpolation_smoothness, match_accuracy
from spatia_env.bench.metrics import pose_errors
from spatia_env.bench.paths import WS_UNIT
from spatia_env.bench.ws_static import estimator_of
from spatia_env.errors import ActionError
from spatia_env.geometry import path_from_twist
from spatia_env.sim.scenes import SimScene

SCENE = 10003
SIZE = (128, 128)


@pytest.fixture(scope="module")
def push():
    return record(SCENE, "ws:push_in", SIZE, 1)


def noisy(frames, sigma):
    return np.clip(frames + np.random.default_rng(0).normal(0, sigma, frames.shape), 0, 255).astype(np.uint8)


def blurred(frames, sigma):
    return gaussian_filter(frames, (0, sigma, sigma, 0))


# -- perceptual distance ------------------------------------------------------------------------------------------


def test_the_perceptual_distance_is_that_of_its_package():
    """Values of the package's own network on these pictures (which needs more than its weights to be imported)."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[0:64, 0:80]
    a = np.stack([rows * 3, columns * 3, (rows + columns) * 1.5], -1).clip(0, 255).astype(np.uint8)
    b = np.clip(a + rng.normal(0, 25, a.shape), 0, 255).astype(np.uint8)
    assert perceptual.distance(b[None], a[None])[0] == pytest.approx(PACKAGE_NOISE, rel=1e-4)
    assert perceptual.distance((255 - a)[None], a[None])[0] == pytest.approx(PACKAGE_INVERSE, rel=1e-4)


PACKAGE_NOISE, PACKAGE_INVERSE = 0.637961, 0.901437


def test_the_perceptual_distance_ranks_damage_and_forgives_a_shift(push):
    frames = push.frames[:2]
    same, light, heavy, blur, shift, grey = (
        perceptual.distance(x, frames).mean()
        for x in (
            frames, noisy(frames, 8), noisy(frames, 40), blurred(frames, 2), np.roll(frames, 1, 2),
            np.full_like(frames, 128),
        )
    )  # fmt: skip
    assert same == 0
    assert light < heavy < grey
    assert shift < light
    assert blur > 3 * shift
    with pytest.raises(ValueError, match="shapes differ"):
        perceptual.distance(frames, frames[:1])


def test_without_its_weights_it_says_what_to_install(monkeypatch):
    perceptual.weights.cache_clear()
    monkeypatch.setattr(perceptual, "available", lambda: False)
    with pytest.raises(ActionError, match="pip install --no-deps stlpips-pytorch"):
        perceptual.weights()
    monkeypatch.setattr(matching, "available", lambda: False)
    with pytest.raises(ActionError, match="spatia-env\\[bench\\]"):
        matching.opencv()


# -- matches ------------------------------------------------------------------------------------------------------


def test_match_accuracy_sees_another_place_and_damage(push):
    start = push.frames[0]
    assert match_accuracy(start, start) == 1
    assert match_accuracy(noisy(start, 4), start) > 0.6
    assert match_accuracy(noisy(start, 60), start) < 0.4
    assert match_accuracy(start[:, ::-1], start) < 0.1
    # The same things at other places are no matches: the view moved by a fifth of the picture.
    assert match_accuracy(np.roll(start, 25, 1), start) < 0.15
    assert match_accuracy(np.full_like(start, 90), start) == 0


# -- cameras from frames ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(push):
    """Frames of the push-in's path from cameras that are off: turned by 4 degrees, moved by 8 cm, moved too far."""
    moved = push.c2w[1:].copy()
    moved[:, :3, 3] += 0.08 * moved[:, :3, 0]
    turned = path_turned(push.c2w[1:], 4)
    with SimScene(SCENE) as scene:
        return {
            name: np.stack([scene.render(pose, *SIZE).rgb for pose in poses])
            for name, poses in (("moved", moved), ("turned", turned))
        }


def path_turned(poses, degrees):
    twist = torch.tensor([0, 0, 0, 0, np.radians(degrees), 0], dtype=torch.float32)
    return np.stack([path_from_twist(torch.from_numpy(pose), twist, 1)[0].numpy() for pose in poses])


def control(frames, truth):
    localiser, right = estimator_of(truth)
    found = [pose for pose, ok in zip(localiser.locate(frames), right, strict=True) if ok]
    return camera_control(found, truth.c2w[1:][right], truth.c2w[0], WS_UNIT)


def test_poses_are_estimated_from_true_frames_to_a_degree_and_centimetres(push):
    found = Localiser(push.frames[0], push.depth[0], push.c2w[0], push.K).locate(push.frames[1:])
    assert all(pose is not None for pose in found)
    metres, degrees = pose_errors(np.stack(found), push.c2w[1:])
    assert np.median(degrees) < 1 and np.median(metres) < 0.04


def test_camera_control_ranks_truth_above_blur_above_wrong_cameras_above_standing_still(push, elsewhere):
    truth = control(push.frames[1:], push)
    assert truth["score"] > 85
    assert truth["placed"] == 1
    blur = control(noisy(blurred(push.frames[1:], 0.8), 2), push)
    assert blur["score"] > 75
    turned, moved = control(elsewhere["turned"], push), control(elsewhere["moved"], push)
    assert turned["degrees"] == pytest.approx(4, abs=1)
    assert moved["units"] > truth["units"] + 0.08
    assert max(turned["score"], moved["score"]) < blur["score"]
    frozen = control(np.repeat(push.frames[:1], 8, 0), push)
    assert frozen["score"] < 10
    nothing = control(np.random.default_rng(0).integers(0, 256, push.frames[1:].shape, np.uint8), push)
    assert nothing["score"] == 0


def test_the_formula_is_worldscores():
    start = np.eye(4)
    true = np.repeat(np.eye(4)[None], 4, 0)
    true[:, 2, 3] = [0.25, 0.5, 0.75, 1.0]
    assert camera_control(list(true), true, start, 1.0)["score"] == pytest.approx(100, abs=1e-3)
    # Scale does not matter, as the best one is taken.
    half = true.copy()
    half[:, 2, 3] /= 2
    assert camera_control(list(half), true, start, 1.0)["score"] == pytest.approx(100, abs=1e-2)
    turned = path_turned(true.astype(np.float32), 3).astype(float)
    scores = camera_control(list(turned), true, start, 1.0)
    assert scores["degrees"] == pytest.approx(3, abs=1e-3)
    assert scores["score"] == pytest.approx(100 * np.sqrt(1 - 3 / 15), abs=0.1)
    # A degree is worth 3.4 points, two centimetres of an unscaled path show, and a pose that is missing counts fully.
    one = path_turned(true.astype(np.float32), 1).astype(float)
    assert camera_control(list(one), true, start, 1.0)["score"] == pytest.approx(96.6, abs=0.1)
    aside = true.copy()
    aside[:, 0, 3] = 0.02
    assert camera_control(list(aside), true, start, 1.0)["units"] > 0.015
    missing = camera_control([None, *true[1:]], true, start, 1.0)
    assert missing["placed"] == 0.75
    assert missing["score"] == pytest.approx(75, abs=0.1)
    assert camera_control([None] * 4, true, start, 1.0)["score"] == 0


def test_the_best_scale_minimises_the_sum_of_norms():
    rng = np.random.default_rng(2)
    moved, target = rng.normal(size=(2, 9, 3))
    costs = {c: np.linalg.norm(c * moved - target, axis=-1).sum() for c in np.linspace(0, 3, 301)}
    best = best_scale(moved, target)
    assert np.linalg.norm(best * moved - target, axis=-1).sum() <= min(costs.values()) + 1e-4
    assert best_scale(np.zeros((3, 3)), target[:3]) == 0


# -- motion -------------------------------------------------------------------------------------------------------


def test_smoothness_sees_jumps_and_flicker(push):
    smooth = interpolation_smoothness(push.frames)
    shuffled = push.frames[[0, 3, 1, 5, 2, 7, 4, 8, 6]]
    flicker = push.frames.astype(int) + np.where(np.arange(9) % 2, 25, -25)[:, None, None, None]
    assert interpolation_smoothness(shuffled) < smooth - 4
    assert interpolation_smoothness(np.clip(flicker, 0, 255).astype(np.uint8)) < smooth - 4
    assert interpolation_smoothness(noisy(push.frames, 12)) < smooth
