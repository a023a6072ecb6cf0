"""`World`: a generated world, to be rendered, edited, asked, forked, saved and exported. It knows no model."""

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from spatia_env.errors import ActionError, WorldFormatError
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.rendering import Render
from spatia_env.world.edits import WorldEdits
from spatia_env.world.imagination import Imagination
from spatia_env.world.queries import WorldQueries
from spatia_env.world.state import WorldState


class World:
    """A handle on the current `WorldState`.

    Args:
        state: What it starts from.
        imagination: Draws surroundings that nobody has seen; None where there is none.
    """

    def __init__(self, state: WorldState, imagination: Imagination | None = None) -> None:
        self.state, self.imagination = state, imagination

    @property
    def memory(self) -> SceneMemory:
        """The map's points."""
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
        """What the map looks like along `path` c2w [T, 4, 4]; of some `layers` only, as in `export`."""
        return self.state.map.render(path, layers)

    def retrieve(self, path: Tensor, view: Render, count: int) -> tuple[Tensor, list[float]]:
        """Reference frames u8 [R, H, W, 3] that overlap the path most, and their scores in [0, 1]."""
        return self.state.map.retrieve(path, view, count)

    def revisited(self, c2w: Tensor) -> Keyframe | None:
        """The oldest keyframe of an earlier step that was taken from (nearly) this pose [4, 4], if any."""
        return self.state.map.revisited(c2w)

    def imagine(self, seed: int) -> int:
        """Draw the surroundings of the camera anew by `seed`, where no clip has shown them yet; how many points.

        Raises:
            ActionError: If this world has no imagination: its checkpoint has none, or it was switched off.
        """
        if self.imagination is None:
            raise ActionError(
                "imagine: this world has no imagination; use a checkpoint that has one, and imagination=True."
            )
        self.state, count = self.imagination.again(self.state, seed)
        return count

    def snapshot(self) -> WorldState:
        """The state as it is; O(1), since it is immutable."""
        return self.state

    def restore(self, snapshot: WorldState) -> None:
        """Return to a snapshot of this world or of a fork."""
        self.state = snapshot

    def fork(self) -> "World":
        """An independent world that shares the map until either steps."""
        return World(self.state, self.imagination)

    def save(self, path: str | Path) -> None:
        """Write the world into one file, atomically; blocks that an earlier save wrote are not written again."""
        from spatia_env.memory.storage import save_bundle
        from spatia_env.world.saving import to_bundle

        save_bundle(path, to_bundle(self.state))

    @classmethod
    def load(cls, path: str | Path) -> "World":
        """Read a world that `save` wrote.

        Raises:
            WorldFormatError, WorldCorruptError, WorldVersionError, WorldIOError: As the file is bad.
        """
        from spatia_env.memory.storage import load_bundle
        from spatia_env.world.saving import from_bundle

        bundle = load_bundle(path)
        try:
            return cls(from_bundle(bundle))
        except WorldFormatError as error:
            raise WorldFormatError(f"{str(path)!r}: {error}") from error

    def export(self, path: str | Path, layers: Collection[int] | None = None, collider: bool = False) -> None:
        """Write `*.ply`, a mesh (`*.glb`, `*.obj`), or a new folder: PLY, COLMAP, transforms.json and pictures.

        Args:
            path: Where to; `reset(options={"world": path})` begins a world from it.
            layers: Which points: 0 observed, 1 edited; both by default.
            collider: Write the mesh simplified and without colours, for a physics engine.

        Raises:
            WorldIOError, WorldFormatError: See `memory.export.export`.
        """
        from spatia_env.memory.export import export

        state = self.state
        export(path, state.memory, list(state.keyframes), state.K, state.size, layers, collider)
