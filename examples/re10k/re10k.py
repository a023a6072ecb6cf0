"""`python examples/re10k/re10k.py --folder DIR`: the paper's RealEstate10K row for users who have the data.

From the first frame of a posed clip the world is generated along the clip's own cameras and compared with its own
frames: PSNR, SSIM and a perceptual distance. The paper says neither which clips it took nor at what stride and
size, so numbers of other tables are printed apart. The unit of the poses is not metres: it is found from the
depth of the clip's frames (`train.posed_geometry`), the one thing that the rows are told beyond the first picture
and the path.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from tqdm import tqdm

from spatia_env.bench import features, metrics
from spatia_env.bench.provenance import code_hash, fingerprint, origin
from spatia_env.bench.statistics import two_way_bootstrap
from spatia_env.errors import ActionError, SpatiaError
from spatia_env.io.images import contact_sheet, write_sheet
from spatia_env.train.posed_geometry import DepthConfig, open_estimator
from spatia_env.train.videos import Job, PosedEpisode, VideosConfig, plan, read_episode

ENV_ID = "spatia_env:SpatiaPath-v0"
FRAMES = 8
ROWS: dict[str, dict[str, Any] | None] = {
    "default": {},
    "no-memory": {"memory": "none"},
    "no-references": {"references": 0},
    "memory-render-only": {"render_only": True},
    "frozen-frame": None,
}
"""Options of the environment; None repeats the first frame."""
WORST = {"psnr": 0.0, "ssim": 0.0, "perceptual": 1.0}
"""What a clip scores that could not be played."""
SHEETS = 6
SOURCE = "Spatia, arXiv 2512.15716, and Mirage, arXiv 2606.09828 (two transcriptions agree)"
PUBLISHED = (
    ("SEVA", "13.07", ".515", ".445"),
    ("VMem", "14.62", ".522", ".426"),
    ("ViewCrafter", "15.78", ".580", ".396"),
    ("FlexWorld", "16.25", ".593", ".370"),
    ("Voyager", "17.79", ".636", ".297"),
    ("Spatia", "18.58", ".646", ".254"),
    ("Mirage", "18.38", ".779", ".250"),
)
"""System, PSNR, SSIM, LPIPS. Published, not reproduced: other frames, other sizes, LPIPS."""


@dataclass(frozen=True)
class Re10kConfig:
    """Generate posed clips from their first frame and compare with what was filmed."""

    folder: Path
    """posed videos (docs/training.md): cameras/ and videos/ or frames/"""
    out: Path = Path("out/bench/re10k")
    """folder to write to; clips that were measured are kept"""
    rows: tuple[str, ...] = ("default", "no-memory", "memory-render-only", "frozen-frame")
    """default, no-memory, no-references, memory-render-only, frozen-frame"""
    videos: int = 0
    """how many clips, in order of their names; 0 for all"""
    clips: int = 4
    """steps of 8 frames"""
    stride: int = 4
    """every n-th camera"""
    size: tuple[int, int] = (128, 128)
    """height and width"""
    model: str = "spatia-tiny"
    """checkpoint"""
    depth: DepthConfig = field(default_factory=DepthConfig)
    """tells the poses' unit; from files or MapAnything it also gives the first picture its depth"""

    def source(self) -> VideosConfig:
        """What is read."""
        return VideosConfig(
            self.folder, self.out, self.size, self.clips, (self.stride,), 1, depth=self.depth, skip_bad=True
        )


def main(argv: list[str]) -> int:
    """Run the bench; 0 when every clip was measured, 1 when some failed (they count as worst)."""
    content = run(
        tyro.cli(Re10kConfig, args=argv, prog="python examples/re10k/re10k.py", description=__doc__)
    )
    print("\n".join(table_lines(content)))
    return 1 if content["failures"] else 0


