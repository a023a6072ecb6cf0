"""Play true frames through the environment: its own SLAM and map, the simulator in the generator's place.

So a figure of the map is one of the map, not of what a generator imagined. Rows are one switch away from
`default`, as in `rows`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.bench.episodes import FRAMES
from spatia_env.env import SpatiaEnv
from spatia_env.geometry import invert_se3, orthonormalise, se3_exp, unproject
from spatia_env.memory.rendering import Render
from spatia_env.models.clip_source import Pending
from spatia_env.sim.scenes import SimScene
from spatia_env.slam.depth_network import Geometry
from spatia_env.slam.pipeline import Located, locate
from spatia_env.slam.pose_graph import se3_log
from spatia_env.world import observation

DENSITY = 2
"""The true surface is sampled with this many rays per pixel, in x and in y."""


@dataclass(frozen=True)
class Episode:
    """What cameras saw of a scene, with the truth.

    Attributes:
        scene: The seed.
        K: Intrinsics [3, 3] in pixels.
        c2w: True poses f32 [1 + 8 n, 4, 4].
        commanded: Poses that the environment is told; equal to `c2w` without drift.
        frames: u8 [1 + 8 n, H, W, 3].
        depth: z-depth f32 [1 + 8 n, H, W] in metres, 0 = none.
        dynamic: bool [1 + 8 n, H, W], what moves.
        surface: Points f32 [n, 3] of the static surface that any frame shows.
        surface_depth: Least z-depth [n] in metres that each was seen at.
    """

    scene: int
    K: np.ndarray
    c2w: np.ndarray
    commanded: np.ndarray
    frames: np.ndarray
    depth: np.ndarray
    dynamic: np.ndarray
    surface: np.ndarray
    surface_depth: np.ndarray

    @property
    def clips(self) -> int:
        """Number of clips."""
        return (len(self.frames) - 1) // FRAMES

    def clip(self, index: int) -> slice:
        """The frames of clip `index`, counted from 0."""
        return slice(1 + FRAMES * index, 1 + FRAMES * (index + 1))


def film(
    scene: SimScene,
    c2w: np.ndarray,
    size: tuple[int, int],
    commanded: np.ndarray | None = None,
    advance: float = 0.0,
) -> Episode:
    """Film a scene along poses [1 + 8 n, 4, 4]; `advance` seconds pass before every frame but the first."""
    shots, surface = [], []
    K, fine_K = (np.asarray(scene.K(*shape)) for shape in (size, (size[0] * DENSITY, size[1] * DENSITY)))
    for index, pose in enumerate(c2w):
        if advance and index:
            scene.advance(advance)
        shots.append(scene.render(pose, *size))
        fine = scene.render(pose, size[0] * DENSITY, size[1] * DENSITY)
        static = torch.from_numpy((fine.depth > 0) & ~fine.dynamic)
        z = torch.from_numpy(fine.depth)
        points = unproject(z, torch.from_numpy(fine_K), torch.from_numpy(pose))[static]
        surface.append(np.column_stack([points.numpy(), z[static].numpy()]))
    kept, nearest = thin(np.concatenate(surface))
    return Episode(
        scene.seed, K, c2w, c2w if commanded is None else commanded, np.stack([s.rgb for s in shots]),
        np.stack([s.depth for s in shots]), np.stack([s.dynamic for s in shots]), kept, nearest,
    )  # fmt: skip


def drifted(commanded: np.ndarray, scale: float, twist: np.ndarray) -> np.ndarray:
    """Where cameras [1 + 8 n, 4, 4] really go when every clip strays from its command; the errors add up.

    Args:
        commanded: The commanded poses.
        scale: Factor on the translation of every clip.
        twist: What is added to every clip's motion [6], metres and radians in the last camera's frame.
    """
    path = torch.from_numpy(commanded).double()
    stray = torch.from_numpy(twist).double()
    poses = [path[0]]
    factor = torch.tensor([scale] * 3 + [1.0] * 3, dtype=torch.float64)
    for start in range(0, len(path) - 1, FRAMES):
        origin = poses[-1]
        for index in range(1, FRAMES + 1):
            motion = se3_log(invert_se3(path[start]) @ path[start + index]) * factor
            poses.append(orthonormalise(origin @ se3_exp(motion) @ se3_exp(index / FRAMES * stray)))
    return torch.stack(poses).float().numpy()


def thin(points: np.ndarray, edge: float = 0.015) -> tuple[np.ndarray, np.ndarray]:
    """One point per voxel of `edge` metres of points and depths [n, 4]: its first point, its least depth."""
    cell = np.floor(points[:, :3] / edge).astype(np.int64)
    cell -= cell.min(0)
    extent = cell.max(0) + 1
    key = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
    order = np.lexsort((points[:, 3], key))
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    kept = points[order[first]].astype(np.float32)
    return kept[:, :3], kept[:, 3]


@dataclass(frozen=True)
class MapRow:
    """A row: options of the environment, and what else is switched.

    Attributes:
        name: As printed.
        env: Options of the environment.
        oracle: Depth and masks of the simulator in place of the network's.
        carve: Whether the map carves.
        filter: Whether what moves is kept out.
        planes: Whether new surface is put onto the planes that it continues.
    """

    name: str
    env: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    oracle: bool = False
    carve: bool = True
    filter: bool = True
    planes: bool = True


MAP_ROWS: Mapping[str, MapRow] = MappingProxyType(
    {
        row.name: row
        for row in (
            MapRow("default"),
            MapRow("oracle", oracle=True),
            MapRow("no-slam", MappingProxyType({"slam": "off"})),
            MapRow("no-carving", carve=False),
            MapRow("no-dynamic-filter", filter=False),
            MapRow("no-planes", planes=False),
        )
    }
)


class ReplayEnv(SpatiaEnv):
    """The environment with a simulator's frames in place of generated ones.

    Args:
        row: What is switched.
        size: (height, width) in pixels.
        model: Checkpoint, None for the packaged one.
    """

    def __init__(self, row: MapRow, size: tuple[int, int] = (128, 128), model: str | None = None) -> None:
        options = dict(row.env) | ({} if model is None else {"model": model})
        super().__init__(action="path", size=size, **options)
        self.row = row
        self.empty_memory = replace(self.empty_memory, carve=row.carve)
        self._episode: Episode | None = None
        self._clip = 0
        self.geometry: Geometry | None = None
        """What was made of the last clip."""

    def start(self, episode: Episode, depth: bool = True) -> None:
        """Open the episode's scene, with the first picture's depth or without."""
        self._episode, self._clip = episode, 0
        self.reset(seed=episode.scene, options={"scene": episode.scene, "depth": depth})

    def clips(self) -> Iterator[dict[str, Any]]:
        """Play the episode's clips one by one; yields each step's `info`."""
        assert self._episode is not None
        episode = self._episode
        for index in range(episode.clips):
            self._clip = index
            last = episode.commanded[episode.clip(index).start - 1].astype(np.float64)
            path = np.linalg.inv(last) @ episode.commanded[episode.clip(index)].astype(np.float64)
            path = np.where(np.abs(path - np.eye(4)) < 1e-7, np.eye(4), path)
            yield self.step({"path": path.astype(np.float32), "event": ""})[-1]

    def _stands_still(self, path: Tensor, event: str) -> bool:
        # What the camera sees may move although nobody asked for it.
        return False

    def _locate(self, pending: Pending, frames: Tensor) -> Located:
        path, view = pending.path, pending.view
        assert view is not None

        def understand(_: Tensor, poses: Tensor, seen: Render) -> Geometry:
            return self._understand(frames, poses, seen)

        planes = self.row.planes and not self.row.oracle
        state, rgb = self.world.state, observation.to_floats(frames)
        continued = pending.continued if planes else None
        located = locate(state, rgb, path, view, understand, self.slam != "off", planes, continued)
        self.geometry = located.geometry
        return located

    def _imagine(self, pending: Any) -> Tensor:
        assert self._episode is not None
        return torch.from_numpy(self._episode.frames[self._episode.clip(self._clip)])

    def _understand(self, frames: Tensor, path: Tensor, view: Render) -> Geometry:
        assert self._episode is not None
        if self.row.oracle:
            span = self._episode.clip(self._clip)
            depth, dynamic = (torch.from_numpy(x[span]) for x in (self._episode.depth, self._episode.dynamic))
            return Geometry(depth, (depth > 0).float(), dynamic.float())
        geometry = super()._understand(frames, path, view)
        return geometry if self.row.filter else replace(geometry, dynamic=torch.zeros_like(geometry.dynamic))
