"""Compare colours of two pictures of one place in different light, with something in the way."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NOISE = 0.005
"""Least standard deviation of a colour in [0, 1] between a frame and a render."""
ROUNDS = 2
"""Of refinement, over all samples."""
SAMPLES = 400
"""About so many samples decide where the refinement starts."""
LEAST_GAIN, MOST_GAIN, GAINS = 0.25, 4.0, 17
"""The range of gains that are tried, and how many."""


@dataclass(frozen=True)
class Light:
    """Gain and offset [C] of a frame's colours that make them the render's."""

    gain: Tensor
    offset: Tensor

    def __call__(self, seen: Tensor) -> Tensor:
        """Colours [N, C] in the render's light."""
        return seen * self.gain + self.offset


def fit_light(seen: Tensor, wanted: Tensor) -> Light:
    """The light under which colours `seen` [N, C] come closest to `wanted` [N, C].

    A few gains are tried and the least median error wins, so that a bright mover does not pull; then refined.
    """
    if not len(seen):
        return Light(torch.ones(seen.shape[1]), torch.zeros(seen.shape[1]))
    few = slice(None, None, max(1, len(seen) // SAMPLES))
    gains = torch.logspace(math.log2(LEAST_GAIN), math.log2(MOST_GAIN), GAINS, base=2.0)
    tried = gains[:, None, None] * seen[None, few]
    offsets = (wanted[few] - tried).median(1).values
    best = (tried + offsets[:, None] - wanted[few]).abs().median(1).values.argmin(0)
    gain = gains[best]
    offset = offsets[best, torch.arange(len(best))]
    for _ in range(ROUNDS):
        weight = tukey((gain * seen + offset - wanted).abs().amax(1))[:, None]
        total = weight.sum().clamp_min(1e-6)
        mean_seen, mean_wanted = (seen * weight).sum(0) / total, (wanted * weight).sum(0) / total
        a, b = seen - mean_seen, wanted - mean_wanted
        # A trace of "no change" decides where the picture has one brightness only.
        gain = ((a * b * weight).sum(0) + 1e-3) / ((a * a * weight).sum(0) + 1e-3)
        gain = gain.clamp(LEAST_GAIN, MOST_GAIN)
        offset = mean_wanted - gain * mean_seen
    return Light(gain, offset)


def tukey(size: Tensor) -> Tensor:
    """Tukey's weights in [0, 1] of residuals of these sizes [N], in units of their own typical size."""
    sigma = max(1.4826 * float(size.median()), NOISE)
    return (1 - (size / (4.7 * sigma)).square()).clamp_min(0).square()
