"""Pictures to look at: a grid per unit, and contact sheets per scene made of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from spatia_env.bench.core import Unit
from spatia_env.io.images import contact_sheet, write_sheet

QUALITY = 92
_WALK_ROWS = (
    ("truth", "oracle", "frames"),
    ("default", "default", "frames"),
    ("memory render", "default", "memory render"),
    ("known", "default", "known"),
    ("depth", "default", "depth"),
    ("observed", "oracle", "observed"),
    ("picture only", "default-picture-only", "frames"),
    ("no-references", "no-references", "frames"),
    ("no-memory", "no-memory", "frames"),
    ("start points", "memory-render-only", "frames"),
    ("filled", "memory-filled", "frames"),
    ("frozen", "frozen-frame", "frames"),
)


def write_grid(path: Path, pictures: dict[str, np.ndarray]) -> None:
    """Write pictures u8 [N, H, W, 3] by label as one jpg, a row each; nothing for none. For looking only."""
    if not pictures:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = max(len(frames) for frames in pictures.values())
    rows = []
    for frames in pictures.values():
        count, height, width, _ = frames.shape
        padded = np.zeros((columns, height, width, 3), np.uint8)
        padded[:count] = frames
        rows.append(np.concatenate(list(padded), axis=1))
    Image.fromarray(np.concatenate(rows)).save(path, quality=QUALITY, subsampling=0)


def read_grid(path: Path, labels: dict[str, int]) -> dict[str, np.ndarray]:
    """What `write_grid` wrote, by label; `labels` maps each to its columns. Empty without a file."""
    if not labels or not path.is_file():
        return {}
    with Image.open(path) as image:
        grid = np.asarray(image.convert("RGB"))
    columns = max(labels.values())
    height, width = grid.shape[0] // len(labels), grid.shape[1] // columns
    out = {}
    for index, (label, count) in enumerate(labels.items()):
        strip = grid[index * height : (index + 1) * height].reshape(height, columns, width, 3)
        out[label] = np.ascontiguousarray(strip.swapaxes(0, 1)[:count])
    return out


def write_sheets(folder: Path, units: list[Unit]) -> list[Path]:
    """One contact sheet per suite and scene under `folder`/sheets; the paths."""
    out = []
    (folder / "sheets").mkdir(parents=True, exist_ok=True)
    for suite in ("walk", "loop", "ws-static", "edit", "events", "autoencoder", "photographs"):
        for scene in dict.fromkeys(unit.scene for unit in units if unit.suite == suite):
            grids = {
                unit.row: read_grid(folder / "frames" / f"{suite}-{scene}-{unit.row}.jpg", unit.pictures)
                for unit in units
                if (unit.suite, unit.scene) == (suite, scene)
            }
            rows, columns = sheet_rows(suite, grids)
            if rows:
                sheet = contact_sheet(rows, columns)
                out.append(write_sheet(folder / "sheets" / f"{suite}-{scene}.png", sheet))
    return out


def sheet_rows(
    suite: str, grids: dict[str, dict[str, np.ndarray]]
) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    """Labelled rows and the captions of the columns of a sheet, from the grids of a scene by row."""
    if suite in ("walk", "loop"):
        rows = [(label, grids[row][key]) for label, row, key in _WALK_ROWS if key in grids.get(row, {})]
        count = len(rows[0][1]) if rows else 0
        return rows, [f"clip {i // 2 + 1}, frame {(4, 8)[i % 2]}" for i in range(count)]
    if suite == "events":
        names = list(next(iter(grids.values()), {}))
        both = [row for row in ("oracle", "default") if row in grids]
        rows = [
            (name, np.concatenate([grids[row][name] for row in both if name in grids[row]])) for name in names
        ]
        captions = [
            f"{'simulator' if row == 'oracle' else row}, frame {frame}" for row in both for frame in (3, 5, 8)
        ]
        return rows, captions
    if suite == "ws-static":
        paths = list(grids.get("oracle", {}))
        named = [("truth" if row == "oracle" else row, grid) for row, grid in grids.items()]
        return [(f"{path}: {row}", grid[path]) for path in paths for row, grid in named if path in grid], []
    rows = [(key, frames) for key, frames in grids.get("default", {}).items()]
    return rows, []
