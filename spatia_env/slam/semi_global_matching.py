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
