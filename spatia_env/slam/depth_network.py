"""Depth, confidence and a dynamic mask for every frame of a clip whose poses are known.

`TinyGeometry` is the embedded default: a small network, trained in the simulator (`spatia train geometry`), that
completes the map's depth and says what does not belong to the map. Where the map is known and agrees with the
frame its depth passes through a gate unchanged, so that a revisit does not thicken walls. `SimulatorGeometry`
hands out ground truth, for oracle rows only. This module does not know how the map is stored.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from spatia_env.errors import ActionError
from spatia_env.geometry import invert_se3, pixel_rays, scale_intrinsics, unproject

PLANES = 23
"""Planes per pixel of `cues`."""
MEAN_LOG_DEPTH = math.log(3.0)
"""Log of the depth in metres that stands for "nothing known"."""
EYE_HEIGHT = 1.4
"""Metres of the camera above the ground where its height is not given."""
NEAREST, FARTHEST = 0.15, 30.0
"""Range in metres of depths that enter and leave the network."""


def cues(
    rgb: Tensor,
    c2w: Tensor,
    K: Tensor,
    map_rgb: Tensor,
    map_depth: Tensor,
    known: Tensor,
    ground: float | None = None,
    frames: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Input planes of some frames of a clip.

    Args:
        rgb: The clip [T, 3, H, W] in [0, 1].
        c2w: Camera poses [T, 4, 4], world +Z up.
        K: Intrinsics [3, 3] in pixels.
        map_rgb: The map's render [T, 3, H, W] in [0, 1].
        map_depth: Its z-depth [T, H, W] in metres.
        known: Its coverage, bool [T, H, W].
        ground: World z in metres of the ground the camera stands on, None where it is not known.
        frames: Indices [N] of the wanted frames, all by default.

    Returns:
        Planes [N, PLANES, H, W], and the base log depth [N, H, W]: the map's where known, a smooth
        continuation of it elsewhere, `MEAN_LOG_DEPTH` in a frame where nothing is known.
    """
    frames = torch.arange(len(rgb)) if frames is None else frames
    seen = known[frames] & (map_depth[frames] > 0)
    base = fill(map_depth[frames].clamp(NEAREST, FARTHEST).log(), seen)
    mask = seen.float()[:, None]
    difference = (rgb[frames] - map_rgb[frames]) * mask
    around = [_difference_to(rgb, c2w, K, base, frames, other) for other in neighbours(len(rgb), frames)]
    planes = [2 * rgb[frames] - 1, 2 * difference, mask, (base - MEAN_LOG_DEPTH)[:, None], *around]
    return torch.cat(
        [*planes, gravity_planes(c2w[frames], K, rgb.shape[-2], rgb.shape[-1], ground)], dim=1
    ), base


