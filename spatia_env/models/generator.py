"""`ClipGenerator`: text, render, references and preceding frames in, the next clip out.

One generator for every size: what differs between checkpoints (strides, how control is encoded, the sampler)
lives in the parts that are handed in. It knows tensors only, neither the map nor the environment.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.models.conditioning import Conditions, control_latents, known_planes, sample_few_steps
from spatia_env.models.spatial_conditioning import PLACE_CHANNELS, with_falling, with_preceding


@dataclass(frozen=True)
class ClipShape:
    """What a checkpoint was trained for."""

    num_frames: int = 8
    """new frames a step"""
    num_preceding: int = 4
    """frames of the past that it sees"""
    num_references: int = 2
    """retrieved pictures that it sees"""
    height: int = 128
    width: int = 128
    multiple: int = 32
    """height and width must be multiples of this"""


class ClipGenerator:
    """Generates clips.

    Args:
        transformer: `SpatiaTransformer3DModel`.
        autoencoder: Anything with `encode`, `decode` and the strides (see `TinyAutoencoder`).
        text_encoder: Callable from sentences to embeddings [B, L, D].
        shape: What the checkpoint was trained for.
        sigmas: Noise levels of the few-step sampler, falling from 1.
    """

    reads_known_words = True
    """Whether events that are recognised reach it in their canonical words (see `events.log.listen`)."""

    def __init__(
        self, transformer: Any, autoencoder: Any, text_encoder: Any,
        shape: ClipShape | None = None, sigmas: tuple[float, ...] = (1.0,),
    ) -> None:  # fmt: skip
        self.transformer, self.autoencoder, self.text_encoder = transformer, autoencoder, text_encoder
        self.shape, self.sigmas = shape or ClipShape(), tuple(sigmas)

    @property
    def reads_continued(self) -> bool:
        """Whether its decoder is told how surfaces go on beyond the render (`slam.plane_extrapolation`)."""
        return bool(self.autoencoder.config.continued_planes)

    @torch.inference_mode()
    def __call__(
        self,
        prompt: list[str],
        scene_render: Tensor,
        known: Tensor,
        reference_frames: Tensor,
        preceding_frames: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        places: Tensor | None = None,
        falling: Tensor | None = None,
        continued: Tensor | None = None,
    ) -> Tensor:
        """Generate the next clip of B worlds.

        Args:
            prompt: B sentences (see `text.compose_text`).
            scene_render: The map rendered along the new path [B, 3, T, H, W] in [-1, 1].
            known: Where the render is covered [B, 1, T, H, W], 0 or 1.
            reference_frames: Retrieved pictures [B, 3, R, H, W] in [-1, 1]; with fewer than the checkpoint
                expects, the last preceding frame stands in.
            preceding_frames: The last frames [B, 3, P, H, W] in [-1, 1], oldest first.
            generator: Source of the noise, one for all or one per world.
            places: Where things are along the new path [B, 20, T, h, w] (`spatial_conditioning.place_planes`), for a
                checkpoint that reads it; others ignore it.
            falling: Where flakes and balls would be [B, 2, T, H, W], 0 or 1 (`falling.falling_planes`), likewise.
            continued: How surfaces go on where the render is not covered [B, 4, T, H, W]
                (`slam.plane_extrapolation.Continued.planes`), likewise.

        Returns:
            New frames [B, 3, T, H, W] in [-1, 1].

        Raises:
            ActionError: If heights and widths are not multiples of what the checkpoint needs.
        """
        conditions = self.condition(
            prompt, scene_render, known, reference_frames, preceding_frames, places, falling
        )
        latents = sample_few_steps(self.transformer, conditions, list(self.sigmas), generator)
        return self.autoencoder.decode(latents, scene_render, known, falling, continued).clamp(-1, 1)

    def condition(
        self,
        prompt: list[str],
        scene_render: Tensor,
        known: Tensor,
        reference_frames: Tensor,
        preceding_frames: Tensor,
        places: Tensor | None = None,
        falling: Tensor | None = None,
    ) -> Conditions:
        """Encode what the clip is conditioned on; shapes as in `__call__`."""
        height, width = scene_render.shape[-2:]
        if height % self.shape.multiple or width % self.shape.multiple:
            raise ActionError(
                f"size {height}x{width}: height and width must be multiples of {self.shape.multiple}; "
                f"this checkpoint was trained at {self.shape.height}x{self.shape.width}."
            )
        references = self._pad_references(reference_frames, preceding_frames)
        given = torch.cat([references, preceding_frames, scene_render], dim=2)
        latents = self.autoencoder.encode(given)
        counts = [references.shape[2], preceding_frames.shape[2], scene_render.shape[2]]
        reference_latents, preceding_latents, render_latents = latents.split(counts, dim=2)
        planes = known_planes(known, *latents.shape[-2:])
        control = control_latents(preceding_latents, render_latents, planes)
        placed = None
        channels = self.transformer.config.place_channels
        if channels and places is not None:
            told = places
            if falling is not None and channels > PLACE_CHANNELS:  # an older checkpoint knows places only
                told = with_falling(places, falling)
            placed = with_preceding(told, preceding_latents.shape[2])
        return Conditions(self.text_encoder(prompt), reference_latents, preceding_latents, control, placed)

    def _pad_references(self, reference_frames: Tensor, preceding_frames: Tensor) -> Tensor:
        missing = self.shape.num_references - reference_frames.shape[2]
        if missing <= 0:
            return reference_frames
        last = preceding_frames[:, :, -1:].expand(-1, -1, missing, -1, -1)
        return torch.cat([reference_frames, last], dim=2)
