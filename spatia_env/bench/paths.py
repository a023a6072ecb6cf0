"""Where the camera goes: walks, closed loops, wanderings and WorldScore's eight paths, through free space.

Every maker takes an open scene, random numbers and a number of clips, and returns poses c2w [1 + 8 n, 4, 4] that
begin at the scene's first camera. Closed paths end at exactly the pose where they began.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from spatia_env.bench.ws_cameras import MOVES, interpolated
from spatia_env.geometry import path_from_twist
from spatia_env.sim.scenes import SimScene

FRAMES = 8
CLEARANCE = 0.3
"""Metres that stay free around the camera."""
MAX_TURN = 50.0
"""Degrees that a walk may turn away from its start, so that some of what was given stays in sight."""
_TRIES = 60

Maker = Callable[[SimScene, np.random.Generator, int], Tensor]


def walk_path(scene: SimScene, rng: np.random.Generator, clips: int) -> Tensor:
    """Poses [1 + 8 clips, 4, 4] that look around and walk through free space: turns, steps ahead and to the
    side.
    """
    poses, turned = _start(scene), 0.0
    order: list[str] = []
    while len(order) < clips:
        order += [str(kind) for kind in rng.permutation(["turn", "ahead", "side", "turn"])]
    for kind in order[:clips]:
        twist, path = _free_twist(scene, rng, poses[-1], kind, turned)
        turned += float(np.degrees(twist[4]))
        poses = torch.cat([poses, path])
    return poses


def loop_path(scene: SimScene, rng: np.random.Generator, clips: int) -> Tensor:
    """Poses [1 + 8 clips, 4, 4] that go out for half of the clips and return over the same poses to the
    start.
    """
    if clips < 2 or clips % 2:
        raise ValueError(f"loop: needs an even number of clips, got {clips}.")
    best, best_reach = _start(scene), -1.0
    for _ in range(12):
        poses, turned, side = _start(scene), 0.0, float(rng.choice([-1.0, 1.0]))
        for number in range(clips // 2):
            # One clip turns, the other walks; both to the same side, so that the excursion leaves the view.
            twist, path = _free_twist(scene, rng, poses[-1], ("turn", "ahead")[number % 2], turned, side)
            turned += float(np.degrees(twist[4]))
            poses = torch.cat([poses, path])
        reach = abs(turned) / 30 + float((poses[-1] - poses[0])[:3, 3].norm())
        if reach > best_reach and len(poses) > 1:
            best, best_reach = poses, reach
    return torch.cat([best, best[:-1].flip(0)])


def zero_path(scene: SimScene, rng: np.random.Generator, clips: int) -> Tensor:
    """Poses [1 + 8 clips, 4, 4]: two clips of walking, then the camera rests."""
    poses = walk_path(scene, rng, min(2, clips))
    return torch.cat([poses, poses[-1:].expand(FRAMES * max(0, clips - 2), 4, 4)])


def gentle_path(c2w: Tensor, rng: np.random.Generator, clips: int = 1) -> Tensor:
    """Poses [8 clips, 4, 4] after `c2w` [4, 4]: a camera that turns on the spot, up to 6 degrees a clip."""
    side = float(rng.choice([-1.0, 1.0]))
    poses = c2w[None]
    for _ in range(clips):
        twist = torch.tensor([0, 0, 0, 0, side * np.radians(rng.uniform(2, 6)), 0], dtype=torch.float32)
        poses = torch.cat([poses, path_from_twist(poses[-1], twist, FRAMES)])
        side = -side
    return poses[1:]


def turning_path(scene: SimScene, c2w: Tensor, rng: np.random.Generator) -> Tensor:
    """Poses [16, 4, 4] after `c2w` [4, 4]: a turn of 16 to 28 degrees, then a gentle one."""
    _, turn = _free_twist(scene, rng, c2w, "turn", 0.0)
    return torch.cat([turn, gentle_path(turn[-1], rng)])


def _start(scene: SimScene) -> Tensor:
    return torch.from_numpy(np.array(scene.initial_c2w, dtype=np.float32))[None]


def _free_twist(
    scene: SimScene, rng: np.random.Generator, c2w: Tensor, kind: str, turned: float, side: float = 0.0
) -> tuple[np.ndarray, Tensor]:
    """A twist [6] of this kind whose path [8, 4, 4] stays in free space; smaller ones after many misses."""
    for attempt in range(_TRIES):
        twist = _draw_twist(rng, kind, side) * (1.0 if attempt < _TRIES // 2 else 0.5)
        if abs(turned + np.degrees(twist[4])) > MAX_TURN:
            continue
        path = path_from_twist(c2w, torch.tensor(twist, dtype=torch.float32), FRAMES)
        if all(scene.is_free(pose[:3, 3].numpy(), CLEARANCE) for pose in path[[3, 7]]):
            return twist, path
    # Turning on the spot needs no room; back towards the start keeps what was given in sight.
    twist = np.array([0, 0, 0, 0, -np.sign(turned or 1.0) * np.radians(12.0), 0])
    return twist, path_from_twist(c2w, torch.tensor(twist, dtype=torch.float32), FRAMES)


def _draw_twist(rng: np.random.Generator, kind: str, side: float) -> np.ndarray:
    """A twist in metres and radians; yaw and sideways steps go to `side` (-1, 1), or to a random one at 0."""
    sign = side or float(rng.choice([-1.0, 1.0]))
    degrees = np.radians
    if kind == "turn":
        return np.array([0, 0, 0, degrees(rng.uniform(-4, 4)), sign * degrees(rng.uniform(16, 28)), 0])
    if kind == "ahead":
        return np.array([0, 0, rng.uniform(0.25, 0.45), 0, sign * degrees(rng.uniform(2, 10)), 0])
    return np.array(
        [sign * rng.uniform(0.2, 0.4), 0, rng.uniform(-0.1, 0.1), 0, -sign * degrees(rng.uniform(2, 10)), 0]
    )


# -- closed paths with names


def glance_path(scene: SimScene, rng: np.random.Generator, clips: int = 1) -> Tensor:
    """One clip: half of its frames turn away, the other half turn back."""
    start, sign = _start(scene), float(rng.choice([-1.0, 1.0]))
    twist = torch.tensor([0, 0, 0, 0, sign * np.radians(rng.uniform(14, 20)), 0], dtype=torch.float32)
    out = path_from_twist(start[0], twist, FRAMES // 2)
    return torch.cat([start, out, out[:-1].flip(0), start])


def orbit_path(scene: SimScene, rng: np.random.Generator, clips: int = 2) -> Tensor:
    """Out on an arc around the point a metre ahead, and back over the same poses."""
    return _there_and_back(scene, rng, [(0.35, 0.0, 0.06, -20.0)] * (clips // 2))


def look_away_path(scene: SimScene, rng: np.random.Generator, clips: int = 4) -> Tensor:
    """Turn on the spot for half of the clips until little of the start is in sight, and turn back."""
    return _there_and_back(scene, rng, [(0.0, 0.0, 0.0, 24.0)] * (clips // 2))


def square_path(scene: SimScene, rng: np.random.Generator, clips: int = 4) -> Tensor:
    """Around a square on the floor without turning: sideways, ahead, back sideways, back."""
    return _closed(scene, rng, [(0.35, 0.0), (0.0, 0.35), (-0.35, 0.0), (0.0, -0.35)])


def lawnmower_path(scene: SimScene, rng: np.random.Generator, clips: int = 6) -> Tensor:
    """Over two neighbouring squares, as a lawn is mown, without turning."""
    a, b = 0.3, 0.35
    return _closed(scene, rng, [(a, 0), (0, b), (-a, 0), (-a, 0), (0, -b), (a, 0)])


def revisit_path(scene: SimScene, rng: np.random.Generator, clips: int = 6) -> Tensor:
    """Turn away for two clips to what the start does not show, turn back, and turn to the same place again."""
    loop = _there_and_back(scene, rng, [(0.0, 0.0, 0.0, 20.0)] * 2)
    return torch.cat([loop, loop[1 : 1 + 2 * FRAMES]])


def drift_path(scene: SimScene, rng: np.random.Generator, clips: int = 16) -> Tensor:
    """Excursions of 1, 2 and 5 clips, each back over its own poses: at the start again after 2, 6 and 16 clips.

    Raises:
        ValueError: Another number of clips.
    """
    if clips != sum(2 * n for n in EXCURSIONS):
        raise ValueError(f"drift: has {sum(2 * n for n in EXCURSIONS)} clips, not {clips}.")
    poses = _start(scene)
    for count in EXCURSIONS:
        out, turned = _start(scene), 0.0
        for number in range(count):
            kind = ("turn", "ahead", "side")[number % 3]
            twist, path = _free_twist(scene, rng, out[-1], kind, turned)
            turned += float(np.degrees(twist[4]))
            out = torch.cat([out, path])
        poses = torch.cat([poses, out[1:], out[:-1].flip(0)])
    return poses


EXCURSIONS = (1, 2, 5)
"""Clips that each excursion of `drift_path` goes out."""


def _there_and_back(
    scene: SimScene, rng: np.random.Generator, moves: Sequence[tuple[float, float, float, float]]
) -> Tensor:
    """Out by twists (right, down, ahead in metres, yaw in degrees) and back; mirrored or smaller where there is no
    room.
    """
    best = _start(scene)
    for sign, size in _variants(rng):
        poses = _start(scene)
        for right, down, ahead, yaw in moves:
            twist = [sign * size * right, size * down, size * ahead, 0, sign * np.radians(yaw), 0]
            path = path_from_twist(poses[-1], torch.tensor(twist, dtype=torch.float32), FRAMES)
            poses = torch.cat([poses, path])
        best = torch.cat([poses, poses[:-1].flip(0)])
        if _all_free(scene, best):
            break
    return best


def _closed(scene: SimScene, rng: np.random.Generator, moves: Sequence[tuple[float, float]]) -> Tensor:
    """Around a closed polygon of steps (right, ahead) in metres on the floor, always looking the same way."""
    best = _start(scene)
    for sign, size in _variants(rng):
        start = _start(scene)
        right, ahead = start[0, :3, 0].clone(), start[0, :3, 2].clone()
        # On the floor: the first camera may look down a little.
        right[2] = ahead[2] = 0
        right, ahead = right / right.norm(), ahead / ahead.norm()
        poses = start
        for to_right, to_front in moves:
            step = sign * size * to_right * right + size * to_front * ahead
            leg = poses[-1].expand(FRAMES, 4, 4).clone()
            leg[:, :3, 3] += torch.arange(1, FRAMES + 1)[:, None] / FRAMES * step
            poses = torch.cat([poses, leg])
        poses[-1] = start[0]
        best = poses
        if _all_free(scene, best):
            break
    return best


def _variants(rng: np.random.Generator) -> list[tuple[float, float]]:
    first = float(rng.choice([-1.0, 1.0]))
    return [(sign, size) for size in (1.0, 0.7, 0.45, 0.25) for sign in (first, -first)]


def _all_free(scene: SimScene, poses: Tensor, clearance: float = CLEARANCE) -> bool:
    return all(scene.is_free(pose[:3, 3].numpy(), clearance) for pose in poses[4::4])


# -- WorldScore's eight paths

WS_UNIT = 0.5
"""Metres that stand for WorldScore's unit, so that each of its paths is one step at the limits of the environment."""
WS_CLEARANCE = 0.12
WS_PATHS = tuple(name for name in MOVES if name != "fixed")
WS_CHAINS = (("pan_left", "move_left", "pull_out"), ("push_in", "pan_right", "orbit_left"))


