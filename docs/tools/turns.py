"""Full turns in dev rooms and from photographs, without and with imagination: docs/images/turns.jpg.

    python -m docs.tools.turns --scenes 10020 10100 10500 --out docs/images/turns.jpg

A block for every start: the first picture and seven looks around, 45 degrees apart; above with nothing imagined, below
one row for each seed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from spatia_env.env import SpatiaEnv
from spatia_env.sim.assets import load_panorama, panorama_names

LOOKS = 8
GAP = 4


@dataclass(frozen=True)
class TurnsConfig:
    """Draw the sheet."""

    out: Path = Path("docs/images/turns.jpg")
    """Picture to write"""
    scenes: tuple[str, ...] = ("10020", "10100", "10500", "10777", "furnished:10005", "furnished:10030")
    """Scenes: seeds or names"""
    photographs: int = 2
    """Held-out panoramas, one view of each as a photograph"""
    seeds: int = 2
    """Rows with imagination"""
    model: str = "spatia-tiny"
    """Checkpoint"""


def main(config: TurnsConfig) -> None:
    """Write the sheet."""
    starts: list[dict[str, Any]] = [{"scene": int(s) if s.isdigit() else s} for s in config.scenes]
    starts += [{"image": view_of(load_panorama(n))} for n in panorama_names("test")[: config.photographs]]
    blocks = []
    for options in starts:
        rows = [turn(config.model, options, seed=0, imagination=False)]
        rows += [turn(config.model, options, seed, imagination=True) for seed in range(config.seeds)]
        blocks += [*rows, np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)]
        print(f"{options.get('scene', 'a photograph')}: done", flush=True)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(blocks[:-1])).save(config.out, quality=88)
    print(f"wrote {config.out}")


def turn(model: str, options: dict[str, Any], seed: int, imagination: bool) -> np.ndarray:
    """The first picture and the looks of a turn to the right, side by side, u8 [H, LOOKS * W, 3]."""
    env = SpatiaEnv(model=model, max_rotation=360 / LOOKS, imagination=imagination)
    observation, _ = env.reset(seed=seed, options=dict(options))
    frames = [observation["frames"][-1]]
    for _ in range(LOOKS - 1):
        observation = env.step({"camera": [0, 0, 0, 0, 1, 0], "event": ""})[0]
        frames.append(observation["frames"][-1])
    env.close()
    return np.concatenate(frames, axis=1)


def view_of(panorama: np.ndarray, size: int = 256) -> np.ndarray:
    """A level view of 60 degrees u8 [size, size, 3] into the middle of an equirectangular panorama u8 [H, W, 3]."""
    height, width = panorama.shape[:2]
    across = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(across * np.tan(np.radians(30)), across * np.tan(np.radians(30)))
    column = (np.arctan2(x, 1) / (2 * np.pi) + 0.5) * width
    row = (0.5 + np.arctan2(y, np.hypot(x, 1)) / np.pi) * height
    return np.ascontiguousarray(panorama[row.astype(int).clip(0, height - 1), column.astype(int) % width])


if __name__ == "__main__":
    main(tyro.cli(TurnsConfig, description=__doc__))
