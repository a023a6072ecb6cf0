"""The simulator as an environment with the contract of `Spatia-v0`: `gym.make("spatia_env:SpatiaSim-v0")`.

Frames, depth and masks are the simulator's, poses are the commanded ones, and the map is built from them by the
same memory: so tasks, rewards, previews, forks and planners mean the same in both worlds. Policies are trained
and judged in it; it is no world model. Events are accepted and do nothing.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError
from spatia_env.memory.rendering import Render
from spatia_env.slam.depth_network import Geometry
from spatia_env.vector.sync import view_env


class SimulatedEnv(SpatiaEnv):
    """`SpatiaEnv` whose clips are the simulator's; takes the same arguments, and scenes only."""

    def __init__(self, **options: Any) -> None:
        # Without SLAM: the commanded poses are the true ones.
        super().__init__(**(options | {"slam": "off", "judge": True}))
        self._truth: tuple[Tensor, Tensor] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """As `SpatiaEnv.reset`; the first picture always comes with its depth.

        Raises:
            ActionError: For an image or a saved world, which have no simulator.
        """
        options = dict(options or {})
        if options.get("image") is not None or options.get("world") is not None:
            raise ActionError("SpatiaSim-v0: opens scenes only; use Spatia-v0 for pictures and saved worlds.")
        out = super().reset(seed=seed, options=options | {"depth": True})
        self.estimator = self._truth_of  # not the network: nothing is to be improved on
        return out

    def _imagine(self, pending: Any) -> Tensor:
        """The simulator's frames along the path; their depth and masks are kept for `_understand`."""
        raise ActionError("SpatiaSim-v0: frames come with their path; use step.")

    def finish(self, pending: Any, frames: Tensor | None = None) -> Any:
        """Play the prepared path in the simulator."""
        if pending.view is not None:
            frames = self._play(pending.path)
        return super().finish(pending, frames)

    def step(self, action: Any) -> Any:
        """A step of `SpatiaEnv` with the simulator's clip."""
        return self.finish(self.prepare(action))

    def _play(self, path: Tensor) -> Tensor:
        assert self.judge is not None
        shots = [self.judge.scene.render(pose, *self.size) for pose in path.double().numpy()]
        depth = torch.from_numpy(np.stack([shot.depth for shot in shots])).float()
        dynamic = torch.from_numpy(np.stack([shot.dynamic for shot in shots])).float()
        self._truth = depth, dynamic
        return torch.from_numpy(np.stack([shot.rgb for shot in shots]))

    def _truth_of(self, *given: Any, **options: Any) -> Geometry:
        assert self._truth is not None
        depth, dynamic = self._truth
        return Geometry(depth, (depth > 0).float(), dynamic)

    def _understand(self, frames: Tensor, path: Tensor, view: Render) -> Geometry:
        return self._truth_of()


def make_twin(view: str = "", num_events: int | None = None, **options: Any) -> gym.Env:
    """Entry point of `SpatiaSim-v0`: `view` is "", "rl" or "discrete", see `vector.view_env`."""
    return view_env(SimulatedEnv(**options), view, num_events)
