"""`spatia train encode`: episodes at latent size, computed once, as the encoder is frozen meanwhile."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from spatia_env.io.weights import write_tensors
from spatia_env.models.autoencoder import TinyAutoencoder
from spatia_env.models.conditioning import known_planes
from spatia_env.models.spatial_conditioning import falling_in_view, place_planes
from spatia_env.slam.plane_extrapolation import continue_surfaces
from spatia_env.train.autoencoder import load_trained
from spatia_env.train.data import EpisodeFile, EpisodeStore, to_model
from spatia_env.train.episodes import FRAMES
from spatia_env.train.export_checkpoint import half


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
            write_tensors(continued, {"continued": continued_bytes(EpisodeStore.open_path(path))})
    return written


def continued_bytes(episode: EpisodeFile) -> Tensor:
    """What goes on beyond the renders of an episode, as it is kept."""
    c2w, K = episode.get("c2w", slice(None)), episode.get("K", slice(None))
    clips = []
    for number in range(episode.num_clips):
        rgb = episode.get("render", number).movedim(-1, 1).float() / 255
        depth, known = episode.get("map_depth", number).float(), episode.get("known", number)
        path = c2w[1 + FRAMES * number : 1 + FRAMES * (number + 1)]
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
    episode = EpisodeStore.open_path(path)
    frames = to_model(episode.get("frames", slice(None)))
    render = to_model(episode.get("render", slice(None)).flatten(0, 1))
    known = episode.get("known", slice(None)).flatten(0, 1).float()
    moving = episode.get("dynamic", slice(None)).float()
    latents = encode_images(autoencoder, torch.cat([frames, render]))
    size = (latents.shape[-2], latents.shape[-1])
    played = {}
    if "own" in episode.file.keys():  # noqa: SIM118 - not a dict
        trust = episode.get("trust", slice(None)).flatten(0, 1).float()
        played["trust"] = F.adaptive_avg_pool2d(trust[:, None], size)[:, 0]
        played["own"] = encode_images(autoencoder, to_model(episode.get("own", slice(None))))
    return played | {
        "frames": latents[: len(frames)],
        "render": latents[len(frames) :],
        "planes": known_planes(known[None, None], *size)[0].transpose(0, 1),
        **_planes(episode, size),
        "moving": F.adaptive_avg_pool2d(moving[:, None], size)[:, 0],
    }


def _planes(episode: EpisodeFile, size: tuple[int, int]) -> dict[str, Tensor]:
    """Place planes [8n, 20, h, w] of an episode's clips, and what would fall in them, in bits [8n, 2, H, W/8]."""
    c2w, K = episode.get("c2w", slice(None)), episode.get("K", slice(None))
    depth, known = episode.get("map_depth", slice(None)).float(), episode.get("known", slice(None))
    places, falling = [], []
    for number in range(len(depth)):
        path, start = c2w[1 + FRAMES * number : 1 + FRAMES * (number + 1)], c2w[FRAMES * number]
        places.append(place_planes(depth[number], known[number], path, start, K, *size))
        falling.append(falling_in_view(depth[number], known[number], path, start, K, number))
    bits = np.packbits(torch.cat(falling, dim=1).transpose(0, 1).numpy(), axis=-1)
    return {"places": torch.cat(places, dim=1).transpose(0, 1), "falling": torch.from_numpy(bits)}
