"""Planning on the map: score many actions by what memory shows, imagine only the best few.

Every function takes an unwrapped environment (`env.unwrapped`) that has `world`, `preview` and `fork`. Looking
at the map renders one frame of many candidates in one call and takes milliseconds; forking and stepping takes
a model call each. Nothing here changes the environment.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from spatia_env.actions import MAX_ROTATION, MAX_TRANSLATION
from spatia_env.geometry import se3_exp
from spatia_env.memory.frontiers import Frontier, nearest_unseen

LIMITS = np.array([MAX_TRANSLATION] * 3 + [np.radians(MAX_ROTATION)] * 3)
"""Metres and radians of a clip at `camera` = 1."""
REACH = np.array([0.6, 0.0, 1.0, 0.0, 1.0, 0.0], np.float32)
"""Largest candidates: sideways, ahead, and turning; level, without roll."""
NEAREST = 0.35
"""Metres: a view whose nearest tenth of pixels is closer than this runs into something."""

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From frames u8 [N, H, W, 3], depth [N, H, W] and known [N, H, W] to a number each."""


def as_action(camera: Any, event: str = "") -> dict[str, Any]:
    """The action of `Spatia-v0` for six numbers in [-1, 1]."""
    return {"camera": np.clip(np.asarray(camera, np.float32), -1, 1), "event": event}


def look(env: Any, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the map shows from cameras [N, 4, 4]: frames u8 [N, H, W, 3], depth m [N, H, W], known bool."""
    view = env.world.render(torch.from_numpy(np.asarray(poses, np.float32)))
    frames = (view.rgb.movedim(1, -1) * 255).round().clamp(0, 255).byte().numpy()
    return frames, view.depth.numpy(), view.known.numpy()


def ends(env: Any, cameras: np.ndarray) -> np.ndarray:
    """Poses [N, 4, 4] at which camera actions [N, 6] end."""
    here = env.world.c2w.double().numpy()
    return here @ se3_exp(np.asarray(cameras, np.float64) * LIMITS)


def unseen_surface(frames: np.ndarray, depth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Share of pixels that the map does not know; -1 for views that run into something."""
    near = np.quantile(np.where(known, depth, 1e3).reshape(len(depth), -1), 0.1, axis=1)
    return np.where(near < NEAREST, -1.0, 1 - known.reshape(len(known), -1).mean(1))


def likeness(goal: np.ndarray) -> Score:
    """How like a picture u8 [H, W, 3] a view is: -1 to 0, on the pixels that the map knows."""

    def score(frames: np.ndarray, depth: np.ndarray, known: np.ndarray) -> np.ndarray:
        difference = np.abs(frames.astype(np.float32) - goal.astype(np.float32)).mean(-1) / 255
        share = known.reshape(len(known), -1).mean(1)
        mean = (difference * known).reshape(len(known), -1).sum(1) / np.maximum(
            known.reshape(len(known), -1).sum(1), 1
        )
        # What is not known could be anything: it counts as a difference of a quarter.
        return -(mean * share + 0.25 * (1 - share))

    return score


def candidates(np_random: np.random.Generator, count: int) -> np.ndarray:
    """Camera actions [count, 6] to choose from: stand still, the two full turns, and random ones."""
    fixed = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, -1, 0]], np.float32)
    free = np_random.uniform(-1, 1, (max(count - 3, 0), 6)).astype(np.float32) * REACH
    return np.concatenate([fixed, free])[:count]


def shoot(env: Any, score: Score, np_random: np.random.Generator, count: int = 24) -> np.ndarray:
    """Random shooting: the camera actions [count, 6], best first by what the map shows where they end."""
    cameras = candidates(np_random, count)
    values = score(*look(env, ends(env, cameras)))
    return cameras[np.argsort(-values, kind="stable")]


def cross_entropy(
    env: Any, score: Score, np_random: np.random.Generator, count: int = 16, rounds: int = 3, elite: int = 4
) -> np.ndarray:
    """The cross-entropy method: as `shoot`, drawing again around the best of each round."""
    cameras = candidates(np_random, count)
    for _ in range(rounds - 1):
        values = score(*look(env, ends(env, cameras)))
        best = cameras[np.argsort(-values, kind="stable")[:elite]]
        spread = best.std(0) + 0.05
        drawn = np_random.normal(best.mean(0), spread, (count - elite, 6)).astype(np.float32)
        cameras = np.concatenate([best, np.clip(drawn, -REACH, REACH)]).astype(np.float32)
    values = score(*look(env, ends(env, cameras)))
    return cameras[np.argsort(-values, kind="stable")]


def imagine(env: Any, cameras: np.ndarray, keep: int = 2) -> np.ndarray:
    """The best [6] of the first `keep` actions by the reward of a step in a fork: what the model makes of them."""
    rewards = []
    for camera in cameras[:keep]:
        _, reward, *_ = env.fork().step(as_action(camera))
        rewards.append(reward)
    return cameras[int(np.argmax(rewards))]


