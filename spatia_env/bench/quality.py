"""Suites about pictures: `walk` (four clips against the truth), `loop` (out and back), `zero` (standing
still).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from spatia_env.bench import metrics
from spatia_env.bench.detectors import detect_all
from spatia_env.bench.episodes import FRAMES, Truth, record
from spatia_env.bench.rows import Clip, EnvPlayer, Players, Row
from spatia_env.cameras import unproject
from spatia_env.errors import ActionError
from spatia_env.video import depth_to_rgb, mask_to_rgb

FOLLOW_MARGIN = 1.0
"""dB by which the pictures at the turning point must beat a frozen frame, on what the start picture shows of
them.
"""
TURNING_FRAMES = 4
RESTS = 5
JUDGED_ROWS = ("oracle", "default")
"""Rows whose walks are searched for events that nobody asked for; the oracle's are the judges' own mistakes."""
MAP_SAMPLES = 12_000
"""Points of the map and of the true surface that are compared."""
SHEET_FRAMES = (3, 7)
"""Frames of each clip that contact sheets show."""


@dataclass
class Context:
    """What every measurement needs: the players, the image size, and the truth (made once per episode).

    Attributes:
        players: The rows at play.
        size: (height, width) in pixels.
        clips: Clips of a walk and of a loop.
        movers: How many movers a scene the leakage suite shows.
    """

    players: Players
    size: tuple[int, int]
    clips: int = 4
    movers: int = 4
    _truth: dict[tuple[int, str], Truth] = field(default_factory=dict)

    def truth(self, scene: int, kind: str) -> Truth:
        """The truth of an episode; the last one is kept, as all rows of a scene follow one another."""
        if (scene, kind) not in self._truth:
            clips = 2 + RESTS if kind == "zero" else self.clips
            self._truth.clear()
            self._truth[scene, kind] = record(scene, kind, self.size, clips)
        return self._truth[scene, kind]


@dataclass
class Measured:
    """Numbers of one unit, and pictures for contact sheets: label -> u8 [N, H, W, 3]."""

    values: dict[str, Any]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Rollout:
    """All clips of an episode, in a row."""

    clips: list[Clip]

    @property
    def frames(self) -> np.ndarray:
        """u8 [8 n, H, W, 3]."""
        return np.concatenate([clip.frames for clip in self.clips])

    @property
    def depth(self) -> np.ndarray:
        """f32 [8 n, H, W]."""
        return np.concatenate([clip.depth for clip in self.clips])

    @property
    def known(self) -> np.ndarray:
        """Bool [8 n, H, W]."""
        return np.concatenate([clip.known for clip in self.clips])

    @property
    def scene_render(self) -> np.ndarray | None:
        """What the row's own memory rendered before each clip, u8 [8 n, H, W, 3], if it tells."""
        renders = [clip.info.get("debug", {}).get("scene_render") for clip in self.clips]
        return None if any(render is None for render in renders) else np.concatenate(renders)


def roll_out(context: Context, row: Row, truth: Truth) -> tuple[Rollout, Any]:
    """Play the episode; the rollout and its player.

    Raises:
        ActionError: The row returned frames of another shape than the truth.
    """
    player = context.players.get(row)
    player.start(truth)
    rollout = Rollout([player.play(truth.c2w[truth.clip(i)]) for i in range(truth.clips)])
    if rollout.frames.shape != truth.frames[1:].shape or rollout.frames.dtype != np.uint8:
        raise ActionError(
            f"row {row.name}: frames {rollout.frames.shape}, the truth has {truth.frames[1:].shape}."
        )
    return rollout, player


# -- walk
# -------------------------------------------------------------------------------------------------------


