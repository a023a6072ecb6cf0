"""What importing costs, and that agents and examples use public names only."""

import ast
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import spatia_env

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "open3d", "pybullet", "diffusers", "transformers", "scipy", "PIL", "tyro"}
NUMPY_ONLY = ("cli", "errors", "io.validation", "events.vocabulary")
"""What the command line's help and its argument checks load."""


def loaded_by(code: str) -> set[str]:
    check = f"{code}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import spatia_env") & HEAVY


def test_checking_arguments_loads_no_framework():
    modules = ", ".join(f"spatia_env.{name}" for name in NUMPY_ONLY)
    assert not loaded_by(f"import {modules}") & HEAVY


@pytest.mark.parametrize("name", ["Spatia-v0", "SpatiaPath-v0", "SpatiaDiscrete-v0", "SpatiaRL-v0"])
def test_specs(name):
    spec = gym.spec(name)
    assert isinstance(spec.entry_point, str) and spec.max_episode_steps == spatia_env.MAX_EPISODE_STEPS
    assert gym.envs.registration.EnvSpec.from_json(spec.to_json()) == spec


def scripts() -> list[Path]:
    return sorted(path for folder in ("examples", "agents") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.name)
def test_scripts_use_gymnasium_and_public_names_only(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "spatia_env":
                assert not any(part.startswith("_") for part in parts), f"{path.name}: {name} is private"
                assert parts[1:2] not in (["sim"], ["models"], ["slam"]), f"{path.name}: {name} is inside"
