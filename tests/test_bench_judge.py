"""The judge of events: it sees what happens, and lets neither near misses nor overlays pass."""

import numpy as np
import pytest

from spatia_env.bench import judge, staging
from spatia_env.bench.groups import permanence, things
from spatia_env.bench.judge import LOOKS, judge_mover, saw_condition, saw_mover
from spatia_env.bench.staging import act, gentle_path, near_misses
from spatia_env.sim.scenes import SimScene

pytest.importorskip("cv2")
SIZE = (128, 128)
SCENE = 10031
MOVERS = ("red_ball_rolls", "blue_box_drops", "duck_falls", "man_walks")


@pytest.fixture(scope="module")
def path():
    with SimScene(SCENE) as scene:
        return gentle_path(scene.initial_c2w, np.random.default_rng(1))


@pytest.fixture(scope="module")
def acted(path):
    return {name: act(SCENE, (name,), path, SIZE) for name in MOVERS}


@pytest.mark.parametrize("name", MOVERS)
def test_true_clips_are_seen_and_quiet_ones_are_not(acted, name):
    clip = acted[name]
    assert judge_mover(LOOKS[name], clip.clip, clip.expected) == ""
    assert not saw_mover(LOOKS[name], clip.expected, clip.expected)


@pytest.mark.parametrize("name", MOVERS)
def test_rectangles_and_discs_are_not_taken_for_things(acted, name):
    clip, look = acted[name], LOOKS[name]
    assert not saw_mover(look, staging.rectangles(clip, look.colours), clip.expected)
    assert not saw_mover(look, staging.discs(clip, look.colours), clip.expected)


@pytest.mark.parametrize("name", MOVERS[:3])
def test_near_misses_are_refused_for_what_they_miss(acted, path, name):
    for missed, wrong in near_misses(SCENE, name, path, SIZE, acted[name]).items():
        assert judge_mover(LOOKS[name], wrong.clip, wrong.expected) == missed


@pytest.mark.parametrize("name", MOVERS)
def test_no_other_mover_is_seen(acted, name):
    clip = acted[name]
    assert [other for other in LOOKS if saw_mover(LOOKS[other], clip.clip, clip.expected)] == [name]


def test_looks_compose(acted):
    blue = staging.recoloured(acted["red_ball_rolls"], "red", "blue")
    assert saw_mover(staging.composed_look("red_ball_rolls", "blue"), blue.clip, blue.expected)
    assert not saw_mover(LOOKS["red_ball_rolls"], blue.clip, blue.expected)
    assert not saw_mover(staging.composed_look("blue_box_drops", "blue"), blue.clip, blue.expected)


@pytest.mark.parametrize("name", ["night", "fog", "night_ends", "snow"])
def test_conditions_are_seen_and_told_apart(path, name):
    ends = {"night_ends": "night"}.get(name, "")
    clip = act(SCENE, (name,), path, SIZE, earlier=ends)
    seen = [n for n in ("dim", "night", "fog", "alarm", "sunset", "snow", "night_ends", "fog_ends")
            if saw_condition(n, clip.clip, clip.before, clip.expected)]  # fmt: skip
    assert seen == [name]


def test_a_relit_clip_shows_no_bodies(path, acted):
    night = act(SCENE, ("night",), path, SIZE)
    assert judge_mover(LOOKS["red_ball_rolls"], night.clip, night.expected) == "light"


def test_motion_words():
    mask = np.zeros((8, 60, 90), bool)
    for index in range(8):
        mask[index, 10 + 4 * index : 22 + 4 * index, 40:52] = True
    assert judge.moves(mask, "down") and judge.moves(mask, "")
    assert not judge.moves(mask, "up") and not judge.moves(mask, "across") and not judge.moves(mask, "bounce")
    assert judge.moves(mask[::-1], "up")
    assert judge.moves(np.concatenate([mask[::2], mask[::-2]]), "bounce")
    assert judge.moves(np.swapaxes(mask, 1, 2), "across")


def test_the_shape_model_knows_the_shapes_of_all_looks():
    model = judge.shape_model()
    assert set(model["shapes"]) >= {look.shape for look in LOOKS.values()} | {"flat", "blob"}
    assert tuple(model["features"]) == judge.FEATURES


# -- silhouettes


def square(top: int, left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((80, 100), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_moved_silhouette_loses_and_a_centred_one_does_not():
    first, moved = square(20, 20), square(30, 35)
    assert things.iou(first, first) == 1 > things.iou(first, moved)
    assert things.centred_iou(first, moved) == pytest.approx(1)
    assert things.centred_iou(first, np.zeros_like(first)) == 0


def test_a_disc_has_the_area_of_the_truth_and_not_its_shape():
    mask = square(20, 30, 24)
    disc = staging.disc_of(mask)
    assert disc.sum() == pytest.approx(mask.sum(), abs=12)
    assert things.iou(mask, disc) < 0.93


def test_hatching_and_flat_paint_both_differ_from_a_shaded_surface():
    mask = square(20, 20, 40)
    shaded = np.zeros((80, 100, 3), np.uint8)
    shaded[mask] = 120
    shaded += (
        (np.random.default_rng(0).normal(0, 4, shaded.shape) * mask[..., None])
        .astype(np.int8)
        .astype(np.uint8)
    )
    shaded = np.where(
        mask[..., None], 120 + np.random.default_rng(0).integers(-6, 7, shaded.shape), 0
    ).astype(np.uint8)
    flat = np.where(mask[..., None], np.uint8(120), np.uint8(0)).repeat(1, 2)
    flat = np.broadcast_to(flat, shaded.shape).copy()
    hatched = flat.copy()
    hatched[:, ::2] = np.where(mask[:, ::2, None], 160, 0)
    levels = [things.fine(frame, mask) for frame in (flat, shaded, hatched)]
    assert levels[0] < levels[1] < levels[2]


# -- permanence


def test_states_of_a_thing_at_the_return():
    truth = square(30, 40)
    twice = truth | square(30, 70)
    states = [
        permanence.state_of(truth, mask) for mask in (truth, twice, square(30, 70), np.zeros_like(truth))
    ]
    assert states == ["present", "duplicated", "moved", "gone"]
    # A smear of a third of its area is there; specks all over are not.
    specks = np.random.default_rng(0).random(truth.shape) < 0.05
    assert permanence.state_of(truth, specks) == "gone"
    assert permanence.gap_of(truth, np.zeros_like(truth)) == 1
