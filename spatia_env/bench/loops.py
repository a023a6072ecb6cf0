"""Suites `loop` (closed paths) and `drift` (many clips): is the world the same when one comes back?

A frozen frame would win any comparison of the last frame with the first. So a loop counts only if its excursion was
*followed*; otherwise it scores no more than returning to a wrong place would.
"""

from typing import Any

import numpy as np

from spatia_env.bench import matching, metrics, perceptual
from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.paths import EXCURSIONS
from spatia_env.bench.quality import Context, Measured, roll_out, walk_pictures
from spatia_env.bench.rows import Row

FOLLOW_MARGIN = 1.0
"""dB by which the pictures at the turning point must beat a frozen frame, on what the start picture shows of
them.
"""
TURNING_FRAMES = 4
PATH_ROWS = ("oracle", "default", "no-memory", "frozen-frame")
"""Rows that also go around the other closed paths."""


def measure_loop(context: Context, scene: int, row: Row) -> Measured:
    """Out and back, and for some rows around other closed paths; metrics of those carry the path's name."""
    truth = context.truth(scene, "loop")
    rollout, _ = roll_out(context, row, truth)
    values, pictures = score_loop(rollout.frames, truth), walk_pictures(rollout, truth, row)
    if row.name in PATH_ROWS:
        for kind, clips in context.loops:
            other = context.truth(scene, kind, clips)
            frames = roll_out(context, row, other)[0].frames
            scores = score_revisit(frames, other) if kind == "revisit" else score_loop(frames, other)
            values |= {f"{kind}-{clips}.{name}": value for name, value in scores.items()}
    return Measured(values, pictures, rollout.frames)


def score_loop(frames: np.ndarray, truth: Truth) -> dict[str, Any]:
    """Scores of a loop's frames u8 [8 n, H, W, 3].

    `psnr_c_raw`: last frame against the start picture. `followed`: at the turning point the frames beat a
    frozen frame by `FOLLOW_MARGIN`, on pixels whose surface the start picture shows. `psnr_c`: the raw score
    if followed; else no more than what returning to a wrong place would score (the start picture against the
    true picture at the turning point), so that standing still cannot win. So for `ssim_c`, `stlpips_c` and `match_c`.
    """
    start, half = truth.frames[0], len(frames) // 2
    followed, shown, frozen = follows(frames, truth, half)
    away = truth.frames[half]
    raw = metrics.psnr(frames[-1], start)
    return {
        "psnr_c_raw": raw,
        "psnr_c": raw if followed else min(raw, metrics.psnr(away, start)),
        **similarity(frames[-1], start, "_c", None if followed else away),
        "followed": float(followed),
        "psnr_turning": shown,
        "psnr_turning_frozen": frozen,
    }


def follows(frames: np.ndarray, truth: Truth, turning: int) -> tuple[bool, float, float]:
    """Whether the frames before frame `turning` (counted from 1) show where the camera went; their PSNR, and that of a
    frozen frame.
    """
    span = slice(turning - TURNING_FRAMES, turning)
    true, observed = truth.frames[1:][span], truth.observed[1:][span]
    mask = observed if observed.mean((1, 2)).min() >= metrics.MIN_SHARE else np.ones_like(observed)
    shown = float(metrics.frame_psnr(frames[span], true, mask).mean())
    frozen = float(metrics.frame_psnr(np.repeat(truth.frames[:1], TURNING_FRAMES, 0), true, mask).mean())
    return shown > frozen + FOLLOW_MARGIN, shown, frozen


def similarity(
    picture: np.ndarray, truth: np.ndarray, suffix: str, wrong: np.ndarray | None
) -> dict[str, float]:
    """SSIM, perceptual distance and match accuracy of a picture; with `wrong`, no better than that picture's."""
    values = {f"ssim{suffix}": _capped(metrics.ssim, picture, truth, wrong, min)}
    if perceptual.available():
        values[f"stlpips{suffix}"] = _capped(
            lambda a, b: float(perceptual.distance(a[None], b[None])[0]), picture, truth, wrong, max
        )
    if matching.available():
        values[f"match{suffix}"] = _capped(matching.match_accuracy, picture, truth, wrong, min)
    return values


