"""Keeps the simulator's truth out of what tested rows see and say."""

from collections.abc import Mapping
from typing import Any

from spatia_env.errors import ActionError

TRUTH_WORDS = ("truth", "segment", "dynamic", "ground_truth", "gt", "object_table", "simulator")
"""No key of what a tested row returns may have one of these in its name."""


def truth_keys(value: Any, prefix: str = "") -> list[str]:
    """Names of all keys in nested mappings and sequences that suggest ground truth."""
    found = []
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{prefix}{key}"
            parts = str(key).lower().replace("-", "_")
            if any(word in parts.split("_") if len(word) < 4 else word in parts for word in TRUTH_WORDS):
                found.append(name)
            found += truth_keys(inner, f"{name}.")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            found += truth_keys(inner, f"{prefix}{index}.")
    return found


def check_no_truth(observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Raise `ActionError` if a tested row was handed, or hands out, the simulator's truth."""
    # `debug.dynamic` is the world's own estimate of what moves, not the simulator's.
    found = [name for name in truth_keys(observation) + truth_keys(info) if name != "debug.dynamic"]
    if found:
        raise ActionError(f"bench: ground truth reaches the tested row through {', '.join(found)}.")