def towards(c2w: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The camera action [6] that goes from one pose [4, 4] to another, or as far as one clip allows."""
    relative = np.linalg.inv(np.asarray(c2w, np.float64)) @ np.asarray(goal, np.float64)
    twist = np.concatenate([relative[:3, 3], _rotation_vector(relative[:3, :3])])
    camera = twist / LIMITS
    return (camera / max(1.0, float(np.abs(camera).max()))).astype(np.float32)


def face(c2w: np.ndarray, position: np.ndarray) -> np.ndarray:
    """A level pose [4, 4] at the camera's place that looks along the floor towards a position [3]."""
    ahead = np.asarray(position, np.float64) - c2w[:3, 3]
    ahead[2] = 0.0
    length = np.linalg.norm(ahead)
    if length < 1e-6:
        return np.array(c2w, np.float64)
    ahead /= length
    down = np.array([0.0, 0.0, -1.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([np.cross(down, ahead), down, ahead], axis=1)
    pose[:3, 3] = c2w[:3, 3]
    return pose


def frontier(env: Any) -> Frontier | None:
    """The frontier of the map that is nearest to the camera; see `memory.frontiers`."""
    state = env.world.state
    return nearest_unseen(state.memory, state.keyframes, state.K, state.c2w[:3, 3].double().numpy())


def explore_frontier(env: Any) -> np.ndarray:
    """The camera action [6] that turns towards the nearest frontier and, once it faces it, walks."""
    c2w, piece = env.world.c2w.double().numpy(), frontier(env)
    if piece is None:
        return np.array([0, 0, 0, 0, 1, 0], np.float32)
    # Close by, the unknown beyond it is what matters; far off, the way there.
    beyond = piece.position + piece.direction
    pose = face(c2w, beyond)
    if float(pose[:3, 2] @ c2w[:3, 2]) > np.cos(np.radians(20)):
        ahead = min(MAX_TRANSLATION, max(float(np.linalg.norm(beyond - c2w[:3, 3])) - 1.0, 0.0))
        _, depth, known = look(env, c2w[None])
        room = float(np.quantile(np.where(known, depth, 10.0), 0.1)) - NEAREST
        pose[:3, 3] += pose[:3, 2] * min(ahead, max(room, 0.0))
        if min(ahead, room) < 0.1:
            pose = c2w @ se3_exp(np.array([0, 0, 0, 0, LIMITS[4], 0]))
    return towards(c2w, pose)


def beside(start: np.ndarray, ahead: float, right: float, yaw: float) -> np.ndarray:
    """The pose [4, 4] so many metres ahead and to the right of a level one, turned right by `yaw` radians."""
    pose = np.asarray(start, np.float64) @ se3_exp(np.array([0, 0, 0, 0, yaw, 0]))
    move = start[:3, 2] * ahead + start[:3, 0] * right
    pose[:3, 3] = start[:3, 3] + [move[0], move[1], 0.0]
    return pose


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    skew = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    sin = np.linalg.norm(skew) / 2
    angle = np.arctan2(sin, (np.trace(rotation) - 1) / 2)
    if sin < 1e-9:  # no turn, or half of one, about an axis that the diagonal tells
        axis = np.sqrt(np.maximum((np.diag(rotation) + 1) / 2, 0))
        return axis * angle if angle > 1 else np.zeros(3)
    return skew / (2 * sin) * angle


def play(
    env: Any,
    act: Callable[[Any, dict[str, Any], int], Any],
    steps: int,
    seed: int = 0,
    options: dict | None = None,
) -> dict[str, Any]:
    """Play one episode of at most `steps` steps.

    Args:
        env: An environment with the actions of `Spatia-v0`.
        act: From the unwrapped environment, `info["goal"]` and the number of steps taken to a camera action [6].
        steps: Limit.
        seed: Of the reset.
        options: Of the reset.

    Returns:
        `return`, `clips`, `success`, and where they are known `spl`, `coverage` (true m^2 seen) and
        `coverage_per_clip` (gained).
    """
    _, info = env.reset(seed=seed, options=options)
    goal, total, clips, ended, before = info.get("goal", {}), 0.0, 0, False, None
    while clips < steps and not ended:
        _, reward, terminated, truncated, info = env.step(as_action(act(env.unwrapped, goal, clips)))
        total, clips, ended = total + float(reward), clips + 1, terminated or truncated
        if before is None and "oracle" in info:
            before = info["oracle"]["coverage"] - info["oracle"]["new_coverage"]
    result = {"return": round(total, 4), "clips": clips, "success": info["is_success"]}
    if "spl" in info:
        result["spl"] = round(info["spl"], 4)
    if before is not None:
        seen = info["oracle"]["coverage"]
        result |= {"coverage": round(seen, 2), "coverage_per_clip": round((seen - before) / clips, 3)}
    return result