def _capped(
    score: Any, picture: np.ndarray, truth: np.ndarray, wrong: np.ndarray | None, worse: Any
) -> float:
    value = score(picture, truth)
    return float(value if wrong is None else worse(value, score(wrong, truth)))


def score_revisit(frames: np.ndarray, truth: Truth) -> dict[str, Any]:
    """Away, back, and to the same place again: the generated place against itself, where the start shows none of it.

    `psnr_g`: the last frame against the frame of the first visit, on pixels that the start picture does not show;
    no more than what the start picture would score there if the excursion was not followed.
    """
    first, last = frames[2 * FRAMES - 1], frames[-1]
    unseen = ~truth.observed[2 * FRAMES]
    if unseen.mean() < metrics.MIN_SHARE:
        unseen = np.ones_like(unseen)
    followed, shown, frozen = follows(frames, truth, 2 * FRAMES)
    raw = metrics.psnr(last, first, unseen)
    wrong = metrics.psnr(truth.frames[0], truth.frames[2 * FRAMES], unseen)
    return {
        "psnr_g_raw": raw,
        "psnr_g": raw if followed else min(raw, wrong),
        "psnr_g_all": metrics.psnr(last, first),
        **similarity(last, first, "_g", None if followed else truth.frames[0]),
        "followed": float(followed),
        "psnr_turning": shown,
        "psnr_turning_frozen": frozen,
    }


# -- drift


def measure_drift(context: Context, scene: int, row: Row) -> Measured:
    """Sixteen clips with returns to the start after 2, 6 and 16."""
    truth = context.truth(scene, "drift", sum(2 * n for n in EXCURSIONS))
    rollout, _ = roll_out(context, row, truth)
    return Measured(score_drift(rollout.frames, truth), walk_pictures(rollout, truth, row), rollout.frames)


def score_drift(frames: np.ndarray, truth: Truth) -> dict[str, Any]:
    """Scores of the frames u8 [128, H, W, 3].

    `psnr_c_N`: the frame after N clips against the start picture, counted as `score_loop` counts.
    `loss_2_6`, `loss_2_16`: dB lost. `observed_clips`: PSNR of every clip on pixels that the start shows;
    `worst_clip`: the lowest of them. `slope`: dB per clip of a straight line through them.
    """
    values: dict[str, Any] = {}
    done, start = 0, truth.frames[0]
    for count in EXCURSIONS:
        turning, done = FRAMES * (done + count), done + 2 * count
        followed, _, _ = follows(frames, truth, turning)
        end = frames[FRAMES * done - 1]
        raw, wrong = metrics.psnr(end, start), metrics.psnr(truth.frames[turning], start)
        values[f"psnr_c_{done}"] = raw if followed else min(raw, wrong)
        values[f"followed_{done}"] = float(followed)
    for late in (6, 16):
        values[f"loss_2_{late}"] = values["psnr_c_2"] - values[f"psnr_c_{late}"]
    observed = metrics.frame_psnr(frames, truth.frames[1:], truth.observed[1:]).reshape(-1, FRAMES)
    every = metrics.frame_psnr(frames, truth.frames[1:]).reshape(-1, FRAMES).mean(1)
    seen = ~np.isnan(observed).all(1)
    curve = [float(np.nanmean(clip)) if ok else None for clip, ok in zip(observed, seen, strict=True)]
    known = [(i, value) for i, value in enumerate(curve) if value is not None]
    values["observed_clips"] = curve
    values["psnr_clips"] = [float(v) for v in every]
    if len(known) > 1:
        places, heights = np.array(known).T
        values["slope"] = float(np.polyfit(places, heights, 1)[0])
        values["worst_clip"] = float(heights.min())
    return values
