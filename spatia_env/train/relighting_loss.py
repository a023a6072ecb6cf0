"""How a frame's light differs from the map's render: where the render would do after relighting, and by how much.

Night, fog or coloured lamps change every pixel, and still the surface's texture is the map's. Asking for the render
only where it agrees with the truth as it is let the decoder draw such frames anew, and their texture was lost. So
each frame is explained from the render by a line per channel and neighbourhood, truth = gain * render + veil (the
linear model of a guided filter: He, Sun and Tang, 2010), and where that holds, its gain is what is asked for.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 25
"""Pixels along each side of a neighbourhood that shares one line."""
LEAST_SPREAD = 0.02
"""Deviation of the render, in [-1, 1], below which a gain cannot be told from a veil."""
AGREEMENT = 0.12
"""Largest difference of a channel, in [-1, 1], at which the render shows the truth under plain light."""
PLAIN_SHARE = 0.8
"""Least share of the known still pixels that agree as they are in a frame under plain light."""
GAINS = (0.1, 1.5)
"""Gains that are believed."""


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
    half = WINDOW // 2
    rows = F.avg_pool2d(values, (WINDOW, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, WINDOW), 1, (0, half), count_include_pad=False)
