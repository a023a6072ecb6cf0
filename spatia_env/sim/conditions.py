"""Light and air: effects on rendered pictures that last until an ending event.

Each condition has a strength in [0, 1] that ramps up over `RAMP_SECONDS` (four frames of a clip) and down again
when it ends. Fog uses the depth; snow shows the flakes of `falling`, drawn over the picture; everything else is a
change of colours. Depth and segmentation stay those of the scene; pixels of snow are dynamic and have segmentation
-2.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from spatia_env.models.spatial_conditioning import FLAKE_RADIUS, covered, flakes

RAMP_SECONDS = 0.4
PARTICLE_ID = -2
FOG_COLOUR = np.array([196, 202, 206], dtype=np.float32)
FOG_DENSITY = 0.4  # per metre, beyond FOG_CLEAR
FOG_CLEAR = 0.6

# Gains of red, green and blue at full strength, and what is added (a veil of light).
GAINS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "dim": ((0.45, 0.45, 0.45), (0, 0, 0)),
    "night": ((0.2, 0.27, 0.48), (0, 2, 12)),
    "alarm": ((0.95, 0.24, 0.2), (28, 0, 0)),
    "sunset": ((1.04, 0.78, 0.42), (16, 4, 0)),
}
CONDITIONS = ("dim", "night", "fog", "alarm", "sunset", "snow")

FLAKE_COLOUR = np.array([246, 248, 250], dtype=np.float32)
FLAKE_OPACITY = 0.9


@dataclasses.dataclass
class Condition:
    """One effect: its strength now, and whether it comes or goes."""

    name: str
    coming: bool = True
    strength: float = 0.0

    def advance(self, seconds: float) -> None:
        """Ramp the strength."""
        step = seconds / RAMP_SECONDS
        self.strength = min(1.0, self.strength + step) if self.coming else max(0.0, self.strength - step)
        if self.strength > 1 - 1e-9:
            self.strength = 1.0
        elif self.strength < 1e-9:
            self.strength = 0.0


def apply(
    conditions: list[Condition],
    rgb: np.ndarray,
    depth: np.ndarray,
    c2w: np.ndarray,
    K: np.ndarray,
    seconds: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The picture under these conditions, uint8 [H, W, 3], and which pixels are particles, bool [H, W].

    Args:
        conditions: in the order in which they began.
        rgb: the picture without them, uint8 [H, W, 3].
        depth: metres [H, W], 0 where nothing is.
        c2w: the camera [4, 4].
        K: intrinsics [3, 3].
        seconds: since the world began.
    """
    colours: np.ndarray = rgb.astype(np.float32)
    particles = np.zeros(depth.shape, dtype=bool)
    for condition in conditions:
        if condition.name == "fog":
            distance = np.where(depth > 0, depth, 30.0)
            veil = 1 - np.exp(-FOG_DENSITY * np.maximum(distance - FOG_CLEAR, 0))
            veil = (veil * condition.strength)[..., None]
            colours = colours * (1 - veil) + FOG_COLOUR * veil
        elif condition.name == "snow":
            around = flakes(np.asarray(c2w, dtype=np.float64)[:3, 3], seconds)
            particles = covered(around[None], FLAKE_RADIUS, c2w[None], K, depth[None])[0]
            opacity = FLAKE_OPACITY * condition.strength
            colours[particles] += opacity * (FLAKE_COLOUR - colours[particles])
    # Light last, so that it also falls on fog and snow.
    for condition in conditions:
        if condition.name in GAINS:
            gain, veil = (np.array(v, dtype=np.float32) for v in GAINS[condition.name])
            colours = colours * (1 + condition.strength * (gain - 1)) + condition.strength * veil
    return np.clip(colours + 0.5, 0, 255).astype(np.uint8), particles
