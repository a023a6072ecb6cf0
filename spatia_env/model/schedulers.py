"""Noise schedules of the official size: the release's exact UniPC, and few-step sampling by renoising.

Stock schedulers agree with the release in the solver and differ in the sigmas, by 0.004 (UniPC) and 0.09
(Euler) at 40 steps: hand them `release_sigmas`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from spatia_env.errors import ActionError

SIGMA_MAX = float(np.float32(0.999))
"""The release's grid starts here, rounded to float32, before the shift."""
RELEASE_SHIFT = 5.0
MAX_STEPS = 50
"""With more steps two integer timesteps of the release's grid would be equal."""


def release_grid(num_inference_steps: int) -> np.ndarray:
    """Noise levels [N] before the shift, falling from 0.999; what the stock schedulers are handed.

    Raises:
        ActionError: If there are fewer than 1 or more than 50 steps.
    """
    if not 1 <= num_inference_steps <= MAX_STEPS:
        raise ActionError(
            f"num_inference_steps: is {num_inference_steps}; give 1 to {MAX_STEPS} (the release: 40)."
        )
    return np.linspace(SIGMA_MAX, 0, num_inference_steps + 1)[:-1]


def release_sigmas(num_inference_steps: int, shift: float = RELEASE_SHIFT) -> np.ndarray:
    """Noise levels [N + 1] after the shift, the last one 0."""
    grid = release_grid(num_inference_steps)
    return np.append(shift * grid / (1 + (shift - 1) * grid), 0.0)


def release_unipc(num_inference_steps: int, shift: float = RELEASE_SHIFT) -> UniPCMultistepScheduler:
    """UniPC (order 2, bh2) ready to step along the release's schedule; its `timesteps` are integers.

    A scheduler holds the state of one trajectory: make one per clip.
    """
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=1000
    )
    scheduler.set_timesteps(sigmas=release_grid(num_inference_steps))
    return scheduler


def release_euler(num_inference_steps: int, shift: float = RELEASE_SHIFT) -> FlowMatchEulerDiscreteScheduler:
    """Euler along sigmas shifted from a grid that starts at 1: the release's other sampler."""
    grid = np.linspace(1.0, 0.0, num_inference_steps + 1)[:-1]
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(sigmas=list(grid))
    return scheduler


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
