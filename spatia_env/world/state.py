"""`WorldState`: everything that the next step depends on, immutable.

A snapshot is a reference, a fork shares the map until it steps, and a step that fails leaves nothing half done.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from spatia_env.events.log import Conditions, LedgerRow
from spatia_env.memory.editing import EditRecord
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.map import Map
from spatia_env.memory.point_map import SceneMemory


@dataclass(frozen=True, eq=False)
class Change:
    """An edit that was made: its record, and the pictures (keyframes, then the last frames) before and after it."""

    record: EditRecord
    pictures: tuple[tuple[Keyframe, Keyframe], ...]
    last: tuple[Tensor, Tensor] | None
    last_after: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class Edits:
    """Edits that can be undone and redone; immutable. A saved file does not hold them."""

    done: tuple[Change, ...] = field(default=(), repr=False)
    undone: tuple[Change, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.done)


@dataclass(frozen=True)
class WorldState:
    """A world between two steps. All members are immutable or never written to.

    Attributes:
        map: What has been seen.
        c2w: Pose [4, 4] of the last frame.
        start_c2w: Pose [4, 4] of the first frame.
        prompt: What the place is, in words.
        preceding_frames: The last frames, u8 [P, H, W, 3], oldest first.
        depth: z-depth [H, W] of the last frame, metres.
        seed: Of the world's noise.
        moving: Whether something moved in the last clip.
        conditions: Light and weather that hold: (event name, phrase), oldest first.
        ground: World z in metres of the floor under the camera; None where it is not known.
        ledger: What was asked for in words, and edits.
        edits: What `undo` and `redo` need.
    """

    map: Map
    c2w: Tensor
    start_c2w: Tensor
    prompt: str
    preceding_frames: Tensor
    depth: Tensor
    seed: int
    moving: bool = False
    conditions: Conditions = ()
    ground: float | None = None
    ledger: tuple[LedgerRow, ...] = ()
    edits: Edits = field(default_factory=Edits)

    @property
    def memory(self) -> SceneMemory:
        """The map's points."""
        return self.map.points

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        """The map's keyframes."""
        return self.map.keyframes

    @property
    def K(self) -> Tensor:
        """Intrinsics [3, 3] in pixels."""
        return self.map.K

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return self.map.size

    @property
    def step(self) -> int:
        """Clips so far."""
        return self.map.step

    @property
    def drift(self) -> Tensor:
        """SLAM's last correction [4, 4]."""
        return self.map.drift

    @property
    def measured(self) -> bool:
        """Whether the start came with its depth."""
        return self.map.measured

    def step_seed(self) -> int:
        """Seed of the next step's noise: it follows from the state, so snapshots and forks repeat exactly."""
        return int(np.random.SeedSequence([self.seed, self.step]).generate_state(1, np.uint64)[0] >> 1)

    def advance(self, map: Map, frames: Tensor, depth: Tensor, **changes: Any) -> "WorldState":
        """The state after a clip: frames u8 [T, H, W, 3], the last frame's depth [H, W], and what else changed."""
        # Clones: a slice would keep the whole clip in memory for as long as the world lives.
        history = torch.cat([self.preceding_frames, frames])[-len(self.preceding_frames) :].clone()
        return dataclasses.replace(self, map=map, preceding_frames=history, depth=depth.clone(), **changes)


class HoldsState(Protocol):
    """A world: something whose `state` can be read and replaced."""

    state: WorldState
