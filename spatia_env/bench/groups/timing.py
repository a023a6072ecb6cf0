"""Group `time`: CPU-seconds and wall time of reset, step and preview, and memory."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from spatia_env.bench.episodes import FRAMES, turn
from spatia_env.bench.registry import SIZE, Stage, figure, group
from spatia_env.bench.systems import Start, System

T = TypeVar("T")
STEPS, PREVIEWS = 3, 6


@dataclass(frozen=True)
class Times:
    """Medians of (wall, CPU) seconds by call and size, the share outside the networks, peak megabytes."""

    seconds: dict[str, tuple[float, float]]
    outside: float
    megabytes: float


@group("time", "what a call costs", ("default",), (1, 2, 4))
def play(stage: Stage, scene: int, system: System) -> Times:
    """Turning steps after one that warms up."""
    seconds: dict[str, tuple[float, float]] = {}
    outside: list[float] = []
    start = stage.scene(scene).initial_c2w
    poses = turn(start, [20.0] * (STEPS + 2))
    clips = [poses[1 + FRAMES * i : 1 + FRAMES * (i + 1)] for i in range(STEPS + 2)]
    for size in (SIZE, (256, 256)):
        player = stage.players.get(system, size, timings=True, debug=False)
        seconds[f"reset {size[0]}"] = clocked(player.open, Start(start, scene))[1]
        player.play(clips[0])
        steps = [clocked(player.play, clip) for clip in clips[1:-1]]
        seconds[f"step {size[0]}"] = median([times for _, times in steps])
        if size == SIZE:
            outside = [_outside(rollout.infos[0]) for rollout, _ in steps]
        looks = [clocked(player.preview, clips[-1])[1] for _ in range(1 + PREVIEWS)]
        seconds[f"preview {size[0]}"] = median(looks[1:])
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return Times(
        seconds, float(np.median(outside)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    )


def _outside(info: dict) -> float:
    return 1 - info["seconds"]["networks"] / info["seconds"]["total"]


def clocked(call: Callable[..., T], *arguments: Any) -> tuple[T, tuple[float, float]]:
    """What a call returns, and its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call(*arguments)
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def median(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Of each."""
    wall, cpu = np.median(np.array(pairs), axis=0)
    return float(wall), float(cpu)


def _register(call: str, size: int, clock: int, target: str) -> None:
    """A figure of wall (0) or CPU (1) seconds."""

    def measure(record: Times) -> float:
        return record.seconds[f"{call} {size}"][clock]

    measure.__name__ = f"{call}_{('wall', 'cpu')[clock]}_{size}"
    measure.__doc__ = f"{('Wall seconds', 'CPU-seconds')[clock]} of a {call} at {size}x{size}"
    figure("time", "s", "low", target)(measure)


for _call, _target in (("reset", ""), ("step", "<= 0.7"), ("preview", "<= 0.03")):
    for _size in (128, 256):
        _register(_call, _size, 0, "")
        _register(_call, _size, 1, _target if _size == 128 else "")


@figure("time", "%", "low", "<= 35")
def outside_networks(record: Times) -> float:
    """Share of a step's wall time outside the networks, 128x128."""
    return 100 * record.outside


@figure("time", "MB", "low")
def peak_memory(record: Times) -> float:
    """Peak memory of the process."""
    return record.megabytes
