"""From what an agent sends to what the camera does: checking and decoding of actions, moves and presets.

It turns an action into a twist or a path, and an event text. The arrays it returns are the caller's own: later
changes to the action do not reach the environment.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import Tensor

from spatia_env.errors import ActionError, PoseError, PromptError
from spatia_env.events.vocabulary import EVENT_VOCABULARY
from spatia_env.geometry import orthonormalise, path_from_twist, rigid_problem, se3_exp
from spatia_env.io.validation import (
    MAX_EVENT_LENGTH,
    as_real_array,
    check_keys,
    is_printable,
    near_miss,
    normalise_text,
)

MAX_REACH = 50.0
"""Metres that a path may lead from the last pose within one clip."""

_ASCII = "".join(map(chr, range(0x20, 0x7F)))
_CODEPOINTS = 0x110000


class _Characters(AbstractSet[str]):
    """Every printable character, without storing 150,000 of them."""

    def __contains__(self, character: object) -> bool:
        return isinstance(character, str) and len(character) == 1 and is_printable(character)

    def __iter__(self) -> Iterator[str]:
        return filter(is_printable, map(chr, range(_CODEPOINTS)))

    def __len__(self) -> int:
        return _CODEPOINTS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Characters)

    def __hash__(self) -> int:
        return hash(_Characters)


class _Codepoints(Sequence[str]):
    """Index to character: the code point itself."""

    def __getitem__(self, index: Any) -> Any:
        return chr(index)

    def __len__(self) -> int:
        return _CODEPOINTS


class EventText(spaces.Text):
    """Free text for what happens next: up to 256 printable characters of any script, "" for nothing.

    `sample()` draws from `vocabulary`: nothing half of the time, else one of its phrases. Flattened, a text
    is its code points, padded with 0x110000. Gymnasium's `Text` lists its characters; here they are too many
    to list, so `characters` (which other tools store) names only the ASCII ones.

    Args:
        max_length: Longest accepted length, characters after NFC normalisation.
        vocabulary: Phrases to sample; the first is "".
        seed: Seed of the sampler.
    """

    def __init__(
        self,
        max_length: int = MAX_EVENT_LENGTH,
        vocabulary: Iterable[str] = EVENT_VOCABULARY,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(max_length, min_length=0, charset=_ASCII, seed=seed)
        self.vocabulary = tuple(normalise_text(phrase, "vocabulary", max_length) for phrase in vocabulary)
        if not self.vocabulary or self.vocabulary[0] != "":
            raise ValueError("EventText: the vocabulary begins with '' (no event).")

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a phrase of the vocabulary.

        Args:
            mask: int8 [len(vocabulary)]: 1 for each phrase that may be drawn, all equally likely.
            probability: float64 [len(vocabulary)] that sums to 1, in place of a mask.

        Raises:
            ValueError: If both are given, or one has the wrong length or sum.
        """
        weights = self._weights(mask, probability)
        return self.vocabulary[int(self.np_random.choice(len(self.vocabulary), p=weights))]

    def _weights(self, mask: Any, probability: Any) -> np.ndarray:
        count = len(self.vocabulary)
        if mask is not None and probability is not None:
            raise ValueError("EventText.sample: give `mask` or `probability`, not both.")
        if mask is None and probability is None:
            if count == 1:
                return np.ones(1)
            return np.array([0.5] + [0.5 / (count - 1)] * (count - 1))
        given = np.asarray(mask if mask is not None else probability, dtype=np.float64)
        if given.shape != (count,) or (given < 0).any() or given.sum() <= 0:
            raise ValueError(f"EventText.sample: expected {count} non-negative weights, one a phrase.")
        if probability is not None and not np.isclose(given.sum(), 1):
            raise ValueError(f"EventText.sample: `probability` sums to {given.sum():.4g}, not to 1.")
        return given / given.sum()

    def contains(self, x: Any) -> bool:
        """Whether `x` is text that the environment accepts as an event."""
        try:
            normalise_text(x, max_length=self.max_length)
        except PromptError:
            return False
        return True

    @property
    def character_set(self) -> Any:
        """Every printable character, as a set that is not stored."""
        return _Characters()

    @property
    def character_list(self) -> Any:
        """Characters by index, which is their code point."""
        return _Codepoints()

    def character_index(self, char: str) -> np.int32:
        """The code point of a character."""
        return np.int32(ord(char))

    def __repr__(self) -> str:
        return f"EventText({self.max_length}, {len(self.vocabulary)} phrases)"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, EventText)
            and self.max_length == other.max_length
            and self.vocabulary == other.vocabulary
        )


