"""The official WorldScore benchmark: `python worldscore.py prepare | generate | evaluate | collect`.

    export WORLDSCORE_PATH=... DATA_PATH=... MODEL_PATH=...     # as the benchmark's .env
    cd examples/worldscore
    python worldscore.py prepare                                # what is there and what is missing
    python worldscore.py generate --model weights/spatia-wan    # its items, in its layout; goes on where it was
    python worldscore.py evaluate                               # the official evaluator; a GPU and its weights
    python worldscore.py collect                                # its scores, with intervals over items

`WORLDSCORE_PATH` holds the clone WorldScore/, `DATA_PATH` holds WorldScore-Dataset/, and files go to
`MODEL_PATH`/spatia_env. The poses of an item are followed exactly; the benchmark's own loop for video models never
passes them. Frames are square by default (512 x 512, focal length 500): its estimate of the camera assumes that.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from spatia_env.bench.files import write_json
from spatia_env.errors import DatasetError, SpatiaError
from spatia_env.release.rollout import clips_of
from worldscore_layout import COUNTS, Item, fit_picture, read_items, write_item
from worldscore_scores import collect
from ws_cameras import FOCAL, FRAMES, interpolated

NAME = "spatia_env"
VARIABLES = ("WORLDSCORE_PATH", "DATA_PATH", "MODEL_PATH")
CHECKPOINTS = (
    "droid.pth",
    "groundingdino_swint_ogc.pth",
    "Tartan-C-T-TSKH-spring540x960-M.pth",
    "sam2.1_hiera_base_plus.pt",
)
Movement = Literal["static", "dynamic"]


@dataclass(frozen=True)
class Prepare:
    """Say what the evaluation needs and what is missing, and write this model's configuration into the clone."""

    resolution: tuple[int, int] = (512, 512)
    """width and height of the frames"""


@dataclass(frozen=True)
class Generate:
    """Generate the benchmark's items in its layout; complete items are kept."""

    movements: tuple[Movement, ...] = ("static", "dynamic")
    """which halves"""
    model: str = "spatia-tiny"
    """checkpoint: a name or a folder"""
    size: tuple[int, int] | None = None
    """height and width at which the model works; its own by default"""
    resolution: tuple[int, int] = (512, 512)
    """width and height of the frames that are written"""
    unit: float = 1.0
    """metres that stand for the benchmark's unit of camera motion, which has none"""
    limit: int | None = None
    """only the first items of each half"""
    seed: int = 0
    """of the environment"""


@dataclass(frozen=True)
class Evaluate:
    """Run the official evaluator on what was generated."""

    python: str = sys.executable
    """the interpreter of the benchmark's environment"""


@dataclass(frozen=True)
class Collect:
    """Gather the official scores, with intervals over items; refuses a headline of fewer than all items."""

    partial: bool = False
    """print the aggregates although items are missing"""


Stage = (
    Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
)


def main(argv: list[str]) -> int:
    """Run one stage; the exit code."""
    stage = tyro.cli(Stage, args=argv, prog="worldscore.py", description=__doc__)  # type: ignore[call-overload]
    runners: dict[type, Any] = {Prepare: prepare, Generate: generate, Evaluate: evaluate, Collect: gather}
    return int(runners[type(stage)](stage))


def place(variable: str) -> Path:
    """The folder that an environment variable names.

    Raises:
        DatasetError: It is not set.
    """
    value = os.environ.get(variable, "")
    if not value:
        raise DatasetError(
            f"{variable} is not set; it is one of {', '.join(VARIABLES)}, see `python worldscore.py --help`."
        )
    return Path(value)


def runs_root() -> Path:
    """Where this model's files go."""
    return place("MODEL_PATH") / NAME


def configuration(resolution: tuple[int, int]) -> str:
    """The benchmark's configuration file of this model."""
    width, height = resolution
    return (
        f"model: {NAME}\n\nruns_root: ${{oc.env:MODEL_PATH}}/{NAME}\n\nresolution: [{width}, {height}]\n"
        f"generate_type: i2v\n\nframes: {FRAMES}\nfps: 10\n"
    )


def prepare(stage: Prepare) -> int:
    """Print what is there; 0 if nothing is missing."""
    lacking = missing()
    clone = Path(os.environ.get("WORLDSCORE_PATH", "")) / "WorldScore"
    if (clone / "config").is_dir():
        path = clone / "config" / "model_configs" / f"{NAME}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(configuration(stage.resolution), encoding="utf-8")
        print(f"written: {path}")
    for line in lacking:
        print(f"missing: {line}")
    print(
        "ready to generate and evaluate" if not lacking else "see the benchmark's README for what is missing"
    )
    return 1 if lacking else 0


