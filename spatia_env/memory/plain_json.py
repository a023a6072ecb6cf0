"""JSON in one spelling, and read as if a stranger had written it."""

import json
import math
from collections.abc import Mapping
from typing import Any

from spatia_env.errors import WorldFormatError

FORMAT = "spatia-world"


def to_json(manifest: dict[str, Any]) -> bytes:
    """The one spelling of a manifest: sorted keys, no spaces, finite numbers."""
    try:
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
        same = json.loads(text) == manifest
    except (TypeError, ValueError, RecursionError) as cause:
        raise WorldFormatError(f"meta and settings must be plain JSON data ({cause}).") from cause
    if not same:
        raise WorldFormatError("meta and settings must be plain JSON data: text keys, lists, no tuples.")
    return text.encode()


def from_json(data: bytes) -> dict[str, Any]:
    """Parse a manifest; keys that occur twice, NaN and absurd depth are refused.

    Raises:
        WorldFormatError: If it is not a JSON object of this format.
    """
    try:
        manifest = json.loads(
            data, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as cause:
        raise WorldFormatError(f"the world's manifest is not readable ({cause}).") from cause
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise WorldFormatError("the world's manifest is not one of this format.")
    return manifest


def typed(container: Any, key: Any, kind: type) -> Any:
    """`container[key]`, which must be there and of this type."""
    present = isinstance(container, Mapping) if isinstance(key, str) else isinstance(container, list)
    if not present or (key not in container if isinstance(key, str) else key >= len(container)):
        raise WorldFormatError(f"the world's manifest lacks {key!r}.")
    value = container[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WorldFormatError(f"the world's manifest has {type(value).__name__} in {key!r}.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WorldFormatError("the world's manifest has a key twice.")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def _no_constant(text: str) -> float:
    raise WorldFormatError(f"the world's manifest holds {text}.")
