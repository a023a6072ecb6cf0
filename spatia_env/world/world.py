"""The world: what persists between steps. Its map, keyframes, camera, last frames, ledger and seed.

The whole of it is one immutable `WorldState`, so a snapshot is a reference, a fork shares the map until it
steps, and a step that fails leaves nothing half done. It knows no model and no action.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import WorldFormatError
from spatia_env.events.log import Conditions, LedgerRow
from spatia_env.geometry import pose_error
from spatia_env.memory.free_space import seen_through
from spatia_env.memory.keyframes import Keyframe, select_references
from spatia_env.memory.rendering import Render
from spatia_env.memory.scene import Growth, SceneMemory
from spatia_env.memory.standing import standing
from spatia_env.world.tools import Edits, WorldEdits, WorldQueries
from spatia_env.world.validation import check_world

KEYFRAME_STRIDE = 4
"""Every 4th frame of a clip is kept as a keyframe (the release keeps every 4th as a candidate)."""
MAX_KEYFRAMES = 512
"""Oldest keyframes but the first go beyond this."""
REVISIT_METRES, REVISIT_DEGREES = 0.05, 2.0
"""A keyframe this close to the last pose counts as the same place seen again."""


@dataclass(frozen=True)
class WorldState:
    """Everything that the next step depends on. All members are immutable or never written to."""

    memory: SceneMemory
    keyframes: tuple[Keyframe, ...]
    c2w: Tensor
    start_c2w: Tensor
    K: Tensor
    size: tuple[int, int]
    prompt: str
    preceding_frames: Tensor
    depth: Tensor
    seed: int
    step: int = 0
    moving: bool = False
    conditions: Conditions = ()
    ground: float | None = None
    ledger: tuple[LedgerRow, ...] = ()
    edits: Edits = field(default_factory=Edits)
    drift: Tensor = field(default_factory=lambda: torch.eye(4))
    measured: bool = False

    def step_seed(self) -> int:
        """Seed of the next step's noise: it follows from the state, so snapshots and forks repeat exactly."""
        return int(np.random.SeedSequence([self.seed, self.step]).generate_state(1, np.uint64)[0] >> 1)


class World:
    """A generated world, to be rendered, remembered into, forked, saved and exported.

    Args:
        state: What it starts from.
        remembers: False switches the map off (nothing is written, nothing retrieved).
    """

    def __init__(self, state: WorldState, remembers: bool = True) -> None:
        self.state = state
        self.remembers = remembers

    @property
    def memory(self) -> SceneMemory:
        """The map."""
        return self.state.memory

    @property
    def c2w(self) -> Tensor:
        """Pose [4, 4] of the last frame."""
        return self.state.c2w

    @property
    def edit(self) -> WorldEdits:
        """Edits: `world.edit.remove(region)`, `move`, `rotate`, `insert`, `recolor`, `freeze`, `undo`, `redo`."""
        return WorldEdits(self)

    @property
    def query(self) -> WorldQueries:
        """Questions: `world.query.raycast()`, `visible`, `occupied`, `path`, `frontier`, `nearest_unseen`."""
        return WorldQueries(self)

    def render(self, path: Tensor, layers: Collection[int] | None = None) -> Render:
        """What the map looks like along `path` [T, 4, 4] (c2w); of some `layers` only, as in `export`."""
        return self.state.memory.render(path, self.state.K, *self.state.size, layers)

    def retrieve(self, path: Tensor, view: Render, count: int) -> tuple[Tensor, list[float]]:
        """Reference frames u8 [R, H, W, 3] that overlap the path most, and their scores in [0, 1]."""
        keyframes = self.state.keyframes if self.remembers else ()
        # What precedes the clip is seen anyway; older pictures tell more.
        candidates = [k for k in keyframes if k.step < max(self.state.step, 1)] or list(keyframes)
        indices, scores = select_references(candidates, view, path, self.state.K, count)
        if not indices:
            return torch.zeros(0, *self.state.size, 3, dtype=torch.uint8), []
        return torch.stack([candidates[i].frame for i in indices]), scores

    def revisited(self, c2w: Tensor) -> Keyframe | None:
        """The oldest keyframe of an earlier step that was taken from (nearly) this pose [4, 4], if any."""
        candidates = [k for k in self.state.keyframes if k.step < self.state.step]
        if not candidates:
            return None
        poses = torch.stack([keyframe.c2w for keyframe in candidates])
        metres, degrees = pose_error(poses, c2w.expand_as(poses))
        near = ((metres <= REVISIT_METRES) & (degrees <= REVISIT_DEGREES)).nonzero().flatten()
        return candidates[int(near[0])] if len(near) else None

    def remember(
        self, frames: Tensor, depth: Tensor, weight: Tensor, path: Tensor, view: Render, write: bool
    ) -> tuple[WorldState, Growth]:
        """The state after a clip; the caller assigns it to `state` when the whole step has succeeded.

        Args:
            frames: The clip u8 [T, H, W, 3].
            depth: z-depth [T, H, W] metres.
            weight: Confidence of what is static [T, H, W]; 0 is never written.
            path: Poses [T, 4, 4] where the map should put the clip (refined c2w).
            view: The map's render along the path, before the clip.
            write: False while a condition lies on the light or the air: colours would be wrong tomorrow.
        """
        state = self.state
        step = state.step + 1
        memory, growth, keyframes = state.memory, Growth(), state.keyframes
        if write and self.remembers:
            rgb = frames.movedim(-1, 1).float() / 255
            opens = ~view.known & (depth > 0) & (weight > 0)
            empty = seen_through(depth, opens, path, state.K, state.keyframes)
            weight = torch.where(empty, 0.0, weight)
            keyframes = _extended(keyframes, frames, torch.where(weight > 0, depth, 0), path, step)
            new = standing(depth, view.depth * view.known, path, state.K, keyframes, step)
            memory, growth = memory.update(rgb, depth, weight, path, state.K, step, view.known & ~new)
        # Clones: a slice would keep the whole clip in memory for as long as the world lives.
        history = torch.cat([state.preceding_frames, frames])[-len(state.preceding_frames) :].clone()
        after = dataclasses.replace(
            state,
            memory=memory,
            keyframes=keyframes,
            step=step,
            preceding_frames=history,
            depth=depth[-1].clone(),
        )
        return after, growth

    def snapshot(self) -> WorldState:
        """The state as it is; O(1), since it is immutable."""
        return self.state

    def restore(self, snapshot: WorldState) -> None:
        """Return to a snapshot of this world or of a fork."""
        self.state = snapshot

    def fork(self) -> "World":
        """An independent world that shares the map until either steps."""
        return World(self.state, self.remembers)

    def save(self, path: str | Path) -> None:
        """Write the world into one file, atomically; blocks that an earlier save wrote are not written again."""
        from spatia_env.memory.storage import save_bundle

        save_bundle(path, to_bundle(self.state))

    @classmethod
    def load(cls, path: str | Path) -> "World":
        """Read a world that `save` wrote.

        Raises:
            WorldFormatError, WorldCorruptError, WorldVersionError, WorldIOError: As the file is bad.
        """
        from spatia_env.memory.storage import load_bundle

        bundle = load_bundle(path)
        try:
            return cls(_from_bundle(bundle))
        except WorldFormatError as error:
            raise WorldFormatError(f"{str(path)!r}: {error}") from error

    def export(self, path: str | Path, layers: Collection[int] | None = None) -> None:
        """Write `*.ply`, or into a new folder PLY, COLMAP text model, transforms.json and keyframe pictures.

        Args:
            path: Where to; `reset(options={"world": path})` begins a world from it.
            layers: Which points: 0 observed, 1 edited; both by default.

        Raises:
            WorldIOError, WorldFormatError: See `memory.export.export`.
        """
        from spatia_env.memory.storage import export

        state = self.state
        export(path, state.memory, list(state.keyframes), state.K, state.size, layers)


