"""What learns in each stage of the official size: a module that holds those weights of the transformer, and no other.

The trainer sees, averages and saves only what it holds; the weights are the transformer's own, not copies.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spatia_env.errors import CheckpointError, DependencyError
from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.models.wan.keymaps import release_lora_layers, release_name
from spatia_env.models.wan.lora import AUTOREGRESSIVE, Adapters

TARGETS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
"""Layers that a new adapter changes: projections and feed-forward layers of the main blocks, not of the branch."""


class ControlBranch(nn.Module):
    """The first stage: the control branch.

    Args:
        transformer: Its branch is made to learn, in float32.

    Raises:
        CheckpointError: If it has none.
    """

    def __init__(self, transformer: SpatiaTransformer3DModel) -> None:
        super().__init__()
        if not transformer.config.control_layers:
            raise CheckpointError(
                "stage control: this transformer has no control branch; convert it with one."
            )
        self.vace_patch_embedding, self.vace_blocks = (
            transformer.vace_patch_embedding,
            transformer.vace_blocks,
        )
        self.control_scale = 1.0
        self.float().requires_grad_(True)

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Without hints."""
        self.control_scale = 0.0
        try:
            yield
        finally:
            self.control_scale = 1.0

    def released(self) -> dict[str, Tensor]:
        """The weights under the release's names."""
        return {release_name(name): tensor for name, tensor in self.state_dict().items()}


class LowRank(nn.Module):
    """The second stage: low-rank adapters, which add B A x unscaled.

    Args:
        transformer: Gets the adapters; it rests otherwise.
        rank: Of new adapters.
        layers: `<layer>.lora_A.weight` and `<layer>.lora_B.weight` to go on from; empty for new ones.
        seed: Of new ones.

    Raises:
        DependencyError: If peft is not installed.
    """

    control_scale = 1.0

    def __init__(
        self, transformer: SpatiaTransformer3DModel, rank: int, layers: dict[str, Tensor], seed: int = 0
    ) -> None:
        super().__init__()
        if layers:
            adapters = Adapters(transformer)
            adapters.add(AUTOREGRESSIVE, layers)
            adapters.activate([AUTOREGRESSIVE])
        else:
            _add_new(transformer, rank, seed)
        self._transformer = [transformer]  # in a list, so that it is no part of this module
        for name, parameter in transformer.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
                self.register_parameter(name.replace(".", "/"), parameter)

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Without the adapters."""
        self._transformer[0].disable_lora()
        try:
            yield
        finally:
            self._transformer[0].enable_lora()

    def released(self) -> dict[str, Tensor]:
        """The weights under the release's names."""
        own = self.state_dict().items()
        plain = {name.replace("/", ".").replace(f".{AUTOREGRESSIVE}.", "."): tensor for name, tensor in own}
        return release_lora_layers(plain)


def _add_new(transformer: SpatiaTransformer3DModel, rank: int, seed: int) -> None:
    try:
        from peft import LoraConfig
    except ImportError as cause:
        raise DependencyError('stage lora needs peft; run `pip install "spatia-env[official]"`.') from cause
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)  # alpha = rank: no scale
    transformer.add_adapter(config, adapter_name=AUTOREGRESSIVE)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if ".lora_A." in name:  # peft draws from the global state
            fresh = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)
            parameter.data.copy_(fresh)
