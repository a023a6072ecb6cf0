"""Read and write safetensors files; model folders of others. Nothing here unpickles or runs code of a folder.

Headers are checked against the file's size before tensors are read. A folder that holds Python files, or whose
configuration asks for code from elsewhere, is refused.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor, nn

from spatia_env.errors import CheckpointError
from spatia_env.io.atomic import replacing

MAX_HEADER = 16 * 2**20
MAX_TENSORS = 10_000
MAX_JSON_BYTES = 64 * 2**20
FOREIGN_CODE = ("auto_map", "custom_pipeline", "custom_pipelines", "trust_remote_code")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def load_network(cls: type, config: dict[str, Any], path: Path) -> nn.Module:
    """An instance of our own class `cls` with this config and the weights of `path`, float32, in eval mode.

    Raises:
        CheckpointError: If the file is missing, cut or altered, or its tensors are not those of the class.
    """
    try:
        with torch.device("meta"):  # no time for random weights that are replaced below
            module = cls.from_config(config)  # type: ignore[attr-defined]
    except (TypeError, ValueError, KeyError) as cause:
        raise CheckpointError(
            f"{path.parent}/config.json: {cls.__name__} refuses its config: {cause}"
        ) from cause
    state = read_tensors(path)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        wrong = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
        raise CheckpointError(
            f"{path.name}: not the weights of {cls.__name__}: missing {missing[:3]}, extra {extra[:3]}, "
            f"other shapes {wrong[:3]}; take the file that belongs to this config.json."
        )
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(f"{path.name}: {name} has NaN or infinite values; fetch the file again.")
    module.load_state_dict({name: tensor.float().clone() for name, tensor in state.items()}, assign=True)
    return module.eval().requires_grad_(False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, its header checked against its size first.

    Raises:
        CheckpointError: If the file is missing or not a whole, well-formed safetensors file.
    """
    check_header(path)
    try:
        # Bytes, not a memory map: a file cut while it is mapped would kill the process.
        return safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as cause:
        raise CheckpointError(f"{path}: not a valid safetensors file ({cause}); fetch it again.") from cause


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor | np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file; it appears under its name when it is complete.

    Args:
        path: The file.
        tensors: All of torch, on any device, or all of numpy; each is made contiguous.
        metadata: Text kept in the file's header.
    """
    if any(isinstance(value, Tensor) for value in tensors.values()):
        values = {n: torch.as_tensor(value).detach().cpu().contiguous() for n, value in tensors.items()}
        data = safetensors.torch.save(values, metadata)
    else:
        arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        data = safetensors.numpy.save(arrays, metadata)
    with replacing(
        path, "tensors", swept=False
    ) as stream:  # data sets have many thousands of files in a folder
        stream.write(data)


def check_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, after checking that sizes and offsets add up to the file's size."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 0 < length <= min(MAX_HEADER, size - 8):
                raise CheckpointError(f"{path}: not a safetensors file, or cut; fetch it again.")
            header = json.loads(file.read(length))
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause.strerror}).") from cause
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as cause:
        raise CheckpointError(f"{path}: its header is not JSON; fetch the file again.") from cause
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(tensors) > MAX_TENSORS:
        raise CheckpointError(f"{path}: declares {len(tensors)} tensors; the limit is {MAX_TENSORS}.")
    total = sum(_tensor_bytes(path, name, entry) for name, entry in tensors.items())
    if total != size - 8 - length:
        raise CheckpointError(
            f"{path}: declares {total} bytes of data and holds {size - 8 - length}; fetch it again."
        )
    return header


def _tensor_bytes(path: Path, name: str, entry: Any) -> int:
    try:
        shape = [int(side) for side in entry["shape"]]
        begin, end = entry["data_offsets"]
        expected = math.prod(shape) * _BYTES[entry["dtype"]]
    except (KeyError, TypeError, ValueError) as cause:
        raise CheckpointError(
            f"{path}: tensor {name!r} is described wrongly; fetch the file again."
        ) from cause
    if min(shape, default=0) < 0 or end - begin != expected:
        raise CheckpointError(f"{path}: tensor {name!r} declares {expected} bytes and has {end - begin}.")
    return expected


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
