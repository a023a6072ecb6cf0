"""How memory reaches the transformer: the same arrangement in training and at play.

The sequence is [references | preceding | new]; the control branch sees [preceding | new]. What is given has
noise level 0. This module knows tensors only: neither the map nor the scheduler.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.models.autoencoder import reduced


@dataclass(frozen=True)
class Conditions:
    """What a clip is conditioned on.

    Attributes:
        prompt_embeds: [B, L, D].
        reference_latents: [B, C, R, h, w]; R may be 0.
        preceding_latents: [B, C, P, h, w].
        control: [B, Cc, P + T, h, w], see `control_latents`.
        places: [B, 52, P + T, h, w], see `places.with_falling`; None for models that know none.
    """

    prompt_embeds: Tensor
    reference_latents: Tensor
    preceding_latents: Tensor
    control: Tensor
    places: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """Where sampling starts [B, C, T, h, w]: the render's latents where it is covered, the mean (0) elsewhere."""
        channels = self.preceding_latents.shape[1]
        new = self.control[:, :, self.num_preceding :]
        return new[:, :channels] * new[:, channels:].mean(1, keepdim=True)

    @property
    def num_references(self) -> int:
        """Latent frames of references."""
        return self.reference_latents.shape[2]

    @property
    def num_preceding(self) -> int:
        """Latent frames that precede the new ones."""
        return self.preceding_latents.shape[2]

    @property
    def num_new(self) -> int:
        """Latent frames to be generated."""
        return self.control.shape[2] - self.num_preceding


def known_planes(known: Tensor, height: int, width: int, cells: int = 4) -> Tensor:
    """Coverage [B, cells^2, T, h, w] of each latent pixel's sub-cells by the mask `known` [B, 1, T, H, W]."""
    batch, _, frames = known.shape[:3]
    pooled = F.adaptive_avg_pool2d(known.transpose(1, 2).flatten(0, 1), (height * cells, width * cells))
    return F.pixel_unshuffle(pooled, cells).unflatten(0, (batch, frames)).transpose(1, 2)


def control_latents(preceding_latents: Tensor, render_latents: Tensor, planes: Tensor) -> Tensor:
    """Control input [B, C + cells^2, P + T, h, w] from latents of the render and its coverage planes.

    The preceding frames stand for their own render, fully covered: what was seen last needs no memory.
    """
    batch, cells, _, height, width = planes.shape
    covered = torch.ones(
        batch, cells, preceding_latents.shape[2], height, width, dtype=planes.dtype, device=planes.device
    )
    latents = torch.cat([preceding_latents, render_latents], dim=2)
    return torch.cat([latents, torch.cat([covered, planes], dim=2)], dim=1)


def predict_clean(
    transformer: torch.nn.Module, noisy: Tensor, sigma: Tensor, conditions: Conditions
) -> Tensor:
    """The transformer's estimate of the clean new latents [B, C, T, h, w].

    Args:
        transformer: Velocity model (velocity = noise - clean).
        noisy: New latents at noise level `sigma`.
        sigma: Noise level [B] in [0, 1].
        conditions: What is given.
    """
    given = conditions.num_references + conditions.num_preceding
    sequence = torch.cat([conditions.reference_latents, conditions.preceding_latents, noisy], dim=2)
    timestep = torch.zeros(len(sigma), sequence.shape[2], dtype=sequence.dtype, device=sequence.device)
    timestep[:, given:] = 1000 * sigma[:, None]
    with reduced(sequence.device):
        velocity = transformer(
            sequence,
            timestep=timestep,
            encoder_hidden_states=conditions.prompt_embeds,
            control_hidden_states=conditions.control,
            num_ref_frames=conditions.num_references,
            place_hidden_states=conditions.places,
            return_dict=False,
        )[0]
    return noisy - sigma[:, None, None, None, None] * velocity[:, :, given:].to(noisy.dtype)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) clean + sigma noise, sigma [B] in [0, 1] (rectified flow)."""
    sigma = sigma[:, None, None, None, None]
    return (1 - sigma) * clean + sigma * noise


def sample_few_steps(
    transformer: torch.nn.Module,
    conditions: Conditions,
    sigmas: list[float],
    generator: torch.Generator | list[torch.Generator] | None,
) -> Tensor:
    """Clean new latents in `len(sigmas)` evaluations: predict the clean clip, add less noise, repeat.

    The first evaluation, at level 1, starts from the scene render instead of noise and gives the expected clip;
    each further level makes it one particular clip. `sigmas` falls from 1.
    """
    clean = conditions.start
    for sigma in sigmas:
        level = torch.full((len(clean),), sigma, dtype=clean.dtype, device=clean.device)
        if sigma >= 1:
            noisy = conditions.start
        else:
            noisy = add_noise(clean, _noise(tuple(clean.shape), generator).to(clean), level)
        clean = predict_clean(transformer, noisy, level, conditions)
    return clean


def _noise(shape: tuple[int, ...], generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Noise on the CPU: one generator for the batch, or one per world so that a world ignores its neighbours."""
    if isinstance(generator, list):
        return torch.stack([torch.randn(shape[1:], generator=own) for own in generator])
    return torch.randn(shape, generator=generator)
