"""Every metric must see its planted fault, and rank truth above light above heavy damage."""

import numpy as np
import pytest
import torch

from rooms import room_view
from spatia_env.bench import metrics
from spatia_env.bench.statistics import cluster_bootstrap, median_bootstrap, paired_difference
from spatia_env.geometry import intrinsics_from_fov, look_at, path_from_twist, unproject

HEIGHT, WIDTH = 60, 84


@pytest.fixture(scope="module")
def room():
    """A walk of 8 frames through the analytic room: frames u8, depth, c2w, K."""
    K = intrinsics_from_fov(60, HEIGHT, WIDTH)
    start = look_at(torch.tensor([-1.0, -1.5, 0.1]), torch.tensor([1.0, 1.5, -0.1]))
    c2w = path_from_twist(start, torch.tensor([0.1, 0.0, 0.4, 0.0, 0.3, 0.0]), 8)
    rgb, depth = room_view(c2w, K, HEIGHT, WIDTH)
    return (rgb.movedim(1, -1) * 255).round().byte().numpy(), depth.numpy(), c2w, K


def seen_from(c2w, K):
    rgb, depth = room_view(c2w, K, HEIGHT, WIDTH)
    return (rgb.movedim(1, -1) * 255).round().byte().numpy(), depth.numpy()


def turned(c2w, degrees):
    return path_from_twist(c2w, torch.tensor([0, 0, 0, 0, np.radians(degrees), 0], dtype=torch.float32), 1)[0]


