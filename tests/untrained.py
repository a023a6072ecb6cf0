"""A checkpoint folder with small random networks: the whole step runs, nothing it shows makes sense."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from spatia_env.models.autoencoder import TinyAutoencoder
from spatia_env.models.imagination import ImaginationModel
from spatia_env.models.text_encoder import SentenceTextEncoder
from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.slam.depth_network import TinyGeometry


def write_untrained(folder: Path, imagination: bool = False) -> Path:
    """Write the checkpoint into `folder` and return it; with an imagination of 48x192 if asked for."""
    torch.manual_seed(0)
    networks = {
        "transformer": SpatiaTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=32,
            in_channels=48,
            out_channels=48,
            text_dim=SentenceTextEncoder.dim,
            freq_dim=64,
            ffn_dim=64,
            num_layers=2,
            control_layers=(0,),
            control_in_channels=48 + 16,
            control_at_input=True,
        ),
        "autoencoder": TinyAutoencoder(
            channels=(16, 16, 32), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1)
        ),
        "geometry": TinyGeometry(channels=(16, 16, 32), blocks=(1, 1, 1)),
    }
    if imagination:
        small = {"layout_widths": (16, 16, 32), "layout_blocks": (1, 1, 1), "layout_heads": 2}
        networks["imagination"] = ImaginationModel(**small, detail_widths=None, height=48)
        for parameter in networks["imagination"].parameters():  # a fresh one answers the same to any noise
            parameter.data += 0.1 * torch.randn_like(parameter)
    config = {"format": 1, "name": "untrained", "shape": {}, "sigmas": [1.0]}
    for name, network in networks.items():
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
        config[name] = {key: value for key, value in network.config.items() if not key.startswith("_")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
