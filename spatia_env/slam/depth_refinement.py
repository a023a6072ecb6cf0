"""Correct the depth that was written from one place, once the camera has seen it from another.

A keyframe's depth is an estimate until parallax has confirmed it. When a clip is filmed from farther away from a
keyframe than any picture before, its depth is refined with the pictures of both places (`multi_view_stereo`),
and the points that it shows move along its rays (`memory.deformation`), with the depth of the other keyframes. This
needs poses that are right to a fraction of a pixel: where tracking has found that the camera strays, nothing is done.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import invert_se3, scale_intrinsics, unproject
from spatia_env.memory.deformation import scaled, slide
from spatia_env.memory.keyframes import Keyframe, overlap
from spatia_env.memory.map import Map
from spatia_env.memory.rendering import Render

SIDE = 128
"""Larger pictures are made smaller until their shorter side has less than twice so many pixels."""
SPREAD, OFFSETS = 0.22, 25
"""Depths are tried within this log ratio of the estimate, at so many offsets."""
DIFFERENCE = 0.035
"""Colours in [0, 1] that differ by more are simply different."""
PRIOR = 0.006
"""Cost of the largest offset, in units of a colour that is different."""
SLOPE, JUMP = 0.07, 0.5
"""Cost of a change by one offset between neighbours, and of any change."""
CONTRAST = 0.06
"""Difference of colours in [0, 1] between neighbours across which a jump is cheap."""
STEP, ROUNDS = 0.03, 40
"""The factor is evened out over the surface, so many times among neighbours; less across such a step in log depth."""
LEAST_PARALLAX = 0.2
"""Pixels by which the depths tried must move a typical pixel, each way."""
UNSEEN = 1e3
"""Stands for the difference where a picture does not show a place."""
LEAST_SEEN = 0.2
"""Share of the picture that another must show to be asked."""
LEAST_GAIN = 0.1
"""Relative fall of the colours' difference below which the estimate is left as it is."""
LEAST_CHANGE = 0.008
"""Median log factor, likewise."""


