"""Semi-global matching: paths against every change of label at every pixel, tried one by one."""

import itertools

import pytest
import torch

from spatia_env.slam.plane_labels import (
    CHANGE,
    CONTRAST,
    JUMP,
    JUMP_SIZE,
    LEAST_CONTRAST,
    change_cost,
    sweeps,
)


def _edge(a, b):
    return LEAST_CONTRAST + float(torch.exp(-(a - b).square().sum() / (2 * CONTRAST**2)))


def _cost_of_change(a: int, b: int, log_z, edge: float) -> float:
    """What a path pays that comes with label `a` to a pixel with log depths `log_z` [L] and takes label `b`."""
    if a == b:
        return 0.0
    step = min(float((log_z[a] - log_z[b]).abs()) / JUMP_SIZE, 1.0)
    return edge * CHANGE + (1.0 if a > 0 and b > 0 else edge) * JUMP * step


def _slow_path(unary, log_z, rgb, dx: int, down: bool):
    """Path costs [h, w, L] of one direction for one set of labels."""
    h, w, count = unary.shape
    out = unary.double().clone()
    rows = list(range(h)) if down else list(range(h - 1, -1, -1))
    aside = dx if down else -dx
    for last, row in itertools.pairwise(rows):
        for column in range(w):
            come = min(max(column - aside, 0), w - 1)
            edge = _edge(rgb[row, column], rgb[last, come])
            before = out[last, come]
            for label in range(count):
                ways = [
                    float(before[a]) + _cost_of_change(a, label, log_z[row, column], edge)
                    for a in range(count)
                ]
                out[row, column, label] += min(ways) - float(before.min())
    return out


@pytest.mark.parametrize(("count", "slants"), [(4, (0, 1, -1)), (2, (0,)), (1, (0, 1))])
def test_sweeps_equal_every_change_tried_one_by_one(count, slants):
    generator = torch.Generator().manual_seed(count)
    h, batch, w = 5, 2, 7
    unary = 3 * torch.rand(h, batch, w, count, generator=generator)
    log_z = 0.12 * torch.rand(h, batch, w, count, generator=generator)
    rgb = 0.1 * torch.rand(h, w, 3, generator=generator)
    fast = sweeps(unary, log_z, rgb, slants)
    for number in range(batch):
        slow = sum(
            _slow_path(unary[:, number], log_z[:, number], rgb, dx, down)
            for dx in slants
            for down in (True, False)
        )
        torch.testing.assert_close(fast[:, number].double(), slow, atol=1e-4, rtol=0)


def test_inputs_stay_as_they_were():
    unary, log_z, rgb = torch.rand(4, 1, 6, 3), torch.rand(4, 1, 6, 3), torch.rand(4, 6, 3)
    copies = unary.clone(), log_z.clone(), rgb.clone()
    sweeps(unary, log_z, rgb, (0, 1))
    assert all(torch.equal(a, b) for a, b in zip((unary, log_z, rgb), copies, strict=True))


def test_changes_cost_what_a_path_pays_for_them():
    generator = torch.Generator().manual_seed(9)
    labels = torch.randint(3, (4, 2, 6, 1), generator=generator)
    log_z = 0.1 * torch.rand(4, 2, 6, 3, generator=generator)
    rgb = 0.1 * torch.rand(4, 6, 3, generator=generator)
    slow = torch.zeros(2, dtype=torch.float64)
    for number in range(2):
        for row in range(1, 4):
            for column in range(6):
                a, b = int(labels[row - 1, number, column]), int(labels[row, number, column])
                edge = _edge(rgb[row, column], rgb[row - 1, column])
                slow[number] += _cost_of_change(a, b, log_z[row, number, column], edge)
    torch.testing.assert_close(change_cost(labels, log_z, rgb).double(), slow, atol=1e-4, rtol=0)
