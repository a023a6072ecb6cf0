"""`spatia train world-model`: the transformer and the decoder's render branch, on remembered episodes.

The encoder is frozen, so episodes are encoded once (`clips`). Most samples ask for the clean clip in one step from
the scene render (the expected clip), the others at a random noise level, which teaches the few-step sampler to
settle on one clip. The decoder learns beside it: to show the clip from its predicted latents and the render, and
still to restore a frame from its own latents alone.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spatia_env.errors import ActionError
from spatia_env.models.autoencoder import TinyAutoencoder
from spatia_env.models.conditioning import add_noise, predict_clean, sample_few_steps
from spatia_env.models.spatial_conditioning import FALLING_CHANNELS, PLACE_CHANNELS
from spatia_env.models.text_encoder import SentenceTextEncoder
from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.train.autoencoder import load_trained, photo_batches
from spatia_env.train.dataset import Batch, ClipStore, Pixels, dev_batches, training_batches
from spatia_env.train.loop import LoopConfig, Trainer, averaged_state, device_of, to_device
from spatia_env.train.losses import Relit, detail_loss, relight, render_loss

SIZE_FILE = "transformer.json"
UNKNOWN_DETAIL = 0.05
"""Weight of local contrasts where the map shows nothing and nothing moves: at full weight soft colour gets hatched."""
PATTERN = 9
"""Pixels along each side of a square within which a pattern may lie elsewhere."""
FRESH_PACE = 3.0
"""Learning-rate multiplier of decoder inputs that checkpoints began without: particles, and continued surfaces."""


@dataclass(frozen=True)
class TransformerSize:
    """How large the transformer is; the standard is the embedded default's 10 M."""

    heads: int = 8
    """attention heads"""
    head_dim: int = 32
    """channels of a head"""
    ffn_dim: int = 768
    """channels within a block's feed-forward part"""
    layers: int = 7
    """blocks"""
    control_layers: tuple[int, ...] = (0, 2, 4)
    """blocks into which the control branch feeds"""


def tiny_transformer(size: TransformerSize | None = None) -> SpatiaTransformer3DModel:
    """The embedded default's transformer, or one of another size, untrained."""
    size = TransformerSize() if size is None else size
    return SpatiaTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        in_channels=48,
        out_channels=48,
        text_dim=SentenceTextEncoder.dim,
        freq_dim=128,
        ffn_dim=size.ffn_dim,
        num_layers=size.layers,
        control_layers=size.control_layers,
        control_in_channels=48 + 16,
        control_at_input=True,
        place_channels=FALLING_CHANNELS + PLACE_CHANNELS,
    )


@dataclass(frozen=True)
class WorldModelConfig:
    """Train the world model."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            out=Path("runs/world-model"), learning_rate=1e-3, muon=2.0, eval_minutes=15.0
        )
    )
    autoencoder: Path = Path("runs/autoencoder")
    """run folder of the trained autoencoder"""
    data: tuple[Path, ...] = (Path("runs/data/train"),)
    """folders of episode files: recorded, of posed videos, played (`rollouts`)"""
    dev: Path = Path("runs/data/dev")
    """episode files of the dev split"""
    dev_episodes: int = 12
    """how many dev episodes an evaluation shows"""
    batch: int = 16
    """clips per step"""
    pixel_frames: int = 4
    """frames of a step that are decoded for the pixel loss, and as many for the reconstruction"""
    pixel_weight: float = 1.0
    """weight of the pixel loss (L1 in [-1, 1]) beside the latent loss"""
    share_weight: float = 0.05
    """weight of the share of the render that shows before what moves, and of what is missing of it elsewhere; and of
    what goes on beyond it, likewise
    """
    detail_weight: float = 1.0
    """weight of the difference of local contrasts (`detail`), so that the mean of many specks is not a haze"""
    noisy_share: float = 0.2
    """share of samples at a random noise level instead of one step from the render"""
    restore_weight: float = 2.0
    """weight of the reconstruction of true frames and photographs (root mean square in [-1, 1])"""
    photos: int = 2
    """photograph crops per step that are restored, so that the decoder keeps more than the simulator's colours"""
    decoder_pace: float = 0.4
    """the decoder's share of the learning rate: it comes trained, and must not forget how to restore a frame"""
    decoder_only: bool = False
    """train the decoder alone, on what the transformer predicts by now (begin from `spatia train unpack`)"""
    forget_share: float = 0.08
    """share of samples that lose the map's render, and as many that lose the references"""
    seed: int = 0
    size: TransformerSize = field(default_factory=TransformerSize)
    """size of the transformer; a run keeps the size it began with"""


class WorldModel(nn.Module):
    """The transformer and the autoencoder whose decoder learns with it."""

    def __init__(self, transformer: SpatiaTransformer3DModel, autoencoder: TinyAutoencoder) -> None:
        super().__init__()
        self.transformer, self.autoencoder = transformer, autoencoder
        autoencoder.encoder.requires_grad_(False)


