"""The loss on local contrast: it sees specks wherever they are, and nothing else."""

import numpy as np
import torch

from spatia_env.train.contrast_loss import LEVELS, WINDOW, contrasts, detail_loss

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
