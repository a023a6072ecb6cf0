"""Detectors: right on simulator clips, quiet without events, and not easily fooled."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from spatia_env.bench import detectors
from spatia_env.bench.detector_check import Sample, simulate
from spatia_env.bench.detectors import detect, detect_all
from spatia_env.errors import PromptError
from spatia_env.events.vocabulary import EVENT_NAMES

SIZE = (112, 96)


@functools.lru_cache(maxsize=32)
def sample(name: str, seed: int = 10030) -> Sample:
    return simulate(seed, name, np.random.default_rng([seed, EVENT_NAMES.index(name) if name else 99]), *SIZE)


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_events_are_found_and_no_others(name):
    shown = sample(name)
    assert detect(name, shown.clip, shown.before, shown.expected)
    assert detect_all(shown.clip, shown.before, shown.expected) == [name]


def test_quiet_clips_are_quiet():
    for seed in (10030, 10031, 10034):
        shown = sample("", seed)
        assert detect_all(shown.clip, shown.before, shown.expected) == []


def test_a_standing_condition_is_not_an_event():
    for standing in ("night", "fog", "snow"):
        shown = simulate(10032, "", np.random.default_rng(3), *SIZE, standing=standing)
        assert detect_all(shown.clip, shown.before, shown.expected) == []


@pytest.mark.parametrize(
    "name", ["red_ball_rolls", "duck_falls", "car_drives", "balloon_rises", "fog", "night"]
)
def test_blurred_and_noisy_clips_still_count(name):
    shown = sample(name)
    noise = np.random.default_rng(0).normal(0, 6, shown.clip.shape)
    soft = ndimage.gaussian_filter(shown.clip.astype(float), (0, 1.2, 1.2, 0)) + noise
    assert detect(name, np.clip(soft, 0, 255).astype(np.uint8), shown.before, shown.expected)


@pytest.mark.parametrize("name", ["red_ball_rolls", "cubes_burst", "dim", "alarm_ends"])
def test_without_a_static_render(name):
    shown = sample(name)
    assert detect(name, shown.clip, shown.before)
    assert not detect(name, np.repeat(shown.before[None], 8, 0), shown.before)


def test_unknown_pixels_of_the_static_render_do_not_matter():
    shown = sample("sunset")
    holes = shown.expected.copy()
    holes[:, :, : SIZE[1] // 3] = 0
    assert detect("sunset", shown.clip, shown.before, holes)


def test_a_thing_that_stands_still_does_not_fall():
    frames = np.full((8, 60, 80, 3), 128, np.uint8)
    before = frames[0].copy()
    still = frames.copy()
    still[:, 20:34, 30:48] = (20, 40, 220)
    falling = frames.copy()
    for t in range(8):
        falling[t, 5 + 4 * t : 19 + 4 * t, 30:48] = (20, 40, 220)
    assert detect("blue_box_drops", falling, before, frames)
    assert not detect("blue_box_drops", still, before, frames)
    assert not detect("blue_box_drops", falling[::-1], before, frames)


def test_hues_are_apart_and_classes_right():
    hues = np.sort(list(detectors.HUES.values()))
    assert np.diff(np.concatenate([hues, [hues[0] + 360]])).min() >= 22
    picture = np.array([[[230, 10, 20], [240, 110, 0], [120, 120, 130], [20, 40, 220]]], np.uint8)
    names = [detectors.COLOURS[i] if i >= 0 else "" for i in detectors._colour_classes(picture, 0.6)[0]]
    assert names == ["red", "orange", "", "blue"]


def test_unknown_events_are_errors():
    with pytest.raises(PromptError):
        detect("dragon", np.zeros((8, 4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))