def refine(
    rgb: Tensor, depth: Tensor, c2w: Tensor, others: Tensor, poses: Tensor, K: Tensor
) -> Tensor | None:
    """The log factor [H, W] that a picture's depth needs; None if it needs none, or if that cannot be told.

    Args:
        rgb: The picture [3, H, W] in [0, 1].
        depth: Its estimated z-depth [H, W] in metres, 0 = none.
        c2w: Its pose [4, 4].
        others: Pictures [N, 3, H, W] of the same place.
        poses: Their poses [N, 4, 4].
        K: Intrinsics [3, 3] in pixels, of all.
    """
    less = max(1, min(depth.shape) // SIDE)
    seen = (rgb, depth, c2w, others, poses, K)
    # Most pictures are right: a coarse trial, an eighth of the work, says so.
    if _solve(*seen, 2 * less, OFFSETS // 2 + 1, LEAST_GAIN / 2) is None:
        return None
    return _solve(*seen, less, OFFSETS, LEAST_GAIN)


def _solve(
    rgb: Tensor,
    depth: Tensor,
    c2w: Tensor,
    others: Tensor,
    poses: Tensor,
    K: Tensor,
    less: int,
    count: int,
    least_gain: float,
) -> Tensor | None:
    """`refine` with pictures `less` times as small and `count` offsets."""
    height, width = (less * (side // less) for side in depth.shape)
    small_K = scale_intrinsics(K, 1 / less, 1 / less)
    picture, others = F.avg_pool2d(rgb[None], less)[0], F.avg_pool2d(others, less)
    z = depth[less // 2 : height : less, less // 2 : width : less]
    offsets = torch.linspace(-SPREAD, SPREAD, count)
    cost = _costs(picture, z, c2w, others, poses, small_K, offsets)
    if cost is None:
        return None
    total = _smooth(cost + PRIOR * (offsets / SPREAD).square(), picture)
    best = total.argmin(-1)
    seen = (cost.amax(-1) > 0) & (z > 0)
    if not bool(seen.any()):
        return None
    before = float(cost[..., count // 2][seen].mean())
    after = float(cost.gather(-1, best[..., None])[..., 0][seen].mean())
    factor = offsets[best] + _between(total, best) * (offsets[1] - offsets[0])
    factor = _even(factor, _sharpness(total, best) * seen, z)
    if after >= before * (1 - least_gain) or float(factor[seen].abs().median()) < LEAST_CHANGE:
        return None
    if less > 1:
        factor = F.interpolate(factor[None, None], depth.shape, mode="bilinear", align_corners=False)[0, 0]
    return factor


def _costs(
    picture: Tensor, z: Tensor, c2w: Tensor, others: Tensor, poses: Tensor, K: Tensor, offsets: Tensor
) -> Tensor | None:
    """Cost [h, w, L] in [0, 1] of every offset; None where no other picture sees enough from far enough away."""
    height, width = z.shape
    centre = c2w[:3, 3]
    rays = unproject(z, K, c2w).flatten(0, 1) - centre
    valid = z.flatten() > 0
    flat = picture.flatten(1)[:, None]
    sums, counts = [], []
    for other, pose in zip(others, poses, strict=True):
        # Places on a ray lie on a line in the picture, and that is convex: what holds at both ends holds between.
        ends, depths = _along(centre, rays, offsets[[0, -1]], pose, K)
        inside = _inside(ends, depths, height, width).all(0) & valid
        if float(inside.float().mean()) < LEAST_SEEN:
            continue
        if float((ends[0] - ends[1]).norm(dim=-1)[inside].median()) < 2 * LEAST_PARALLAX:
            continue
        uv, _ = _along(centre, rays, offsets, pose, K)
        grid = uv.mul_(2 / uv.new_tensor([width, height])).sub_(1)[None]
        shown = F.grid_sample(other[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
        difference = shown[0].sub_(flat).abs_().mean(0).clamp_max_(2 * DIFFERENCE)
        sums.append((difference * inside).view(-1, height, width))
        counts.append(inside.view(height, width))
    if not sums:
        return None
    # Each picture's differences are averaged over 3x3 pixels; where things hide the place, the better half counts.
    stack = _box(torch.stack(sums))
    seen = torch.stack(counts)[:, None]
    stack = torch.where(seen, stack, UNSEEN)
    kept = (len(sums) + 1) // 2
    best = _least(stack, kept)
    there = best < UNSEEN
    cost = (best * there).sum(0) / there.sum(0).clamp_min(1)
    return (cost / DIFFERENCE).clamp_max(1).movedim(0, -1)


def _box(x: Tensor) -> Tensor:
    """Means over 3x3 pixels of x [..., h, w], 0 beyond its edges: what `avg_pool2d` gives, four times as fast."""
    across = x.clone()
    across[..., 1:] += x[..., :-1]
    across[..., :-1] += x[..., 1:]
    both = across.clone()
    both[..., 1:, :] += across[..., :-1, :]
    both[..., :-1, :] += across[..., 1:, :]
    return both.mul_(1 / 9)


def _least(stack: Tensor, kept: int) -> Tensor:
    """The `kept` least values [kept, ...] of each place in a stack [N, ...]; for few, sooner than sorting."""
    rows = list(stack)
    for first in range(kept):
        for at in range(len(rows) - 1, first, -1):
            rows[at - 1], rows[at] = (
                torch.minimum(rows[at - 1], rows[at]),
                torch.maximum(rows[at - 1], rows[at]),
            )
    return torch.stack(rows[:kept])


def _along(centre: Tensor, rays: Tensor, offsets: Tensor, c2w: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates [L, P, 2] and z-depth [L, P] in a camera of places on rays [P, 3], at L log factors.

    What `project(centre + rays * offset.exp())` gives: rotated once, as a factor only moves along the ray.
    """
    w2c = invert_se3(c2w)
    start, way = w2c[:3, :3] @ centre + w2c[:3, 3], rays @ w2c[:3, :3].T
    factor = offsets.exp()[:, None]
    x, y, z = (torch.addcmul(start[i], factor, way[:, i]) for i in range(3))
    inverse = z.clamp_min(1e-6).reciprocal_()
    uv = torch.stack(
        [x.mul_(inverse).mul_(K[0, 0]).add_(K[0, 2]), y.mul_(inverse).mul_(K[1, 1]).add_(K[1, 2])], -1
    )
    return uv, z


def _inside(uv: Tensor, z: Tensor, height: int, width: int) -> Tensor:
    u, v = uv.unbind(-1)
    return (z > 0.1) & (u > 0.5) & (u < width - 0.5) & (v > 0.5) & (v < height - 0.5)


def _smooth(unary: Tensor, picture: Tensor) -> Tensor:
    """Summed path costs [h, w, L] of semi-global matching along rows and columns, both ways."""
    image = picture.movedim(0, -1)
    total = _sweeps(unary, image)
    return total + _sweeps(unary.transpose(0, 1), image.transpose(0, 1)).transpose(0, 1)


def _sweeps(unary: Tensor, image: Tensor) -> Tensor:
    """Path costs [h, w, L] down and up the rows, summed."""
    edge = 0.15 + torch.exp(-(image[1:] - image[:-1]).square().sum(-1) / (2 * CONTRAST**2))
    levels = unary.movedim(-1, 1)
    out = torch.stack([levels, levels.flip(0)], 2)  # [h, L, 2, w]
    edges = torch.stack([edge, edge.flip(0)], 1)  # [h - 1, 2, w]
    for row in range(1, len(out)):
        previous = out[row - 1]
        least = previous.amin(0)
        out[row] += _reached(previous, least, edges[row - 1]).sub_(least)
    return (out[:, :, 0] + out[:, :, 1].flip(0)).movedim(1, -1)


def _reached(costs: Tensor, least: Tensor, edge: Tensor) -> Tensor:
    """Least of `costs[k] + edge * min(SLOPE * |l - k|, JUMP)` over k, for each l: costs [L, ...], least [...].

    Steps of 1, 2 and 4 offsets, each taken or not, add up to whatever is cheaper than a jump.
    """
    reached, slope, step = costs.clone(), edge * SLOPE, 1
    while step * SLOPE < JUMP and step < len(costs):
        dearer = reached + step * slope
        torch.minimum(reached[step:], dearer[:-step], out=reached[step:])
        torch.minimum(reached[:-step], dearer[step:], out=reached[:-step])
        step *= 2
    return torch.minimum(reached, least + edge * JUMP, out=reached)


def _sharpness(total: Tensor, best: Tensor) -> Tensor:
    """How much [h, w] the cost rises beside the best offset: how sure it is."""
    inner = best.clamp(2, total.shape[-1] - 3)
    left, middle, right = (total.gather(-1, (inner + i)[..., None])[..., 0] for i in (-2, 0, 2))
    return (left + right - 2 * middle).clamp_min(0) + 1e-3


def _even(factor: Tensor, weight: Tensor, z: Tensor) -> Tensor:
    """The factor [h, w] as a mean over the surface around each pixel, by weight: steps in depth are not crossed."""
    log_z = z.clamp_min(1e-3).log()
    down, right = (torch.exp(-0.5 * (log_z.diff(dim=d) / STEP).square()) / 4 for d in (0, 1))
    sums = torch.stack([factor * weight, weight])
    for _ in range(ROUNDS):
        flow, across = sums.diff(dim=1) * down, sums.diff(dim=2) * right
        sums = (
            sums
            + F.pad(flow, (0, 0, 0, 1))
            - F.pad(flow, (0, 0, 1, 0))
            + F.pad(across, (0, 1))
            - F.pad(across, (1, 0))
        )
    return sums[0] / sums[1].clamp_min(1e-9)


def _between(total: Tensor, best: Tensor) -> Tensor:
    """Where between the offsets the least cost lies, in steps: the vertex of a parabola."""
    inner = best.clamp(1, total.shape[-1] - 2)
    left, middle, right = (total.gather(-1, (inner + i)[..., None])[..., 0] for i in (-1, 0, 1))
    curve = left - 2 * middle + right
    shift = torch.where(curve > 1e-6, 0.5 * (left - right) / curve.clamp_min(1e-6), torch.zeros_like(curve))
    return torch.where(inner == best, shift.clamp(-0.5, 0.5), torch.zeros_like(shift))


LEAST_BASELINE = 0.04
"""Share of its depth that a keyframe's camera and the clip's must be apart."""
WIDER = 1.2
"""The clip must be so many times as far from the keyframe as every picture before."""
LEAST_OVERLAP = 0.3
"""Share of the clip's last view that must show what the keyframe shows."""
MOST = 2
"""Keyframes that are refined in a step."""
SOURCES = 6
"""Pictures that take part, at most; half of them of the clip."""


def revise(scene_map: Map, rgb: Tensor, path: Tensor, view: Render) -> Map:
    """The map with the depth of keyframes corrected by a clip.

    Args:
        scene_map: The map before the clip.
        rgb: Frames [T, 3, H, W] in [0, 1].
        path: Their poses [T, 4, 4].
        view: The map along them.
    """
    for index in candidates(scene_map, path, view):
        keyframe = scene_map.keyframes[index]
        if not bool((keyframe.depth > 0).any()):
            continue
        others, poses = sources(scene_map.keyframes, index, rgb, path)
        picture = keyframe.frame.movedim(-1, 0).float() / 255
        factor = refine(picture, keyframe.depth.float(), keyframe.c2w, others, poses, scene_map.K)
        if factor is not None:
            scene_map = _slid(scene_map, keyframe, factor.exp())
    return scene_map


def candidates(scene_map: Map, path: Tensor, view: Render) -> list[int]:
    """Indices of the keyframes that the clip sees from a new distance, those that gain most first."""
    keyframes = list(scene_map.keyframes)
    centres = torch.stack([k.c2w[:3, 3] for k in keyframes])
    depths = torch.stack([_middle(k.depth) for k in keyframes])
    now = (centres - path[-1, :3, 3]).norm(dim=1) / depths
    before = torch.cdist(centres, centres).amax(1) / depths
    wider = (now > LEAST_BASELINE) & (now > WIDER * before)
    wider &= torch.tensor([k.step > 0 or not scene_map.measured for k in keyframes])
    if not bool(wider.any()):
        return []
    shown = overlap(keyframes, view[len(path) - 1 :], path[-1:], scene_map.K)[0]
    good = [i for i in range(len(keyframes)) if bool(wider[i]) and float(shown[i]) >= LEAST_OVERLAP]
    return sorted(good, key=lambda i: (-float(now[i] - before[i]), i))[:MOST]


def sources(keyframes: tuple[Keyframe, ...], index: int, rgb: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, H, W] and poses [N, 4, 4] to compare a keyframe with: of the clip, and the farthest others."""
    late = [len(rgb) - 1 - i * len(rgb) // SOURCES for i in range(SOURCES // 2)]
    away = [float((k.c2w[:3, 3] - keyframes[index].c2w[:3, 3]).norm()) for k in keyframes]
    far = sorted((i for i in range(len(keyframes)) if away[i] > 0.05), key=lambda i: (-away[i], i))[
        : SOURCES // 2
    ]
    pictures = [rgb[i] for i in late] + [keyframes[i].frame.movedim(-1, 0).float() / 255 for i in far]
    return torch.stack(pictures), torch.stack([path[i] for i in late] + [keyframes[i].c2w for i in far])


def _middle(depth: Tensor) -> Tensor:
    seen = depth[depth > 0].float()
    return seen.median() if len(seen) else torch.tensor(1e3)


def _slid(scene_map: Map, keyframe: Keyframe, factor: Tensor) -> Map:
    """The map with what a keyframe shows at another depth: the map, and every keyframe that shows it too."""
    depth, c2w, K = keyframe.depth.float(), keyframe.c2w, scene_map.K
    # What was measured stays.
    surface, _ = slide(scene_map.points, c2w, K, depth, factor, int(scene_map.measured)).bounded()
    keyframes = []
    for other in scene_map.keyframes:
        if other is keyframe:
            keyframes.append(dataclasses.replace(other, depth=(depth * factor).half()))
            continue
        if scene_map.measured and other.step == 0:
            keyframes.append(other)
            continue
        old = other.depth.float()
        points = unproject(old, K, other.c2w).flatten(0, 1)
        scale = scaled(points, c2w, K, depth, factor)
        if bool((scale == 1).all()):
            keyframes.append(other)
            continue
        moved = c2w[:3, 3] + (points - c2w[:3, 3]) * scale[:, None]
        w2c = invert_se3(other.c2w)
        z = (moved @ w2c[2, :3] + w2c[2, 3]).view_as(old)
        new = torch.where((old > 0) & (scale.view_as(old) != 1), z.clamp_min(0.05), old)
        keyframes.append(dataclasses.replace(other, depth=new.half()))
    return dataclasses.replace(scene_map, points=surface, keyframes=tuple(keyframes))
