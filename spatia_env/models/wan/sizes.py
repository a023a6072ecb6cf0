"""Sizes of the official models, read off the shapes of their tensors (names as in our classes)."""

import math
import re
from typing import Any

from spatia_env.errors import CheckpointError
from spatia_env.models.wan.autoencoder import WAN22_CONFIG, WAN22_LATENTS_MEAN, WAN22_LATENTS_STD

Shapes = dict[str, tuple[int, ...]]
OFFICIAL_HEAD_DIM = 128


def transformer_config(
    shapes: Shapes, hints: dict[str, Any], control_layers: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Arguments of `SpatiaTransformer3DModel`.

    Args:
        shapes: Of the base model's and the control branch's tensors.
        hints: The base model's config.json, for what shapes do not tell: the number of heads, and eps.
        control_layers: Blocks that the control branch speaks to; empty for evenly spread.

    Raises:
        CheckpointError: If the tensors that tell the sizes are missing.
    """
    dim, in_channels, *patch = _shape(shapes, "patch_embedding.weight", 5)
    control_in_channels = _shape(shapes, "vace_patch_embedding.weight", 5)[1]
    layers, control_blocks = (_count(shapes, kind, "attn1.to_q.weight") for kind in ("blocks", "vace_blocks"))
    heads = hints.get("num_heads") or hints.get("num_attention_heads") or dim // OFFICIAL_HEAD_DIM
    spread = tuple(range(0, layers, math.ceil(layers / max(1, control_blocks))))[:control_blocks]
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": int(heads),
        "attention_head_dim": dim // int(heads),
        "in_channels": in_channels,
        "out_channels": _shape(shapes, "proj_out.weight", 2)[0] // math.prod(patch),
        "text_dim": _shape(shapes, "condition_embedder.text_embedder.linear_1.weight", 2)[1],
        "freq_dim": _shape(shapes, "condition_embedder.time_embedder.linear_1.weight", 2)[1],
        "ffn_dim": _shape(shapes, "blocks.0.ffn.net.0.proj.weight", 2)[0],
        "num_layers": layers,
        "eps": float(hints.get("eps", 1e-6)),
        "control_layers": control_layers or spread,
        "control_in_channels": control_in_channels,
    }


def autoencoder_config(
    shapes: Shapes, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> dict[str, Any]:
    """Arguments of `AutoencoderKLWan` for an autoencoder of the Wan2.2 kind.

    Args:
        shapes: Of its tensors.
        mean: Of each latent channel; empty for Wan2.2's.
        std: Of each latent channel; empty for Wan2.2's.

    Raises:
        CheckpointError: If the tensors that tell the sizes are missing, or the statistics do not fit.
    """
    config: dict[str, Any] = {
        **WAN22_CONFIG,
        "_class_name": "AutoencoderKLWan",
        "base_dim": _shape(shapes, "encoder.conv_in.weight", 5)[0],
        "decoder_base_dim": _shape(shapes, "decoder.norm_out.gamma", 4)[0],
        "z_dim": _shape(shapes, "post_quant_conv.weight", 5)[0],
        "latents_mean": list(mean or WAN22_LATENTS_MEAN),
        "latents_std": list(std or WAN22_LATENTS_STD),
    }
    if not len(config["latents_mean"]) == len(config["latents_std"]) == config["z_dim"]:
        raise CheckpointError(
            f"vae: has {config['z_dim']} latent channels, their statistics {len(config['latents_mean'])}; "
            "take Wan2.2_VAE.pth, or give latents_mean and latents_std."
        )
    return config


def text_encoder_config(shapes: Shapes) -> tuple[dict[str, Any], Shapes]:
    """config.json of transformers' `UMT5EncoderModel`, and the shapes it then has.

    Raises:
        CheckpointError: If the tensors that tell the sizes are missing.
    """
    vocabulary, dim = _shape(shapes, "shared.weight", 2)
    layers = _count(shapes, "encoder.block", "layer.0.SelfAttention.q.weight")
    block = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = _shape(shapes, f"{block}.relative_attention_bias.weight", 2)
    inner = _shape(shapes, f"{block}.q.weight", 2)[0]
    hidden = _shape(shapes, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0]
    config = {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "vocab_size": vocabulary,
        "d_model": dim,
        "d_kv": inner // heads,
        "d_ff": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
    }
    expected: Shapes = {"shared.weight": (vocabulary, dim), "encoder.final_layer_norm.weight": (dim,)}
    for index in range(layers):
        attention, feed = (f"encoder.block.{index}.layer.{part}" for part in (0, 1))
        for name in "qkv":
            expected[f"{attention}.SelfAttention.{name}.weight"] = (inner, dim)
        expected[f"{attention}.SelfAttention.o.weight"] = (dim, inner)
        expected[f"{attention}.SelfAttention.relative_attention_bias.weight"] = (buckets, heads)
        expected[f"{attention}.layer_norm.weight"] = expected[f"{feed}.layer_norm.weight"] = (dim,)
        expected[f"{feed}.DenseReluDense.wi_0.weight"] = (hidden, dim)
        expected[f"{feed}.DenseReluDense.wi_1.weight"] = (hidden, dim)
        expected[f"{feed}.DenseReluDense.wo.weight"] = (dim, hidden)
    return config, expected


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != dimensions:
        raise CheckpointError(
            f"checkpoint: {name} is missing or misshapen ({shape}); take the released files."
        )
    return shape


def _count(shapes: Shapes, kind: str, member: str) -> int:
    """Blocks `kind.0`, `kind.1` ... up to the last that has a `member`; what else bears a number is a stray."""
    pattern = re.compile(rf"{re.escape(kind)}\.(\d+)\.{re.escape(member)}")
    numbers = [int(match.group(1)) for name in shapes if (match := pattern.fullmatch(name))]
    return max(numbers, default=-1) + 1
