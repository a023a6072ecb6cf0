"""How the picture of a plane goes on: its shifts, its light, and what does not belong to it."""

import numpy as np
import pytest

from spatia_env.slam import texture_synthesis
from spatia_env.slam.texture_synthesis import TEXEL, best_shifts, continue_pattern, self_differences

H, W = 60, 84


def tiles(at: np.ndarray, period=(0.42, 0.3)) -> np.ndarray:
    """Colours [N, 3] of a tiled plane with dark joints at places [N, 2]."""
    inside = (np.abs((at / period) % 1 - 0.5) < 0.42).all(-1)
    return np.where(inside[:, None], [0.8, 0.7, 0.6], [0.3, 0.3, 0.35]).astype(np.float32)


def samples(low: tuple[float, float], high: tuple[float, float], step=0.02) -> np.ndarray:
    """Places [N, 2] of a regular grid."""
    u, v = np.meshgrid(np.arange(low[0], high[0], step), np.arange(low[1], high[1], step))
    return np.stack([u.ravel(), v.ravel()], -1).astype(np.float32)


def psnr(a, b) -> float:
    return float(-10 * np.log10(np.square(a - b).mean() + 1e-12))


def test_differences_at_all_shifts_are_those_of_two_loops():
    rng = np.random.default_rng(0)
    picture, known = rng.random((11, 17)).astype(np.float32), rng.random((11, 17)) < 0.7
    fast, overlap = self_differences(picture, known)
    assert fast.shape == (11, 17)
    for down in range(-5, 6):
        for right in range(-8, 9):
            total, count = 0.0, 0
            for row in range(11):
                for column in range(17):
                    r, c = row + down, column + right
                    if 0 <= r < 11 and 0 <= c < 17 and known[row, column] and known[r, c]:
                        total += (picture[row, column] - picture[r, c]) ** 2
                        count += 1
            assert overlap[down + 5, right + 8] == pytest.approx(count, abs=1e-2)
            if count:
                assert fast[down + 5, right + 8] == pytest.approx(total / count, abs=1e-4)


def test_the_shifts_of_a_pattern_are_its_periods():
    rows, columns = np.mgrid[:H, :W]
    picture = ((rows % 10 < 2) | (columns % 14 < 3)).astype(np.float32)
    known = np.ones((H, W), bool)
    known[20:34, 30:50] = False
    found = best_shifts(picture, known)
    assert found and all(down % 10 == 0 and right % 14 == 0 for down, right in found)
    assert (0, 14) in found or (10, 0) in found
    assert best_shifts(picture, np.zeros((H, W), bool)) == []


def test_copies_on_a_wall_rather_keep_their_height(monkeypatch):
    noise = np.random.default_rng(0).random((H, W)).astype(np.float32)
    known = np.ones((H, W), bool)
    free, kept = best_shifts(noise, known), best_shifts(noise, known, 0.05)
    assert max(down for down, _ in kept) < max(down for down, _ in free)
    costs = []
    monkeypatch.setattr(
        texture_synthesis, "best_shifts", lambda _, __, storey: costs.append(storey) or [(0, 9)]
    )
    seen_at, wanted_at = samples((0, 0), (2, 1)), samples((2, 0), (3, 1))
    for upright in (False, True):
        continue_pattern(seen_at, tiles(seen_at), wanted_at, upright)
    assert costs[0] == 0 < costs[1]


def test_a_frame_that_is_hardly_stranger_than_its_wall_is_left_out_with_its_window():
    rows, columns = np.mgrid[:H, :W]
    away = np.maximum(np.abs(rows - 30), np.abs(columns - 40))
    seen = np.full((H, W, 3), 0.7, np.float32)
    seen[away < 16], seen[away < 11] = 0.82, 0.2
    known = np.ones((H, W), bool)
    left_out = texture_synthesis._strange(seen, known)
    assert left_out[away < 16].all() and not left_out[away > 24].any()
    known[:, 40:] = False
    assert not texture_synthesis._strange(seen, known)[:, 40:].any()


def test_tiles_go_on_in_step():
    seen_at, wanted_at = samples((0, 0), (2.4, 1.5)), samples((2.4, 0), (4.2, 1.5), 0.03)
    shown = continue_pattern(seen_at, tiles(seen_at), wanted_at)
    flat = np.broadcast_to(tiles(seen_at).mean(0), shown.shape)
    assert psnr(shown, tiles(wanted_at)) > psnr(flat, tiles(wanted_at)) + 4


def test_light_goes_on_apart_from_the_pattern():
    seen_at, wanted_at = samples((0, 0), (2.4, 1.5)), samples((2.5, 0), (2.8, 1.5), 0.03)

    def lit(at):
        return tiles(at) * (1 - 0.2 * at[:, :1])

    shown = continue_pattern(seen_at, lit(seen_at), wanted_at)
    assert abs(float(shown.mean() - lit(wanted_at).mean())) < 0.06
    assert float(shown.std()) > 0.6 * float(lit(wanted_at).std())


def test_a_poster_is_not_repeated():
    seen_at, wanted_at = samples((0, 0), (3, 2)), samples((3, 0), (4.5, 2), 0.03)
    rgb = np.full((len(seen_at), 3), 0.7, np.float32)
    poster = ((seen_at > [1.0, 0.8]) & (seen_at < [1.7, 1.5])).all(1)
    rgb[poster] = [0.1, 0.6, 0.1]
    shown = continue_pattern(seen_at, rgb, wanted_at)
    assert np.abs(shown - 0.7).max() < 0.05
    assert np.abs(continue_pattern(seen_at, rgb, seen_at[poster]) - [0.1, 0.6, 0.1]).mean() < 0.05


def test_what_was_seen_is_shown_as_it_was_though_samples_lie_apart():
    seen_at = samples((0, 0), (2, 1.2), 2 * TEXEL)
    rgb = np.full((len(seen_at), 3), 0.25, np.float32)
    assert np.abs(continue_pattern(seen_at, rgb, seen_at + 0.02) - 0.25).max() < 1e-3
