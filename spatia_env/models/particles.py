"""Where flakes and balls would be, if any fell: small things at drawn places.

A model that answers in one step shows the mean of what may be, and the mean of many small things at unknown places
is a haze. So their places are no question for it: a flake field drifts through the world whether it snows or not,
balls hang over every clip, and the model is told where, as planes of the picture (`falling_planes`), in steps whose
words ask for them or are not understood (`ledger.Heard.falls`). Whether they are there, what they look like and where
they come to rest, it says itself. The simulator's snow and rain of balls fall in the same places. World frame: metres,
+Z up, the floor at z = 0.
"""

import numpy as np

from spatia_env.poses import upright

FALLING_PLANES = 2
"""Flakes, then balls."""
FRAME_SECONDS = 0.1
SEED = 11

FLAKE_COUNT = 400
FLAKE_BOX = np.array([6.0, 6.0, 3.2])
"""Metres; a box of flakes repeats through the world."""
FLAKE_RADIUS = 0.04
FLAKE_DRIFT = np.array([0.25, 0.1, -1.0])
"""Metres per second."""
LEAST_PIXELS = 0.75
"""Least radius of what is drawn, in pixels."""
LEAST_DEPTH = 0.5
"""Metres before the camera; what is nearer would fill the picture."""

BALL_COUNT = 14
BALL_NEAREST, BALL_FARTHEST = 0.9, 3.0
BALL_SIZE = 0.05
"""Radius of a ball as a share of its distance: all look equally large."""
BALL_BOUNCE = 0.7
"""Restitution of the simulator's balls."""
BALL_REBOUND = 0.75
"""What PyBullet makes of it, as it pushes a ball out of the floor again: heights are then right within 3 cm."""
BALL_CEILING = 2.3
"""Metres above the floor under which balls begin, as rooms are."""
GRAVITY = 9.81
PHYSICS_SECONDS = 1.0 / 240.0


def flakes(eye: np.ndarray, seconds: float) -> np.ndarray:
    """Places [400, 3] of the flakes around a camera at `eye` [3], `seconds` after the world began."""
    start = np.random.default_rng(SEED).uniform(0, 1, (FLAKE_COUNT, 3)) * FLAKE_BOX
    return eye + np.mod(start + FLAKE_DRIFT * seconds - eye + FLAKE_BOX / 2, FLAKE_BOX) - FLAKE_BOX / 2


def balls(start_c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Balls over a clip as it begins before a camera [4, 4]: centres [14, 3], velocities [14, 3], radii [14].

    They spread over the picture and from near to far; nothing is known here of walls or furniture.
    """
    rng = np.random.default_rng(SEED)
    across = rng.permutation((np.arange(BALL_COUNT) + 0.5) / BALL_COUNT * 2 - 1)
    depth = BALL_NEAREST * (BALL_FARTHEST / BALL_NEAREST) ** ((np.arange(BALL_COUNT) + 0.5) / BALL_COUNT)
    rise = rng.uniform(-0.05, 0.5, BALL_COUNT)
    velocity = np.concatenate(
        [rng.uniform(-0.3, 0.3, (BALL_COUNT, 2)), rng.uniform(-0.8, 0.3, (BALL_COUNT, 1))], axis=1
    )
    pose, radius = upright(np.asarray(start_c2w, dtype=np.float64)), BALL_SIZE * depth
    local = np.stack([0.5 * across * depth, depth, rise * depth], axis=1)
    centre = local @ pose[:3, :3].T + pose[:3, 3]
    centre[:, 2] = np.clip(centre[:, 2], radius + 0.25, BALL_CEILING - radius)
    return centre, velocity @ pose[:3, :3].T, radius


def balls_later(start_c2w: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres [T, 14, 3] of the balls at rising times [T] after the clip began, bouncing on the floor, and radii."""
    centre, velocity, radius = balls(start_c2w)
    out, now = [], 0
    for moment in np.round(np.asarray(seconds) / PHYSICS_SECONDS).astype(int):
        for _ in range(moment - now):
            velocity[:, 2] -= GRAVITY * PHYSICS_SECONDS
            centre = centre + velocity * PHYSICS_SECONDS
            hits = (centre[:, 2] < radius) & (velocity[:, 2] < 0)
            velocity[hits, 2] *= -BALL_REBOUND
            centre[:, 2] = np.maximum(centre[:, 2], radius)
        now = moment
        out.append(centre.copy())
    return np.stack(out), radius


def falling_planes(
    c2w: np.ndarray, start_c2w: np.ndarray, K: np.ndarray, depth: np.ndarray, step: int
) -> np.ndarray:
    """Where flakes and balls would be seen in a clip, bool [2, T, H, W].

    Args:
        c2w: cameras [T, 4, 4].
        start_c2w: the camera before the clip [4, 4].
        K: intrinsics [3, 3].
        depth: of what hides them, metres [T, H, W]; 0 where nothing is known to.
        step: clips before this one, since the world began.
    """
    seconds = FRAME_SECONDS * np.arange(1, len(c2w) + 1)
    begun = FRAME_SECONDS * len(c2w) * step
    around = np.stack([flakes(pose[:3, 3], begun + now) for pose, now in zip(c2w, seconds, strict=True)])
    centres, radii = balls_later(start_c2w, seconds)
    return np.stack([covered(around, FLAKE_RADIUS, c2w, K, depth), covered(centres, radii, c2w, K, depth)])


def covered(
    centres: np.ndarray, radius: np.ndarray | float, c2w: np.ndarray, K: np.ndarray, depth: np.ndarray
) -> np.ndarray:
    """Pixels bool [T, H, W] that small balls [T, N, 3] cover in front of `depth` [T, H, W] (0 = endless).

    Args:
        centres: of the balls, metres.
        radius: of the balls, metres, [N] or one for all.
        c2w: cameras [T, 4, 4].
        K: intrinsics [3, 3].
        depth: of what hides them, metres.
    """
    _, height, width = depth.shape
    pose = np.asarray(c2w, dtype=np.float64)
    camera = (centres - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    radius = np.broadcast_to(radius, camera.shape[:2])
    frame, ball = np.nonzero(camera[..., 2] > LEAST_DEPTH)
    x, y, z = camera[frame, ball].T
    u, v = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
    size = np.maximum(radius[frame, ball] * K[0, 0] / z, LEAST_PIXELS)
    near = (u > -size) & (u < width + size) & (v > -size) & (v < height + size)
    frame, u, v, z, size = (values[near] for values in (frame, u, v, z, size))
    # Every pixel of every ball's square at once: `of` is the ball, `number` the pixel's number in its square.
    half = np.ceil(size).astype(int)
    pixels = (2 * half + 1) ** 2
    of = np.repeat(np.arange(len(size)), pixels)
    number = np.arange(len(of)) - np.repeat(np.cumsum(pixels) - pixels, pixels)
    side = 2 * half[of] + 1
    column = np.floor(u[of]).astype(int) + number % side - half[of]
    row = np.floor(v[of]).astype(int) + number // side - half[of]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    inside &= np.hypot(column + 0.5 - u[of], row + 0.5 - v[of]) <= size[of]
    place, away = (frame[of][inside], row[inside], column[inside]), z[of][inside]
    out = np.zeros(depth.shape, dtype=bool)
    seen = (depth[place] > away) | (depth[place] == 0)
    out[tuple(index[seen] for index in place)] = True
    return out
