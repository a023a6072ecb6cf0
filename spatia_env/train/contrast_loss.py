"""How much detail a picture has, and where: a loss that does not ask at which pixel.

A model that answers in one step is taught the mean of what may be, and the mean of many small things is a haze. What
can be known all the same is that there are specks, how bright and how far apart. So pictures are compared by the
contrast of each band of a Laplacian pyramid in windows of 32x32 pixels: the mean of its size, and its root mean square,
which is the larger the sparser it is (Heeger and Bergen, 1995, compare whole histograms of such bands).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 3
WINDOW = 32
"""Pixels along each side of a window; smaller ones ask again at which place."""


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
