"""`Slam`: where a clip's cameras were, what it shows, and whether it closes a loop.

The clip's path is predicted (the command, moved by the drift found so far), the frames are aligned with what the map
looks like from there, places that were mapped long ago are recognised, the disagreement of a loop is spread over the
poses in between (`slam.pose_graph`) and moves the points that those poses wrote (`memory.deformation`), and depth and
what moves are estimated at the refined poses. The map that comes in is not changed; the corrected one is returned.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from spatia_env.geometry import invert_se3, orthonormalise, pose_error, se3_exp, unproject
from spatia_env.io.frames import to_float
from spatia_env.io.timing import Stopwatch
from spatia_env.memory.deformation import warp_steps
from spatia_env.memory.keyframes import Keyframe, overlap
from spatia_env.memory.map import Map
from spatia_env.memory.rendering import Render, render_points
from spatia_env.slam.depth_network import Geometry, GeometryEstimator
from spatia_env.slam.depth_refinement import revise
from spatia_env.slam.plane_extrapolation import Continued, follow_surfaces
from spatia_env.slam.plane_labels import continue_planes
from spatia_env.slam.planes import find_planes
from spatia_env.slam.pose_graph import Edge, optimise, se3_log
from spatia_env.slam.tracking import TrackResult, agreement, track

LOOP_GAP = 4
"""A place that was mapped so many steps ago, or longer, closes a loop when it is seen again."""
LOOP_KEYFRAMES, LOOP_OVERLAP = 3, 0.25
"""So many of its pictures are looked at, if they show at least this share of what is seen."""
LOOP_KNOWN = 0.3
"""Share of the picture that must show it."""
LOOP_INLIERS = 0.6
"""Share of its pixels that the picture must confirm after the alignment."""
LOOP_METRES, LOOP_DEGREES = 0.008, 0.2
"""Smaller disagreements are noise of the alignment, and close nothing."""
LOOP_SIGMA = (0.005, 0.003)
"""Standard deviations in metres and radians of the alignment with an old place."""
ODOMETRY_SIGMA = (0.02, 0.01)
"""Likewise, of the motion over one clip."""


@dataclass(frozen=True)
class Registration:
    """What SLAM made of a clip.

    Attributes:
        map: The map before the clip, corrected if depth was refined or a loop was closed.
        tracked: The refined path, and what was corrected.
        view: The map along the refined path.
        geometry: Depth, confidence and what moves.
    """

    map: Map
    tracked: TrackResult
    view: Render
    geometry: Geometry


class Slam:
    """Registers clips in a map.

    Args:
        estimator: Estimates depth, confidence and what moves; it may know the simulator's truth (oracle rows).
        track: Whether poses are refined; else the commanded ones are taken.
        extend_planes: Whether new surface is put onto the planes that it continues (`slam.plane_labels`).
    """

    def __init__(self, estimator: GeometryEstimator, track: bool = True, extend_planes: bool = True) -> None:
        self.estimator, self.track, self.extend_planes = estimator, track, extend_planes

    def begin(self, scene: int | str | None, size: tuple[int, int]) -> None:
        """An episode begins, in this simulated scene if any: for estimators that hand out its truth."""
        begin = getattr(self.estimator, "begin", None)
        if begin is not None:
            begin(scene, size)

    def __call__(
        self,
        scene_map: Map,
        frames: Tensor,
        path: Tensor,
        view: Render,
        ground: float | None = None,
        continued: Continued | None = None,
        watch: Stopwatch | None = None,
    ) -> Registration:
        """Register a clip.

        Args:
            scene_map: The map before the clip.
            frames: u8 [T, H, W, 3].
            path: Commanded poses c2w [T, 4, 4].
            view: The map's render along them.
            ground: World z in metres of the floor, None where it is not known.
            continued: How surfaces go on along `path`, as the clip source was told.
            watch: Times the estimator, as "geometry".
        """
        rgb, watch = to_float(frames), watch or Stopwatch()
        follow = self.track and scene_map.writes
        if follow and _on_course(scene_map):
            revised = revise(scene_map, rgb, path, view)
            if revised is not scene_map:
                scene_map, view = revised, revised.render(path)
        expected, seen = predict(scene_map, rgb, path, view) if follow else (path, view)
        geometry = watch("geometry", self._estimate, scene_map, rgb, expected, seen, ground)
        tracked = TrackResult(path, 1.0, 0.0, 0.0, False)
        if follow:
            still = (geometry.dynamic <= 0.5).float()
            tracked = track(rgb, expected, scene_map.K, seen, still)
            scene_map, tracked = close_loop(scene_map, rgb, tracked, still, seen[len(rgb) - 1 :])
            tracked = _against_command(tracked, path)
            if not torch.equal(tracked.c2w, expected):
                seen = scene_map.render(tracked.c2w)
                geometry = watch("geometry", self._estimate, scene_map, rgb, tracked.c2w, seen, ground)
            scene_map = dataclasses.replace(scene_map, drift=_drift(tracked, path))
        if self.extend_planes:
            geometry = _on_planes(scene_map, geometry, rgb, path, tracked.c2w, seen, continued)
        return Registration(scene_map, tracked, seen, geometry)

    def _estimate(
        self, scene_map: Map, rgb: Tensor, c2w: Tensor, seen: Render, ground: float | None
    ) -> Geometry:
        return self.estimator(rgb, c2w, scene_map.K, seen.rgb, seen.depth, seen.known, ground)


def _against_command(tracked: TrackResult, path: Tensor) -> TrackResult:
    """A result whose correction is measured against the commanded `path` [T, 4, 4]."""
    metres, degrees = pose_error(tracked.c2w[-1], path[-1])
    corrected = not torch.equal(tracked.c2w, path)
    return dataclasses.replace(tracked, translation=float(metres), rotation=float(degrees), ok=corrected)


def _drift(tracked: TrackResult, path: Tensor) -> Tensor:
    """The transform [4, 4] from the commanded to the found last pose."""
    if not tracked.ok:
        return torch.eye(4)
    return orthonormalise(tracked.c2w[-1].double() @ invert_se3(path[-1].double())).float()


def _on_planes(
    scene_map: Map,
    geometry: Geometry,
    rgb: Tensor,
    path: Tensor,
    c2w: Tensor,
    seen: Render,
    continued: Continued | None,
) -> Geometry:
    """The geometry with new surface put onto the planes of the map that it continues."""
    known = seen.known & (seen.depth > 0)
    if continued is not None and torch.equal(c2w, path):
        geometry, follows = follow_surfaces(geometry, rgb, continued)
        known = known | follows
    points = scene_map.points.visible_points(c2w, scene_map.K, *scene_map.size)["position"]
    planes = find_planes(points) if len(points) else []
    return continue_planes(geometry, rgb, c2w, scene_map.K, known, planes)


def _on_course(scene_map: Map) -> bool:
    """Whether cameras have been where they were told to be."""
    return torch.equal(scene_map.drift, torch.eye(4))


def predict(scene_map: Map, rgb: Tensor, path: Tensor, view: Render) -> tuple[Tensor, Render]:
    """The path on which a clip most likely was filmed, and the map along it: as commanded, or with the last drift.

    A generator that is shown the map comes back to the command; one that only goes on from its last frames does
    not. The frames tell which.
    """
    if _on_course(scene_map):
        return path, view
    drifted = orthonormalise(scene_map.drift.double() @ path.double()).float()
    other = scene_map.render(drifted)
    errors = [agreement(rgb, scene_map.K, seen)[0] for seen in (view, other)]
    return (drifted, other) if errors[1] < errors[0] else (path, view)


def close_loop(
    scene_map: Map, rgb: Tensor, tracked: TrackResult, still: Tensor, seen: Render
) -> tuple[Map, TrackResult]:
    """The map and the path after a loop was closed; both as they were if none was.

    `seen` is the map at about the last pose, one view.
    """
    step = scene_map.step + 1
    old = old_keyframes(scene_map, step, tracked.c2w[-1:], seen)
    if not old:
        return scene_map, tracked
    view = render_keyframes(old, tracked.c2w[-1:], scene_map.K, scene_map.size)
    if float(view.known.float().mean()) < LOOP_KNOWN:
        return scene_map, tracked
    found = track(rgb[-1:], tracked.c2w[-1:], scene_map.K, view, still[-1:])
    enough = found.translation > LOOP_METRES or found.rotation > LOOP_DEGREES
    if not (found.ok and found.inlier_ratio >= LOOP_INLIERS and enough):
        return scene_map, tracked
    anchor = old[0].step
    corrections = spread_correction(scene_map.keyframes, tracked.c2w[-1], found.c2w[-1], anchor, step)
    before, now = corrections.get(step - 1, torch.eye(4)), corrections.pop(step)
    between = se3_log(invert_se3(before.double()) @ now.double())
    share = torch.arange(1, len(rgb) + 1, dtype=torch.float64)[:, None] / len(rgb)
    c2w = orthonormalise(before.double() @ se3_exp(share * between) @ tracked.c2w.double()).float()
    moved = float(pose_error(found.c2w[-1], tracked.c2w[-1])[0])
    keyframes = tuple(
        dataclasses.replace(k, c2w=orthonormalise(corrections[k.step].double() @ k.c2w.double()).float())
        if k.step in corrections
        else k
        for k in scene_map.keyframes
    )
    points, _ = warp_steps(scene_map.points, corrections).bounded()
    return (
        dataclasses.replace(scene_map, points=points, keyframes=keyframes),
        dataclasses.replace(tracked, c2w=c2w, loop=anchor, loop_metres=moved),
    )


def old_keyframes(scene_map: Map, step: int, c2w: Tensor, seen: Render) -> list[Keyframe]:
    """Keyframes from long before `step` that show what the camera `c2w` [1, 4, 4] sees, the best first.

    Pictures as they were taken, not the map: newer clips have gone into that.
    """
    candidates = [k for k in scene_map.keyframes if k.step <= step - LOOP_GAP]
    if not candidates:
        return []
    scores = overlap(candidates, seen, c2w, scene_map.K)[0]
    order = sorted(range(len(candidates)), key=lambda i: (-float(scores[i]), i))
    return [candidates[i] for i in order[:LOOP_KEYFRAMES] if float(scores[i]) >= LOOP_OVERLAP]


def render_keyframes(keyframes: list[Keyframe], c2w: Tensor, K: Tensor, size: tuple[int, int]) -> Render:
    """What `c2w` [V, 4, 4] would see of the surface that some keyframes show."""
    points, colours, radii = [], [], []
    for keyframe in keyframes:
        depth = keyframe.depth.float()
        seen = depth > 0
        points.append(unproject(depth, K, keyframe.c2w)[seen])
        colours.append(keyframe.frame[seen].float() / 255)
        radii.append(depth[seen] / K[0, 0])
    cloud = (torch.cat(points), torch.cat(colours), torch.cat(radii))
    return render_points(*cloud, invert_se3(c2w), K, *size)


def spread_correction(
    keyframes: tuple[Keyframe, ...], estimated: Tensor, measured: Tensor, anchor: int, step: int
) -> dict[int, Tensor]:
    """World transforms [4, 4] by step, for all steps after `anchor` up to `step`.

    Args:
        keyframes: Of the past; the last one of each step is a node of the pose graph.
        estimated: Pose [4, 4] of the last frame of `step`, by tracking.
        measured: The same by alignment with what step `anchor` has written.
        anchor: It and what came before stays.
        step: The step that closes the loop.
    """
    nodes = {keyframe.step: keyframe.c2w for keyframe in keyframes} | {step: estimated}
    steps = sorted(nodes)
    poses = torch.stack([nodes[s] for s in steps]).double()
    first = max((i for i, s in enumerate(steps) if s <= anchor), default=0)
    edges = []
    for i in range(first, len(steps) - 1):
        wide = float(steps[i + 1] - steps[i]) ** 0.5
        motion = invert_se3(poses[i]) @ poses[i + 1]
        edges.append(Edge(i, i + 1, motion, ODOMETRY_SIGMA[0] * wide, ODOMETRY_SIGMA[1] * wide))
    loop = invert_se3(poses[first]) @ measured.double()
    edges.append(Edge(first, len(steps) - 1, loop, *LOOP_SIGMA))
    found = optimise(poses, edges, fixed=tuple(range(first + 1)))
    moved = found @ invert_se3(poses)
    out, current = {}, torch.eye(4, dtype=torch.float64)
    for number in range(steps[first] + 1, step + 1):
        if number in nodes:
            current = orthonormalise(moved[steps.index(number)])
        out[number] = current.float()
    return out
