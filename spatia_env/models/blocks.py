"""The transformer's parts: rotary positions, time embedding, attention and blocks.

Parameter names are those of diffusers' Wan classes, so converted weights load without a map of our own. The
classes are not derived from those: importing them loads transformers, peft and scipy, 1.7 s of every start.
Three things differ from the stock blocks, none in the numbers. Modulation has one row per latent frame,
broadcast over that frame's tokens; the stock code stores one row per token, 2 GB at full size. Hints of the
control branch are added *inside* the main block, so that block caches see them once. And on the CPU the
rotation is one complex multiplication.
"""

from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin, FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn
from torch.nn import functional

ROPE_THETA = 10000.0
_CACHED_TABLES = 32


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that encode (time, height, width)."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rope_table(
    head_dim: int,
    num_ref_frames: int,
    frames: int,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Cosines and sines f32 [tokens, head_dim / 2, 2] for reference then video tokens, computed in float64.

    Video tokens sit at (t, y, x) from zero. Reference frame i of n sits at time i - n, and below the picture:
    its rows are offset by `height`. `height` and `width` count patches.
    """
    target = torch.device(device)
    compute = target if target.type in ("cuda", "meta") else torch.device("cpu")  # mps has no float64

    def positions(times: Tensor, first_row: int) -> Tensor:
        rows = torch.arange(first_row, first_row + height, device=compute)
        columns = torch.arange(width, device=compute)
        return torch.stack(torch.meshgrid(times, rows, columns, indexing="ij"), dim=-1).flatten(0, 2)

    grid = positions(torch.arange(frames, device=compute), 0)
    if num_ref_frames:
        references = positions(torch.arange(-num_ref_frames, 0, device=compute), height)
        grid = torch.cat([references, grid])
    angles = []
    for axis, dim in enumerate(axis_dims(head_dim)):
        exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=compute) / dim
        angles.append(grid[:, axis, None].double() * ROPE_THETA**-exponent)
    angle = torch.cat(angles, dim=1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).to(dtype=torch.float32, device=target)


class RotaryPositions(nn.Module):
    """`rope_table` as [1, tokens, 1, head_dim / 2, 2], remembered per layout and device."""

    def __init__(self, head_dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.max_seq_len = max_seq_len
        self._tables: dict[tuple[int, int, int, int, torch.device], Tensor] = {}

    def forward(
        self, num_ref_frames: int, frames: int, height: int, width: int, device: torch.device
    ) -> Tensor:
        """Table [1, tokens, 1, head_dim / 2, 2] of a sequence; `height` and `width` count patches."""
        key = (num_ref_frames, frames, height, width, device)
        table = self._tables.get(key)
        if table is None:
            with torch.no_grad():
                table = rope_table(self.head_dim, *key)[None, :, None]
            if device.type == "meta":
                return table
            while len(self._tables) >= _CACHED_TABLES:
                self._tables.pop(next(iter(self._tables)))
            self._tables[key] = table
        return table


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """`x` [B, L, heads, d] with each channel pair turned by the angle in `table` [1, L, 1, d/2, 2]."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        # One vectorised complex product: 7x faster forward and backward than the strided real form.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
        return turned.flatten(-2).type_as(x)
    (first, second), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2).type_as(x)


class SpatiaAttnProcessor:
    """Self- and cross-attention of one block; the back-end is the one `set_attention_backend` chose."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "SpatiaAttention",
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tensor | None = None,
    ) -> Tensor:
        """Attended tokens [B, L, D]; without `encoder_hidden_states` the tokens attend to themselves."""
        query, key, value = _project(attn, hidden_states, encoder_hidden_states)
        query = _normed(attn.norm_q, query).unflatten(2, (attn.heads, -1))
        key = _normed(attn.norm_k, key).unflatten(2, (attn.heads, -1))
        value = value.unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = rotate(query, rotary_emb), rotate(key, rotary_emb)
        out = dispatch_attention_fn(
            query, key, value, attn_mask=attention_mask, backend=self._attention_backend
        )
        return attn.to_out[0](out.flatten(2, 3).type_as(query))


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm` of `x` at the precision of its own weights: under autocast products are coarser than they."""
    weight = getattr(norm, "weight", None)
    return norm(x if weight is None else x.to(weight.dtype))


def _project(attn: Any, hidden_states: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    fused = getattr(attn, "fused_projections", False)
    if context is None:
        if fused:
            return attn.to_qkv(hidden_states).chunk(3, dim=-1)
        context = hidden_states
    elif fused:
        return attn.to_q(hidden_states), *attn.to_kv(context).chunk(2, dim=-1)
    return attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)


class SpatiaAttention(nn.Module, AttentionModuleMixin):
    """Multi-head attention with RMS norms over all heads of queries and keys; named as diffusers' `WanAttention`.

    Args:
        dim: Channels of the tokens; a head has `dim / heads`.
        heads: Heads.
        eps: Of the norms.
        is_cross_attention: Whether keys and values are taken from the text.
    """

    _default_processor_cls = SpatiaAttnProcessor
    _available_processors = (SpatiaAttnProcessor,)
    use_bias = True

    def __init__(self, dim: int, heads: int, eps: float, is_cross_attention: bool) -> None:
        super().__init__()
        self.heads, self.is_cross_attention = heads, is_cross_attention
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = (nn.RMSNorm(dim, eps=eps) for _ in range(2))
        self.set_processor(SpatiaAttnProcessor())  # type: ignore[operator]

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tensor | None = None,
    ) -> Tensor:
        """See `SpatiaAttnProcessor`."""
        processor: Any = self.processor
        return processor(self, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)


