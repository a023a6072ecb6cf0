"""Group `photographs`: real places in all directions. One view is cropped, the rest is the truth of a turn.

The pictures are the package's equirectangular panoramas (CC0): those of the dev split, or those held out for tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from spatia_env.bench import features, metrics
from spatia_env.bench.episodes import FRAMES, Truth, turn
from spatia_env.bench.registry import SIZE, Stage, figure, group
from spatia_env.bench.systems import NO_MODEL, Rollout, Start, System
from spatia_env.sim.assets import load_panorama, panorama_names

TURNS = (45.0, 45.0, 45.0, 45.0, -45.0, -45.0, -45.0, -45.0)


@dataclass(frozen=True)
class Place:
    """A turn of 180 degrees and back in a panorama; the truth has no depth."""

    truth: Truth
    rollout: Rollout

    @property
    def views(self) -> slice:
        """Frames turned by 90, 135 and 180 degrees, where nothing of the start is in sight."""
        return slice(2 * FRAMES - 1, 4 * FRAMES, FRAMES)


def perspective(panorama: np.ndarray, c2w: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A view u8 [H, W, 3] of an equirectangular picture u8 [h, 2h, 3], whose middle column looks along world
    +x, +z up.
    """
    rows, columns = np.indices(size) + 0.5
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones(size)], -1)
    rays = rays @ np.asarray(c2w, np.float64)[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    height, width = panorama.shape[:2]
    u = (0.5 - np.arctan2(rays[..., 1], rays[..., 0]) / (2 * np.pi)) * width - 0.5
    v = np.arccos(np.clip(rays[..., 2], -1, 1)) / np.pi * height - 0.5
    wide = np.pad(panorama.astype(np.float64), ((1, 1), (2, 2), (0, 0)), mode="edge")
    wide[1:-1, :2], wide[1:-1, -2:] = panorama[:, -2:], panorama[:, :2]
    channels = [map_coordinates(wide[..., c], [v + 1, u + 2], order=1, mode="nearest") for c in range(3)]
    return np.stack(channels, -1).round().clip(0, 255).astype(np.uint8)


def place_of(panorama: np.ndarray, number: int, size: tuple[int, int] = SIZE) -> Truth:
    """The truth of a turn of 180 degrees and back; where to begin is drawn."""
    yaw = np.random.default_rng([number, 41]).uniform(-np.pi, np.pi)
    forward = np.array([np.cos(yaw), np.sin(yaw), 0])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0])
    start = np.eye(4)
    start[:3, :3] = np.stack([right, [0, 0, -1], forward], axis=1)
    start[2, 3] = 1.5
    c2w = turn(start, TURNS)
    focal = size[1] / 2 / np.tan(np.radians(30))
    K = np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]], np.float32)
    shots = {pose.tobytes(): perspective(panorama, pose, K, size) for pose in c2w}
    frames = np.stack([shots[pose.tobytes()] for pose in c2w])
    rays = np.stack([_in_view(pose, c2w[0], K, size) for pose in c2w])
    return Truth(-1, K, c2w, frames, np.zeros(frames.shape[:3], np.float32), rays, rays)


def _in_view(pose: np.ndarray, first: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which pixels look where the first camera did: bool [H, W]."""
    rows, columns = np.indices(size) + 0.5
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones(size)], -1)
    seen = rays @ pose[:3, :3].T @ first[:3, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = (
            seen[..., 0] / seen[..., 2] * K[0, 0] + K[0, 2],
            seen[..., 1] / seen[..., 2] * K[1, 1] + K[1, 2],
        )
    return (seen[..., 2] > 0) & (u >= 0) & (u < size[1]) & (v >= 0) & (v < size[0])


def show(record: Place) -> Mapping[str, np.ndarray]:
    """The last frame of each clip."""
    return {"frames": record.rollout.frames[FRAMES - 1 :: FRAMES]}


ROWS = ("oracle", "default", "no-memory", "no-references", "no-imagination", *NO_MODEL)


@group("photographs", "real places", ROWS, (0, 6, 26), pictures=show, subjects="items")
def play(stage: Stage, scene: int, system: System) -> Place:
    """Four clips of turning away, four back."""
    names = panorama_names("test" if stage.split == "test" else "dev")
    truth = place_of(load_panorama(names[scene % len(names)]), scene)
    start = Start(truth.c2w[0], image=truth.frames[0], K=truth.K)
    return Place(truth, stage.players.roll(system, truth, start=start))


@figure("photographs", "", "high", ">= 0.5")
def photo_edges(record: Place) -> float:
    """Definiteness of never-seen directions (1 = as the photograph)."""
    frames, truth = record.rollout.frames[record.views], record.truth.frames[1:][record.views]
    return metrics.edge_score(frames, truth, np.ones(frames.shape[:3], bool))


@figure("photographs", "", "low", "")
def photo_distance(record: Place) -> float | None:
    """Never-seen directions against the photograph (STLPIPS-Alex)."""
    if not features.available():
        return None
    return float(
        features.distance(record.rollout.frames[record.views], record.truth.frames[1:][record.views]).mean()
    )


@figure("photographs", "x", "low", "<= 1.5")
def photo_seam(record: Place) -> float:
    """Colour step where a clip's new part meets what was shown, over the truth's.

    In the first clip, at the edge of the photograph.
    """
    first = slice(0, FRAMES)
    old = record.truth.observed[1:][first]
    shown, true = (
        metrics.seam_gradient(f[first], old) for f in (record.rollout.frames, record.truth.frames[1:])
    )
    return shown / max(true, 1e-3)


@figure("photographs", "dB", "high", ">= 30")
def photo_return(record: Place) -> float:
    """The photograph itself after turning away and back.

    0 dB for a row that never turned.
    """
    frames, truth = record.rollout.frames, record.truth.frames
    away = np.abs(frames[4 * FRAMES - 1].astype(float) - truth[0]).mean()
    wanted = np.abs(truth[4 * FRAMES].astype(float) - truth[0]).mean()
    return metrics.psnr(frames[-1], truth[0]) if away > 0.25 * wanted else 0.0
