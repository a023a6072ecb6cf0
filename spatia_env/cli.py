"""The command line `spatia`: one verb a job, each loaded only when it is called.

A verb is a function `main(argv: list[str]) -> int | None` in the module that does the job, which reads its
arguments with tyro from a frozen dataclass. Errors that a user can mend are one line on stderr and exit code
2; `--debug` anywhere shows the traceback. Exit code 1 is an error in the program, or a bench that failed; `spatia
replay` returns 3 for an episode that does not repeat.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

import spatia_env
from spatia_env import __version__
from spatia_env.errors import SpatiaError
from spatia_env.io.validation import near_miss

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


def info(argv: list[str]) -> int:
    """Run `spatia info`."""
    import tyro

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


USAGE_ERROR = 2


@dataclass(frozen=True)
class Command:
    """A verb: module and function that run it, and its line in the help."""

    module: str
    summary: str
    function: str = "main"


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "spatia_env.viewer.demo", "walk through a generated world: a film, a sheet, a point cloud"
    ),
    "rollout": Command("spatia_env.release.rollout", "follow the cameras and prompts of a case folder"),
    "view": Command("spatia_env.viewer.cli", "walk, speak, edit and fork a world in the browser"),
    "export-html": Command("spatia_env.viewer.export_html", "one page of an episode that opens from disk"),
    "record": Command(
        "spatia_env.recording",
        "play episodes and write them down: film, JSON, Minari, WebDataset",
        "record_main",
    ),
    "replay": Command(
        "spatia_env.recording",
        "play a recorded episode again; names the first step that differs",
        "replay_main",
    ),
    "train": Command("spatia_env.train.cli", "train the parts of the embedded checkpoint from their seeds"),
    "bench": Command("spatia_env.bench.cli", "measure against ground truth; writes results.json and tables"),
    "convert": Command(
        "spatia_env.models.wan.convert", "turn the officially released weights into one folder"
    ),
    "doctor": Command("spatia_env.models.wan.doctor", "say what this machine can run, and why not more"),
    "info": Command("spatia_env.cli", "versions, ids and the embedded checkpoint", "info"),
}

_HELP = """\
spatia {version}: a Gymnasium environment over a generated world that remembers itself

usage: spatia COMMAND [OPTIONS]        spatia COMMAND --help for its options

{commands}

options:
  --version    print the version
  --debug      show the traceback of an error

examples:
  spatia demo --out out/demo
  spatia rollout --case my_case --out out/my_case
  spatia bench smoke --out out/bench
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    # Threads that wait in a loop take the processor from whatever else runs: a step beside other work took ten times
    # as long. OpenMP reads this once, before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if args else USAGE_ERROR
    if args[0] in ("--version", "-V"):
        print(f"spatia {__version__}")
        return 0
    try:
        return _run(args[0], args[1:])
    except (SpatiaError, OSError, KeyboardInterrupt) as error:
        if debug:
            raise
        return _report(args[0], error)


def _run(name: str, args: list[str]) -> int:
    if name not in COMMANDS:
        print(f"spatia: unknown command {name!r}{near_miss(name, COMMANDS)}", file=sys.stderr)
        print("Run `spatia --help`.", file=sys.stderr)
        return USAGE_ERROR
    command = COMMANDS[name]
    main = getattr(importlib.import_module(command.module), command.function)
    return int(main(args) or 0)


def _report(name: str, error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        print(f"\nspatia {name}: interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):
        # The reader (`| head`) has gone: nothing is left to say, and flushing at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    print(f"spatia {name}: {_one_line(str(error))}", file=sys.stderr)
    return USAGE_ERROR


def _one_line(text: str) -> str:
    # Text of users may be quoted in it: control characters must not reach the terminal.
    return "".join(character if character.isprintable() else " " for character in text)


def help_text() -> str:
    """What `spatia --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return _HELP.format(version=__version__, commands="commands:\n" + "\n".join(lines))


if __name__ == "__main__":
    raise SystemExit(main())
