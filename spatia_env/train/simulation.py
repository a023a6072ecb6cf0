"""Recordings of the simulator: `spatia train data` makes episode files, `videos-from-sim` a folder of posed videos.

An episode is a first picture and `clips` clips along a random walk, some with text events: what an env would have seen,
with the truth beside it. A seed always gives the same file, and existing files are kept, so the commands resume.

A folder of posed videos has RealEstate10K's layout (`posed`), to try `spatia train videos` and `spatia bench re10k` on.
Like the real ones, the files have an arbitrary world (the first camera's) and an arbitrary unit.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from spatia_env.errors import ActionError
from spatia_env.events import vocabulary
from spatia_env.geometry import invert_se3, path_from_twist
from spatia_env.io.video import write_video
from spatia_env.models.text_encoder import compose_text
from spatia_env.sim.scenes import SimScene
from spatia_env.train.episodes import FRAMES, CorruptionConfig, in_processes, remember_episode, write_episode
from spatia_env.train.posed import write_cameras

FRAME_SECONDS = 0.1
MAX_TRANSLATION = 0.5
MAX_ROTATION = np.radians(30.0)
VIDEO_RATE = 30
LEAD_IN = 45
"""Frames that a whole video shows before the clip begins."""

Kind = Literal["clips", "frames", "whole"]


@dataclass(frozen=True)
class EpisodeConfig:
    """What an episode contains."""

    clips: int = 5
    height: int = 128
    width: int = 128
    event_share: float = 0.65
    """share of clips in which an event starts"""
    quiet_share: float = 0.15
    """share of episodes in which nothing ever happens"""
    several_share: float = 0.12
    """share of the movers that begin together with another one"""
    movers: tuple[str, ...] = ()
    """names of the movers to choose from; all by default"""


def record_episode(seed: int, config: EpisodeConfig, split: str) -> dict:
    """Simulate one episode.

    Returns a dict with `frames` u8 [1+8n, H, W, 3], `depth` f16 [1+8n, H, W] (m, 0 = none), `dynamic` bool
    [1+8n, H, W], `c2w` f32 [1+8n, 4, 4], `K` f32 [3, 3] and `meta` (seed, prompt, and per clip the event's
    name, that of another one beside it, their text, the composed text, and whether a condition lay on the light
    or the air).
    """
    rng = np.random.default_rng([seed, 20917])
    scene = SimScene(seed)
    try:
        return _record(scene, rng, config, split, seed)
    finally:
        scene.close()


def _record(scene: SimScene, rng: np.random.Generator, config: EpisodeConfig, split: str, seed: int) -> dict:
    size = (config.height, config.width)
    c2w = torch.as_tensor(np.asarray(scene.initial_c2w), dtype=torch.float32)
    shots, poses, clips = [scene.render(c2w.numpy(), *size)], [c2w], []
    walk = RandomWalk(scene, rng)
    share = 0.0 if rng.random() < config.quiet_share else config.event_share
    for _ in range(config.clips):
        standing = [vocabulary.event(name).condition_phrase for name in scene.conditions]
        names, text = _maybe_events(scene, rng, share, config, split, c2w)
        path = walk.next_path(c2w)
        for pose in path:
            scene.advance(FRAME_SECONDS)
            shots.append(scene.render(pose.numpy(), *size))
            poses.append(pose)
        c2w = path[-1]
        clips.append(
            {
                "event": names[0] if names else "",
                "also": names[1] if names[1:] else "",
                "event_text": text,
                "text": compose_text(scene.prompt, standing, text),
                "text_short": compose_text("", standing, text),
                "conditions": bool(standing) or bool(scene.conditions),
            }
        )
    return {
        "frames": np.stack([shot.rgb for shot in shots]),
        "depth": np.stack([shot.depth for shot in shots]).astype(np.float16),
        "dynamic": np.stack([shot.dynamic for shot in shots]),
        "c2w": torch.stack(poses).numpy(),
        "K": np.asarray(scene.K(*size), dtype=np.float32),
        "meta": {"seed": seed, "prompt": scene.prompt, "clips": clips},
    }


def _maybe_events(
    scene: SimScene,
    rng: np.random.Generator,
    share: float,
    config: EpisodeConfig,
    split: str,
    c2w: torch.Tensor,
) -> tuple[list[str], str]:
    """Names of the events that begin now, and their words, each a sentence of its own as `ledger.listen` has it."""
    if rng.random() >= share:
        return [], ""
    names = [str(rng.choice(possible_events(tuple(scene.conditions), rng, config.movers)))]
    if vocabulary.event(names[0]).kind == "mover" and rng.random() < config.several_share:
        names.append(str(rng.choice([e.name for e in vocabulary.EVENTS if e.kind == "mover"])))
    names = list(dict.fromkeys(names))
    texts = [str(rng.choice(vocabulary.phrasings(name, split))) for name in names]
    for name in names:
        scene.start_event(name, c2w.numpy(), rng)
    return names, ". ".join(texts)


def possible_events(
    conditions: tuple[str, ...], rng: np.random.Generator, movers: tuple[str, ...] = ()
) -> list[str]:
    """Events to choose from: movers mostly (all or these), one condition at a time, and its ending soon after."""
    kinds = {
        kind: [e for e in vocabulary.EVENTS if e.kind == kind] for kind in ("mover", "condition", "ending")
    }
    if conditions and rng.random() < 0.6:
        return [event.name for event in kinds["ending"] if event.ends in conditions]
    if not conditions and rng.random() < 0.3:
        return [event.name for event in kinds["condition"]]
    return [event.name for event in kinds["mover"] if not movers or event.name in movers]


class RandomWalk:
    """Camera moves as users make them: mostly one or two degrees of freedom, returns, standstills."""

    def __init__(self, scene: SimScene, rng: np.random.Generator) -> None:
        self.scene, self.rng = scene, rng
        self.undo: list[np.ndarray] = []

    def next_path(self, c2w: torch.Tensor) -> torch.Tensor:
        """Poses [8, 4, 4] of the next clip from `c2w` [4, 4], through free space where it can be found."""
        for _ in range(12):
            twist = self._twist()
            path = path_from_twist(c2w, torch.tensor(twist, dtype=torch.float32), FRAMES)
            if self._allowed(path):
                self.undo.append(-twist)
                return path
        return path_from_twist(c2w, torch.tensor([0, 0, 0, 0, 0.3, 0], dtype=torch.float32), FRAMES)

    def _twist(self) -> np.ndarray:
        rng = self.rng
        kind = rng.random()
        if kind < 0.12:
            return np.zeros(6)
        if kind < 0.27 and self.undo:
            return self.undo.pop()
        scale = np.array([MAX_TRANSLATION] * 3 + [MAX_ROTATION] * 3)
        twist = rng.uniform(-1, 1, 6) * scale
        # Few moves use all axes at once; up-down, pitch and roll are small.
        active = rng.random(6) < np.array([0.4, 0.2, 0.6, 0.3, 0.65, 0.1])
        twist *= active * np.array([0.8, 0.3, 1.0, 0.3, 1.0, 0.15])
        if rng.random() < 0.5:
            twist[2] = abs(twist[2])
        return twist

    def _allowed(self, path: torch.Tensor) -> bool:
        pitch = torch.rad2deg(torch.asin(path[-1, 2, 2].clamp(-1, 1)))
        if abs(float(pitch)) > 30 or abs(float(path[-1, 2, 0])) > 0.2:
            return False
        return all(
            self.scene.is_free(pose[:3, 3].numpy(), 0.3) for pose in path[[FRAMES // 2 - 1, FRAMES - 1]]
        )


@dataclass(frozen=True)
class DataConfig:
    """Render training or dev episodes."""

    out: Path = Path("runs/data/train")
    """folder of the episode files"""
    split: str = "train"
    """train (seeds 0-9999) or dev (10000-10999); decides textures, meshes and phrasings too"""
    first: int = 0
    """first seed"""
    count: int = 1000
    """how many seeds"""
    workers: int = 2
    """processes"""
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)

    def path(self, seed: int) -> Path:
        """The episode file of a seed."""
        return self.out / f"{seed:05d}.safetensors"


def render_data(config: DataConfig) -> int:
    """Write the missing episode files of `config`; returns how many were written."""
    config.out.mkdir(parents=True, exist_ok=True)
    seeds = range(config.first, config.first + config.count)
    jobs = [(seed, config) for seed in seeds if not config.path(seed).exists()]
    in_processes(_write, jobs, config.workers, f"data {config.split}", jobs_a_process=100)
    return len(jobs)


def _write(job: tuple[int, DataConfig]) -> None:
    seed, config = job
    torch.set_num_threads(1)
    recorded = record_episode(seed, config.episode, config.split)
    episode = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in recorded.items()}
    remembered = remember_episode(episode, config.corruption, np.random.default_rng([seed, 7]))
    write_episode(config.path(seed), episode | remembered, recorded["meta"])


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
    timestamps = np.round((begin + np.arange(count)) * 1e6 / VIDEO_RATE).astype(np.int64)
    height, width = config.size
    K = np.asarray(episode["K"], np.float64)
    lens = np.array([K[0, 0] / width, K[1, 1] / height, K[0, 2] / width, K[1, 2] / height])
    poses = invert_se3(np.asarray(episode["c2w"][:1], np.float64)) @ episode["c2w"].astype(np.float64)
    poses[:, :3, 3] /= config.unit
    address = f"https://www.youtube.com/watch?v={source}"
    write_cameras(config.out / "cameras" / f"{name}.txt", address, timestamps, lens, poses)
    if config.kind == "clips":
        write_video(config.out / "videos" / f"{name}.mp4", episode["frames"], VIDEO_RATE)
    elif config.kind == "whole":
        lead = np.repeat(255 - episode["frames"][:1], LEAD_IN, axis=0)  # another picture, to be skipped
        write_video(
            config.out / "videos" / f"{source}.mp4", np.concatenate([lead, episode["frames"]]), VIDEO_RATE
        )
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
