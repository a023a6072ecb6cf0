"""Light and air: effects on rendered pictures that last until an ending event.

Each condition has a strength in [0, 1] that ramps up over `RAMP_SECONDS` (four frames of a clip) and down again
when it ends. Fog uses the depth; snow is a cloud of particles that fall in the world around the camera, drawn over
the picture, the same flakes before whatever camera it begins; everything else is a change of colours. Depth and
segmentation stay those of the scene; pixels of snow are dynamic and have segmentation -2.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from spatia_env.poses import upright

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

SNOW_COUNT = 400
SNOW_BOX = np.array([6.0, 6.0, 3.2])
SNOW_RADIUS = 0.04
SNOW_FALL = 1.0  # metres per second
SNOW_SEED = 11


@dataclasses.dataclass
class Condition:
    """One effect: its strength now, and whether it comes or goes.

    `particles` [n, 3] in metres, none but for snow, are in the frame `origin` c2w [4, 4]: upright, at the camera
    that the condition began before, looking along its Y axis.
    """

    name: str
    particles: np.ndarray
    origin: np.ndarray
    coming: bool = True
    strength: float = 0.0

    def advance(self, seconds: float) -> None:
        """Ramp the strength and let the particles fall."""
        step = seconds / RAMP_SECONDS
        self.strength = min(1.0, self.strength + step) if self.coming else max(0.0, self.strength - step)
        if self.strength > 1 - 1e-9:
            self.strength = 1.0
        elif self.strength < 1e-9:
            self.strength = 0.0
        drift = np.array([0.25, 0.1, -SNOW_FALL]) * seconds
        self.particles = np.mod(self.particles + drift, SNOW_BOX)


def start(name: str, c2w: np.ndarray) -> Condition:
    """A condition at strength 0 that is coming, before the camera `c2w` [4, 4]."""
    flakes = np.random.default_rng(SNOW_SEED).uniform(0, 1, (SNOW_COUNT, 3)) * SNOW_BOX
    return Condition(name, flakes if name == "snow" else flakes[:0], upright(np.asarray(c2w, np.float64)))


def apply(
    conditions: list[Condition], rgb: np.ndarray, depth: np.ndarray, c2w: np.ndarray, K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The picture under these conditions, uint8 [H, W, 3], and which pixels are particles, bool [H, W]."""
    colours: np.ndarray = rgb.astype(np.float32)
    particles = np.zeros(depth.shape, dtype=bool)
    for condition in conditions:
        if condition.name == "fog":
            distance = np.where(depth > 0, depth, 30.0)
            veil = 1 - np.exp(-FOG_DENSITY * np.maximum(distance - FOG_CLEAR, 0))
            veil = (veil * condition.strength)[..., None]
            colours = colours * (1 - veil) + FOG_COLOUR * veil
        elif condition.name == "snow":
            particles |= _snow(condition, depth, np.asarray(c2w, dtype=np.float64), K)
    if particles.any():
        colours[particles] = 0.1 * colours[particles] + 0.9 * np.array([246, 248, 250], dtype=np.float32)
    # Light last, so that it also falls on fog and snow.
    for condition in conditions:
        if condition.name in GAINS:
            gain, veil = (np.array(v, dtype=np.float32) for v in GAINS[condition.name])
            colours = colours * (1 + condition.strength * (gain - 1)) + condition.strength * veil
    return np.clip(colours + 0.5, 0, 255).astype(np.uint8), particles


def _snow(condition: Condition, depth: np.ndarray, c2w: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Pixels covered by flakes in front of the scene, bool [H, W]."""
    height, width = depth.shape
    count = round(condition.strength * SNOW_COUNT)
    # The flakes fill a box that repeats through the world: take the copy around the camera.
    turn = condition.origin[:3, :3].T
    eye = turn @ (c2w[:3, 3] - condition.origin[:3, 3])
    apart = np.mod(condition.particles[:count] - eye + SNOW_BOX / 2, SNOW_BOX) - SNOW_BOX / 2
    camera = apart @ (turn @ c2w[:3, :3])
    camera = camera[camera[:, 2] > 0.5]
    z = camera[:, 2]
    u, v = K[0, 0] * camera[:, 0] / z + K[0, 2], K[1, 1] * camera[:, 1] / z + K[1, 2]
    radius = np.maximum(SNOW_RADIUS * K[0, 0] / z, 0.75)
    covered = np.zeros(depth.shape, dtype=bool)
    reach = int(np.ceil(radius.max(initial=0)))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            x, y = np.floor(u).astype(int) + dx, np.floor(v).astype(int) + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            inside &= np.hypot(x + 0.5 - u, y + 0.5 - v) <= radius
            xs, ys = x[inside], y[inside]
            behind = (depth[ys, xs] > z[inside]) | (depth[ys, xs] == 0)
            covered[ys[behind], xs[behind]] = True
    return covered
