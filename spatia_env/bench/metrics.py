"""What pictures and depth score against the truth, or against sets of true pictures: pure functions on NumPy arrays.

Every function sees its planted fault and does not reward its known cheat (tests/test_bench_metrics.py).
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

PSNR_CAP = 60.0
"""dB; identical pictures score this, so that means stay finite."""
MIN_SHARE = 0.05
"""Frames with a smaller share of a mask's pixels are too small a sample to score on that mask."""
STRONG = 0.035
"""Gradient (of brightness in 0-1, per pixel, after a blur of `COARSE` pixels) from which an edge is
strong.
"""
COARSE = 1.8
GRID = 16
"""Cells along each side at which samples are compared: noise and fine texture are no diversity."""


def psnr(picture: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit pictures, from 0 to `PSNR_CAP` (equal).

    Args:
        picture: [..., H, W, 3] in 0-255.
        truth: The same shape.
        mask: bool [..., H, W]; only these pixels count.

    Raises:
        ValueError: Shapes differ, or the mask is empty.
    """
    _same_shape(picture, truth)
    error = (np.asarray(picture, np.float64) - np.asarray(truth, np.float64)) ** 2
    if mask is not None:
        if not mask.any():
            raise ValueError("psnr: the mask has no pixels.")
        error = error[mask]
    mse = float(error.mean())
    return float(np.clip(10 * np.log10(255.0**2 / max(mse, 1e-12)), 0, PSNR_CAP)) if np.isfinite(mse) else 0.0


def frame_psnr(frames: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """PSNR [T] of each frame [T, H, W, 3], NaN where less than `MIN_SHARE` of its pixels are in `mask` [T,
    H, W].
    """
    _same_shape(frames, truth)
    masks = np.ones(np.shape(frames)[:-1], bool) if mask is None else mask
    rows = zip(frames, truth, masks, strict=True)
    return np.array([psnr(f, t, m) if m.mean() >= MIN_SHARE else np.nan for f, t, m in rows], np.float64)


def ssim(picture: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of 8-bit pictures [H, W, 3], 1 if equal (Wang et al., 2004; Gaussian, sigma
    1.5).
    """
    from skimage.metrics import structural_similarity

    _same_shape(picture, truth)
    score = structural_similarity(
        np.asarray(picture), np.asarray(truth), channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    return float(score) if np.isfinite(score) else 0.0


def depth_absrel(depth: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean of |depth - truth| / truth over pixels with a true depth; a pixel without a prediction counts 1, none more.

    Raises:
        ValueError: Shapes differ, or no pixel has a true depth.
    """
    _same_shape(depth, truth)
    valid = (truth > 0) & np.isfinite(truth) & (True if mask is None else mask)
    if not valid.any():
        raise ValueError("depth_absrel: no pixel has a true depth.")
    predicted, true = np.asarray(depth, np.float64)[valid], np.asarray(truth, np.float64)[valid]
    missing = ~np.isfinite(predicted) | (predicted <= 0)
    return float(np.where(missing, 1.0, np.minimum(np.abs(predicted - true) / true, 1.0)).mean())


# -- definiteness of what nobody has seen


def grey(frames: np.ndarray) -> np.ndarray:
    """Brightness [..., H, W] in 0-1 of frames u8 [..., H, W, 3]."""
    return np.asarray(frames, np.float32).mean(-1) / 255


def strong_edges(frame: np.ndarray) -> np.ndarray:
    """Pixels [H, W] of a frame u8 [H, W, 3] on edges that outlast a blur: lines and outlines, not stripes of
    a few pixels.
    """
    smooth = ndimage.gaussian_filter(grey(frame), COARSE)
    return np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)) / 8 > STRONG


def hatching(frame: np.ndarray, mask: np.ndarray) -> float:
    """Mean fine variation (0-1) of the masked pixels [H, W] that are not near a strong edge: hatching,
    grids, specks.
    """
    light = grey(frame)
    calm = mask & ~ndimage.binary_dilation(strong_edges(frame), iterations=3)
    if calm.sum() < 20:
        return 0.0
    return float(np.abs(light - ndimage.gaussian_filter(light, 1.2))[calm].mean())


def edge_score(frames: np.ndarray, truth: np.ndarray, masks: np.ndarray) -> float:
    """How definite the masked pixels are, beside the truth: 1 as definite, 0 a wash or a hatch.

    Frame by frame: the share of strong edges over the truth's (or its inverse, where there are more), times
    the truth's fine variation over that of the frame, where that is larger. All arrays [T, H, W, ...];
    frames with little mask are left out.
    """
    scores = []
    for frame, true, mask in zip(frames, truth, masks, strict=True):
        if mask.mean() < 0.25:
            continue
        ratio = (strong_edges(frame)[mask].mean() + 1e-3) / (strong_edges(true)[mask].mean() + 1e-3)
        penalty = min(1.0, (hatching(true, mask) + 0.002) / (hatching(frame, mask) + 0.002))
        scores.append(min(ratio, 1 / ratio) * penalty)
    return float(np.mean(scores)) if scores else 0.0


def edge_share(frames: np.ndarray, masks: np.ndarray) -> float:
    """Share of the masked pixels that lie on strong edges."""
    return float(np.mean([strong_edges(f)[m].mean() for f, m in zip(frames, masks, strict=True) if m.any()]))


# -- sets of samples


def coarse(frames: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
    """Colours f64 [T, GRID, GRID, 3] in 0-1 of frames u8 [T, H, W, 3], NaN in cells that are not wholly in
    `masks`.
    """
    height, width = frames.shape[1] // GRID, frames.shape[2] // GRID
    cells = np.asarray(frames[:, : GRID * height, : GRID * width], np.float64) / 255
    cells = cells.reshape(len(frames), GRID, height, GRID, width, 3).mean((2, 4))
    if masks is not None:
        whole = (
            masks[:, : GRID * height, : GRID * width]
            .reshape(len(frames), GRID, height, GRID, width)
            .all((2, 4))
        )
        cells[~whole] = np.nan
    return cells


def spread(samples: Sequence[np.ndarray]) -> float:
    """Mean absolute difference between pairs of samples (`coarse`), 0 for one answer."""
    pairs = [np.nanmean(np.abs(a - b)) for i, a in enumerate(samples) for b in samples[i + 1 :]]
    return float(np.mean(pairs)) if pairs else 0.0


def energy_score(samples: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Energy score of samples for draws of the truth: mean distance to it less half their own spread; lower is better.

    A proper score: no answer is better on average than draws from the true distribution. Arrays as `coarse`
        gives them.
    """
    near = np.mean([_norm(a - y) for a in samples for y in truths])
    own = [_norm(a - b) for a in samples for b in samples]
    count = len(samples)
    return float(near - 0.5 * np.sum(own) / max(count * (count - 1), 1))


def _norm(difference: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(difference**2)))


def patches(frames: np.ndarray, masks: np.ndarray, side: int = 64, step: int = 64) -> np.ndarray:
    """Patches u8 [N, side, side, 3] of frames that lie wholly in their masks [T, H, W]."""
    out = [
        frame[top : top + side, left : left + side]
        for frame, mask in zip(frames, masks, strict=True)
        for top in range(0, frame.shape[0] - side + 1, step)
        for left in range(0, frame.shape[1] - side + 1, step)
        if mask[top : top + side, left : left + side].all()
    ]
    return np.stack(out) if out else np.zeros((0, side, side, 3), np.uint8)


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cubic kernel of KID between features [N, F] and [M, F]."""
    return (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3


def kid(features: Sequence[np.ndarray], reference: np.ndarray) -> Callable[[np.ndarray], float]:
    """Kernel inception distance x 1000 between pictures grouped by scene and true pictures; about 0 if they are alike.

    Args:
        features: One array [N, F] a scene.
        reference: [M, F]; features are taken from its mean, in units of its overall spread.

    Returns:
        The distance as a function of how often each scene counts [scenes] (a resample). Pairs within a scene
        are left out, as they are no independent draws; NaN with fewer than two scenes.
    """
    mean, scale = reference.mean(0), max(float(np.sqrt(reference.var(0).mean())), 1e-6)
    groups, true = [(f - mean) / scale for f in features], (reference - mean) / scale
    within = kernel(true, true)
    own = (within.sum() - np.trace(within)) / (len(true) * (len(true) - 1))
    cross = np.array([kernel(g, true).mean() for g in groups])
    between = np.array([[kernel(a, b).mean() for b in groups] for a in groups])

    def distance(weights: np.ndarray) -> float:
        pairs = np.outer(weights, weights) * (1 - np.eye(len(groups)))
        if not pairs.sum():
            return float("nan")
        return float(
            1000 * ((between * pairs).sum() / pairs.sum() + own - 2 * np.average(cross, weights=weights))
        )

    return distance


# -- seams


def seam_gradient(frames: np.ndarray, old: np.ndarray) -> float:
    """Mean colour step (0-1) across the border between pixels that were shown before and new ones.

    Args:
        frames: u8 [T, H, W, 3].
        old: bool [T, H, W], shown before.

    Returns:
        The largest step to the neighbour within two columns of each border pixel, averaged; NaN without a
        border.
    """
    steps = np.abs(np.diff(np.asarray(frames, np.float32) / 255, axis=2)).mean(-1)
    widest = ndimage.maximum_filter1d(steps, 5, axis=2)
    # A border of at least 8 pixels in height, not the specks of occlusion.
    solid = ndimage.binary_opening(old, np.ones((1, 5, 5)))
    border = solid[:, :, 1:] != solid[:, :, :-1]
    return float(widest[border].mean()) if border.sum() >= 8 else float("nan")


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if np.shape(a) != np.shape(b):
        raise ValueError(f"shapes differ: {np.shape(a)} and {np.shape(b)}.")
