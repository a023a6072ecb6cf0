"""Batches on the device where their network is."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(module.parameters()).device


def to_device(value: Any, device: torch.device) -> Any:
    """A tensor, or a dataclass, tuple, list or dictionary of such, on `device`; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: to_device(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(part, device) for part in value)
    if isinstance(value, dict):
        return {name: to_device(part, device) for name, part in value.items()}
    return value