def missing() -> list[str]:
    """What generating and evaluating need and do not find, one line each."""
    lines = [f"the environment variable {name}" for name in VARIABLES if not os.environ.get(name)]
    if not lines:
        clone, data = place("WORLDSCORE_PATH") / "WorldScore", place("DATA_PATH") / "WorldScore-Dataset"
        needed = [clone / "worldscore" / "run_evaluate.py", clone / "config" / "base_config.yaml"]
        needed += [data / movement / f"{movement}.json" for movement in COUNTS]
        needed += [
            clone / "worldscore" / "benchmark" / "metrics" / "checkpoints" / name for name in CHECKPOINTS
        ]
        lines += [str(path) for path in needed if not path.is_file()]
    return lines


def generate(stage: Generate) -> int:
    """Generate what is missing; 0 when every item is complete."""
    import gymnasium as gym

    dataset, runs = place("DATA_PATH") / "WorldScore-Dataset", runs_root()
    items = [
        item for movement in stage.movements for item in read_items(dataset, movement, runs)[: stage.limit]
    ]
    failures = {}
    env = gym.make("spatia_env:SpatiaPath-v0", model=stage.model, size=stage.size, max_episode_steps=10_000)
    try:
        for item in tqdm([item for item in items if not item.complete()], desc="worldscore", unit="item"):
            try:
                generate_item(env, item, stage)
            except SpatiaError as error:
                failures[str(item.folder)] = str(error)
                tqdm.write(f"{item.folder}: {error}")
    finally:
        env.close()
    runs.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": stage.model,
        "unit": stage.unit,
        "resolution": list(stage.resolution),
        "seed": stage.seed,
    }
    write_json(runs / "spatia.json", {"settings": settings, "failures": failures})
    print(f"{sum(item.complete() for item in items)} of {len(items)} items are complete under {runs}")
    return 1 if failures else 0


def generate_item(env: Any, item: Item, stage: Generate) -> None:
    """Play one item along its cameras and write its files."""
    begin = time.perf_counter()
    picture = fit_picture(item.image, stage.resolution)
    width, height = stage.resolution
    # The benchmark's focal length is given at a width of 512.
    across = FOCAL / 512
    intrinsics = [across, across * width / height, 0.5, 0.5]
    options = {"image": np.asarray(picture), "intrinsics": intrinsics, "prompt": item.prompts[0]}
    observation, _ = env.reset(seed=stage.seed, options=options)
    frames = [observation["frames"][-1:]]
    poses = interpolated(item.path, unit=stage.unit)
    for number, clip in enumerate(clips_of(poses, len(observation["frames"]))):
        text = event_of(item, number * len(observation["frames"]), len(observation["frames"]))
        frames.append(env.step({"path": clip.astype(np.float32), "event": text})[0]["frames"])
    shown = np.concatenate(frames)[: item.total_frames]
    large = np.stack([np.asarray(Image.fromarray(frame).resize(stage.resolution)) for frame in shown])
    write_item(item, picture, large, time.perf_counter() - begin)


def event_of(item: Item, first: int, count: int) -> str:
    """What a clip from frame `first` is asked for: a dynamic item's prompt; a new scene's where that begins."""
    if item.movement == "dynamic":
        return item.prompts[0]
    for scene in range(len(item.path)):
        begins = scene * (FRAMES - 1)
        if first <= begins < first + count and scene + 1 < len(item.prompts):
            return item.prompts[scene + 1]
    return ""


def evaluate(stage: Evaluate) -> int:
    """Run the official evaluator with this model registered; its exit code.

    Raises:
        DatasetError: Something it needs is missing.
    """
    lacking = missing()
    if lacking:
        raise DatasetError(f"worldscore evaluate: missing {'; '.join(lacking)}.")
    script = (
        "import runpy, sys\n"
        "from worldscore.benchmark.utils.modeltype import type2model\n"
        f"type2model['videogen'].append({NAME!r})\n"
        f"sys.argv = ['worldscore/run_evaluate.py', '--model_name', {NAME!r}]\n"
        "runpy.run_path('worldscore/run_evaluate.py', run_name='__main__')\n"
    )
    return subprocess.run(
        [stage.python, "-c", script], cwd=place("WORLDSCORE_PATH") / "WorldScore", check=False
    ).returncode


def gather(stage: Collect) -> int:
    """Print and write the scores; 1 if items are missing."""
    content = collect(runs_root() / "worldscore_output")
    write_json(runs_root() / "summary.json", content)
    print("| aspect | score | 95 % interval | items |\n|---|---|---|---|")
    for name, cell in content["aspects"].items():
        print(f"| {name} | {cell['value']:.2f} | {cell['ci'][0]:.2f} to {cell['ci'][1]:.2f} | {cell['n']} |")
    short = {
        name: (content["items"][name], count)
        for name, count in COUNTS.items()
        if content["items"][name] != count
    }
    if short and not stage.partial:
        print(f"no headline: items are missing (evaluated, of): {short}; --partial prints it all the same")
        return 1
    for name, value in content["totals"].items():
        print(f"{name}: {value:.2f}" + (f" (partial: {short})" if short else ""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
