"""Procedural surface textures, drawn in metres so that every surface has the same grain.

A texture is an id (`assets.texture_ids`); its colours and measures follow from the id alone. Features are at
least about 5 cm wide and soft, because scenes are rendered at about 2 cm a pixel.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from spatia_env.sim.assets import load_photo

Grid = tuple[np.ndarray, np.ndarray]

WOODS = ((150, 112, 78), (128, 94, 66), (176, 144, 108), (108, 82, 64), (164, 132, 92), (140, 122, 104))
PLASTERS = (
    (206, 202, 192),
    (188, 186, 180),
    (200, 190, 168),
    (172, 182, 176),
    (176, 184, 196),
    (196, 178, 168),
    (160, 170, 152),
    (186, 168, 150),
    (150, 162, 176),
    (178, 160, 168),
)
STONES = (
    (158, 154, 148),
    (132, 130, 128),
    (172, 162, 146),
    (116, 122, 128),
    (148, 138, 128),
    (180, 178, 172),
)
BRICKS = ((158, 104, 84), (146, 116, 98), (170, 140, 118), (136, 96, 84), (160, 150, 140))
FABRICS = (
    (112, 126, 146),
    (142, 116, 112),
    (122, 136, 116),
    (150, 140, 118),
    (108, 108, 122),
    (136, 124, 140),
)
GREENS = ((98, 122, 76), (88, 110, 72), (112, 128, 82), (84, 104, 78), (120, 126, 86))

NAMES = {
    "planks": "wooden",
    "wood": "wooden",
    "tiles": "tiled",
    "plaster": "plain",
    "bricks": "brick",
    "checks": "checkered",
    "stripes": "striped",
    "carpet": "carpet",
    "grass": "grass",
    "concrete": "concrete",
    "paving": "paved",
    "hedge": "hedge",
    "gravel": "gravel",
    "dirt": "dirt",
}


def texture_rng(texture_id: str) -> np.random.Generator:
    """The generator that draws a texture: it depends on the id alone, in every process."""
    return np.random.default_rng(zlib.crc32(texture_id.encode()))


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cells_y: float, cells_x: float
) -> np.ndarray:
    """Smooth noise [H, W] in about [-1, 1] with this many cells along each axis."""
    small = rng.uniform(-1, 1, (max(2, round(cells_y) + 1), max(2, round(cells_x) + 1))).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _noise(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, cell_y: float, cell_x: float
) -> np.ndarray:
    """Smooth noise over a grid in metres, with cells of this size in metres."""
    return smooth_noise(rng, y.shape[0], y.shape[1], np.ptp(y) / cell_y, np.ptp(x) / cell_x)


def pick_colour(rng: np.random.Generator, palette: tuple) -> np.ndarray:
    """A colour [3] near one of the palette."""
    colour = np.array(palette[rng.integers(len(palette))], dtype=np.float32)
    return np.clip(colour * rng.uniform(0.88, 1.1) + rng.uniform(-8, 8, 3), 40, 222).astype(np.float32)


def _edge(position: np.ndarray, period: float, width: float) -> np.ndarray:
    """1 inside a cell, falling softly to 0 on the lines between cells `width` metres wide."""
    distance = np.abs((position / period + 0.5) % 1.0 - 0.5) * period
    return np.clip((distance - width * 0.3) / (width * 0.7), 0, 1)


def _cells(rng: np.random.Generator, iy: np.ndarray, ix: np.ndarray) -> np.ndarray:
    """A value in [-1, 1] for each integer cell."""
    table = rng.uniform(-1, 1, (64, 64)).astype(np.float32)
    return table[iy.astype(int) % 64, ix.astype(int) % 64]


def _shade(colour: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return colour * factor[..., None]


def _planks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    colour, width, length = pick_colour(rng, WOODS), rng.uniform(0.14, 0.26), rng.uniform(0.9, 1.8)
    row = np.floor(y / width)
    shift = _cells(rng, row, row * 0) * length
    tone = _cells(rng, row, np.floor((x + shift) / length))
    grain = _noise(rng, y, x, 0.05, 0.8)
    seams = np.minimum(_edge(y, width, 0.035), _edge(x + shift, length, 0.035))
    return _shade(colour, (1 + 0.1 * tone + 0.05 * grain) * (0.74 + 0.26 * seams))


def _wood(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    grain = _noise(rng, y, x, 0.6, 0.08)
    cloud = _noise(rng, y, x, 0.5, 0.4)
    return _shade(pick_colour(rng, WOODS), 1 + 0.06 * grain + 0.05 * cloud)


def _tiles(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    colour, size = pick_colour(rng, STONES + PLASTERS), rng.uniform(0.32, 0.65)
    tone = _cells(rng, np.floor(y / size), np.floor(x / size))
    lines = np.minimum(_edge(y, size, 0.05), _edge(x, size, 0.05))
    cloud = _noise(rng, y, x, 0.3, 0.3)
    return _shade(colour, (1 + 0.06 * tone + 0.03 * cloud) * (0.72 + 0.28 * lines))


def _plaster(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    colour = pick_colour(rng, PLASTERS)
    cloud = _noise(rng, y, x, 0.7, 0.7)
    fine = _noise(rng, y, x, 0.15, 0.15)
    return _shade(colour, 1 + 0.035 * cloud + 0.02 * fine)


def _bricks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    colour, length = pick_colour(rng, BRICKS), rng.uniform(0.3, 0.44)
    height = length * rng.uniform(0.38, 0.5)
    mortar = pick_colour(rng, STONES) * 1.1
    row = np.floor(y / height)
    along = x + (row % 2) * length / 2
    tone = _cells(rng, row, np.floor(along / length))
    inside = np.minimum(_edge(y, height, 0.035), _edge(along, length, 0.035))[..., None]
    return _shade(colour, 1 + 0.13 * tone) * inside + mortar * (1 - inside)


def _checks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    light, dark, size = (
        pick_colour(rng, PLASTERS),
        pick_colour(rng, STONES + FABRICS) * 0.78,
        rng.uniform(0.3, 0.6),
    )
    wave = np.sin(np.pi * y / size) * np.sin(np.pi * x / size)
    mix = np.clip(0.5 + wave * 4, 0, 1)[..., None]
    return light * mix + dark * (1 - mix)


def _stripes(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    base, period = pick_colour(rng, PLASTERS), rng.uniform(0.25, 0.7)
    other = base * rng.uniform(0.74, 0.88) + rng.uniform(-12, 12, 3)
    mix = np.clip(0.5 + 3 * np.sin(2 * np.pi * x / period), 0, 1)[..., None]
    return base * mix + other * (1 - mix)


def _carpet(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    colour = pick_colour(rng, FABRICS)
    cloud = _noise(rng, y, x, 0.5, 0.5)
    fine = _noise(rng, y, x, 0.07, 0.07)
    return _shade(colour, 1 + 0.06 * cloud + 0.06 * fine)


def _two_tone(
    rng: np.random.Generator,
    y: np.ndarray,
    x: np.ndarray,
    palette: tuple,
    patch: float,
    fine: float,
    amount: float,
) -> np.ndarray:
    first, second = pick_colour(rng, palette), pick_colour(rng, palette)
    mix = np.clip(0.5 + 0.6 * _noise(rng, y, x, patch, patch), 0, 1)[..., None]
    detail = _noise(rng, y, x, fine, fine)
    return (first * mix + second * (1 - mix)) * (1 + amount * detail)[..., None]


def _grass(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _two_tone(rng, y, x, GREENS, 0.8, 0.08, 0.12)


def _hedge(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _two_tone(rng, y, x, GREENS, 0.25, 0.09, 0.2) * 0.8


def _gravel(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _two_tone(rng, y, x, STONES, 0.3, 0.08, 0.12)


def _dirt(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _two_tone(rng, y, x, WOODS, 0.9, 0.12, 0.08)


def _concrete(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _two_tone(rng, y, x, STONES, 1.0, 0.15, 0.04)


def _paving(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    colour, size = pick_colour(rng, STONES), rng.uniform(0.45, 0.9)
    row = np.floor(y / size)
    along = x + (row % 2) * size * 0.5
    tone = _cells(rng, row, np.floor(along / (1.5 * size)))
    lines = np.minimum(_edge(y, size, 0.06), _edge(along, 1.5 * size, 0.06))
    cloud = _noise(rng, y, x, 0.25, 0.25)
    return _shade(colour, (1 + 0.09 * tone + 0.04 * cloud) * (0.7 + 0.3 * lines))


PATTERNS: dict[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]] = {
    "planks": _planks,
    "wood": _wood,
    "tiles": _tiles,
    "plaster": _plaster,
    "bricks": _bricks,
    "checks": _checks,
    "stripes": _stripes,
    "carpet": _carpet,
    "grass": _grass,
    "hedge": _hedge,
    "gravel": _gravel,
    "dirt": _dirt,
    "concrete": _concrete,
    "paving": _paving,
}


def metre_grid(size_y: float, size_x: float, pixels_per_metre: float) -> Grid:
    """Pixel centres in metres: y [H, W] downwards and x [H, W] to the right."""
    height, width = max(8, round(size_y * pixels_per_metre)), max(8, round(size_x * pixels_per_metre))
    y = (np.arange(height, dtype=np.float32) + 0.5) * (size_y / height)
    x = (np.arange(width, dtype=np.float32) + 0.5) * (size_x / width)
    return tuple(np.meshgrid(y, x, indexing="ij"))


def draw_texture(texture_id: str, size_y: float, size_x: float, pixels_per_metre: float = 64.0) -> np.ndarray:
    """Paint a surface of this size in metres.

    Args:
        texture_id: `kind-NN` of `PATTERNS`, or `photo:NAME` for a photographed surface.
        size_y: extent downwards, metres.
        size_x: extent to the right, metres.
        pixels_per_metre: how fine to paint.

    Returns:
        float32 [H, W, 3] in 0..255, row 0 at the top.
    """
    y, x = metre_grid(size_y, size_x, pixels_per_metre)
    if texture_id.startswith("photo:"):
        return _photo_surface(texture_id[6:], y, x)
    rng = texture_rng(texture_id)
    return np.clip(PATTERNS[texture_id.rsplit("-", 1)[0]](rng, y, x), 8, 236).astype(np.float32)


def _photo_surface(name: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Tile a grey CC0 surface photograph, mirrored at its borders, tinted and softened."""
    photo = load_photo(name)
    small = np.asarray(
        Image.fromarray(photo).resize((128, 128), Image.Resampling.BOX), dtype=np.float32
    ).mean(-1)
    tile = np.block([[small, small[:, ::-1]], [small[::-1], small[::-1, ::-1]]])
    scale = 128 / 2.2  # the photograph covers 2.2 m
    picture = tile[(y * scale).astype(int) % 256, (x * scale).astype(int) % 256]
    tint = {"grass": (106, 124, 78), "gravel": (150, 144, 136)}[name]
    return np.clip(np.array(tint, np.float32) * (1 + (picture / small.mean() - 1)[..., None] * 0.5), 8, 236)
