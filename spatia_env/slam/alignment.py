"""Direct image alignment: the small camera motion that makes a clip look like the map's render.

Gauss-Newton on six degrees of freedom: the Jacobian is that of the render and is made once a level, coarse to
fine, with Tukey weights against what moves and a gain and offset of the brightness against changes of light. A
prior holds what the picture does not tell, so that corrections shrink to nothing before a bare wall.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import pixel_rays, scale_intrinsics, se3_exp
from spatia_env.slam.photometric import NOISE, Light, fit_light, tukey

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
