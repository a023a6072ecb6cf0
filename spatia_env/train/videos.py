"""`spatia train videos`: episode files from a folder of posed videos, for `encode`, `geometry` and `world-model`.

Cameras, frames and texts are read and checked (`posed`, `posed_frames`), brought upright and to metres, given depth
(`posed_geometry`), and remembered by the very memory, renderer and retrieval that the simulator's episodes go
through (`episodes`). All clips are checked before the first is written; files that exist are kept.
"""

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError, SpatiaError
from spatia_env.slam.depth_network import GeometryEstimator
from spatia_env.train.episodes import FRAMES, CorruptionConfig, in_processes, remember_episode, write_episode
from spatia_env.train.posed import PosedVideo, camera_files, read_cameras, read_captions, windows
from spatia_env.train.posed_frames import find_frames, read_planes, read_rows
from spatia_env.train.posed_geometry import (
    DepthConfig,
    lone_depths,
    metric_scale,
    open_estimator,
    placed,
    understand,
    upright,
)

SCALE_FRAMES = 9
"""Frames of an episode whose own depth tells the poses' unit."""
MULTIPLE = 32


@dataclass(frozen=True)
class VideosConfig:
    """Make episodes of posed videos (RealEstate10K's layout; docs/training.md)."""

    folder: Path
    """folder with cameras/, videos/ or frames/, and perhaps captions.json, depth/, masks/"""
    out: Path = Path("runs/data/videos")
    """folder of the episode files"""
    size: tuple[int, int] = (128, 128)
    """height and width of the frames, multiples of 32; pictures are resized to cover and cropped at the centre"""
    clips: int = 5
    """clips of 8 frames an episode"""
    strides: tuple[int, ...] = (4,)
    """every n-th camera becomes a frame; several make episodes of several speeds"""
    per_video: int = 0
    """most episodes a video and stride; 0 for as many as do not overlap"""
    captions: Path | None = None
    """JSON object of texts by clip; captions.json of the folder by default, no text without one"""
    depth: DepthConfig = field(default_factory=DepthConfig)
    skip_bad: bool = False
    """leave out clips that cannot be used and name them; otherwise the first stops everything"""
    workers: int = 1
    """processes"""


@dataclass(frozen=True)
class Job:
    """One episode: rows of a clip."""

    video: PosedVideo
    frames: Path
    rows: np.ndarray
    stride: int
    caption: str

    def target(self, out: Path) -> Path:
        """Its episode file."""
        return out / f"{self.video.name}-{int(self.rows[0]):06d}-{self.stride}.safetensors"


@dataclass(frozen=True)
class PosedEpisode:
    """Frames u8 [N, H, W, 3], depth f32 and moving bool [N, H, W], metric c2w [N, 4, 4], K [3, 3], the scale found."""

    frames: Tensor
    depth: Tensor
    dynamic: Tensor
    c2w: Tensor
    K: Tensor
    scale: float


def make_videos(config: VideosConfig) -> dict[str, int]:
    """Write the missing episode files; returns how many were written, kept and left out.

    Raises:
        DatasetError, PoseError, VideoError, PromptError: A clip is not of the layout (unless `skip_bad`).
        ActionError: An option cannot be.
    """
    jobs, bad = plan(config)
    config.out.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not job.target(config.out).exists()]
    work = [(job, config) for job in missing]
    problems = in_processes(_write, work, config.workers, "videos")
    bad += [problem for problem in problems if problem]
    for problem in bad:
        print(f"left out: {problem}")
    return {
        "written": len(missing) - sum(map(bool, problems)),
        "kept": len(jobs) - len(missing),
        "left_out": len(bad),
    }


def plan(config: VideosConfig) -> tuple[list[Job], list[str]]:
    """The episodes of a folder, and what was left out and why; nothing is decoded yet."""
    _check(config)
    captions = read_captions(config.captions or config.folder / "captions.json")
    if config.captions is not None and not config.captions.exists():
        raise ActionError(f"--captions {config.captions}: no such file.")
    jobs: list[Job] = []
    bad: list[str] = []
    for path in camera_files(config.folder):
        try:
            video = read_cameras(path)
            frames = find_frames(config.folder, video)
        except SpatiaError as cause:
            if not config.skip_bad:
                raise
            bad.append(str(cause))
            continue
        for stride in config.strides:
            for rows in windows(len(video.c2w), 1 + FRAMES * config.clips, stride, config.per_video):
                jobs.append(Job(video, frames, rows, stride, captions.get(video.name, "")))
    if not jobs and not bad:
        need = FRAMES * config.clips * min(config.strides) + 1
        raise ActionError(
            f"{config.folder}: no clip has the {need} cameras that --clips {config.clips} at stride "
            f"{min(config.strides)} need; lower --clips or --strides."
        )
    return jobs, bad


