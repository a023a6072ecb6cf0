"""The loop: a batch follows its network (on tensors without numbers), and two processes make the steps of one."""

import contextlib
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from spatia_env.errors import ActionError
from spatia_env.models.conditioning import Conditions
from spatia_env.models.spatial_conditioning import FALLING_CHANNELS, PLACE_CHANNELS
from spatia_env.train.autoencoder import fresh_autoencoder
from spatia_env.train.dataset import Batch, Pixels
from spatia_env.train.distill import DistillConfig, distill_loss
from spatia_env.train.loop import device_of, to_device
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


# -- several processes ----------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from spatia_env.train.loop import LoopConfig, Trainer, open_processes

torch.set_num_threads(1)
out, size, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
generator = torch.Generator().manual_seed(1)
data = torch.randn(4 * steps, 5, generator=generator)


def batches():
    at = 0
    while True:
        yield data[at % len(data) : at % len(data) + size]
        at += size


def loss(batch):
    return (model(batch) - batch[:, :3]).square().mean(), {}


config = LoopConfig(out, minutes=5, max_steps=steps, learning_rate=0.01, warmup=1, log_every=1)
Trainer(model, config).run(batches(), loss, lambda: {"processes": float(open_processes().num_processes)})
"""


def run(folder, launcher, size):
    script = folder / "train.py"
    script.write_text(SCRIPT)
    out = folder / f"out{size}"
    command = [sys.executable, *launcher, str(script), str(out), str(size), "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(out / "state.safetensors"), (out / "log.csv").read_text()


def test_two_processes_make_the_steps_of_one(tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    together, log = run(tmp_path, launch, 2)
    alone, _ = run(tmp_path, [], 4)
    assert "dev_processes,2" in log and log.count("dev_processes") == 1, "one process logs"
    assert log.count(",loss,") == 6, "six steps, not twelve"
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)
