"""`EditActions`: edits of the world as part of an action, for agents that change what they see.

The thing is chosen by a click on the last frame; `env.unwrapped.world.edit` has the other ways, boxes and masks.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from spatia_env.checks import as_real_array, check_keys
from spatia_env.errors import ActionError, EditError, WorldFullError
from spatia_env.memory.cloud import PointCloud
from spatia_env.memory.history import EditRecord
from spatia_env.world.world import World

EDITS = ("none", "remove", "move", "recolor", "freeze", "undo", "redo", "insert")
"""What `edit["kind"]` counts from 0; only ever appended to."""
MAX_SHIFT = 1.0
"""Metres that a thing moves along an axis at `shift` = 1."""


class EditActions(gym.Wrapper, RecordConstructorArgs):
    """Adds `edit` to the actions of `Spatia-v0` or `SpatiaPath-v0`; the edit is made before the step.

    | key of `edit` | type | meaning |
    |---|---|---|
    | `kind` | Discrete | which of `EDITS`; the last, insert, only where there are `items` |
    | `pixel` | Box(0, 1, (2,)) | where in the last frame: share of its width and height |
    | `shift` | Box(-1, 1, (3,)) | for "move": metres along the world's axes, times `max_shift` |
    | `turn` | Box(-1, 1, (1,)) | for "move" and "insert": half turns about the vertical |
    | `rgb` | Box(0, 255, (3,), uint8) | for "recolor" |
    | `item` | Discrete | for "insert": which of `items`; put with its base on the surface under the pixel |

    What it did is in `info["edit"]`, and at the head of `info["events"]`. An edit that meets nothing, that would
    overfill the map, or that has nothing to undo changes nothing; `info["edit"]` then has `error`, and the step
    is made. An action that is not of the space raises, and the world stays as it was.

    Args:
        env: An environment over `SpatiaEnv` that takes a Dict of actions.
        items: Things to insert, by name: clouds, as `world.edit.extract` or `PointCloud.of_mesh` give.
        max_shift: Metres.
        max_radius: Metres around the pixel's point beyond which nothing is taken for the same thing.
    """

    def __init__(
        self,
        env: gym.Env,
        items: Mapping[str, PointCloud] | None = None,
        max_shift: float = MAX_SHIFT,
        max_radius: float = 1.5,
    ) -> None:
        RecordConstructorArgs.__init__(self, items=items, max_shift=max_shift, max_radius=max_radius)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.action_space, spaces.Dict) or not hasattr(env.unwrapped, "snapshot"):
            raise ActionError("EditActions: needs the actions of Spatia-v0 or SpatiaPath-v0; wrap it first.")
        self.items = dict(items or {})
        self.limits = float(max_shift), float(max_radius)
        self.kinds = EDITS if self.items else EDITS[:-1]
        parts: dict[str, spaces.Space] = {
            "kind": spaces.Discrete(len(self.kinds)),
            "pixel": spaces.Box(0, 1, (2,), np.float32),
            "shift": spaces.Box(-1, 1, (3,), np.float32),
            "turn": spaces.Box(-1, 1, (1,), np.float32),
            "rgb": spaces.Box(0, 255, (3,), np.uint8),
        }
        if self.items:
            parts["item"] = spaces.Discrete(len(self.items))
        self.edit_space = spaces.Dict(parts)
        self.action_space = spaces.Dict({**env.action_space.spaces, "edit": self.edit_space})

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Make the edit, then the step.

        Raises:
            ActionError: `edit` is missing or not of its space; or as the step itself.
        """
        if not isinstance(action, Mapping) or "edit" not in action:
            raise ActionError("EditActions: the action lacks 'edit'; see EditActions.edit_space.")
        wish = self._checked(action["edit"])
        base: Any = self.env.unwrapped
        before = base.snapshot()
        try:
            done = self._edit(base.world, wish)
            rest = {key: value for key, value in action.items() if key != "edit"}
            observation, reward, terminated, truncated, info = self.env.step(rest)
        except BaseException:
            base.restore(before)
            raise
        rows = base.world.state.ledger[len(before.ledger) :]
        new = [dataclasses.asdict(row) for row in rows if row.kind == "edit"]
        info["edit"], info["events"] = done, new + info.get("events", [])
        return observation, reward, terminated, truncated, info

    def _edit(self, world: World, wish: dict[str, Any]) -> dict[str, Any]:
        kind = self.kinds[wish["kind"]]
        if kind == "none":
            return {}
        try:
            return self._record(world, kind, wish).as_dict()
        except (EditError, WorldFullError) as error:
            return {"kind": kind, "error": str(error)}

    def _record(self, world: World, kind: str, wish: dict[str, Any]) -> EditRecord:
        edit = world.edit
        if kind in ("undo", "redo"):
            return getattr(edit, kind)()
        height, width = world.state.size
        # The last column and row of pixels belong to shares up to 1.
        pixel = np.minimum(wish["pixel"] * (width, height), np.nextafter((width, height), 0)).tolist()
        if kind == "insert":
            return self._insert(world, (pixel[0], pixel[1]), wish)
        region = edit.click((pixel[0], pixel[1]), max_radius=self.limits[1])
        if kind == "recolor":
            return edit.recolor(region, wish["rgb"])
        if kind == "move":
            position = edit.extract(region).position.astype(np.float64)
            matrix = _about_vertical(wish["turn"], (position.min(0) + position.max(0)) / 2)
            matrix[:3, 3] += wish["shift"] * self.limits[0]
            return edit.move(region, matrix)
        return getattr(edit, kind)(region)

    def _insert(self, world: World, pixel: tuple[float, float], wish: dict[str, Any]) -> EditRecord:
        state = world.state
        u, v = pixel
        ray = torch.tensor([(u - state.K[0, 2]) / state.K[0, 0], (v - state.K[1, 2]) / state.K[1, 1], 1.0])
        hit = world.query.raycast(direction=state.c2w[:3, :3] @ ray)
        if hit is None:
            raise EditError(f"insert: the map has nothing under the pixel ({u:.1f}, {v:.1f}).")
        matrix = _about_vertical(wish["turn"], np.zeros(3))
        matrix[:3, 3] = hit.position
        return world.edit.insert(list(self.items.values())[wish["item"]].centred(), matrix)

    def _checked(self, wish: Any) -> dict[str, Any]:
        """The edit in plain types, each within its space."""
        if not isinstance(wish, Mapping):
            raise ActionError(f"action['edit']: expected a dict, got {type(wish).__name__}.")
        check_keys(wish, required=tuple(self.edit_space.spaces), what="action['edit']")
        found: dict[str, Any] = {}
        for name, space in self.edit_space.spaces.items():
            values = as_real_array(wish[name], f"action['edit'][{name!r}]", ActionError)
            if values.shape != space.shape or not np.isfinite(values).all():
                raise ActionError(
                    f"action['edit'][{name!r}]: expected finite numbers {list(space.shape or ())}."
                )
            low, high = (
                (0, int(space.n) - 1) if isinstance(space, spaces.Discrete) else (space.low, space.high)  # type: ignore[attr-defined]
            )
            whole = isinstance(space, spaces.Discrete) or name == "rgb"
            if (values < low).any() or (values > high).any() or (whole and (values % 1).any()):
                raise ActionError(f"action['edit'][{name!r}]: {values.tolist()} is not within {space}.")
            found[name] = int(values) if isinstance(space, spaces.Discrete) else values
        return found


def _about_vertical(turn: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """A turn by `turn` half turns about the vertical through `pivot` [3], as [4, 4]."""
    angle = float(turn.item()) * np.pi
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = pivot - matrix[:3, :3] @ pivot
    return matrix