def run(config: Re10kConfig) -> dict[str, Any]:
    """Measure what is missing and write results.json, table.md and sheets/.

    Raises:
        ActionError: Unknown rows, or nothing in the folder can be used.
        DatasetError: The folder is not of the layout.
    """
    unknown = sorted(set(config.rows) - ROWS.keys())
    if unknown or not config.rows:
        raise ActionError(f"--rows {unknown}: there are {', '.join(ROWS)}.")
    jobs, unusable = plan(config.source())
    jobs = jobs[: config.videos or None]
    if not jobs:
        raise ActionError(f"{config.folder}: no clip can be used; the first: {unusable[0]}")
    started = time.time()
    estimator = open_estimator(config.depth)
    decides = asdict(config) | {"out": "", "folder": "", "videos": 0, "code": code_hash()}
    decides["depth"] = asdict(config.depth) | {"mapanything": str(config.depth.mapanything)}
    with _Envs(config) as envs:
        units = [
            _cached(config, envs, estimator, job, decides, number < SHEETS)
            for number, job in enumerate(tqdm(jobs, desc="re10k", mininterval=5))
        ]
        run_ = {**origin(), "checkpoint": envs.checkpoint, "seconds": round(time.time() - started, 1)}
    content = _content(config, units, unusable, run_)
    config.out.mkdir(parents=True, exist_ok=True)
    _write(config.out / "results.json", json.dumps(content, indent=1) + "\n")
    _write(config.out / "table.md", "\n".join(table_lines(content)) + "\n")
    return content


class _Envs:
    """One environment a row, made when it is first needed; a context that closes them."""

    def __init__(self, config: Re10kConfig) -> None:
        self.config, self.checkpoint = config, ""
        self._envs: dict[str, gym.Env] = {}

    def __enter__(self) -> "_Envs":
        return self

    def __exit__(self, *exc: object) -> None:
        for env in self._envs.values():
            env.close()

    def get(self, row: str, options: dict[str, Any]) -> gym.Env:
        """The environment of a row."""
        if row not in self._envs:
            env = gym.make(ENV_ID, size=self.config.size, model=self.config.model, **options)
            inner: Any = env.unwrapped
            if inner.shape.num_frames != FRAMES:
                raise ActionError(
                    f"re10k: clips have {FRAMES} frames a step, {self.config.model} makes others."
                )
            self._envs[row], self.checkpoint = env, str(inner.checkpoint_id)
        return self._envs[row]


def _cached(
    config: Re10kConfig,
    envs: _Envs,
    estimator: Any | None,
    job: Job,
    decides: dict[str, Any],
    sheet: bool,
) -> dict[str, Any]:
    """The scores of one clip by row, from its file where that still holds."""
    stamp = fingerprint(decides | {"frames": job.frames.stat().st_mtime_ns})
    path = config.out / "units" / f"{job.video.name}.json"
    if path.exists():
        unit = json.loads(path.read_text())
        if unit["fingerprint"] == stamp and not unit["error"]:
            return unit
    unit = {"name": job.video.name, "fingerprint": stamp, "rows": {}, "error": ""}
    try:
        episode = read_episode(job, config.source(), estimator)
        unit["metres_a_unit"] = episode.scale
        shown = {row: play(envs, row, episode, job.caption, config.depth) for row in config.rows}
        truth = episode.frames[1:].numpy()
        unit["rows"] = {row: score(frames, truth) for row, frames in shown.items()}
        if sheet:
            _sheet(config.out / "sheets", job.video.name, truth, shown)
    except SpatiaError as cause:
        unit["error"] = str(cause)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(unit))
    return unit


def play(envs: _Envs, row: str, episode: PosedEpisode, caption: str, depth: DepthConfig) -> np.ndarray:
    """Frames u8 [8 n, H, W, 3] of a row along the clip's path, from its first picture."""
    first, options = episode.frames[0].numpy(), ROWS[row]
    if options is None:
        return np.repeat(first[None], len(episode.frames) - 1, 0)
    env = envs.get(row, options)
    c2w = episode.c2w.double().numpy()
    start: dict[str, Any] = {
        "image": first,
        "intrinsics": episode.K.numpy(),
        "pose": c2w[0],
        "prompt": caption,
    }
    if depth.source != "network":
        start["depth"] = episode.depth[0].numpy()
    env.reset(seed=0, options=start)
    shown = []
    for begin in range(0, len(c2w) - 1, FRAMES):
        relative = np.linalg.inv(c2w[begin]) @ c2w[begin + 1 : begin + 1 + FRAMES]
        relative = np.where(np.abs(relative - np.eye(4)) < 1e-7, np.eye(4), relative)  # a rest is exact
        shown.append(env.step({"path": relative.astype(np.float32), "event": ""})[0]["frames"])
    return np.concatenate(shown)


