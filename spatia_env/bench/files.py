"""Files of a run: JSON that appears when it is complete, and grids of pictures."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_json(path: Path, value: Any) -> None:
    """Write JSON; the file appears under its name when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def write_grid(path: Path, pictures: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Write pictures u8 [N, H, W, 3] by label as one jpg, a row each; their shapes, for `read_grid`."""
    rows = {label: frames for label, frames in pictures.items() if len(frames)}
    if not rows:
        return {}
    path.parent.mkdir(parents=True, exist_ok=True)
    strips = [np.concatenate(list(frames), axis=1) for frames in rows.values()]
    widest = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, 0), (0, widest - strip.shape[1]), (0, 0))) for strip in strips]
    Image.fromarray(np.concatenate(padded)).save(path, quality=90)
    return {label: list(frames.shape[:3]) for label, frames in rows.items()}


def read_grid(path: Path, shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """What `write_grid` wrote, by label; empty without a file."""
    if not path.is_file():
        return {}
    with Image.open(path) as image:
        grid, out, top = np.asarray(image.convert("RGB")), {}, 0
    for label, (count, height, width) in shapes.items():
        strip = grid[top : top + height, : count * width].reshape(height, count, width, 3)
        out[label], top = np.ascontiguousarray(strip.swapaxes(0, 1)), top + height
    return out
