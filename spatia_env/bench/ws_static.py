"""Suite `ws-static`: WorldScore's eight camera paths and chains of them, and how well they are followed.

Camera control is WorldScore's formula, from poses that are estimated from the frames (`camera_control`); the oracle's
frames go through the same estimator, so its score says what the estimator can do. A path that ends in a wall of the
scene is left out for all rows.
"""

from typing import Any

import numpy as np

from spatia_env.bench import matching, metrics
from spatia_env.bench.camera_control import camera_control
from spatia_env.bench.episodes import Truth, generator
from spatia_env.bench.matching import Localiser
from spatia_env.bench.paths import MAKERS, WS_CHAINS, WS_PATHS, WS_UNIT, has_room
from spatia_env.bench.quality import Context, Measured, roll_out
from spatia_env.bench.rows import Row

RIGHT_METRES, RIGHT_DEGREES = 0.08, 2.0
"""Errors on the true frame beyond which the estimator is not asked about that frame, of any row."""
SHOWN_PATHS = ("ws:push_in", "ws:orbit_left", "ws:pan_right")


def kinds() -> dict[str, int]:
    """The paths of the suite, and how many clips each has."""
    return {f"ws:{name}": 1 for name in WS_PATHS} | {
        "ws:" + ",".join(names): len(names) for names in WS_CHAINS
    }


def measure_ws_static(context: Context, scene: int, row: Row) -> Measured:
    """Every path for which the scene has room."""
    simulated = context.source.scene(scene)
    values: dict[str, Any] = {}
    pictures: dict[str, np.ndarray] = {}
    scores: list[dict[str, float]] = []
    for kind, clips in kinds().items():
        if not has_room(simulated, MAKERS[kind][1](simulated, generator(scene, kind), clips)):
            continue
        truth = context.truth(scene, kind, clips)
        frames = roll_out(context, row, truth)[0].frames
        found = score_path(context, frames, truth, kind)
        scores.append(found)
        values |= {f"{kind[3:]}.{name}": value for name, value in found.items()}
        if kind in SHOWN_PATHS:
            pictures[kind[3:]] = frames[1::2]
    values["paths"] = len(scores)
    for name in dict.fromkeys(name for found in scores for name in found):
        values[name] = float(np.mean([found[name] for found in scores if name in found]))
    return Measured(values, pictures)


def score_path(context: Context, frames: np.ndarray, truth: Truth, kind: str) -> dict[str, float]:
    """Camera control of one path, and what it shows on observed pixels."""
    values = {}
    every = metrics.frame_psnr(frames, truth.frames[1:], truth.observed[1:])
    if not np.isnan(every).all():
        values["psnr_observed"] = float(np.nanmean(every))
    if not matching.available():
        return values
    localiser, reachable = context.source.kept(("placed", truth.scene, kind), lambda: estimator_of(truth))
    values["placeable"] = float(reachable.mean())
    if reachable.any():
        found = [pose for pose, ok in zip(localiser.locate(frames), reachable, strict=True) if ok]
        values |= camera_control(found, truth.c2w[1:][reachable], truth.c2w[0], WS_UNIT)
    return values


def estimator_of(truth: Truth) -> tuple[Localiser, np.ndarray]:
    """The pose estimator of an episode, and which of its frames [T] it places rightly when they are true."""
    localiser = Localiser(truth.frames[0], truth.depth[0], truth.c2w[0], truth.K)
    poses = localiser.locate(truth.frames[1:])
    right = np.zeros(len(poses), bool)
    for index, pose in enumerate(poses):
        if pose is not None:
            metres, degrees = metrics.pose_errors(pose[None], truth.c2w[1 + index][None])
            right[index] = metres[0] <= RIGHT_METRES and degrees[0] <= RIGHT_DEGREES
    return localiser, right
