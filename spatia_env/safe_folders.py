"""Model folders that others made: configuration is read as data, and a request for code is refused."""

import json
from pathlib import Path
from typing import Any

from spatia_env.errors import CheckpointError

FOREIGN_CODE = ("auto_map", "custom_pipeline", "custom_pipelines", "trust_remote_code")
MAX_JSON_BYTES = 64 * 2**20


def refuse_code(folder: Path) -> None:
    """Raise `CheckpointError` if a folder holds Python files or a configuration that asks for some."""
    code = next(folder.rglob("*.py"), None)
    if code is not None:
        raise CheckpointError(f"{code}: code is never loaded from a model folder; remove the file.")
    for path in folder.rglob("*.json"):
        if path.name == "tokenizer.json" or path.name.endswith(".index.json"):
            continue  # large, and read by parsers that know no code
        found = sorted(_keys(read_json(path)) & set(FOREIGN_CODE))
        if found:
            raise CheckpointError(f"{path}: has {found[0]!r}, which asks for code from elsewhere; remove it.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of reasonable size.

    Raises:
        CheckpointError: If it cannot be read, is too large, or is not an object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path}: is larger than {MAX_JSON_BYTES >> 20} MB; this is no configuration."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause.strerror}).") from cause
    except (UnicodeDecodeError, ValueError, RecursionError) as cause:
        raise CheckpointError(f"{path}: is not JSON ({cause}); fetch the file again.") from cause
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object.")
    return value


def _keys(value: Any) -> set[str]:
    """All keys of nested JSON."""
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in _keys(item)}
    if isinstance(value, list):
        return {key for item in value for key in _keys(item)}
    return set()
