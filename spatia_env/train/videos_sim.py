"""`spatia train videos-from-sim`: a folder of posed videos in RealEstate10K's layout, made from simulated scenes.

To try `spatia train videos` and `spatia bench re10k` on, and to test them: the truth is known. Like the real ones,
the files have an arbitrary world (the first camera's) and an arbitrary unit.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from spatia_env.errors import ActionError
from spatia_env.geometry import invert_se3
from spatia_env.io.video import write_video
from spatia_env.train.episodes import EpisodeConfig, record_episode
from spatia_env.train.posed import write_cameras

RATE = 30
LEAD_IN = 45
"""Frames that a whole video shows before the clip begins."""

Kind = Literal["clips", "frames", "whole"]


@dataclass(frozen=True)
class VideosFromSimConfig:
    """Write a folder of posed videos of simulated scenes."""

    out: Path = Path("runs/posed")
    """folder to write"""
    split: str = "train"
    """train or dev; decides wordings"""
    first: int = 0
    """first scene seed"""
    count: int = 4
    """how many scenes, a clip each"""
    clips: int = 2
    """walks of 8 frames in a clip"""
    size: tuple[int, int] = (144, 256)
    """height and width of the frames"""
    unit: float = 1.0
    """metres that a unit of the written poses is long"""
    kind: Kind = "clips"
    """clips (films with a frame for each camera), frames (pictures), or whole (videos that begin before the clip)"""
    events: bool = False
    """let things happen"""
    truth: bool = False
    """write depth/ and masks/ too"""


def videos_from_sim(config: VideosFromSimConfig) -> int:
    """Write the folder; returns how many clips.

    Raises:
        ActionError: The unit is not a positive length.
    """
    if not (np.isfinite(config.unit) and config.unit > 0):
        raise ActionError(f"--unit {config.unit}: give metres above 0.")
    captions = {}
    for seed in tqdm(range(config.first, config.first + config.count), desc="videos-from-sim", mininterval=5):
        share = 1.0 if config.events else 0.0
        recipe = EpisodeConfig(config.clips, *config.size, event_share=share, quiet_share=0.0)
        episode = record_episode(seed, recipe, config.split)
        name = f"{seed:016x}"
        write_clip(config, name, episode)
        captions[name] = episode["meta"]["prompt"]
    (config.out / "captions.json").write_text(json.dumps(captions, indent=1) + "\n", encoding="utf-8")
    return config.count


def write_clip(config: VideosFromSimConfig, name: str, episode: dict) -> None:
    """Write the cameras, pixels and perhaps the truth of one recorded episode."""
    count = len(episode["frames"])
    source = f"sim-{name[-4:]}"
    begin = LEAD_IN if config.kind == "whole" else 0
    timestamps = np.round((begin + np.arange(count)) * 1e6 / RATE).astype(np.int64)
    height, width = config.size
    K = np.asarray(episode["K"], np.float64)
    lens = np.array([K[0, 0] / width, K[1, 1] / height, K[0, 2] / width, K[1, 2] / height])
    poses = invert_se3(np.asarray(episode["c2w"][:1], np.float64)) @ episode["c2w"].astype(np.float64)
    poses[:, :3, 3] /= config.unit
    address = f"https://www.youtube.com/watch?v={source}"
    write_cameras(config.out / "cameras" / f"{name}.txt", address, timestamps, lens, poses)
    if config.kind == "clips":
        write_video(config.out / "videos" / f"{name}.mp4", episode["frames"], RATE)
    elif config.kind == "whole":
        lead = np.repeat(255 - episode["frames"][:1], LEAD_IN, axis=0)  # another picture, to be skipped
        write_video(config.out / "videos" / f"{source}.mp4", np.concatenate([lead, episode["frames"]]), RATE)
    else:
        _write_pictures(config.out / "frames" / name, timestamps, episode["frames"])
    if config.truth:
        millimetres = np.round(episode["depth"].astype(np.float32) * 1000).astype(np.uint16)
        _write_pictures(config.out / "depth" / name, timestamps, millimetres)
        masks = episode["dynamic"].astype(np.uint8) * 255
        _write_pictures(config.out / "masks" / name, timestamps, masks)


def _write_pictures(folder: Path, timestamps: np.ndarray, pictures: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for time, picture in zip(timestamps, pictures, strict=True):
        Image.fromarray(picture).save(folder / f"{time}.png")
