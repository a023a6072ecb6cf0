"""The folder of fixtures that `parity` reads, and the models at the sizes it names."""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from spatia_env.io.weights import check_header, read_tensors
from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.models.wan.autoencoder import WAN22_CONFIG, WanAutoencoder
from spatia_env.models.wan.convert_layouts import autoencoder_name, lora_layers, transformer_name
from spatia_env.models.wan.sampling import Clip, SamplerSettings, from_uint8, generate_clip


class Fixtures:
    """A folder of fixtures: tensors, what each file says of itself, and the models they are about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`."""
        return read_tensors(self.folder / f"{name}.safetensors")

    def config(self, name: str) -> dict[str, Any]:
        """The settings that `<name>.safetensors` declares."""
        header = check_header(self.folder / f"{name}.safetensors")
        return json.loads(header["__metadata__"]["config"])

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights of transformer and control branch, under the names of our class."""
        return rename({**self.tensors("dit_weights"), **self.tensors("vace_weights")}, transformer_name)

    @cached_property
    def lora(self) -> dict[str, Tensor]:
        """The adapter's layers."""
        raw = {
            name[5:]: tensor for name, tensor in self.tensors("g_lora").items() if name.startswith("lora/")
        }
        return lora_layers(raw)

    @cached_property
    def transformer(self) -> SpatiaTransformer3DModel:
        """The transformer of the fixtures."""
        main, control = self.config("dit_weights"), self.config("vace_weights")
        model = SpatiaTransformer3DModel(
            patch_size=tuple(main["patch_size"]),
            num_attention_heads=main["num_heads"],
            attention_head_dim=main["dim"] // main["num_heads"],
            in_channels=main["in_dim"],
            out_channels=main["out_dim"],
            text_dim=main["text_dim"],
            freq_dim=main["freq_dim"],
            ffn_dim=main["ffn_dim"],
            num_layers=main["num_layers"],
            eps=main["eps"],
            control_layers=tuple(control["vace_layers"]),
            control_in_channels=control["vace_in_dim"],
        )
        model.load_state_dict(self.weights)
        return model.eval()

    @cached_property
    def transformer_with_lora(self) -> SpatiaTransformer3DModel:
        """The same with the adapter merged."""
        model = SpatiaTransformer3DModel.from_config(self.transformer.config)
        model.load_state_dict(merge_lora(self.weights, self.lora))
        return model.eval()

    @cached_property
    def autoencoder(self) -> WanAutoencoder:
        """The autoencoder of the fixtures."""
        sizes = self.config("f_vae_weights")
        changes = {
            "base_dim": sizes["dim"],
            "decoder_base_dim": sizes["dec_dim"],
            "z_dim": sizes["z_dim"],
            "dim_mult": sizes["dim_mult"],
            "num_res_blocks": sizes["num_res_blocks"],
            "temperal_downsample": sizes["temperal_downsample"],
            "latents_mean": sizes["mean"],
            "latents_std": sizes["std"],
        }
        vae = AutoencoderKLWan(**{**WAN22_CONFIG, **changes})
        vae.load_state_dict(rename(self.tensors("f_vae_weights"), autoencoder_name))
        return WanAutoencoder(vae.eval())

    @cached_property
    def clips(self) -> tuple[Clip, Clip, float]:
        """Both rounds of the end-to-end fixture, and the error of their noise."""
        given, expected = self.tensors("h_e2e_inputs"), self.tensors("h_e2e_outputs")
        settings = self.config("h_e2e_inputs")
        sampler = SamplerSettings(settings["steps"], settings["cfg"])
        clips, noise_error = [], 0.0
        for index, transformer in enumerate((self.transformer, self.transformer_with_lora)):
            generator = torch.Generator().manual_seed(settings["seed"])
            noise = torch.randn(expected[f"noise_{index}"].shape, generator=generator)
            noise_error = max(noise_error, worst(noise, expected[f"noise_{index}"]))
            later = index > 0
            clip = generate_clip(
                transformer,
                self.autoencoder,
                given["emb_pos"],
                from_uint8(given[f"control_{index}"]),
                (from_uint8(given[f"score_{index}"]) + 1) / 2,
                negative_embeds=given["emb_neg"],
                first_frame=None if later else from_uint8(given["first_image"][None]),
                preceding_frames=from_uint8(given["hist_1"]) if later else None,
                reference_frames=from_uint8(given["refs_1"]) if later else None,
                generator=generator.manual_seed(settings["seed"]),
                settings=sampler,
            )
            clips.append(clip)
        return clips[0], clips[1], noise_error


def worst(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ, NaN where a value is."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found.double() - expected.double()).abs().max())


def rename(tensors: Mapping[str, Tensor], mapping: Callable[[str], str]) -> dict[str, Tensor]:
    """A new dict of the same tensors under their new names."""
    renamed = {mapping(name): tensor for name, tensor in tensors.items()}
    assert len(renamed) == len(tensors), "two tensors would get one name"
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
