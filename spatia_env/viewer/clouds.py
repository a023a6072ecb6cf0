"""The map as tiles of points for a browser: what changed, how finely, in which colours.

A tile gathers the blocks of a few cubic metres. The map never writes to a block, so a tile has changed exactly
when one of its arrays is another object: an update sends the tiles that a clip touched and no others. A tile
is sent coarsely first and finely when there is room in the budget, near ones before far ones.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from spatia_env.io.images import depth_to_rgb
from spatia_env.memory import blocks as blk
from spatia_env.memory.point_map import SceneMemory

Colouring = Literal["colour", "age", "confidence", "static / dynamic"]
COLOURINGS: tuple[Colouring, ...] = get_args(Colouring)
BLOCKS_PER_TILE = 4
COARSE = 8
"""A coarse tile has about one of so many points."""
BUDGET = 2_000_000
"""Points that a browser is sent in all: 18 MB."""
SURE = 8.0
"""Accumulated confidence from which a point counts as sure (about eight good views)."""
STATIC, EDITED, MOVING = (92, 128, 150), (186, 120, 255), (255, 138, 76)

Tile = tuple[int, int, int]


@dataclass(frozen=True)
class Drawing:
    """Points of a tile, ready to be sent.

    Attributes:
        centre: Where its origin is [3], metres, so that 16-bit positions stay exact to a millimetre.
        position: f32 [n, 3], relative to `centre`.
        colour: u8 [n, 3].
        size: Metres: how large a point is drawn.
    """

    centre: np.ndarray
    position: np.ndarray
    colour: np.ndarray
    size: float


class TiledMap:
    """A map cut into tiles, and what of it a browser has.

    Args:
        budget: Points that may be fine and coarse together.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self._tiles: dict[Tile, tuple[np.ndarray, ...]] = {}
        self._sent: dict[Tile, tuple[tuple[np.ndarray, ...], bool, Any]] = {}
        self._coarse: dict[Tile, int] = {}
        self._memory = SceneMemory()

    def show(self, memory: SceneMemory) -> None:
        """Take a map; what must be sent for it comes from `due`."""
        if memory is self._memory:
            return
        self._memory = memory
        parts: dict[Tile, list[tuple[int, np.ndarray]]] = {}
        if memory.blocks:
            keys = np.fromiter(memory.blocks, dtype=np.int64, count=len(memory.blocks))
            corners = blk.unpack_blocks(keys) // BLOCKS_PER_TILE
            for key, corner in zip(keys.tolist(), corners.tolist(), strict=True):
                parts.setdefault((corner[0], corner[1], corner[2]), []).append((key, memory.blocks[key]))
        old, self._tiles = self._tiles, {}
        counted, self._coarse = self._coarse, {}
        for tile, pairs in parts.items():
            rows = tuple(block for _, block in sorted(pairs, key=lambda pair: pair[0]))
            # The same tuple stands for the same content, so `due` compares one reference.
            kept = tile in old and _same(old[tile], rows)
            self._tiles[tile] = old[tile] if kept else rows
            self._coarse[tile] = counted[tile] if kept else len(thinned(rows))

    def forget(self) -> None:
        """Act as if nothing had been sent."""
        self._sent.clear()

    def gone(self) -> list[Tile]:
        """Tiles that were sent and are no more; they count as taken away from now on."""
        gone = [tile for tile in self._sent if tile not in self._tiles]
        for tile in gone:
            del self._sent[tile]
        return gone

    def due(self, eyes: np.ndarray, look: Any = None) -> list[tuple[Tile, bool]]:
        """Tiles to send and whether finely, in the order to send them: new ones coarsely first.

        Args:
            eyes: Where the map is looked at from [n, 3], metres; near tiles are fine first.
            look: Anything that the drawing depends on besides the map (the colouring); another means all again.
        """
        fine = self.wanted(eyes)
        coarse: list[tuple[Tile, bool]] = []
        finer: list[tuple[Tile, bool]] = []
        for tile in self._near_first(eyes):
            rows, is_fine, shown = self._sent.get(tile, ((), False, None))
            if tile in fine:
                if rows is not self._tiles[tile] or not is_fine or shown != look:
                    # A tile that is on the screen is replaced at once; a new one begins coarsely.
                    (finer if tile in self._sent else coarse).append((tile, tile in self._sent))
                    if tile not in self._sent:
                        finer.append((tile, True))
            elif rows is not self._tiles[tile] or is_fine or shown != look:
                coarse.append((tile, False))
        return coarse + finer

    def wanted(self, eyes: np.ndarray) -> set[Tile]:
        """Tiles that are to be fine: the nearest, as far as the budget goes."""
        left = self.budget - sum(self._coarse.values())
        fine: set[Tile] = set()
        for tile in self._near_first(eyes):
            left -= _count(self._tiles[tile]) - self._coarse[tile]
            if left < 0:
                break
            fine.add(tile)
        return fine

    def draw(self, tile: Tile, fine: bool, colouring: Colouring, step: int, look: Any = None) -> Drawing:
        """The points of a tile, which count as sent from now on."""
        rows = self._tiles[tile]
        self._sent[tile] = (rows, fine, look)
        points = np.concatenate(rows)
        if not fine:
            points = thinned(rows)
        centre = self.centre(tile)
        size = float(np.clip(np.median(points["radius"].astype(np.float32)), self._memory.voxel * 0.8, 0.06))
        return Drawing(
            centre,
            points["position"] - centre.astype(np.float32),
            colours(points, colouring, step),
            size if fine else size * COARSE**0.5,
        )

    def centre(self, tile: Tile) -> np.ndarray:
        """The middle [3] of a tile, metres."""
        return (np.array(tile, np.float64) + 0.5) * BLOCKS_PER_TILE * self._memory.block

    def _near_first(self, eyes: np.ndarray) -> list[Tile]:
        if not len(eyes):
            return sorted(self._tiles)
        distance = {
            tile: float(np.linalg.norm(eyes - self.centre(tile), axis=-1).min()) for tile in self._tiles
        }
        return sorted(self._tiles, key=lambda tile: (distance[tile], tile))


