"""Layouts of the released files: the names of their tensors there and in this package's classes, and the sizes.

Pure functions from name to name, one per network. The classes keep diffusers' names, so the same functions serve the
original Wan2.2 layout, the control checkpoint and the LoRA. Sizes are read off the shapes of tensors (names as in our
classes). A base model without the release's control checkpoint gets a control branch that has learnt nothing.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spatia_env.errors import CheckpointError
from spatia_env.models.wan.autoencoder import WAN22_CONFIG, WAN22_LATENTS_MEAN, WAN22_LATENTS_STD
from spatia_env.models.wan.folders import Source

Shapes = dict[str, tuple[int, ...]]
OFFICIAL_HEAD_DIM = 128
CONTROL_STRIDE = 4
"""A new control branch adds to every 4th main block, as the release's does."""
SEED = 20917
LORA_PREFIX = "pipe.dit."
"""The release trains more than it uses: only adapters with this in their name belong to the transformer."""

_TRANSFORMER = (
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^head\.head\.", "proj_out."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"\.modulation$", ".scale_shift_table"),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
    (r"\.(attn[12])\.o\.", r".\1.to_out.0."),
    (r"\.norm3\.", ".norm2."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
    (r"\.before_proj\.", ".proj_in."),
    (r"\.after_proj\.", ".proj_out."),
)

_RELEASE = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.(attn[12])\.to_([qkv])\.", r".\1.\2."),
    (r"\.(attn[12])\.to_out\.0\.", r".\1.o."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.proj_in\.", ".before_proj."),
    (r"\.proj_out\.", ".after_proj."),
)

_AUTOENCODER = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (
        r"^encoder\.downsamples\.(\d+)\.downsamples\.\d+\.(resample|time_conv)\.",
        r"encoder.down_blocks.\1.downsampler.\2.",
    ),
    (r"^encoder\.downsamples\.(\d+)\.downsamples\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (
        r"^decoder\.upsamples\.(\d+)\.upsamples\.\d+\.(resample|time_conv)\.",
        r"decoder.up_blocks.\1.upsampler.\2.",
    ),
    (r"^decoder\.upsamples\.(\d+)\.upsamples\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)

_TEXT_ENCODER = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)


def transformer_name(name: str) -> str:
    """Name of a tensor of the base transformer or of the control checkpoint in `SpatiaTransformer3DModel`."""
    return _rename(name, _TRANSFORMER)


def release_name(name: str) -> str:
    """Name that the release gives to a tensor of `SpatiaTransformer3DModel`: the way back of `transformer_name`."""
    return _rename(name, _RELEASE)


def autoencoder_name(name: str) -> str:
    """Name of a tensor of `Wan2.2_VAE.pth` in diffusers' `AutoencoderKLWan`."""
    return _rename(name.removeprefix("model."), _AUTOENCODER)


def text_encoder_name(name: str) -> str:
    """Name of a tensor of `models_t5_umt5-xxl-enc-bf16.pth` in transformers' `UMT5EncoderModel`."""
    return _rename(name, _TEXT_ENCODER)


def lora_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter of the transformer: `<layer>.lora_A.weight` [r, in] and `<layer>.lora_B.weight` [out, r].

    Only names with `pipe.dit.` are kept. The update is B @ A: the release scales by neither alpha nor rank.

    Raises:
        CheckpointError: If there are none, or one half of a pair is missing or does not fit the other.
    """
    layers: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if LORA_PREFIX in name:
            plain = name.replace(LORA_PREFIX, "").replace(".default.weight", ".weight")
            layer, half = _split_lora(plain, name)
            layers[f"{transformer_name(layer + '.weight').removesuffix('.weight')}.{half}.weight"] = tensor
    _check_pairs(layers)
    return layers


def release_lora_layers(layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter under the names of the release's LoRA files: the way back of `lora_layers`."""
    renamed = {}
    for name, tensor in layers.items():
        layer, half = _split_lora(name, name)
        released = release_name(f"{layer}.weight").removesuffix(".weight")
        renamed[f"{LORA_PREFIX}{released}.{half}.default.weight"] = tensor
    return renamed


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _split_lora(plain: str, name: str) -> tuple[str, str]:
    for half in ("lora_A", "lora_B"):
        if plain.endswith(f".{half}.weight"):
            return plain.removesuffix(f".{half}.weight"), half
    raise CheckpointError(
        f"LoRA: tensor {name!r} is neither a lora_A nor a lora_B weight; this file is of another kind."
    )


def _check_pairs(layers: Mapping[str, Tensor]) -> None:
    if not layers:
        raise CheckpointError(
            f"LoRA: no tensor has {LORA_PREFIX!r} in its name; take the release's LoRA file."
        )
    for name, tensor in layers.items():
        other = name.replace("lora_A", "lora_B") if "lora_A" in name else name.replace("lora_B", "lora_A")
        if other not in layers:
            raise CheckpointError(f"LoRA: {name} has no {other}; the file is incomplete.")
        rank = tensor.shape[0] if "lora_A" in name else tensor.shape[1]
        other_rank = layers[other].shape[1] if "lora_A" in name else layers[other].shape[0]
        if tensor.ndim != 2 or rank != other_rank:
            raise CheckpointError(f"LoRA: {name} and {other} have ranks {rank} and {other_rank}.")


def transformer_config(
    shapes: Shapes, hints: dict[str, Any], control_layers: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Arguments of `SpatiaTransformer3DModel`.

    Args:
        shapes: Of the base model's and the control branch's tensors.
        hints: The base model's config.json, for what shapes do not tell: the number of heads, and eps.
        control_layers: Blocks whose output the control branch adds to; empty for evenly spread.

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


def add_control_branch(transformer: Source, layers: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Add the tensors of a new branch to those of the base model; returns the main blocks that it adds to.

    Its blocks begin as copies of those main blocks; input and output projections begin at zero, so the model is
    the base model until the branch is trained.

    Args:
        transformer: Of the base model, under our names.
        layers: Main blocks that it adds to; empty for every 4th.

    Raises:
        CheckpointError: If the base model lacks a block that is named, or has a branch already.
    """
    shapes = dict(transformer.shapes)
    if any(name.startswith("vace_") for name in shapes) or "patch_embedding.weight" not in shapes:
        raise CheckpointError("base model: is none, or has a control branch already; take Wan2.2-TI2V-5B.")
    dim, channels, *patch = shapes["patch_embedding.weight"]
    blocks = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")), default=-1)
    layers = layers or tuple(range(0, blocks, CONTROL_STRIDE))
    if not layers or not all(0 <= layer < blocks for layer in layers):
        raise CheckpointError(
            f"control_layers: {layers} are not among the {blocks} blocks of the base model."
        )
    for index, layer in enumerate(layers):
        for name in (name for name in shapes if name.startswith(f"blocks.{layer}.")):
            transformer.add_copy(f"vace_blocks.{index}.{name.split('.', 2)[2]}", name)
        for part in ("proj_in", "proj_out")[index > 0 :]:
            transformer.add_tensor(f"vace_blocks.{index}.{part}.weight", torch.zeros(dim, dim))
            transformer.add_tensor(f"vace_blocks.{index}.{part}.bias", torch.zeros(dim))
    weight = _kaiming(dim, 2 * channels, *patch)
    transformer.add_tensor("vace_patch_embedding.weight", weight)
    transformer.add_tensor("vace_patch_embedding.bias", torch.zeros(dim))
    return layers


def _kaiming(*shape: int) -> Tensor:
    """A convolution's weights as torch draws them."""
    weight = torch.empty(shape)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=torch.Generator().manual_seed(SEED))
    return weight
