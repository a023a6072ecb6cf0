"""`spatia train ship` and `unpack`: run folders into a checkpoint folder that `load_checkpoint` reads, and back.

A checkpoint holds averaged weights in float16, one config, and a model card whose figures come from the runs' own logs.
Unpacked, weights, steps, minutes and figures come back; what the optimisers remembered does not, so they begin anew.
"""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from spatia_env.errors import ActionError, CheckpointError
from spatia_env.io.weights import write_tensors
from spatia_env.models.generator import ClipShape
from spatia_env.models.loading import FORMAT, PACKAGED, TINY, read_config
from spatia_env.models.spatial_conditioning import FALLING_CHANNELS, PLACE_CHANNELS
from spatia_env.slam.depth_network import TinyGeometry
from spatia_env.train.autoencoder import fresh_autoencoder
from spatia_env.train.geometry import LOOKS
from spatia_env.train.geometry import load_trained as load_geometry
from spatia_env.train.loop import half
from spatia_env.train.world_model import SIZE_FILE, TransformerSize, load_world_model

STAGES = {"autoencoder": "autoencoder", "geometry": "geometry", "world-model": "transformer"}
"""Stages whose runs are packed, and the network of each."""
TOLD_LATER = ("falling_in.", "continued_in.", "continued_head.")
"""Parts of the autoencoder that older checkpoints have not."""


@dataclass(frozen=True)
class ShipConfig:
    """Pack trained networks."""

    out: Path = Path("spatia_env/checkpoints/spatia-tiny")
    """checkpoint folder to write"""
    runs: Path = Path("runs")
    """folder with the runs autoencoder, geometry and world-model"""
    sigmas: tuple[float, ...] = (1.0,)
    """noise levels of the sampler, falling from 1"""
    limit_mb: float = 40.0
    """largest size of all weights together"""
    world_model: str = "world-model"
    """which run in `runs` is packed as the world model, e.g. "distilled" (with its --sigmas)"""

    def run_of(self, stage: str) -> Path:
        """The run folder of a stage."""
        return self.runs / (self.world_model if stage == "world-model" else stage)


def ship(config: ShipConfig) -> dict[str, float]:
    """Write the checkpoint folder; returns its size in MB and the parameter counts in millions."""
    world = load_world_model(config.run_of("world-model"), config.runs / "autoencoder")
    geometry = load_geometry(config.runs / "geometry")
    parts: dict[str, nn.Module] = {
        "transformer": world.transformer,
        "autoencoder": world.autoencoder,
        "geometry": geometry,
    }
    config.out.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for name, module in parts.items():
        path = config.out / f"{name}.safetensors"
        write_tensors(path, {n: half(t) for n, t in module.state_dict().items()})
        sizes[f"{name}_parameters_m"] = round(sum(p.numel() for p in module.parameters()) / 1e6, 2)
    total = sum(path.stat().st_size for path in config.out.glob("*.safetensors")) / 1e6
    if total > config.limit_mb:
        raise CheckpointError(f"{config.out}: {total:.1f} MB of weights; the limit is {config.limit_mb} MB.")
    _write_config(config, parts)
    _write_card(config, sizes, total)
    return {"mb": round(total, 2), **sizes}


def _write_config(config: ShipConfig, parts: dict[str, Any]) -> None:
    description = {
        "format": FORMAT,
        "name": config.out.name,
        "shape": asdict(ClipShape()),
        "sigmas": list(config.sigmas),
        "training": {stage: progress_of(config.run_of(stage)) for stage in STAGES},
        **{
            name: {k: v for k, v in part.config.items() if not k.startswith("_")}
            for name, part in parts.items()
        },
    }
    (config.out / "config.json").write_text(json.dumps(description, indent=2) + "\n")


def _write_card(config: ShipConfig, sizes: dict[str, float], total: float) -> None:
    rows = []
    for stage, part in STAGES.items():
        made = progress_of(config.run_of(stage))
        figures = ", ".join(f"{name} {value:.3g}" for name, value in made["figures"].items())
        duration = f"{made['steps']} steps, {made['seconds'] / 60:.0f} min"
        rows.append(f"| {stage} | {sizes[f'{part}_parameters_m']} M | {duration} | {figures} |")
    (config.out / "README.md").write_text(CARD.format(rows="\n".join(rows), total=round(total, 1)))


def progress_of(run: Path) -> dict[str, Any]:
    """Steps, seconds and last dev figures of a run."""
    progress = json.loads((run / "progress.json").read_text())
    return {"steps": progress["step"], "seconds": progress["seconds"], "figures": _last_figures(run)}


def _last_figures(run: Path) -> dict[str, float]:
    """The last dev figures of a run's log."""
    last: dict[str, float] = {}
    with open(run / "log.csv", newline="") as file:
        for _, _, name, value in csv.reader(file):
            if name.startswith("dev_"):
                last[name[4:]] = float(value)
    return last


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


CARD = """# spatia-tiny

The embedded default of `spatia_env`: it runs on a laptop CPU, at 128x128, 8 new frames a step after 4 preceding
frames and with 2 retrieved references. Licence: Apache-2.0, as the code.

| network | parameters | training (2 CPU cores) | on dev seeds |
|---|---|---|---|
{rows}

Weights in float16: {total} MB. Trained by `spatia train data`, `autoencoder`, `encode`, `geometry`,
`world-model` and packed by `spatia train ship`, on PyBullet scenes with seeds 0-9999 (train), watched on
10000-10999 (dev); seeds 20000-20199 (test), their textures, meshes and phrasings were never trained on, and
nothing was chosen by them.
Photographs: those of the train split in `spatia_env/sim/assets.py`, where each one's licence is named.

Good for: simulated rooms and yards, the events of `spatia_env/events/vocabulary.py`, trying out agents and memory.
Not for: realistic pictures. Photographs come out soft where they were not seen, and events outside the
vocabulary are ignored more often than not.
"""