def thinned(rows: tuple[np.ndarray, ...]) -> np.ndarray:
    """The points of a coarse tile; at least one."""
    points = np.concatenate([block[coarse_rows(block)] for block in rows])
    return points if len(points) else rows[0][:1]


def coarse_rows(points: np.ndarray) -> np.ndarray:
    """Which points [n] of a block a coarse tile keeps: about one in `COARSE`, spread evenly, always the same."""
    scrambled = (points["voxel"].astype(np.uint32) * np.uint32(2654435761)) >> np.uint32(16)
    return scrambled % COARSE == 0


def colours(points: np.ndarray, colouring: Colouring, step: int) -> np.ndarray:
    """Colours u8 [n, 3] of points (`blocks.POINT`): their own, or by a measure.

    Args:
        points: Rows of the map.
        colouring: "age" is dark for what was first seen long ago and bright for what is new; "confidence" is
            dark for what was barely seen; "static / dynamic" tells what the user edited from what was seen.
        step: The step of now.
    """
    if colouring == "age":
        return _scale((points["first_step"] + 1) / (step + 1))
    if colouring == "confidence":
        return _scale(np.log1p(points["weight"]) / np.log1p(SURE))
    if colouring == "static / dynamic":
        light = points["colour"].astype(np.float32).mean(-1, keepdims=True) / 255 * 0.8 + 0.4
        base = np.where((points["layer"] > 0)[:, None], np.array(EDITED), np.array(STATIC))
        return np.clip(base * light, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(points["colour"])


def _scale(share: Any) -> np.ndarray:
    return depth_to_rgb(np.clip(np.asarray(share, np.float32), 1e-3, 1), far=1.0)


def _same(old: tuple[np.ndarray, ...], new: tuple[np.ndarray, ...]) -> bool:
    return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))


def _count(rows: tuple[np.ndarray, ...]) -> int:
    return sum(len(block) for block in rows)
