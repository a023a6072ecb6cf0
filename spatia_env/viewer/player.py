"""The clip player: one or several moments side by side, in one of several layers, and which frame is due.

Captions are drawn as pixels. It knows moments, not the session.
"""

import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spatia_env.io.images import depth_to_rgb
from spatia_env.viewer.timeline import Clip, Moment

Layer = Literal["clip", "known / imagined", "depth", "memory's render", "what moves", "references"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
FPS = 8.0
WIDTH = 364
"""Pixels: the width of the panel."""
BAR, GAP = 22, 6
"""Pixels: height of a caption, and between pictures."""
INK, PAPER, ACCENT, IMAGINED = (236, 236, 232), (27, 29, 35), (255, 138, 76), (150, 92, 255)


def layer_frames(clip: Clip, layer: Layer) -> np.ndarray:
    """A clip's frames u8 [T, H, W, 3] in a layer; references come as one picture each."""
    if layer == "known / imagined":
        return tint(clip.frames, ~clip.known, IMAGINED)
    if layer == "depth":
        return depth_to_rgb(clip.depth.astype(np.float32))
    if layer == "memory's render":
        return clip.scene_render
    if layer == "what moves":
        return tint(clip.frames, clip.dynamic, ACCENT)
    if layer == "references" and len(clip.references):
        return clip.references
    return clip.frames


def tint(frames: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Frames u8 [T, H, W, 3] with a colour laid over the pixels of a mask [T, H, W]."""
    laid = 0.55 * frames.astype(np.float32) + 0.45 * np.array(colour, np.float32)
    return np.where(mask[..., None], laid, frames).astype(np.uint8)


class Reel:
    """Frames u8 [h, w, 3] that show moments side by side, each with its caption; as many as the longest clip has.

    A frame is enlarged when it is first asked for, so that the first of a new clip is there at once.

    Args:
        moments: One to eight.
        layer: What of them.
        width: Pixels of the whole.
    """

    def __init__(self, moments: Sequence[Moment], layer: Layer, width: int = WIDTH) -> None:
        columns = 1 if len(moments) == 1 else 2 if len(moments) <= 4 else 3
        rows = -(-len(moments) // columns)
        self._strips = [layer_frames(moment.clip, layer) for moment in moments]
        height, across = self._strips[0].shape[1:3]
        cell = (width - GAP * (columns - 1)) // columns
        tall = round(cell * height / across)
        self._size = (cell, tall)
        self._blank = np.full((rows * (tall + BAR + GAP) - GAP, width, 3), PAPER, np.uint8)
        self._corners: list[tuple[int, int]] = []
        for index, moment in enumerate(moments):
            left, top = index % columns * (cell + GAP), index // columns * (tall + BAR + GAP)
            words = text_bar(caption(moment, layer), cell, BAR)
            self._blank[top + tall : top + tall + BAR, left : left + cell] = words
            self._corners.append((left, top))
        self._frames: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return max(len(strip) for strip in self._strips)

    def __getitem__(self, at: int) -> np.ndarray:
        """One frame, counted from 0; the same array each time."""
        at = range(len(self))[at]
        if at not in self._frames:
            self._frames[at] = self._frame(at)
        return self._frames[at]

    def _frame(self, at: int) -> np.ndarray:
        frame = self._blank.copy()
        for strip, (left, top) in zip(self._strips, self._corners, strict=True):
            cell, tall = self._size
            frame[top : top + tall, left : left + cell] = resize(strip[min(at, len(strip) - 1)], cell, tall)
        return frame


def caption(moment: Moment, layer: Layer) -> str:
    """What stands beneath a moment: its number and event; for references how well they overlap."""
    words = f"{moment.id}  {moment.event or moment.caption}"
    if layer == "references":
        scores = ", ".join(f"{score:.2f}" for score in moment.clip.scores)
        return f"{words}  overlap {scores}" if scores else f"{words}  no references"
    return words


def resize(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """A frame u8 [H, W, 3] at another size, smoothly."""
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


@lru_cache(maxsize=64)
def text_bar(words: str, width: int, height: int) -> np.ndarray:
    """A line of text, cut to fit, u8 [height, width, 3]."""
    picture = Image.new("RGB", (width, height), PAPER)
    font = _font(13)
    words = "".join(character if character.isprintable() else " " for character in words[:width])
    if font.getlength(words) > width - 4:
        while words and font.getlength(words + "…") > width - 4:
            words = words[:-1]
        words += "…"
    ImageDraw.Draw(picture).text((2, height // 2), words, INK, font=font, anchor="lm")
    return np.asarray(picture)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


class Player:
    """Frames to show in turn; thread-safe.

    Args:
        width: Pixels of the picture.
    """

    def __init__(self, width: int) -> None:
        self._lock = threading.Lock()
        self._width = width
        self._moments: tuple[Moment, ...] = ()
        self._frames: Reel | tuple[()] = ()
        self._at = 0
        self._due = 0.0
        self.layer: Layer = "clip"
        self.playing, self.looping = True, True

    @property
    def moments(self) -> tuple[Moment, ...]:
        """What is shown, side by side."""
        return self._moments

    @property
    def position(self) -> tuple[int, int]:
        """The frame that is shown, counted from 0, and how many there are."""
        return self._at, len(self._frames)

    def show(self, moments: Sequence[Moment], layer: Layer | None = None) -> None:
        """Show moments from their first frame, in another layer if one is given."""
        frames = Reel(moments, layer or self.layer, self._width)
        with self._lock:
            self._moments, self.layer, self._frames = tuple(moments), layer or self.layer, frames
            self._at, self._due, self.playing = 0, time.monotonic() + 1 / FPS, True

    def seek(self, index: int) -> None:
        """Stop at a frame."""
        with self._lock:
            self.playing = False
            self._at = min(max(index, 0), max(len(self._frames) - 1, 0))

    def play(self, playing: bool) -> None:
        """Go on or stop; at its end, it begins again."""
        with self._lock:
            self.playing = playing
            if playing and self._at == len(self._frames) - 1:
                self._at = 0

    def frame(self, now: float) -> np.ndarray | None:
        """The frame u8 [h, w, 3] to show at a time (monotonic seconds), None when there is nothing."""
        with self._lock:
            if not self._frames:
                return None
            if self.playing and now >= self._due:
                self._due = now + 1 / FPS
                if self._at + 1 < len(self._frames):
                    self._at += 1
                elif self.looping:
                    self._at = 0
                else:
                    self.playing = False
            return self._frames[self._at]
