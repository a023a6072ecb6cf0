"""Seconds per stage of a step, for `timings=True`."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
NETWORKS = ("generate", "geometry")
"""Stages that run a network."""


class Stopwatch:
    """Calls functions and notes how long each stage took."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.stages: dict[str, float] = {}

    def __call__(self, stage: str, function: Callable[..., T], *arguments: object, **options: object) -> T:
        """`function(*arguments, **options)`, timed under `stage`."""
        begin = time.perf_counter()
        result = function(*arguments, **options)
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - begin
        return result

    def report(self) -> dict[str, float]:
        """Seconds per stage, in networks, and in total so far."""
        networks = sum(self.stages.get(stage, 0.0) for stage in NETWORKS)
        return {**self.stages, "networks": networks, "total": time.perf_counter() - self.start}
