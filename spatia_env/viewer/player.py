"""The clip player: which moments are shown, in which layer, and which frame is due."""

import threading
import time
from collections.abc import Sequence

import numpy as np

from spatia_env.viewer.history import Moment
from spatia_env.viewer.pictures import Layer, Reel

FPS = 8.0


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
