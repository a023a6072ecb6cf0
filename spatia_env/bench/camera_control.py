"""Camera control by WorldScore's formula, from poses that were estimated from the frames.

WorldScore estimates a trajectory with DROID-SLAM; here `matching.Localiser` does, as the true depth of the start
picture is known. Both the row and the oracle go through it. A frame that it cannot place rightly even on the true
pictures is left out for all rows (the share that stays is reported); one that it can place there and not on the row's
is an error of the greatest size.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from spatia_env.bench.metrics import pose_errors

MAX_DEGREES = 15.0
MAX_UNITS = 0.5


def camera_control(
    estimated: Sequence[np.ndarray | None], true: np.ndarray, start: np.ndarray, unit: float
) -> dict[str, float]:
    """WorldScore's camera control, 0 to 100, of poses c2w relative to the first camera.

    Args:
        estimated: Poses [4, 4] of the frames, None where none was found.
        true: Poses [T, 4, 4] of the same frames.
        start: The first camera [4, 4].
        unit: Metres of WorldScore's unit.

    Returns:
        `score`; `degrees` and `units`: mean errors, at most 15 and 0.5; `placed`: share of frames with a pose.
    """
    first = np.linalg.inv(np.asarray(start, np.float64))
    goal = first @ np.asarray(true, np.float64)
    found = [None if pose is None else first @ pose for pose in estimated]
    placed = [i for i, pose in enumerate(found) if pose is not None]
    degrees, units = np.full(len(goal), MAX_DEGREES), np.full(len(goal), MAX_UNITS)
    if placed:
        poses = np.stack([pose for pose in found if pose is not None])
        degrees[placed] = pose_errors(poses, goal[placed])[1]
        target = goal[placed, :3, 3] / unit
        units[placed] = np.linalg.norm(
            best_scale(poses[:, :3, 3], target) * poses[:, :3, 3] - target, axis=-1
        )
    rotation, translation = float(degrees.mean()), float(units.mean())
    score = 100 * float(np.sqrt(max(0.0, 1 - rotation / MAX_DEGREES) * max(0.0, 1 - translation / MAX_UNITS)))
    return {
        "score": score,
        "degrees": min(rotation, MAX_DEGREES),
        "units": min(translation, MAX_UNITS),
        "placed": len(placed) / len(goal),
    }


def best_scale(moved: np.ndarray, target: np.ndarray) -> float:
    """The c >= 0 that minimises the sum of norms of c * moved - target, both [T, 3]."""

    def cost(c: float) -> float:
        return float(np.linalg.norm(c * moved - target, axis=-1).sum())

    length = np.linalg.norm(moved, axis=-1).sum()
    if length < 1e-9:
        return 0.0
    # The sum of norms is convex in c; beyond this bound the zero vector is better.
    bound = 2 * np.linalg.norm(target, axis=-1).sum() / length + 1e-9
    found = minimize_scalar(cost, bounds=(0.0, bound), method="bounded", options={"xatol": 1e-6})
    return float(found.x) if cost(float(found.x)) <= cost(0.0) else 0.0
