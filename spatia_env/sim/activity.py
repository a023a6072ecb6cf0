"""Steps the physics of a scene and keeps account of what moves."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from spatia_env.sim.bodies import Mover
from spatia_env.sim.engine import Engine

STILL_METRES = 0.005
STILL_DEGREES = 1.0
STILL_FRAMES = 4
LIMIT = 6.4  # metres from the middle, and upwards: what goes further has left


@dataclasses.dataclass
class _Track:
    """Where a body was at the last call, and for how many calls it has stood still."""

    position: np.ndarray
    turn: np.ndarray
    still: int
    mover: Mover | None


class Activity:
    """The moving bodies of one scene.

    Args:
        engine: the physics.
        furniture: bodies that can be knocked; they rest at first.
    """

    def __init__(self, engine: Engine, furniture: list[int]) -> None:
        self._engine = engine
        self._tracks = {body: _Track(*engine.pose(body), STILL_FRAMES, None) for body in furniture}

    def add(self, mover: Mover) -> None:
        """A mover, dynamic from now on."""
        self._tracks[mover.body] = _Track(*self._engine.pose(mover.body), 0, mover)

    @property
    def dynamic(self) -> list[int]:
        """Ids of the bodies that count as moving."""
        return [body for body, track in self._tracks.items() if track.still < STILL_FRAMES]

    @property
    def events(self) -> tuple[str, ...]:
        """Names of the events whose bodies move, each once, in order of their start."""
        names = [t.mover.event for t in self._tracks.values() if t.mover and t.still < STILL_FRAMES]
        return tuple(dict.fromkeys(names))

    def advance(self, steps: int) -> list[int]:
        """Step physics while anything is dynamic; returns the bodies that left and were removed."""
        if not self.dynamic:
            return []
        drives = [
            t.mover.drive
            for t in self._tracks.values()
            if t.mover and t.mover.drive and t.still < STILL_FRAMES
        ]
        for _ in range(steps):
            for drive in drives:
                drive()
            self._engine.step(1)
        gone = []
        for body, track in self._tracks.items():
            position, turn = self._engine.pose(body)
            moved = (
                np.linalg.norm(position - track.position) >= STILL_METRES
                or _angle(turn, track.turn) >= STILL_DEGREES
            )
            track.still = 0 if moved else min(track.still + 1, STILL_FRAMES)
            track.position, track.turn = position, turn
            if track.mover and (np.abs(position[:2]).max() > LIMIT or not -1 < position[2] < LIMIT):
                gone.append(body)
        return self._remove(gone)

    def remove_movers(self) -> list[int]:
        """Remove every body that an event brought; returns their ids."""
        return self._remove([body for body, track in self._tracks.items() if track.mover])

    def _remove(self, bodies: list[int]) -> list[int]:
        for body in bodies:
            self._engine.remove(body)
            del self._tracks[body]
        return bodies


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Degrees between two quaternions."""
    return math.degrees(2 * math.acos(min(1.0, abs(float(np.dot(first, second))))))