def neighbours(count: int, frames: Tensor) -> list[Tensor]:
    """Three other frames [N] for each of `frames` in a clip of `count`: one before, one after, one far away."""
    if count == 1:
        return [frames] * 3
    before = torch.where(frames > 0, frames - 1, torch.full_like(frames, min(2, count - 1)))
    after = torch.where(frames < count - 1, frames + 1, torch.full_like(frames, max(count - 3, 0)))
    half = max(count // 2, 1)
    far = torch.where(frames < half, frames + half, frames - half)
    return [before, after, far.clamp(max=count - 1)]


def fill(values: Tensor, known: Tensor) -> Tensor:
    """Continue `values` [N, H, W] smoothly from where they are `known` (push-pull over a pyramid).

    Known pixels keep their value; a frame without any becomes `MEAN_LOG_DEPTH`.
    """
    weight = known.float()[:, None]
    levels = [(torch.where(known, values, torch.zeros_like(values))[:, None], weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        value, weight = levels[-1]
        pooled = F.avg_pool2d(torch.cat([value * weight, weight], dim=1), 2, ceil_mode=True)
        total, weight = pooled.split(1, dim=1)
        levels.append((total / weight.clamp_min(1e-6), (weight * 4).clamp_max(1)))
    value, weight = levels.pop()
    filled = torch.where(weight > 0, value, torch.full_like(value, MEAN_LOG_DEPTH))
    for value, weight in reversed(levels):
        coarse = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.lerp(coarse, value, weight)
    return filled[:, 0]


def gravity_planes(c2w: Tensor, K: Tensor, height: int, width: int, ground: float | None) -> Tensor:
    """Planes [N, 3, H, W]: how much each ray rises, the log depth of the ground along it, is its height given."""
    rays = pixel_rays(K, height, width)
    rise = torch.einsum("nj,hwj->nhw", c2w[:, 2, :3], rays)
    z = c2w[:, 2, 3]
    above = torch.full_like(z, EYE_HEIGHT) if ground is None else (z - ground).clamp_min(0.1)
    depth = above[:, None, None] / (-rise).clamp_min(above[:, None, None] / 12)
    flag = torch.full_like(rise, float(ground is not None))
    return torch.stack([rise, depth.log() - MEAN_LOG_DEPTH, flag], dim=1)


def _difference_to(
    rgb: Tensor, c2w: Tensor, K: Tensor, base: Tensor, frames: Tensor, other: Tensor
) -> Tensor:
    """Planes [N, 4, H, W]: the frames `other`, warped by the base depth, minus `frames`; and where that is valid."""
    grid, valid = warp_grid(base.exp(), c2w[frames], c2w[other], K)
    valid = (valid & (frames != other)[:, None, None]).float()[:, None]
    warped = F.grid_sample(rgb[other], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.cat([2 * (warped - rgb[frames]) * valid, valid], dim=1)


def warp_grid(depth: Tensor, c2w: Tensor, other_c2w: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Where pixels with z-depth [N, H, W] seen from `c2w` [N, 4, 4] lie in the cameras `other_c2w` [N, 4, 4].

    Returns sampling positions [N, H, W, 2] for `grid_sample` and whether they lie inside that image [N, H, W].
    """
    height, width = depth.shape[-2:]
    camera = unproject(depth, K, invert_se3(other_c2w) @ c2w)
    z = camera[..., 2].clamp_min(1e-3)
    x = (camera[..., 0] / z * K[0, 0] + K[0, 2]) * (2 / width) - 1
    y = (camera[..., 1] / z * K[1, 1] + K[1, 2]) * (2 / height) - 1
    inside = (camera[..., 2] > NEAREST) & (x.abs() < 1) & (y.abs() < 1)
    return torch.stack([x, y], dim=-1), inside


FOCAL = 110.85
"""Focal length in pixels that the network was trained at (128 pixels, 60 degrees); pictures are resized to it."""
STRIDE = 16
TOLERANCE = 0.05
"""Confidence is the probability that a depth is right to within this relative error."""
DYNAMIC_THRESHOLD = 0.5
"""A pixel with a higher dynamic probability is kept out of the map (chosen on dev seeds)."""
DILATION = 2
"""Pixels by which what moves is widened before it is kept out: its rim and the shadow it leaves."""
LEAST_CONFIDENCE = 0.08
"""Pixels below it are not written: mixed pixels on the rims of things."""


@dataclass(frozen=True)
class Geometry:
    """What a clip's pixels are.

    Attributes:
        depth: z-depth [T, H, W] in metres, 0 = none.
        confidence: [T, H, W] in [0, 1]; the probability that `depth` is right to within 5 percent.
        dynamic: [T, H, W] in [0, 1]; the probability that the pixel shows something that moves.
    """

    depth: Tensor
    confidence: Tensor
    dynamic: Tensor


class GeometryEstimator(Protocol):
    """Anything that estimates `Geometry` from a clip, its poses and the map's render along them."""

    def __call__(
        self,
        rgb: Tensor,
        c2w: Tensor,
        K: Tensor,
        map_rgb: Tensor,
        map_depth: Tensor,
        known: Tensor,
        ground: float | None = None,
    ) -> Geometry:
        """Estimate.

        Args:
            rgb: Frames [T, 3, H, W] in [0, 1].
            c2w: Camera poses [T, 4, 4] (OpenCV axes, world +Z up).
            K: Intrinsics [3, 3] in pixels.
            map_rgb: The map's render along the poses [T, 3, H, W] in [0, 1].
            map_depth: Its z-depth [T, H, W] in metres, 0 = none.
            known: Its coverage, bool [T, H, W]; all False for a first picture.
            ground: World z in metres of the ground under the camera, None where it is not known.
        """
        ...


def static_weight(
    geometry: Geometry, threshold: float = DYNAMIC_THRESHOLD, dilation: int = DILATION
) -> Tensor:
    """How much each pixel may write into the map: [T, H, W] in [0, 1].

    The confidence where nothing moves within `dilation` pixels and the depth is valid and fairly sure; else 0.
    """
    moving = F.max_pool2d(geometry.dynamic[:, None], 2 * dilation + 1, 1, dilation)[:, 0] > threshold
    write = ~moving & (geometry.depth > 0) & (geometry.confidence >= LEAST_CONFIDENCE)
    return torch.where(write, geometry.confidence, torch.zeros_like(geometry.confidence))


class SimulatorGeometry:
    """Ground truth as an estimator: for oracle rows of a benchmark, never for play.

    Args:
        truth: Called with a pose [4, 4] (float32 array) for every frame in turn; returns the z-depth [H, W] in
            metres (0 = none) and the mask [H, W] of what moves, as arrays or tensors.
    """

    def __init__(
        self, truth: Callable[[np.ndarray], tuple[np.ndarray | Tensor, np.ndarray | Tensor]]
    ) -> None:
        self.truth = truth

    def __call__(
        self,
        rgb: Tensor,
        c2w: Tensor,
        K: Tensor,
        map_rgb: Tensor,
        map_depth: Tensor,
        known: Tensor,
        ground: float | None = None,
    ) -> Geometry:
        """The truth for the frames' poses; see `GeometryEstimator`.

        Raises:
            ActionError: If the truth comes in another image size than the frames.
        """
        pairs = [self.truth(pose) for pose in c2w.float().cpu().numpy()]
        depth = torch.stack([torch.as_tensor(depth).float() for depth, _ in pairs])
        dynamic = torch.stack([torch.as_tensor(mask).float() for _, mask in pairs])
        if depth.shape != map_depth.shape or dynamic.shape != map_depth.shape:
            raise ActionError(
                f"SimulatorGeometry: the truth has shape {tuple(depth.shape)}, the frames {tuple(map_depth.shape)}; "
                "render it at the size of the frames."
            )
        valid = torch.isfinite(depth) & (depth > 0)
        return Geometry(torch.where(valid, depth, torch.zeros_like(depth)), valid.float(), dynamic)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around SiLU; the second starts at zero, so a fresh block is the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _silence(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same shape."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def _silence(layer: nn.Module) -> None:
    """Start a layer at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Look(nn.Module):
    """A layer of self-attention over all cells of a picture, and two pointwise layers; both start silent.

    Where a floor ends on one side of a picture says how far the wall on the other side is.
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.pointwise_norm = nn.GroupNorm(1, channels), nn.GroupNorm(1, channels)
        self.places = nn.Conv2d(2, channels, 1)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1), nn.SiLU(), nn.Conv2d(2 * channels, channels, 1)
        )
        _silence(self.out)
        _silence(self.pointwise[-1])

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """[N, channels, h, w] and the cells' places [2, h, w] of `cell_places` -> [N, channels, h, w]."""
        n, channels, height, width = x.shape
        triple = self.query_key_value(self.norm(x) + self.places(places[None]))
        query, key, value = triple.reshape(n, 3, self.heads, -1, height * width).transpose(-1, -2).unbind(1)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2)
        x = x + self.out(seen.reshape(n, channels, height, width))
        return x + self.pointwise(self.pointwise_norm(x))


def cell_places(height: int, width: int, like: Tensor) -> Tensor:
    """Places [2, height, width] of cells of `STRIDE` pixels about the middle of the picture, one focal length = 1."""
    rows, columns = (
        (torch.arange(count, dtype=like.dtype, device=like.device) - (count - 1) / 2) * (STRIDE / FOCAL)
        for count in (height, width)
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


@dataclass(frozen=True)
class Planes:
    """What the network says about N frames, each [N, H, W].

    `log_depth` (natural log of metres), `keep` (in [0, 1]: how far the map's depth passed through), `log_error`
    (log of the expected absolute error of `log_depth`) and `dynamic` (logit).
    """

    log_depth: Tensor
    keep: Tensor
    log_error: Tensor
    dynamic: Tensor


class TinyGeometry(ModelMixin, ConfigMixin):
    """A U-Net at strides 4, 8 and 16 over the planes of `cues`.

    Args:
        channels: Widths at strides 4, 8 and 16.
        blocks: Residual blocks at stride 4 (down and up each), stride 8 (down and up each) and stride 16.
        looks: Layers of attention at stride 16; checkpoints from before these have none.
    """

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, int, int] = (48, 80, 128),
        blocks: tuple[int, int, int] = (1, 1, 3),
        looks: int = 0,
    ) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.stem = nn.Conv2d(PLANES, fine, 4, stride=4)
        self.fine_down = nn.Sequential(*(ResidualBlock(fine) for _ in range(blocks[0])))
        self.to_middle = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle_down = nn.Sequential(*(ResidualBlock(middle) for _ in range(blocks[1])))
        self.to_coarse = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse) for _ in range(blocks[2])))
        self.look = nn.ModuleList(Look(coarse) for _ in range(looks))
        self.scene = nn.Linear(coarse, coarse)
        self.from_coarse = nn.Sequential(nn.Conv2d(coarse, 4 * middle, 1), nn.PixelShuffle(2))
        self.middle_up = nn.Sequential(*(ResidualBlock(middle) for _ in range(blocks[1])))
        self.from_middle = nn.Sequential(nn.Conv2d(middle, 4 * fine, 1), nn.PixelShuffle(2))
        self.fine_up = nn.Sequential(*(ResidualBlock(fine) for _ in range(blocks[0] + 1)))
        self.head = nn.Conv2d(fine, 4 * 16, 3, padding=1)
        _silence(self.head)
        _silence(self.scene)

    def predict(self, planes: Tensor, base: Tensor, known: Tensor) -> Planes:
        """What the network says about N frames (the differentiable part).

        Args:
            planes: Input planes [N, PLANES, H, W] of `cues`; H and W are multiples of 16.
            base: Base log depth [N, H, W] of `cues`.
            known: Where the base is the map's own depth, bool [N, H, W].
        """
        fine = self.fine_down(self.stem(planes.contiguous(memory_format=torch.channels_last)))
        middle = self.middle_down(self.to_middle(fine))
        coarse = self.coarse(self.to_coarse(middle))
        if len(self.look):
            places = cell_places(coarse.shape[-2], coarse.shape[-1], coarse)
            for look in self.look:
                coarse = look(coarse, places)
        # One look at the whole picture: how bright the world is, how far its walls are.
        coarse = coarse + self.scene(F.silu(coarse.mean((2, 3))))[:, :, None, None]
        middle = self.middle_up(middle + self.from_coarse(coarse))
        fine = self.fine_up(fine + self.from_middle(middle))
        delta, gate, log_error, dynamic = F.pixel_shuffle(self.head(fine), 4).float().unbind(1)
        keep = torch.sigmoid(gate) * known
        return Planes(base + (1 - keep) * delta, keep, log_error - 3.0, dynamic - 3.0)

    @torch.no_grad()
    def forward(
        self,
        rgb: Tensor,
        c2w: Tensor,
        K: Tensor,
        map_rgb: Tensor,
        map_depth: Tensor,
        known: Tensor,
        ground: float | None = None,
    ) -> Geometry:
        """`Geometry` of a clip; see `GeometryEstimator` for the arguments.

        Args:
            rgb: Frames [T, 3, H, W] in [0, 1]; any size, T = 1 for a first picture.
            c2w: Camera poses [T, 4, 4].
            K: Intrinsics [3, 3] in pixels.
            map_rgb: The map's render [T, 3, H, W] in [0, 1].
            map_depth: Its z-depth [T, H, W] in metres.
            known: Its coverage, bool [T, H, W].
            ground: World z in metres of the ground under the camera, if it is known: the height of a camera
                decides the scale of a first picture. Without it people's eye height is assumed.
        """
        height, width = rgb.shape[-2:]
        small = working_size(K, height, width)
        seen = known & (map_depth > 0)
        if small == (height, width):
            planes, base = cues(rgb, c2w, K, map_rgb, map_depth, seen, ground)
            said = self.predict(planes, base, seen)
        else:
            small_K = scale_intrinsics(K, small[1] / width, small[0] / height)
            small_map = _resize_map(map_rgb, map_depth, seen, small)
            planes, base = cues(_resize(rgb, small), c2w, small_K, *small_map, ground)
            said = _enlarge(self.predict(planes, base, small_map[-1]), map_depth, seen)
        depth = said.log_depth.exp().clamp(NEAREST, FARTHEST)
        # A Laplace distribution of the log error, with the predicted mean absolute error.
        confidence = 1 - torch.exp(-TOLERANCE * torch.exp(-said.log_error.clamp(-7, 2)))
        return Geometry(depth, confidence, torch.sigmoid(said.dynamic))


