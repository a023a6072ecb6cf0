"""Processes that train one network together: `accelerate launch --multi_gpu --num_processes 2 -m spatia_env.cli train`.

Every process holds the whole network, takes its share of the batches, and averages its gradients with the others';
so two processes with batches of 8 make the steps of one with batches of 16. Only the main process evaluates,
logs and saves. In a process that was not launched this way nothing happens.
"""

import atexit
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from spatia_env.errors import DependencyError


class Processes:
    """The processes of this run; one alone unless a launcher says otherwise.

    Raises:
        DependencyError: Several processes were launched without accelerate.
    """

    def __init__(self) -> None:
        self.count, self.index = int(os.environ.get("WORLD_SIZE", "1")), 0
        if self.count > 1:
            try:
                from accelerate import PartialState
            except ImportError as cause:
                raise DependencyError(
                    "training in several processes needs accelerate: pip install 'spatia-env[train]'."
                ) from cause
            # With GPUs it takes one a process, else gloo on the CPU.
            state = PartialState(cpu=not torch.cuda.is_available())
            self.count, self.index = state.num_processes, state.process_index
            # Left open, its threads may outlive the interpreter and abort the process at its very end.
            atexit.register(state.destroy_process_group)

    @property
    def is_main(self) -> bool:
        """Whether this one evaluates, logs and saves."""
        return self.index == 0

    def share(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Every count-th batch, beginning with the process's own."""
        return itertools.islice(batches, self.index, None, self.count) if self.count > 1 else batches

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes."""
        if self.count == 1:
            return
        for parameter in parameters:
            # A process whose batch did not touch a weight still takes part.
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.distributed.all_reduce(gradient)
            parameter.grad = gradient / self.count

    def all_agree(self, go_on: bool) -> bool:
        """Whether every process wants to go on: their clocks differ, their steps must not."""
        if self.count == 1:
            return go_on
        vote = torch.tensor([float(go_on)])
        if torch.distributed.get_backend() == "nccl":
            vote = vote.cuda()
        torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MIN)
        return bool(vote.item())

    def wait_for_all(self) -> None:
        """Return when every process has come this far: whoever leaves earlier takes its connections along."""
        if self.count > 1:
            torch.distributed.barrier()
