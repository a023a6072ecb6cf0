"""What feature matches say of pictures: is this the same place, and where was the camera?

SIFT of OpenCV (optional). Match accuracy follows the paper's definition with SIFT in place of RoMa: matches of a
picture with another, in units of the picture's matches with itself. Poses are estimated from the
frames alone (`Localiser`).
"""

import importlib.util
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from spatia_env.errors import ActionError

SCALE = 3
"""Pictures are enlarged so many times before points are looked for: small pictures have few."""
RATIO = 0.8
"""Lowe's ratio between the best and the second match."""
NEAR = 0.03
"""Share of the picture's width within which a match of the same view must lie."""
STRONG, SMALLEST = 0.03, 2.0
"""Contrast and diameter in pixels of points that count for match accuracy: a picture has no smaller features, only
noise of the enlargement.
"""
MIN_INLIERS = 12
ENOUGH = 80
"""Followed points that make a search by looks needless."""
_REPROJECTION = 1.5
"""Pixels (of the picture) that an inlier may be off."""


def available() -> bool:
    """Whether OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


def opencv() -> ModuleType:
    """OpenCV, single-threaded and with fixed random numbers.

    Raises:
        ActionError: It is not installed.
    """
    if not available():
        raise ActionError('this metric needs OpenCV; `pip install "spatia-env[bench]"`.')
    import cv2

    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    return cv2


@dataclass(frozen=True)
class Points:
    """SIFT points of a picture: positions [N, 2] in its pixels (centres at +0.5) and descriptors [N, 128]."""

    uv: np.ndarray
    descriptors: np.ndarray


def points_of(picture: np.ndarray, contrast: float = 0.015, smallest: float = 0.0) -> Points:
    """The SIFT points of a picture u8 [H, W, 3] of at least this contrast and this diameter in its pixels."""
    sift = opencv().SIFT_create(nfeatures=1500, contrastThreshold=contrast)
    found, descriptors = sift.detectAndCompute(_enlarged(picture), None)
    kept = [index for index, point in enumerate(found) if point.size >= smallest * SCALE]
    if not kept:
        return Points(np.zeros((0, 2)), np.zeros((0, 128), np.float32))
    uv = (np.array([found[index].pt for index in kept]) + 0.5) / SCALE
    return Points(uv, descriptors[kept])


def matches(first: Points, second: Points) -> np.ndarray:
    """Pairs of indices [M, 2] of points that are each other's best match and clearly so."""
    if len(first.uv) < 2 or len(second.uv) < 2:
        return np.zeros((0, 2), int)
    a, b = first.descriptors.astype(np.float32), second.descriptors.astype(np.float32)
    distance = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None]
    distance = np.maximum(distance, 0)
    best = distance.argmin(1)
    two = np.partition(distance, 1, axis=1)[:, :2]
    clear = two[:, 0] <= RATIO**2 * two[:, 1]
    mutual = distance.argmin(0)[best] == np.arange(len(a))
    index = np.flatnonzero(clear & mutual)
    return np.stack([index, best[index]], axis=1)


def match_accuracy(picture: np.ndarray, truth: np.ndarray) -> float:
    """MatchAcc-SIFT in [0, 1]: share of the true picture's self-matches that the same view finds at the same place.

    Raises:
        ActionError: OpenCV is not installed.
    """
    first, second = (points_of(p, STRONG, SMALLEST) for p in (truth, picture))
    own = len(matches(first, first))
    if not own:
        return 0.0
    pairs = matches(first, second)
    off = np.linalg.norm(first.uv[pairs[:, 0]] - second.uv[pairs[:, 1]], axis=1)
    return float((off <= NEAR * truth.shape[1]).sum() / own)