class SinusoidalTime(nn.Module):
    """Timesteps [N] -> cosines then sines [N, dim], the angles in float64 as in the release."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, timestep: Tensor) -> Tensor:
        """Embeddings f32 [N, dim] of timesteps [N]."""
        half = self.dim // 2
        # Devices without float64 (mps) take the detour through the CPU: N is the number of frames.
        device = torch.device("cpu") if timestep.device.type == "mps" else timestep.device
        exponent = torch.arange(half, dtype=torch.float64, device=device) / half
        angle = timestep.to(device).double()[:, None] * torch.pow(ROPE_THETA, -exponent)
        return torch.cat([angle.cos(), angle.sin()], dim=-1).to(torch.float32).to(timestep.device)


class TimeTextEmbedding(nn.Module):
    """Embeds timesteps and text; named as diffusers' `WanTimeTextImageEmbedding`.

    Args:
        dim: Channels of the tokens.
        freq_dim: Channels of the time sinusoid.
        text_dim: Channels of the text embeddings.
    """

    def __init__(self, dim: int, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.timesteps_proj = SinusoidalTime(freq_dim)
        self.time_embedder = TimestepEmbedding(in_channels=freq_dim, time_embed_dim=dim)
        self.act_fn = nn.SiLU()
        self.time_proj = nn.Linear(dim, dim * 6)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")

    def forward(self, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(time [B, R, D], modulation [B, R, 6 D], text [B, L, D]) of timesteps [B, R] and text [B, L, text_dim]."""
        sinusoid = self.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        dtype = next(self.time_embedder.parameters()).dtype
        time = self.time_embedder(sinusoid if dtype == torch.int8 else sinusoid.to(dtype)).type_as(text)
        return time, self.time_proj(self.act_fn(time)), self.text_embedder(text)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x * (1 + scale) + shift` for tokens [B, L, D] and rows [B, R, D]; row r owns the r-th of R parts."""
    rows = shift.shape[1]
    if rows == 1:
        return torch.addcmul(shift, x, 1 + scale)
    tokens = x.unflatten(1, (rows, -1))
    return torch.addcmul(shift.unsqueeze(2), tokens, (1 + scale).unsqueeze(2)).flatten(1, 2)


def gated_add(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """`x + update * gate` with the same broadcasting of rows as `modulate`."""
    rows = gate.shape[1]
    if rows == 1:
        return torch.addcmul(x, update, gate)
    total = torch.addcmul(x.unflatten(1, (rows, -1)), update.unflatten(1, (rows, -1)), gate.unsqueeze(2))
    return total.flatten(1, 2)


class SpatiaBlock(nn.Module):
    """A Wan block with one modulation row per latent frame and the control hint added at its end."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, cross_attn_norm: bool, eps: float) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = SpatiaAttention(dim, num_heads, eps, is_cross_attention=False)
        self.attn2 = SpatiaAttention(dim, num_heads, eps, is_cross_attention=True)
        self.norm2 = FP32LayerNorm(dim, eps, elementwise_affine=True) if cross_attn_norm else nn.Identity()
        self.ffn = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: Tensor,
        hint: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Tokens [B, L, D] after the block.

        Args:
            hidden_states: tokens [B, L, D], frame after frame.
            encoder_hidden_states: embedded text [B, text, D].
            temb: modulation [B, R, 6, D]; R = 1 or the number of latent frames.
            rotary_emb: table of `RotaryPositions` for these L tokens.
            hint: control hint [B, M, D] for the last M tokens, already scaled.
            attention_mask: bool [B, 1, 1, L], False for keys that do not exist.
        """
        hidden_states = self._layers(hidden_states, encoder_hidden_states, temb, rotary_emb, attention_mask)
        if hint is None:
            return hidden_states
        # Padding instead of slicing keeps the graph free of copies into views.
        return hidden_states + functional.pad(hint, (0, 0, hidden_states.shape[1] - hint.shape[1], 0))

    def _layers(
        self, x: Tensor, context: Tensor, temb: Tensor, rotary_emb: Tensor, attention_mask: Tensor | None
    ) -> Tensor:
        table = self.scale_shift_table.unsqueeze(0) + temb.float()
        shift, scale, gate, ff_shift, ff_scale, ff_gate = table.unbind(2)
        normed = modulate(self.norm1(x.float()), shift, scale).type_as(x)
        attended = self.attn1(normed, None, attention_mask, rotary_emb)
        x = gated_add(x.float(), attended.float(), gate).type_as(x)
        x = x + self.attn2(self.norm2(x.float()).type_as(x), context, None, None)
        normed = modulate(self.norm3(x.float()), ff_shift, ff_scale).type_as(x)
        return gated_add(x.float(), self.ffn(normed).float(), ff_gate).type_as(x)


class SpatiaControlBlock(SpatiaBlock):
    """A block of the control branch: the same layers on control tokens, and a projection to a hint."""

    def __init__(
        self, dim: int, ffn_dim: int, num_heads: int, cross_attn_norm: bool, eps: float, first: bool
    ) -> None:
        super().__init__(dim, ffn_dim, num_heads, cross_attn_norm, eps)
        self.proj_in = nn.Linear(dim, dim) if first else None
        self.proj_out = nn.Linear(dim, dim)
        # A new branch starts silent and learns to speak (training from scratch or from the base model).
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        control: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(hint, control) [B, M, D]; `hidden_states` are the patch embeddings of the same M tokens."""
        if self.proj_in is not None:
            control = self.proj_in(control) + hidden_states
        control = self._layers(control, encoder_hidden_states, temb, rotary_emb, None)
        return self.proj_out(control), control
