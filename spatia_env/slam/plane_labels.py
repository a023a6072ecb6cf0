"""Where new surface continues the planes of the map, and what walls begin at their creases.

The network that estimates depth is small: in what the map does not know yet it errs by 5 to 10 percent, though
floor, ceiling and walls go on exactly. Every pixel gets a label, a plane or "as estimated", by semi-global
matching: labels cost how far they are from the estimate (from the map, where it is known), changes of label cost
where neither the picture nor the two depths give a reason. Walls that are not in the map yet take part with many
offsets; the one wins whose creases with floor, ceiling and other walls lie on edges of the picture.
Semi-global matching: H. Hirschmueller, "Stereo Processing by Semiglobal Matching and Mutual Information", 2008.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.geometry import invert_se3, pixel_rays, project, scale_intrinsics, unproject
from spatia_env.slam.depth_network import Geometry, fill
from spatia_env.slam.planes import Plane, find_planes, plane_depth

CHANGE, JUMP = 1.2, 1.5
"""Cost of a change of label between neighbours, and of a step in depth that it makes."""
JUMP_SIZE = 0.05
"""Log depth of a full step."""
CONTRAST = 0.05
"""Difference of colours in [0, 1] that makes an edge."""
LEAST_CONTRAST = 0.08


def change_cost(labels: Tensor, log_z: Tensor, rgb: Tensor) -> Tensor:
    """Costs [B] of all changes of label between a row and the next: labels [h, B, w, 1], log_z [h, B, w, L]."""
    a, b = labels[:-1], labels[1:]
    # The step is taken as the lower pixel sees it, as in the sweeps.
    step = (log_z[1:].gather(-1, a) - log_z[1:].gather(-1, b)).abs() / JUMP_SIZE
    edge = _edge(rgb[1:], rgb[:-1])[:, None, :, None]
    excused = torch.where((a > 0) & (b > 0), torch.ones_like(edge), edge)
    return ((edge * CHANGE + excused * JUMP * step.clamp_max(1)) * (a != b)).sum((0, 2, 3))


def _edge(a: Tensor, b: Tensor) -> Tensor:
    """How little the colours [..., w, 3] differ: 1 where they are equal, near 0 across an edge."""
    return LEAST_CONTRAST + torch.exp(-(a - b).square().sum(-1) / (2 * CONTRAST**2))


def sweeps(unary: Tensor, log_z: Tensor, rgb: Tensor, slants: tuple[int, ...]) -> Tensor:
    """Path costs down and up the rows, `dx` pixels aside a row for each slant `dx`; their sum.

    Args:
        unary: Costs of labels [h, B, w, L]; label 0 stands for a thing, the others for planes.
        log_z: Log depths of labels [h, B, w, L].
        rgb: Colours [h, w, 3] in [0, 1].
        slants: Columns that a path moves per row.

    Returns:
        Costs [h, B, w, L]; tests hold them against every change of label at every pixel, tried one by one.
    """
    h, w = rgb.shape[:2]
    costs = unary.permute(0, 3, 2, 1).contiguous()  # [h, L, w, B]: labels first, so that minima are over rows
    levels = (log_z.permute(0, 3, 2, 1) / JUMP_SIZE).contiguous()
    steps = (levels[:, :, None] - levels[:, None]).abs_().clamp_max_(1).mul_(JUMP)  # [h, L from, L to, w, B]
    column, total = torch.arange(w), torch.zeros_like(costs)
    for down in (True, False):
        come = torch.stack([(column - (dx if down else -dx)).clamp(0, w - 1) for dx in slants])  # [S, w]
        rows = range(h) if down else range(h - 1, -1, -1)
        image = rgb if down else rgb.flip(0)
        edges = _edge(image[1:, None], image[:-1][:, come])[..., None]  # [h - 1, S, w, 1]
        from_flat = (come + w * torch.arange(len(slants))[:, None]).flatten()
        path = costs[rows[0]][:, None].expand(-1, len(slants), -1, -1)
        total[rows[0]] += path.sum(1)
        for edge, row in zip(edges, rows[1:], strict=True):
            before = path.flatten(1, 2).index_select(1, from_flat).view(path.shape)
            path = _reach(before, steps[row], edge).sub_(before.amin(0)).add_(costs[row][:, None])
            total[row] += path.sum(1)
    return total.permute(0, 3, 2, 1)


def _reach(before: Tensor, steps: Tensor, edge: Tensor) -> Tensor:
    """Least costs [L, S, w, B] of getting to a row's labels from `before`, [L, S, w, B] of the row before.

    To keep a label costs nothing. Floors and walls meet without a step; where one of the two labels is a thing,
    an `edge` [S, w, 1] of the picture excuses it.
    """
    change, to_plane = edge * CHANGE, steps[:, 1:, None]
    to_thing = edge * steps[1:, 0, None]
    reached = before.clone()
    if len(before) == 1:
        return reached
    best = before[0] + edge * to_plane[0]
    for label in range(1, len(before)):
        torch.minimum(best, before[label] + to_plane[label], out=best)
    torch.minimum(before[1:], best.add_(change), out=reached[1:])
    torch.minimum(before[0], (before[1:] + to_thing).amin(0) + change, out=reached[0])
    return reached


HALF = 2
"""Labels are found at half of the picture's size."""
SIGMA_KNOWN, SIGMA_NEW = 0.02, 0.10
"""Standard deviation of log depth where the map is known, and where it was estimated."""
MOST_COST = 3.0
NEW_WEIGHT = 0.35
"""Estimates of neighbouring new pixels err together: each counts for so much of a known one."""
AS_IS, AS_IS_NEW = 1.2, 1.7
"""Cost of the label "as estimated" where the map is known and where not: any plane within so many deviations is
preferred.
"""
MOST_CHANGE = 0.4
"""Log depth by which a plane may correct an estimate."""
WALL_COST = 15.0
"""A new wall must explain the picture better by this much."""
BIAS_COST = 10.0
"""Cost of a wall whose estimate is off as a whole by `SPREAD`."""
COLOUR, COLOUR_UNKNOWN = 0.35, 0.44
"""Weight of a colour's log likeness to the known part of a plane, and the cost of what has no known part."""
COLOUR_BINS, LEAST_COLOURS = 12, 40
SPREAD, OFFSETS = 0.24, 13
"""New walls are tried within this share of their distance, at so many offsets; then once more, finer."""
LEAST_NEW = 0.01
"""Share of a frame that must be new before labels are looked for."""
LEAST_WALL = 0.12
"""Share of a frame that must be new before a new wall is: a strip does not tell how far a wall is. What no plane
explains is left to a later view then.
"""
CONFIDENCE = 0.9
"""Confidence of a depth on a plane."""