def score(frames: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean PSNR, SSIM and perceptual distance of frames u8 [N, H, W, 3]."""
    scores = {
        "psnr": float(metrics.frame_psnr(frames, truth).mean()),
        "ssim": float(np.mean([metrics.ssim(a, b) for a, b in zip(frames, truth, strict=True)])),
    }
    if features.available():
        scores["perceptual"] = float(features.distance(frames, truth).mean())
    return {name: value if np.isfinite(value) else WORST[name] for name, value in scores.items()}


def _content(
    config: Re10kConfig, units: list[dict[str, Any]], unusable: list[str], run_: dict[str, Any]
) -> dict[str, Any]:
    kinds = [kind for kind in WORST if kind != "perceptual" or features.available()]
    rows: dict[str, Any] = {}
    for row in config.rows:
        rows[row] = {}
        for kind in kinds:
            values = [WORST[kind] if unit["error"] else unit["rows"].get(row, WORST)[kind] for unit in units]
            mean = two_way_bootstrap(np.array(values)[:, None])
            rows[row][kind] = {
                "mean": round(mean.value, 4),
                "ci95": [round(mean.low, 4), round(mean.high, 4)],
                "n": mean.n,
            }
    command = f"python examples/re10k/re10k.py --folder DIR --clips {config.clips} --stride {config.stride}"
    command += f" --size {config.size[0]} {config.size[1]} --depth.source {config.depth.source}"
    return {
        "schema": "spatia-re10k/1",
        "suite": "re10k",
        "run": run_ | {"command": command},
        "perceptual": features.ALEX if features.available() else "",
        "rows": rows,
        "videos": [{k: v for k, v in unit.items() if k != "fingerprint"} for unit in units],
        "failures": [{"video": unit["name"], "error": unit["error"]} for unit in units if unit["error"]],
        "unusable": unusable,
        "published": {"source": SOURCE, "columns": ["PSNR", "SSIM", "LPIPS"], "rows": PUBLISHED},
    }


def table_lines(content: dict[str, Any]) -> list[str]:
    """The tables in Markdown: ours, and below it what others published."""
    rows = content["rows"]
    kinds = list(next(iter(rows.values())))
    heads = {"psnr": "PSNR", "ssim": "SSIM", "perceptual": content["perceptual"]}
    digits = {"psnr": 2, "ssim": 3, "perceptual": 3}
    lines = ["| row | " + " | ".join(heads[kind] for kind in kinds) + " |", "|---" * (1 + len(kinds)) + "|"]
    for row, cells in rows.items():
        shown = []
        for kind in kinds:
            cell, d = cells[kind], digits[kind]
            shown.append(f"{cell['mean']:.{d}f} [{cell['ci95'][0]:.{d}f}, {cell['ci95'][1]:.{d}f}]")
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    n, failed, unusable = len(content["videos"]), len(content["failures"]), len(content["unusable"])
    lines += ["", f"{n} clips, {failed} of them failed (worst score), {unusable} could not be used."]
    lines += [f"- {item['video']}: {item['error']}" for item in content["failures"]]
    published = content["published"]
    lines += ["", f"Published, not reproduced ({published['source']}):", ""]
    lines += ["| system | " + " | ".join(published["columns"]) + " |", "|---|---|---|---|"]
    return lines + [f"| {' | '.join(row)} |" for row in published["rows"]]


def _sheet(folder: Path, name: str, truth: np.ndarray, shown: dict[str, np.ndarray]) -> None:
    """The last frame of every step: filmed, and by row."""
    last = slice(FRAMES - 1, None, FRAMES)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("filmed", truth[last]), *((row, frames[last]) for row, frames in shown.items())]
    write_sheet(folder / f"{name}.png", contact_sheet(rows))


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
