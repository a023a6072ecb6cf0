"""The environment's side of the contract: its spaces, its arguments, and what observations and info hold.

Everything that leaves here is NumPy and the caller's own: no array is shared with the world.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from spatia_env.actions import EventText, PathBox
from spatia_env.errors import ActionError
from spatia_env.io.frames import to_uint8
from spatia_env.io.images import psnr
from spatia_env.memory.point_map import Growth
from spatia_env.models.generator import ClipShape
from spatia_env.sim.referee import CELL
from spatia_env.slam.pipeline import Registration
from spatia_env.slam.tracking import TrackResult
from spatia_env.tasks import TaskContext, TaskResult, report
from spatia_env.world.queries import frontier_distance
from spatia_env.world.state import WorldState
from spatia_env.world.step import PreparedStep

MAX_DEPTH = 50.0
"""Upper bound in metres of the depth observation."""
MAX_SIDE = 4096
MAX_REFERENCES = 16


def check_arguments(action: str, memory: str, slam: Any, references: int | None) -> None:
    """Raise `ActionError` unless the constructor's arguments are of the allowed values."""
    for name, value, allowed in (
        ("action", action, ("camera", "path")),
        ("memory", memory, ("points", "none")),
        ("slam", slam if isinstance(slam, str) else "tiny", ("tiny", "simulator", "off")),
    ):
        if value not in allowed:
            raise ActionError(f"{name}={value!r}: use one of {allowed}.")
    if references is not None and not 0 <= references <= MAX_REFERENCES:
        raise ActionError(f"references={references}: use 0 to {MAX_REFERENCES}.")


def checked_size(size: Any, shape: ClipShape) -> tuple[int, int]:
    """(height, width) of the frames; the checkpoint's own where none is given.

    Raises:
        ActionError: If they are not two multiples of what the checkpoint needs, up to `MAX_SIDE`.
    """
    if size is None:
        return shape.height, shape.width
    multiple = shape.multiple
    if len(size) != 2 or any(int(s) != s or not multiple <= s <= MAX_SIDE or s % multiple for s in size):
        raise ActionError(f"size={size!r}: give (height, width), multiples of {multiple} up to {MAX_SIDE}.")
    return int(size[0]), int(size[1])


def check_snapshot(snapshot: Any, size: tuple[int, int]) -> None:
    """Raise `ActionError` unless `snapshot` is a state of a world with frames of `size` (height, width)."""
    if not isinstance(snapshot, WorldState):
        raise ActionError(f"restore: expected what snapshot() returned, got {type(snapshot).__name__}.")
    if snapshot.size != size:
        raise ActionError(f"restore: the snapshot is of size {snapshot.size}, the environment of {size}.")


def action_space(kind: str, num_frames: int) -> spaces.Dict:
    """The space of twists or of paths, with an event's text."""
    if kind == "camera":
        return spaces.Dict({"camera": spaces.Box(-1, 1, (6,), np.float32), "event": EventText()})
    return spaces.Dict({"path": PathBox(num_frames), "event": EventText()})


def observation_space(num_frames: int, size: tuple[int, int]) -> spaces.Dict:
    """Clips of `num_frames` at `size` (height, width)."""
    return spaces.Dict(
        {
            "frames": spaces.Box(0, 255, (num_frames, *size, 3), np.uint8),
            "depth": spaces.Box(0, MAX_DEPTH, (num_frames, *size), np.float32),
            "pose": spaces.Box(-1e4, 1e4, (num_frames, 4, 4), np.float32),
            "known": spaces.Box(0, 255, (num_frames, *size), np.uint8),
        }
    )


def observe(frames: Tensor, depth: Tensor, path: Tensor, known: Tensor) -> dict[str, np.ndarray]:
    """The observation of a clip: u8 [T, H, W, 3], metres [T, H, W], c2w [T, 4, 4], bool [T, H, W]."""
    return {
        "frames": np.array(frames.numpy()),
        "depth": np.array(depth.clamp(0, MAX_DEPTH).numpy(), dtype=np.float32),
        "pose": np.array(path.numpy(), dtype=np.float32),
        "known": known.numpy().astype(np.uint8) * 255,
    }


def standing(state: WorldState, path: Tensor) -> dict[str, np.ndarray]:
    """The observation of T copies of a world's last frame along `path` [T, 4, 4]: nothing in it is imagined now."""
    count = len(path)
    frames = state.preceding_frames[-1].expand(count, *state.size, 3)
    known = torch.ones(count, *state.size, dtype=torch.bool)
    return observe(frames, state.depth.expand(count, *state.size), path, known)


def revisit(state: WorldState, observation: dict[str, np.ndarray]) -> dict[str, Any]:
    """How like the stored keyframe the last frame is, where the camera is back at one; else empty."""
    keyframe = None if state.conditions else state.map.revisited(state.c2w)
    if keyframe is None:
        return {}
    return {
        "step": keyframe.step,
        "psnr": psnr(observation["frames"][-1], keyframe.frame.numpy(), cap=60.0),
    }


