"""How the surface of a plane goes on where nobody has seen it: its light, its pattern.

Tiles, bricks, planks and stripes repeat. The shifts at which the known part of a plane agrees best with itself tell
how, and what is not known is copied from so far away (K. He and J. Sun, "Statistics of Patch Offsets for Image
Completion", 2012); the median of a few copies forgets what stands on only one of them. Light changes slowly and is
continued apart from the pattern. Posters and doors do not repeat and take no part. Places are metres in the plane.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter
from torch.nn import functional as F

from spatia_env.slam.depth_network import fill

TEXEL = 0.03
"""Metres of a cell of a plane's picture: about what a pixel sees of a wall 2 m away."""
REACH = 8.0
"""Metres around the middle of what is known up to which a picture reaches."""
LIGHT = 16
"""Cells along each side of a square that has one light."""
GAP = 5
"""Cells along each side of a square whose mean closes gaps between samples."""
STRANGE, STRANGE_SPREAD, STRANGE_SQUARE = 0.15, 3.0, 7
"""What differs by this much in colour from a plane's median, and by as many times its median difference, does not
belong to the pattern. Means over squares of so many cells are compared, so that joints do."""
RIM = 15
"""Cells along each side of a square around what is strange that is left out as well: a window's frame."""
STRANGE_MOST = 0.25
"""Of more than this share the plane is made: stripes."""
CROP = 192
"""Cells along each side of the part that is compared with itself."""
LEAST_SHIFT = 5
"""Cells: at smaller shifts every picture agrees with itself."""
LEAST_OVERLAP = 0.15
"""Share of the known cells that must still lie on each other after a shift."""
LEAST_LIKENESS = 1.2
"""Difference after a shift, in units of that of cells drawn at random, above which it tells nothing."""
STOREY = 0.02
"""Of an upright plane: what a shift by a row costs, as a difference."""
SHIFTS, COPIES = 10, 3
"""So many of the best shifts are tried until a cell has so many copies."""
MULTIPLES = (1, -1, 2, -2, 3, -3, 4, -4, 6, -6, 8, -8, 12, -12)


