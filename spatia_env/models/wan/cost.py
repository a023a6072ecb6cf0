"""What a clip of the official size costs: operations and memory counted without a device, seconds with one.

No weights are read: the cost does not depend on them.
"""

import dataclasses
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.models.wan.autoencoder import (
    WAN22_CONFIG,
    WAN22_LATENTS_MEAN,
    WAN22_LATENTS_STD,
    WanAutoencoder,
    latent_frames,
)
from spatia_env.models.wan.sampling import check_clip_size

TEXT_TOKENS = 512
WARM_UP, REPEATS = 1, 3
HISTORY_FRAMES = 9
_SHORT = (17, 25)
"""Frames from which the autoencoder's cost is a straight line."""


@dataclass(frozen=True)
class Cost:
    """`flops` (two per multiplication and addition), of which `attention`; `peak_bytes` of tensors alive at once.

    The peak counts what the computation itself allocates: not its weights and inputs, nor what a library takes
    inside one operation.
    """

    flops: float
    attention: float
    peak_bytes: int


def dry_run(function: Callable[[], object]) -> Cost:
    """The cost of `function`, whose tensors are on the meta device."""
    attention, memory, counter = _CountAttention(), _TrackMemory(), FlopCounterMode(display=False)
    with torch.no_grad(), attention, counter, memory:
        function()
    return Cost(counter.get_total_flops() + attention.flops, attention.flops, memory.peak)


class _CountAttention(TorchFunctionMode):
    """Counts attention as the fused kernels do it: the matrix of scores never exists."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, key, value = given["query"], given["key"], given["value"]
        scores = query.shape[:-1].numel() * key.shape[-2]
        self.flops += 2.0 * scores * (query.shape[-1] + value.shape[-1])
        return query.new_empty(*query.shape[:-1], value.shape[-1])


class _TrackMemory(TorchDispatchMode):
    """The most bytes of new storages that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {
            id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage(), given)
        return result

    def _add(self, storage: Any, given: set[int]) -> None:
        key = storage._cdata
        if key in self._seen or id(storage) in given:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Clip:
    """A clip's size: `frames` of which `given` are there already, and `references`."""

    width: int
    height: int
    frames: int
    references: int = 0

    @property
    def name(self) -> str:
        """Such as 1248x704x81+7."""
        return f"{self.width}x{self.height}x{self.frames}" + (
            f"+{self.references}" if self.references else ""
        )

    @property
    def given(self) -> int:
        """Frames of history; a clip without references is a first one and has its picture."""
        return HISTORY_FRAMES if self.references else 1


CLIPS = (Clip(1248, 704, 121), Clip(1248, 704, 81, 7), Clip(832, 480, 81, 7), Clip(640, 352, 33, 3))


