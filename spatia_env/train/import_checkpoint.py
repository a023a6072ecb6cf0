"""`spatia train unpack`: run folders from a checkpoint folder, to go on training from what was shipped.

The inverse of `ship`: weights (float16 in the checkpoint), steps, minutes and figures come back; what the optimisers
remembered does not, so they begin anew.
"""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from spatia_env.errors import ActionError
from spatia_env.io.weights import write_tensors
from spatia_env.models.loading import PACKAGED, TINY, read_config
from spatia_env.models.spatial_conditioning import FALLING_CHANNELS, PLACE_CHANNELS
from spatia_env.slam.depth_network import TinyGeometry
from spatia_env.train.autoencoder import fresh_autoencoder
from spatia_env.train.export_checkpoint import STAGES
from spatia_env.train.geometry import LOOKS
from spatia_env.train.world_model import SIZE_FILE, TransformerSize

TOLD_LATER = ("falling_in.", "continued_in.", "continued_head.")
"""Parts of the autoencoder that older checkpoints have not."""


@dataclass(frozen=True)
class UnpackConfig:
    """Make run folders from a checkpoint."""

    checkpoint: Path = PACKAGED / TINY
    """checkpoint folder"""
    runs: Path = Path("runs")
    """where the runs autoencoder, geometry and world-model are written"""
    stages: tuple[str, ...] = tuple(STAGES)
    """which of them"""


def unpack(config: UnpackConfig) -> list[str]:
    """Write the run folders; returns their paths.

    Raises:
        ActionError: A stage is not known, or its run has begun already (it is left as it was).
        CheckpointError: The folder is not a checkpoint.
    """
    unknown = sorted(set(config.stages) - STAGES.keys())
    if unknown:
        raise ActionError(f"stages {unknown} are not known; there are {sorted(STAGES)}.")
    training = read_config(config.checkpoint).get("training", {})
    for stage in config.stages:
        if (config.runs / stage / "state.safetensors").exists():
            raise ActionError(
                f"{config.runs / stage} holds a run already; move it away, or choose other --runs."
            )
    for stage in config.stages:
        folder = config.runs / stage
        folder.mkdir(parents=True, exist_ok=True)
        state = {f"model.{name}": value for name, value in _weights(config.checkpoint, stage).items()}
        write_tensors(folder / "state.safetensors", state)
        if stage == "world-model":
            (folder / SIZE_FILE).write_text(json.dumps(_size(config.checkpoint)) + "\n")
        known = training.get(stage, {})
        progress = {"step": known.get("steps", 0), "seconds": known.get("seconds", 0.0)}
        (folder / "progress.json").write_text(json.dumps(progress))
        rows = [
            [progress["step"], progress["seconds"], f"dev_{n}", v]
            for n, v in known.get("figures", {}).items()
        ]
        with open(folder / "log.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return [str(config.runs / stage) for stage in config.stages]


def _size(checkpoint: Path) -> dict[str, Any]:
    kept = read_config(checkpoint)["transformer"]
    size = TransformerSize(
        kept["num_attention_heads"], kept["attention_head_dim"], kept["ffn_dim"], kept["num_layers"],
        tuple(kept["control_layers"]),
    )  # fmt: skip
    return asdict(size)


def _weights(checkpoint: Path, stage: str) -> dict[str, Tensor]:
    """Weights of a stage's model in float32; the world model holds the transformer and the autoencoder."""
    if stage != "world-model":
        return _single(checkpoint / f"{STAGES[stage]}.safetensors")
    parts = {name: _single(checkpoint / f"{name}.safetensors") for name in ("transformer", "autoencoder")}
    return {f"{part}.{name}": value for part, weights in parts.items() for name, value in weights.items()}


def _single(path: Path) -> dict[str, Tensor]:
    tensors = {n: t.to(torch.float32) if t.is_floating_point() else t for n, t in load_file(path).items()}
    return _grown(path.stem, tensors)


def _grown(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network that may be older than the planes of what would fall, what goes on beyond the render, or
    looks over the whole picture: what is new begins without effect.
    """
    places = tensors.get("place_embedding.weight")
    if part == "transformer" and places is not None and places.shape[1] == PLACE_CHANNELS:
        return tensors | {"place_embedding.weight": F.pad(places, (0, 0, 0, 0, 0, 0, FALLING_CHANNELS, 0))}
    if part == "autoencoder":
        fresh = fresh_autoencoder().state_dict()
        return {n: t for n, t in fresh.items() if n.startswith(TOLD_LATER)} | tensors
    if part == "geometry" and not any(name.startswith("look.") for name in tensors):
        looks = TinyGeometry(looks=LOOKS).look.state_dict()
        return tensors | {f"look.{name}": value for name, value in looks.items()}
    return tensors