class Localiser:
    """Estimates where frames were taken, in the scene of a start picture.

    Points of the start picture, which its true depth lifts into space, are followed from frame to frame (corners, by
    optical flow that must lead back) and, where few are left, found again by their looks (SIFT); RANSAC solves them for
    the camera.

    Args:
        picture: The start picture u8 [H, W, 3].
        depth: Its true z-depth [H, W] in metres.
        c2w: Its pose [4, 4].
        K: Intrinsics [3, 3] of all pictures.
    """

    def __init__(self, picture: np.ndarray, depth: np.ndarray, c2w: np.ndarray, K: np.ndarray) -> None:
        self.K, self.c2w, self.grey = K.astype(np.float64), c2w.astype(np.float64), _enlarged(picture)
        self.depth, self.points = depth, points_of(picture)
        found = opencv().goodFeaturesToTrack(self.grey, 500, 0.002, 2 * SCALE)
        corners = np.zeros((0, 2)) if found is None else (found[:, 0] + 0.5) / SCALE
        self.corners, self.corner_space = self._lifted(corners)
        self.sift, self.sift_space = self._lifted(self.points.uv, keep_all=True)

    def _lifted(self, uv: np.ndarray, keep_all: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Points with a depth, and where they are in the start camera's space; NaN without one if all are kept."""
        row, column = (np.floor(uv[:, i]).astype(int).clip(0, self.depth.shape[1 - i] - 1) for i in (1, 0))
        z = self.depth[row, column].astype(np.float64)
        z[z <= 0] = np.nan
        space = np.column_stack([uv, np.ones(len(z))]) @ np.linalg.inv(self.K).T * z[:, None]
        kept = np.ones(len(z), bool) if keep_all else np.isfinite(z)
        return uv[kept], space[kept]

    def locate(self, frames: np.ndarray) -> list[np.ndarray | None]:
        """Poses c2w [4, 4] of frames u8 [T, H, W, 3] in order; None where too little of the start picture is found."""
        poses = []
        before, uv, space = self.grey, self.corners, self.corner_space
        for frame in frames:
            now = _enlarged(frame)
            uv, kept = _followed(before, now, uv)
            before, space = now, space[kept]
            poses.append(
                self._solved(*(self._with_found(frame, space, uv) if len(uv) < ENOUGH else (space, uv)))
            )
        return poses

    def _with_found(
        self, frame: np.ndarray, space: np.ndarray, uv: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points that were followed, and those that are found again by their looks."""
        seen = points_of(frame)
        pairs = matches(self.points, seen)
        pairs = pairs[np.isfinite(self.sift_space[pairs[:, 0], 2])]
        return np.concatenate([space, self.sift_space[pairs[:, 0]]]), np.concatenate(
            [uv, seen.uv[pairs[:, 1]]]
        )

    def _solved(self, space: np.ndarray, image: np.ndarray) -> np.ndarray | None:
        cv2 = opencv()
        if len(space) < MIN_INLIERS:
            return None
        solved, turn, move, inliers = cv2.solvePnPRansac(
            space, image, self.K, None, iterationsCount=500, reprojectionError=_REPROJECTION, confidence=0.999,
            flags=cv2.SOLVEPNP_EPNP,
        )  # fmt: skip
        if not solved or inliers is None or len(inliers) < MIN_INLIERS:
            return None
        kept = inliers[:, 0]
        turn, move = cv2.solvePnPRefineLM(space[kept], image[kept], self.K, None, turn, move)
        w2c = np.eye(4)
        w2c[:3, :3], w2c[:3, 3] = cv2.Rodrigues(turn)[0], move[:, 0]
        return self.c2w @ np.linalg.inv(w2c) if np.isfinite(w2c).all() else None


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """A grey picture, `SCALE` times as large."""
    cv2 = opencv()
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC))


def _followed(before: np.ndarray, now: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points [N, 2] of an enlarged picture went in the next, and which of them [N] were followed."""
    cv2 = opencv()
    if not len(uv):
        return uv, np.zeros(0, bool)
    old = (uv * SCALE - 0.5).astype(np.float32)[:, None]
    options = {"winSize": (21, 21), "maxLevel": 4}
    new, found, _ = cv2.calcOpticalFlowPyrLK(before, now, old, None, **options)
    again, back, _ = cv2.calcOpticalFlowPyrLK(now, before, new, None, **options)
    kept = (found[:, 0] > 0) & (back[:, 0] > 0) & (np.abs(again - old)[:, 0].max(-1) < 0.5 * SCALE)
    inside = (new[:, 0] > 0).all(-1) & (new[:, 0] < np.array(now.shape[::-1]) - 1).all(-1)
    kept &= inside
    return (new[kept, 0].astype(np.float64) + 0.5) / SCALE, kept


def interpolation_smoothness(frames: np.ndarray) -> float:
    """How well each odd frame of u8 [T, H, W, 3] is predicted from its neighbours by optical flow: PSNR in dB.

    After WorldScore's motion smoothness (every other frame is dropped, made again and compared), with DIS optical
    flow in place of a network. Jumps and flicker lower it; so does any fast motion, so compare it with the oracle's.
    """
    from spatia_env.bench.metrics import psnr

    cv2 = opencv()
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in frames]
    height, width = grey[0].shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    scores = []
    for index in range(1, len(frames) - 1, 2):
        before, after = index - 1, index + 1
        parts = []
        for source, other in ((before, after), (after, before)):
            # The flow at the source stands for that at the middle: motion between frames is small.
            motion = flow.calc(grey[source], grey[other], None)
            place = (grid - motion / 2).astype(np.float32)
            parts.append(
                cv2.remap(frames[source], place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            )
        middle = (parts[0].astype(np.float32) + parts[1]) / 2
        scores.append(psnr(middle, frames[index].astype(np.float32)))
    return float(np.mean(scores))


def inpaint(frame: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A frame u8 [H, W, 3] whose unknown pixels [H, W] are filled by OpenCV (Telea, 2004)."""
    cv2 = opencv()
    return np.asarray(
        cv2.inpaint(np.ascontiguousarray(frame), (~known).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    )
