"""`spatia train imagination`: the network that completes panoramas, by flow matching on those of `panoramas`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spatia_env.errors import ActionError
from spatia_env.models.panorama_networks import LayoutNetwork
from spatia_env.train.panorama_data import Batch, ConditionConfig, PanoramaBatches, PanoramaStore
from spatia_env.train.trainer import LoopConfig, Loss, Trainer

KNOWN_WEIGHT = 0.1
"""What is known is given back as it is; that the network can do so too only helps it to learn."""
SURFACE_WEIGHT = 0.5
LEAST_NOISE = 0.1


@dataclass(frozen=True)
class ImaginationConfig:
    """Train the imagination."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            out=Path("runs/imagination"), learning_rate=1e-3, warmup=200, eval_minutes=10.0
        )
    )
    data: Path = Path("runs/panoramas/train")
    """folder of shards of the train split; shards that appear while training are read too"""
    dev: Path = Path("runs/panoramas/dev")
    """folder of shards of the dev split"""
    batch: int = 32
    """panoramas per step"""
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    dev_samples: int = 96
    """panoramas of each dev evaluation"""
    masks: int = 1000
    """masks of views, drawn once"""
    seed: int = 0


def train_imagination(config: ImaginationConfig) -> dict[str, float]:
    """Train until the minutes are used up; returns the dev figures.

    Raises:
        ActionError: If the folder of `config.data` has no shards.
    """
    torch.manual_seed(config.seed)
    for folder in (config.data, config.dev):
        if not any(folder.glob("*.safetensors")):
            raise ActionError(
                f"{folder} has no panoramas; run `spatia train panoramas --out {folder}` first."
            )
    model = LayoutNetwork()
    trainer = Trainer(model, config.loop)
    generator = torch.Generator().manual_seed(1_000_003 * config.seed + trainer.step)
    batches = PanoramaBatches(
        PanoramaStore(config.data), config.batch, generator, config.condition, masks=config.masks
    )
    dev = dev_batch(config)
    objective = timed(lambda batch: layout_loss(model, batch, generator), config.batch)
    return trainer.run(iter(batches), objective, lambda: evaluate(model, dev))


def timed(loss: Loss, batch: int) -> Loss:
    """`loss`, which says with its parts how many samples a second there were since its last call."""
    last = time.monotonic()

    def measured(samples: Any) -> tuple[Tensor, dict[str, float]]:
        nonlocal last
        value, parts = loss(samples)
        now = time.monotonic()
        rate, last = batch / max(now - last, 1e-6), now
        return value, {**parts, "samples_per_second": rate}

    return measured


def call_in_bfloat16(model: nn.Module, *inputs: Tensor) -> Tensor:
    """`model(*inputs)` computed in bfloat16, channels last; gradients reach its float32 weights."""
    weights = {
        name: value.to(
            torch.bfloat16, memory_format=torch.channels_last if value.ndim == 4 else torch.preserve_format
        )
        for name, value in model.named_parameters()
    }
    return functional_call(model, weights, inputs)


def layout_loss(
    model: LayoutNetwork, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """`flow_loss` at random moments, most of them in the noisier half, where the choices are made."""
    moment = torch.sigmoid(torch.randn(len(batch.clean), generator=generator) - 0.4)
    return flow_loss(model, batch, moment, torch.randn(batch.clean.shape, generator=generator))


def flow_loss(
    model: LayoutNetwork, batch: Batch, moment: Tensor, noise: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """The error of the velocity at `moment` [B] of the path from `noise` to `batch.clean`; what is unknown counts."""
    t = moment[:, None, None, None]
    said = call_in_bfloat16(model, t * batch.clean + (1 - t) * noise, moment, batch.known)
    weight = (1 - (1 - KNOWN_WEIGHT) * batch.known[:, 4:]) / (1 - t).clamp_min(LEAST_NOISE) ** 2
    error = weight * (said - batch.clean) ** 2
    share = 1 - (1 - KNOWN_WEIGHT) * batch.known[:, 4].mean()
    colour, distance, surface = (error[:, a:b].mean() / share for a, b in ((0, 3), (3, 4), (4, 7)))
    loss = (3 * colour + distance + 3 * SURFACE_WEIGHT * surface) / (4 + 3 * SURFACE_WEIGHT)
    parts = {"colour": colour.item(), "distance": distance.item(), "surface": surface.item()}
    return loss, parts


def dev_batch(config: ImaginationConfig) -> Batch:
    """The same panoramas of the dev split and what is known of them, in every call."""
    generator = torch.Generator().manual_seed(5)
    store = PanoramaStore(config.dev)
    return next(
        iter(PanoramaBatches(store, config.dev_samples, generator, config.condition, masks=config.masks))
    )


def evaluate(model: LayoutNetwork, dev: Batch) -> dict[str, float]:
    """The loss and its parts on the dev batch, at moments spread evenly."""
    generator = torch.Generator().manual_seed(6)
    count = len(dev.clean)
    moment = torch.sigmoid(torch.special.ndtri((torch.arange(count) + 0.5) / count) - 0.4)
    moment = moment[torch.randperm(count, generator=generator)]
    loss, parts = flow_loss(model, dev, moment, torch.randn(dev.clean.shape, generator=generator))
    return {"loss": loss.item(), **parts}
