"""Between the two forms of a clip: u8 [T, H, W, 3] outside of networks, float [T, 3, H, W] or video inside."""

import torch
from torch import Tensor


def to_float(frames: Tensor) -> Tensor:
    """U8 [T, H, W, 3] -> float [T, 3, H, W] in [0, 1]."""
    return frames.movedim(-1, 1).float() / 255


def to_uint8(rgb: Tensor) -> Tensor:
    """Float [T, 3, H, W] in [0, 1] -> u8 [T, H, W, 3]."""
    return (rgb.movedim(1, -1) * 255).round().clamp(0, 255).to(torch.uint8)


def to_video(frames: Tensor) -> Tensor:
    """U8 [T, H, W, 3] -> float [3, T, H, W] in [-1, 1], as pipelines take it."""
    return (frames.movedim(-1, 1).float() / 255 * 2 - 1).transpose(0, 1)


def from_video(video: Tensor) -> Tensor:
    """Float [3, T, H, W] in [-1, 1] -> u8 [T, H, W, 3]."""
    return ((video.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
