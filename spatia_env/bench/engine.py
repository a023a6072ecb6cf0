"""Suite `engine`: is it fast and steady, and does the same always give the same?"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.bench.episodes import Truth
from spatia_env.bench.players import EnvPlayer
from spatia_env.bench.quality import Context, Measured
from spatia_env.bench.rows import Row
from spatia_env.errors import ActionError

STEPS = 16
WARM = 4


def measure_engine(context: Context, scene: int, row: Row) -> Measured:
    """Latency and memory over steps to and fro; repeats, snapshots and saved worlds compared bit for bit."""
    player = context.players.get(row)
    if not isinstance(player, EnvPlayer):
        raise ActionError(f"engine: row {row.name} has no environment.")
    truth = context.truth(scene, "walk")
    values: dict[str, Any] = {
        "repeat_equal": float(_same(_two_clips(player, truth), _two_clips(player, truth))),
        **_resumed(player, truth),
    }
    seconds, used = [], []
    player.start(truth)
    there = [truth.c2w[truth.clip(i)] for i in range(truth.clips)]
    back = [
        np.concatenate([clip[::-1][1:], truth.c2w[truth.clip(i).start - 1][None]])
        for i, clip in enumerate(there)
    ]
    route = there + back[::-1]
    for number in range(STEPS):
        begin = time.perf_counter()
        player.play(route[number % len(route)])
        seconds.append(time.perf_counter() - begin)
        used.append(_peak_megabytes())
    kept = seconds[WARM:]
    return Measured(
        values
        | {
            "seconds_p50": float(np.median(kept)),
            "seconds_p95": float(np.percentile(kept, 95)),
            "frames_per_second": 8 / float(np.median(kept)),
            "growth_mb_per_step": max(0.0, (used[-1] - used[WARM]) / (STEPS - 1 - WARM)),
            "points": len(player.points),
        }
    )


def _two_clips(player: EnvPlayer, truth: Truth) -> list[np.ndarray]:
    player.start(truth)
    clips = [player.play(truth.c2w[truth.clip(i)]) for i in range(2)]
    return [array for clip in clips for array in (clip.frames, clip.depth)]


def _resumed(player: EnvPlayer, truth: Truth) -> dict[str, float]:
    """Whether a restored snapshot, and a saved world, go on exactly as the world itself."""
    player.start(truth)
    player.play(truth.c2w[truth.clip(0)])
    env, last = player.unwrapped, player.last
    snapshot, path = env.snapshot(), truth.c2w[truth.clip(1)]
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "world.spatia"
        env.world.save(file)
        straight = player.play(path)
        env.restore(snapshot)
        player.last = last
        again = player.play(path)
        env.reset(options={"world": str(file)})
        player.last = last
        loaded = player.play(path)
    for name, clip in (("restore_equal", again), ("save_equal", loaded)):
        out[name] = float(_same([clip.frames, clip.depth], [straight.frames, straight.depth]))
    return out


def _same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
