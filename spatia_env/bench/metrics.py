"""What pictures, depth, maps and poses score against the truth: pure functions on NumPy arrays.

Every function detects its planted fault in the tests (a degree, two centimetres, a percent of scale, 5 %
ghosts, shuffled frames). A number that is not finite never leaves this module: it becomes the worst score.
"""

import numpy as np
from scipy.spatial import cKDTree

PSNR_CAP = 60.0
"""dB; identical pictures score this, so that means stay finite."""
PSNR_WORST = 0.0
"""dB; what a failed or non-finite picture scores."""
ABSREL_WORST = 1.0
"""Relative error of a pixel without a prediction, and the most that a single pixel can count."""
SSIM_SIGMA = 1.5
MIN_SHARE = 0.05
"""Frames with a smaller share of a mask's pixels are too small a sample to score on that mask."""


def psnr(picture: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit pictures, from 0 (worst) to `PSNR_CAP` (equal).

    Args:
        picture: uint8 or float [..., H, W, 3] in 0-255.
        truth: The same shape.
        mask: bool [..., H, W]; only these pixels count.

    Raises:
        ValueError: Shapes differ, or the mask is empty.
    """
    _same_shape(picture, truth)
    error = (np.asarray(picture, np.float64) - np.asarray(truth, np.float64)) ** 2
    if mask is not None:
        if not mask.any():
            raise ValueError("psnr: the mask has no pixels; decide what an empty mask means before.")
        error = error[mask]
    mse = float(error.mean())
    if not np.isfinite(mse):
        return PSNR_WORST
    return float(np.clip(10 * np.log10(255.0**2 / max(mse, 1e-12)), PSNR_WORST, PSNR_CAP))


def frame_psnr(frames: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """PSNR [T] of each frame [T, H, W, 3], NaN where less than `MIN_SHARE` of its pixels are in `mask` [T, H,
    W].
    """
    _same_shape(frames, truth)
    if mask is None:
        return np.array([psnr(f, t) for f, t in zip(frames, truth, strict=True)])
    enough = mask.mean((-2, -1)) >= MIN_SHARE
    return np.array(
        [psnr(frames[i], truth[i], mask[i]) if enough[i] else np.nan for i in range(len(frames))],
        dtype=np.float64,
    )


def ssim(picture: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of 8-bit pictures [H, W, 3], 1 if equal (Wang et al., 2004; Gaussian, sigma 1.5).

    Computed by scikit-image with the settings of the paper.
    """
    from skimage.metrics import structural_similarity

    _same_shape(picture, truth)
    score = structural_similarity(
        np.asarray(picture), np.asarray(truth), channel_axis=-1, data_range=255, gaussian_weights=True,
        sigma=SSIM_SIGMA, use_sample_covariance=False,
    )  # fmt: skip
    return float(score) if np.isfinite(score) else 0.0


def depth_absrel(depth: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean of |depth - truth| / truth over pixels that have a true depth, 0 is perfect.

    A pixel without a prediction (0 or not finite) counts as `ABSREL_WORST`, and no pixel counts for more:
    leaving pixels out does not help.

    Args:
        depth: z-depth [..., H, W] in metres, 0 = none.
        truth: The same shape.
        mask: bool [..., H, W]; only these pixels count.

    Raises:
        ValueError: Shapes differ, or nothing has a true depth.
    """
    _same_shape(depth, truth)
    depth, truth = np.asarray(depth, np.float64), np.asarray(truth, np.float64)
    valid = (truth > 0) & np.isfinite(truth)
    valid &= np.ones_like(valid) if mask is None else mask
    if not valid.any():
        raise ValueError("depth_absrel: no pixel has a true depth.")
    predicted = depth[valid]
    error = np.abs(predicted - truth[valid]) / truth[valid]
    missing = ~np.isfinite(predicted) | (predicted <= 0)
    return float(np.where(missing, ABSREL_WORST, np.minimum(error, ABSREL_WORST)).mean())


def map_scores(points: np.ndarray, truth: np.ndarray, threshold: float = 0.05) -> dict[str, float]:
    """How well a map lies on the true surface and covers it.

    Args:
        points: World points [N, 3] in metres.
        truth: Points [M, 3] on the true surface, denser than `threshold`.
        threshold: Metres within which a point counts as right.

    Returns:
        `accuracy` and `completeness`: mean distances in metres from map to truth and back, each distance
        counted up to 0.5 m; `chamfer`: their mean; `precision`, `recall` and `fscore` at the threshold, 0-1.
    """
    if not len(truth):
        raise ValueError("map_scores: the true surface has no points.")
    if not len(points):
        return {
            "accuracy": 0.5,
            "completeness": 0.5,
            "chamfer": 0.5,
            "precision": 0.0,
            "recall": 0.0,
            "fscore": 0.0,
        }
    to_truth = np.minimum(cKDTree(truth).query(points)[0], 0.5)
    to_map = np.minimum(cKDTree(points).query(truth)[0], 0.5)
    precision, recall = float((to_truth <= threshold).mean()), float((to_map <= threshold).mean())
    both = precision + recall
    return {
        "accuracy": float(to_truth.mean()),
        "completeness": float(to_map.mean()),
        "chamfer": float((to_truth.mean() + to_map.mean()) / 2),
        "precision": precision,
        "recall": recall,
        "fscore": 2 * precision * recall / both if both > 0 else 0.0,
    }


def pose_errors(estimated: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres and degrees [T] between poses `c2w` [T, 4, 4]; poses that are not finite count 10 m and 180
    degrees.
    """
    _same_shape(estimated, true)
    estimated, true = np.asarray(estimated, np.float64), np.asarray(true, np.float64)
    metres = np.linalg.norm(estimated[..., :3, 3] - true[..., :3, 3], axis=-1)
    relative = np.swapaxes(estimated[..., :3, :3], -1, -2) @ true[..., :3, :3]
    # From the Frobenius norm: accurate for small angles, where the trace is not.
    half = np.linalg.norm(relative - np.eye(3), axis=(-2, -1)) / np.sqrt(8)
    degrees = np.degrees(2 * np.arcsin(np.clip(half, 0, 1)))
    bad = ~np.isfinite(metres) | ~np.isfinite(degrees)
    return np.where(bad, 10.0, metres), np.where(bad, 180.0, degrees)


def relative_pose_errors(estimated: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors [T - 1], metres and degrees, of the motion from each pose to the next: no drift accumulates."""
    return pose_errors(_motions(estimated), _motions(true))


def scale_error(estimated: np.ndarray, true: np.ndarray) -> float:
    """Relative error of the length of a path `c2w` [T, 4, 4]: 0.01 is one percent too long."""
    lengths = [np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=-1).sum() for path in (estimated, true)]
    if not lengths[1] > 0:
        raise ValueError("scale_error: the true path does not move.")
    return float(lengths[0] / lengths[1] - 1)


def ghost_share(points: np.ndarray, truth: np.ndarray, threshold: float = 0.1) -> float:
    """Share of map points [N, 3] further than `threshold` metres from all points [M, 3] of the surface."""
    if not len(points):
        return 0.0
    return float((cKDTree(truth).query(points)[0] > threshold).mean())


def order_score(frames: np.ndarray, truth: np.ndarray) -> float:
    """Share of frames [T, H, W, 3] that resemble their own true frame more than any other, 1 if in order."""
    _same_shape(frames, truth)
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (frames, truth))
    distance = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None]
    return float((distance.argmin(1) == np.arange(len(a))).mean())


def _motions(path: np.ndarray) -> np.ndarray:
    path = np.asarray(path, np.float64)
    return np.linalg.inv(path[:-1]) @ path[1:]


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if np.shape(a) != np.shape(b):
        raise ValueError(f"shapes differ: {np.shape(a)} and {np.shape(b)}.")
