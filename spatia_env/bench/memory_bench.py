"""`spatia bench memory`: the map against the simulator's truth, and what it costs.

Runs the probes of `memory_accuracy` and `memory_costs`, keeps what each found in a file of its own, and collects
all of them in results.json, table.md and plots. A probe that was measured by the same code and settings is not
measured again, so `--only` adds to what is there.
"""

import importlib
import importlib.util
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from spatia_env.bench.config import DEV_SEEDS
from spatia_env.bench.core import plain, write_json
from spatia_env.bench.memory_probes import Draw, Probe, Probed, Setting
from spatia_env.bench.provenance import code_hash, fingerprint, origin
from spatia_env.errors import ActionError

MODULES = ("spatia_env.bench.memory_accuracy", "spatia_env.bench.memory_costs")
"""Where probes live; each has `PROBES` and may have `PLOTS`."""


@dataclass(frozen=True)
class MemoryConfig:
    """Measure the map against ground truth, and its costs; writes results.json, table.md and plots."""

    out: Path = Path("out/bench/memory")
    """folder to write to; probes that were measured before are kept"""
    only: tuple[str, ...] = ()
    """only these probes"""
    first_seed: int = DEV_SEEDS.start
    """first dev seed (10000-10999)"""
    scenes: int = 8
    """how many scenes"""
    clips: int = 8
    """clips of an episode"""
    model: str | None = None
    """checkpoint: a name or a folder; the packaged one by default"""
    plots: bool = True
    """draw plots"""

    def command(self, probe: str) -> str:
        """What to type to get the figures of one probe again."""
        parts = ["spatia bench memory", "--out", str(self.out), "--only", probe]
        for name, standard in (("first_seed", DEV_SEEDS.start), ("scenes", 8), ("clips", 8), ("model", None)):
            if (value := getattr(self, name)) != standard:
                parts += [f"--{name.replace('_', '-')}", str(value)]
        return " ".join(parts)


def main(argv: list[str]) -> int:
    """Run `spatia bench memory`; 0 when everything was measured, whatever was reached, 1 when something failed."""
    config = tyro.cli(MemoryConfig, args=argv, prog="spatia bench memory")
    content = run_memory_bench(config)
    print("\n".join(table_lines(content)))
    print(f"\n{config.out / 'results.json'}, table.md, plots/")
    return 1 if content["failures"] else 0


def run_memory_bench(config: MemoryConfig) -> dict[str, Any]:
    """Measure what is missing, write every output, and return what is in results.json.

    Raises:
        ActionError: Seeds outside the dev range, or unknown probes.
    """
    probes, plots = registry()
    _check(config, probes)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "probes").mkdir(exist_ok=True)
    failures = {}
    bar = tqdm([name for name in probes if not config.only or name in config.only], desc="bench memory")
    for name in bar:
        bar.set_postfix_str(name)
        error = measure(config, name, probes[name])
        if error:
            failures[name] = error
            tqdm.write(f"{name} failed: {error}")
    content = collect(config, tuple(probes), failures)
    write_json(config.out / "results.json", content)
    (config.out / "table.md").write_text("\n".join(table_lines(content)) + "\n", encoding="utf-8")
    if config.plots:
        draw(config.out / "plots", plots, content["data"])
    return content


def registry() -> tuple[dict[str, Probe], dict[str, Draw]]:
    """All probes and plots, in the order of `MODULES`."""
    probes: dict[str, Probe] = {}
    plots: dict[str, Draw] = {}
    for name in MODULES:
        if importlib.util.find_spec(name) is None:
            continue
        module = importlib.import_module(name)
        probes |= module.PROBES
        plots |= getattr(module, "PLOTS", {})
    return probes, plots


def _check(config: MemoryConfig, probes: Mapping[str, Probe]) -> None:
    last = config.first_seed + config.scenes - 1
    if config.scenes < 1 or config.first_seed not in DEV_SEEDS or last not in DEV_SEEDS:
        raise ActionError(
            f"bench memory: scenes {config.first_seed} to {last} are not dev seeds "
            f"({DEV_SEEDS.start}-{DEV_SEEDS.stop - 1})."
        )
    if config.clips < 2 or config.clips % 2:
        raise ActionError(f"bench memory --clips: {config.clips}; give an even number of at least 2.")
    if unknown := sorted(set(config.only) - set(probes)):
        raise ActionError(
            f"bench memory --only: {', '.join(unknown)} does not exist; there are {', '.join(probes)}."
        )


