"""Probes of the map's costs: time against size, bytes, snapshots and forks, saves, edits that stay.

Ratios are taken within one run: the two sides alternate, and the best of several tries of each counts, so that
another program on the machine disturbs both or neither.
"""

import gc
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spatia_env.bench.big_maps import Clip, film_room, next_state, room_map, rooms_map, world_of
from spatia_env.bench.kills import holds_in_place, holds_properly, kill_saves, save_in_place, save_properly
from spatia_env.bench.memory_edits import probe_edits
from spatia_env.bench.memory_probes import Draw, Probe, Probed, Setting, figure
from spatia_env.geometry import intrinsics_from_fov, invert_se3, look_at
from spatia_env.memory.keyframes import select_references
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.storage import save_bundle
from spatia_env.release.retrieval import visible_mask, visible_rows
from spatia_env.world.state import WorldState
from spatia_env.world.world import World, to_bundle

ROOM_POINTS = 100_000
ROOM_COUNTS = (1, 4, 16, 100)
"""Sizes of the map whose costs are drawn: 100k to 10M points."""
TRIES = 5
SAVED_ROOMS = 20
KILLS = 200


def cpu_best(functions: Mapping[str, Callable[[], Any]], tries: int = TRIES) -> dict[str, float]:
    """Least seconds of processor time of each function, called in turn after one call to warm up."""
    best = dict.fromkeys(functions, np.inf)
    for attempt in range(tries + 1):
        for name, function in functions.items():
            begin = time.process_time()
            function()
            if attempt:
                best[name] = min(best[name], time.process_time() - begin)
    return best


# -- time against the size of the map --------------------------------------------------------------------------


def probe_scaling(setting: Setting) -> Probed:
    """Update, render and retrieval of one step at 128x128, in maps that differ in what is not in sight."""
    clip = film_room()
    worlds = {rooms: world_of(rooms_map(rooms, ROOM_POINTS), clip) for rooms in ROOM_COUNTS}
    steps = {str(rooms): _steps(world, clip) for rooms, world in worlds.items()}
    seconds = {
        part: cpu_best({rooms: parts[part] for rooms, parts in steps.items()})
        for part in ("render", "retrieve", "update")
    }
    total = {rooms: sum(seconds[part][rooms] for part in seconds) for rooms in steps}
    largest, smallest = str(ROOM_COUNTS[-1]), str(ROOM_COUNTS[0])
    rows = {
        f"{worlds[int(rooms)].memory.num_points:,} points": {
            f"{part} ms": 1000 * seconds[part][rooms] for part in seconds
        } | {"step ms": 1000 * total[rooms]}
        for rooms in steps
    }  # fmt: skip
    data = {
        "points": [worlds[rooms].memory.num_points for rooms in ROOM_COUNTS],
        "ms": {part: [1000 * seconds[part][str(rooms)] for rooms in ROOM_COUNTS] for part in seconds},
    }
    ratio = {0: total[largest] / total[smallest]}
    title = "update + render + retrieve: 10M points against 100k, same in sight"
    return Probed({"map_size_cost": figure(title, ratio, 1.5, least=False, unit="x")}, rows, data)


def _steps(world: World, clip: Clip) -> dict[str, Callable[[], Any]]:
    memory, weight = world.memory, torch.ones_like(clip.depth)
    view = memory.render(clip.path, clip.K, *clip.depth.shape[-2:])
    return {
        "render": lambda: memory.render(clip.path, clip.K, *clip.depth.shape[-2:]),
        "retrieve": lambda: select_references(list(world.state.keyframes), view, clip.path, clip.K, 2),
        "update": lambda: memory.update(clip.rgb, clip.depth, weight, clip.path, clip.K, 1, view.known),
    }


def draw_scaling(drawing: Any, data: Mapping[str, Any]) -> bool:
    """Time of the parts of a step over the number of points."""
    found = data.get("scaling")
    if not found:
        return False
    axes = drawing.subplots()
    below = np.zeros(len(found["points"]))
    for part, values in found["ms"].items():
        axes.fill_between(found["points"], below, below + values, label=part, alpha=0.7)
        below = below + values
    axes.plot(found["points"], below, "o", color="black")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.15 * below.max())
    axes.set_xlabel("points in the map, the same number of them in sight")
    axes.set_ylabel("ms a step (8 frames, 128x128)")
    axes.legend(loc="upper left")
    return True


# -- who sees what ---------------------------------------------------------------------------------------------


def probe_visibility(setting: Setting) -> Probed:
    """What eight cameras of the official size see of a room of a million points, against a scatter of all points."""
    memory, height, width = room_map(1_000_000), 704, 1248
    K = intrinsics_from_fov(60, height, width)
    eye = torch.tensor([-0.3, 0.2, 0.1])
    angles = torch.arange(8) * torch.pi / 4
    poses = torch.stack(
        [look_at(eye, eye + torch.tensor([a.cos(), a.sin(), -0.1 * torch.ones(())])) for a in angles]
    )
    points = torch.from_numpy(memory.points()["position"].copy())
    found, plain = (
        visible_rows(memory, poses, K, height, width),
        visible_mask(points, invert_se3(poses), K, height, width),
    )
    differ = sum(
        len(set(a.tolist()) ^ set(b.nonzero().flatten().tolist())) for a, b in zip(found, plain, strict=True)
    )
    seconds = cpu_best(
        {
            "blocks": lambda: visible_rows(memory, poses, K, height, width),
            "every point": lambda: visible_mask(points, invert_se3(poses), K, height, width),
        },
        3,
    )
    ratio = {0: seconds["every point"] / seconds["blocks"]}
    rows = {name: {"ms": 1000 * value} for name, value in seconds.items()}
    rows["blocks"]["points that differ"] = differ / sum(len(rows) for rows in found)
    return Probed(
        {"visibility_speed": figure("visibility, 1M points, 8 cameras at 1248x704", ratio, 3, unit="x")}, rows
    )


