"""Argument validation: dictionaries' keys, numbers and arrays, with errors that name the likeliest mistake."""

import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from spatia_env.errors import ActionError, PoseError, PromptError

MAX_EVENT_LENGTH = 256
MAX_PROMPT_LENGTH = 2000
_JOINERS = "\u200c\u200d"  # invisible, but Persian, Indic scripts and emoji are written with them


def near_miss(given: Any, known: Iterable[str]) -> str:
    """End of a message about an unknown name: "; did you mean 'scene'? There are: ..."."""
    known = tuple(known)
    close = get_close_matches(str(given), known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    return f"{guess} There are: {', '.join(known)}."


def check_keys(
    given: Mapping[Any, Any], required: tuple[str, ...], what: str, optional: tuple[str, ...] = ()
) -> None:
    """Raise `ActionError` for missing or unknown keys, naming the likeliest spelling."""
    known = (*required, *optional)
    for key in given:
        if key not in known:
            raise ActionError(f"{what}: unknown key {key!r}{near_miss(key, known)}")
    for key in required:
        if key not in given:
            raise ActionError(f"{what}: the key {key!r} is missing; it takes {', '.join(known)}.")


def as_real_array(value: Any, name: str, error: type[Exception]) -> np.ndarray:
    """A fresh float64 copy of an array of real numbers; booleans, text, objects and complex raise `error`."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as cause:  # ragged lists; tensors that numpy cannot see
        raise error(f"{name}: cannot be read as an array of numbers ({cause}).") from cause
    if array.dtype.kind not in "fiu":
        raise error(f"{name}: expected real numbers, got {_describe(value, array)}.")
    return array.astype(np.float64)


def as_finite_array(
    value: Any, name: str, shape: tuple[int, ...], error: type[Exception], limit: float = 1e6
) -> np.ndarray:
    """Numbers of this shape as float64, finite and within +-`limit`, from an array, nested lists or a tensor.

    Raises:
        error: If they are not.
    """
    if hasattr(value, "detach"):  # a tensor, perhaps one that needs gradients or lies on a GPU
        value = value.detach().cpu().numpy()
    array = as_real_array(value, name, error)
    if array.shape != shape or not np.isfinite(array).all() or (np.abs(array) > limit).any():
        raise error(f"{name}: expected finite numbers {list(shape)}, got {array.tolist()!r:.80}.")
    return array


def as_real_number(value: Any, name: str, error: type[Exception]) -> float:
    """One finite real number as float; anything else raises `error`."""
    array = as_real_array(value, name, error)
    if array.shape != () or not np.isfinite(array):
        raise error(f"{name}={value!r:.60}: expected one finite number.")
    return float(array)


def _describe(value: Any, array: np.ndarray) -> str:
    if value is None or isinstance(value, str | bytes | dict):
        return "None" if value is None else type(value).__name__
    return f"{type(value).__name__} of {array.dtype}"


def normalise_text(text: Any, what: str = "event", max_length: int = MAX_EVENT_LENGTH) -> str:
    """Text in NFC form without blanks around it; blank text becomes "".

    Args:
        text: What the user typed.
        what: What to call it in an error ("event", "prompt").
        max_length: Longest accepted length, characters after normalisation.

    Returns:
        A plain `str` of printable characters.

    Raises:
        PromptError: If it is not a `str`, is too long, or has control, bidirectional or other characters that
            do not print.
    """
    if not isinstance(text, str):
        raise PromptError(f"{what}: expected text (str), got {type(text).__name__}; use '' for none.")
    if len(text) > 4 * max_length:  # before any work on it: NFC shortens a text by less than that
        raise PromptError(f"{what}: {len(text)} characters; shorten it to {max_length}.")
    for position, character in enumerate(text):
        if not is_printable(character):
            name = unicodedata.name(character, "control or unassigned character")
            raise PromptError(
                f"{what}: U+{ord(character):04X} ({name}) at position {position} does not print; remove it."
            )
    blanks_as_space = "".join(" " if character.isspace() else character for character in text)
    text = unicodedata.normalize("NFC", blanks_as_space).strip()
    if len(text) > max_length:
        raise PromptError(f"{what}: {len(text)} characters; shorten it to {max_length}.")
    return text


def is_printable(character: str) -> bool:
    """Whether an event may hold this character: it prints, is a blank, or joins letters of a script."""
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def as_pose(value: Any, name: str = "pose") -> np.ndarray:
    """A fresh float64 copy [4, 4] of a camera-to-world matrix.

    Args:
        value: Anything numpy reads as a real 4x4 matrix.
        name: What to call it in an error.

    Raises:
        PoseError: If it is not numeric, finite, rigid and right-handed.
    """
    from spatia_env.geometry import (
        rigid_problem,  # it loads torch, which the command line's help does without
    )

    pose = as_real_array(value, name, PoseError)
    if pose.shape != (4, 4):
        raise PoseError(f"{name}: expected a 4x4 camera-to-world matrix, got shape {list(pose.shape)}.")
    problem = rigid_problem(pose)
    if problem:
        raise PoseError(f"{name}: {problem}.")
    return pose