def working_size(K: Tensor, height: int, width: int) -> tuple[int, int]:
    """(height, width) at which the network looks: focal length about `FOCAL` pixels, multiples of 16."""
    scale_x, scale_y = FOCAL / float(K[0, 0]), FOCAL / float(K[1, 1])
    return _multiple(height * scale_y), _multiple(width * scale_x)


def _multiple(pixels: float) -> int:
    return STRIDE * max(2, round(pixels / STRIDE))


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _resize_map(
    map_rgb: Tensor, map_depth: Tensor, known: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The render at another size: means over known pixels only."""
    mask = known.float()[:, None]
    stack = _resize(torch.cat([map_rgb * mask, map_depth[:, None] * mask, mask], dim=1), size)
    share = stack[:, 4:]
    mean = stack[:, :4] / share.clamp_min(1e-6)
    seen = share[:, 0] > 0.5
    return mean[:, :3] * seen[:, None], mean[:, 3] * seen, seen


def _enlarge(said: Planes, map_depth: Tensor, known: Tensor) -> Planes:
    """Planes at the size of the map's depth; its own detail replaces the enlarged one where the gate is open."""
    stack = torch.stack([said.log_depth, said.keep, said.log_error, said.dynamic], dim=1)
    size = map_depth.shape[-2:]
    log_depth, keep, log_error, dynamic = F.interpolate(
        stack, size, mode="bilinear", align_corners=False
    ).unbind(1)
    keep = keep * known
    log_map = map_depth.clamp(NEAREST, FARTHEST).log()
    return Planes(torch.lerp(log_depth, log_map, keep), keep, log_error, dynamic)
