"""bfloat16 where a CPU knows it: close to float32, never where gradients are taken, the same every time."""

import pytest
import torch

from spatia_env.models import autoencoder as precision
from spatia_env.models.autoencoder import TinyAutoencoder
from spatia_env.models.loading import load_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 12, 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (4, 96, 64), mode="trilinear", align_corners=False)


@pytest.fixture(scope="module")
def autoencoder():
    return load_checkpoint("spatia-tiny").pipeline.autoencoder


@pytest.mark.parametrize("knows", [True, False])
def test_products_are_coarser_only_where_the_processor_knows_how(monkeypatch, knows):
    monkeypatch.setattr(precision, "knows_bfloat16", lambda: knows)
    a = torch.randn(8, 8)
    with precision.reduced(CPU):
        assert (a @ a).dtype == (torch.bfloat16 if knows else torch.float32)
    with precision.reduced(CPU, wanted=False):
        assert (a @ a).dtype == torch.float32
    with precision.reduced(torch.device("cuda")):
        assert (a @ a).dtype == torch.float32


def test_latents_and_frames_stay_close_to_those_of_float32(monkeypatch, autoencoder, pictures):
    found = {}
    for knows in (False, True):
        monkeypatch.setattr(precision, "knows_bfloat16", lambda knows=knows: knows)
        with torch.no_grad():
            latents = autoencoder.encode(pictures)
            found[knows] = latents, autoencoder.decode(latents)
    (exact, shown), (coarse, similar) = found[False], found[True]
    assert coarse.dtype == similar.dtype == torch.float32
    assert 0 < float((exact - coarse).square().mean().sqrt()) < 0.01
    assert float((shown - similar).square().mean().sqrt()) < 0.01


def test_one_picture_is_encoded_as_it_is_among_others(monkeypatch, autoencoder, pictures):
    monkeypatch.setattr(precision, "knows_bfloat16", lambda: True)
    with torch.no_grad():
        together, alone = autoencoder.encode(pictures), autoencoder.encode(pictures[:, :, 1:2])
    assert float((together[:, :, 1:2] - alone).square().mean().sqrt()) < 0.01


def test_learning_is_exact(monkeypatch):
    monkeypatch.setattr(precision, "knows_bfloat16", lambda: True)
    network = TinyAutoencoder(channels=(8, 8, 8))
    frames = network.decode(torch.randn(1, 48, 2, 3, 2))
    assert frames.dtype == torch.float32 and frames.requires_grad
    exact = network.decode_raw(network.denormalise(torch.ones(1, 48, 3, 2)))
    monkeypatch.setattr(precision, "knows_bfloat16", lambda: False)
    assert torch.equal(exact, network.decode_raw(network.denormalise(torch.ones(1, 48, 3, 2))))