def measure_walk(context: Context, scene: int, row: Row) -> Measured:
    """Frames, depth and map against the truth over a walk."""
    truth = context.truth(scene, "walk")
    rollout, player = roll_out(context, row, truth)
    values = score_frames(rollout.frames, truth) | score_depth(rollout.depth, truth)
    values["known_share"] = float(rollout.known.mean())
    values["order"] = metrics.order_score(rollout.frames, truth.frames[1:])
    if rollout.scene_render is not None:
        own = score_frames(rollout.scene_render, truth)
        values |= {f"own_render_{name}": own[name] for name in ("psnr_all", "psnr_observed")}
    if isinstance(player, EnvPlayer):
        values |= score_map(player.points, truth)
        values |= _slam(rollout)
    if row.name in JUDGED_ROWS:
        values["found"] = false_events(rollout.frames, truth)
    return Measured(values, walk_pictures(rollout, truth, row))


def score_frames(frames: np.ndarray, truth: Truth) -> dict[str, Any]:
    """PSNR and SSIM of frames u8 [8 n, H, W, 3]: means over frames, on all pixels and on classes of pixels.

    `observed`: the surface is visible in the start picture. `unobserved`: it is not. `seen_before`: visible
    in the start picture or in an earlier clip's frame, which the world had to imagine. `psnr_clips`: per
    clip.
    """
    true = truth.frames[1:]
    every = metrics.frame_psnr(frames, true)
    classes = {
        "observed": truth.observed[1:],
        "unobserved": ~truth.observed[1:],
        "seen_before": truth.seen_before[1:],
    }
    values: dict[str, Any] = {
        "psnr_all": float(every.mean()),
        "psnr_clips": [float(v) for v in every.reshape(-1, FRAMES).mean(1)],
        "ssim_all": float(np.mean([metrics.ssim(frames[i], true[i]) for i in range(3, len(frames), 4)])),
    }
    for name, mask in classes.items():
        values[f"share_{name}"] = float(mask.mean())
        scores = metrics.frame_psnr(frames, true, mask)
        # Nothing of this class in the whole episode: there is no such number, and it is left out.
        if not np.isnan(scores).all():
            values[f"psnr_{name}"] = float(np.nanmean(scores))
    return values


def score_depth(depth: np.ndarray, truth: Truth) -> dict[str, Any]:
    """AbsRel of depth [8 n, H, W]: all pixels, observed ones, all after one scale for the episode."""
    true, observed = truth.depth[1:], truth.observed[1:]
    both = (depth > 0) & (true > 0)
    scale = float(np.median(true[both] / depth[both])) if both.any() else 1.0
    return {
        "depth_absrel": metrics.depth_absrel(depth, true),
        "depth_absrel_observed": metrics.depth_absrel(depth, true, observed),
        "depth_absrel_scaled": metrics.depth_absrel(depth * scale, true),
    }


def score_map(points: np.ndarray, truth: Truth) -> dict[str, Any]:
    """The map against the surface that the episode's cameras truly saw."""
    rng = np.random.default_rng(truth.scene)
    z, c2w = torch.from_numpy(truth.depth[::4]), torch.from_numpy(truth.c2w[::4])
    surface = unproject(z, torch.from_numpy(truth.K), c2w)[z > 0].numpy()
    scores = metrics.map_scores(_sample(points, rng), _sample(surface, rng), threshold=0.05)
    return {f"map_{name}": value for name, value in scores.items()} | {"map_points": len(points)}


def false_events(frames: np.ndarray, truth: Truth) -> list[list[str]]:
    """The events that the judges see in each clip of a walk on which none was asked for."""
    shown = np.concatenate([truth.frames[:1], frames])
    clips = [truth.clip(i) for i in range(truth.clips)]
    return [detect_all(shown[span], shown[span.start - 1], truth.frames[span]) for span in clips]


def walk_pictures(rollout: Rollout, truth: Truth, row: Row) -> dict[str, np.ndarray]:
    """Frames for the contact sheet of a scene."""
    chosen = [FRAMES * clip + frame for clip in range(truth.clips) for frame in SHEET_FRAMES]
    pictures = {"frames": rollout.frames[chosen]}
    if row.name == "default":
        pictures |= {
            "known": mask_to_rgb(rollout.known[chosen]),
            "depth": depth_to_rgb(rollout.depth[chosen]),
        }
        if rollout.scene_render is not None:
            pictures["memory render"] = rollout.scene_render[chosen]
    if row.name == "oracle":
        pictures["observed"] = mask_to_rgb(truth.observed[1:][chosen])
    return pictures


