"""The maths of `memory.rendering`, one pixel and one point at a time: slow and plain."""

import torch
from torch import Tensor

from spatia_env.memory.rendering import ENCLOSED, LINES, MIN_WEIGHT, REACH, Render
from spatia_env.memory.splatting import COVER, MAX_RADIUS_PX, NEAR, PAD, PIXEL_SIZED, surface_tolerance


def render_points_reference(
    points: Tensor,
    rgb: Tensor,
    radius: Tensor,
    w2c: Tensor,
    K: Tensor,
    height: int,
    width: int,
    weight: Tensor | None = None,
) -> Render:
    """The same maths as `render_points`, one pixel and one point at a time: the oracle of the tests."""
    views, rows, columns = w2c.shape[0], range(-PAD, height + PAD), range(-PAD, width + PAD)
    weight = torch.ones(len(points)) if weight is None else weight
    out = torch.zeros(views, 4, len(rows), len(columns))
    known = torch.zeros(views, len(rows), len(columns), dtype=torch.bool)
    for view in range(views):
        splats = []
        for i, point in enumerate(points):
            x, y, z = (w2c[view, :3, :3] @ point + w2c[view, :3, 3]).tolist()
            if z <= NEAR:
                continue
            u, v = float(K[0, 0]) * x / z + float(K[0, 2]), float(K[1, 1]) * y / z + float(K[1, 2])
            size = min(max(float(radius[i] * K[0, 0]) / z, 1.0), MAX_RADIUS_PX)
            if -1 - PAD < u < width + 1 + PAD and -1 - PAD < v < height + 1 + PAD:
                splats.append((u, v, z, size, i))
        for row in rows:
            for column in columns:
                away = [(abs(column + 0.5 - u), abs(row + 0.5 - v)) for u, v, _, _, _ in splats]
                covers = [
                    z
                    for (dx, dy), (_, _, z, size, _) in zip(away, splats, strict=True)
                    if max(dx, dy) <= COVER * size
                ]
                if not covers:
                    continue
                surface = min(covers)
                total, quality, tents = torch.zeros(4), 0.0, 0.0
                for (dx, dy), (_, _, z, size, i) in zip(away, splats, strict=True):
                    width_px = size if size >= PIXEL_SIZED else 1.0
                    tent = max(0.0, 1 - dx / width_px) * max(0.0, 1 - dy / width_px)
                    if tent <= 0 or z > surface + 0.02 + 0.03 * surface:
                        continue
                    total += tent * float(weight[i]) * torch.cat([rgb[i], torch.tensor([z])])
                    quality, tents = quality + tent * float(weight[i]), tents + tent
                if tents >= MIN_WEIGHT:
                    out[view, :, row + PAD, column + PAD] = total / quality
                    known[view, row + PAD, column + PAD] = True
    return close_holes_reference(Render(out[:, :3], out[:, 3], known)).cropped(PAD)


def close_holes_reference(render: Render) -> Render:
    """The same as `close_holes`, one pixel at a time."""
    rgb, depth, known = render.rgb.clone(), render.depth.clone(), render.known.clone()
    views, height, width = known.shape
    for view in range(views):
        values = torch.cat([render.rgb[view], render.depth[view][None]])
        for row in range(REACH, height - REACH):
            for column in range(REACH, width - REACH):
                if render.known[view, row, column]:
                    continue
                found, neighbours = [], []
                for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    ends = []
                    for sign in (1, -1):
                        for distance in range(1, REACH + 1):
                            r, c = row + sign * distance * down, column + sign * distance * right
                            if render.known[view, r, c]:
                                ends.append((values[:, r, c], distance))
                                if distance == 1:
                                    neighbours.append(values[:, r, c])
                                break
                    if len(ends) == 2:
                        (a, m), (b, n) = ends
                        if m + n <= REACH + 1 and abs(a[3] - b[3]) < 2 * surface_tolerance(min(a[3], b[3])):
                            found.append((a * n + b * m) / (m + n))
                if len(found) >= LINES or len(neighbours) >= ENCLOSED:
                    value = torch.stack(found if len(found) >= LINES else neighbours).mean(0)
                    rgb[view, :, row, column], depth[view, row, column] = value[:3], value[3]
                    known[view, row, column] = True
    return Render(rgb, depth, known)