def noisy(frames, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


# -- pictures ---------------------------------------------------------------------------------------------------


def test_psnr_follows_its_definition(room):
    frames, *_ = room
    other = noisy(frames, 10)
    mse = ((frames.astype(float) - other) ** 2).mean()
    assert metrics.psnr(other, frames) == pytest.approx(10 * np.log10(255**2 / mse))
    assert metrics.psnr(frames, frames) == metrics.PSNR_CAP
    assert metrics.psnr(np.zeros_like(frames), np.full_like(frames, 255)) == 0


def test_psnr_looks_only_at_the_mask(room):
    frames, *_ = room
    mask = np.zeros(frames.shape[:3], bool)
    mask[:, :10] = True
    damaged = frames.copy()
    damaged[~mask] = 0
    assert metrics.psnr(damaged, frames, mask) == metrics.PSNR_CAP
    assert metrics.psnr(damaged, frames) < 20
    with pytest.raises(ValueError, match="no pixels"):
        metrics.psnr(frames, frames, np.zeros_like(mask))


def test_a_picture_that_is_not_finite_is_the_worst(room):
    frames = room[0].astype(np.float64)
    frames[0, 0, 0, 0] = np.nan
    assert metrics.psnr(frames, room[0]) == metrics.PSNR_WORST


@pytest.mark.parametrize(
    "score", [metrics.psnr, lambda a, b: np.mean([metrics.ssim(x, y) for x, y in zip(a, b, strict=True)])]
)
def test_picture_scores_rank_damage(room, score):
    frames, *_ = room
    light, heavy, frozen = noisy(frames, 4), noisy(frames, 30), np.repeat(frames[:1], len(frames), 0)
    assert score(frames, frames) > score(light, frames) > score(heavy, frames)
    assert score(light, frames) > score(frozen, frames)


def test_ssim_is_one_for_equal_pictures_and_sees_lost_structure(room):
    frame = room[0][0]
    flat = np.full_like(frame, frame.mean())
    assert metrics.ssim(frame, frame) == pytest.approx(1)
    assert metrics.ssim(flat, frame) < 0.6


@pytest.mark.parametrize("fault", ["degree", "centimetres"])
def test_frame_psnr_sees_a_wrong_camera(room, fault):
    frames, _, c2w, K = room
    if fault == "degree":
        wrong = torch.stack([turned(pose, 1.0) for pose in c2w])
    else:
        wrong = c2w.clone()
        wrong[:, 0, 3] += 0.02
    clean = metrics.frame_psnr(noisy(frames, 1), frames).mean()
    assert metrics.frame_psnr(seen_from(wrong, K)[0], frames).mean() < clean - 6


def test_frame_psnr_leaves_tiny_samples_out(room):
    frames = room[0]
    mask = np.zeros(frames.shape[:3], bool)
    mask[0, :20] = True
    mask[1, 0, :3] = True
    scores = metrics.frame_psnr(frames, frames, mask)
    assert scores[0] == metrics.PSNR_CAP
    assert np.isnan(scores[1:]).all()


def test_order_score_sees_shuffled_frames(room):
    frames = room[0]
    assert metrics.order_score(noisy(frames, 3), frames) == 1
    assert metrics.order_score(frames[[3, 1, 2, 0, 4, 5, 7, 6]], frames) == 0.5
    assert metrics.psnr(frames[::-1], frames) < metrics.psnr(noisy(frames, 3), frames) - 6


def test_shapes_must_agree(room):
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.psnr(room[0][:4], room[0])


# -- depth ------------------------------------------------------------------------------------------------------


def test_absrel_measures_one_percent_of_scale(room):
    depth = room[1]
    assert metrics.depth_absrel(depth, depth) == 0
    assert metrics.depth_absrel(depth * 1.01, depth) == pytest.approx(0.01, rel=1e-4)


def test_absrel_sees_a_wrong_camera(room):
    _, depth, c2w, K = room
    closer = c2w.clone()
    closer[:, :3, 3] += 0.02 * closer[:, :3, 2]
    assert metrics.depth_absrel(seen_from(closer, K)[1], depth) > 0.004
    assert metrics.depth_absrel(seen_from(torch.stack([turned(p, 1.0) for p in c2w]), K)[1], depth) > 0.004


def test_leaving_pixels_out_does_not_help_absrel(room):
    depth = room[1]
    half = depth.copy()
    half[..., ::2] = 0
    assert metrics.depth_absrel(half, depth) == pytest.approx(0.5)
    half[..., ::2] = np.nan
    assert metrics.depth_absrel(half, depth) == pytest.approx(0.5)
    assert metrics.depth_absrel(depth * 100, depth) == metrics.ABSREL_WORST


def test_absrel_ignores_pixels_without_truth(room):
    depth = room[1]
    truth = depth.copy()
    truth[:, :10] = 0
    guess = depth.copy()
    guess[:, :10] = 77
    assert metrics.depth_absrel(guess, truth) == 0
    with pytest.raises(ValueError, match="no pixel"):
        metrics.depth_absrel(depth, np.zeros_like(depth))


# -- maps -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def surface(room):
    return unproject(torch.from_numpy(room[1]), room[3], room[2]).reshape(-1, 3)[::5].numpy()


def test_a_perfect_map_scores_perfectly(surface):
    scores = metrics.map_scores(surface, surface)
    assert scores["fscore"] == 1
    assert scores["chamfer"] == 0


def test_map_scores_see_planted_faults(surface):
    rng = np.random.default_rng(0)
    centre = surface.mean(0)
    shifted = metrics.map_scores(surface + [0.02, 0, 0], surface)
    assert 0.002 < shifted["accuracy"] <= 0.02
    # Ghosts hang in the middle of the room.
    ghosts = np.concatenate([surface, centre + rng.normal(0, 0.1, (len(surface) // 20, 3))])
    scores = metrics.map_scores(ghosts, surface)
    assert scores["precision"] == pytest.approx(1 / 1.05, abs=0.005)
    assert scores["recall"] == 1
    assert metrics.ghost_share(ghosts, surface) == pytest.approx(0.05 / 1.05, abs=0.005)
    assert metrics.ghost_share(surface, surface) == 0
    # Half of the map is missing: accuracy does not notice, completeness does.
    half = surface[surface[:, 0] < centre[0]]
    scores = metrics.map_scores(half, surface)
    assert scores["accuracy"] == 0
    assert scores["recall"] < 0.8
    assert (
        metrics.map_scores(surface * 1.03, surface)["accuracy"]
        > metrics.map_scores(surface, surface)["accuracy"]
    )


def test_an_empty_map_is_the_worst(surface):
    scores = metrics.map_scores(np.zeros((0, 3)), surface)
    assert scores["fscore"] == 0
    assert scores["completeness"] == 0.5


# -- poses ------------------------------------------------------------------------------------------------------


def test_pose_errors_measure_a_degree_and_two_centimetres(room):
    true = room[2].double().numpy()
    degree = torch.stack([turned(pose, 1.0) for pose in room[2]]).numpy()
    metres, degrees = metrics.pose_errors(degree, true)
    assert np.allclose(degrees, 1, atol=1e-3)
    assert np.allclose(metres, 0, atol=1e-6)
    moved = true.copy()
    moved[:, 1, 3] += 0.02
    metres, degrees = metrics.pose_errors(moved, true)
    assert np.allclose(metres, 0.02)
    assert np.allclose(degrees, 0, atol=1e-5)


def test_pose_errors_are_exact_up_to_a_half_turn():
    poses = np.repeat(np.eye(4)[None], 4, 0)
    angles = np.array([1e-4, 90, 179, 180])
    for pose, angle in zip(poses, np.radians(angles), strict=True):
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert np.allclose(metrics.pose_errors(poses, np.repeat(np.eye(4)[None], 4, 0))[1], angles, atol=1e-6)


def test_relative_pose_errors_do_not_add_up(room):
    true = room[2].double().numpy()
    offset = true.copy()
    offset[4:, 0, 3] += 0.1
    metres, _ = metrics.relative_pose_errors(offset, true)
    assert (metres > 0.05).sum() == 1


def test_scale_error_measures_one_percent(room):
    true = room[2].double().numpy()
    scaled = true.copy()
    scaled[:, :3, 3] = true[:1, :3, 3] + 1.01 * (true[:, :3, 3] - true[:1, :3, 3])
    assert metrics.scale_error(scaled, true) == pytest.approx(0.01, rel=1e-6)
    with pytest.raises(ValueError, match="does not move"):
        metrics.scale_error(true, np.repeat(true[:1], 8, 0))


def test_poses_that_are_not_finite_are_the_worst(room):
    bad = room[2].double().numpy().copy()
    bad[2, 0, 0] = np.nan
    metres, degrees = metrics.pose_errors(bad, room[2].numpy())
    assert degrees[2] == 180
    assert np.isfinite(metres).all()


# -- intervals --------------------------------------------------------------------------------------------------


def test_the_interval_counts_scenes_not_frames():
    rng = np.random.default_rng(1)
    offsets = rng.normal(0, 2, 12)
    few = {s: [25 + offsets[s]] for s in range(12)}
    many = {s: [25 + offsets[s]] * 100 for s in range(12)}
    a, b = cluster_bootstrap(few), cluster_bootstrap(many)
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    half = 1.96 * offsets.std(ddof=1) / 12**0.5
    assert (a.high - a.low) / 2 == pytest.approx(half, rel=0.15)
    assert a.low < a.value < a.high
    assert a.n == 12


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        estimate = cluster_bootstrap(
            {s: rng.normal(rng.normal(0, 1), 0.5, 4) for s in range(15)}, resamples=400
        )
        hits += estimate.low <= 0 <= estimate.high
    assert 0.86 <= hits / 200 <= 0.98


def test_pairing_finds_a_small_gain_that_scenes_hide():
    rng = np.random.default_rng(3)
    base = {s: 25 + 4 * rng.normal() for s in range(12)}
    better = {s: v + 0.5 + 0.1 * rng.normal() for s, v in base.items()}
    gain = paired_difference(better, base)
    assert gain.low > 0.3
    alone = cluster_bootstrap({s: [v] for s, v in better.items()})
    assert alone.high - alone.low > 5 * (gain.high - gain.low)


def test_statistics_refuse_what_would_mislead():
    with pytest.raises(ValueError, match="not finite"):
        cluster_bootstrap({1: [float("nan")]})
    with pytest.raises(ValueError, match="no values"):
        cluster_bootstrap({})
    with pytest.raises(ValueError, match="scenes differ"):
        paired_difference({1: 2.0}, {2: 2.0})


def test_the_median_of_times_ignores_a_hiccup():
    estimate = median_bootstrap({1: [1.0, 1.1, 9.0], 2: [1.2, 1.0, 1.1], 3: [1.0, 1.0, 1.0]})
    assert estimate.value == pytest.approx(1.1)
    assert estimate.high < 2