@dataclass(frozen=True)
class Network:
    """The two networks whose cost is counted; the defaults are the official ones."""

    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(
        default_factory=lambda: {
            **WAN22_CONFIG,
            "latents_mean": WAN22_LATENTS_MEAN,
            "latents_std": WAN22_LATENTS_STD,
        }
    )

    def build(
        self, device: torch.device, dtype: torch.dtype
    ) -> tuple[SpatiaTransformer3DModel, WanAutoencoder]:
        """Both with whatever weights the device's memory holds."""
        with torch.device("meta"):
            transformer = SpatiaTransformer3DModel(**self.transformer)
            vae = AutoencoderKLWan(**self.vae)
        for module in (transformer, vae):
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype)
            if device.type != "meta":
                module.to_empty(device=device)
                fill(module)
            module.eval().requires_grad_(False)
        autoencoder = WanAutoencoder(vae)
        return transformer, autoencoder.to(device)


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Small random weights, so that nothing overflows or becomes a denormal number."""
    for parameter in module.parameters():
        parameter.normal_(std=0.02)


@dataclass(frozen=True)
class ClipCost:
    """Operations and memory of one clip: one `forward` pass, encoding and decoding; and what was timed."""

    clip: Clip
    forward: Cost
    encode: Cost
    decode: Cost
    weight_bytes: dict[str, int]
    timed: dict[str, float] = field(default_factory=dict)

    def round_flops(self, forwards: int) -> float:
        """Operations of a whole round with so many forward passes."""
        return forwards * self.forward.flops + self.encode.flops + self.decode.flops

    def peak_bytes(self, stages: bool = False) -> int:
        """Weights and tensors of the stage that takes most; `stages`: with only its own network in memory."""
        both = sum(self.weight_bytes.values())
        main = (self.weight_bytes["transformer"] if stages else both) + self.forward.peak_bytes
        side = max(self.encode.peak_bytes, self.decode.peak_bytes)
        return max(main, (self.weight_bytes["autoencoder"] if stages else both) + side)


def count_clip(
    clip: Clip,
    network: Network | None = None,
    dtype: torch.dtype = torch.bfloat16,
    shortened: bool = False,
) -> ClipCost:
    """Operations and memory of a clip, counted on the meta device (some seconds for the official size).

    Args:
        clip: Its size.
        network: Instead of the official one.
        dtype: Of weights and tensors.
        shortened: Count the autoencoder on two short clips and draw the line through them. It works through a clip
            piece by piece, so both operations and memory grow in a straight line (checked for the official sizes).

    Raises:
        ActionError: If the size or the number of frames does not fit the model.
    """
    transformer, autoencoder = (network or Network()).build(torch.device("meta"), dtype)

    def steps(frames: int) -> _Steps:
        sized = dataclasses.replace(clip, frames=frames)
        return _Steps(sized, transformer, autoencoder, torch.device("meta"), dtype)

    whole = steps(clip.frames)
    sizes = {"transformer": _bytes(transformer), "autoencoder": _bytes(autoencoder)}
    if not shortened or clip.frames <= _SHORT[1]:
        return ClipCost(clip, dry_run(whole.forward), dry_run(whole.encode), dry_run(whole.decode), sizes)
    sides = []
    for name in ("encode", "decode"):
        ends = [dry_run(getattr(steps(frames), name)) for frames in _SHORT]
        sides.append(_extrapolate(ends[0], ends[1], (clip.frames - _SHORT[0]) / (_SHORT[1] - _SHORT[0])))
    return ClipCost(clip, dry_run(whole.forward), sides[0], sides[1], sizes)


def _extrapolate(first: Cost, second: Cost, place: float) -> Cost:
    def line(a: float, b: float) -> float:
        return a + (b - a) * place

    return Cost(
        line(first.flops, second.flops),
        line(first.attention, second.attention),
        round(line(first.peak_bytes, second.peak_bytes)),
    )


def time_clip(
    clip: Clip, device: torch.device, network: Network | None = None, dtype: torch.dtype = torch.bfloat16
) -> dict[str, float]:
    """Median seconds of one forward pass, of encoding and of decoding, and the peak memory, on `device`."""
    transformer, autoencoder = (network or Network()).build(device, dtype)
    steps = _Steps(clip, transformer, autoencoder, device, dtype)
    timed: dict[str, float] = {}
    for name in ("forward", "encode", "decode"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        timed[f"seconds_{name}"] = _seconds(getattr(steps, name), device)
        if device.type == "cuda":
            timed[f"bytes_{name}"] = float(torch.cuda.max_memory_allocated(device))
    return timed


class _Steps:
    """The three computations of a clip on tensors of its size."""

    def __init__(
        self,
        clip: Clip,
        transformer: SpatiaTransformer3DModel,
        autoencoder: WanAutoencoder,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        stride = autoencoder.spatial_stride
        check_clip_size(clip.height, clip.width, 2 * stride)
        self.clip, self.transformer, self.autoencoder = clip, transformer, autoencoder
        frames, height, width = latent_frames(clip.frames), clip.height // stride, clip.width // stride
        channels, config = autoencoder.latent_channels, transformer.config

        def zeros(*shape: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=device)

        self.sequence = zeros(1, channels, frames + clip.references, height, width)
        self.timestep = zeros(1, frames + clip.references, kind=torch.float32)
        self.text = zeros(1, TEXT_TOKENS, config.text_dim)
        self.control = zeros(1, config.control_in_channels, frames, height, width)
        self.video = zeros(1, 3, clip.frames, clip.height, clip.width)
        self.latents = zeros(1, channels, frames, height, width)

    @torch.no_grad()
    def forward(self) -> None:
        self.transformer(self.sequence, self.timestep, self.text, self.control, self.clip.references)

    @torch.no_grad()
    def encode(self) -> None:
        """Render, mask, given frames and references."""
        self.autoencoder.encode(self.video)
        self.autoencoder.encode(self.video)
        self.autoencoder.encode(self.video[:, :, : self.clip.given])
        if self.clip.references:
            self.autoencoder.encode_images(self.video[:, :, : self.clip.references])

    @torch.no_grad()
    def decode(self) -> None:
        self.autoencoder.decode(self.latents)


def _seconds(function: Callable[[], None], device: torch.device) -> float:
    """Median wall-clock seconds."""
    taken = []
    for index in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= WARM_UP:
            taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
