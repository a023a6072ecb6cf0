"""`world.query`: what is in a world. None of the questions changes it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.geometry import check_rigid
from spatia_env.io.validation import as_real_array
from spatia_env.memory import frontiers, queries
from spatia_env.memory.point_map import SceneMemory
from spatia_env.world.state import HoldsState, WorldState

BODY = 0.15
"""Metres around the camera that stay free with `block_collisions`."""


class WorldQueries:
    """Questions to a world: `world.query`. None of them changes it.

    Raises:
        ActionError, PoseError: Numbers that are not finite, or not a pose.
    """

    def __init__(self, world: HoldsState) -> None:
        self._world = world

    def raycast(
        self, origin: Any = None, direction: Any = None, max_distance: float = queries.MAX_DISTANCE
    ) -> queries.Hit | None:
        """The first point that a ray meets, or None; from the camera, and straight ahead, by default."""
        c2w = self._world.state.c2w
        start = c2w[:3, 3] if origin is None else origin
        return queries.raycast(
            self._world.state.memory, start, c2w[:3, 2] if direction is None else direction, max_distance
        )

    def visible(self, c2w: Any = None) -> np.ndarray:
        """The points (`blocks.POINT`) that a camera at `c2w` [4, 4] sees; the last frame's by default."""
        state = self._world.state
        return queries.visible(state.memory, pose_or_last(c2w, state), state.K, *state.size)

    def occupied(self, position: Any, radius: float = 0.0) -> bool | np.ndarray:
        """Whether a ball of `radius` metres around positions [3] or [n, 3] touches a point: bool, or bool [n]."""
        return queries.occupied(self._world.state.memory, position, radius)

    def free_distance(self, end: Any, start: Any = None, radius: float = BODY) -> float:
        """How many metres a ball can go towards `end` [3], from the camera by default, before it touches a point."""
        start = self._world.state.c2w[:3, 3] if start is None else start
        return queries.free_distance(self._world.state.memory, start, end, radius)

    def path(self, end: Any, start: Any = None, radius: float = BODY) -> np.ndarray | None:
        """A way [n, 3] through free space to `end`, from the camera by default, or None.

        Both ends are positions [3] or poses [4, 4]. Unseen space counts as free.
        """
        begin = self._world.state.c2w if start is None else start
        return frontiers.find_path(
            self._world.state.memory, _place(begin, "start"), _place(end, "end"), radius
        )

    def frontier(self, min_area: float = 0.1) -> list[frontiers.Frontier]:
        """Where free space meets what nobody has seen, largest piece first."""
        state = self._world.state
        return frontiers.frontier(state.memory, state.keyframes, state.K, min_area=min_area)

    def nearest_unseen(self, position: Any = None) -> frontiers.Frontier | None:
        """Where the nearest known surface runs on unseen, from the camera by default; None when all is seen."""
        state = self._world.state
        here = state.c2w[:3, 3] if position is None else _place(position, "position")
        return frontiers.nearest_unseen(state.memory, state.keyframes, state.K, here)


def halted(
    memory: SceneMemory, c2w: Tensor, path: Tensor, radius: float = BODY
) -> tuple[Tensor, dict[str, Any]]:
    """A path whose camera stops where a ball around it would touch a surface; it goes on turning.

    Args:
        memory: The map.
        c2w: Where the camera is [4, 4].
        path: Where it is told to go [T, 4, 4].
        radius: Of the ball, metres.

    Returns:
        The path; and, where it was stopped, the `frame` at which, the `position` [3] there and the metres it got,
        `distance`, as JSON data; empty where it was not.
    """
    here, gone = c2w[:3, 3].double().numpy(), 0.0
    for frame, target in enumerate(path[:, :3, 3].double().numpy()):
        length = float(np.linalg.norm(target - here))
        free = queries.free_distance(memory, here, target, radius) if length > 1e-9 else length
        if free < length - 1e-6:
            here = here + (target - here) * (free / length)
            stopped = path.clone()
            stopped[frame:, :3, 3] = torch.from_numpy(here).to(path.dtype)
            return stopped, {"frame": frame, "position": here.tolist(), "distance": gone + free}
        here, gone = target, gone + length
    return path, {}


def frontier_distance(state: WorldState) -> float:
    """Metres from the camera to the nearest frontier of the map (`memory.frontiers`); 0 without one."""
    position = state.c2w[:3, 3].double().numpy()
    piece = frontiers.nearest_unseen(state.memory, state.keyframes, state.K, position)
    return 0.0 if piece is None else float(np.linalg.norm(piece.position - position))


def pose_or_last(value: Any, state: WorldState) -> Tensor:
    """A pose [4, 4] given by a user, checked; the last frame's where none is given."""
    if value is None:
        return state.c2w
    pose = _tensor(value, "c2w")
    check_rigid(pose, "c2w")
    return pose


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return torch.from_numpy(as_real_array(value, name, ActionError)).float()


def _place(value: Any, name: str) -> Any:
    """The position of a pose [4, 4]; a position [3] as it is."""
    if np.shape(value) != (4, 4):
        return value
    pose = _tensor(value, name)
    check_rigid(pose, name)
    return pose[:3, 3]
