"""Where a number comes from: code, commit, versions, machine; and the fingerprint that decides whether a
unit still holds.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import spatia_env

PROTOCOL = 3
"""Changes whenever units of before can no longer be compared."""
PACKAGES = ("numpy", "torch", "diffusers", "gymnasium", "pybullet", "scipy")
_UNMEASURED = ("cli.py", "demo.py", "rollout.py", "info.py", "gallery", "export_html.py", "train", "viewer")
_REPORTING = (
    "cli.py",
    "compare.py",
    "pages.py",
    "provenance.py",
    "report.py",
    "runner.py",
    "statistics.py",
    "twin.py",
)


def fingerprint(decides: dict[str, Any]) -> str:
    """A hash of plain values."""
    text = json.dumps({"protocol": PROTOCOL, **decides}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_hash() -> str:
    """A hash of the package's source that takes part in a measurement (not of commands, training or
    reporting).
    """
    root, digest = Path(spatia_env.__file__).parent, hashlib.sha256()
    for path in sorted(
        [*root.rglob("*.py"), *root.glob("checkpoints/*.safetensors"), root / "bench" / "judge.json"]
    ):
        parts = path.relative_to(root).parts
        if parts[0] in _UNMEASURED or (parts[0] == "bench" and parts[-1] in _REPORTING):
            continue
        digest.update("/".join(parts).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def source_hash(parts: tuple[str, ...]) -> str:
    """A hash of some modules and folders of the package, such as ("sim", "bench/episodes.py")."""
    root, digest = Path(spatia_env.__file__).parent, hashlib.sha256()
    for part in parts:
        for path in sorted((root / part).rglob("*.py")) if (root / part).is_dir() else [root / part]:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit of the source tree, with + where files differ from it; "" outside of a repository."""
    root = Path(spatia_env.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    ask = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def origin() -> dict[str, Any]:
    """Code, versions, date and hardware of a run."""
    versions = {"spatia_env": spatia_env.__version__, "python": platform.python_version()}
    return {
        "code": code_hash(),
        "commit": commit(),
        "protocol": PROTOCOL,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions | {name: importlib.metadata.version(name) for name in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 1),
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
