"""An environment as a file and some plain values: what a worker that died needs to go on as if it had not.

The world goes into its own file (`World.save`); with it go the task's fields and the random state, which no
world has.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.env import SpatiaEnv
from spatia_env.models.clip_source import ClipRequest


def save_env(env: SpatiaEnv, path: Path) -> dict[str, Any]:
    """Write the world to `path`; returns the rest as plain values and arrays (see `wire`)."""
    env.world.save(path)
    return {
        "path": str(path),
        "scene": env.scene,
        "task": _fields(env.task),
        "np_random": copy.deepcopy(env.np_random.bit_generator.state),
    }


def load_env(env: SpatiaEnv, saved: dict[str, Any]) -> None:
    """Go on where `save_env` was called: the same actions then give the same observations and rewards.

    Raises:
        WorldFormatError, WorldCorruptError, WorldIOError: As the file is bad.
    """
    env.open_saved(saved["path"], saved["scene"])
    env.np_random.bit_generator.state = saved["np_random"]
    task = copy.copy(env.task)
    for name, value in saved["task"].items():
        setattr(task, name, value)
    env.task = task


def _fields(task: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(task):
        return {}
    return {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}


def request_to_plain(request: ClipRequest) -> dict[str, Any]:
    """A request as text, numbers and arrays."""
    return {
        field.name: value.numpy() if hasattr(value := getattr(request, field.name), "numpy") else value
        for field in dataclasses.fields(request)
    }


def request_from_plain(plain: dict[str, Any]) -> ClipRequest:
    """The request of `request_to_plain`."""
    import torch

    tensors: dict[str, Any] = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in plain.items()
    }
    return ClipRequest(**tensors)
