"""Suites about pictures: `walk` (four clips against the truth) and `zero` (standing still); what all suites share."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from spatia_env.bench import matching, metrics, perceptual
from spatia_env.bench.detectors import detect_all
from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.players import Clip, EnvPlayer, Players
from spatia_env.bench.rows import Row
from spatia_env.bench.truths import Truths
from spatia_env.errors import ActionError
from spatia_env.geometry import unproject
from spatia_env.io.images import depth_to_rgb, mask_to_rgb

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
        split: Of the wordings: "dev" or "test".
        loops: Closed paths besides the loop of `clips` clips: (kind, clips) of `paths.MAKERS`.
        several: Whether events are also asked for in twos, denied, and of things that are not there.
        truths: Where truths come from; made for this context if not given.
    """

    players: Players
    size: tuple[int, int]
    clips: int = 4
    movers: int = 4
    split: str = "dev"
    loops: tuple[tuple[str, int], ...] = ()
    several: bool = False
    truths: Truths | None = None

    def truth(self, scene: int, kind: str, clips: int | None = None) -> Truth:
        """The truth of an episode; those of the last scene are kept, as its suites and rows follow one another."""
        if clips is None:
            clips = 2 + RESTS if kind == "zero" else self.clips
        return self.source.get(scene, kind, clips)

    @property
    def source(self) -> Truths:
        """Where truths come from."""
        if self.truths is None:
            self.truths = Truths(self.size)
        return self.truths


@dataclass
class Measured:
    """Numbers of one unit, pictures for contact sheets (label -> u8 [N, H, W, 3]), and all frames for videos."""

    values: dict[str, Any]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    film: np.ndarray | None = None


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
    return Measured(values, walk_pictures(rollout, truth, row), rollout.frames)


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
    if perceptual.available():
        last = slice(FRAMES - 1, None, FRAMES)
        observed = np.where(classes["observed"][last, ..., None], frames[last], true[last])
        values["stlpips_all"] = float(perceptual.distance(frames[last], true[last]).mean())
        values["stlpips_observed"] = float(perceptual.distance(observed, true[last]).mean())
    if matching.available():
        values["smooth_psnr"] = matching.interpolation_smoothness(frames)
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


# -- zero


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
