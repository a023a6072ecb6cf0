"""Side-by-side videos: the truth and the rows of a scene, frame by frame, with their names."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spatia_env.bench.core import FILMED_ROWS, Unit
from spatia_env.bench.sheets import read_grid
from spatia_env.io.video import write_video

HEIGHT = 192
FPS = 8
CAPTION = 22
SUITES = ("walk", "loop", "drift")


def write_videos(folder: Path, units: list[Unit]) -> list[Path]:
    """One mp4 per suite and filmed scene under `folder`/videos; the paths. Those that are there stay."""
    out = []
    for suite in SUITES:
        for scene in dict.fromkeys(unit.scene for unit in units if unit.suite == suite and unit.film):
            chosen = [unit for unit in units if (unit.suite, unit.scene) == (suite, scene) and unit.film]
            chosen.sort(key=lambda unit: FILMED_ROWS.index(unit.row))
            path = folder / "videos" / f"{suite}-{scene}.mp4"
            sources = [folder / "films" / f"{suite}-{scene}-{unit.row}.jpg" for unit in chosen]
            if path.exists() and all(
                s.exists() and s.stat().st_mtime < path.stat().st_mtime for s in sources
            ):
                out.append(path)
                continue
            films = {
                "truth" if unit.row == "oracle" else unit.row: read_grid(source, {"film": unit.film}).get(
                    "film"
                )
                for unit, source in zip(chosen, sources, strict=True)
            }
            kept = {label: film for label, film in films.items() if film is not None}
            if len(kept) > 1:
                path.parent.mkdir(parents=True, exist_ok=True)
                out.append(write_video(path, side_by_side(kept), FPS))
    return out


def side_by_side(films: dict[str, np.ndarray]) -> np.ndarray:
    """Films u8 [T, H, W, 3] of equal shape by label, next to each other under their labels: u8 [T, h, w, 3], even."""
    first = next(iter(films.values()))
    width = 2 * round(HEIGHT * first.shape[2] / first.shape[1] / 2)
    head = Image.new("RGB", (width * len(films), CAPTION), (250, 250, 248))
    draw, font = ImageDraw.Draw(head), ImageFont.load_default(size=13)
    for index, label in enumerate(films):
        draw.text((index * width + 6, 3), label, (60, 60, 60), font=font)
    out = np.zeros((len(first), HEIGHT + CAPTION, width * len(films), 3), np.uint8)
    out[:, :CAPTION] = np.asarray(head)
    for index, film in enumerate(films.values()):
        for frame in range(len(first)):
            cell = Image.fromarray(film[frame]).resize((width, HEIGHT), Image.Resampling.LANCZOS)
            out[frame, CAPTION:, index * width : (index + 1) * width] = np.asarray(cell)
    return out
