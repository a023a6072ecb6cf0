"""`spatia train world-model`: the transformer and the decoder's render branch, on remembered episodes.

The encoder is frozen, so frames and renders are encoded once (`encode_data`). Most samples ask for the clean
clip in one step from the scene render (the expected clip), the others at a random noise level, which teaches
the few-step sampler to settle on one clip. The decoder learns beside it, under a pixel loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from spatia_env.errors import ActionError
from spatia_env.model.autoencoder import TinyAutoencoder
from spatia_env.model.conditioning import (
    Conditions,
    add_noise,
    control_latents,
    known_planes,
    predict_clean,
    sample_few_steps,
)
from spatia_env.model.text import WordTextEncoder
from spatia_env.model.transformer import SpatiaTransformer3DModel
from spatia_env.train.autoencoder import load_trained
from spatia_env.train.data import EpisodeFile, EpisodeStore, to_model
from spatia_env.train.loop import LoopConfig, Trainer

PRECEDING = 4
FRAMES = 8
EVENT_WEIGHT = 4.0
"""How much more often a clip with an event is drawn."""
MOVER_WEIGHT = 8.0
"""How much more an error counts on what moves: movers cover a few percent of the pixels."""


def tiny_transformer() -> SpatiaTransformer3DModel:
    """The embedded default's transformer, untrained."""
    return SpatiaTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=8,
        attention_head_dim=32,
        in_channels=48,
        out_channels=48,
        text_dim=WordTextEncoder.dim,
        freq_dim=128,
        ffn_dim=768,
        num_layers=7,
        control_layers=(0, 2, 4),
        control_in_channels=48 + 16,
        control_at_input=True,
    )


@dataclass(frozen=True)
class WorldModelConfig:
    """Train the world model."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(out=Path("runs/world-model"), learning_rate=6e-4)
    )
    autoencoder: Path = Path("runs/autoencoder")
    """run folder of the trained autoencoder"""
    data: Path = Path("runs/data/train")
    """episode files of the train split"""
    dev: Path = Path("runs/data/dev")
    """episode files of the dev split"""
    batch: int = 8
    """clips per step"""
    pixel_frames: int = 2
    """frames of each clip that are decoded for the pixel loss"""
    pixel_weight: float = 1.0
    """weight of the pixel loss (L1 in [-1, 1]) beside the latent loss"""
    noisy_share: float = 0.3
    """share of samples at a random noise level instead of one step from the render"""
    forget_share: float = 0.08
    """share of samples that lose the map's render, and as many that lose the references"""
    seed: int = 0


class WorldModel(nn.Module):
    """The transformer and the autoencoder whose decoder learns with it."""

    def __init__(self, transformer: SpatiaTransformer3DModel, autoencoder: TinyAutoencoder) -> None:
        super().__init__()
        self.transformer, self.autoencoder = transformer, autoencoder
        autoencoder.encoder.requires_grad_(False)


@dataclass(frozen=True)
class Batch:
    """One training batch; latents are normalised, pixels in [-1, 1]."""

    conditions: Conditions
    clean: Tensor
    frames: Tensor
    render: Tensor
    known: Tensor
    weight: Tensor


def train_world_model(config: WorldModelConfig) -> dict[str, float]:
    """Train until the minutes are used up; returns the dev figures."""
    torch.manual_seed(config.seed)
    model = WorldModel(tiny_transformer(), load_trained(config.autoencoder))
    trainer = Trainer(model, config.loop)
    generator = torch.Generator().manual_seed(config.seed + trainer.step)
    rng = np.random.default_rng([config.seed, trainer.step])
    batches = clip_batches(
        EpisodeStore(config.data), config.batch, rng, config.forget_share, blank_latents(model)
    )
    dev = dev_batches(EpisodeStore(config.dev))
    return trainer.run(
        batches, lambda batch: world_loss(model, batch, config, generator), lambda: evaluate(model, dev)
    )