def _sample(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (
        points if len(points) <= MAP_SAMPLES else points[rng.choice(len(points), MAP_SAMPLES, replace=False)]
    )


def _slam(rollout: Rollout) -> dict[str, float]:
    """Plain numbers that tracking reports, averaged over the clips."""
    rows = [clip.info.get("slam", {}) for clip in rollout.clips]
    names = [name for name, value in rows[0].items() if isinstance(value, int | float)]
    return {f"slam_{name}": float(np.mean([row[name] for row in rows])) for name in names}


# -- loop
# -------------------------------------------------------------------------------------------------------


def measure_loop(context: Context, scene: int, row: Row) -> Measured:
    """Out and back: the last frame against the first picture, counted only if the excursion was followed."""
    truth = context.truth(scene, "loop")
    rollout, _ = roll_out(context, row, truth)
    return Measured(score_loop(rollout.frames, truth), walk_pictures(rollout, truth, row))


def score_loop(frames: np.ndarray, truth: Truth) -> dict[str, Any]:
    """Scores of a loop's frames u8 [8 n, H, W, 3].

    `psnr_c_raw`: last frame against the start picture. `followed`: at the turning point the frames beat a
    frozen frame by `FOLLOW_MARGIN`, on pixels whose surface the start picture shows. `psnr_c`: the raw score
    if followed; else no more than what returning to a wrong place would score (the start picture against the
    true picture at the turning point), so that standing still cannot win.
    """
    start, half = truth.frames[0], len(frames) // 2
    turning = slice(half - TURNING_FRAMES, half)
    true, observed = truth.frames[1:][turning], truth.observed[1:][turning]
    mask = observed if observed.mean((1, 2)).min() >= metrics.MIN_SHARE else np.ones_like(observed)
    shown = float(metrics.frame_psnr(frames[turning], true, mask).mean())
    frozen = float(metrics.frame_psnr(np.repeat(start[None], TURNING_FRAMES, 0), true, mask).mean())
    raw, followed = metrics.psnr(frames[-1], start), shown > frozen + FOLLOW_MARGIN
    wrong_place = metrics.psnr(truth.frames[half], start)
    ssim = metrics.ssim(frames[-1], start)
    return {
        "psnr_c_raw": raw,
        "psnr_c": raw if followed else min(raw, wrong_place),
        "ssim_c": ssim if followed else min(ssim, metrics.ssim(truth.frames[half], start)),
        "followed": float(followed),
        "psnr_turning": shown,
        "psnr_turning_frozen": frozen,
    }


# -- zero
# -------------------------------------------------------------------------------------------------------


def measure_zero(context: Context, scene: int, row: Row) -> Measured:
    """Two clips of walking, then five zero moves: the picture and the map must stay as they are."""
    truth = context.truth(scene, "zero")
    rollout, player = roll_out(context, row, truth)
    before, rests = rollout.clips[-RESTS - 1], rollout.clips[-RESTS:]
    values = score_rest(before.frames[-1], np.stack([clip.frames for clip in rests]))
    points = [clip.info.get("memory", {}).get("points") for clip in (before, rests[-1])]
    if isinstance(player, EnvPlayer):
        values["growth"] = abs(points[1] - points[0]) / max(points[0], 1)
    return Measured(values)


def score_rest(picture: np.ndarray, frames: np.ndarray) -> dict[str, Any]:
    """Scores of resting: `frames` u8 [rests, 8, H, W, 3] after `picture` u8 [H, W, 3].

    `psnr_zero`: the last frame after all rests against the picture before them (drift adds up);
    `psnr_zero_step`: the worst of any frame against the one before it.
    """
    flat = np.concatenate([picture[None], frames.reshape(-1, *picture.shape)])
    return {
        "psnr_zero": metrics.psnr(flat[-1], picture),
        "psnr_zero_step": float(metrics.frame_psnr(flat[1:], flat[:-1]).min()),
    }
