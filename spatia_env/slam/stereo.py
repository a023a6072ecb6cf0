"""Check the depth of a picture by others that were taken elsewhere: what a single view cannot tell, parallax does.

A picture's depth is an estimate until a camera has moved. Then every pixel is tried at some depths around the
estimate; where it is right, the other pictures show the same colours. Costs are smoothed by semi-global matching, so
bare walls take part with their neighbours, and the factor found is evened out over each surface.
Semi-global matching: H. Hirschmueller, "Stereo Processing by Semiglobal Matching and Mutual Information", 2008.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.cameras import invert_se3, project, scale_intrinsics, unproject

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
    points = unproject(z, K, c2w).flatten(0, 1)
    centre = c2w[:3, 3]
    rays = points - centre
    valid = z.flatten() > 0
    sums, counts = [], []
    for other, pose in zip(others, poses, strict=True):
        w2c = invert_se3(pose[None])
        ends, depths = project(
            torch.cat([centre + rays * float(offsets[0].exp()), centre + rays * float(offsets[-1].exp())]),
            w2c,
            K,
        )
        near, far = ends[0].chunk(2)
        inside = _inside(ends[0], depths[0], height, width).view(2, -1).all(0) & valid
        if float(inside.float().mean()) < LEAST_SEEN:
            continue
        if float((near - far).norm(dim=-1)[inside].median()) < 2 * LEAST_PARALLAX:
            continue
        tried = centre + rays[None] * offsets.exp()[:, None, None]
        uv, depth = project(tried.flatten(0, 1), w2c, K)
        ok = _inside(uv[0], depth[0], height, width).view(len(offsets), -1) & valid
        grid = (uv[0] / uv.new_tensor([width, height]) * 2 - 1).view(1, len(offsets), height * width, 2)
        shown = F.grid_sample(other[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[
            0
        ]
        difference = (shown - picture.flatten(1)[:, None]).abs().mean(0).clamp_max(2 * DIFFERENCE)
        ok = ok.all(0, keepdim=True).expand_as(ok)
        sums.append(torch.where(ok, difference, 0.0).view(-1, height, width))
        counts.append(ok[0].float().view(height, width))
    if not sums:
        return None
    # Each picture's differences are averaged over 3x3 pixels; where things hide the place, the better half counts.
    stack = torch.stack([F.avg_pool2d(s[None], 3, 1, 1)[0] for s in sums])
    seen = torch.stack(counts)[:, None]
    stack = torch.where(seen > 0, stack, 1e3)
    kept = max(1, (len(sums) + 1) // 2)
    best = stack.sort(0).values[:kept]
    there = (best < 1e2).float()
    cost = (best * there).sum(0) / there.sum(0).clamp_min(1)
    return (cost / DIFFERENCE).clamp_max(1).movedim(0, -1)


def _inside(uv: Tensor, z: Tensor, height: int, width: int) -> Tensor:
    return (
        (z > 0.1)
        & (uv[..., 0] > 0.5)
        & (uv[..., 0] < width - 0.5)
        & (uv[..., 1] > 0.5)
        & (uv[..., 1] < height - 0.5)
    )


def _smooth(unary: Tensor, picture: Tensor) -> Tensor:
    """Summed path costs [h, w, L] of semi-global matching along rows and columns, both ways."""
    image = picture.movedim(0, -1)
    labels = torch.arange(unary.shape[-1], dtype=unary.dtype)
    change = (SLOPE * (labels[:, None] - labels).abs()).clamp_max(JUMP)
    total = _sweeps(unary, image, change)
    return total + _sweeps(unary.transpose(0, 1), image.transpose(0, 1), change).transpose(0, 1)


def _sweeps(unary: Tensor, image: Tensor, change: Tensor) -> Tensor:
    """Path costs [h, w, L] down and up the rows, summed."""
    edge = 0.15 + torch.exp(-(image[1:] - image[:-1]).square().sum(-1) / (2 * CONTRAST**2))
    both = torch.stack([unary, unary.flip(0)], 1)  # [h, 2, w, L]
    edges = torch.stack([edge, edge.flip(0)], 1)[..., None, None]
    out = torch.empty_like(both)
    out[0] = both[0]
    for row in range(1, len(both)):
        previous = out[row - 1]
        reached = (previous[..., None] + edges[row - 1] * change).amin(-2)
        out[row] = both[row] + reached - previous.amin(-1, keepdim=True)
    return out[:, 0] + out[:, 1].flip(0)


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
