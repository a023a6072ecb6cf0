"""One clip of the official size: noise to latents along the release's schedule, then to frames.

The sequence is [references | given frames | new frames]. Given are the first picture (first clip) or the last
frames of the clip before, encoded anew from their pixels; both keep timestep 0 and are never stepped. The
control branch sees the render and the mask of unknown pixels over the given and the new frames, not over the
references. Tensors only: this module knows neither the map nor the environment.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.models.wan.autoencoder import WanAutoencoder
from spatia_env.models.wan.schedulers import RELEASE_SHIFT, release_grid, release_unipc, sample_by_renoising


@dataclass(frozen=True)
class SamplerSettings:
    """How a clip is sampled; the defaults are the release's."""

    num_inference_steps: int = 40
    guidance_scale: float = 3.5
    """1 skips the negative prompt and halves the cost"""
    shift: float = RELEASE_SHIFT
    control_scale: float = 1.0
    few_step_sigmas: tuple[float, ...] = ()
    """levels of a distilled LoRA; empty for UniPC. Guidance and `num_inference_steps` are then not used."""

    def __post_init__(self) -> None:
        release_grid(self.num_inference_steps)
        for name in ("guidance_scale", "shift", "control_scale"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise ActionError(f"{name}={value!r}: give a finite number, 0 or more.")


@dataclass(frozen=True)
class ClipConditions:
    """What a clip is conditioned on, encoded.

    Attributes:
        prompt_embeds: [B, L, D].
        negative_embeds: [B, L, D], or None without guidance.
        control: [B, 2C, F, h, w]: latents of the render, then of the unknown mask.
        given_latents: [B, C, G, h, w], G of the F frames.
        reference_latents: [B, C, R, h, w]; R may be 0.
    """

    prompt_embeds: Tensor
    negative_embeds: Tensor | None
    control: Tensor
    given_latents: Tensor
    reference_latents: Tensor


@dataclass(frozen=True)
class Clip:
    """`frames` [B, 3, T, H, W] in [-1, 1] and their `latents` [B, C, F, h, w], given frames included."""

    frames: Tensor
    latents: Tensor


@torch.inference_mode()
def generate_clip(
    transformer: torch.nn.Module,
    autoencoder: WanAutoencoder,
    prompt_embeds: Tensor,
    scene_render: Tensor,
    unknown: Tensor,
    *,
    negative_embeds: Tensor | None = None,
    first_frame: Tensor | None = None,
    preceding_frames: Tensor | None = None,
    reference_frames: Tensor | None = None,
    generator: torch.Generator | None = None,
    settings: SamplerSettings | None = None,
) -> Clip:
    """Generate one clip.

    Args:
        transformer: `SpatiaTransformer3DModel`.
        autoencoder: `WanAutoencoder`.
        prompt_embeds: text [B, L, D], rows past its end zero.
        scene_render: the map along the whole clip, given frames included, [B, 3, T, H, W] in [-1, 1].
        unknown: 1 where that render is empty and 0 where it is covered, [B, 1 or 3, T, H, W] in [0, 1].
        negative_embeds: text [B, L, D] to steer away from; needed unless `guidance_scale` is 1.
        first_frame: the first picture [B, 3, 1, H, W] in [-1, 1], for a first clip.
        preceding_frames: the last frames [B, 3, 4k + 1, H, W], for every later clip; the release: 9.
        reference_frames: retrieved pictures [B, 3, R, H, W].
        generator: on the CPU; noise is drawn there in float32, so it does not depend on the device.
        settings: steps, guidance and scales.

    Raises:
        ActionError: If sizes do not fit, or not exactly one of `first_frame`, `preceding_frames` is given.
    """
    settings = settings or SamplerSettings()
    conditions = encode_conditions(
        autoencoder,
        prompt_embeds,
        negative_embeds,
        scene_render,
        unknown,
        given_frames=_one_of(first_frame, preceding_frames),
        reference_frames=reference_frames,
    )
    latents = sample_clip(transformer, conditions, generator, settings)
    return Clip(autoencoder.decode(latents), latents)


def encode_conditions(
    autoencoder: WanAutoencoder,
    prompt_embeds: Tensor,
    negative_embeds: Tensor | None,
    scene_render: Tensor,
    unknown: Tensor,
    given_frames: Tensor,
    reference_frames: Tensor | None = None,
) -> ClipConditions:
    """Encode what a clip is conditioned on; arguments as in `generate_clip`."""
    check_clip_size(scene_render.shape[-2], scene_render.shape[-1], 2 * autoencoder.spatial_stride)
    for name, frames in (
        ("unknown", unknown),
        ("given frames", given_frames),
        ("references", reference_frames),
    ):
        if frames is not None and frames.shape[-2:] != scene_render.shape[-2:]:
            raise ActionError(
                f"{name}: are {list(frames.shape[-2:])} and the render is "
                f"{list(scene_render.shape[-2:])}; resize them."
            )
    # The mask goes through the autoencoder as a grey video in [0, 1], not [-1, 1]: so the weights were
    # trained.
    mask_video = unknown.expand(-1, 3, -1, -1, -1) if unknown.shape[1] == 1 else unknown
    control = torch.cat([autoencoder.encode(scene_render), autoencoder.encode(mask_video)], dim=1)
    given = autoencoder.encode(given_frames)
    if reference_frames is None or reference_frames.shape[2] == 0:
        references = given[:, :, :0]
    else:
        references = autoencoder.encode_images(reference_frames)
    return ClipConditions(prompt_embeds, negative_embeds, control, given, references)


def sample_clip(
    transformer: torch.nn.Module,
    conditions: ClipConditions,
    generator: torch.Generator | None,
    settings: SamplerSettings,
) -> Tensor:
    """Latents [B, C, F, h, w] of a clip: the given ones unchanged, then the new ones."""
    given = conditions.given_latents
    shape = (*given.shape[:2], *conditions.control.shape[2:])
    # Drawn for the whole clip, as the release does, then overwritten where frames are given.
    noise = torch.randn(shape, generator=generator, dtype=torch.float32).to(given)
    free = noise[:, :, given.shape[2] :]
    if settings.few_step_sigmas:
        unguided = replace(settings, guidance_scale=1.0)

        def velocity_at(latents: Tensor, timestep: float) -> Tensor:
            return predict_velocity(transformer, conditions, latents, timestep, unguided)

        free = sample_by_renoising(velocity_at, free, settings.few_step_sigmas, generator)
        return torch.cat([given, free], dim=2)
    scheduler = release_unipc(settings.num_inference_steps, settings.shift)
    for timestep in scheduler.timesteps:
        velocity = predict_velocity(transformer, conditions, free, float(timestep), settings)
        free = scheduler.step(velocity, free)
    return torch.cat([given, free], dim=2)


def predict_velocity(
    transformer: Any,
    conditions: ClipConditions,
    free: Tensor,
    timestep: float,
    settings: SamplerSettings,
) -> Tensor:
    """Guided velocity [B, C, F - G, h, w] of the new latents `free` at `timestep` in [0, 1000]."""
    given = torch.cat([conditions.reference_latents, conditions.given_latents], dim=2)
    sequence = torch.cat([given, free], dim=2)
    timesteps = torch.full((sequence.shape[0], sequence.shape[2]), timestep, device=sequence.device)
    timesteps[:, : given.shape[2]] = 0

    def run(embeds: Tensor, name: str) -> Tensor:
        with transformer.cache_context(name):  # block caches keep prompt and guidance apart
            dtype = transformer.patch_embedding.weight.dtype
            velocity = transformer(
                sequence.to(dtype),
                timesteps,
                embeds.to(dtype),
                control_hidden_states=conditions.control.to(dtype),
                num_ref_frames=conditions.reference_latents.shape[2],
                control_scale=settings.control_scale,
                return_dict=False,
            )[0]
        return velocity[:, :, given.shape[2] :].float()

    positive = run(conditions.prompt_embeds, "cond")
    if settings.guidance_scale == 1:
        return positive
    if conditions.negative_embeds is None:
        raise ActionError("negative_embeds: are needed with guidance; give them, or guidance_scale=1.")
    negative = run(conditions.negative_embeds, "uncond")
    return negative + settings.guidance_scale * (positive - negative)


def check_clip_size(height: int, width: int, multiple: int = 32) -> None:
    """Raise `ActionError` unless both sides are multiples of what the checkpoint needs."""
    if height % multiple or width % multiple or min(height, width) <= 0:
        near = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise ActionError(
            f"size {height}x{width}: height and width must be multiples of {multiple}; "
            f"the nearest is {near[0]}x{near[1]}."
        )


def to_uint8(frames: Tensor) -> Tensor:
    """Pixels u8 of frames in [-1, 1], cut off (not rounded) as the release does."""
    return ((frames.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def from_uint8(frames: Tensor) -> Tensor:
    """Frames f32 [B, 3, T, H, W] in [-1, 1] of pixels u8 [B, T, H, W, 3] or [T, H, W, 3]."""
    frames = frames.unsqueeze(0) if frames.ndim == 4 else frames
    return frames.permute(0, 4, 1, 2, 3).float() * (2 / 255) - 1


def _one_of(first_frame: Tensor | None, preceding_frames: Tensor | None) -> Tensor:
    if (first_frame is None) == (preceding_frames is None):
        raise ActionError("clip: give first_frame for a first clip, or preceding_frames for a later one.")
    given = first_frame if preceding_frames is None else preceding_frames
    assert given is not None  # one of the two, as checked above
    return given