def train_world_model(config: WorldModelConfig) -> dict[str, float]:
    """Train until the minutes are used up; returns the dev figures.

    Raises:
        ActionError: The run began with a transformer of another size.
    """
    generator = torch.Generator().manual_seed(config.seed)
    transformer = begin_transformer(config.loop.out, config.size)
    transformer.initialise_weights(generator)
    model = WorldModel(transformer, load_trained(config.autoencoder))
    transformer.requires_grad_(not config.decoder_only)
    trainer = Trainer(model, config.loop, lambda name: pace(name, config.decoder_pace))
    generator.manual_seed(config.seed + trainer.step)
    rng = np.random.default_rng([config.seed, trainer.step])
    store = ClipStore(*config.data)
    blank = blank_latents(model.autoencoder, *store.size)
    batches = training_batches(store, config.batch, config.pixel_frames, config.forget_share, blank, rng)
    dev = [
        to_device(batch, trainer.device)
        for batch in dev_batches(ClipStore(config.dev, limit=config.dev_episodes))
    ]
    crops = photo_batches("train", config.photos, min(store.size), rng)
    return trainer.run(
        zip(batches, crops, strict=True),
        lambda both: world_loss(model, both[0], both[1], config, generator),
        lambda: evaluate(model, dev),
    )


def pace(name: str, decoder_pace: float) -> float:
    """The multiple of the learning rate that a parameter takes."""
    if name.startswith(("autoencoder.falling_in.", "autoencoder.continued_")):
        return FRESH_PACE
    return decoder_pace if name.startswith("autoencoder.") else 1.0


def begin_transformer(run: Path, size: TransformerSize) -> SpatiaTransformer3DModel:
    """The transformer of a run that begins or goes on; its size is kept in the run folder.

    Raises:
        ActionError: The run began with another size.
    """
    path = run / SIZE_FILE
    if (run / "state.safetensors").exists() and size_of(run) != size:
        raise ActionError(
            f"{run} holds a transformer of {size_of(run)}; give that --size, or another --loop.out."
        )
    run.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(size)) + "\n")
    return tiny_transformer(size)


def size_of(run: Path) -> TransformerSize:
    """The size of a run's transformer."""
    path = run / SIZE_FILE
    if not path.exists():
        return TransformerSize()
    kept = json.loads(path.read_text())
    return TransformerSize(**kept | {"control_layers": tuple(kept["control_layers"])})


def load_world_model(run: Path, autoencoder: Path) -> "WorldModel":
    """The world model of a run folder, with averaged weights; `autoencoder` is the run its training began with."""
    model = WorldModel(tiny_transformer(size_of(run)), load_trained(autoencoder))
    model.load_state_dict(averaged_state(run))
    return model