class PathBox(spaces.Box):
    """Camera paths [*batch, T, 4, 4] float32: `c2w` of each new frame relative to the last pose.

    Bounds are finite (entries of rotations in [-1, 1], centres within `reach` metres along each axis).
    `contains` also asks for rigid, right-handed transforms; `sample()` draws smooth ones: a motion within
    `max_translation` and `max_rotation` that begins and ends at rest.

    Args:
        num_frames: T, frames per clip.
        max_translation: Metres of a sampled path along each axis.
        max_rotation: Degrees of a sampled path about each axis.
        reach: Bound on the camera's centre, metres.
        batch: Leading axes; () for one environment.
        seed: Seed of the sampler.
    """

    def __init__(
        self,
        num_frames: int,
        max_translation: float = 0.5,
        max_rotation: float = 30.0,
        reach: float = MAX_REACH,
        batch: tuple[int, ...] = (),
        seed: int | np.random.Generator | None = None,
    ) -> None:
        bound = np.ones((*batch, num_frames, 4, 4), dtype=np.float32)
        bound[..., :3, 3] = reach
        super().__init__(-bound, bound, dtype=np.float32, seed=seed)
        self.num_frames = num_frames
        self.max_translation = max_translation
        self.max_rotation = max_rotation
        self.reach = reach
        self.batch = tuple(batch)

    def sample(self, mask: None = None, probability: None = None) -> np.ndarray:
        """Draw a smooth rigid path, float32 [*batch, T, 4, 4].

        Raises:
            ValueError: If a mask or a probability is given: a continuous space takes none.
        """
        if mask is not None or probability is not None:
            raise ValueError("PathBox.sample: takes neither mask nor probability.")
        limits = np.array([self.max_translation] * 3 + [np.radians(self.max_rotation)] * 3)
        twist = self.np_random.uniform(-limits, limits, size=(*self.batch, 6))
        fractions = np.arange(1, self.num_frames + 1) / self.num_frames
        ease = fractions**2 * (3 - 2 * fractions)
        return se3_exp(ease[:, None] * twist[..., None, :]).astype(np.float32)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a float32 array of finite rigid transforms within the bounds."""
        if not isinstance(x, np.ndarray):
            return False
        # A rotation may exceed 1 by a rounding error of float32, which `rigid_problem` allows for.
        return (
            x.shape == self.shape
            and np.can_cast(x.dtype, self.dtype)
            and rigid_problem(x) == ""
            and bool((np.abs(x[..., :3, 3]) <= self.reach).all())
        )

    def __repr__(self) -> str:
        return f"PathBox({self.num_frames}{f', batch={self.batch}' if self.batch else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathBox) and self._key() == other._key()

    def _key(self) -> tuple[Any, ...]:
        return (self.num_frames, self.max_translation, self.max_rotation, self.reach, self.batch)


@batch_space.register(PathBox)
def _batch_path(space: PathBox, n: int = 1) -> PathBox:
    # Gymnasium would make a plain Box, whose samples are not rigid.
    return PathBox(
        space.num_frames,
        space.max_translation,
        space.max_rotation,
        space.reach,
        batch=(n, *space.batch),
        seed=deepcopy(space.np_random),
    )


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
    try:
        array = np.asarray(action)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors that numpy cannot see
        array = np.empty(0)
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
