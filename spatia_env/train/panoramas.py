"""`spatia train panoramas`: panoramas of simulated rooms and yards from several places each, in shards.

A shard is a safetensors file of `rooms` scenes with `places` panoramas each, N together:

| name | type | what |
|---|---|---|
| rgb | u8 [N, H, W, 3] | colours |
| inverse | f16 [N, H, W] | 1 / metres along the ray, 0 = none |
| surface | u8 [N, H, W] | index into `sim.panorama.SURFACES` |
| eye | f32 [N, 3] | the place, world metres |
| seed | i32 [N] | the scene |

Existing shards are kept, so the command resumes; a seed always gives the same panoramas.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spatia_env.io.weights import write_tensors
from spatia_env.sim.panorama import render_panorama
from spatia_env.sim.scenes import SimScene

EYE_HEIGHTS = (1.1, 1.7)  # metres
FREE_RADIUS = 0.35
TRIES = 60


@dataclass(frozen=True)
class PanoramasConfig:
    """Render panoramas of scenes."""

    out: Path = Path("runs/panoramas/train")
    """folder of the shards"""
    first: int = 0
    """first seed: 0-9999 train, 10000-10999 dev"""
    count: int = 2000
    """how many seeds"""
    rooms: int = 20
    """seeds in a shard"""
    places: int = 3
    """panoramas of a scene"""
    height: int = 192
    """rows of a panorama; it has four times as many columns"""
    workers: int = 1
    """processes"""


def render_panoramas(config: PanoramasConfig) -> int:
    """Write the missing shards of `config`; returns how many were written."""
    config.out.mkdir(parents=True, exist_ok=True)
    last = config.first + config.count
    starts = [s for s in range(config.first, last, config.rooms) if not _path(config.out, s).exists()]
    jobs = [(config, range(s, min(s + config.rooms, last))) for s in starts]
    if config.workers <= 1:
        for job in tqdm(jobs, desc="panoramas", mininterval=5):
            _write(job)
        return len(jobs)
    with multiprocessing.get_context("spawn").Pool(config.workers) as pool:
        for _ in tqdm(pool.imap_unordered(_write, jobs), total=len(jobs), desc="panoramas", mininterval=5):
            pass
    return len(jobs)


def _path(folder: Path, first: int) -> Path:
    return folder / f"{first:05d}.safetensors"


def _write(job: tuple[PanoramasConfig, range]) -> None:
    config, seeds = job
    rows = [row for seed in seeds for row in scene_panoramas(seed, config.places, config.height)]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    write_tensors(_path(config.out, seeds[0]), arrays)


def scene_panoramas(seed: int, places: int, height: int) -> list[dict[str, np.ndarray]]:
    """The panoramas of a scene from `places` places, as rows of a shard; the first place is the scene's own."""
    with SimScene(seed) as scene:
        rows = []
        for eye in draw_eyes(scene, places, np.random.default_rng([11, seed])):
            seen = render_panorama(scene, eye, height, 4 * height)
            inverse = np.where(seen.distance > 0, 1 / np.maximum(seen.distance, 1e-3), 0)
            rows.append(
                {
                    "rgb": seen.rgb,
                    "inverse": inverse.astype(np.float16),
                    "surface": seen.surface,
                    "eye": eye.astype(np.float32),
                    "seed": np.array(seed, dtype=np.int32),
                }
            )
    return rows


def draw_eyes(scene: SimScene, places: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Places [3] with free space around them; the first is the scene's own, and stands in for what is not found."""
    eyes = [np.array(scene.plan.eye)]
    half = np.array(scene.plan.size[:2]) / 2
    while len(eyes) < places:
        for _ in range(TRIES):
            eye = np.array([*rng.uniform(-half, half), rng.uniform(*EYE_HEIGHTS)])
            feet = np.array([*eye[:2], FREE_RADIUS])
            apart = min(float(np.linalg.norm(eye - other)) for other in eyes) > 0.5
            if apart and scene.is_free(eye, FREE_RADIUS) and scene.is_free(feet, 0.3):
                break
        else:
            eye = eyes[0]
        eyes.append(eye)
    return eyes
