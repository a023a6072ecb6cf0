"""`spatia train geometry`: the network that completes depth and masks what moves, on remembered episodes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.errors import ActionError
from spatia_env.slam.depth_network import Geometry, Planes, TinyGeometry
from spatia_env.train.data import EpisodeStore
from spatia_env.train.devices import device_of, to_device
from spatia_env.train.geometry_data import Batch, Clip, geometry_batches, read_clip, read_picture
from spatia_env.train.geometry_metrics import Tally
from spatia_env.train.trainer import LoopConfig, Trainer, averaged_state

LOOKS = 5
"""Layers of attention of what is trained; a run from before them goes on with fresh, silent ones."""
MOVING_WEIGHT = 3.0
"""A missed mover spoils the map for good; a wall that waits one clip longer does not."""


@dataclass(frozen=True)
class GeometryConfig:
    """Train the geometry network."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(out=Path("runs/geometry"), learning_rate=1.2e-3)
    )
    data: tuple[Path, ...] = (Path("runs/data/train"),)
    """folders of episode files of the train split"""
    dev: Path = Path("runs/data/dev")
    """episode files of the dev split"""
    batch: int = 16
    """frames per step"""
    picture_share: float = 0.5
    """share of frames that are a first picture, without a map"""
    ground_share: float = 0.6
    """share of clips whose camera height above the ground is given"""
    dev_episodes: int = 16
    """episodes of each dev evaluation"""
    seed: int = 0


def train_geometry(config: GeometryConfig) -> dict[str, float]:
    """Train until the minutes are used up; returns the dev figures.

    Raises:
        ActionError: If the folders of `config.data` have no episodes.
    """
    torch.manual_seed(config.seed)
    store = EpisodeStore(*config.data)
    if not len(store):
        raise ActionError(
            f"{config.data[0]} has no episodes; run `spatia train data --out {config.data[0]}` first."
        )
    model = TinyGeometry(looks=LOOKS).to(memory_format=torch.channels_last)
    trainer = Trainer(model, config.loop)
    rng = np.random.default_rng([config.seed, trainer.step])
    batches = geometry_batches(store, config.batch, rng, config.picture_share, config.ground_share)
    return trainer.run(batches, lambda batch: _loss(model, batch), lambda: evaluate(model, config))


def load_trained(run: Path) -> TinyGeometry:
    """The geometry network of a run folder, with averaged weights, as deep as these are."""
    weights = averaged_state(run)
    fine, middle, coarse, looks = (
        len({name.split(".")[1] for name in weights if name.startswith(f"{part}.")})
        for part in ("fine_down", "middle_down", "coarse", "look")
    )
    model = TinyGeometry(blocks=(fine, middle, coarse), looks=looks)
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last).eval()


def _loss(model: TinyGeometry, batch: Any) -> tuple[Tensor, dict[str, float]]:
    return geometry_loss(model.predict(batch.planes, batch.base, batch.known), batch)


def geometry_loss(said: Planes, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Errors of depth and its edges, of the expected error, of the gate and of the dynamic mask, summed."""
    valid = batch.valid.float()
    error = (said.log_depth - batch.target).abs()
    depth = _mean(error, valid)
    edges = edge_loss(said.log_depth - batch.target, valid)
    # The expected error learns from the error, not the other way round, or hard pixels would be given up.
    scale = said.log_error.clamp(-7, 2)
    sureness = _mean(scale + error.detach() * torch.exp(-scale), valid)
    gate = F.binary_cross_entropy(said.keep.clamp(1e-4, 1 - 1e-4), batch.agrees.float(), reduction="none")
    gate = _mean(gate, valid * batch.known)
    moving = F.binary_cross_entropy_with_logits(
        said.dynamic, batch.dynamic.float(), pos_weight=said.dynamic.new_tensor(MOVING_WEIGHT)
    )
    loss = depth + 0.5 * edges + 0.05 * sureness + 0.1 * gate + moving
    parts = {"depth": depth, "edges": edges, "sureness": sureness, "gate": gate, "moving": moving}
    return loss, {name: value.item() for name, value in parts.items()}


def edge_loss(difference: Tensor, valid: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute gradient of a difference of log depths [N, H, W] at several scales: edges and flat walls."""
    total = difference.new_zeros(())
    for scale in range(scales):
        step = 2**scale
        d, v = difference[:, ::step, ::step], valid[:, ::step, ::step]
        total = total + _mean((d[:, 1:] - d[:, :-1]).abs(), v[:, 1:] * v[:, :-1])
        total = total + _mean((d[:, :, 1:] - d[:, :, :-1]).abs(), v[:, :, 1:] * v[:, :, :-1])
    return total / scales


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1)


def evaluate(model: TinyGeometry, config: GeometryConfig) -> dict[str, float]:
    """Figures over the dev clips (maps as stored) and first pictures; see `Tally.figures`."""
    store = EpisodeStore(config.dev)
    tally, with_ground, without = Tally(), Tally(), Tally()

    def estimate(clip: Clip, ground: float | None = None) -> Geometry:
        said = model(*to_device(clip.seen(), device_of(model)), ground=ground)
        return to_device(said, torch.device("cpu"))

    for index in range(min(config.dev_episodes, len(store))):
        episode = store.open(index)
        for number in range(episode.num_clips):
            clip = read_clip(episode, number)
            tally.add(estimate(clip, 0.0), clip.depth, clip.dynamic, clip.known)
        picture = read_picture(episode, 0)
        with_ground.add(estimate(picture, 0.0), picture.depth, picture.dynamic, picture.known)
        without.add(estimate(picture), picture.depth, picture.dynamic, picture.known)
    figures = tally.figures()
    figures["absrel_picture"] = with_ground.figures()["absrel"]
    figures["absrel_picture_no_ground"] = without.figures()["absrel"]
    return figures
