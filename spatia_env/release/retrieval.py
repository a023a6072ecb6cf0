"""The release's retrieval, number by number: visible points, shared counts, one-to-one matches.

`keyframes` holds what the environment uses by default. These functions reproduce the official release, quirks
included: pixels are truncated towards zero (a point just left of the image lands in column 0), occlusion is
judged between points only, and the release counts in bfloat16, which rounds counts above 256 to 8 bits.
"""

from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.geometry import invert_se3
from spatia_env.memory import blocks as blk
from spatia_env.memory.point_map import SceneMemory

DEPTH_TOLERANCE = 1e-6
"""metres: how far behind the nearest point of its pixel a point still counts as visible"""
RELEASE_CHUNK = 10_000_000
"""points that the release tests at a time; points of different chunks do not hide one another"""

Precision = Literal["float32", "bfloat16"]


def visible_mask(
    points: Tensor, w2c: Tensor, K: Tensor, height: int, width: int, chunk: int | None = None
) -> Tensor:
    """Which points each camera sees, bool [V, N].

    A point is visible where it is in front of the camera, falls into the image, and no other point of its
    pixel is nearer by more than 1e-6 m.

    Args:
        points: [N, 3] metres.
        w2c: [V, 4, 4] or [V, 3, 4].
        K: [3, 3] in pixels.
        height: Of the image, pixels.
        width: Of the image, pixels.
        chunk: Points that hide one another; None for all, `RELEASE_CHUNK` for what the release does.
    """
    points = points.float()
    parts = points.split(chunk) if chunk and len(points) > chunk else (points,)
    return torch.cat(
        [_visible_in_chunk(part, w2c.float(), K.float(), height, width) for part in parts], dim=1
    )


def _visible_in_chunk(points: Tensor, w2c: Tensor, K: Tensor, height: int, width: int) -> Tensor:
    visible = torch.zeros(len(w2c), len(points), dtype=torch.bool, device=points.device)
    for row, pose in zip(visible, w2c, strict=True):  # one view at a time bounds the memory
        camera = points @ pose[:3, :3].T + pose[:3, 3]
        z = camera[:, 2]
        # Conversion to int truncates; divisions by z <= 0 are dropped by `inside`.
        column = torch.nan_to_num(K[0, 0] * camera[:, 0] / z + K[0, 2], nan=-9, posinf=-9, neginf=-9).long()
        line = torch.nan_to_num(K[1, 1] * camera[:, 1] / z + K[1, 2], nan=-9, posinf=-9, neginf=-9).long()
        inside = (z > 0) & (column >= 0) & (column < width) & (line >= 0) & (line < height)
        pixel, z = line[inside] * width + column[inside], z[inside]
        nearest = torch.full((height * width,), torch.inf, device=points.device)
        nearest.scatter_reduce_(0, pixel, z, "amin")
        row[inside] = z <= nearest[pixel] + DEPTH_TOLERANCE
    return visible


def visible_rows(memory: SceneMemory, c2w: Tensor, K: Tensor, height: int, width: int) -> list[Tensor]:
    """The points of a map that each camera sees, as `visible_mask` says, without looking at those out of its sight.

    Args:
        memory: The map.
        c2w: [V, 4, 4].
        K: [3, 3] in pixels.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Returns:
        For each camera the indices [n], ascending, into `memory.points()`.
    """
    keys = np.sort(np.fromiter(memory.blocks, dtype=np.int64, count=len(memory.blocks)))
    lengths = np.fromiter((len(memory.blocks[key]) for key in keys.tolist()), np.int64, len(keys))
    begin = np.cumsum(lengths) - lengths
    found = []
    # Points just beyond the left and upper border fall into the first column and row, so blocks there count too.
    wider = K.clone()
    wider[:2, 2] += 1
    for pose in c2w:
        near = np.searchsorted(keys, memory.visible_keys(pose[None], wider, height + 2, width + 2))
        rows = blk.concatenate([memory.blocks[key] for key in keys[near].tolist()])
        xyz = torch.from_numpy(np.ascontiguousarray(rows["position"].T)).to(K.device)
        local = _nearest_in_pixels(xyz, invert_se3(pose).float(), K.float(), height, width)
        start = torch.from_numpy(
            np.repeat(begin[near] - (np.cumsum(lengths[near]) - lengths[near]), lengths[near])
        )
        found.append(local + start.to(local.device)[local])
    return found


def _nearest_in_pixels(xyz: Tensor, w2c: Tensor, K: Tensor, height: int, width: int) -> Tensor:
    """Indices of the points [3, N] that are nearest in their pixels."""
    x, y, z = (sum(p * r for p, r in zip(xyz, row, strict=False)) + row[3] for row in w2c[:3].tolist())
    u, v = float(K[0, 0]) * x / z + float(K[0, 2]), float(K[1, 1]) * y / z + float(K[1, 2])
    inside = ((z > 0) & (u > -1) & (u < width) & (v > -1) & (v < height)).nonzero().squeeze(-1)
    u, v, z = (values.index_select(0, inside) for values in (u, v, z))
    pixel = (v.trunc() * width + u.trunc()).long()
    nearest = torch.full((height * width,), torch.inf, device=z.device).scatter_reduce_(0, pixel, z, "amin")
    return inside[z <= nearest.index_select(0, pixel) + DEPTH_TOLERANCE]


def overlap_counts(mask_a: Tensor, mask_b: Tensor, precision: Precision = "float32") -> Tensor:
    """How many points both cameras see, f32 [A, B], of masks bool [A, N] and [B, N].

    `precision="bfloat16"` rounds the counts as the release's bfloat16 product does, which can change the
    match.
    """
    counts = mask_a.float() @ mask_b.float().T
    return counts.to(torch.bfloat16).float() if precision == "bfloat16" else counts


def match_references(counts: Tensor) -> list[tuple[int, int]]:
    """(target, candidate) pairs that maximise the sum of `counts` [targets, candidates], one to one.

    Pairs come in the order of the targets. Pairs without overlap are kept, as in the release.

    Raises:
        ActionError: If there are more targets than candidates.
    """
    targets, candidates = counts.shape
    if targets > candidates:
        raise ActionError(
            f"retrieval: {targets} target views need as many past frames, but there are {candidates}; "
            "take fewer targets, or candidates more densely."
        )
    rows, columns = linear_sum_assignment(-counts.float().cpu().numpy())
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def retrieve(
    points: Tensor,
    target_w2c: Tensor,
    candidate_w2c: Tensor,
    K: Tensor,
    height: int,
    width: int,
    release_exact: bool = False,
) -> list[tuple[int, int]]:
    """The candidate camera that shares most visible points with each target: `match_references` of a cloud.

    Args:
        points: The map [N, 3].
        target_w2c: Cameras of the new path [A, 4, 4], every 12th frame in the release.
        candidate_w2c: Cameras of past frames [B, 4, 4], every 4th in the release, the last 9 frames left out.
        K: [3, 3] in pixels.
        height: Of the image, pixels.
        width: Of the image, pixels.
        release_exact: Chunks of ten million points and bfloat16 counts.

    Raises:
        ActionError: If there are more targets than candidates.
    """
    chunk = RELEASE_CHUNK if release_exact else None
    targets = visible_mask(points, target_w2c, K, height, width, chunk)
    candidates = visible_mask(points, candidate_w2c, K, height, width, chunk)
    return match_references(overlap_counts(targets, candidates, "bfloat16" if release_exact else "float32"))
