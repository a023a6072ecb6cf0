"""A control branch that has learnt nothing yet: for a base model that comes without the release's checkpoint."""

import math

import torch
from torch import Tensor, nn

from spatia_env.errors import CheckpointError
from spatia_env.models.wan.sources import Source

STRIDE = 4
"""The branch speaks to every 4th main block, as the release's does."""
SEED = 20917


def add_control_branch(transformer: Source, layers: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Add the tensors of a new branch to those of the base model; returns the main blocks that it speaks to.

    Its blocks begin as the main blocks that they speak to; its way in and its hints begin at zero, so the model is
    the base model until the branch is trained.

    Args:
        transformer: Of the base model, under our names.
        layers: Main blocks that it speaks to; empty for every 4th.

    Raises:
        CheckpointError: If the base model lacks a block that is named, or has a branch already.
    """
    shapes = dict(transformer.shapes)
    if any(name.startswith("vace_") for name in shapes) or "patch_embedding.weight" not in shapes:
        raise CheckpointError("base model: is none, or has a control branch already; take Wan2.2-TI2V-5B.")
    dim, channels, *patch = shapes["patch_embedding.weight"]
    blocks = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")), default=-1)
    layers = layers or tuple(range(0, blocks, STRIDE))
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