def ws_path(names: Sequence[str]) -> Maker:
    """The maker of a chain of WorldScore paths, one clip each."""

    def make(scene: SimScene, rng: np.random.Generator, clips: int) -> Tensor:
        relative = torch.from_numpy(interpolated(names, FRAMES + 1, WS_UNIT)).float()
        return _start(scene) @ relative

    return make


def has_room(scene: SimScene, poses: Tensor) -> bool:
    """Whether a camera can go there: WorldScore's paths are fixed, and some end in a wall."""
    return all(scene.is_free(pose[:3, 3].numpy(), WS_CLEARANCE) for pose in poses[2::2])


MAKERS: Mapping[str, tuple[int, Maker]] = MappingProxyType(
    {
        "walk": (1, walk_path),
        "loop": (2, loop_path),
        "zero": (3, zero_path),
        "glance": (6, glance_path),
        "orbit": (7, orbit_path),
        "look-away": (8, look_away_path),
        "square": (9, square_path),
        "lawnmower": (10, lawnmower_path),
        "revisit": (11, revisit_path),
        "drift": (12, drift_path),
        **{f"ws:{name}": (20 + i, ws_path((name,))) for i, name in enumerate(WS_PATHS)},
        **{"ws:" + ",".join(names): (40 + i, ws_path(names)) for i, names in enumerate(WS_CHAINS)},
    }
)
"""What paths there are: the number that makes their random draws independent, and their maker."""