# -- bytes, snapshots, forks -----------------------------------------------------------------------------------


def probe_memory(setting: Setting) -> Probed:
    """Bytes a point takes; what snapshots and forks cost in time and in memory."""
    clip = film_room()
    world = world_of(rooms_map(20, 250_000), clip)
    timed = cpu_best({"snapshot": world.snapshot, "fork": world.fork}, 50)
    base = world_of(room_map(1_000_000), clip)
    held = map_bytes(base.memory)
    forks, added = _traced(lambda: [base.fork() for _ in range(1000)])
    del forks
    state, grown = _traced(lambda: next_state(base, clip))
    touched = sum(
        block.nbytes for key, block in state.memory.blocks.items() if base.memory.blocks.get(key) is not block
    )
    beyond = grown + tensor_bytes(state, base.state) - touched
    figures = {
        "bytes_in_memory": figure(
            "bytes a point in memory, mapping included", {0: held / base.memory.num_points}, 40, least=False
        ),
        "snapshot_ms": figure(
            "snapshot or fork at 5M points", {0: 1000 * max(timed.values())}, 2, least=False, unit="ms"
        ),
        "forks_memory": figure(
            "1,000 unstepped forks of 1M points", {0: 1 + added / held}, 1.05, least=False, unit="x"
        ),
        "fork_step_mb": figure(
            "a fork that stepped, beyond its blocks", {0: beyond / 1e6}, 1, least=False, unit="MB"
        ),
    }
    return Probed(figures, {"a fork that stepped": {"blocks MB": touched / 1e6, "else MB": beyond / 1e6}})


def map_bytes(memory: SceneMemory) -> int:
    """Bytes of a map's points, of the arrays that hold them, and of the mapping."""
    arrays = sum(
        block.nbytes + sys.getsizeof(block.view(np.void(36).dtype)) for block in memory.blocks.values()
    )
    return arrays + sys.getsizeof(dict(memory.blocks)) + 32 * len(memory.blocks)


def tensor_bytes(state: WorldState, before: WorldState) -> int:
    """Bytes of the tensors of a state that the state before does not share; Python does not trace them."""
    old = {id(k) for k in before.keyframes}
    new = [k for k in state.keyframes if id(k) not in old]
    tensors = [state.preceding_frames, state.depth, *(t for k in new for t in (k.frame, k.depth, k.c2w))]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _traced(make: Callable[[], Any]) -> tuple[Any, int]:
    """What `make` returns, and the bytes of Python and NumPy that it holds on to."""
    gc.collect()
    tracemalloc.start()
    try:
        begin = tracemalloc.get_traced_memory()[0]
        made = make()
        gc.collect()
        return made, tracemalloc.get_traced_memory()[0] - begin
    finally:
        tracemalloc.stop()


# -- files -----------------------------------------------------------------------------------------------------


def probe_saving(setting: Setting) -> Probed:
    """Bytes a point takes on disk, and what a save after one step writes, in a world of 20 rooms."""
    clip, path = film_room(), setting.folder / "rooms.spatia"
    path.unlink(missing_ok=True)
    world = world_of(rooms_map(SAVED_ROOMS, 250_000), clip)
    begin = time.process_time()
    whole = save_bundle(path, to_bundle(world.state))
    first = time.process_time() - begin
    world.state = next_state(world, film_room(seed=1))
    begin, wrote = time.process_time(), bytes_written()
    step = save_bundle(path, to_bundle(world.state))
    seconds, share = time.process_time() - begin, step.bytes_written / whole.file_bytes
    with_journal = (bytes_written() - wrote) / whole.file_bytes
    figures = {
        "bytes_on_disk": figure(
            "bytes a point on disk", {0: whole.file_bytes / world.memory.num_points}, 20, least=False
        ),
        "save_share": figure("save after a step, 5M points: share written", {0: share}, 0.03, least=False),
    }
    rows = {
        "first save": {"MB": whole.bytes_written / 1e6, "cpu s": first},
        "after a step": {
            "MB": step.bytes_written / 1e6,
            "cpu s": seconds,
            "share with journal": with_journal,
        },
    }
    path.unlink()
    return Probed(figures, rows)


def bytes_written() -> int:
    """Bytes this process has handed to the system's write calls; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["wchar"])


def probe_kills(setting: Setting) -> Probed:
    """Saves killed at random moments: worlds lost or damaged, and what the same finds in a writer that overwrites."""
    ours = kill_saves(setting.folder / "ours", KILLS, save_properly, holds_properly)
    naive = kill_saves(setting.folder / "naive", KILLS, save_in_place, holds_in_place)
    figures = {
        "kill_failures": figure("worlds lost or damaged by 200 kills", {0: float(ours.bad)}, 0, least=False),
        "kill_control": figure("the same, of a writer that overwrites", {0: float(naive.bad)}, 1),
    }
    return Probed(figures, {"spatia": {"saves": ours.saves}, "overwriting": {"saves": naive.saves}})


PROBES: dict[str, Probe] = {
    "scaling": probe_scaling, "visibility": probe_visibility, "memory": probe_memory, "saving": probe_saving,
    "kills": probe_kills, "edits": probe_edits,
}  # fmt: skip
PLOTS: dict[str, Draw] = {"map_size": draw_scaling}