def _extended(
    keyframes: tuple[Keyframe, ...], frames: Tensor, depth: Tensor, path: Tensor, step: int
) -> tuple[Keyframe, ...]:
    new = tuple(
        Keyframe(frames[i].clone(), depth[i].half(), path[i].clone(), step)
        for i in range(KEYFRAME_STRIDE - 1, len(frames), KEYFRAME_STRIDE)
    )
    together = keyframes + new
    return together[:1] + together[1:][-(MAX_KEYFRAMES - 1) :]


def to_bundle(state: WorldState) -> Any:
    """The state as plain data (`memory.storage.BundleState`), ready for `save_bundle`."""
    from spatia_env.memory.storage import BundleState

    arrays = {
        "c2w": state.c2w.numpy(),
        "start_c2w": state.start_c2w.numpy(),
        "K": state.K.numpy(),
        "preceding_frames": state.preceding_frames.numpy(),
        "depth": state.depth.numpy(),
        "drift": state.drift.numpy(),
    }
    meta = {
        "size": list(state.size),
        "prompt": state.prompt,
        "seed": state.seed,
        "step": state.step,
        "moving": state.moving,
        "ground": state.ground,
        "measured": state.measured,
        "conditions": [list(pair) for pair in state.conditions],
        "ledger": [dataclasses.asdict(row) for row in state.ledger],
    }
    return BundleState(memory=state.memory, keyframes=list(state.keyframes), arrays=arrays, meta=meta)


def _from_bundle(bundle: Any) -> WorldState:
    check_world(bundle)
    arrays: dict[str, Any] = {
        name: torch.from_numpy(np.array(value)) for name, value in bundle.arrays.items()
    }
    meta = bundle.meta
    return WorldState(
        memory=bundle.memory,
        keyframes=tuple(bundle.keyframes),
        size=(int(meta["size"][0]), int(meta["size"][1])),
        prompt=str(meta["prompt"]),
        seed=int(meta["seed"]),
        step=int(meta["step"]),
        moving=bool(meta["moving"]),
        ground=None if meta["ground"] is None else float(meta["ground"]),
        measured=bool(meta.get("measured", True)),
        conditions=tuple((str(name), str(phrase)) for name, phrase in meta["conditions"]),
        ledger=tuple(LedgerRow(**row) for row in meta["ledger"]),
        **arrays,
    )
