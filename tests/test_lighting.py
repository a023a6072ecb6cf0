"""Frames as relit renders: lines that were planted are found, and the loss asks for the contrast that is left."""

import pytest
import torch
from torch.nn import functional as F

from spatia_env.train.relighting_loss import relight, render_loss

HEIGHT, WIDTH = 64, 96


@pytest.fixture
def render():
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(1, 3, 8, 12, generator=generator), (HEIGHT, WIDTH), mode="bilinear")
    return 1.6 * coarse - 0.8 + 0.1 * torch.randn(1, 3, HEIGHT, WIDTH, generator=generator)


def masks(moving_from=WIDTH):
    known = torch.ones(1, 1, HEIGHT, WIDTH)
    known[..., :8] = 0
    moving = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
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
    one, half = torch.ones(1, 1, HEIGHT, WIDTH), torch.full((1, 3, HEIGHT, WIDTH), 0.5)
    assert render_loss(one, half, relit, known, moving) < 0.01
    # Half a share under full light leaves the same contrast.
    assert render_loss(0.5 * one, 2 * half, relit, known, moving) < 0.01
    share = float(known.mean())
    assert float(render_loss(0 * one, half, relit, known, moving)) == pytest.approx(0.5 * share, abs=0.01)
    plain = relight(render, render, known, moving)
    assert render_loss(one, 2 * half, plain, known, moving) == 0
    assert float(render_loss(one, half, plain, known, moving)) == pytest.approx(0.5 * share)
    assert float(render_loss(0 * one, half, plain, known, moving)) == pytest.approx(share)
