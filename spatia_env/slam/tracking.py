"""Where a clip's cameras really are: align the frames with what the map looks like from the commanded poses.

A generator may drift from the command; the map must not. The frames' own depth is no evidence here, since it was
estimated with the map's help; so brightness alone is aligned, on the map's depth (`alignment`). Corrections are
bounded, and dropped unless frames and map agree better with them. This module does not know how the map is stored.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import orthonormalise, pixel_rays, scale_intrinsics, se3_exp
from spatia_env.slam.depth_network import warp_grid

NOISE = 0.005
"""Least standard deviation of a colour in [0, 1] between a frame and a render."""
ROUNDS = 2
"""Of refinement, over all samples."""
SAMPLES = 400
"""About so many samples decide where the refinement starts."""
LEAST_GAIN, MOST_GAIN, GAINS = 0.25, 4.0, 17
"""The range of gains that are tried, and how many."""


@dataclass(frozen=True)
class Light:
    """Gain and offset [C] of a frame's colours that make them the render's."""

    gain: Tensor
    offset: Tensor

    def __call__(self, seen: Tensor) -> Tensor:
        """Colours [N, C] in the render's light."""
        return seen * self.gain + self.offset


def fit_light(seen: Tensor, wanted: Tensor) -> Light:
    """The light under which colours `seen` [N, C] come closest to `wanted` [N, C].

    A few gains are tried and the least median error wins, so that a bright mover does not pull; then refined.
    """
    if not len(seen):
        return Light(torch.ones(seen.shape[1]), torch.zeros(seen.shape[1]))
    few = slice(None, None, max(1, len(seen) // SAMPLES))
    gains = torch.logspace(math.log2(LEAST_GAIN), math.log2(MOST_GAIN), GAINS, base=2.0)
    tried = gains[:, None, None] * seen[None, few]
    offsets = (wanted[few] - tried).median(1).values
    best = (tried + offsets[:, None] - wanted[few]).abs().median(1).values.argmin(0)
    gain = gains[best]
    offset = offsets[best, torch.arange(len(best))]
    for _ in range(ROUNDS):
        weight = tukey((gain * seen + offset - wanted).abs().amax(1))[:, None]
        total = weight.sum().clamp_min(1e-6)
        mean_seen, mean_wanted = (seen * weight).sum(0) / total, (wanted * weight).sum(0) / total
        a, b = seen - mean_seen, wanted - mean_wanted
        # A trace of "no change" decides where the picture has one brightness only.
        gain = ((a * b * weight).sum(0) + 1e-3) / ((a * a * weight).sum(0) + 1e-3)
        gain = gain.clamp(LEAST_GAIN, MOST_GAIN)
        offset = mean_wanted - gain * mean_seen
    return Light(gain, offset)


def tukey(size: Tensor) -> Tensor:
    """Tukey's weights in [0, 1] of residuals of these sizes [N], in units of their own typical size."""
    sigma = max(1.4826 * float(size.median()), NOISE)
    return (1 - (size / (4.7 * sigma)).square()).clamp_min(0).square()


LEVELS = (4, 2, 1)
"""Reduction factors of the pyramid, coarse to fine."""
ITERATIONS = 6
"""At most, on each level."""
PIXELS = 2000
"""Pixels of a frame that are used: those with the strongest gradient."""
PRIOR = (0.03, 0.03, 0.03, 0.02, 0.02, 0.02)
"""Expected drift of a clip: metres along the camera's x, y, z and radians about them."""
CORRELATED = 8.0
"""Neighbouring pixels err together: so many count as one."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Template:
    """What is aligned, at one level: pixels of all renders in one row.

    `view` [N] frame index, `point` [N, 3] in that frame's commanded camera, `colour` [N, 3], `jacobian` [N, 6] of
    the brightness by the last frame's drift, `share` [N]: how much of that drift the pixel's frame has.
    """

    view: Tensor
    point: Tensor
    colour: Tensor
    jacobian: Tensor
    share: Tensor


@dataclass(frozen=True)
class Alignment:
    """`twist` [6]: the last frame's true c2w is its commanded c2w @ exp(twist); `pixels` that decided it."""

    twist: Tensor
    pixels: int


def align(
    rgb: Tensor, K: Tensor, map_rgb: Tensor, map_depth: Tensor, usable: Tensor, share: Tensor
) -> Alignment:
    """Align frames with renders of the map from their commanded poses.

    Args:
        rgb: Frames [V, 3, H, W] in [0, 1].
        K: Intrinsics [3, 3] in pixels.
        map_rgb: Renders [V, 3, H, W] in [0, 1].
        map_depth: Their z-depth [V, H, W] in metres.
        usable: Pixels [V, H, W] that may be used: the map is known there and nothing moves.
        share: Share [V] in (0, 1] of the last frame's drift that each frame has.
    """
    frame, model = smooth(rgb), smooth(map_rgb)
    twist, pixels = torch.zeros(6), 0
    for factor in LEVELS:
        small_K = scale_intrinsics(K, 1 / factor, 1 / factor)
        image, template = _level(frame, factor), _template(model, map_depth, usable, share, small_K, factor)
        pixels = len(template.view)
        light = Light(torch.ones(3), torch.zeros(3))
        for iteration in range(ITERATIONS if pixels else 0):
            if iteration < 2:
                seen, inside = sample(image, template, small_K, twist)
                light = fit_light(seen[inside], template.colour[inside])
            step = _step(image, template, small_K, twist, light)
            twist = twist + step
            if float(step.abs().max()) < 1e-4:
                break
    return Alignment(twist, pixels)


def grey(rgb: Tensor) -> Tensor:
    """Brightness [V, H, W] of colours [V, 3, H, W]."""
    return (rgb * rgb.new_tensor(LUMA)[:, None, None]).sum(1)


def smooth(image: Tensor) -> Tensor:
    """Images [V, C, H, W] under the 1-2-1 window in both directions; a render and a frame differ in sharpness."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 16


def _level(image: Tensor, factor: int) -> Tensor:
    return image if factor == 1 else F.avg_pool2d(image, factor)


def _template(
    model: Tensor, map_depth: Tensor, usable: Tensor, share: Tensor, K: Tensor, factor: int
) -> Template:
    """The strongest gradients of the renders, away from gaps and from steps in depth."""
    colour, depth = _level(model, factor), _level(map_depth, factor)
    image = grey(colour)
    bad = F.max_pool2d((~usable).float()[:, None], factor) if factor > 1 else (~usable).float()[:, None]
    bad = F.max_pool2d(bad, 3, 1, 1)[:, 0] > 0
    near, far = -F.max_pool2d(-depth[:, None], 3, 1, 1)[:, 0], F.max_pool2d(depth[:, None], 3, 1, 1)[:, 0]
    good = ~bad & (near > 0.1) & (far < near * 1.15)
    good[:, [0, -1]] = False
    good[..., [0, -1]] = False
    dx, dy = torch.zeros_like(image), torch.zeros_like(image)
    dx[..., 1:-1] = (image[..., 2:] - image[..., :-2]) / 2
    dy[:, 1:-1] = (image[:, 2:] - image[:, :-2]) / 2
    strength = torch.where(good, dx.square() + dy.square(), torch.zeros_like(image)).flatten(1)
    count = min(PIXELS, strength.shape[1])
    top, index = strength.topk(count, dim=1)
    view, rank = (top > 1e-6).nonzero(as_tuple=True)
    pixel = index[view, rank]
    z = depth.flatten(1)[view, pixel]
    rays = pixel_rays(K, *image.shape[-2:]).flatten(0, 1)[pixel]
    point = rays * z[:, None]
    fx, fy = dx.flatten(1)[view, pixel] * K[0, 0], dy.flatten(1)[view, pixel] * K[1, 1]
    # d brightness / d point, then d point / d twist for point -> exp(-share * twist) point.
    x, y = rays[:, 0], rays[:, 1]
    by_point = torch.stack([fx, fy, -(x * fx + y * fy)], dim=1) / z[:, None]
    jacobian = -torch.cat([by_point, torch.linalg.cross(point, by_point)], dim=1) * share[view, None]
    return Template(view, point, colour.flatten(2)[view, :, pixel], jacobian, share[view])


def sample(image: Tensor, template: Template, K: Tensor, twist: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [N, 3] of the frames `image` [V, 3, H, W] where the points lie after drift `twist`; inside [N]."""
    shares = template.share.unique(sorted=True)
    motion = se3_exp(-shares[:, None] * twist)[torch.bucketize(template.share, shares)]
    moved = (motion[:, :3, :3] @ template.point[..., None])[..., 0] + motion[:, :3, 3]
    z = moved[:, 2].clamp_min(0.05)
    u = moved[:, 0] / z * K[0, 0] + K[0, 2] - 0.5
    v = moved[:, 1] / z * K[1, 1] + K[1, 2] - 0.5
    height, width = image.shape[-2:]
    inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    left, top = u.floor().clamp(0, width - 2), v.floor().clamp(0, height - 2)
    a, b = (u - left).clamp(0, 1), (v - top).clamp(0, 1)
    corner = (template.view * height + top.long()) * width + left.long()
    flat = image.movedim(1, -1).reshape(-1, 3)
    a, b = a[:, None], b[:, None]
    upper = torch.lerp(flat[corner], flat[corner + 1], a)
    lower = torch.lerp(flat[corner + width], flat[corner + width + 1], a)
    return torch.lerp(upper, lower, b), inside


def _step(image: Tensor, template: Template, K: Tensor, twist: Tensor, light: Light) -> Tensor:
    """One Gauss-Newton step of the drift [6]."""
    seen, inside = sample(image, template, K, twist)
    error = light(seen) - template.colour
    # All colours decide what is an outlier; brightness alone is aligned.
    size, residual = error.square().mean(1).sqrt(), error @ error.new_tensor(LUMA)
    sigma = max(1.4826 * float(size[inside].median()), NOISE) if bool(inside.any()) else 1.0
    weight = tukey(size) * inside
    strength = 1 / (sigma**2 * CORRELATED)
    weighted = template.jacobian * weight[:, None]
    prior = 1 / torch.tensor(PRIOR, dtype=torch.float64).square()
    normal = (weighted.T @ template.jacobian).double() * strength + prior.diag()
    gradient = (weighted.T @ residual).double() * strength + prior * twist.double()
    return -torch.linalg.solve(normal, gradient).float()


MAX_TRANSLATION = 0.15
"""Metres; a larger correction of one clip is not believed."""
MAX_ROTATION = 5.0
"""Degrees, likewise."""
MIN_INLIERS = 0.4
"""Share of the map's pixels whose brightness the frame must confirm."""
MIN_PIXELS = 200
"""Pixels of known depth and with a gradient that a correction needs."""
MIN_GAIN = 0.1
"""Relative fall of the colour error below which the command is kept."""
INLIER = 0.06
"""Brightness in [0, 1] that differs by less, after gain and offset, is the same."""
VIEWS = 2
"""Frames of a clip that are aligned together, spread evenly, the last included."""


class View(Protocol):
    """The map along the commanded path: `rgb` [T, 3, H, W] in [0, 1], `depth` [T, H, W] m, `known` [T, H, W]."""

    @property
    def rgb(self) -> Tensor:
        """Colours."""
        ...

    @property
    def depth(self) -> Tensor:
        """z-depth."""
        ...

    @property
    def known(self) -> Tensor:
        """Coverage."""
        ...


@dataclass(frozen=True)
class TrackResult:
    """What tracking found.

    Attributes:
        c2w: Refined poses [T, 4, 4]; the commanded ones where nothing was corrected.
        inlier_ratio: Share in [0, 1] of the map's pixels in the aligned views that the frames confirm.
        translation: Metres by which the last pose was corrected.
        rotation: Degrees, likewise.
        ok: Whether a correction was applied.
        loop: The step whose place was recognised, None if no loop was closed.
        loop_metres: By how much the loop was open.
    """

    c2w: Tensor
    inlier_ratio: float
    translation: float
    rotation: float
    ok: bool
    loop: int | None = None
    loop_metres: float = 0.0


def track(rgb: Tensor, c2w: Tensor, K: Tensor, render: View, weight: Tensor | None = None) -> TrackResult:
    """Estimate a clip's poses against the map.

    The drift is taken to grow evenly over the clip: frame i of T (from 1) has i / T of the last frame's.

    Args:
        rgb: Frames [T, 3, H, W] in [0, 1].
        c2w: Commanded poses [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        render: The map as seen from the commanded poses.
        weight: Optional [T, H, W]; 0 where the frames show what moves or is unsure.
    """
    views = spread(len(rgb), VIEWS)
    share = (torch.tensor(views, dtype=torch.float32) + 1) / len(rgb)
    usable = render.known & (render.depth > 0)
    usable = usable if weight is None else usable & (weight > 0)
    rgb_v, map_rgb, map_depth, usable = (x[views] for x in (rgb, render.rgb, render.depth, usable))
    found = align(rgb_v, K, map_rgb, map_depth, usable, share)
    twist, enough = found.twist, found.pixels >= MIN_PIXELS
    before, inliers_before, after, inliers = _agreement(rgb_v, K, map_rgb, map_depth, usable, share, twist)
    translation, rotation = float(twist[:3].norm()), float(torch.rad2deg(twist[3:].norm()))
    bounded = translation <= MAX_TRANSLATION and rotation <= MAX_ROTATION
    if not (enough and bounded and inliers >= MIN_INLIERS and after < before * (1 - MIN_GAIN)):
        return TrackResult(c2w, inliers_before, 0.0, 0.0, False)
    fractions = torch.arange(1, len(rgb) + 1, dtype=torch.float64) / len(rgb)
    refined = orthonormalise(c2w.double() @ se3_exp(fractions[:, None] * twist.double())).to(c2w.dtype)
    return TrackResult(refined, inliers, translation, rotation, True)


def spread(count: int, number: int) -> list[int]:
    """Up to `number` indices spread evenly over `count` frames, ending with the last."""
    number = min(number, count)
    return [round((i + 1) * count / number) - 1 for i in range(number)]


def agreement(rgb: Tensor, K: Tensor, render: View) -> tuple[float, float]:
    """Mean capped brightness error, and share of inliers, of frames [T, 3, H, W] against the map as it is.

    With nothing of the map in sight they are infinite and 0.
    """
    views = spread(len(rgb), VIEWS)
    usable = (render.known & (render.depth > 0))[views]
    if int(usable.sum()) < MIN_PIXELS:
        return float("inf"), 0.0
    share = torch.ones(len(views))
    seen = (rgb[views], K, render.rgb[views], render.depth[views], usable, share, torch.zeros(6))
    return _agreement(*seen)[:2]


def _agreement(
    rgb: Tensor, K: Tensor, map_rgb: Tensor, map_depth: Tensor, usable: Tensor, share: Tensor, twist: Tensor
) -> tuple[float, float, float, float]:
    """Mean capped brightness error and inlier share, before and after the correction, over the same pixels."""
    frame, model = grey(smooth(rgb)), grey(smooth(map_rgb))
    still = torch.eye(4).expand(len(rgb), 4, 4)
    moved = se3_exp(share[:, None] * twist)
    grid, inside = warp_grid(map_depth.clamp_min(0.05), still, moved, K)
    seen = F.grid_sample(frame[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[
        :, 0
    ]
    both = usable & inside
    if not bool(both.any()):
        return 0.0, 0.0, 0.0, 0.0
    wanted = model[both][:, None]
    out: list[float] = []
    for image in (frame, seen):
        values = image[both][:, None]
        error = (fit_light(values, wanted)(values) - wanted).abs()
        out += [float(error.clamp(max=3 * INLIER).mean()), float((error < INLIER).float().mean())]
    return out[0], out[1], out[2], out[3]
