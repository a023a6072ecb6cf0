"""`spatia info`: versions, ids and the embedded checkpoint, without loading any of them."""

import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro

import spatia_env

PACKAGES = ("gymnasium", "numpy", "torch", "diffusers", "open3d", "pybullet", "scipy", "tyro")
CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class InfoConfig:
    """Print versions, ids and the embedded checkpoint."""

    json: bool = False
    """Print JSON instead of text."""


def collect() -> dict[str, Any]:
    """What there is: version, Python, package versions, ids, checkpoints with their size in MB."""
    return {
        "spatia_env": spatia_env.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "ids": sorted(id for id, spec in gym.registry.items() if _is_ours(spec)),
        "checkpoints": {folder.name: _describe(folder) for folder in sorted(CHECKPOINTS.glob("*/"))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_ours(spec: Any) -> bool:
    return str(spec.entry_point).startswith("spatia_env.")


def _describe(folder: Path) -> dict[str, Any]:
    megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    return {"folder": str(folder), "megabytes": round(megabytes, 1)}


def main(argv: list[str]) -> int:
    """Run `spatia info`."""
    config = tyro.cli(InfoConfig, args=argv, prog="spatia info")
    found = collect()
    if config.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"spatia_env {found['spatia_env']}, Python {found['python']}, {found['system']}")
    packages = (f"{name} {version or '-'}" for name, version in found["packages"].items())
    print("packages     " + ", ".join(packages))
    print("ids          " + ", ".join(f"spatia_env:{name}" for name in found["ids"]))
    for name, checkpoint in found["checkpoints"].items():
        print(f"checkpoint   {name}, {checkpoint['megabytes']} MB, {checkpoint['folder']}")
    return 0
