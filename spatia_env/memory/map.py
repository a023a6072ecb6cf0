"""`Map`: what has been seen of a world, with the three operations that every step and every training sample uses.

`render` shows it along a path, `retrieve` finds the keyframes that overlap a path most, `integrate` writes the static
part of a clip. A map is immutable: each operation that changes it returns another one, which shares every block of
points that did not change.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spatia_env.geometry import pose_error
from spatia_env.memory.imagined import mark_shown, shown_rows
from spatia_env.memory.keyframes import Keyframe, select_references
from spatia_env.memory.point_map import Growth, SceneMemory
from spatia_env.memory.rendering import Render, render_rows
from spatia_env.memory.visibility import seen_through, standing

KEYFRAME_STRIDE = 4
"""Every 4th frame of a clip is kept as a keyframe (the release keeps every 4th as a candidate)."""
MAX_KEYFRAMES = 512
"""Oldest keyframes but the first go beyond this."""
REVISIT_METRES, REVISIT_DEGREES = 0.05, 2.0
"""A keyframe within both of a pose counts as taken from there."""


@dataclass(frozen=True)
class Map:
    """Points, keyframes and the camera that sees them.

    Attributes:
        points: The surface, as points in blocks.
        keyframes: Pictures with depth and pose, oldest first; the first one is the start.
        K: Intrinsics [3, 3] in pixels.
        size: (height, width) of frames in pixels.
        step: Clips so far.
        drift: SLAM's last correction [4, 4]: estimated pose = drift @ commanded pose.
        measured: Whether the start came with its depth, which is then not refined.
        writes: False keeps the map empty (nothing is written or retrieved): for `memory="none"`.
    """

    points: SceneMemory
    keyframes: tuple[Keyframe, ...]
    K: Tensor
    size: tuple[int, int]
    step: int = 0
    drift: Tensor = field(default_factory=lambda: torch.eye(4))
    measured: bool = False
    writes: bool = True

    @classmethod
    def begin(
        cls,
        points: SceneMemory,
        frame: Tensor,
        depth: Tensor,
        weight: Tensor,
        c2w: Tensor,
        K: Tensor,
        measured: bool = False,
        writes: bool = True,
    ) -> "Map":
        """The map of one first picture.

        Args:
            points: A map without points, with the settings to use.
            frame: u8 [H, W, 3].
            depth: z-depth [H, W] in metres, 0 = none.
            weight: How sure each pixel is [H, W]; 0 is not written.
            c2w: Pose [4, 4].
            K: Intrinsics [3, 3] in pixels.
            measured: Whether the depth was given rather than estimated.
            writes: See the class.
        """
        if writes:
            rgb = frame.movedim(-1, 0)[None].float() / 255
            points, _ = points.update(rgb, depth[None], weight[None], c2w[None], K, 0)
        seen = torch.where(weight > 0, depth, 0).half()
        size = (int(frame.shape[0]), int(frame.shape[1]))
        return cls(points, (Keyframe(frame, seen, c2w, 0),), K, size, measured=measured, writes=writes)

    def render(self, path: Tensor, layers: Collection[int] | None = None) -> Render:
        """What the map looks like along `path` c2w [T, 4, 4]; of some point `layers` only, all by default."""
        return self.points.render(path, self.K, *self.size, layers)

    def shown(self, path: Tensor, view: Render) -> Tensor:
        """Pixels bool [T, H, W] of the render along `path` whose surface was given or shown before.

        They are the known ones but for imagined surface that no clip has shown yet.
        """
        rows = self.points.visible_points(path, self.K, *self.size)
        before = shown_rows(rows)
        if len(before) == len(rows):
            return view.known
        return view.known & render_rows(before, path, self.K, *self.size).known

    def retrieve(self, path: Tensor, view: Render, count: int) -> tuple[Tensor, list[float]]:
        """Up to `count` reference frames u8 [R, H, W, 3] that overlap the path most, and their scores in [0, 1].

        Args:
            path: c2w [T, 4, 4].
            view: The map along it.
            count: R at most.
        """
        keyframes = self.keyframes if self.writes else ()
        # What precedes the clip is seen anyway; older pictures tell more.
        candidates = [k for k in keyframes if k.step < max(self.step, 1)] or list(keyframes)
        indices, scores = select_references(candidates, view, path, self.K, count)
        if not indices:
            return torch.zeros(0, *self.size, 3, dtype=torch.uint8), []
        return torch.stack([candidates[i].frame for i in indices]), scores

    def integrate(
        self, frames: Tensor, depth: Tensor, weight: Tensor, path: Tensor, view: Render, write: bool = True
    ) -> tuple["Map", Growth]:
        """The map after a clip, and what was added.

        Surface that keyframes have looked through is not written, and what came to rest before known surface is
        added in front of it.

        Args:
            frames: The clip u8 [T, H, W, 3].
            depth: z-depth [T, H, W] in metres, 0 = none.
            weight: Confidence of what is static [T, H, W]; 0 is never written.
            path: Refined poses c2w [T, 4, 4].
            view: This map's render along the path.
            write: False counts the clip and writes nothing (its light or air would enter the colours).
        """
        step = self.step + 1
        if not (write and self.writes):
            points, area = mark_shown(self.points, view, path, self.K)
            return dataclasses.replace(self, points=points, step=step), Growth(area=area)
        rgb = frames.movedim(-1, 1).float() / 255
        opens = ~view.known & (depth > 0) & (weight > 0)
        empty = seen_through(depth, opens, path, self.K, self.keyframes)
        weight = torch.where(empty, 0.0, weight)
        keyframes = self._with_keyframes(frames, torch.where(weight > 0, depth, 0), path, step)
        new = standing(depth, view.depth * view.known, path, self.K, keyframes, step)
        points, growth = self.points.update(rgb, depth, weight, path, self.K, step, view.known & ~new)
        points, area = mark_shown(points, view, path, self.K)
        growth = dataclasses.replace(growth, area=growth.area + area)
        return dataclasses.replace(self, points=points, keyframes=keyframes, step=step), growth

    def revisited(self, c2w: Tensor) -> Keyframe | None:
        """The oldest keyframe of an earlier step that was taken from (nearly) this pose [4, 4], if any."""
        candidates = [k for k in self.keyframes if k.step < self.step]
        if not candidates:
            return None
        poses = torch.stack([keyframe.c2w for keyframe in candidates])
        metres, degrees = pose_error(poses, c2w.expand_as(poses))
        near = ((metres <= REVISIT_METRES) & (degrees <= REVISIT_DEGREES)).nonzero().flatten()
        return candidates[int(near[0])] if len(near) else None

    def _with_keyframes(self, frames: Tensor, depth: Tensor, path: Tensor, step: int) -> tuple[Keyframe, ...]:
        new = tuple(
            Keyframe(frames[i].clone(), depth[i].half(), path[i].clone(), step)
            for i in range(KEYFRAME_STRIDE - 1, len(frames), KEYFRAME_STRIDE)
        )
        together = self.keyframes + new
        return together[:1] + together[1:][-(MAX_KEYFRAMES - 1) :]
