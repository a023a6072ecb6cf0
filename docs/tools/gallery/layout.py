"""How the gallery looks: films side by side with captions, sheets, a map from above with the path on it.

Pictures u8 in, pictures u8 out; it knows neither the environment nor files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spatia_env.viewer.player import resize

PAPER, INK, MUTED, LINE = (20, 22, 28), (236, 236, 232), (142, 148, 158), (58, 63, 74)
ACCENT, IMAGINED = (255, 138, 76), (150, 92, 255)
WEDGE = (255, 196, 120)
MARKS = (PAPER, INK, MUTED, ACCENT, WEDGE, IMAGINED)
GAP, BAR = 8, 26
"""Pixels between cells, and of the line of text beneath one."""


@dataclass(frozen=True)
class Film:
    """Frames u8 [N, H, W, 3] and the line beneath them; `said` films carry the mark of an event in words."""

    caption: str
    frames: np.ndarray
    said: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a sheet: its label, its frames u8 [n, H, W, 3] and, if there are any, a line beneath each."""

    label: str
    frames: np.ndarray
    captions: Sequence[str] = ()


def board(films: Sequence[Film], columns: int, cell: int) -> np.ndarray:
    """Films in one, u8 [N, h, w, 3], `columns` in a row, `cell` pixels wide; shorter ones stop at their end."""
    count = max(len(film.frames) for film in films)
    parts = []
    for film in films:
        tall = round(cell * film.frames.shape[1] / film.frames.shape[2])
        shown = np.stack([resize(frame, cell, tall) for frame in film.frames])
        shown = shown[np.minimum(np.arange(count), len(shown) - 1)]
        words = np.broadcast_to(line(film.caption, cell, BAR, dot=film.said), (count, BAR, cell, 3))
        parts.append(np.concatenate([shown, words], axis=1))
    rows = [parts[at : at + columns] for at in range(0, len(parts), columns)]
    heights = [max(part.shape[1] for part in row) + GAP for row in rows]
    frames = np.full((count, sum(heights) + GAP, len(rows[0]) * (cell + GAP) + GAP, 3), PAPER, np.uint8)
    for row, top in zip(rows, np.cumsum([GAP, *heights]).tolist(), strict=False):
        for column, part in enumerate(row):
            left = GAP + column * (cell + GAP)
            frames[:, top : top + part.shape[1], left : left + cell] = part
    return frames


def sheet(rows: Sequence[Row], columns: Sequence[str] = (), cell: int = 144) -> Image.Image:
    """Labelled rows of frames as one picture, in the films' colours."""
    height, width = rows[0].frames.shape[1:3]
    tall = round(cell * height / width)
    margin = GAP + max(min(150, round(_font(14).getlength(row.label))) for row in rows) + 2 * GAP
    head = 24 if columns else 0
    tops, bottom = [], GAP + head
    for row in rows:
        tops.append(bottom)
        bottom += tall + GAP + (18 if row.captions else 0)
    across = max(len(row.frames) for row in rows)
    picture = Image.new("RGB", (margin + across * (cell + GAP), bottom), PAPER)
    draw = ImageDraw.Draw(picture)
    for index, words in enumerate(columns):
        x = margin + index * (cell + GAP) + cell // 2
        draw.text((x, GAP + head // 2 - 2), _cut(words, 13, cell), MUTED, font=_font(13), anchor="mm")
    for row, top in zip(rows, tops, strict=True):
        _label(draw, row.label, (GAP + 2, top + tall // 2), margin - 2 * GAP)
        for index, frame in enumerate(row.frames):
            left = margin + index * (cell + GAP)
            picture.paste(Image.fromarray(resize(frame, cell, tall)), (left, top))
        for index, words in enumerate(row.captions):
            spot = (margin + index * (cell + GAP) + cell // 2, top + tall + 9)
            draw.text(spot, words, MUTED, font=_font(12), anchor="mm")
    return picture


def walked(above: np.ndarray, spots: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """A map from above u8 [H, W, 3] with the path on it and the walker at its end.

    Args:
        above: The map.
        spots: Where the walker has been, pixels (u, v) [n, 2].
        ahead: A pixel (u, v) in front of the walker.
    """
    scale = 2  # drawn twice as large, for smooth lines
    picture = Image.fromarray(above).resize((above.shape[1] * scale, above.shape[0] * scale))
    draw = ImageDraw.Draw(picture)
    points = [(float(u) * scale, float(v) * scale) for u, v in spots]
    if len(points) > 1:
        draw.line(points, fill=ACCENT, width=3 * scale, joint="curve")
    here, towards = np.array(points[-1]), np.asarray(ahead, np.float64) * scale - np.array(points[-1])
    towards = towards / max(float(np.linalg.norm(towards)), 1e-6)
    side, reach = np.array([-towards[1], towards[0]]), 16.0 * scale
    wedge = [here, here + reach * (towards + 0.55 * side), here + reach * (towards - 0.55 * side)]
    draw.polygon([tuple(corner) for corner in wedge], fill=WEDGE, outline=ACCENT)
    u, v = here
    draw.ellipse((u - 4 * scale, v - 4 * scale, u + 4 * scale, v + 4 * scale), fill=ACCENT)
    return np.asarray(picture.resize((above.shape[1], above.shape[0]), Image.Resampling.LANCZOS))


@lru_cache(maxsize=128)
def line(words: str, width: int, height: int = BAR, dot: bool = False, size: int = 14) -> np.ndarray:
    """A line of text, cut to fit, u8 [height, width, 3]; with a dot before it where it was said."""
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    left = 2
    if dot:
        draw.ellipse((3, height // 2 - 4, 11, height // 2 + 4), fill=ACCENT)
        left = 18
    draw.text((left, height // 2), _cut(words, size, width - left - 2), INK, font=_font(size), anchor="lm")
    return np.asarray(picture)


def _label(draw: ImageDraw.ImageDraw, words: str, spot: tuple[int, int], width: int) -> None:
    """Words in as many lines as they need, centred at a height."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(14).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    for index, text in enumerate(lines):
        height = spot[1] + (index - (len(lines) - 1) / 2) * 18
        draw.text((spot[0], height), text, INK, font=_font(14), anchor="lm")


def _cut(words: str, size: int, width: int) -> str:
    words = "".join(character if character.isprintable() else " " for character in words[:300])
    if _font(size).getlength(words) <= width:
        return words
    while words and _font(size).getlength(words + "…") > width:
        words = words[:-1]
    return words.rstrip() + "…"


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)