def _check(config: VideosConfig) -> None:
    if any(side < MULTIPLE or side % MULTIPLE for side in config.size):
        raise ActionError(f"--size {config.size}: give height and width as multiples of {MULTIPLE}.")
    if config.clips < 1 or not config.strides or min(config.strides) < 1 or config.per_video < 0:
        raise ActionError("--clips and --strides are 1 or more, --per-video 0 or more.")
    if not (np.isfinite(config.depth.scale) and config.depth.scale >= 0):
        raise ActionError(f"--depth.scale {config.depth.scale}: give metres, or 0 to have them found.")


def _write(item: tuple[Job, VideosConfig]) -> str:
    """Write one episode; returns what was wrong, if bad ones are left out."""
    job, config = item
    try:
        episode = read_episode(job, config, _estimator(config.depth))
    except SpatiaError as cause:
        if not config.skip_bad:
            raise
        return str(cause)
    meta = _meta(job, config, episode.scale)
    recorded = {
        "frames": episode.frames,
        "depth": episode.depth.half(),
        "dynamic": episode.dynamic,
        "c2w": episode.c2w,
        "K": episode.K,
    }
    # Depth is estimated as at play: it needs no planted errors.
    remembered = remember_episode(
        recorded | {"meta": meta}, CorruptionConfig(clean_share=1.0), np.random.default_rng(0)
    )
    write_episode(job.target(config.out), recorded | remembered, meta)
    return ""


@functools.lru_cache
def _estimator(config: DepthConfig) -> GeometryEstimator | None:
    """The estimator, opened once a process."""
    return open_estimator(config)


def read_episode(job: Job, config: VideosConfig, estimator: GeometryEstimator | None) -> PosedEpisode:
    """Pixels, metric poses and geometry of one episode.

    Args:
        job: Which rows of which clip.
        config: Size and sources.
        estimator: Of depth; None reads depth/ (and masks/, where there is such a folder).

    Raises:
        DatasetError, VideoError: As `read_rows` and `read_planes`.
    """
    frames, K_array, stored = read_rows(job.frames, job.video, job.rows, config.size)
    K = torch.from_numpy(K_array).float()
    rgb = torch.from_numpy(frames).movedim(-1, 1).float() / 255
    level = upright(job.video.c2w[job.rows])
    if estimator is None:
        depth = torch.from_numpy(
            read_planes(config.folder, job.video, job.rows, stored, config.size, "depth")
        )
        scale = config.depth.scale or metric_scale(rgb, depth, level, K)
        dynamic = torch.zeros(depth.shape, dtype=torch.bool)
        if (config.folder / "masks" / job.video.name).is_dir():
            masks = read_planes(config.folder, job.video, job.rows, stored, config.size, "masks")
            dynamic = torch.from_numpy(masks)
        return PosedEpisode(torch.from_numpy(frames), depth, dynamic, placed(level, scale), K, scale)
    scale = config.depth.scale or estimated_scale(estimator, rgb, level, K)
    c2w = placed(level, scale)
    depth, dynamic = understand(estimator, rgb, c2w, K, whole=config.depth.source == "mapanything")
    return PosedEpisode(torch.from_numpy(frames), depth, dynamic, c2w, K, scale)


def estimated_scale(estimator: GeometryEstimator, rgb: Tensor, level: np.ndarray, K: Tensor) -> float:
    """Metres that a unit of upright poses is long, by the depth of a few frames, each by itself."""
    some = np.unique(np.linspace(0, len(rgb) - 1, SCALE_FRAMES).round().astype(int))
    alone = placed(level[some], 0.0)  # each picture at eye height
    depth = lone_depths(estimator, rgb[some], alone, K)
    return metric_scale(rgb[some], depth, level[some], K)


def _meta(job: Job, config: VideosConfig, scale: float) -> dict:
    said = {"event": "", "event_text": "", "text": job.caption, "text_short": "", "conditions": False}
    return {
        "seed": -1,
        "prompt": job.caption,
        "clips": [said] * config.clips,
        "video": {
            "name": job.video.name,
            "first_row": int(job.rows[0]),
            "stride": job.stride,
            "metres_a_unit": round(scale, 6),
            "depth": dataclasses.asdict(config.depth) | {"mapanything": str(config.depth.mapanything)},
        },
    }
