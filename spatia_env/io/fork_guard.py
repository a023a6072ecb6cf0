"""Detects a process forked after torch started threads: it would deadlock at the first larger sum."""

import os

import torch

from spatia_env.errors import ForkError

_owner: int | None = None
"""Process whose torch has several threads. A fork inherits this number and torch's locks, but not the threads."""


def torch_is_used() -> None:
    """Note that torch works in this process. In a fork it may load, with one thread; `check_not_orphaned` then raises.

    The error must not come here: Gymnasium's workers report only errors of `reset` and `step`.
    """
    global _owner
    if _owner is None and torch.get_num_threads() > 1:
        _owner = os.getpid()
    elif _owner not in (None, os.getpid()):
        torch.set_num_threads(1)


def check_not_orphaned() -> None:
    """Raise instead of calling torch where it cannot answer.

    Raises:
        ForkError: This process was forked after torch had started its threads.
    """
    if _owner not in (None, os.getpid()):
        raise ForkError(
            "this process was forked after torch had started its threads, and would hang. Start it with "
            'multiprocessing\'s "spawn", as in gym.make_vec(..., vectorization_mode="async", '
            'vector_kwargs={"context": "spawn"}), or leave vectorization_mode out: all worlds then share one process.'
        )
