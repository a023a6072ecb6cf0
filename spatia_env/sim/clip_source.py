"""The simulator as a clip source and as a depth estimator: clips are its pictures, geometry is its truth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.models.clip_source import ClipRequest
from spatia_env.models.generator import ClipShape
from spatia_env.sim.scenes import SimFrame, SimScene, open_scene
from spatia_env.slam.depth_network import Geometry


class SimulatedScene:
    """A scene as it stands at the reset; events do nothing in it.

    As a clip source it renders the commanded path; called as an estimator it hands out depth and dynamic mask at the
    poses it is given.

    Args:
        shape: Of the clips.
    """

    reads_known_words = reads_continued = False
    rests = True

    def __init__(self, shape: ClipShape) -> None:
        self.shape = shape
        self._scene: SimScene | None = None
        self._size = (shape.height, shape.width)
        self._path: Tensor | None = None
        self._shots: list[SimFrame] = []

    def begin(self, scene: int | str | None, size: tuple[int, int]) -> None:
        """Open a scene for an episode with frames of `size` (height, width).

        Raises:
            ActionError: If there is no scene.
        """
        if scene is None:
            raise ActionError(
                "the simulator has no geometry of photographs and saved worlds; reset from a scene."
            )
        opened = open_scene(scene)
        if self._scene is not None:
            self._scene.close()
        self._scene, self._size, self._path = opened, size, None

    def generate(self, requests: Sequence[ClipRequest]) -> list[Tensor]:
        """Its pictures along the requests' paths, u8 [T, H, W, 3] each."""
        return [
            torch.from_numpy(np.stack([shot.rgb for shot in self._render(request.path)]))
            for request in requests
        ]

    def __call__(
        self,
        rgb: Tensor,
        c2w: Tensor,
        K: Tensor,
        map_rgb: Tensor,
        map_depth: Tensor,
        known: Tensor,
        ground: float | None = None,
    ) -> Geometry:
        """The truth at poses c2w [T, 4, 4]; see `slam.depth_network.GeometryEstimator`."""
        shots = self._render(c2w)
        depth = torch.from_numpy(np.stack([shot.depth for shot in shots])).float()
        dynamic = torch.from_numpy(np.stack([shot.dynamic for shot in shots])).float()
        valid = torch.isfinite(depth) & (depth > 0)
        return Geometry(torch.where(valid, depth, 0.0), valid.float(), dynamic)

    def _render(self, path: Tensor) -> list[SimFrame]:
        if self._scene is None:
            raise ActionError("no scene is open; call reset() first.")
        if self._path is None or not torch.equal(self._path, path):
            self._shots = [self._scene.render(pose, *self._size) for pose in path.double().numpy()]
            self._path = path.clone()
        return self._shots

    def __deepcopy__(self, memo: dict[int, Any]) -> "SimulatedScene":
        return self  # the scene stands still, so copies of an environment can share it