@dataclass(frozen=True)
class _Frame:
    """A frame at half size, and its labels' planes: depth `z` [h, w], `rgb` [h, w, 3], `rays` [h, w, 3]."""

    rgb: Tensor
    z: Tensor
    known: Tensor
    rays: Tensor
    origin: Tensor


@dataclass(frozen=True)
class _Wall:
    """A wall that is not in the map: the plane nearest to the estimates, and the one that is tried for it."""

    estimate: Plane
    plane: Plane


def continue_planes(
    geometry: Geometry, rgb: Tensor, c2w: Tensor, K: Tensor, known: Tensor, planes: list[Plane]
) -> Geometry:
    """Put what is new in a clip onto the planes of the map where it continues them.

    Args:
        geometry: Estimates of the clip.
        rgb: Frames [T, 3, H, W] in [0, 1].
        c2w: Poses [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        known: Pixels [T, H, W] whose depth is the map's.
        planes: Planes of the map.
    """
    new = ~known & (geometry.depth > 0)
    share = new.flatten(1).float().mean(1)
    if float(share.max()) < LEAST_NEW:
        return geometry
    # The frame that shows most of what is new; a second one half a clip away sees what the first does not.
    first = int(share.argmax())
    second = (first + len(rgb) // 2) % len(rgb)
    depth, confidence = geometry.depth.clone(), geometry.confidence.clone()
    left = new.clone()
    for index in dict.fromkeys((first, second)):
        if float(left[index].float().mean()) < LEAST_NEW:
            continue
        frame = _at_half(geometry, rgb, c2w, K, known, index)
        labels, found = _label(frame, planes)
        planes = found or planes
        _apply(labels, found, geometry, c2w, K, index, left, depth, confidence)
    snapped = new & ~left
    factor = torch.where(snapped, (depth / geometry.depth.clamp_min(1e-3)).clamp_min(1e-3).log(), 0.0)
    # What stands on a plane that was put right moves with it.
    follows = fill(factor, snapped | known)
    depth = torch.where(left & (follows.abs() < 0.3), geometry.depth * follows.exp(), depth)
    if float(share.max()) < LEAST_WALL:
        confidence = torch.where(left, 0.0, confidence)
    return dataclasses.replace(geometry, depth=depth, confidence=confidence)


def _at_half(geometry: Geometry, rgb: Tensor, c2w: Tensor, K: Tensor, known: Tensor, index: int) -> _Frame:
    height, width = rgb.shape[-2:]
    small_K = scale_intrinsics(K, 1 / HALF, 1 / HALF)
    rays = pixel_rays(small_K, height // HALF, width // HALF) @ c2w[index, :3, :3].T
    corner = slice(HALF // 2, None, HALF)
    return _Frame(
        F.avg_pool2d(rgb[index][None], HALF)[0].movedim(0, -1),
        geometry.depth[index, corner, corner],
        known[index, corner, corner],
        rays,
        c2w[index, :3, 3],
    )


def _label(frame: _Frame, planes: list[Plane]) -> tuple[Tensor, list[Plane]]:
    """Labels [h, w] (-1 = as estimated) into the list of planes that is returned with them."""
    enough = float((~frame.known).float().mean()) >= LEAST_WALL
    families = _new_walls(frame, planes) if enough else []
    if not planes and not families:
        return torch.full(frame.z.shape, -1), []
    (labels,), (cost,) = _match(frame, planes, [[]])
    found, least = planes, float(cost) - WALL_COST
    for family in families:  # at most one begins in a frame: of several, some explain errors of the estimate
        with_wall, plane, cost = _best_wall(frame, planes, family)
        if cost < least:
            labels, found, least = with_wall, [*planes, plane], cost
    return labels, found


def _best_wall(frame: _Frame, planes: list[Plane], family: list[Plane]) -> tuple[Tensor, Plane, float]:
    """The wall of a family of offsets that explains a frame best: labels with it [h, w], its plane, and the cost."""
    middle = family[len(family) // 2]
    coarse = _try_walls(frame, planes, [_Wall(middle, plane) for plane in family])[1]
    return _try_walls(frame, planes, [_Wall(middle, plane) for plane in _finer(family, coarse, frame)])


def _try_walls(frame: _Frame, planes: list[Plane], walls: list[_Wall]) -> tuple[Tensor, Plane, float]:
    bias = torch.tensor([_log_distance(wall.plane, wall.estimate, frame) for wall in walls])
    labels, cost = _match(frame, planes, [[wall] for wall in walls])
    cost = cost + BIAS_COST * (bias / SPREAD).square()
    best = int(cost.argmin())
    return labels[best], walls[best].plane, float(cost[best])


def _log_distance(plane: Plane, other: Plane, frame: _Frame) -> float:
    """Log ratio of the distances of two parallel planes from the camera."""
    base = float(frame.origin.double().numpy() @ plane.normal)
    return float(np.log((plane.offset - base) / (other.offset - base)))


def _new_walls(frame: _Frame, planes: list[Plane]) -> list[list[Plane]]:
    """Walls that the new pixels suggest, each as a family of offsets; upright, square to those of the map."""
    points = frame.origin + frame.rays * frame.z[..., None]
    fresh = points[~frame.known & (frame.z > 0)].double().numpy()
    if len(fresh) < 30:
        return []
    headings = [plane.normal[:2] for plane in planes if plane.upright][:1]
    if not headings:
        headings = [plane.normal[:2] for plane in find_planes(fresh) if plane.upright][:1]
    if not headings:
        return []
    heading = headings[0]
    families: list[tuple[int, list[Plane]]] = []
    origin = frame.origin.double().numpy()
    for normal in (np.array([*heading, 0.0]), np.array([-heading[1], heading[0], 0.0])):
        offsets = fresh @ normal - origin @ normal
        for sign, side in ((1.0, offsets[offsets > 0.3]), (-1.0, -offsets[offsets < -0.3])):
            if len(side) < 0.1 * len(fresh):
                continue
            counts, edges = np.histogram(side, bins=np.geomspace(0.3, 12, 31))
            best = counts.argmax()
            if counts[max(0, best - 1) : best + 2].sum() < 0.1 * len(fresh):
                continue
            middle = float(np.sqrt(edges[best] * edges[best + 1]))
            if any(_is_near(plane, normal, sign * middle, origin) for plane in planes):
                continue  # a wall of the map goes on here
            steps = middle * np.exp(np.linspace(-SPREAD, SPREAD, OFFSETS))
            families.append((len(side), [Plane(normal, float(sign * s + origin @ normal)) for s in steps]))
    return [family for _, family in sorted(families, key=lambda pair: -pair[0])]


def _is_near(plane: Plane, normal: np.ndarray, distance: float, origin: np.ndarray) -> bool:
    """Whether a plane is parallel to `normal` and about as far (signed metres) from `origin`."""
    cosine = float(plane.normal @ normal)
    own = np.sign(cosine) * (plane.offset - float(plane.normal @ origin))
    return abs(cosine) > 0.95 and own * distance > 0 and abs(np.log(own / distance)) < 1.5 * SPREAD


def _finer(family: list[Plane], middle: Plane, frame: _Frame) -> list[Plane]:
    normal = middle.normal
    base = float(frame.origin.double().numpy() @ normal)
    step = 2 * SPREAD / (len(family) - 1)
    return [Plane(normal, base + (middle.offset - base) * f) for f in np.exp(np.linspace(-step, step, 9))]


def _match(frame: _Frame, planes: list[Plane], settings: list[list[_Wall]]) -> tuple[Tensor, Tensor]:
    """Labels [B, h, w] (-1 = as estimated) of least cost for each set of new walls, and those costs [B].

    Semi-global matching over eight directions.
    """
    log_z = torch.stack(
        [_log_depths(frame, planes + [wall.plane for wall in walls]) for walls in settings], 1
    )
    # The estimate of a new wall may be off as a whole; that is no reason against any offset.
    compared = torch.stack(
        [_log_depths(frame, planes + [wall.estimate for wall in walls]) for walls in settings], 1
    )
    sigma = torch.where(frame.known, SIGMA_KNOWN, SIGMA_NEW)[:, None, :, None]
    compared = torch.where(frame.known[:, None, :, None], log_z, compared)
    unary = ((compared - log_z[..., :1]).abs() / sigma).clamp_max(MOST_COST)
    unary[..., 0] = torch.where(frame.known, AS_IS, AS_IS_NEW)[:, None]
    unary = torch.where(frame.known[:, None, :, None], unary, NEW_WEIGHT * unary)
    colour = _colour_cost(frame, planes)
    # What has no known part may look like any wall that has, or like nothing seen so far.
    walls = [number for number, plane in enumerate(planes) if plane.upright]
    unknown = torch.cat([colour[..., walls], torch.full_like(frame.z[..., None], COLOUR_UNKNOWN)], -1).amin(
        -1
    )
    unary[..., 1 : 1 + len(planes)] += colour[:, None]
    unary[..., 0] += unknown[:, None]
    unary[..., 1 + len(planes) :] += unknown[:, None, :, None]
    total = sweeps(unary, log_z, frame.rgb, (0, 1, -1))
    # Sweeps over columns are those over rows of the transposed frame.
    total += sweeps(unary.transpose(0, 2), log_z.transpose(0, 2), frame.rgb.transpose(0, 1), (0,)).transpose(
        0, 2
    )
    labels = total.argmin(-1, keepdim=True)
    cost = unary.gather(-1, labels).sum((0, 2, 3)) + change_cost(labels, log_z, frame.rgb)
    swapped = (labels.transpose(0, 2), log_z.transpose(0, 2), frame.rgb.transpose(0, 1))
    return labels[..., 0].transpose(0, 1) - 1, cost + change_cost(*swapped)


def _colour_cost(frame: _Frame, planes: list[Plane]) -> Tensor:
    """How unlike a plane's known part each pixel's colour is: costs [h, w, P], 0 for new pixels' best likeness."""
    bins = (frame.rgb * COLOUR_BINS).long().clamp(0, COLOUR_BINS - 1)
    index = (bins[..., 0] * COLOUR_BINS + bins[..., 1]) * COLOUR_BINS + bins[..., 2]
    log_z = _log_depths(frame, planes)
    costs = []
    for number in range(1, 1 + len(planes)):
        on = frame.known & ((log_z[..., number] - log_z[..., 0]).abs() < SIGMA_KNOWN)
        if int(on.sum()) < LEAST_COLOURS:
            costs.append(torch.zeros(index.shape))
            continue
        counts = torch.bincount(index[on], minlength=COLOUR_BINS**3).float().view(1, 1, *[COLOUR_BINS] * 3)
        smooth = F.avg_pool3d(counts, 3, 1, 1).flatten()
        likeness = smooth[index] / smooth.max()
        costs.append(-(likeness + 0.02).log().clamp_max(0) * COLOUR)
    stacked = torch.stack(costs, -1) if costs else frame.rgb.new_zeros(*index.shape, 0)
    return torch.where(frame.known[..., None], 0.5 * stacked, stacked)


def _log_depths(frame: _Frame, planes: list[Plane]) -> Tensor:
    """Log depth [h, w, 1 + P]: as estimated, then of every plane; that of 1 km where it is not met."""
    z = frame.z[..., None]
    if planes:
        normal = torch.from_numpy(np.stack([plane.normal for plane in planes])).float()
        offset = torch.tensor([plane.offset for plane in planes], dtype=torch.float32)
        z = torch.cat([z, plane_depth(normal, offset, frame.rays, frame.origin)], dim=-1)
    return torch.where(z > 0, z, torch.full_like(z, 1e3)).log()


def _apply(
    labels: Tensor,
    planes: list[Plane],
    geometry: Geometry,
    c2w: Tensor,
    K: Tensor,
    index: int,
    left: Tensor,
    depth: Tensor,
    confidence: Tensor,
) -> None:
    """Carry the labels of frame `index` into all frames, onto the pixels in `left`; changes the last three."""
    if not planes:
        return
    height, width = geometry.depth.shape[-2:]
    normal = torch.from_numpy(np.stack([plane.normal for plane in planes])).float()
    offset = torch.tensor([plane.offset for plane in planes], dtype=torch.float32)
    rays = pixel_rays(K, height, width)
    for frame in range(len(depth)):
        points = unproject(geometry.depth[frame], K, c2w[frame])[left[frame]]
        if not len(points):
            continue
        uv, z = project(points, invert_se3(c2w[index : index + 1]), K)
        column, row = (uv[0, :, 0] / HALF).floor().long(), (uv[0, :, 1] / HALF).floor().long()
        inside = (z[0] > 0.1) & (column >= 0) & (column < width // HALF) & (row >= 0) & (row < height // HALF)
        label = labels[row.clamp(0, height // HALF - 1), column.clamp(0, width // HALF - 1)]
        label = torch.where(inside, label, -1)
        on = plane_depth(normal, offset, rays[left[frame]] @ c2w[frame, :3, :3].T, c2w[frame, :3, 3])
        value = on.gather(1, label.clamp_min(0)[:, None])[:, 0]
        near = (value > 0) & ((value / geometry.depth[frame][left[frame]]).log().abs() < MOST_CHANGE)
        use = (label >= 0) & near
        where = left[frame].nonzero()[use].unbind(1)
        depth[frame][where] = value[use]
        confidence[frame][where] = confidence[frame][where].clamp_min(CONFIDENCE)
        left[frame][where] = False
