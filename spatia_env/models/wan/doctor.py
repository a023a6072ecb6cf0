"""`spatia doctor`: what this machine can run, at which size, with how much memory, and why not more."""

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from spatia_env.models.wan.cost import CLIPS, Clip, Network, count_clip

OPTIONAL = {
    "transformers": "the official text encoder",
    "ftfy": "the official text encoder",
    "peft": "the release's LoRA",
    "accelerate": "training",
    "mapanything": "geometry by MapAnything",
}
MARGIN = 1.1
"""Memory that allocators lose between the pieces they hand out."""
SPEED_SIDE = 1024
FORWARDS = 80


@dataclass(frozen=True)
class Machine:
    """Where things would run: `device` "cuda" or "cpu", its `name`, and its memory in bytes."""

    device: str
    name: str
    total: int
    free: int
    cores: int
    disk: int
    flops: float
    """measured speed of a matrix product, operations a second"""


@dataclass(frozen=True)
class Verdict:
    """Whether a clip of the official size fits.

    Attributes:
        clip: Its size.
        needs: Bytes by lever, those that change no number first.
        lever: The first that fits, or None.
        seconds: Least time of a round at the machine's measured speed.
    """

    clip: Clip
    needs: dict[str, int]
    lever: str | None
    seconds: float


@dataclass(frozen=True)
class Report:
    """What `doctor` found."""

    machine: Machine
    packages: dict[str, bool]
    verdicts: tuple[Verdict, ...]

    def __str__(self) -> str:
        return "\n".join(report_lines(self))


def doctor(
    machine: Machine | None = None,
    network: Network | None = None,
    clips: tuple[Clip, ...] = CLIPS,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Look at the machine, and count what the official size would need on it.

    Args:
        machine: Instead of this one.
        network: Instead of the official one.
        clips: The sizes to judge.
        progress: Called with one line per step.
    """
    machine = machine or look_at_machine()
    tile = _count_tile(network)
    verdicts = []
    for clip in clips:
        progress(f"counting {clip.name}")
        verdicts.append(judge(clip, machine, network, tile))
    packages = {name: importlib.util.find_spec(name) is not None for name in OPTIONAL}
    return Report(machine, packages, tuple(verdicts))


def judge(clip: Clip, machine: Machine, network: Network | None = None, tile: int | None = None) -> Verdict:
    """Which lever makes a clip fit into the machine's memory."""
    tile = _count_tile(network) if tile is None else tile
    cost = count_clip(clip, network, shortened=True)
    weights, side = cost.weight_bytes, max(cost.encode.peak_bytes, cost.decode.peak_bytes)
    main, autoencoder = weights["transformer"], weights["autoencoder"]
    resident = _resident_bytes(network)
    picture = 3 * 4 * clip.frames * clip.height * clip.width
    tiled = autoencoder + tile + 3 * picture  # rows of tiles, and the clip they are joined to
    needs = {
        "nothing": cost.peak_bytes(),
        'offload="stages"': cost.peak_bytes(stages=True),
        'offload="groups"': autoencoder + resident + max(cost.forward.peak_bytes, side),
        'offload="stages", float8_weights=True': max(main // 2 + cost.forward.peak_bytes, autoencoder + side),
        'offload="groups", vae_tiling=True': max(
            autoencoder + resident + cost.forward.peak_bytes, tiled + resident
        ),
    }
    if machine.device == "cpu":  # there is nowhere to move weights to
        needs = {"nothing": needs["nothing"]}
    needs = {name: round(size * MARGIN) for name, size in needs.items()}
    lever = next((name for name, size in needs.items() if size <= machine.free), None)
    return Verdict(clip, needs, lever, cost.round_flops(FORWARDS) / machine.flops)


def look_at_machine() -> Machine:
    """This machine; takes about a second, for the speed of a matrix product."""
    disk = shutil.disk_usage(Path.cwd()).free
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Machine("cuda", name, total, free, cores, disk, _matrix_speed("cuda", torch.bfloat16))
    total, free = _main_memory()
    name = platform.processor() or platform.machine()
    return Machine("cpu", name, total, free, cores, disk, _matrix_speed("cpu", torch.float32))


def report_lines(report: Report) -> list[str]:
    """The report as text."""
    machine = report.machine
    missing = [f"{name} ({use})" for name, use in OPTIONAL.items() if not report.packages[name]]
    lines = [
        f"{machine.device}: {machine.name}, {_gb(machine.free)} of {_gb(machine.total)} GB free, "
        f"{machine.cores} cores, {machine.flops / 1e12:.2f} TFLOP/s in matrix products",
        f"disk: {_gb(machine.disk)} GB free here; the official weights take 25 GB converted",
        "spatia-tiny: runs (it needs 1 GB and no GPU)",
        f"optional packages missing: {', '.join(missing) or 'none'}",
        "",
        "official size, 40 steps with guidance, in bfloat16 (memory is counted, not measured; the text encoder's",
        "11 GB are needed beside it for new prompts, in main memory by default):",
    ]
    for verdict in report.verdicts:
        lines.append(f"  {verdict.clip.name:<16} {_verdict_text(verdict, machine)}")
    if machine.device == "cpu":
        lines.append("  Without a GPU this is for checking numbers, not for use; take spatia-tiny.")
    return lines


def _verdict_text(verdict: Verdict, machine: Machine) -> str:
    if verdict.lever is None:
        least = min(verdict.needs, key=lambda name: verdict.needs[name])
        levers = "" if least == "nothing" else f" with {least}"
        return f"does not fit: needs {_gb(verdict.needs[least])} GB{levers}, {_gb(machine.free)} GB are free"
    levers = "" if verdict.lever == "nothing" else f" with {verdict.lever}"
    return f"fits in {_gb(verdict.needs[verdict.lever])} GB{levers}; a round takes at least {_time(verdict.seconds)}"


def _count_tile(network: Network | None) -> int:
    """Bytes that decoding one tile of 256x256 keeps alive."""
    return count_clip(Clip(256, 256, 9), network).decode.peak_bytes


def _resident_bytes(network: Network | None) -> int:
    """Weights on the device when blocks come and go: two blocks, and what is no block."""
    transformer, _ = (network or Network()).build(torch.device("meta"), torch.bfloat16)
    blocks = [
        sum(p.numel() for p in block.parameters())
        for block in (*transformer.blocks, *transformer.vace_blocks)
    ]
    rest = sum(p.numel() for p in transformer.parameters()) - sum(blocks)
    return 2 * (rest + 2 * max(blocks))


def _matrix_speed(device: str, dtype: torch.dtype) -> float:
    side = SPEED_SIDE * (8 if device == "cuda" else 1)
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _main_memory() -> tuple[int, int]:
    """(total, free) bytes of main memory, within the limit of a container where there is one."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    free = os.sysconf("SC_AVPHYS_PAGES") * page
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        ceiling, taken = int(limit.read_text()), int(used.read_text())
    except (OSError, ValueError):  # no such limit
        return total, free
    return min(total, ceiling), max(0, min(free, ceiling - taken))


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def main(argv: list[str]) -> int:
    """Run `spatia doctor` and print the report."""
    import tyro

    tyro.cli(
        _Nothing,
        args=argv,
        prog="spatia doctor",
        description="Say what this machine can run, and why not more.",
    )
    print(doctor(progress=lambda line: print(f"  {line}", flush=True)))
    return 0


@dataclass(frozen=True)
class _Nothing:
    """`spatia doctor` takes no options."""
