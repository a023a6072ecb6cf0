"""Wan2.2's autoencoder behind the interface that every autoencoder of the pipeline has."""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from spatia_env.errors import ActionError, CheckpointError

WAN22_CONFIG = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
}
"""Arguments of `AutoencoderKLWan` for Wan2.2-TI2V-5B (the class's own defaults are Wan2.1's)."""

# fmt: off
WAN22_LATENTS_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
WAN22_LATENTS_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on
"""Mean and standard deviation of each latent channel, from the public Wan2.2 code."""


def latent_frames(num_frames: int, temporal_stride: int = 4) -> int:
    """Latent frames of a video of `num_frames` = stride * k + 1.

    Raises:
        ActionError: For any other number.
    """
    if num_frames < 1 or (num_frames - 1) % temporal_stride:
        below = max(1, num_frames - (num_frames - 1) % temporal_stride)
        raise ActionError(
            f"num_frames: is {num_frames}; this autoencoder takes {temporal_stride} * k + 1 frames, "
            f"such as {below} or {below + temporal_stride}."
        )
    return (num_frames - 1) // temporal_stride + 1


class WanAutoencoder(nn.Module):
    """Causal video autoencoder, 16x16 in space and 4 in time, 48 channels.

    Args:
        vae: Holds the weights; latents are normalised with its `latents_mean` and `latents_std`.

    Raises:
        CheckpointError: If its statistics do not belong to its channels.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae
        self.spatial_stride = int(vae.config.scale_factor_spatial)
        self.temporal_stride = int(vae.config.scale_factor_temporal)
        self.latent_channels = int(vae.config.z_dim)
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(vae.config[name], dtype=torch.float32)
            if len(values) != self.latent_channels:
                raise CheckpointError(
                    f"vae/config.json: {name} has {len(values)} values for {self.latent_channels} channels."
                )
            self.register_buffer(name, values.view(1, -1, 1, 1, 1), persistent=False)

    def encode(self, frames: Tensor) -> Tensor:
        """Normalised latents f32 [B, C, (T - 1) / 4 + 1, H / 16, W / 16] of one video.

        Args:
            frames: [B, 3, T, H, W] in [-1, 1], T = 4k + 1; the mean of the posterior is taken, nothing is
                drawn.

        Raises:
            ActionError: If the size or the number of frames does not fit.
        """
        self._check(frames)
        moments = self.vae.encode(frames.to(self.vae.dtype)).latent_dist.mode().float()
        return (moments - self.latents_mean) / self.latents_std

    def encode_images(self, frames: Tensor) -> Tensor:
        """Normalised latents f32 [B, C, n, h, w] of n pictures [B, 3, n, H, W], each encoded alone."""
        batch = frames.shape[0]
        alone = frames.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        latents = torch.cat([self.encode(picture) for picture in alone.split(1)])
        return latents.squeeze(2).unflatten(0, (batch, -1)).transpose(1, 2)

    def decode(
        self, latents: Tensor, scene_render: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Frames f32 [B, 3, 4 (F - 1) + 1, 16 h, 16 w] in [-1, 1]; the render is not looked at."""
        del scene_render, known
        denormalised = latents.float() * self.latents_std + self.latents_mean
        return self.vae.decode(denormalised.to(self.vae.dtype)).sample.float()

    def _check(self, frames: Tensor) -> None:
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ActionError(f"frames: expected [B, 3, T, H, W], got {list(frames.shape)}.")
        latent_frames(frames.shape[2], self.temporal_stride)
        height, width = frames.shape[-2:]
        if height % self.spatial_stride or width % self.spatial_stride:
            raise ActionError(f"frames: {height}x{width} is not a multiple of {self.spatial_stride}.")
