"""Where things are, for the transformer: the map's surfaces, the rays and the cameras of a clip as planes.

Tokens know their neighbours by rotary positions, which are relative, and the map's render shows colours only. So where
in the room a pixel lies, and how the camera moves, had to be guessed. These planes say it, all in one frame: upright,
at the camera before the clip, X to its right, Y along its level heading, Z up, in metres. This module knows
cameras, but neither the map nor the environment.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import invert_se3, pixel_rays, upright
from spatia_env.models.conditioning import known_planes

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


CELLS = 2
"""Sub-cells along each side of a latent pixel whose surface point is told."""
PLACE_CHANNELS = 3 * CELLS**2 + 8
FALLING_CHANNELS = 16 * FALLING_PLANES
"""Sub-cells of the planes of what would fall."""
FAR = 4.0
"""Metres at which a point is told at half its distance: beyond, differences matter less."""


def place_planes(
    depth: Tensor, known: Tensor, c2w: Tensor, start_c2w: Tensor, K: Tensor, height: int, width: int
) -> Tensor:
    """Planes [20, T, h, w] of a clip.

    Args:
        depth: of the map's render, metres [T, H, W].
        known: where it is covered, bool [T, H, W].
        c2w: cameras [T, 4, 4].
        start_c2w: the camera before the clip [4, 4].
        K: intrinsics [3, 3].
        height: of the latents; divides H.
        width: of the latents; divides W.

    Returns:
        Twelve planes with the mean surface point of each sub-cell, drawn in from afar (`FAR`), zero where nothing is
        known; three with the unit ray; three with the camera's centre; and two with the place in the picture, -1
        to 1 from left to right and from top to bottom.
    """
    to_start = invert_se3(torch.from_numpy(upright(start_c2w.numpy())).to(c2w)) @ c2w
    rows, columns = CELLS * height, CELLS * width
    size = (depth.shape[-2], depth.shape[-1])
    covered = known.to(depth.dtype)
    share = F.adaptive_avg_pool2d(covered[:, None], (rows, columns))
    mean = F.adaptive_avg_pool2d((depth * covered)[:, None], (rows, columns)) / share.clamp_min(1e-6)
    cells = _rays(K, size, rows, columns)
    points = _turn(to_start, mean[:, 0, ..., None] * cells) + to_start[:, None, None, :3, 3]
    points = points / (1 + points.norm(dim=-1, keepdim=True) / FAR) * (share[:, 0, ..., None] > 0)
    rays = F.normalize(_turn(to_start, _rays(K, size, height, width)), dim=-1)
    centres = to_start[:, None, None, :3, 3].expand(-1, height, width, 3)
    planes = torch.cat(
        [
            F.pixel_unshuffle(points.movedim(-1, 1), CELLS),
            rays.movedim(-1, 1),
            centres.movedim(-1, 1),
            picture_planes(height, width).to(depth).expand(len(c2w), -1, -1, -1),
        ],
        dim=1,
    )
    return planes.transpose(0, 1).contiguous()


def picture_planes(height: int, width: int) -> Tensor:
    """Places in the picture [2, h, w]: columns from -1 (left) to 1, rows from -1 (top) to 1, at pixel centres."""
    v, u = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
    return torch.stack([u, v])


def falling_in_view(
    depth: Tensor, known: Tensor, c2w: Tensor, start_c2w: Tensor, K: Tensor, step: int
) -> Tensor:
    """Where flakes and balls would be seen in a clip, bool [2, T, H, W], hidden by what the map knows.

    Arguments as of `place_planes`; `step` clips came before.
    """
    hides = torch.where(known, depth, 0.0)
    return torch.from_numpy(falling_planes(c2w.numpy(), start_c2w.numpy(), K.numpy(), hides.numpy(), step))


def with_falling(places: Tensor, falling: Tensor) -> Tensor:
    """Planes [B, 52, T, h, w]: how much `falling` [B, 2, T, H, W] covers of each latent pixel's sub-cells, and then
    `places` [B, 20, T, h, w].
    """
    size = (places.shape[-2], places.shape[-1])
    covered = [known_planes(plane[:, None].to(places.dtype), *size) for plane in falling.unbind(1)]
    return torch.cat([*covered, places], dim=1)


def with_preceding(planes: Tensor, count: int) -> Tensor:
    """Planes [B, C, P + T, h, w] of given and new frames; of `count` given ones only the place in the picture."""
    before = torch.zeros_like(planes[:, :, :1])
    before[:, -2:] = planes[:, -2:, :1]
    return torch.cat([before.expand(-1, -1, count, -1, -1), planes], dim=2)


def without_points(planes: Tensor) -> Tensor:
    """Planes [..., 20, T, h, w] of a map that shows nothing: rays, centres and pictures stay."""
    out = planes.clone()
    out.narrow(-4, 0, 3 * CELLS**2).zero_()
    return out


def _centres(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) * 2 / count - 1


def _rays(K: Tensor, size: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Directions [rows, columns, 3] with z = 1 in the camera's frame through the middles of a coarser grid."""
    scale = K.new_tensor([columns / size[1], rows / size[0], 1.0])
    return pixel_rays(K * scale[:, None], rows, columns)


def _turn(c2w: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [T or none, h, w, 3] of cameras [T, 4, 4] in the common frame [T, h, w, 3]."""
    return torch.einsum(
        "tij,...hwj->thwi" if vectors.ndim == 3 else "tij,thwj->thwi", c2w[:, :3, :3], vectors
    )
