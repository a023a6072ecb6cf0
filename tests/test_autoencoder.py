"""The tiny autoencoder: shapes, and how its decoder mixes what the map remembers with what it draws."""

import pytest
import torch

from spatia_env.models.autoencoder import REST_OF_LIGHT, SHARE_SLOPE, TinyAutoencoder

HEIGHT, WIDTH = 32, 48


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TinyAutoencoder(channels=(16, 16, 16)).eval()


@pytest.fixture
def seen():
    """Raw latents, a render and where it is known: the left half."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 48, HEIGHT // 16, WIDTH // 16, generator=generator)
    render = torch.rand(2, 3, HEIGHT, WIDTH, generator=generator) * 2 - 1
    known = torch.zeros(2, 1, HEIGHT, WIDTH)
    known[..., : WIDTH // 2] = 1
    return raw, render, known


def answer(network, share=0.0, light=0.0):
    """Let the head say one share (as a logit) and one light (likewise) everywhere, whatever it sees."""
    with torch.no_grad():
        network.head.weight[3 * 16 :] = 0
        network.head.bias[3 * 16 : 4 * 16] = share
        network.head.bias[4 * 16 :] = light


def test_frames_come_back_in_their_shape_one_by_one(network):
    frames = torch.rand(1, 3, 5, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = network.encode(frames)
    assert latents.shape == (1, 48, 5, HEIGHT // 16, WIDTH // 16)
    decoded = network.decode(latents)
    assert decoded.shape == frames.shape
    torch.testing.assert_close(network.decode(latents[:, :, 3:4]), decoded[:, :, 3:4])


@torch.no_grad()
def test_what_the_map_knows_is_shown_as_it_is_where_the_light_rests(network, seen):
    raw, render, known = seen
    # Light up to a tenth off is the network's own noise.
    answer(network, share=8.0, light=0.9 * 2 * REST_OF_LIGHT)
    shown, share, *_ = network.decode_parts(raw, render, known)
    half = WIDTH // 2
    torch.testing.assert_close(shown[..., :half], render[..., :half], atol=1e-5, rtol=0)
    assert share.amin() == 0 and share.amax() > 0.999
    answer(network, share=-8.0)
    torch.testing.assert_close(
        network.decode_raw(raw, render, known)[..., half:], shown[..., half:], atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_light_is_a_gain_of_the_render(network, seen):
    raw, render, known = seen
    answer(network, share=8.0, light=-1.5)
    shown = network.decode_raw(raw, render, known)[..., : WIDTH // 2]
    gain = 2 * torch.sigmoid(torch.tensor(-1.5)) * torch.exp(torch.tensor(REST_OF_LIGHT))
    torch.testing.assert_close(shown, (render[..., : WIDTH // 2] + 1) * gain - 1, atol=1e-5, rtol=0)


def test_learning_shows_the_same_pictures_and_its_slope_is_that_of_a_plain_sigmoid(
    network, seen, monkeypatch
):
    monkeypatch.setattr("spatia_env.models.autoencoder.knows_bfloat16", lambda: False)
    answer(network, share=1.2)
    learning, share, *_ = network.decode_parts(*seen)
    with torch.no_grad():
        playing, steep, *_ = network.decode_parts(*seen)
    torch.testing.assert_close(learning, playing)
    torch.testing.assert_close(share, steep)
    assert float(steep.amax()) == pytest.approx(float(torch.sigmoid(torch.tensor(SHARE_SLOPE * 1.2))))
    (slope,) = torch.autograd.grad(share.sum(), network.head.bias)
    plain = torch.sigmoid(torch.tensor(1.2))
    pixels = float(seen[2].sum())
    assert float(slope[3 * 16 : 4 * 16].sum()) == pytest.approx(float(plain * (1 - plain)) * pixels, rel=1e-4)
