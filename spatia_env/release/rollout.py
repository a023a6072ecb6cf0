"""`spatia rollout`: follow the cameras of a case folder from its picture.

The poses are taken T at a time, the last clip is padded by its last pose, and what was padded is cut off
again. Prompts go one line a clip, the last repeated.
"""

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from tqdm import tqdm

from spatia_env.errors import CaseError
from spatia_env.geometry import invert_se3
from spatia_env.io.video import VideoWriter
from spatia_env.models.loading import is_official
from spatia_env.release.case import Case, describe, read_case, write_poses


@dataclass(frozen=True)
class RolloutConfig:
    """Follow the cameras and prompts of a case folder.

    The folder holds img.jpg, w2c.txt, intrinsics.txt, prompt.txt, and perhaps mask.png. Writes rollout.mp4,
    world.ply, poses.txt and summary.json. With a folder of official weights the release's rounds are followed,
    with its options: `spatia rollout --model DIR --help`.
    """

    case: Path
    """The case folder."""
    out: Path
    """Folder to write to."""
    model: str | None = None
    """Checkpoint: a name or a folder; the embedded one by default."""
    size: tuple[int, int] | None = None
    """Height and width of the frames, pixels; the environment's own by default."""
    seed: int = 0
    """Seed of the environment."""
    max_frames: int | None = None
    """Use only so many of the poses."""
    fps: float = 8.0
    """Frames a second of the film."""
    scale: int = 1
    """Factor by which the film enlarges the frames."""


def clips_of(path: np.ndarray, num_frames: int) -> list[np.ndarray]:
    """Cut poses [N, 4, 4] into clips [T, 4, 4], each relative to the pose before it.

    The first pose is where the picture was taken, so N poses give N - 1 new frames; the last clip is padded
    by its last pose.

    Raises:
        CaseError: If there is no second pose.
    """
    if len(path) < 2:
        raise CaseError("w2c.txt: holds one camera, the picture's own; add the poses to go to.")
    missing = -(len(path) - 1) % num_frames
    padded = np.concatenate([path, np.repeat(path[-1:], missing, axis=0)])
    starts = range(0, len(padded) - 1, num_frames)
    return [invert_se3(padded[start]) @ padded[start + 1 : start + 1 + num_frames] for start in starts]


def run_rollout(config: RolloutConfig) -> dict[str, Any]:
    """Follow the case, write the files, and return the summary that is also in summary.json.

    Raises:
        CaseError: If the folder is incomplete or malformed.
    """
    case = read_case(config.case)
    path = case.path[: config.max_frames]
    if len(path) < 2:
        raise CaseError(f"{config.case}/w2c.txt: leaves no pose to go to; the first is the picture's own.")
    given = {"model": config.model, "size": config.size}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    # The length of the walk is the case's; the time limit of the id does not cut it.
    env = gym.make("spatia_env:SpatiaPath-v0", max_episode_steps=-1, **options)
    config.out.mkdir(parents=True, exist_ok=True)
    try:
        observation, _ = env.reset(seed=config.seed, options=_reset_options(case))
        summary = _follow(config, env, case, path, observation)
        env.unwrapped.world.export(config.out / "world.ply")  # type: ignore[attr-defined]
        summary |= {
            "checkpoint": env.unwrapped.checkpoint_id,  # type: ignore[attr-defined]
            "points": int(env.unwrapped.world.memory.num_points),  # type: ignore[attr-defined]
        }
    finally:
        env.close()
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    (config.out / "summary.json").write_text(text, encoding="utf-8")
    return summary


def _reset_options(case: Case) -> dict[str, Any]:
    options = {
        "image": case.image,
        "prompt": case.prompt(0),
        "intrinsics": case.intrinsics,
        "mask": case.mask,
    }
    return {key: value for key, value in options.items() if value is not None}


def _follow(
    config: RolloutConfig, env: Any, case: Case, path: np.ndarray, first: dict[str, np.ndarray]
) -> dict[str, Any]:
    num_frames = len(first["frames"])
    clips = clips_of(path, num_frames)
    start_w2c = invert_se3(first["pose"][-1].astype(np.float64))
    poses = [np.eye(4)[None]]
    began = time.perf_counter()
    with VideoWriter(config.out / "rollout.mp4", config.fps, config.scale) as writer:
        writer.append(first["frames"][-1:])
        for index, clip in enumerate(tqdm(clips, desc="rollout", unit="clip")):
            left = len(path) - 1 - index * num_frames
            _say(env.unwrapped.world, case.prompt(index))
            observation, *_ = env.step({"path": clip.astype(np.float32), "event": ""})
            writer.append(observation["frames"][:left])
            poses.append(start_w2c @ observation["pose"][:left])
    write_poses(config.out / "poses.txt", np.concatenate(poses))
    return describe(case) | {
        "case": str(config.case),
        "seed": config.seed,
        "steps": len(clips),
        "frames": len(path),
        "poses_are": "c2w relative to the first camera, one JSON 4x4 a line",
        "seconds_per_step": round((time.perf_counter() - began) / len(clips), 3),
    }


def _say(world: Any, prompt: str) -> None:
    """Let the clips that follow read another prompt."""
    world.state = dataclasses.replace(world.state, prompt=prompt)


def main(argv: list[str]) -> int:
    """Run `spatia rollout`; a folder of official weights is followed by the release's rounds."""
    if follows_release(argv):
        from spatia_env.release.pipeline import main as follow_release

        return follow_release(argv)
    config = tyro.cli(RolloutConfig, args=argv, prog="spatia rollout")
    summary = run_rollout(config)
    print(f"{summary['frames']} frames in {summary['steps']} clips, {summary['points']} points")
    print(f"wrote {config.out}/rollout.mp4, world.ply, poses.txt, summary.json")
    return 0


def follows_release(argv: list[str]) -> bool:
    """Whether `--model` names a folder of official weights; each of the two roads has options of its own."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    model = parser.parse_known_args(argv)[0].model
    return model is not None and is_official(model)
