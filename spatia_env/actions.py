"""From what an agent sends to what the camera does: checking and decoding of actions, moves and presets.

It turns an action into a twist or a path, and an event text. The arrays it returns are the caller's own: later
changes to the action do not reach the environment.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spatia_env.checks import as_real_array, check_keys, near_miss
from spatia_env.errors import ActionError, PoseError
from spatia_env.events.vocabulary import EVENT_VOCABULARY
from spatia_env.geometry import orthonormalise, path_from_twist
from spatia_env.poses import rigid_problem
from spatia_env.spaces import MAX_EVENT_LENGTH, MAX_REACH, normalise_text

MAX_TRANSLATION = 0.5
"""Metres per clip along an axis at `camera` = 1."""
MAX_ROTATION = 30.0
"""Degrees per clip about an axis at `camera` = 1."""
CAMERA_TOLERANCE = 1e-6
"""How far |camera| may exceed 1 (rounding of float32), before it is an error."""

ActionKind = Literal["camera", "path"]

MOVES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("none", (0, 0, 0, 0, 0, 0)),
    ("forward", (0, 0, 1, 0, 0, 0)),
    ("back", (0, 0, -1, 0, 0, 0)),
    ("left", (-1, 0, 0, 0, 0, 0)),
    ("right", (1, 0, 0, 0, 0, 0)),
    ("up", (0, -1, 0, 0, 0, 0)),
    ("down", (0, 1, 0, 0, 0, 0)),
    ("turn left", (0, 0, 0, 0, -1, 0)),
    ("turn right", (0, 0, 0, 0, 1, 0)),
    ("look up", (0, 0, 0, 0.5, 0, 0)),
    ("look down", (0, 0, 0, -0.5, 0, 0)),
)
"""Names and `camera` values of the discrete moves; only ever appended to, as policies count on the order."""

EVENTS = EVENT_VOCABULARY
"""Texts of the discrete events; index 0 is none. Only ever appended to."""


def decode_action(
    action: Any,
    kind: ActionKind = "camera",
    num_frames: int | None = None,
    max_translation: float = MAX_TRANSLATION,
    max_rotation: float = MAX_ROTATION,
) -> tuple[np.ndarray, str]:
    """Check an action and give it units.

    Args:
        action: `{"camera": [6], "event": str}`, or `{"path": [T, 4, 4], "event": str}` when `kind` is "path".
        kind: Which of the two the environment takes.
        num_frames: T; required for paths.
        max_translation: Metres per clip at `camera` = 1.
        max_rotation: Degrees per clip at `camera` = 1.

    Returns:
        Twist [6] float64 in metres and radians (right, down, forward, then the rotation vector about these
        axes), or path [T, 4, 4] float64 of `c2w` relative to the last pose; and the event, "" for none.

    Raises:
        ActionError: Not a mapping, missing or unknown keys, a wrong shape, type or range.
        PoseError: A path that is not finite and rigid, or leads too far.
        PromptError: An event that is not text, is too long, or does not print.
    """
    if not isinstance(action, Mapping):
        example = "{'camera': np.zeros(6), 'event': ''}" if kind == "camera" else "{'path': ..., 'event': ''}"
        raise ActionError(f"action: expected a dict such as {example}, got {type(action).__name__}.")
    check_keys(action, required=(kind, "event"), what="action")
    event = normalise_text(action["event"], "event", MAX_EVENT_LENGTH)
    if kind == "camera":
        return decode_camera(action["camera"], max_translation, max_rotation), event
    return decode_path(action["path"], num_frames), event


def decode_motion(
    action: Any, kind: ActionKind, c2w: Tensor, num_frames: int, max_translation: float, max_rotation: float
) -> tuple[Tensor, str]:
    """World poses c2w [T, 4, 4] that an action asks for from pose `c2w` [4, 4], and its event text.

    Other arguments, and what is raised, as in `decode_action`.
    """
    motion, event = decode_action(action, kind, num_frames, max_translation, max_rotation)
    if kind == "camera":
        return path_from_twist(c2w, torch.from_numpy(motion), num_frames), event
    return orthonormalise(c2w.double() @ torch.from_numpy(motion)).float(), event


def decode_camera(
    camera: Any, max_translation: float = MAX_TRANSLATION, max_rotation: float = MAX_ROTATION
) -> np.ndarray:
    """Twist [6] float64 in metres and radians of a `camera` action [6] in [-1, 1].

    Raises:
        ActionError: If it is not six finite real numbers in [-1, 1].
    """
    values = as_real_array(camera, "action['camera']", ActionError)
    if values.shape != (6,):
        raise ActionError(
            f"action['camera']: expected shape [6] (right, down, forward, pitch, yaw, roll), "
            f"got {list(values.shape)}."
        )
    if not np.isfinite(values).all():
        raise ActionError("action['camera']: has NaN or infinite entries.")
    worst = int(np.abs(values).argmax())
    if abs(values[worst]) > 1 + CAMERA_TOLERANCE:
        raise ActionError(
            f"action['camera'][{worst}] is {values[worst]:.6g}; the range is -1 to 1, where 1 means "
            f"{max_translation:g} m or {max_rotation:g} degrees per clip. Split a longer move over steps."
        )
    scale = np.array([max_translation] * 3 + [np.radians(max_rotation)] * 3)
    return np.clip(values, -1, 1) * scale


def decode_path(path: Any, num_frames: int | None) -> np.ndarray:
    """A copy [T, 4, 4] float64 of a path of `c2w` relative to the last pose.

    Raises:
        ActionError: If it is not real numbers of shape [T, 4, 4].
        PoseError: If a pose is not finite, rigid and right-handed, or lies beyond 50 m; the frame is named.
    """
    poses = as_real_array(path, "action['path']", ActionError)
    frames = "T" if num_frames is None else num_frames
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or (num_frames is not None and len(poses) != num_frames):
        raise ActionError(f"action['path']: expected shape [{frames}, 4, 4], got {list(poses.shape)}.")
    for index, pose in enumerate(poses):
        problem = rigid_problem(pose)
        if problem:
            raise PoseError(f"action['path'][{index}]: {problem}.")
        if np.abs(pose[:3, 3]).max() > MAX_REACH:
            raise PoseError(
                f"action['path'][{index}]: leads {np.abs(pose[:3, 3]).max():.4g} m away in one clip; "
                f"the limit is {MAX_REACH:g} m. Poses are metres, relative to the last pose."
            )
    return poses


def decode_discrete(action: Any, num_events: int = len(EVENTS)) -> tuple[np.ndarray, str]:
    """`camera` [6] float32 in [-1, 1] and event text of a pair (move, event).

    Raises:
        ActionError: If it is not two integers within the lists.
    """
    array = np.asarray(action) if not isinstance(action, str | bytes | Mapping) else np.empty(0, dtype=object)
    if array.shape != (2,) or array.dtype.kind not in "iu":
        raise ActionError(f"action: expected two integers [move, event], got {action!r:.80}.")
    move, event = (int(value) for value in array)
    if not 0 <= move < len(MOVES):
        raise ActionError(f"action[0]: move {move} does not exist; there are 0 to {len(MOVES) - 1}.")
    if not 0 <= event < num_events:
        raise ActionError(f"action[1]: event {event} does not exist; there are 0 to {num_events - 1}.")
    return np.array(MOVES[move][1], dtype=np.float32), EVENTS[event]


# A preset is a chain of motions: metres for a `distance` of 1, and degrees. Each is one constant twist, so it
# may be cut into clips of equal twists without a change to the path.
_PRESETS: dict[str, tuple[tuple[float, ...], ...]] = {
    "fixed": ((0, 0, 0, 0, 0, 0),),
    # The eight of WorldScore (arXiv 2504.00983), in its units for distance=1: their end poses are the same,
    # and orbits are true arcs about the point 1 ahead, where WorldScore interpolates.
    "push_in": ((0, 0, 1, 0, 0, 0),),
    "pull_out": ((0, 0, -1, 0, 0, 0),),
    "move_left": ((-0.5, 0, 0, 0, 0, 0),),
    "move_right": ((0.5, 0, 0, 0, 0, 0),),
    "pan_left": ((0, 0, 0, 0, -30, 0),),
    "pan_right": ((0, 0, 0, 0, 30, 0),),
    "orbit_left": ((-np.pi / 6, 0, 0, 0, 30, 0),),
    "orbit_right": ((np.pi / 6, 0, 0, 0, -30, 0),),
    # Ours.
    "tilt_up": ((0, 0, 0, 20, 0, 0),),
    "tilt_down": ((0, 0, 0, -20, 0, 0),),
    "rise": ((0, -0.5, 0, 0, 0, 0),),
    "sink": ((0, 0.5, 0, 0, 0, 0),),
    "panorama_left": ((0, 0, 0, 0, -360, 0),),
    "panorama_right": ((0, 0, 0, 0, 360, 0),),
    "look_around": ((0, 0, 0, 0, -30, 0), (0, 0, 0, 0, 60, 0), (0, 0, 0, 0, -30, 0)),
    "there_and_back": ((0, 0, 1, 0, 0, 0), (0, 0, -1, 0, 0, 0)),
    "side_to_side": ((-0.5, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0), (-0.5, 0, 0, 0, 0, 0)),
}

PRESETS = MappingProxyType(_PRESETS)
"""Named paths: chains of (metres right, down, forward; degrees pitch, yaw, roll) for a distance of 1."""

WORLDSCORE_PRESETS = (
    "push_in",
    "pull_out",
    "move_left",
    "move_right",
    "pan_left",
    "pan_right",
    "orbit_left",
    "orbit_right",
)


def preset(
    name: str,
    distance: float = 1.0,
    max_translation: float = MAX_TRANSLATION,
    max_rotation: float = MAX_ROTATION,
) -> np.ndarray:
    """The `camera` actions [clips, 6] float32 that follow a named path.

    Each motion of the preset is cut into the fewest equal clips that the limits allow.

    Args:
        name: One of `PRESETS`, such as "orbit_left".
        distance: Factor on the preset's metres: the distance to the thing orbited or approached.
        max_translation: Metres per clip at `camera` = 1.
        max_rotation: Degrees per clip at `camera` = 1.

    Raises:
        ActionError: If there is no such preset, or the distance is not a positive number.
    """
    if name not in PRESETS:
        raise ActionError(f"preset: unknown name {name!r}{near_miss(name, tuple(PRESETS))}")
    if not (np.isfinite(distance) and distance > 0):
        raise ActionError(f"preset: distance is {distance!r}; give a positive number of metres.")
    clips: list[np.ndarray] = []
    for motion in PRESETS[name]:
        metres, degrees = np.array(motion[:3]) * distance, np.array(motion[3:])
        camera = np.concatenate([metres / max_translation, degrees / max_rotation])
        count = max(1, int(np.ceil(np.abs(camera).max() - CAMERA_TOLERANCE)))
        clips += [camera / count] * count
    return np.clip(np.stack(clips), -1, 1).astype(np.float32)
