"""`spatia train ship`: pack run folders into a checkpoint folder that `load_checkpoint` reads.

Averaged weights in float16, one config, and a model card whose figures come from the runs' own logs.
"""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatia_env.errors import CheckpointError
from spatia_env.io.weights import write_tensors
from spatia_env.models.loading import FORMAT
from spatia_env.models.pipeline import ClipShape

STAGES = {"autoencoder": "autoencoder", "geometry": "geometry", "world-model": "transformer"}


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
    from spatia_env.train.geometry import load_trained as load_geometry
    from spatia_env.train.world_model import load_world_model

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


def half(tensor: Tensor) -> Tensor:
    """A tensor to be written: float16 where it holds fractions."""
    return tensor.detach().to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()


def _write_config(config: ShipConfig, parts: dict[str, Any]) -> None:
    description = {
        "format": FORMAT,
        "name": config.out.name,
        "shape": asdict(ClipShape()),
        "sigmas": list(config.sigmas),
        "training": {stage: _progress(config.run_of(stage)) for stage in STAGES},
        **{
            name: {k: v for k, v in part.config.items() if not k.startswith("_")}
            for name, part in parts.items()
        },
    }
    (config.out / "config.json").write_text(json.dumps(description, indent=2) + "\n")


def _write_card(config: ShipConfig, sizes: dict[str, float], total: float) -> None:
    rows = []
    for stage, part in STAGES.items():
        run = config.run_of(stage)
        rows.append(f"| {stage} | {sizes[f'{part}_parameters_m']} M | {_steps(run)} | {_figures(run)} |")
    (config.out / "README.md").write_text(CARD.format(rows="\n".join(rows), total=round(total, 1)))


def _progress(run: Path) -> dict[str, Any]:
    progress = json.loads((run / "progress.json").read_text())
    return {"steps": progress["step"], "seconds": progress["seconds"], "figures": _last_figures(run)}


def _steps(run: Path) -> str:
    progress = _progress(run)
    return f"{progress['steps']} steps, {progress['seconds'] / 60:.0f} min"


def _figures(run: Path) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in _last_figures(run).items())


def _last_figures(run: Path) -> dict[str, float]:
    """The last dev figures of a run's log."""
    last: dict[str, float] = {}
    with open(run / "log.csv", newline="") as file:
        for _, _, name, value in csv.reader(file):
            if name.startswith("dev_"):
                last[name[4:]] = float(value)
    return last


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