def world_loss(
    model: WorldModel, batch: Batch, config: WorldModelConfig, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Latent error of the predicted clean clip plus pixel error of a few decoded frames."""
    clean = batch.clean
    count = len(clean)
    noisy_one = torch.rand(count, generator=generator) < config.noisy_share
    level = torch.where(
        noisy_one, torch.sigmoid(torch.randn(count, generator=generator) + 0.5), torch.ones(count)
    )
    noise = torch.randn(clean.shape, generator=generator)
    start = torch.where(
        noisy_one[:, None, None, None, None], add_noise(clean, noise, level), batch.conditions.start
    )
    predicted = predict_clean(model.transformer, start, level, batch.conditions)
    frames, height, width = clean.shape[2:]
    coarse = F.adaptive_avg_pool3d(batch.weight, (frames, height, width))
    latent_loss = ((predicted - clean).square() * coarse).mean()
    pick = torch.randint(clean.shape[2], (config.pixel_frames,), generator=generator)
    shown = model.autoencoder.decode(predicted[:, :, pick], batch.render[:, :, pick], batch.known[:, :, pick])
    pixel_loss = ((shown - batch.frames[:, :, pick]).abs() * batch.weight[:, :, pick]).mean()
    loss = latent_loss + config.pixel_weight * pixel_loss
    return loss, {"latent": latent_loss.item(), "pixel": pixel_loss.item()}


def evaluate(model: WorldModel, batches: list[Batch], sigmas: tuple[float, ...] = (1.0,)) -> dict[str, float]:
    """PSNR of sampled dev clips on observed, unobserved and all pixels, beside render-only and frozen frame."""
    errors: dict[str, list[Tensor]] = {
        n: [] for n in ("observed", "unobserved", "all", "render_observed", "frozen")
    }
    for batch in batches:
        generator = torch.Generator().manual_seed(0)
        latents = sample_few_steps(model.transformer, batch.conditions, list(sigmas), generator)
        shown = model.autoencoder.decode(latents, batch.render, batch.known).clamp(-1, 1)
        error = ((shown - batch.frames) / 2).square().mean(1)
        splat = ((batch.render - batch.frames) / 2).square().mean(1)
        known = batch.known[:, 0] > 0.5
        last = model.autoencoder.decode(batch.conditions.preceding_latents[:, :, -1:]).clamp(-1, 1)
        errors["observed"].append(error[known])
        errors["unobserved"].append(error[~known])
        errors["all"].append(error.flatten())
        errors["render_observed"].append(splat[known])
        errors["frozen"].append(((last - batch.frames) / 2).square().mean(1).flatten())
    return {n: round(float(-10 * torch.log10(torch.cat(e).mean())), 3) for n, e in errors.items()}


@dataclass(frozen=True)
class EncodeConfig:
    """Encode episodes once, for the world model."""

    folders: tuple[Path, ...] = (Path("runs/data/train"), Path("runs/data/dev"))
    """folders of episode files"""
    autoencoder: Path = Path("runs/autoencoder")
    """run folder of the trained autoencoder"""


def encode(config: EncodeConfig) -> int:
    """Encode every folder of `config`; returns how many episodes were new."""
    autoencoder = load_trained(config.autoencoder)
    return sum(encode_data(autoencoder, folder) for folder in config.folders)


def encode_data(autoencoder: TinyAutoencoder, folder: Path, worker: int = 0, workers: int = 1) -> int:
    """Write `<seed>.latents` beside each episode: latents of its frames and renders, f16. Returns how many."""
    written = 0
    files = sorted(folder.glob("*.safetensors"))[worker::workers]
    for path in tqdm(files, desc=f"encode {folder.name}", mininterval=5):
        target = path.with_suffix(".latents")
        if target.exists():
            continue
        episode = EpisodeStore(path.parent).open_path(path)
        frames = to_model(episode.get("frames", slice(None)))
        render = to_model(episode.get("render", slice(None)).flatten(0, 1))
        with torch.no_grad():
            latents = {
                "frames": autoencoder.normalise(autoencoder.encode_raw(frames)).half(),
                "render": autoencoder.normalise(autoencoder.encode_raw(render)).half(),
            }
        temporary = target.with_suffix(".tmp")
        save_file({n: t.contiguous() for n, t in latents.items()}, temporary)
        temporary.replace(target)
        written += 1
    return written


def blank_latents(model: WorldModel, size: int = 128) -> Tensor:
    """Latents [C, h, w] of a black picture: what a render of nothing looks like to the model."""
    with torch.no_grad():
        return model.autoencoder.encode(torch.full((1, 3, 1, size, size), -1.0))[0, :, 0]


def clip_batches(
    store: EpisodeStore, batch: int, rng: np.random.Generator, forget_share: float, blank: Tensor
) -> Iterator[Batch]:
    """Endless batches of random clips of the encoded episodes, some of which lose their memory."""
    encoder = WordTextEncoder()
    step = 0
    while True:
        if step % 200 == 0:
            store.refresh()
            encoded = [path for path in store.files if path.with_suffix(".latents").exists()]
            if not encoded:
                raise ActionError(f"{store.folder} has no encoded episodes; run `spatia train encode` first.")
        step += 1
        chosen = [encoded[int(i)] for i in rng.integers(len(encoded), size=batch)]
        episodes = [store.open_path(path) for path in chosen]
        clips = [_choose_clip(episode, rng) for episode in episodes]
        yield make_batch(episodes, clips, encoder, rng, forget_share, blank)


def _choose_clip(episode: EpisodeFile, rng: np.random.Generator) -> int:
    """A random clip; those in which something happens are drawn more often, since most of every clip stands still."""
    weights = np.array([EVENT_WEIGHT if clip["event"] else 1.0 for clip in episode.meta["clips"]])
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def dev_batches(store: EpisodeStore, episodes: int = 24) -> list[Batch]:
    """A fixed set of dev clips: every clip of the first encoded episodes."""
    encoder = WordTextEncoder()
    paths = [path for path in store.files if path.with_suffix(".latents").exists()][:episodes]
    opened = [store.open_path(path) for path in paths]
    return [
        make_batch(opened[i : i + 6], [clip] * len(opened[i : i + 6]), encoder, None)
        for i in range(0, len(opened), 6)
        for clip in range(opened[i].num_clips)
    ]


def make_batch(
    episodes: list,
    clips: list[int],
    encoder: WordTextEncoder,
    rng: np.random.Generator | None,
    forget_share: float = 0.0,
    blank: Tensor | None = None,
) -> Batch:
    """Assemble clips into a batch; with `rng`, texts lose their prompt and given latents get noise at random."""
    rows = [_sample(episode, clip, rng) for episode, clip in zip(episodes, clips, strict=True)]
    if rng is not None and blank is not None:
        rows = [_forget(row, forget_share, blank, rng) for row in rows]
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "text"}
    if rng is not None:
        stacked = _disturb(stacked, rng)
    known = stacked["known"].float()[:, None]
    planes = known_planes(known, *stacked["clean"].shape[-2:])
    conditions = Conditions(
        encoder([row["text"] for row in rows]),
        stacked["references"],
        stacked["preceding"],
        control_latents(stacked["preceding"], stacked["render_latents"], planes),
    )
    weight = 1 + MOVER_WEIGHT * stacked["dynamic"].float()[:, None]
    return Batch(conditions, stacked["clean"], stacked["frames"], stacked["render"], known, weight)


def _sample(episode: EpisodeFile, clip: int, rng: np.random.Generator | None) -> dict:
    span = slice(1 + FRAMES * clip, 1 + FRAMES * (clip + 1))
    before = [max(0, i) for i in range(span.start - PRECEDING, span.start)]
    latents = episode.latents("frames").float()
    row = episode.meta["clips"][clip]
    text = row["text_short"] if rng is not None and rng.random() < 0.5 else row["text"]
    return {
        "text": text,
        "clean": latents[span].transpose(0, 1),
        "preceding": latents[before].transpose(0, 1),
        "references": latents[episode.get("references", clip)].transpose(0, 1),
        "render_latents": episode.latents("render")[FRAMES * clip : FRAMES * (clip + 1)]
        .float()
        .transpose(0, 1),
        "frames": to_model(episode.get("frames", span)).transpose(0, 1),
        "render": to_model(episode.get("render", clip)).transpose(0, 1),
        "known": episode.get("known", clip),
        "dynamic": episode.get("dynamic", span),
    }


def _forget(row: dict, share: float, blank: Tensor, rng: np.random.Generator) -> dict:
    """A sample without the map's render, or without references, at random (condition dropout)."""
    out = dict(row)
    if rng.random() < share:
        out["render_latents"] = blank[:, None].expand_as(row["render_latents"])
        out["render"] = torch.full_like(row["render"], -1.0)
        out["known"] = torch.zeros_like(row["known"])
    if rng.random() < share:
        out["references"] = row["preceding"][:, -1:].expand_as(row["references"])
    return out


def _disturb(stacked: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Noise on what is given, so that the model forgives its own mistakes on long walks."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    out = dict(stacked)
    for name in ("preceding", "references", "render_latents"):
        amount = 0.3 * torch.rand(len(stacked[name]), 1, 1, 1, 1, generator=generator) ** 2
        out[name] = stacked[name] + amount * torch.randn(stacked[name].shape, generator=generator)
    return out