def describe(
    state: WorldState, before: WorldState, growth: Growth, tracked: TrackResult, revisit: dict[str, Any]
) -> dict[str, Any]:
    """`info` of a step or reset that led from `before` to `state`."""
    return {
        "memory": {
            "points": state.memory.num_points,
            "bytes": state.memory.num_bytes,
            **dataclasses.asdict(growth),
        },
        "slam": {
            "correction_m": tracked.translation,
            "correction_deg": tracked.rotation,
            "inlier_ratio": tracked.inlier_ratio,
            "corrected": tracked.ok,
            "loop_step": tracked.loop,
            "loop_m": tracked.loop_metres,
        },
        "revisit": revisit,
        "events": [dataclasses.asdict(row) for row in state.ledger[len(before.ledger) :]],
    }


def describe_reset(state: WorldState, goal: dict[str, Any]) -> dict[str, Any]:
    """`info` of a reset: as of a step, with the `prompt`, and the task's `goal` where it has one."""
    info = describe(state, state, Growth(added=state.memory.num_points), unchanged(state.c2w[None]), {})
    info["prompt"] = state.prompt
    return info | ({"goal": goal} if goal else {})


def describe_step(
    prepared: PreparedStep,
    state: WorldState,
    observation: dict[str, np.ndarray],
    growth: Growth,
    seen: Registration | None,
    result: TaskResult,
) -> dict[str, Any]:
    """`info` of a step that led to `state`; `seen` is None where the world rested."""
    tracked = unchanged(prepared.path) if seen is None else seen.tracked
    info = describe(state, prepared.state, growth, tracked, revisit(state, observation))
    info["imagined"] = prepared.imagined
    return info | report(result)


def intermediates(prepared: PreparedStep, seen: Registration | None) -> dict[str, Any]:
    """`info["debug"]`: exactly what the clip source was given, and what SLAM took for moving."""
    state, request = prepared.state, prepared.request
    view = state.map.render(prepared.path) if prepared.view is None else prepared.view
    nothing = np.zeros((*view.known.shape, 3), np.uint8)
    no_references = np.zeros((0, *state.size, 3), np.float32)
    return {
        "scene_render": to_uint8(view.rgb).numpy(),
        "scene_depth": np.array(view.depth.numpy()),
        "known": view.known.numpy().astype(np.uint8) * 255,
        "continued": nothing if prepared.continued is None else to_uint8(prepared.continued.rgb).numpy(),
        "references": no_references if request is None else np.array(request.references.numpy()),
        "scores": list(prepared.scores),
        "text": "" if request is None else request.text,
        "dynamic": np.zeros(view.depth.shape, np.float32)
        if seen is None
        else np.array(seen.geometry.dynamic.numpy()),
    }


def unchanged(path: Tensor) -> TrackResult:
    """The commanded poses, taken at their word."""
    return TrackResult(path, inlier_ratio=1.0, translation=0.0, rotation=0.0, ok=False)


def drift_of(seen: Registration | None) -> float:
    """Metres by which SLAM corrected the last camera, 90 degrees counting as one."""
    return 0.0 if seen is None else seen.tracked.translation + seen.tracked.rotation / 90


def one_line(state: WorldState) -> str:
    """What the render mode "ansi" shows."""
    x, y, z = (f"{value:+.2f}" for value in state.c2w[:3, 3].tolist())
    return f"step {state.step} at ({x}, {y}, {z}) m, {state.memory.num_points} points"


def task_context(
    state: WorldState,
    observation: dict[str, np.ndarray],
    growth: Growth,
    drift: float,
    judge: Any,
    np_random: np.random.Generator,
    wants_frontier: bool,
) -> TaskContext:
    """What a task may judge a step by.

    Args:
        state: The world after the step.
        observation: What the step returns.
        growth: What was added to the map.
        drift: Metres by which SLAM corrected the last camera (90 degrees count as one).
        judge: The simulated scene's referee, or None.
        np_random: For goals that are drawn.
        wants_frontier: Whether the distance to the map's nearest frontier is needed (some milliseconds).
    """
    return TaskContext(
        c2w=state.c2w.numpy().copy(),
        start_c2w=state.start_c2w.numpy().copy(),
        frame=observation["frames"][-1].copy(),
        start_frame=state.keyframes[0].frame.numpy().copy(),
        growth_points=growth.added,
        growth_area=growth.area,
        known_share=float(observation["known"].mean() / 255),
        drift=drift,
        frontier_distance=frontier_distance(state) if wants_frontier else None,
        seen_cells=None if judge is None else judge.cells(observation["pose"]),
        cell_area=CELL**2,
        judge=judge,
        np_random=np_random,
    )
