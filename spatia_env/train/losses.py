"""Losses on pictures: local contrast, how the map's render explains a frame, and edges of depth.

`detail_loss` does not ask at which pixel. A model that answers in one step is taught the mean of what may be, and the
mean of many small things is a haze; so pictures are compared by the contrast of each band of a Laplacian pyramid in
windows of 32x32 pixels: the mean of its size, and its root mean square, which is the larger the sparser it is (Heeger
and Bergen, 1995, compare whole histograms of such bands).

`relight` explains a frame from the render by a line per channel and neighbourhood, truth = gain * render + veil (the
linear model of a guided filter: He, Sun and Tang, 2010): night, fog or coloured lamps change every pixel, and the
surface's texture stays the map's. `render_loss` asks the decoder for the render, with that gain, where the line holds.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 3
WINDOW = 32
"""Pixels along each side of a window of `contrasts`; smaller ones ask again at which place."""
NEIGHBOURHOOD = 25
"""Pixels along each side of a neighbourhood that shares one line of `relight`."""
LEAST_SPREAD = 0.02
"""Deviation of the render, in [-1, 1], below which a gain cannot be told from a veil."""
AGREEMENT = 0.12
"""Largest difference of a channel, in [-1, 1], at which the render shows the truth under plain light."""
PLAIN_SHARE = 0.8
"""Least share of the known still pixels that agree as they are in a frame under plain light."""
GAINS = (0.1, 1.5)
"""Gains that are believed."""


def detail_loss(shown: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean difference of the local contrasts of pictures [N, 3, H, W], `weight` [N, 1, H, W] averaged over windows.

    H and W are multiples of 32.
    """
    losses = []
    for a, b in zip(contrasts(shown), contrasts(truth), strict=True):
        local = F.adaptive_avg_pool2d(weight, (a.shape[-2], a.shape[-1]))
        losses.append(((a - b).abs() * local).mean())
    return torch.stack(losses).mean()


def contrasts(pictures: Tensor) -> list[Tensor]:
    """For each band, finest first, [N, 6, h, w]: mean size and root mean square of its values in each window."""
    out = []
    for level in range(LEVELS):
        low = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        band = pictures - low
        window = WINDOW >> level
        size = F.avg_pool2d(band.abs(), window)
        power = F.avg_pool2d(band.square(), window)
        out.append(torch.cat([size, (power + 1e-6).sqrt()], dim=1))
        pictures = F.avg_pool2d(low, 2)
    return out


class Relit(NamedTuple):
    """Frames as relit renders; N frames.

    Attributes:
        plain: Whether the light is the render's [N, 1, 1, 1], 0 or 1.
        agrees: Where the render shows the truth under plain light, 0 or 1 [N, 1, H, W].
        explained: Where the relit render does, 0 or 1 [N, 1, H, W].
        gain: Of its colours [N, 3, H, W].
    """

    plain: Tensor
    agrees: Tensor
    explained: Tensor
    gain: Tensor


def relight(render: Tensor, frames: Tensor, known: Tensor, moving: Tensor) -> Relit:
    """Explain frames [N, 3, H, W] in [-1, 1] by renders of the same shape.

    Args:
        render: What the map shows.
        frames: The truth.
        known: Where it shows something, 0 or 1 [N, 1, H, W].
        moving: What is not of the map, bool [N, H, W]; it takes no part in the lines.
    """
    agrees = ((render - frames).abs().amax(1, keepdim=True) < AGREEMENT).to(render.dtype)
    still = known * ~moving[:, None]
    share = (agrees * still).sum((1, 2, 3), keepdim=True) / still.sum((1, 2, 3), keepdim=True).clamp_min(1)
    count = _around(still).clamp_min(1e-3)

    def mean(values: Tensor) -> Tensor:
        return _around(values * still) / count

    # Colours counted from black, so that a lamp that dims is a gain alone.
    r, t = (render + 1) / 2, (frames + 1) / 2
    mean_r, mean_t = mean(r), mean(t)
    spread = (mean(r * r) - mean_r.square()).clamp_min(0)
    dimming = (mean_t / mean_r.clamp_min(0.02)).clamp(*GAINS)
    least = (LEAST_SPREAD / 2) ** 2
    gain = ((mean(r * t) - mean_r * mean_t + least * dimming) / (spread + least)).clamp(*GAINS)
    rest = (t - gain * (r - mean_r) - mean_t).abs().amax(1, keepdim=True)
    explained = (rest < AGREEMENT / 2 * gain.amax(1, keepdim=True).clamp(0.3, 1)).to(render.dtype)
    return Relit((share > PLAIN_SHARE).to(render.dtype), agrees, explained, gain)


def render_loss(share: Tensor, light: Tensor, relit: Relit, known: Tensor, moving: Tensor) -> Tensor:
    """What is missing of the render where it shows the truth, and what of it shows before what moves.

    Its share [N, 1, H, W] times its light [N, 3, H, W] is the contrast that is left of it: all of it under plain light,
    the frame's gain under another one.
    """
    moves = moving[:, None] & ~(relit.agrees > 0)
    plain = relit.plain > 0
    asked = torch.where(plain, torch.ones_like(relit.gain), relit.gain)
    missing = (share * light - asked).abs().mean(1, keepdim=True) * torch.where(
        plain, relit.agrees, relit.explained
    )
    return (known * torch.where(moves, share, missing)).mean()


def _around(values: Tensor) -> Tensor:
    """Means [N, C, H, W] over windows, short at the edges."""
    half = NEIGHBOURHOOD // 2
    rows = F.avg_pool2d(values, (NEIGHBOURHOOD, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, NEIGHBOURHOOD), 1, (0, half), count_include_pad=False)


def edge_loss(difference: Tensor, valid: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute gradient of a difference of log depths [N, H, W] at several scales: edges and flat walls."""
    total = difference.new_zeros(())
    for scale in range(scales):
        step = 2**scale
        d, v = difference[:, ::step, ::step], valid[:, ::step, ::step]
        total = total + masked_mean((d[:, 1:] - d[:, :-1]).abs(), v[:, 1:] * v[:, :-1])
        total = total + masked_mean((d[:, :, 1:] - d[:, :, :-1]).abs(), v[:, :, 1:] * v[:, :, :-1])
    return total / scales


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values over the pixels where `weight` is 1; 0 without any."""
    return (values * weight).sum() / weight.sum().clamp_min(1)