def measure(config: MemoryConfig, name: str, probe: Probe) -> str:
    """Measure one probe unless its file is still valid; what went wrong, "" if nothing did."""
    path = config.out / "probes" / f"{name}.json"
    key = fingerprint({"code": code_hash(), "probe": name, "settings": _settings(config)})
    if _read(path).get("fingerprint") == key:
        return ""
    folder = config.out / "work" / name
    folder.mkdir(parents=True, exist_ok=True)
    seeds = tuple(range(config.first_seed, config.first_seed + config.scenes))
    begin = time.perf_counter()
    try:
        found = probe(Setting(seeds, config.clips, config.model, folder))
    except Exception as error:  # noqa: BLE001 - a probe that fails is listed; the others go on
        return f"{type(error).__name__}: {error}"
    _write_pictures(config.out / "pictures", found)
    command = config.command(name)
    figures = {id: entry | {"command": command} for id, entry in found.figures.items()}
    seconds = round(time.perf_counter() - begin, 1)
    content = {"fingerprint": key, "code": code_hash(), "seconds": seconds, "figures": figures}
    write_json(path, plain(content | {"rows": found.rows, "data": found.data}))
    return ""


def _settings(config: MemoryConfig) -> list[Any]:
    return [config.first_seed, config.scenes, config.clips, config.model]


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _write_pictures(folder: Path, found: Probed) -> None:
    from PIL import Image

    for name, picture in found.pictures.items():
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{name}.png")


def collect(config: MemoryConfig, names: tuple[str, ...], failures: Mapping[str, str]) -> dict[str, Any]:
    """The content of results.json: of every probe that has a file in the folder."""
    code = code_hash()
    content: dict[str, Any] = {
        "schema": "spatia-bench/1", "run": {"suite": "memory", **origin()}, "figures": {}, "rows": {}, "data": {},
        "failures": dict(failures), "notes": [],
    }  # fmt: skip
    for name in names:
        probe = _read(config.out / "probes" / f"{name}.json")
        if not probe or name in failures:
            continue
        content["figures"] |= probe["figures"]
        content["rows"][name] = probe["rows"]
        content["data"][name] = probe["data"]
        if probe["code"] != code:
            content["notes"].append(f"{name}: measured by other code ({probe['code']}, now {code})")
    return content


def table_lines(content: Mapping[str, Any]) -> list[str]:
    """The figures, and the rows of every probe, as Markdown."""
    lines = ["| figure | value | 95 % interval | n | reach | holds |", "|---|---|---|---|---|---|"]
    for entry in content["figures"].values():
        unit = f" {entry['unit']}" if entry["unit"] else ""
        low, high = entry["ci"]
        holds = {None: "", True: "yes", False: "**no**"}[entry["holds"]]
        lines.append(
            f"| {entry['title']} | {entry['value']:.4g}{unit} | {low:.4g} to {high:.4g} | {entry['n']} "
            f"| {entry['reach'] or ''} | {holds} |"
        )
    for name, rows in content["rows"].items():
        if not rows:
            continue
        metrics = list(dict.fromkeys(metric for cells in rows.values() for metric in cells))
        lines += ["", f"| {name} | " + " | ".join(metrics) + " |", "|---" * (1 + len(metrics)) + "|"]
        for row, cells in rows.items():
            values = (f"{cells[metric]:.4g}" if metric in cells else "" for metric in metrics)
            lines.append(f"| {row} | " + " | ".join(values) + " |")
    lines += ["", *(f"Note: {note}." for note in content["notes"])] if content["notes"] else []
    return lines + [f"Failed: {name}: {error}" for name, error in content["failures"].items()]


def draw(folder: Path, plots: Mapping[str, Draw], data: Mapping[str, Any]) -> None:
    """Draw every plot whose data is there; without matplotlib, none."""
    try:
        import matplotlib.figure
    except ImportError:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, function in plots.items():
        canvas = matplotlib.figure.Figure(figsize=(8, 4.2), layout="constrained")
        if function(canvas, data):
            canvas.savefig(folder / f"{name}.png", dpi=130)