@dataclass(frozen=True)
class _Grid:
    """Cells of a plane: `low` [2] is the corner of the first one, `shape` (rows, columns)."""

    low: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def around(cls, seen_at: np.ndarray, wanted_at: np.ndarray) -> "_Grid":
        middle = np.median(seen_at, axis=0)
        low = np.maximum(np.minimum(seen_at.min(0), wanted_at.min(0)), middle - REACH) - TEXEL
        high = np.minimum(np.maximum(seen_at.max(0), wanted_at.max(0)), middle + REACH) + TEXEL
        columns, rows = np.ceil((high - low) / TEXEL).astype(int)
        return cls(low.astype(np.float32), (int(rows), int(columns)))

    def cells(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices [N] of the cells of places [N, 2], and which places are inside."""
        column, row = np.floor((at - self.low) / TEXEL).astype(np.int64).T
        inside = (column >= 0) & (row >= 0) & (column < self.shape[1]) & (row < self.shape[0])
        return np.clip(row, 0, self.shape[0] - 1) * self.shape[1] + np.clip(
            column, 0, self.shape[1] - 1
        ), inside

    def means(self, at: np.ndarray, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean colour [h, w, 3] of the samples in each cell, 0 where there are none, and where there are [h, w]."""
        index, inside = self.cells(at)
        index, rgb = index[inside], rgb[inside]
        size = self.shape[0] * self.shape[1]
        count = np.bincount(index, minlength=size)
        total = np.stack([np.bincount(index, rgb[:, c], size) for c in range(3)], axis=-1)
        mean = (total / np.maximum(count, 1)[:, None]).astype(np.float32)
        return mean.reshape(*self.shape, 3), (count > 0).reshape(self.shape)

    def sample(self, picture: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Colours [N, 3] of a picture [h, w, 3] at places [N, 2], between cells in proportion."""
        extent = TEXEL * np.array([self.shape[1], self.shape[0]], dtype=np.float32)
        where = torch.from_numpy(2 * (at - self.low) / extent - 1).float()
        image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
        found = F.grid_sample(image, where[None, None], padding_mode="border", align_corners=False)
        return found[0, :, 0].T.numpy()


def continue_pattern(
    seen_at: np.ndarray, rgb: np.ndarray, wanted_at: np.ndarray, upright: bool = False
) -> np.ndarray:
    """Colours [M, 3] of a plane at places `wanted_at` [M, 2], from samples `rgb` [N, 3] in [0, 1] at `seen_at` [N, 2].

    Where the plane has been seen, it is shown as it was seen. If it is `upright` (the second coordinate is the height),
    copies rather keep their height: skirting stays at the floor.
    """
    grid = _Grid.around(seen_at, wanted_at)
    seen, known = _without_gaps(*grid.means(seen_at, rgb))
    plain = known & ~_strange(seen, known)
    light = _light(seen, plain)
    rest = np.where(plain[..., None], seen - light, 0)
    index, _ = grid.cells(wanted_at)
    wanted = np.zeros(known.size, dtype=bool)
    wanted[index] = True
    rows, columns = np.nonzero(wanted.reshape(grid.shape) & ~known)
    if len(rows):
        rest[rows, columns] = _copies(
            rest, plain, rows, columns, best_shifts(rest.mean(-1), plain, STOREY if upright else 0.0)
        )
    return grid.sample(np.where(known[..., None], seen, light + rest), wanted_at)


def best_shifts(picture: np.ndarray, known: np.ndarray, storey: float = 0.0) -> list[tuple[int, int]]:
    """Shifts (rows, columns) at which a picture [h, w] agrees best with itself where it is `known` [h, w].

    They are minima of the mean squared difference over what overlaps, best first: half of them along rows, half along
    columns, and one of each pair of opposite shifts. Each row of a shift counts as a difference of `storey`.
    """
    picture, known = _cropped(picture, known)
    if not known.any():
        return []
    difference, overlap = self_differences(picture, known)
    spread = 2 * float(picture[known].var())
    difference = np.where(overlap >= LEAST_OVERLAP * known.sum(), difference / max(spread, 1e-9), np.inf)
    rows, columns = (np.arange(-(s // 2), s - s // 2) for s in difference.shape)
    difference[rows[:, None] ** 2 + columns**2 < LEAST_SHIFT**2] = np.inf
    difference = difference + storey * np.abs(rows)[:, None]
    half = (rows[:, None] > 0) | ((rows[:, None] == 0) & (columns > 0))
    lowest = (minimum_filter(difference, 5) == difference) & half & (difference < LEAST_LIKENESS)
    where = np.argwhere(lowest)
    ordered = where[np.argsort(difference[lowest], kind="stable")]
    shifts = np.stack([rows[ordered[:, 0]], columns[ordered[:, 1]]], axis=-1)
    # Stripes agree with themselves along themselves at any shift; those across them are wanted as well.
    best = [np.nonzero(np.abs(shifts[:, axis]) >= LEAST_SHIFT)[0][: SHIFTS // 2] for axis in (0, 1)]
    return [(int(down), int(right)) for down, right in shifts[np.unique(np.concatenate(best))]]


def self_differences(picture: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared difference of a picture [h, w] and itself at every shift of up to half its size, and the overlap.

    Both [2 (h // 2) + 1, 2 (w // 2) + 1], no shift in the middle; by Fourier transforms.
    """
    reach = [s // 2 for s in picture.shape]
    # Shifts up to the reach are not disturbed by what comes round from the other side.
    size = [fft.next_fast_len(s + r, real=True) for s, r in zip(picture.shape, reach, strict=True)]
    mask = known.astype(np.float32)
    values = (picture * mask).astype(np.float32)
    f_mask, f_value, f_square = (fft.rfft2(plane, size) for plane in (mask, values, values * values))
    one_sided = f_square * f_mask.conj()
    total = fft.irfft2(2 * (one_sided.real - (f_value * f_value.conj()).real), size)
    overlap = fft.irfft2(f_mask * f_mask.conj(), size)

    def centred(plane: np.ndarray) -> np.ndarray:
        rolled = np.roll(plane, reach, axis=(0, 1))
        return rolled[: 2 * reach[0] + 1, : 2 * reach[1] + 1]

    overlap = centred(overlap)
    return centred(total) / np.maximum(overlap, 0.5), overlap


def _copies(
    rest: np.ndarray, plain: np.ndarray, rows: np.ndarray, columns: np.ndarray, shifts: list[tuple[int, int]]
) -> np.ndarray:
    """The pattern [N, 3] in unknown cells: the median of copies from known ones; 0 where no shift leads to any."""
    found = np.zeros((len(rows), COPIES, 3), dtype=np.float32)
    count = np.zeros(len(rows), dtype=np.int64)
    left = np.arange(len(rows))
    for down, right in shifts:
        for times in MULTIPLES:
            r, c = rows[left] + times * down, columns[left] + times * right
            inside = (r >= 0) & (c >= 0) & (r < plain.shape[0]) & (c < plain.shape[1])
            r, c, chosen = r[inside], c[inside], left[inside]
            known = plain[r, c]
            chosen = chosen[known]
            found[chosen, count[chosen]] = rest[r[known], c[known]]
            count[chosen] += 1
            left = left[count[left] < COPIES]
    return _median(found, count)


def _median(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Medians [N, 3] of the first `count` [N] of three values [N, 3, 3], of which the others are 0; the mean of two."""
    first, second, third = values.transpose(1, 0, 2)
    three = np.maximum(np.minimum(first, second), np.minimum(np.maximum(first, second), third))
    two = (first + second) / 2
    return np.where(count[:, None] >= 3, three, np.where(count[:, None] == 2, two, first))


def _without_gaps(seen: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture [h, w, 3] with the gaps between its samples closed by what is around them, and where it is known."""
    around, share = _around(seen, known, GAP)
    # What is near the samples on all sides: a closing.
    closed = minimum_filter(maximum_filter(known, GAP), GAP) & (share > 1e-4)
    gaps = closed & ~known
    out = seen.copy()
    out[gaps] = around[gaps] / share[gaps][:, None]
    return out, known | gaps


def _strange(seen: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where a plane [h, w, 3] looks unlike most of it."""
    around, share = _around(seen, known, STRANGE_SQUARE)
    mean = around / np.maximum(share, 1e-4)[..., None]
    away = np.abs(mean - np.median(mean[known], axis=0)).max(-1)
    strange = known & (away > max(STRANGE, STRANGE_SPREAD * float(np.median(away[known]))))
    if strange.sum() > STRANGE_MOST * known.sum():
        return np.zeros_like(known)
    # Near its edge a mean is only half strange, and a frame may be no stranger than the wall around it.
    return known & maximum_filter(strange, RIM)


def _around(seen: np.ndarray, known: np.ndarray, square: int) -> tuple[np.ndarray, np.ndarray]:
    """Known colours of squares of cells, averaged over all of their cells [h, w, 3], and the share known [h, w]."""
    mask = known.astype(np.float32)
    sums = np.stack([uniform_filter(seen[..., c] * mask, square) for c in range(3)], axis=-1)
    return sums, uniform_filter(mask, square)


def _light(seen: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """What changes slowly in a picture [h, w, 3], everywhere."""
    height, width = plain.shape
    colours = torch.from_numpy(np.ascontiguousarray((seen * plain[..., None]).transpose(2, 0, 1)))[None]
    mask = torch.from_numpy(plain).float()[None, None]
    padding = (0, -width % LIGHT, 0, -height % LIGHT)
    share = F.avg_pool2d(F.pad(mask, padding), LIGHT)
    mean = F.avg_pool2d(F.pad(colours, padding), LIGHT) / share.clamp_min(1e-6)
    enough = share[0, 0] >= min(0.1, 0.5 * float(share.max()))
    filled = fill(mean[0], enough.expand(3, -1, -1))
    size = [LIGHT * s for s in filled.shape[-2:]]
    smooth = F.interpolate(filled[None], size, mode="bilinear", align_corners=False)
    return smooth[0, :, :height, :width].permute(1, 2, 0).numpy()


def _cropped(picture: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part, at most `CROP` cells wide and high, in whose rows and columns most is known."""
    windows = []
    for axis in (1, 0):
        counts = known.sum(axis)
        (inside,) = np.nonzero(counts)
        if not len(inside):
            return picture[:0], known[:0]
        first, last = int(inside[0]), int(inside[-1]) + 1
        if last - first > CROP:
            sums = np.convolve(counts[first:last], np.ones(CROP, dtype=np.int64), "valid")
            first += int(sums.argmax())
            last = first + CROP
        windows.append(slice(first, last))
    rows, columns = windows
    return picture[rows, columns], known[rows, columns]
