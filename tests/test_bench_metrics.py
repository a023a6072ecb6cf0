"""Every metric sees its planted fault, and does not reward its known cheat."""

import numpy as np
import pytest
from scipy import ndimage

from spatia_env.bench import features, metrics

H, W = 96, 128
SEED = np.random.default_rng(0)


def room(seed: int = 0) -> np.ndarray:
    """A picture u8 [H, W, 3] with a floor line, a corner and three boxes, on calm surfaces."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((H, W, 3))
    picture[:60], picture[60:] = rng.uniform(120, 200, 3), rng.uniform(60, 120, 3)
    picture[:60, rng.integers(30, 100) :] *= 0.75
    for _ in range(3):
        top, left = rng.integers(20, 60), rng.integers(0, 100)
        picture[top : top + 25, left : left + 20] = rng.uniform(0, 255, 3)
    return (picture + rng.normal(0, 1.5, picture.shape)).clip(0, 255).astype(np.uint8)


ROOM = room()[None]
ALL = np.ones((1, H, W), bool)


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(frames.astype(float), (0, sigma, sigma, 0)).round().astype(np.uint8)


def hatched(frames: np.ndarray, period: int = 4, height: float = 40) -> np.ndarray:
    stripes = height * (np.arange(W) % period < period // 2)
    return (frames.astype(float) + stripes[None, None, :, None]).clip(0, 255).astype(np.uint8)


# -- pictures


def test_psnr_is_that_of_the_definition_and_capped():
    other = (ROOM.astype(int) + 10).clip(0, 255).astype(np.uint8)
    mse = ((ROOM.astype(float) - other) ** 2).mean()
    assert metrics.psnr(other, ROOM) == pytest.approx(10 * np.log10(255**2 / mse))
    assert metrics.psnr(ROOM, ROOM) == metrics.PSNR_CAP


def test_psnr_looks_at_the_mask_alone_and_refuses_an_empty_one():
    other = ROOM.copy()
    other[:, :10] = 0
    mask = ALL.copy()
    mask[:, :10] = False
    assert metrics.psnr(other, ROOM, mask) == metrics.PSNR_CAP > metrics.psnr(other, ROOM)
    with pytest.raises(ValueError, match="no pixels"):
        metrics.psnr(ROOM, ROOM, ~ALL)


def test_frames_with_little_of_the_mask_are_not_scored():
    mask = np.concatenate([ALL, np.zeros((1, H, W), bool)])
    scores = metrics.frame_psnr(np.concatenate([ROOM, ROOM]), np.concatenate([ROOM, ROOM]), mask)
    assert scores[0] == metrics.PSNR_CAP and np.isnan(scores[1])


def test_depth_left_out_counts_as_wrong_and_no_pixel_for_more_than_one():
    truth = np.full((H, W), 2.0)
    assert metrics.depth_absrel(truth * 1.1, truth) == pytest.approx(0.1)
    assert metrics.depth_absrel(np.zeros((H, W)), truth) == 1.0
    assert metrics.depth_absrel(np.full((H, W), 90.0), truth) == 1.0
    holes = truth.copy()
    holes[: H // 2] = 0
    assert metrics.depth_absrel(holes, truth) == pytest.approx(0.5)


# -- definiteness: a wash and a hatch must both lose


def test_the_truth_is_as_definite_as_itself():
    assert metrics.edge_score(ROOM, ROOM, ALL) == pytest.approx(1.0)


@pytest.mark.parametrize("sigma", [3, 6])
def test_a_wash_is_not_definite(sigma):
    assert metrics.edge_score(blurred(ROOM, sigma), ROOM, ALL) < 0.6


@pytest.mark.parametrize("period", [2, 4])
def test_hatching_over_a_wash_does_not_make_it_definite(period):
    wash = blurred(ROOM, 6)
    assert metrics.edge_score(hatched(wash, period), ROOM, ALL) <= metrics.edge_score(wash, ROOM, ALL)


def test_hatching_over_the_truth_is_seen():
    assert metrics.edge_score(hatched(ROOM), ROOM, ALL) < 0.5


def test_another_room_is_as_definite():
    others = [metrics.edge_score(room(seed)[None], ROOM, ALL) for seed in range(1, 7)]
    washes = [metrics.edge_score(blurred(room(seed)[None], 4), ROOM, ALL) for seed in range(1, 7)]
    assert np.mean(others) > 0.5 > np.mean(washes)


def test_edges_everywhere_are_no_better_than_too_few():
    noise = SEED.integers(0, 255, (1, H // 8, W // 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    assert metrics.edge_score(noise, ROOM, ALL) < 0.6


# -- sets of samples


def cells(count: int, spread: float, seed: int = 0, middle: float = 0.5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [middle + spread * rng.normal(size=(2, 16, 16, 3)) for _ in range(count)]


def test_one_answer_has_no_spread_and_noise_hardly_any():
    assert metrics.spread([cells(1, 0.1)[0]] * 4) == 0
    rooms = [metrics.coarse(room(i)[None]) for i in range(4)]
    noisy = [(ROOM + SEED.normal(0, 12, ROOM.shape)).clip(0, 255).astype(np.uint8) for _ in range(4)]
    assert metrics.spread([metrics.coarse(n) for n in noisy]) < 0.2 * metrics.spread(rooms)


def test_masked_cells_do_not_count():
    mask = ALL.copy()
    mask[:, :, : W // 2] = False
    other = ROOM.copy()
    other[:, :, : W // 2] = 0
    assert metrics.spread([metrics.coarse(ROOM, mask), metrics.coarse(other, mask)]) == 0


def test_draws_from_the_truth_have_the_best_energy_score():
    truth = cells(8, 0.2, seed=1)
    score = {
        "truth": metrics.energy_score(cells(4, 0.2, seed=2), truth),
        "its mean, once": metrics.energy_score([np.full((2, 16, 16, 3), 0.5)], truth),
        "too wide": metrics.energy_score(cells(4, 0.6, seed=3), truth),
        "elsewhere": metrics.energy_score(cells(4, 0.2, seed=4, middle=0.9), truth),
    }
    assert min(score, key=score.get) == "truth"


def test_patches_lie_wholly_in_the_mask():
    mask = np.zeros((1, 128, 192), bool)
    mask[:, :, 64:] = True
    frames = SEED.integers(0, 255, (1, 128, 192, 3)).astype(np.uint8)
    found = metrics.patches(frames, mask)
    assert found.shape == (4, 64, 64, 3)
    assert np.array_equal(found[0], frames[0, :64, 64:128])


def groups(shift: float = 0.0, scale: float = 1.0, seed: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [shift + scale * rng.normal(size=(30, 12)) for _ in range(8)]


def test_kid_is_near_zero_for_the_same_distribution_and_grows_otherwise():
    reference = np.random.default_rng(9).normal(size=(400, 12))
    ones = np.ones(8)
    same = metrics.kid(groups(), reference)(ones)
    assert abs(same) < 60
    assert metrics.kid(groups(shift=1.0), reference)(ones) > 10 * abs(same)
    assert metrics.kid([np.zeros((30, 12))] * 8, reference)(ones) > 3 * abs(
        same
    )  # the mean picture, for ever


def test_kid_is_that_of_the_definition_over_pairs_of_scenes():
    reference, parts = np.random.default_rng(9).normal(size=(20, 5)), groups()[:2]
    parts = [part[:6, :5] for part in parts]
    unit = [(p - reference.mean(0)) / np.sqrt(reference.var(0).mean()) for p in (*parts, reference)]
    k = lambda a, b: (float(a @ b) / 5 + 1) ** 3  # noqa: E731
    between = np.mean([k(a, b) for a in unit[0] for b in unit[1]])
    own = np.mean([k(unit[2][i], unit[2][j]) for i in range(20) for j in range(20) if i != j])
    cross = np.mean([k(a, r) for a in np.concatenate(unit[:2]) for r in unit[2]])
    assert metrics.kid(parts, reference)(np.ones(2)) == pytest.approx(1000 * (between + own - 2 * cross))


def test_kid_of_one_scene_is_unknown():
    assert np.isnan(metrics.kid(groups()[:1], np.random.default_rng(9).normal(size=(40, 12)))(np.ones(1)))


# -- seams


def test_a_colour_step_at_the_border_is_seen_and_a_moved_edge_is_not():
    smooth = np.repeat(np.linspace(80, 160, W)[None, None, :, None], H, 1).repeat(3, 3).astype(np.uint8)
    old = np.zeros((1, H, W), bool)
    old[:, :, :50] = True
    plain = metrics.seam_gradient(smooth, old)
    stepped = smooth.copy()
    stepped[:, :, 50:] += 40
    assert metrics.seam_gradient(stepped, old) > 5 * plain
    # A step that is elsewhere is no seam.
    away = smooth.copy()
    away[:, :, 80:] += 40
    assert metrics.seam_gradient(away, old) == pytest.approx(plain)


def test_specks_are_no_border():
    old = np.random.default_rng(0).random((1, H, W)) < 0.02
    assert np.isnan(metrics.seam_gradient(ROOM, old))


# -- networks


@pytest.mark.skipif(not features.available(), reason="the weights are not installed")
def test_stlpips_orders_faults():
    far = room(7)[None]
    distance = [float(features.distance(f, ROOM)[0]) for f in (ROOM, blurred(ROOM, 1), blurred(ROOM, 4), far)]
    assert distance[0] == 0 and distance == sorted(distance)
    with pytest.raises(ValueError, match="shapes"):
        features.distance(ROOM, ROOM[:, :-1])


@pytest.mark.parametrize("network", list(features.FILES))
def test_features_tell_rooms_from_washes(network):
    if not features.available(network):
        pytest.skip(f"{network}: the weights are not installed")
    rooms = np.stack([room(i) for i in range(12)])
    found = features.pooled(np.concatenate([rooms, blurred(rooms, 5)]), network)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    true, sharp, soft = found[:6], found[6:12], found[18:]
    gap = [np.linalg.norm(part.mean(0) - true.mean(0)) for part in (sharp, soft)]
    assert gap[0] < gap[1]
