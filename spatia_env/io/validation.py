"""Small checks that the rest of the door shares, and the wording of their complaints."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from spatia_env.errors import ActionError


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
