"""`spatia train imagination-export`: both stages of the imagination into a checkpoint, and a sheet of what it draws."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from spatia_env.geometry import intrinsics_from_fov, invert_se3, look_at
from spatia_env.io.atomic import write_text
from spatia_env.io.weights import write_tensors
from spatia_env.memory.panorama import ALL_AROUND, extend_to_sphere, panorama_points
from spatia_env.memory.rendering import render_points
from spatia_env.models.imagination import ImaginationModel
from spatia_env.models.loading import read_config
from spatia_env.train.checkpoint import progress_of
from spatia_env.train.loop import averaged_state, half
from spatia_env.train.panorama_data import view_mask

VIEW = 128  # pixels of a perspective view
VIEWS = 8


@dataclass(frozen=True)
class ExportConfig:
    """Put the averaged weights of two runs into a checkpoint folder."""

    layout: Path = Path("runs/imagination")
    """run folder of `spatia train imagination`"""
    detail: Path | None = Path("runs/imagination-detail")
    """run folder of `spatia train imagination-detail`; none for a model that only enlarges the layout"""
    out: Path = Path("spatia_env/checkpoints/spatia-tiny")
    """checkpoint folder that takes the model in: imagination.safetensors (half precision), and its config"""
    sheet: Path | None = None
    """picture of what the model draws for panoramas of `dev`"""
    dev: Path = Path("runs/panoramas/dev")
    """folder of shards of the dev split"""
    rooms: int = 10
    """panoramas on the sheet"""
    samples: int = 3
    """completions of each"""


def export_imagination(config: ExportConfig) -> int:
    """Put the model into the checkpoint and write the sheet; returns the bytes of the weights.

    Raises:
        CheckpointError: `config.out` is no checkpoint folder.
    """
    about = read_config(config.out)
    model = assemble(config.layout, config.detail)
    path = config.out / "imagination.safetensors"
    write_tensors(path, {name: half(tensor) for name, tensor in model.state_dict().items()})
    about["imagination"] = {name: v for name, v in model.config.items() if not name.startswith("_")}
    runs = {"imagination": config.layout, "imagination-detail": config.detail}
    about.setdefault("training", {}).update({name: progress_of(run) for name, run in runs.items() if run})
    write_text(config.out / "config.json", json.dumps(about, indent=2) + "\n", "configuration")
    if config.sheet:
        rows = dev_panoramas(config.dev, config.rooms)
        drawn = [
            sheet_rows(model.bfloat16(), shard, config.samples, number) for number, shard in enumerate(rows)
        ]
        Image.fromarray(np.concatenate(drawn)).save(config.sheet)
    return path.stat().st_size


def assemble(layout: Path, detail: Path | None) -> ImaginationModel:
    """The model of two run folders, with averaged weights."""
    model = ImaginationModel() if detail else ImaginationModel(detail_widths=None)
    model.layout.load_state_dict(averaged_state(layout))
    if detail:
        model.detail.load_state_dict(averaged_state(detail))
    return model.to(memory_format=torch.channels_last).eval()


def dev_panoramas(folder: Path, count: int) -> list[dict[str, Tensor]]:
    """Rows of the shards of a folder, evenly spread over them."""
    paths = sorted(folder.glob("*.safetensors"))
    shards = [load_file(path) for path in paths]
    places = [(shard, index) for shard in shards for index in range(len(shard["rgb"]))]
    chosen = np.linspace(0, len(places) - 1, count).round().astype(int)
    return [{name: value[places[i][1]] for name, value in places[i][0].items()} for i in chosen]


def sheet_rows(model: ImaginationModel, row: dict[str, Tensor], samples: int, seed: int) -> np.ndarray:
    """A panorama's part of the sheet, u8 [h, w, 3].

    Colours and, below, nearness of what is known (a view of 60 degrees), of the truth and of the completions; then
    views of the points of the first completion while turning, the second half from 0.4 m farther back.
    """
    rgb, distance = row["rgb"].movedim(-1, 0).float() / 255, 1 / row["inverse"].float().clamp_min(1e-3)
    height, width = distance.shape
    heading = 0.9 * seed
    mask = view_mask(height, width, heading, -0.12, math.radians(60), 1.0) > 0
    columns = [(rgb * mask, distance * mask), (rgb, distance)]
    for sample in range(samples):
        generator = torch.Generator().manual_seed(1000 * seed + sample)
        drawn, far = model.complete(rgb[None] * mask, distance[None] * mask, mask[None], generator)
        columns.append((drawn[0], far[0]))
    panoramas = [np.concatenate([_bytes(image), _nearness(far)]) for image, far in columns]
    strip = _turn(*columns[2], row["eye"], heading)
    line = np.concatenate(panoramas, axis=1)[::2, ::2]
    strip = np.pad(strip, ((0, 4), (0, max(0, line.shape[1] - strip.shape[1])), (0, 0)))[:, : line.shape[1]]
    return np.concatenate([line, strip])


def _turn(rgb: Tensor, distance: Tensor, eye: Tensor, heading: float) -> np.ndarray:
    """Views [VIEW, 2 * VIEWS * VIEW, 3] of a panorama's points while turning at its place and behind it."""
    sphere, far = extend_to_sphere(rgb, distance)
    points = panorama_points(sphere, far, eye, torch.ones_like(far, dtype=torch.bool), ALL_AROUND)
    back = torch.tensor([math.cos(heading), math.sin(heading), 0.0])
    poses = []
    for place in (eye, eye - 0.4 * back):
        for number in range(VIEWS):
            yaw = heading - 2 * math.pi * number / VIEWS
            poses.append(look_at(place, place + torch.tensor([math.cos(yaw), math.sin(yaw), -0.12])))
    K = intrinsics_from_fov(60, VIEW, VIEW)
    weight = 1 / points.radius.clamp_min(1e-3) ** 2
    views = render_points(
        points.positions, points.rgb, points.radius, invert_se3(torch.stack(poses)), K, VIEW, VIEW, weight
    )
    return np.concatenate([_bytes(view) for view in views.rgb], axis=1)


def _bytes(rgb: Tensor) -> np.ndarray:
    return (rgb.clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()


def _nearness(distance: Tensor) -> np.ndarray:
    near = torch.where(distance > 0, 0.7 / distance.clamp_min(0.1), torch.zeros_like(distance)).clamp(0, 1)
    return _bytes(near.sqrt().expand(3, -1, -1))
