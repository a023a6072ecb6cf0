"""Contact sheets of the simulator, to be looked at.

    python docs/tools/sim_sheet.py --out out/sim

writes `scenes_SPLIT.png` (24 scenes each), `movers.png` and `conditions.png` (a row for every event: the picture
before it and the 8 frames of its clip), and `truth.png` (colour, depth, bodies and dynamic mask of a few frames).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from spatia_env.events import vocabulary
from spatia_env.sim.assets import SEED_RANGES
from spatia_env.sim.scenes import SimFrame, SimScene


def scene_sheet(seeds: list[int], columns: int = 6, size: int = 192) -> np.ndarray:
    """First pictures of scenes, uint8 [H, W, 3]."""
    pictures = []
    for seed in seeds:
        with SimScene(seed) as scene:
            pictures.append(scene.render(scene.initial_c2w, size, size).rgb)
    rows = [np.concatenate(pictures[i : i + columns], axis=1) for i in range(0, len(pictures), columns)]
    return np.concatenate(rows)


def event_sheet(names: list[str], first_seed: int, size: int = 128) -> np.ndarray:
    """A row for each event, each in another scene, with the camera standing still."""
    rows = []
    for index, name in enumerate(names):
        with SimScene(first_seed + index) as scene:
            rows.append(np.concatenate([frame.rgb for frame in play(scene, name, index, size)], axis=1))
    return np.concatenate(rows)


def play(scene: SimScene, name: str, seed: int, size: int = 128) -> list[SimFrame]:
    """The picture before an event and the 8 frames of its clip; an ending's condition comes first."""
    rng, c2w = np.random.default_rng(seed), scene.initial_c2w
    ends = vocabulary.event(name).ends
    if ends:
        scene.start_event(ends, c2w, rng)
        scene.advance(0.5)
    frames = [scene.render(c2w, size, size)]
    scene.start_event(name, c2w, rng)
    for _ in range(8):
        scene.advance()
        frames.append(scene.render(c2w, size, size))
    return frames


def truth_sheet(seeds: list[int], size: int = 192) -> np.ndarray:
    """Colour, depth (near is bright), bodies (a colour each) and dynamic mask, a row for each scene."""
    rows = []
    for seed in seeds:
        with SimScene(seed) as scene:
            frame = play(scene, "tower_topples", seed, size)[5]
        depth = np.clip(255 - 28 * frame.depth, 0, 255).astype(np.uint8)[..., None].repeat(3, -1)
        palette = np.random.default_rng(0).integers(40, 255, (256, 3)).astype(np.uint8)
        dynamic = (frame.dynamic[..., None] * np.array([255, 255, 255])).astype(np.uint8)
        rows.append(np.concatenate([frame.rgb, depth, palette[frame.segmentation % 256], dynamic], axis=1))
    return np.concatenate(rows)


def main() -> None:
    """Write the sheets."""
    parser = argparse.ArgumentParser(description="Contact sheets of the simulator.")
    parser.add_argument("--out", type=Path, default=Path("out/sim"), help="folder of the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    movers = [event.name for event in vocabulary.EVENTS if event.kind == "mover"]
    others = [event.name for event in vocabulary.EVENTS if event.kind != "mover"]
    first = SEED_RANGES["dev"][0]
    sheets = {f"scenes_{split}": scene_sheet(list(seeds[:24])) for split, seeds in SEED_RANGES.items()}
    sheets |= {"movers": event_sheet(movers, first + 100), "conditions": event_sheet(others, first + 150)}
    sheets["truth"] = truth_sheet([first + 7, first + 11, first + 20])
    for name, picture in sheets.items():
        Image.fromarray(picture).save(options.out / f"{name}.png")
        print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
