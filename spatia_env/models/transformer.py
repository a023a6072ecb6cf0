"""The video transformer: references, history and new frames in one sequence, steered by a control branch.

One class for both sizes: the embedded tiny checkpoint and the released Wan2.2-TI2V-5B weights differ in their
configuration only. See `blocks` for the parts. Tensors only; this module knows neither cameras nor text.
"""

import math
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import FP32LayerNorm
from diffusers.utils import is_accelerate_available
from torch import Tensor, nn

from spatia_env.errors import ActionError, CheckpointError
from spatia_env.models.blocks import (
    RotaryPositions,
    SpatiaBlock,
    SpatiaControlBlock,
    TimeTextEmbedding,
    modulate,
)


def check_shapes(
    config: Any,
    latents: Tensor,
    timestep: Tensor,
    control: Tensor | None,
    num_ref: int,
    mask: Tensor | None,
    places: Tensor | None,
) -> None:
    """Raise `ActionError` unless what a transformer of `config` is given belongs together; see its `forward`."""
    _, patch_h, patch_w = config.patch_size
    if latents.ndim != 5 or latents.shape[1] != config.in_channels:
        raise ActionError(f"latents: expected [B, {config.in_channels}, F, h, w], got {list(latents.shape)}.")
    batch, _, frames, height, width = latents.shape
    if height % patch_h or width % patch_w:
        raise ActionError(f"latents: {height}x{width} is not a multiple of the patch {patch_h}x{patch_w}.")
    if max(frames, height // patch_h, width // patch_w) > config.rope_max_seq_len:
        raise ActionError(f"latents: {list(latents.shape)} is larger than {config.rope_max_seq_len} patches.")
    if not 0 <= num_ref < frames:
        raise ActionError(f"num_ref_frames: is {num_ref}; give 0 to {frames - 1} for {frames} latent frames.")
    if tuple(timestep.shape) not in ((), (1,), (batch,), (1, frames), (batch, frames)):
        raise ActionError(
            f"timestep: expected [B] or [B, F] for {batch}, {frames}, got {list(timestep.shape)}."
        )
    if control is not None:
        expected = (batch, config.control_in_channels, frames - num_ref, height, width)
        if tuple(control.shape) != expected:
            raise ActionError(f"control latents: expected {list(expected)}, got {list(control.shape)}.")
    if config.place_channels:
        expected = (batch, config.place_channels, frames - num_ref, height, width)
        if places is None or tuple(places.shape) != expected:
            got = "nothing" if places is None else list(places.shape)
            raise ActionError(
                f"place_hidden_states: this model needs {list(expected)} (`places.place_planes`), got {got}."
            )
    if mask is not None and tuple(mask.shape) != (batch, num_ref):
        raise ActionError(f"reference_mask: expected {[batch, num_ref]}, got {list(mask.shape)}.")


def check_sizes(
    patch_size: tuple[int, int, int],
    head_dim: int,
    num_layers: int,
    control_layers: tuple[int, ...],
    control_at_input: bool,
) -> None:
    """Raise `CheckpointError` unless a transformer can be made of these sizes; see `SpatiaTransformer3DModel`."""
    if len(patch_size) != 3 or patch_size[0] != 1:
        raise CheckpointError(
            f"patch_size: is {tuple(patch_size)}; references are single frames, so use (1, h, w)."
        )
    if head_dim % 2 or (head_dim // 3) % 2:
        raise CheckpointError(
            f"attention_head_dim: {head_dim} cannot be split into time, height and width; "
            "use 8, 12, 20, 24, 32, 64 or 128."
        )
    outside = any(not 0 <= layer < num_layers for layer in control_layers)
    if outside or len(set(control_layers)) < len(control_layers):
        raise CheckpointError(
            f"control_layers: {tuple(control_layers)} are not distinct blocks below {num_layers}."
        )
    if control_at_input and not control_layers:
        raise CheckpointError("control_at_input: needs a control branch; name its blocks in control_layers.")


class SpatiaTransformer3DModel(ModelMixin, ConfigMixin, CacheMixin, AttentionMixin):
    """Velocity of latents under flow matching, given text, known frames and what memory renders.

    The defaults are the official size; `SpatiaTransformer3DModel.from_config` builds any other. It takes no LoRA;
    `models.wan.transformer.LoraTransformer3DModel` does.

    Args:
        patch_size: (1, height, width) of a patch in latents.
        num_attention_heads: Heads of every attention.
        attention_head_dim: Channels of a head; `head_dim // 3` must be even (8, 12, 20, 24, 32, 64, 128 ...).
        in_channels: Channels of the latents.
        out_channels: Channels of the velocity.
        text_dim: Channels of the text embeddings.
        freq_dim: Channels of the time sinusoid.
        ffn_dim: Hidden width of the feed-forward layers.
        num_layers: Main blocks.
        cross_attn_norm: Whether tokens are normalised before they attend to the text.
        qk_norm: "rms_norm_across_heads", the one kind there is.
        eps: Of every normalisation.
        rope_max_seq_len: Longest side of the latents in patches, and the most frames.
        control_layers: Main blocks after which a hint of the control branch is added; () for no branch.
        control_in_channels: Channels of the control latents.
        control_at_input: Whether the control latents are also added, through a convolution that starts at
            zero, to the patch embeddings of the frames they belong to.
        place_channels: Channels of planes that say where things are (see `places`), added in the same way; 0 for
            none.

    Raises:
        CheckpointError: If the sizes fit no model.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("SpatiaBlock", "SpatiaControlBlock")
    _repeated_blocks = ("SpatiaBlock", "SpatiaControlBlock")
    _skip_layerwise_casting_patterns = (
        "patch_embedding",
        "vace_patch_embedding",
        "control_input_embedding",
        "condition_embedder",
        "norm",
    )
    # diffusers cannot load with parts kept in float32 unless accelerate is there.
    _keep_in_fp32_modules = (
        ["rope", "time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"]
        if is_accelerate_available()
        else None
    )

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        in_channels: int = 48,
        out_channels: int = 48,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 14336,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
        control_layers: tuple[int, ...] = (0, 4, 8, 12, 16, 20, 24, 28),
        control_in_channels: int = 96,
        control_at_input: bool = False,
        place_channels: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(patch_size, attention_head_dim, num_layers, control_layers, control_at_input)
        dim = num_attention_heads * attention_head_dim
        block = (dim, ffn_dim, num_attention_heads, cross_attn_norm, eps)

        self.rope = RotaryPositions(attention_head_dim, rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = TimeTextEmbedding(dim, freq_dim, text_dim)
        self.blocks = nn.ModuleList(SpatiaBlock(*block) for _ in range(num_layers))
        if control_layers:
            self.vace_patch_embedding = nn.Conv3d(
                control_in_channels, dim, kernel_size=patch_size, stride=patch_size
            )
            self.vace_blocks = nn.ModuleList(
                SpatiaControlBlock(*block, first=index == 0) for index in range(len(control_layers))
            )
        if control_at_input:
            self.control_input_embedding = nn.Conv3d(
                control_in_channels, dim, kernel_size=patch_size, stride=patch_size
            )
            for parameter in self.control_input_embedding.parameters():
                nn.init.zeros_(parameter)
        if place_channels:
            self.place_embedding = nn.Conv3d(place_channels, dim, kernel_size=patch_size, stride=patch_size)
            for parameter in self.place_embedding.parameters():
                nn.init.zeros_(parameter)
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        control_hidden_states: Tensor | None = None,
        num_ref_frames: int = 0,
        control_scale: float = 1.0,
        reference_mask: Tensor | None = None,
        place_hidden_states: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity of every latent frame.

        Args:
            hidden_states: latents [B, C, F, h, w]: references, then preceding, then new frames along F.
            timestep: in [0, 1000]; a scalar, [B], or [B, F] with 0 on the frames that are given.
            encoder_hidden_states: text [B, L, text_dim], zero rows past its end included.
            control_hidden_states: control latents [B, Cc, F - num_ref_frames, h, w], or None for no hints.
            num_ref_frames: how many of the F frames are references.
            control_scale: factor on the hints.
            reference_mask: bool [B, num_ref_frames], False for references that a row of the batch lacks. The
                missing ones come first; what they hold is then without effect.
            place_hidden_states: place planes [B, place_channels, F - num_ref_frames, h, w], for a model that has them.
            return_dict: whether to wrap the result.

        Returns:
            Velocity [B, out_channels, F, h, w], as `.sample` or as a tuple of one.

        Raises:
            ActionError: If the shapes do not belong together.
        """
        check_shapes(
            self.config,
            hidden_states,
            timestep,
            control_hidden_states,
            num_ref_frames,
            reference_mask,
            place_hidden_states,
        )
        batch, _, frames, height, width = hidden_states.shape
        rows, columns = height // self.config.patch_size[1], width // self.config.patch_size[2]
        num_ref_tokens = num_ref_frames * rows * columns
        rotary = self.rope(num_ref_frames, frames - num_ref_frames, rows, columns, hidden_states.device)
        mask = _key_mask(reference_mask, frames, rows * columns)

        tokens = _tokens(self.patch_embedding(hidden_states))
        for planes, embed in self._planes_at_input(control_hidden_states, place_hidden_states):
            added = _tokens(embed(planes))
            tokens = torch.cat([tokens[:, :num_ref_tokens], tokens[:, num_ref_tokens:] + added], dim=1)
        temb, modulation, context = self._embed_conditions(timestep, encoder_hidden_states, batch)

        hints: dict[int, Tensor] = {}
        if control_hidden_states is not None and control_scale != 0 and self.config.control_layers:
            hints = self._control_hints(
                tokens[:, num_ref_tokens:],
                control_hidden_states,
                context,
                modulation if modulation.shape[1] == 1 else modulation[:, num_ref_frames:],
                rotary[:, num_ref_tokens:],
                control_scale,
            )
        for index, block in enumerate(self.blocks):
            tokens = self._run(block, tokens, context, modulation, rotary, hints.get(index), mask)
        output = self._unpatchify(self._head(tokens, temb), frames, rows, columns)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def enable_cache(self, config: object) -> None:
        """Turn on one of diffusers' block caches, which must be told how our blocks return hidden states."""
        from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

        returns = TransformerBlockMetadata(
            return_hidden_states_index=0, return_encoder_hidden_states_index=None
        )
        TransformerBlockRegistry.register(SpatiaBlock, returns)
        super().enable_cache(config)

    @torch.no_grad()
    def initialise_weights(self, generator: torch.Generator | None = None) -> None:
        """Weights to train from: Xavier, small time and text layers, head and hints that start at zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                if "time_embedder" in name or "text_embedder" in name or "time_proj" in name:
                    nn.init.normal_(module.weight, std=0.02, generator=generator)
                else:
                    nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        silent = [self.proj_out, *(block.proj_out for block in getattr(self, "vace_blocks", ()))]
        if self.config.control_at_input:
            silent.append(self.control_input_embedding)
        if self.config.place_channels:
            silent.append(self.place_embedding)
        for module in silent:
            nn.init.zeros_(module.weight)

    def _planes_at_input(
        self, control: Tensor | None, places: Tensor | None
    ) -> list[tuple[Tensor, nn.Module]]:
        """What is added to the patches of given and new frames, and by which convolution."""
        planes: list[tuple[Tensor, nn.Module]] = []
        if control is not None and self.config.control_at_input:
            planes.append((control, self.control_input_embedding))
        if self.config.place_channels and places is not None:
            planes.append((places, self.place_embedding))
        return planes

    def _run(self, block: nn.Module, *args: Tensor | None) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    def _embed_conditions(self, timestep: Tensor, text: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """(temb [B, R, D], modulation [B, R, 6, D], text [B, L, D]), R = 1 or one row per latent frame."""
        timestep = timestep.reshape(-1, 1) if timestep.ndim < 2 else timestep
        timestep = timestep.expand(batch, -1)
        text = text.to(self.patch_embedding.weight.dtype)
        temb, projected, context = self.condition_embedder(timestep, text)
        return temb, projected.unflatten(2, (6, -1)), context

    def _control_hints(
        self,
        patches: Tensor,
        control: Tensor,
        context: Tensor,
        modulation: Tensor,
        rotary: Tensor,
        scale: float,
    ) -> dict[int, Tensor]:
        """Hints [B, M, D] by the index of the main block that they end."""
        control = _tokens(self.vace_patch_embedding(control))
        hints = {}
        for index, block in zip(self.config.control_layers, self.vace_blocks, strict=True):
            hint, control = self._run(block, patches, control, context, modulation, rotary)
            hints[index] = hint if scale == 1 else hint * scale
        return hints

    def _head(self, tokens: Tensor, temb: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table.unsqueeze(0) + temb.float().unsqueeze(2)).unbind(2)
        return self.proj_out(modulate(self.norm_out(tokens.float()), shift, scale).type_as(tokens))

    def _unpatchify(self, tokens: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        _, patch_h, patch_w = self.config.patch_size
        grid = tokens.reshape(tokens.shape[0], frames, rows, columns, patch_h, patch_w, -1)
        return grid.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def _tokens(embedded: Tensor) -> Tensor:
    """[B, D, F, h, w] -> contiguous [B, F * h * w, D]."""
    return embedded.flatten(2).transpose(1, 2).contiguous()


def _key_mask(reference_mask: Tensor | None, frames: int, tokens_per_frame: int) -> Tensor | None:
    """Which keys exist, bool [B, 1, 1, tokens]."""
    if reference_mask is None or reference_mask.shape[1] == 0:
        return None
    given = reference_mask.new_ones(reference_mask.shape[0], frames - reference_mask.shape[1])
    per_frame = torch.cat([reference_mask, given], dim=1).bool()
    return per_frame.repeat_interleave(tokens_per_frame, dim=1)[:, None, None]
