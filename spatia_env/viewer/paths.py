"""Camera paths from buttons, presets, numbers and views.

A path is a list of clips [T, 4, 4] of `c2w`, each relative to the pose before it, as `SpatiaPath-v0` takes them.
"""

import math

import numpy as np
import torch
from torch import Tensor

from spatia_env.actions import MAX_ROTATION, MAX_TRANSLATION, MOVES, PRESETS, preset
from spatia_env.errors import ActionError
from spatia_env.geometry import interpolate_path, invert_se3, path_from_twist, pose_error

MAX_CLIPS = 16
"""Clips of one request."""
METRES_RANGE, DEGREES_RANGE = 2.0, 180.0
"""What a row of numbers may ask for in one clip."""

Path = list[np.ndarray]

STAND = "stand still"
NAMES: tuple[str, ...] = (STAND, *(name for name, _ in MOVES[1:]), *PRESETS)
"""Paths that have a name: standing still, the moves of one clip, and the presets of several."""


def from_twists(twists: np.ndarray, num_frames: int) -> Path:
    """Clips of twists [n, 6]: metres right, down, forward, then radians pitch, yaw, roll, for each clip."""
    start = torch.eye(4)
    moves = torch.from_numpy(np.atleast_2d(twists)).float()
    return [path_from_twist(start, twist, num_frames).numpy() for twist in moves]


def from_name(name: str, num_frames: int, distance: float = 1.0) -> Path:
    """The clips of a path of `NAMES`; a move is as large as an action may be, a preset as `distance` says.

    Raises:
        ActionError: If there is no such path, or its distance is not one of `actions.preset`.
    """
    moves = dict(MOVES[1:]) | {STAND: MOVES[0][1]}
    if name not in (*moves, *PRESETS):
        raise ActionError(f"path {name!r:.40}: use one of {', '.join(NAMES)}.")
    cameras = preset(name, distance) if name in PRESETS else np.array([moves[name]])
    _check_count(len(cameras))
    limits = np.array([MAX_TRANSLATION] * 3 + [math.radians(MAX_ROTATION)] * 3)
    return from_twists(cameras.astype(np.float64) * limits, num_frames)


def from_text(text: str, num_frames: int) -> Path:
    """The clips of rows of six numbers, separated by `;` or line breaks.

    A row is metres right, down, forward and degrees pitch, yaw, roll; numbers that are left out are 0.

    Raises:
        ActionError: If a row is none, or asks for too much.
    """
    rows = [row.replace(",", " ").split() for row in text.replace(";", "\n").splitlines() if row.strip()]
    if not rows:
        raise ActionError("path: write six numbers a clip, such as `0 0 0.5 0 15 0`; rows end with `;`.")
    _check_count(len(rows))
    twists = np.zeros((len(rows), 6))
    for index, row in enumerate(rows):
        if len(row) > 6:
            raise ActionError(f"path, row {index + 1}: {len(row)} numbers; there are six to a clip.")
        for column, word in enumerate(row):
            twists[index, column] = _number(word, index, DEGREES_RANGE if column > 2 else METRES_RANGE)
    twists[:, 3:] = np.radians(twists[:, 3:])
    return from_twists(twists, num_frames)


def to_view(start_c2w: Tensor, end_c2w: Tensor, num_frames: int) -> Path:
    """The clips that lead from one pose [4, 4] to another, each within the limits of an action.

    Raises:
        ActionError: If that takes more than `MAX_CLIPS`.
    """
    metres, degrees = (float(value) for value in pose_error(start_c2w, end_c2w))
    count = max(1, math.ceil(metres / MAX_TRANSLATION - 0.02), math.ceil(degrees / MAX_ROTATION - 0.02))
    if count > MAX_CLIPS:
        raise ActionError(
            f"that view is {metres:.1f} m and {degrees:.0f} degrees away, {count} clips; "
            f"at most {MAX_CLIPS} are walked at once."
        )
    start = start_c2w.double()
    absolute = torch.cat([start[None], interpolate_path(start, end_c2w.double(), count * num_frames)])
    befores = absolute[:-1:num_frames]
    return [
        (invert_se3(before) @ absolute[1 + i * num_frames : 1 + (i + 1) * num_frames]).float().numpy()
        for i, before in enumerate(befores)
    ]


def _check_count(count: int) -> None:
    if count > MAX_CLIPS:
        raise ActionError(f"path: {count} clips; at most {MAX_CLIPS} are walked at once.")


def _number(word: str, row: int, limit: float) -> float:
    try:
        value = float(word)
    except ValueError as cause:
        raise ActionError(f"path, row {row + 1}: {word!r:.20} is not a number.") from cause
    if not abs(value) <= limit:  # also true of NaN
        raise ActionError(f"path, row {row + 1}: {word:.20} is beyond {limit:g}.")
    return value
