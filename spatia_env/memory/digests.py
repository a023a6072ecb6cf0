"""Content hashes of immutable arrays, computed once per array for as long as it lives.

Blocks are never written to, and forks and snapshots share them, so a save needs to hash only what is new.
The table holds weak references: it neither keeps an array alive nor outlives it.
"""

import functools
import weakref

import numpy as np
import torch
from torch import Tensor

from spatia_env.memory import codecs


class Digests:
    """A table from array objects to their SHA-256."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref, int, str]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, array: np.ndarray | Tensor) -> str:
        """The hash of an array's bytes in C order; remembered if the array cannot have changed meanwhile."""
        entry = self._known.get(id(array))
        if entry is not None and entry[0]() is array and entry[1] == _generation(array):
            return entry[2]
        name = codecs.digest(as_numpy(array))
        self.learn(array, name)
        return name

    def learn(self, array: np.ndarray | Tensor, name: str) -> None:
        """Remember a hash that is known already (of an array that was just read and checked)."""
        generation, key = _generation(array), id(array)
        if generation >= 0:
            # The callback runs before the address can be given to another object.
            self._known[key] = (weakref.ref(array, functools.partial(self._forget, key)), generation, name)

    def _forget(self, key: int, _: weakref.ref) -> None:
        self._known.pop(key, None)


def as_numpy(array: np.ndarray | Tensor) -> np.ndarray:
    """The array itself, or the tensor's values as an array."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array


def _generation(array: np.ndarray | Tensor) -> int:
    """A number that changes when the array does; -1 if it may change without a trace."""
    if isinstance(array, torch.Tensor):
        return array._version if not array.is_inference() else -1
    return -1 if array.flags.writeable else 0


DIGESTS = Digests()
"""The table that all saves of a process share, since forks of a world share blocks."""
