"""Whether this process is a fork of one that had used torch's threads: their locks were copied, they were not."""

import os

import torch

from spatia_env.errors import ForkError

_threads = False
_orphaned = False


def torch_is_used() -> None:
    """Note that torch works in this process; with one thread a fork does no harm.

    A fork that may not use it can still be told so: its error comes where its parent waits for an answer.
    """
    global _threads
    if _orphaned:
        torch.set_num_threads(1)
    _threads = _threads or torch.get_num_threads() > 1


def check_not_orphaned() -> None:
    """See before torch is called that it can answer.

    Raises:
        ForkError: This process was forked after torch had started its threads; the first larger sum would hang.
    """
    if _orphaned:
        raise ForkError(
            "this process was forked after torch had started its threads, and would hang. Start it with "
            'multiprocessing\'s "spawn", as in gym.make_vec(..., "async", vector_kwargs={"context": "spawn"}), '
            "or use gym.make_vec(..., workers=2), which starts programs of their own."
        )


def _in_child() -> None:
    global _orphaned
    _orphaned = _threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
