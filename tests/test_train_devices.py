"""A batch follows its network: losses do not mix devices, shown on tensors that have no numbers."""

import contextlib

import pytest
import torch

from spatia_env.errors import ActionError
from spatia_env.models.conditioning import Conditions
from spatia_env.models.spatial_conditioning import FALLING_CHANNELS, PLACE_CHANNELS
from spatia_env.train.autoencoder import fresh_autoencoder
from spatia_env.train.dataset import Batch, Pixels
from spatia_env.train.devices import device_of, to_device
from spatia_env.train.distill import DistillConfig, distill_loss
from spatia_env.train.world_model import (
    TransformerSize,
    WorldModel,
    WorldModelConfig,
    begin_transformer,
    size_of,
    tiny_transformer,
    world_loss,
)

SMALL = TransformerSize(heads=2, head_dim=32, ffn_dim=64, layers=2, control_layers=(0,))


def batch(rows=2, h=4, w=6, references=1) -> Batch:
    latents = lambda frames: torch.zeros(rows, 48, frames, h, w)  # noqa: E731
    conditions = Conditions(
        torch.zeros(rows, 5, 384), latents(references), latents(4), torch.zeros(rows, 64, 12, h, w),
        torch.zeros(rows, FALLING_CHANNELS + PLACE_CHANNELS, 12, h, w),
    )  # fmt: skip
    picture = torch.zeros(3, 3, 16 * h, 16 * w)
    index = torch.zeros(3, dtype=torch.int64)
    plane = torch.ones(3, 1, 16 * h, 16 * w)
    pixels = Pixels(
        index,
        index,
        picture,
        picture,
        plane,
        plane,
        plane[:, 0] > 0,
        plane.expand(-1, 2, -1, -1),
        plane.expand(-1, 4, -1, -1),
    )
    return Batch(conditions, latents(8), torch.ones(rows, 1, 8, h, w), pixels)


def test_everything_in_a_batch_moves_and_the_rest_stays():
    moved = to_device((batch(), [torch.zeros(2)], {"a": torch.ones(1), "b": "text"}), torch.device("meta"))
    clip, parts, named = moved
    assert {t.device.type for t in (clip.clean, clip.conditions.control, clip.pixels.moving, parts[0])} == {
        "meta"
    }
    assert named["a"].device.type == "meta" and named["b"] == "text"


@pytest.mark.parametrize("loss", ["world", "distill"])
def test_losses_stay_on_the_device_of_the_network(loss, monkeypatch):
    # A tensor on "meta" has no numbers, and none may be asked of it; nor does autocast know it.
    monkeypatch.setattr(torch.Tensor, "item", lambda self: 0.0)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    model = WorldModel(tiny_transformer(SMALL), fresh_autoencoder()).to("meta")
    given = to_device(batch(), torch.device("meta"))
    generator = torch.Generator().manual_seed(0)
    assert device_of(model).type == "meta"
    if loss == "world":
        photos = torch.zeros(1, 3, 64, 96, device="meta")
        value, _ = world_loss(model, given, photos, WorldModelConfig(), generator)
    else:
        value, _ = distill_loss(model.transformer, model.transformer, given, DistillConfig(), generator)
    value.backward()
    assert value.device.type == "meta"


def test_a_run_keeps_the_size_it_began_with(tmp_path):
    assert begin_transformer(tmp_path, SMALL).config.num_layers == 2
    assert size_of(tmp_path) == SMALL
    (tmp_path / "state.safetensors").touch()
    with pytest.raises(ActionError, match="--size"):
        begin_transformer(tmp_path, TransformerSize())
