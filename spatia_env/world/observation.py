"""The environment's side of the contract: its spaces, its arguments, and what observations and info hold.

Everything that leaves here is NumPy and the caller's own: no array is shared with the world.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.memory.rendering import Render
from spatia_env.memory.scene import Growth
from spatia_env.slam.depth_network import Geometry
from spatia_env.slam.plane_extrapolation import Continued
from spatia_env.slam.tracking import TrackResult
from spatia_env.spaces import EventText, PathBox
from spatia_env.world.world import World, WorldState

MAX_DEPTH = 50.0
"""Upper bound in metres of the depth observation."""
MAX_SIDE = 4096
MAX_REFERENCES = 16


def check_arguments(
    action: str, size: tuple[int, int], memory: str, slam: str, references: int | None, multiple: int
) -> None:
    """Raise `ActionError` unless the constructor's arguments are of the allowed values."""
    for name, value, allowed in (
        ("action", action, ("camera", "path")),
        ("memory", memory, ("points", "none")),
        ("slam", slam, ("tiny", "simulator", "off")),
    ):
        if value not in allowed:
            raise ActionError(f"{name}={value!r}: use one of {allowed}.")
    if len(size) != 2 or any(int(s) != s or not multiple <= s <= MAX_SIDE or s % multiple for s in size):
        raise ActionError(f"size={size!r}: give (height, width), multiples of {multiple} up to {MAX_SIDE}.")
    if references is not None and not 0 <= references <= MAX_REFERENCES:
        raise ActionError(f"references={references}: use 0 to {MAX_REFERENCES}.")


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


def revisit(world: World, observation: dict[str, np.ndarray]) -> dict[str, Any]:
    """How like the stored keyframe the last frame is, where the camera is back at one; else empty."""
    state = world.state
    keyframe = None if state.conditions else world.revisited(state.c2w)
    if keyframe is None:
        return {}
    return {
        "step": keyframe.step,
        "psnr": psnr(observation["frames"][-1], keyframe.frame.numpy()),
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


def intermediates(
    view: Render,
    references: Tensor,
    scores: list[float],
    text: str,
    geometry: Geometry | None,
    continued: Continued | None = None,
) -> dict[str, Any]:
    """`info["debug"]`: exactly what the model was given, and what SLAM took for moving."""
    return {
        "scene_render": to_bytes(view.rgb),
        "scene_depth": np.array(view.depth.numpy()),
        "known": view.known.numpy().astype(np.uint8) * 255,
        "continued": np.zeros((*view.known.shape, 3), np.uint8)
        if continued is None
        else to_bytes(continued.rgb),
        "references": np.array(references.numpy()),
        "scores": list(scores),
        "text": text,
        "dynamic": np.zeros(view.depth.shape, np.float32)
        if geometry is None
        else np.array(geometry.dynamic.numpy()),
    }


def unchanged(path: Tensor) -> TrackResult:
    """The commanded poses, taken at their word."""
    return TrackResult(path, inlier_ratio=1.0, translation=0.0, rotation=0.0, ok=False)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in dB of two u8 pictures, at most 60."""
    mse = float(((a.astype(np.float64) - b) ** 2).mean())
    return min(60.0, 10 * float(np.log10(255**2 / max(mse, 1e-9))))


def to_bytes(rgb: Tensor) -> np.ndarray:
    """Float [T, 3, H, W] in [0, 1] -> u8 [T, H, W, 3]."""
    return np.array((rgb.movedim(1, -1) * 255).round().clamp(0, 255).byte().numpy())


def to_floats(frames: Tensor) -> Tensor:
    """U8 [T, H, W, 3] -> float [T, 3, H, W] in [0, 1]."""
    return frames.movedim(-1, 1).float() / 255


def to_video(frames: Tensor) -> Tensor:
    """U8 [T, H, W, 3] -> float [1, 3, T, H, W] in [-1, 1], as the pipeline takes it."""
    return (to_floats(frames) * 2 - 1).transpose(0, 1)[None]


def from_video(video: Tensor) -> Tensor:
    """Float [3, T, H, W] in [-1, 1] -> u8 [T, H, W, 3]."""
    return ((video.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
