"""OpenCV where it is installed (the `bench` extra)."""

import importlib.util
from types import ModuleType

import numpy as np

from spatia_env.errors import ActionError


def available() -> bool:
    """Whether OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


def opencv() -> ModuleType:
    """OpenCV, single-threaded and with fixed random numbers.

    Raises:
        ActionError: It is not installed.
    """
    if not available():
        raise ActionError('this figure needs OpenCV; `pip install "spatia-env[bench]"`.')
    import cv2

    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    return cv2


def inpaint(frame: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A frame u8 [H, W, 3] whose unknown pixels [H, W] are filled by OpenCV (Telea, 2004)."""
    cv2 = opencv()
    hole = (~known).astype(np.uint8)
    return np.asarray(cv2.inpaint(np.ascontiguousarray(frame), hole, 3, cv2.INPAINT_TELEA))
