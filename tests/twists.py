"""Paths of constant twists, for tests."""

import numpy as np

from spatia_env.geometry import se3_exp


def path_of_twist(twist, num_frames):
    """Poses [T, 4, 4] at exp(i/T twist), i = 1..T, relative to where the twist [6] begins."""
    fractions = np.arange(1, num_frames + 1)[:, None] / num_frames
    return se3_exp(fractions * np.asarray(twist, dtype=np.float64))
