"""Semi-global matching of labels that stand for depths: what a change of label costs, and sums along paths.

H. Hirschmueller, "Stereo Processing by Semiglobal Matching and Mutual Information", 2008. `layout` says what
the labels are.
"""

import torch
from torch import Tensor

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
    """Path costs [h, B, w, L] down and up the rows, `dx` pixels aside a row for each slant `dx`; their sum.

    All D = 2 * len(slants) directions go at once, each in its own order of rows.
    """
    h, batch, w, count = unary.shape
    ways = [(dy, dy * dx) for dx in slants for dy in (1, -1)]
    column = torch.arange(w)
    come = torch.stack([(column - dx).clamp(0, w - 1) for _, dx in ways])  # [D, w]: from where a path comes
    order = torch.stack([torch.arange(h) if dy > 0 else torch.arange(h - 1, -1, -1) for dy, _ in ways], 1)
    # Along the paths [h, D, w]: how little colours differ between a pixel and the one before it.
    before = rgb[order[:-1, :, None], come[None]]
    edge = _edge(rgb[order[1:]], before)
    # Floors and walls meet without a step; where one of the two is a thing, an edge excuses it.
    excused = edge[..., None, None].expand(*edge.shape, count, count).clone()
    excused[..., 1:, 1:] = 1.0
    excused *= JUMP
    change = (edge * CHANGE)[..., None, None] * (1 - torch.eye(count))
    levels = log_z.movedim(2, 1)  # [h, w, B, L]
    step = ((levels[..., None, :] - levels[..., None]).abs() / JUMP_SIZE).clamp_max(1)
    costs = unary.movedim(2, 1)
    flat = (come + w * torch.arange(len(ways))[:, None]).flatten()
    out = torch.empty(h, len(ways), w, batch, count)
    out[0] = costs[order[0]]
    for row in range(1, h):
        previous = out[row - 1].flatten(0, 1).index_select(0, flat).view(len(ways), w, batch, count)
        change_here = step[order[row]] * excused[row - 1][:, :, None] + change[row - 1][:, :, None]
        reached = (previous[..., None] + change_here).amin(-2)
        out[row] = costs[order[row]] + reached - previous.amin(-1, keepdim=True)
    total = torch.stack([out[order[:, way].argsort(), way] for way in range(len(ways))]).sum(0)
    return total.movedim(1, 2)
