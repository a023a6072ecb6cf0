"""Group `things`: has what moves the shape and the surface of the thing, beyond its place and size?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from spatia_env.bench import metrics, staging
from spatia_env.bench.groups.events import FEW_MOVERS, asked_clip, quiet_clip, true_clip
from spatia_env.bench.judge import CHANGE, LOOKS
from spatia_env.bench.registry import Stage, figure, group
from spatia_env.bench.systems import System
from spatia_env.bench.vision import opencv

SINGLE = (*staging.OTHER_SHAPE, "man_walks")
"""Movers of one body."""
LEAST = 0.004
"""Share of the picture that a true silhouette must fill to be compared."""


@dataclass(frozen=True)
class Things:
    """By mover: frames, silhouettes [T, H, W] true and shown, true frames."""

    clips: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def show(record: Things) -> Mapping[str, np.ndarray]:
    """The middle frame of each mover, and its silhouette."""
    frames = np.stack([clip[4] for clip, _, _, _ in record.clips.values()])
    masks = np.stack([mask[4] for _, _, mask, _ in record.clips.values()])
    return {"frames": frames, "silhouette": np.repeat(masks[..., None] * np.uint8(255), 3, -1)}


@group(
    "things",
    "shape and surface of what moves",
    ("oracle", "default", "no-imagination", "overlay", "disc"),
    (1, 6, 30),
    pictures=show,
)
def play(stage: Stage, scene: int, system: System) -> Things:
    """The clips of `events`; a silhouette is what differs from the same clip without the event."""
    clips = {}
    for name in FEW_MOVERS if stage.small else SINGLE:
        acted = true_clip(stage, scene, name)
        if system.kind == "model":
            clip, quiet = asked_clip(stage, scene, system, name), quiet_clip(stage, scene, system)
        else:
            kinds = {"truth": lambda a, c: a.clip, "overlay": staging.rectangles, "disc": staging.discs}
            clip, quiet = kinds[system.kind](acted, LOOKS[name].colours), acted.expected
        clips[name] = clip, acted.dynamic, changed(clip, quiet), acted.clip
    return Things(clips)


def changed(clip: np.ndarray, quiet: np.ndarray) -> np.ndarray:
    """The largest piece of what differs, with its holes filled, frame by frame: bool [T, H, W]."""
    differs = np.abs(clip.astype(np.int16) - quiet).max(-1) > CHANGE
    return np.stack([largest(ndimage.binary_fill_holes(ndimage.binary_opening(mask))) for mask in differs])


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece of a mask [H, W]."""
    labels, count = ndimage.label(mask)
    return labels == np.bincount(labels.ravel(), minlength=2)[1:].argmax() + 1 if count else mask


def _frames(record: Things) -> dict[str, list[tuple[np.ndarray, ...]]]:
    """By mover, (frame, true mask, shown mask, true frame) where the true silhouette is whole and large
    enough.
    """
    out = {}
    for name, clip in record.clips.items():
        rows: list[tuple[np.ndarray, ...]] = list(zip(*clip, strict=True))
        out[name] = [row for row in rows if row[1].mean() >= LEAST and not _cut(row[1])]
    return {name: rows for name, rows in out.items() if rows}


def _cut(mask: np.ndarray) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _by_mover(record: Things, score: object) -> dict[str, float] | None:
    found = {name: [score(*row) for row in rows] for name, rows in _frames(record).items()}  # type: ignore[operator]
    kept = {name: [v for v in values if v is not None] for name, values in found.items()}
    return {name: float(np.mean(values)) for name, values in kept.items() if values} or None


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((first & second).sum() / max((first | second).sum(), 1))


def centred_iou(first: np.ndarray, second: np.ndarray) -> float:
    """The same once the second was moved onto the first's middle."""
    if not first.any() or not second.any():
        return 0.0
    gap = np.argwhere(first).mean(0) - np.argwhere(second).mean(0)
    return iou(first, ndimage.shift(second.astype(np.uint8), gap.round(), order=0) > 0)


@figure("things", "", "high", ">= 0.6")
def silhouette(record: Things) -> dict[str, float] | None:
    """IoU with the simulator's silhouette."""
    return _by_mover(record, lambda frame, true, shown, other: iou(true, shown))


@figure("things", "", "high", ">= 0.8")
def silhouette_centred(record: Things) -> dict[str, float] | None:
    """IoU with the simulator's silhouette once the middles are aligned."""
    return _by_mover(record, lambda frame, true, shown, other: centred_iou(true, shown))


@figure("things", "x", "", "")
def solidity(record: Things) -> dict[str, float] | None:
    """Area over that of the convex hull, beside the truth's.

    By mover; 0 where nothing is shown.
    """
    return _by_mover(record, lambda frame, true, shown, other: _solid(shown) / max(_solid(true), 0.1))


def _solid(mask: np.ndarray) -> float:
    cv2 = opencv()
    if mask.sum() < 12:
        return 0.0
    points = np.argwhere(mask)[:, None, ::-1].astype(np.int32)
    hull = cv2.convexHull(points)
    return float(mask.sum() / (cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1))


@figure("things", "", "low", "<= 0.5")
def texture(record: Things) -> dict[str, float] | None:
    """Fine variation inside things, distance from the truth's (0 = equal, 1 = e times).

    By mover: |log of the ratio|, so that neither hatching nor flat paint wins.
    """

    def score(frame: np.ndarray, true: np.ndarray, shown: np.ndarray, other: np.ndarray) -> float | None:
        if shown.sum() < 30:
            return 3.0
        return abs(float(np.log((fine(frame, shown) + 1e-3) / (fine(other, true) + 1e-3))))

    return _by_mover(record, score)


def fine(frame: np.ndarray, mask: np.ndarray) -> float:
    """Mean difference of the brightness inside a mask from its blur, in 0-1."""
    light, inner = metrics.grey(frame), ndimage.binary_erosion(mask, iterations=2)
    inner = inner if inner.sum() > 10 else mask
    return float(np.abs(light - ndimage.gaussian_filter(light, 1.2))[inner].mean())
