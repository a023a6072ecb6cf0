"""`spatia train autoencoder`: reconstruct simulator frames and photographs, one frame at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.errors import ActionError
from spatia_env.models.autoencoder import TinyAutoencoder
from spatia_env.models.spatial_conditioning import FALLING_PLANES
from spatia_env.slam.plane_extrapolation import CONTINUED_PLANES
from spatia_env.train.data import EpisodeStore, frame_batches, to_model
from spatia_env.train.devices import device_of
from spatia_env.train.trainer import LoopConfig, Trainer, averaged_state

LATENT_NOISE = 0.05
"""Standard deviation, in units of the latents' own, of noise added before decoding: a smoother latent space."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Train the per-frame autoencoder."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(out=Path("runs/autoencoder"), learning_rate=8e-4)
    )
    data: Path = Path("runs/data/train")
    """episode files of the train split"""
    dev: Path = Path("runs/data/dev")
    """episode files of the dev split"""
    batch: int = 12
    """simulator frames per step"""
    photos: int = 4
    """photograph crops per step"""
    size: int = 128
    """pixels along each side of a photograph crop"""
    seed: int = 0


def train_autoencoder(config: AutoencoderConfig) -> dict[str, float]:
    """Train until the minutes are used up; returns the dev figures."""
    torch.manual_seed(config.seed)
    model = fresh_autoencoder().to(memory_format=torch.channels_last)
    # What sees the render and what would fall learns later, with the world model, when there is something to see.
    for part in (model.render_in, model.falling_in, model.continued_in, model.continued_head):
        part.requires_grad_(False)
    trainer = Trainer(model, config.loop)
    rng = np.random.default_rng([config.seed, trainer.step])
    figures = trainer.run(
        _batches(config, rng), lambda batch: _loss(model, batch), lambda: evaluate(model, config)
    )
    return figures


def fresh_autoencoder() -> TinyAutoencoder:
    """The embedded default's autoencoder, untrained, with all that its decoder can be told."""
    return TinyAutoencoder(falling_planes=FALLING_PLANES, continued_planes=CONTINUED_PLANES)


def load_trained(run: Path) -> TinyAutoencoder:
    """The autoencoder of a run folder, with averaged weights."""
    model = fresh_autoencoder()
    weights = averaged_state(run)
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last)


def _loss(model: TinyAutoencoder, images: Tensor) -> tuple[Tensor, dict[str, float]]:
    raw = model.encode_raw(images)
    _update_statistics(model, raw.detach())
    noise = LATENT_NOISE * model.latent_std[:, None, None] * torch.randn_like(raw)
    error = model.decode_raw(raw + noise) - images
    mse = error.square().mean()
    # Latents that stray far from unit scale make the world model's work harder.
    spread = (raw / 3).square().mean()
    loss = mse.sqrt() + 0.1 * error.abs().mean() + 1e-3 * spread
    return loss, {"psnr": -10 * torch.log10(mse.detach() / 4).item()}


def _update_statistics(model: TinyAutoencoder, raw: Tensor) -> None:
    mean = raw.mean((0, 2, 3))
    std = raw.std((0, 2, 3)).clamp_min(1e-3)
    model.latent_mean.lerp_(mean, 0.02)
    model.latent_std.lerp_(std, 0.02)


def _batches(config: AutoencoderConfig, rng: np.random.Generator) -> Iterator[Tensor]:
    store = EpisodeStore(config.data)
    if not len(store):
        raise ActionError(
            f"{config.data} has no episodes; run `spatia train data --out {config.data}` first."
        )
    frames = frame_batches(store, config.batch, rng)
    crops = photo_batches("train", config.photos, config.size, rng)
    while True:
        batch = torch.cat([next(frames), next(crops)])
        yield batch.contiguous(memory_format=torch.channels_last)


def photo_batches(split: str, batch: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Endless batches [batch, 3, size, size] in [-1, 1] of random crops of a split's photographs."""
    from spatia_env.sim.assets import load_photo, photo_ids

    photos = [load_photo(name) for name in photo_ids(split)]
    while True:
        crops = [random_crop(photos[int(rng.integers(len(photos)))], size, rng) for _ in range(batch)]
        yield torch.stack(crops) if crops else torch.zeros(0, 3, size, size)


def random_crop(photo: np.ndarray, size: int, rng: np.random.Generator) -> Tensor:
    """A random square [3, size, size] in [-1, 1] of a photograph, mirrored, turned and recoloured at random."""
    side = int(min(photo.shape[:2]) * rng.uniform(0.3, 1.0))
    side = max(side, min(size, *photo.shape[:2]))
    top = int(rng.integers(photo.shape[0] - side + 1))
    left = int(rng.integers(photo.shape[1] - side + 1))
    crop = to_model(torch.from_numpy(photo[top : top + side, left : left + side].copy()))[None]
    crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    crop = torch.rot90(crop, int(rng.integers(4)), (-2, -1)) if rng.random() < 0.3 else crop
    gain = torch.tensor(rng.uniform(0.7, 1.2) * rng.uniform(0.85, 1.15, 3), dtype=torch.float32)
    mixed = crop[torch.from_numpy(rng.permutation(3))] if rng.random() < 0.3 else crop
    return ((mixed + 1) * gain[:, None, None] - 1).clamp(-1, 1)


def evaluate(model: TinyAutoencoder, config: AutoencoderConfig) -> dict[str, float]:
    """Mean PSNR over a fixed set of dev frames and of crops of dev photographs."""
    rng = np.random.default_rng(0)
    figures = {}
    store = EpisodeStore(config.dev)
    if len(store):
        scenes = torch.cat([next(frame_batches(store, 16, rng)) for _ in range(4)])
        figures["scenes_psnr"] = reconstruction_psnr(model, scenes)
    photos = torch.cat([next(photo_batches("dev", 16, config.size, rng)) for _ in range(2)])
    figures["photos_psnr"] = reconstruction_psnr(model, photos)
    return figures


def reconstruction_psnr(model: TinyAutoencoder, images: Tensor) -> float:
    """Mean over images [N, 3, H, W] in [-1, 1] of the PSNR of decode(encode(x)), colours clamped."""
    images = images.to(device_of(model))
    restored = model.decode_raw(model.encode_raw(images)).clamp(-1, 1)
    mse = ((restored - images) / 2).square().mean((1, 2, 3))
    return float((-10 * torch.log10(mse.clamp_min(1e-8))).mean())
