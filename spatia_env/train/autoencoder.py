"""`spatia train autoencoder` and `spatia train encode`: frames to latents and back.

The autoencoder learns to reconstruct simulator frames and photographs, one frame at a time. Its encoder is frozen
while the world model learns, so episodes are encoded once, into files beside them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from spatia_env.io.weights import write_tensors
from spatia_env.models.autoencoder import TinyAutoencoder
from spatia_env.models.conditioning import known_planes
from spatia_env.models.spatial_conditioning import FALLING_PLANES, falling_in_view, place_planes
from spatia_env.slam.plane_extrapolation import CONTINUED_PLANES, continue_surfaces
from spatia_env.train.episodes import FRAMES, EpisodeFile, EpisodeStore, clip_span, frame_batches, to_model
from spatia_env.train.loop import LoopConfig, Trainer, averaged_state, device_of, half

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
    return trainer.run(
        _batches(config, rng), lambda batch: _loss(model, batch), lambda: evaluate(model, config)
    )


def fresh_autoencoder() -> TinyAutoencoder:
    """The embedded default's autoencoder, untrained, with all that its decoder can be told."""
    return TinyAutoencoder(falling_planes=FALLING_PLANES, continued_planes=CONTINUED_PLANES)


def load_trained(run: Path) -> TinyAutoencoder:
    """The autoencoder of a run folder, with averaged weights."""
    model = fresh_autoencoder()
    model.load_state_dict(averaged_state(run))
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
    model.latent_mean.lerp_(raw.mean((0, 2, 3)), 0.02)
    model.latent_std.lerp_(raw.std((0, 2, 3)).clamp_min(1e-3), 0.02)


def _batches(config: AutoencoderConfig, rng: np.random.Generator) -> Iterator[Tensor]:
    frames = frame_batches(EpisodeStore(config.data).require(), config.batch, rng)
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


@dataclass(frozen=True)
class EncodeConfig:
    """Encode episodes once, for the world model."""

    folders: tuple[Path, ...] = (Path("runs/data/train"), Path("runs/data/dev"))
    """folders of episode files"""
    autoencoder: Path = Path("runs/autoencoder")
    """run folder of the trained autoencoder"""


def encode_folders(config: EncodeConfig) -> int:
    """Encode every folder of `config`; returns how many episodes were new."""
    autoencoder = load_trained(config.autoencoder)
    return sum(encode_episodes(autoencoder, folder) for folder in config.folders)


def encode_episodes(autoencoder: TinyAutoencoder, folder: Path) -> int:
    """Write `<seed>.latents` and `<seed>.continued` beside each episode that has none; returns how many were encoded.

    The first holds f16 latents of `frames` [1+8n, C, h, w] and of `render` [8n, C, h, w], the render's coverage
    `planes` [8n, 16, h, w], its `places` [8n, 20, h, w], the share `moving` [1+8n, h, w] of what moves, and u8
    `falling` [8n, 2, H, W/8], in bits, where flakes and balls would be. The second holds u8 `continued`
    [n, 8, H, W, 4]: how surfaces go on beyond the render (`slam.plane_extrapolation`), colours and nearness in 255ths.
    """
    written = 0
    for path in tqdm(sorted(folder.glob("*.safetensors")), desc=f"encode {folder.name}", mininterval=5):
        latents, continued = path.with_suffix(".latents"), path.with_suffix(".continued")
        if not latents.exists():
            write_tensors(latents, {n: half(t) for n, t in encode(autoencoder, path).items()})
            written += 1
        if not continued.exists():
            write_tensors(continued, {"continued": continued_bytes(EpisodeFile(path))})
    return written


def continued_bytes(episode: EpisodeFile) -> Tensor:
    """What goes on beyond the renders of an episode, as it is kept."""
    c2w, K = episode.get("c2w"), episode.get("K")
    clips = []
    for number in range(episode.num_clips):
        rgb = episode.get("render", number).movedim(-1, 1).float() / 255
        depth, known = episode.get("map_depth", number).float(), episode.get("known", number)
        path = c2w[clip_span(number)]
        found = continue_surfaces(rgb, depth, known, path, K)
        planes = torch.cat([found.rgb.movedim(1, -1), found.planes()[3, ..., None]], dim=-1)
        clips.append((planes * 255).round().to(torch.uint8))
    return torch.stack(clips)


def encode_images(autoencoder: TinyAutoencoder, images: Tensor) -> Tensor:
    """Normalised latents [N, C, h, w] of images [N, 3, H, W] in [-1, 1]."""
    return autoencoder.encode(images[:, :, None])[:, :, 0]


@torch.no_grad()
def encode(autoencoder: TinyAutoencoder, path: Path) -> dict[str, Tensor]:
    """What `encode_episodes` writes for one episode."""
    episode = EpisodeFile(path)
    frames = to_model(episode.get("frames"))
    render = to_model(episode.get("render").flatten(0, 1))
    known = episode.get("known").flatten(0, 1).float()
    moving = episode.get("dynamic").float()
    latents = encode_images(autoencoder, torch.cat([frames, render]))
    size = (latents.shape[-2], latents.shape[-1])
    played = {}
    if "own" in episode.file.keys():  # noqa: SIM118 - not a dict
        trust = episode.get("trust").flatten(0, 1).float()
        played["trust"] = F.adaptive_avg_pool2d(trust[:, None], size)[:, 0]
        played["own"] = encode_images(autoencoder, to_model(episode.get("own")))
    return played | {
        "frames": latents[: len(frames)],
        "render": latents[len(frames) :],
        "planes": known_planes(known[None, None], *size)[0].transpose(0, 1),
        **_planes(episode, size),
        "moving": F.adaptive_avg_pool2d(moving[:, None], size)[:, 0],
    }


def _planes(episode: EpisodeFile, size: tuple[int, int]) -> dict[str, Tensor]:
    """Place planes [8n, 20, h, w] of an episode's clips, and what would fall in them, in bits [8n, 2, H, W/8]."""
    c2w, K = episode.get("c2w"), episode.get("K")
    depth, known = episode.get("map_depth").float(), episode.get("known")
    places, falling = [], []
    for number in range(len(depth)):
        path, start = c2w[clip_span(number)], c2w[FRAMES * number]
        places.append(place_planes(depth[number], known[number], path, start, K, *size))
        falling.append(falling_in_view(depth[number], known[number], path, start, K, number))
    bits = np.packbits(torch.cat(falling, dim=1).transpose(0, 1).numpy(), axis=-1)
    return {"places": torch.cat(places, dim=1).transpose(0, 1), "falling": torch.from_numpy(bits)}
