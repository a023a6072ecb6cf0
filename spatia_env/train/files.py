"""Files of tensors that a reader sees whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor | np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file beside `path` and rename it when it is complete; readable by everyone.

    Args:
        path: The file; its folder exists.
        tensors: All of torch, on any device, or all of numpy; each is made contiguous.
        metadata: Text kept in the file's head.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    if any(isinstance(value, Tensor) for value in tensors.values()):
        parts = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
        safetensors.torch.save_file(parts, temporary, metadata)
    else:
        arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        safetensors.numpy.save_file(arrays, temporary, metadata)
    temporary.chmod(0o644)
    os.replace(temporary, path)
