"""N worlds in one vector environment against N single environments, in turn, in the same run.

Rounds alternate, so that what else the machine does falls on both alike; both play the same actions from the same
states. Memory is the growth of the resident set for N worlds after their steps, less the bytes of their maps.
"""

import ctypes
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from spatia_env.bench.files import write_json
from spatia_env.bench.provenance import origin
from spatia_env.bench.statistics import two_way_bootstrap
from spatia_env.env import SpatiaEnv
from spatia_env.vector.sync import SpatiaVectorEnv

FIRST_SCENE = 10_200
REACH = np.array([0.3, 0, 0.3, 0, 0.5, 0])
"""Largest `camera` of the random moves: level ones."""


@dataclass(frozen=True)
class VectorBenchConfig:
    """Time a vector of worlds against as many single environments, and weigh its worlds."""

    out: Path
    """Folder for results.json."""
    num_envs: int = 8
    """Worlds."""
    rounds: int = 8
    """Steps of all worlds, timed in both."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the frames, pixels."""
    model: str = "spatia-tiny"
    """Checkpoint."""


def run_vector_bench(config: VectorBenchConfig) -> dict[str, Any]:
    """Frames per second of both, their ratio by round, and megabytes a world."""
    options: dict[str, Any] = {"size": config.size, "model": config.model}
    singles = [SpatiaEnv(**options) for _ in range(config.num_envs)]
    for index, env in enumerate(singles):
        env.reset(seed=index, options={"scene": FIRST_SCENE + index})
    rng = np.random.default_rng(0)
    vector = SpatiaVectorEnv(config.num_envs, **options)
    vector.reset(seed=0)
    for world, env in zip(vector.worlds, singles, strict=True):
        world.restore(env.snapshot())
    ratios, seconds = [], {"single": 0.0, "vector": 0.0}
    for round_ in range(config.rounds + 1):
        cameras = (rng.uniform(-1, 1, (config.num_envs, 6)) * REACH).astype(np.float32)
        single = _timed(lambda cameras=cameras: [
            env.step({"camera": camera, "event": ""}) for env, camera in zip(singles, cameras, strict=True)
        ])  # fmt: skip
        batch = {"camera": cameras, "event": ("",) * config.num_envs}
        together = _timed(lambda batch=batch: vector.step(batch))
        if round_:  # the first warms up
            ratios.append(single / together)
            seconds["single"] += single
            seconds["vector"] += together
    frames = config.rounds * config.num_envs * singles[0].shape.num_frames
    found = {"ratios": ratios, **{f"fps_{name}": frames / spent for name, spent in seconds.items()}}
    vector.close()
    return found


def weigh(config: VectorBenchConfig) -> float:
    """Megabytes that a world holds beyond its map, after four steps; the model is loaded and warm before."""
    options: dict[str, Any] = {"size": config.size, "model": config.model}
    rng = np.random.default_rng(1)

    def play(env: Any) -> None:
        env.reset(seed=0)
        for _ in range(4):
            cameras = (rng.uniform(-1, 1, (env.num_envs, 6)) * REACH).astype(np.float32)
            env.step({"camera": cameras, "event": ("",) * env.num_envs})

    first = SpatiaVectorEnv(config.num_envs, **options)
    play(first)
    first.close()
    del first
    base = _resident()
    env = SpatiaVectorEnv(config.num_envs, **options)
    play(env)
    maps = sum(world.world.memory.num_bytes for world in env.worlds)
    megabytes = (_resident() - base - maps) / config.num_envs / 1e6
    env.close()
    return max(megabytes, 0.0)


def _timed(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _resident() -> int:
    """Bytes that this process holds, after what is free has been given back."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS; this command needs Linux.")


def main(argv: Sequence[str]) -> int:
    """Run the bench."""
    config = tyro.cli(VectorBenchConfig, args=list(argv), prog="vector_bench.py")
    found = run_vector_bench(config)
    found["megabytes"] = weigh(config)
    command = f"vector_bench.py --num-envs {config.num_envs} --rounds {config.rounds} --out {config.out}"
    command += f" --size {config.size[0]} {config.size[1]}"
    estimate = two_way_bootstrap(np.array(found["ratios"])[:, None])
    figures = {
        "vector_speedup": {
            "title": f"frames/s of {config.num_envs} worlds in a vector over as many single environments in turn",
            "unit": "", "value": round(estimate.value, 4), "ci": [round(estimate.low, 4), round(estimate.high, 4)],
            "n": config.rounds, "reach": ">= 1.2", "holds": estimate.value >= 1.2, "command": command,
        }
    }  # fmt: skip
    if "megabytes" in found:
        value = round(found["megabytes"], 3)
        figures["vector_megabytes"] = {
            "title": "memory of a world beyond its map", "unit": "MB", "value": value, "ci": [value, value],
            "n": config.num_envs, "reach": "<= 15", "holds": value <= 15, "command": command,
        }  # fmt: skip
    config.out.mkdir(parents=True, exist_ok=True)
    run = found | {"threads": torch.get_num_threads(), **origin()}
    write_json(config.out / "results.json", {"schema": "vector-bench/1", "run": run, "figures": figures})
    for name, figure in figures.items():
        print(f"{name}: {figure['value']} {figure['unit']} {figure['ci']}, to reach {figure['reach']}")
    print(f"{found['fps_single']:.1f} frames/s in turn, {found['fps_vector']:.1f} together")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
