"""What a computation costs without doing it: floating-point operations and memory, counted on the meta device."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """`flops` (two per multiplication and addition), of which `attention`; `peak_bytes` of tensors alive at once.

    The peak counts what the computation itself allocates: not its weights and inputs, nor what a library takes
    inside one operation.
    """

    flops: float
    attention: float
    peak_bytes: int


def dry_run(function: Callable[[], object]) -> Cost:
    """The cost of `function`, whose tensors are on the meta device."""
    attention, memory, counter = _CountAttention(), _TrackMemory(), FlopCounterMode(display=False)
    with torch.no_grad(), attention, counter, memory:
        function()
    return Cost(counter.get_total_flops() + attention.flops, attention.flops, memory.peak)


class _CountAttention(TorchFunctionMode):
    """Counts attention as the fused kernels do it: the matrix of scores never exists."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, key, value = given["query"], given["key"], given["value"]
        scores = query.shape[:-1].numel() * key.shape[-2]
        self.flops += 2.0 * scores * (query.shape[-1] + value.shape[-1])
        return query.new_empty(*query.shape[:-1], value.shape[-1])


class _TrackMemory(TorchDispatchMode):
    """The most bytes of new storages that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {
            id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage(), given)
        return result

    def _add(self, storage: Any, given: set[int]) -> None:
        key = storage._cdata
        if key in self._seen or id(storage) in given:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
