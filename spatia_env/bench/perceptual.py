"""STLPIPS-Alex: a perceptual distance whose weights a package ships.

The shift-tolerant variant of LPIPS (Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022): an
AlexNet that blurs before it subsamples, and linear weights per channel. The network is written out here; its weights
are read from the installed package `stlpips-pytorch`, none of whose code runs. It is not LPIPS: its numbers compare
with those of no other table. It forgives small shifts by design, so a wrong camera must be caught by other metrics.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spatia_env.errors import ActionError

PACKAGE = "stlpips-pytorch"
WEIGHTS = "weights/vST0.0/alex_shift_tolerant.pth"
NAME = "STLPIPS-Alex"
_LAYERS = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
_PADDING = (2, 2, 1, 1, 1)
_EPS = 1e-10


def available() -> bool:
    """Whether the package with the weights is installed."""
    return importlib.util.find_spec("stlpips_pytorch") is not None


@functools.lru_cache(maxsize=1)
def weights() -> Mapping[str, Tensor]:
    """The network's tensors by name.

    Raises:
        ActionError: The package is not installed.
        CheckpointError: Its file is damaged.
    """
    from spatia_env.models.wan.sources import read_plain_pickle

    if not available():
        raise ActionError(f"{NAME}: needs the weights of {PACKAGE}; `pip install --no-deps {PACKAGE}`.")
    spec = importlib.util.find_spec("stlpips_pytorch")
    assert spec is not None and spec.origin is not None
    return read_plain_pickle(Path(spec.origin).parent / WEIGHTS)


def version() -> str:
    """The package's version, "" without it."""
    return importlib.metadata.version(PACKAGE) if available() else ""


def distance(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Perceptual distance [N] of pictures u8 [N, H, W, 3], 0 for equal ones; larger is worse.

    Raises:
        ValueError: Shapes differ.
        ActionError: The weights are not installed.
    """
    if np.shape(pictures) != np.shape(truth):
        raise ValueError(f"shapes differ: {np.shape(pictures)} and {np.shape(truth)}.")
    with torch.inference_mode():
        return np.array([_pair(a, b) for a, b in zip(pictures, truth, strict=True)], np.float64)


def _pair(picture: np.ndarray, truth: np.ndarray) -> float:
    tensors = weights()
    both = torch.from_numpy(np.stack([picture, truth])).permute(0, 3, 1, 2).float() / 127.5 - 1
    total = 0.0
    for number, feature in enumerate(_features(both, tensors)):
        unit = feature / (feature.square().sum(1, keepdim=True).sqrt() + _EPS)
        difference = (unit[0] - unit[1]).square()
        weight = tensors[f"lin{number}.model.1.weight"].reshape(-1, 1, 1)
        total += float((difference * weight).sum(0).mean())
    return total


def _features(pictures: Tensor, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The five feature maps of pictures [N, 3, H, W] in [-1, 1]."""
    x = (pictures - tensors["scaling_layer.shift"]) / tensors["scaling_layer.scale"]
    out = []
    for number, (name, padding) in enumerate(zip(_LAYERS, _PADDING, strict=True)):
        if number in (1, 2):
            x = _blurred(F.max_pool2d(x, 3, 1))
        x = F.conv2d(x, tensors[f"net.{name}.weight"], tensors[f"net.{name}.bias"], padding=padding)
        x = F.relu(_blurred(x) if number == 0 else x)
        out.append(x)
    return out


def _blurred(x: Tensor) -> Tensor:
    """Half the size, after a binomial blur."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])
