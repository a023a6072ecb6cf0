"""`Imagination`: what nobody has seen around a camera is drawn once and becomes part of the map.

The map is rendered to a panorama around the camera, a generative model completes it (`models.imagination`), and the
unknown part becomes imagined points (`memory.imagined`). From then on it is rendered like everything else: turning
round shows a room, and coming back shows the same one.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from spatia_env.memory.imagined import known_sphere, with_imagined, without_unshown
from spatia_env.memory.rendering import Render
from spatia_env.models.imagination import ImaginationModel
from spatia_env.world.state import WorldState

MOST_UNSEEN = 0.15
"""Share of a clip's pixels that may be unknown before the surroundings of its last camera are imagined."""


class Imagination:
    """Fills in the surroundings of a place.

    Args:
        model: Completes panoramas.
        num_steps: Evaluations of its layout network.
        detail_steps: Evaluations of its detail network.
    """

    def __init__(self, model: ImaginationModel, num_steps: int = 16, detail_steps: int = 4) -> None:
        self.model, self.num_steps, self.detail_steps = model, num_steps, detail_steps

    @staticmethod
    def is_wanted(view: Render) -> bool:
        """Whether a path's render leaves more than `MOST_UNSEEN` unknown."""
        return float(view.known.float().mean()) < 1 - MOST_UNSEEN

    def __call__(self, state: WorldState, eye: Tensor, seed: int | None = None) -> tuple[WorldState, int]:
        """The state with imagined points around `eye` [3] (world, metres), and how many were added.

        Args:
            state: The world.
            eye: Where the surroundings are completed.
            seed: Of the choices; None takes one that follows from the state, so that a world repeats.
        """
        height = int(self.model.config.height)
        points, seen = state.map.points, state.map
        sphere = known_sphere(points, eye, height, 4 * height)
        middle = slice(height // 2, height // 2 + height)
        generator = torch.Generator().manual_seed(choice_seed(state) if seed is None else seed)
        known = sphere.known[:, middle] & (sphere.depth[:, middle] > 0)
        rgb, distance = self.model.complete(
            sphere.rgb[:, :, middle],
            sphere.depth[:, middle],
            known,
            generator,
            self.num_steps,
            self.detail_steps,
        )
        points, count = with_imagined(
            points,
            seen.keyframes,
            seen.K,
            eye,
            rgb[0].float(),
            distance[0].float(),
            sphere.known[0],
            state.step,
        )
        return dataclasses.replace(state, map=dataclasses.replace(seen, points=points)), count

    def again(self, state: WorldState, seed: int) -> tuple[WorldState, int]:
        """The state with other surroundings: what is imagined and was not shown yet is drawn anew by `seed`."""
        fresh = dataclasses.replace(state.map, points=without_unshown(state.map.points))
        return self(dataclasses.replace(state, map=fresh), state.c2w[:3, 3], seed)


def choice_seed(state: WorldState) -> int:
    """Seed of what is imagined at this step of a world."""
    sequence = np.random.SeedSequence([state.seed, state.step, 1])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
