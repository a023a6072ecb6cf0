"""How the released files name their tensors, and how this package's classes do.

Pure functions from name to name, one per network. The classes keep diffusers' names, so the same functions
serve the original Wan2.2 layout, the control checkpoint and the LoRA. Nothing here changes a tensor.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from spatia_env.errors import CheckpointError

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


def rename(tensors: Mapping[str, Tensor], mapping: Callable[[str], str]) -> dict[str, Tensor]:
    """A new dict of the same tensors under their new names.

    Raises:
        CheckpointError: If two tensors would get one name.
    """
    renamed = {mapping(name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise CheckpointError(
            "checkpoint: two of its tensors have the same meaning; take an unmodified file."
        )
    return renamed


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


def merge_lora(weights: Mapping[str, Tensor], layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of the transformer's weights with W + B @ A in the layers that the adapter names."""
    merged = dict(weights)
    for name, down in layers.items():
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            up = layers[f"{layer}.lora_B.weight"]
            merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + up @ down
    return merged


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
