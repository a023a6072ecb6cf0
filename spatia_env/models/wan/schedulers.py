"""Noise schedules of the official size: the release's exact UniPC, and few-step sampling by renoising.

Stock UniPC agrees with the release in the solver and differs in the sigmas, by 0.004 at 40 steps.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError

SIGMA_MAX = float(np.float32(0.999))
"""The release's grid starts here, rounded to float32, before the shift."""
RELEASE_SHIFT = 5.0
MAX_STEPS = 50
"""With more steps two integer timesteps of the release's grid would be equal."""


def release_grid(num_inference_steps: int) -> np.ndarray:
    """Noise levels [N] before the shift, falling from 0.999.

    Raises:
        ActionError: If there are fewer than 1 or more than 50 steps.
    """
    if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= MAX_STEPS:
        raise ActionError(
            f"num_inference_steps: is {num_inference_steps}; give 1 to {MAX_STEPS} (the release: 40)."
        )
    return np.linspace(SIGMA_MAX, 0, num_inference_steps + 1)[:-1]


def release_sigmas(num_inference_steps: int, shift: float = RELEASE_SHIFT) -> np.ndarray:
    """Noise levels [N + 1] after the shift, the last one 0."""
    grid = release_grid(num_inference_steps)
    return np.append(shift * grid / (1 + (shift - 1) * grid), 0.0)


class ReleaseUniPC:
    """The release's sampler: UniPC of order 2 (bh2) on predictions of the clean clip, operation by operation.

    Same mathematics as diffusers' `UniPCMultistepScheduler`. Written out because that one takes logarithms of noise
    levels in float32, whose last digit differs between processors and is then amplified: over 40 steps its states
    are 5e-6 away from the release's, these 1e-7. Holds the state of one trajectory: make one per clip.

    Attributes:
        sigmas: Noise levels f32 [N + 1], the last one 0.
        timesteps: Integers [N] in [0, 1000], as the transformer is told them.

    Args:
        num_inference_steps: N, 1 to 50.
        shift: Of the noise levels.

    Raises:
        ActionError: If N is out of range.
    """

    def __init__(self, num_inference_steps: int, shift: float = RELEASE_SHIFT) -> None:
        levels = release_sigmas(num_inference_steps, shift)
        self.timesteps = torch.from_numpy((levels[:-1] * 1000).astype(np.int64))
        self.sigmas = torch.from_numpy(levels).float()
        self._alphas = 1 - self.sigmas
        # Log of the signal-to-noise ratio, at the end infinite.
        self._lambdas = _in_float64(torch.log, self._alphas) - _in_float64(torch.log, self.sigmas)
        self._index, self._order = 0, 0
        self._clean: list[Tensor] = []
        self._latents: Tensor | None = None

    def step(self, velocity: Tensor, latents: Tensor) -> Tensor:
        """Latents at the next level, from the `velocity` predicted at the present `latents` (both of any shape).

        Raises:
            ActionError: If all steps have been taken.
        """
        count, index = len(self.timesteps), self._index
        if index >= count:
            raise ActionError(f"sampler: all {count} steps have been taken; make a new one for another clip.")
        clean = latents - self.sigmas[index] * velocity
        if self._latents is not None:
            latents = self._advance(self._latents, index - 1, self._order, clean)
        self._clean = [*self._clean[-1:], clean]
        # Order 1 where there is no past yet, and to the last level, where the logarithm is infinite.
        self._order = min(2, index + 1, count - index)
        self._latents, self._index = latents, index + 1
        return self._advance(latents, index, self._order)

    def _advance(self, latents: Tensor, index: int, order: int, clean_next: Tensor | None = None) -> Tensor:
        """From level `index` to the next: predicted, or corrected by what was seen there (`clean_next`)."""
        sigma, sigma_next, alpha_next = self.sigmas[index], self.sigmas[index + 1], self._alphas[index + 1]
        newest = self._clean[-1]
        h = self._lambdas[index + 1] - self._lambdas[index]
        phi = _in_float64(torch.expm1, -h)
        plain = sigma_next / sigma * latents - alpha_next * phi * newest
        weights, slope = (torch.tensor(0.5), torch.tensor(0.5)), None
        if order == 2:
            ratio = (self._lambdas[index - 1] - self._lambdas[index]) / h
            slope = (self._clean[-2] - newest) / ratio
            if clean_next is not None:
                weights = _corrector_weights(h, phi, ratio)
        if clean_next is None:
            return plain if slope is None else plain - alpha_next * phi * (weights[0] * slope)
        turn = weights[1] * (clean_next - newest)
        return plain - alpha_next * phi * (turn if slope is None else weights[0] * slope + turn)


def release_unipc(num_inference_steps: int, shift: float = RELEASE_SHIFT) -> ReleaseUniPC:
    """The release's sampler, ready for one clip; see `ReleaseUniPC`."""
    return ReleaseUniPC(num_inference_steps, shift)


def _corrector_weights(h: Tensor, phi: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """The two weights that make the corrector exact for a clean clip that changes linearly in lambda.

    They solve [[1, 1], [ratio, 1]] weights = moments.
    """
    second = phi / -h - 1
    third = second / -h - 0.5
    moments = second / phi, third * 2 / phi
    last = (moments[1] - ratio * moments[0]) / (1 - ratio)
    return moments[0] - last, last


def _in_float64(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """A function of float32 numbers, rounded correctly: the same on every processor."""
    return function(value.double()).float()


def sample_by_renoising(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    sigmas: Sequence[float],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Few-step sampling as distilled (DMD) models are trained: predict the clean clip, renoise less, repeat.

    Args:
        velocity: From latents and the timestep in [0, 1000] to the velocity.
        noise: First latents, at level 1.
        sigmas: Levels of the evaluations, falling from 1; a distilled LoRA says which.
        generator: On the CPU, for the noise of the later levels.

    Raises:
        ActionError: If the levels do not fall from at most 1.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or levels[0] > 1 or any(b >= a for a, b in zip(levels, [*levels[1:], 0.0], strict=True)):
        raise ActionError(
            f"sigmas: {levels} do not fall from 1 towards 0; give for example (1.0, 0.757, 0.522)."
        )
    latents = noise
    for level, following in zip(levels, [*levels[1:], 0.0], strict=True):
        clean = latents - level * velocity(latents, 1000 * level)
        if following > 0:
            fresh = torch.randn(noise.shape, generator=generator, dtype=torch.float32).to(noise)
            clean = (1 - following) * clean + following * fresh
        latents = clean
    return latents