def world_loss(
    model: WorldModel, batch: Batch, photos: Tensor, config: WorldModelConfig, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Latent error of the predicted clean clip, pixel error of a few decoded frames, and of reconstructions of
    those frames and of `photos` [N, 3, H, W].
    """
    clean, pixels = batch.clean, batch.pixels
    with torch.set_grad_enabled(torch.is_grad_enabled() and not config.decoder_only):
        predicted = _predict(model.transformer, batch, config.noisy_share, generator)
    latent_loss = ((predicted - clean).square() * batch.weight).mean()
    raw = model.autoencoder.denormalise(predicted[pixels.row, :, pixels.time])
    shown, share, light, beyond = model.autoencoder.decode_parts(
        raw, pixels.render, pixels.known, pixels.falling, pixels.continued
    )
    assert share is not None and light is not None and beyond is not None
    pixel_loss = ((shown - pixels.frames).abs() * pixels.weight).mean()
    with torch.no_grad():
        relit = relight(pixels.render, pixels.frames, pixels.known, pixels.moving)
        goes_on = relight_beyond(pixels, relit)
    share_loss = render_loss(share, light, relit, pixels.known, pixels.moving)
    beyond_loss = render_loss(beyond, light, goes_on, beyond_known(pixels), pixels.moving)
    sure = torch.maximum(pixels.known, pixels.moving[:, None].to(pixels.known.dtype))
    contrast_loss = detail_loss(
        shown, pixels.frames, pixels.weight * (UNKNOWN_DETAIL + (1 - UNKNOWN_DETAIL) * sure)
    )
    restore_loss = _restore_loss(model.autoencoder, clean[pixels.row, :, pixels.time], pixels.frames, photos)
    loss = (
        latent_loss
        + config.pixel_weight * pixel_loss
        + config.share_weight * (share_loss + beyond_loss)
        + config.detail_weight * contrast_loss
        + config.restore_weight * restore_loss
    )
    parts = {"latent": latent_loss, "pixel": pixel_loss, "share": share_loss, "beyond": beyond_loss}
    parts |= {"detail": contrast_loss, "restore": restore_loss}
    return loss, {name: part.item() for name, part in parts.items()}


def beyond_known(pixels: Pixels) -> Tensor:
    """Where surfaces go on beyond what the render knows, 0 or 1 [N, 1, H, W]."""
    return (pixels.continued[:, 3:] > 0).float() * (1 - pixels.known)


def relight_beyond(pixels: Pixels, relit: Relit) -> Relit:
    """How frames are explained by what goes on beyond the render; whether the light is plain, the render says.

    Means over squares of `PATTERN` pixels are compared: a pattern that goes on is right though its tiles lie elsewhere.
    """
    beyond = beyond_known(pixels)
    picture = torch.where(beyond > 0, pixels.continued[:, :3], pixels.render)
    covered = torch.maximum(pixels.known, beyond)

    def soft(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, PATTERN, 1, PATTERN // 2, count_include_pad=False)

    share = soft(covered).clamp_min(1e-3)
    compared = soft(picture * covered) / share, soft(pixels.frames * covered) / share
    return relight(*compared, covered, pixels.moving)._replace(plain=relit.plain)


def _restore_loss(autoencoder: TinyAutoencoder, latents: Tensor, frames: Tensor, photos: Tensor) -> Tensor:
    """Root mean square error of frames decoded from their own latents, and of photographs, whatever their size."""
    errors = [(_decode(autoencoder, latents) - frames).square().flatten()]
    if len(photos):
        with torch.no_grad():
            encoded = autoencoder.encode(photos[:, :, None])[:, :, 0]
        errors.append((_decode(autoencoder, encoded) - photos).square().flatten())
    return torch.cat(errors).mean().sqrt()


def _predict(transformer: nn.Module, batch: Batch, noisy_share: float, generator: torch.Generator) -> Tensor:
    """The clean clip, from the render or (a share of the rows) from a noisy version of itself."""
    clean = batch.clean
    noisy = torch.rand(len(clean), generator=generator) < noisy_share
    level = torch.sigmoid(torch.randn(len(clean), generator=generator) + 0.5)
    level = torch.where(noisy, level, torch.ones(len(clean)))
    noise = torch.randn(clean.shape, generator=generator)
    noisy, level, noise = (value.to(clean.device) for value in (noisy, level, noise))
    start = torch.where(
        noisy[:, None, None, None, None], add_noise(clean, noise, level), batch.conditions.start
    )
    return predict_clean(transformer, start, level, batch.conditions)


def _decode(autoencoder: TinyAutoencoder, latents: Tensor) -> Tensor:
    """Images [N, 3, H, W] of normalised latents [N, C, h, w] alone."""
    return autoencoder.decode_raw(autoencoder.denormalise(latents))


def evaluate(model: WorldModel, batches: list[Batch], sigmas: tuple[float, ...] = (1.0,)) -> dict[str, float]:
    """PSNR of sampled dev clips on observed, unobserved, moving and all pixels, beside render-only, frozen frame
    and the reconstruction of the true frames.
    """
    errors: dict[str, list[Tensor]] = {}

    def note(name: str, shown: Tensor, truth: Tensor, where: Tensor | None = None) -> None:
        error = ((shown.clamp(-1, 1) - truth) / 2).square().mean(1)
        errors.setdefault(name, []).append(error.flatten() if where is None else error[where])

    for batch in batches:
        p = batch.pixels
        latents = sample_few_steps(
            model.transformer, batch.conditions, list(sigmas), torch.Generator().manual_seed(0)
        )
        raw = model.autoencoder.denormalise(latents[p.row, :, p.time])
        shown = model.autoencoder.decode_parts(raw, p.render, p.known, p.falling, p.continued).shown
        known = p.known[:, 0] > 0.5
        note("observed", shown, p.frames, known & ~p.moving)
        note("unobserved", shown, p.frames, ~known & ~p.moving)
        note("moving", shown, p.frames, p.moving)
        note("all", shown, p.frames)
        note("render_observed", p.render, p.frames, known & ~p.moving)
        note("render_moving", p.render, p.frames, p.moving)
        last = _decode(model.autoencoder, batch.conditions.preceding_latents[:, :, -1])
        note("frozen", last[p.row], p.frames)
        note("restored", _decode(model.autoencoder, batch.clean[p.row, :, p.time]), p.frames)
    # Where nothing moves, or nothing is new, there is no error to tell.
    kept = {name: torch.cat(parts) for name, parts in errors.items() if sum(map(len, parts))}
    return {name: round(float(-10 * torch.log10(error.mean())), 3) for name, error in kept.items()}


@torch.no_grad()
def blank_latents(autoencoder: TinyAutoencoder, height: int, width: int) -> Tensor:
    """Latents [C, h, w] of a black picture of height x width pixels: what a render of nothing looks like."""
    black = torch.full((1, 3, 1, height, width), -1.0, device=device_of(autoencoder))
    return autoencoder.encode(black)[0, :, 0].cpu()
