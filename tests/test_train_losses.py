"""Losses on pictures: contrasts see specks wherever they are, and planted lines of relighting are found."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spatia_env.train.losses import LEVELS, WINDOW, contrasts, detail_loss, relight, render_loss

N, H, W = 2, 64, 96


def specks(seed, count=60, height=H, width=W):
    rng = np.random.default_rng(seed)
    picture = torch.zeros(1, 3, height, width)
    picture[0, :, rng.integers(0, height, count), rng.integers(0, width, count)] = 1.0
    return picture


def test_contrasts_are_those_of_loops():
    pictures = torch.rand(N, 3, H, W, generator=torch.Generator().manual_seed(0))
    bands = contrasts(pictures)
    assert len(bands) == LEVELS
    x = pictures[1, 2].numpy().astype(np.float64)
    for level, band in enumerate(bands):
        edge = WINDOW >> level
        rows, columns = x.shape
        low = np.array(
            [
                [
                    np.mean(
                        [
                            x[min(max(r + i, 0), rows - 1), min(max(c + j, 0), columns - 1)]
                            for i in (-1, 0, 1)
                            for j in (-1, 0, 1)
                        ]
                    )
                    for c in range(columns)
                ]
                for r in range(rows)
            ]
        )
        window = (x - low)[:edge, edge : 2 * edge]
        assert abs(float(band[1, 2, 0, 1]) - np.abs(window).mean()) < 1e-6
        assert abs(float(band[1, 5, 0, 1]) - np.sqrt((window**2).mean() + 1e-6)) < 1e-6
        x = low.reshape(rows // 2, 2, columns // 2, 2).mean((1, 3))


def test_specks_elsewhere_are_nearer_than_the_haze_that_is_their_mean():
    truth, other = specks(0), specks(1)
    haze = torch.full_like(truth, float(truth.mean()))
    even = torch.ones(1, 1, H, W)
    assert float((haze - truth).square().mean()) < float((other - truth).square().mean())
    assert float(detail_loss(other, truth, even)) < 0.5 * float(detail_loss(haze, truth, even))
    assert float(detail_loss(truth, truth, even)) == 0.0


def test_an_even_noise_of_equal_mean_size_is_not_taken_for_specks():
    truth, even = specks(0), torch.ones(1, 1, H, W)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    noise *= float(contrasts(truth)[0][:, :3].mean() / contrasts(noise)[0][:, :3].mean())
    assert float(detail_loss(noise, truth, even)) > 1.2 * float(detail_loss(specks(1), truth, even))


def test_what_weighs_nothing_does_not_count():
    truth, half = specks(0), torch.ones(1, 1, H, W)
    half[..., W // 2 :] = 0
    changed = truth.clone()
    changed[..., W // 2 + 32 :] = 0
    assert float(detail_loss(changed, truth, half)) < 1e-7
    assert float(detail_loss(changed, truth, torch.ones(1, 1, H, W))) > 1e-3


# -- relighting ---------------------------------------------------------------------------------


@pytest.fixture
def render():
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(1, 3, 8, 12, generator=generator), (H, W), mode="bilinear")
    return 1.6 * coarse - 0.8 + 0.1 * torch.randn(1, 3, H, W, generator=generator)


def masks(moving_from=W):
    known = torch.ones(1, 1, H, W)
    known[..., :8] = 0
    moving = torch.zeros(1, H, W, dtype=torch.bool)
    moving[..., moving_from:] = True
    return known, moving


def test_plain_light_is_known(render):
    relit = relight(render, render + 0.02, *masks())
    assert relit.plain.all() and relit.agrees.all() and relit.explained.all()
    assert (relit.gain - 1).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("gain", "veil"), [((0.2, 0.27, 0.48), 0.02), ((0.95, 0.24, 0.2), 0.1), ((0.4,) * 3, 0.4)]
)
def test_a_lamp_or_a_fog_is_a_line(render, gain, veil):
    gains = torch.tensor(gain).view(1, 3, 1, 1)
    frames = 2 * (gains * (render + 1) / 2 + veil) - 1
    relit = relight(render, frames, *masks())
    assert not relit.plain.any() and relit.explained.mean() > 0.99
    assert (relit.gain - gains).abs()[..., 16:].mean() < 0.03


def test_what_moves_is_not_explained_and_takes_no_part(render):
    known, moving = masks(moving_from=60)
    frames = 0.5 * (render + 1) - 1
    frames[..., 60:] = torch.tensor([0.9, -0.9, -0.9]).view(1, 3, 1, 1)
    relit = relight(render, frames, known, moving)
    assert relit.explained[..., :60].mean() > 0.99 and relit.explained[..., 60:].mean() < 0.1
    assert (relit.gain[..., 20:50] - 0.5).abs().mean() < 0.02


def test_the_loss_is_nothing_for_the_relit_render_and_what_is_missing_otherwise(render):
    known, moving = masks()
    relit = relight(render, 0.5 * (render + 1) - 1, known, moving)
    one, half = torch.ones(1, 1, H, W), torch.full((1, 3, H, W), 0.5)
    assert render_loss(one, half, relit, known, moving) < 0.01
    # Half a share under full light leaves the same contrast.
    assert render_loss(0.5 * one, 2 * half, relit, known, moving) < 0.01
    share = float(known.mean())
    assert float(render_loss(0 * one, half, relit, known, moving)) == pytest.approx(0.5 * share, abs=0.01)
    plain = relight(render, render, known, moving)
    assert render_loss(one, 2 * half, plain, known, moving) == 0
    assert float(render_loss(one, half, plain, known, moving)) == pytest.approx(0.5 * share)
    assert float(render_loss(0 * one, half, plain, known, moving)) == pytest.approx(share)
