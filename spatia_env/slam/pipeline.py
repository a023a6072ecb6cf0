"""Visual SLAM of one clip: where its cameras were, what it shows, and whether it closes a loop.

`locate` predicts the clip's path (the command, moved by the drift found so far), aligns the frames with what the
map looks like from there, recognises places that were mapped long ago, spreads what that loop disagrees about
over the poses in between (`slam.pose_graph`), moves the points that those poses wrote (`memory.warping`), and
estimates depth and what moves at the refined poses. It is a function of the state: nothing is changed in place.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spatia_env.geometry import invert_se3, orthonormalise, pose_error, se3_exp, unproject
from spatia_env.memory.keyframes import Keyframe, overlap
from spatia_env.memory.rendering import Render, render_points
from spatia_env.memory.warping import warp_steps
from spatia_env.slam.depth_network import Geometry
from spatia_env.slam.depth_refinement import revise
from spatia_env.slam.plane_extrapolation import Continued, follow_surfaces
from spatia_env.slam.plane_labels import continue_planes
from spatia_env.slam.planes import find_planes
from spatia_env.slam.pose_graph import Edge, optimise, se3_log
from spatia_env.slam.tracking import TrackResult, agreement, track
from spatia_env.world.world import WorldState

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

Understand = Callable[[Tensor, Tensor, Render], Geometry]


@dataclass(frozen=True)
class Located:
    """What is known of a clip.

    Attributes:
        state: The world before the clip, its map and keyframes corrected if a loop was closed.
        tracked: The refined path, and what was corrected.
        view: The map along the refined path.
        geometry: Depth, confidence and what moves.
    """

    state: WorldState
    tracked: TrackResult
    view: Render
    geometry: Geometry


def locate(
    state: WorldState,
    rgb: Tensor,
    path: Tensor,
    view: Render,
    understand: Understand,
    track_poses: bool = True,
    extend_planes: bool = True,
    continued: Continued | None = None,
) -> Located:
    """Locate a clip in the map.

    Args:
        state: The world before the clip.
        rgb: Frames [T, 3, H, W] in [0, 1].
        path: Commanded poses [T, 4, 4].
        view: The map along them.
        understand: Geometry of frames (as given), poses and the map's render along them.
        track_poses: Whether poses are refined; else the command is taken at its word.
        extend_planes: Whether new surface is put onto the planes that it continues (`slam.plane_labels`).
        continued: How surfaces go on along `path`, as the clip's maker was told.
    """
    if track_poses and _on_course(state):
        revised = revise(state, rgb, path, view)
        if revised is not state:
            state, view = revised, revised.memory.render(path, state.K, *state.size)
    expected, seen = (path, view) if not track_poses else predict(state, rgb, path, view)
    geometry = understand(rgb, expected, seen)
    if not track_poses:
        tracked = TrackResult(path, 1.0, 0.0, 0.0, False)
    else:
        still = (geometry.dynamic <= 0.5).float()
        tracked = track(rgb, geometry.depth, expected, state.K, seen, still)
        state, tracked = close_loop(state, rgb, tracked, still, seen[len(rgb) - 1 :])
        metres, degrees = pose_error(tracked.c2w[-1], path[-1])
        corrected = not torch.equal(tracked.c2w, path)
        tracked = dataclasses.replace(
            tracked, translation=float(metres), rotation=float(degrees), ok=corrected
        )
        if not torch.equal(tracked.c2w, expected):
            seen = state.memory.render(tracked.c2w, state.K, *state.size)
            geometry = understand(rgb, tracked.c2w, seen)
        drift = orthonormalise(tracked.c2w[-1].double() @ invert_se3(path[-1].double())).float()
        state = dataclasses.replace(state, drift=drift if corrected else torch.eye(4))
    if extend_planes:
        known = seen.known & (seen.depth > 0)
        if continued is not None and torch.equal(tracked.c2w, path):
            geometry, follows = follow_surfaces(geometry, rgb, continued)
            known = known | follows
        points = state.memory.visible_points(tracked.c2w, state.K, *state.size)["position"]
        planes = find_planes(points) if len(points) else []
        geometry = continue_planes(geometry, rgb, tracked.c2w, state.K, known, planes)
    return Located(state, tracked, seen, geometry)


def _on_course(state: WorldState) -> bool:
    """Whether cameras have been where they were told to be."""
    return torch.equal(state.drift, torch.eye(4))


def predict(state: WorldState, rgb: Tensor, path: Tensor, view: Render) -> tuple[Tensor, Render]:
    """The path on which a clip most likely was filmed, and the map along it: as commanded, or with the last drift.

    A generator that is shown the map comes back to the command; one that only goes on from its last frames does
    not. The frames tell which.
    """
    if _on_course(state):
        return path, view
    drifted = orthonormalise(state.drift.double() @ path.double()).float()
    other = state.memory.render(drifted, state.K, *state.size)
    errors = [agreement(rgb, state.K, seen)[0] for seen in (view, other)]
    return (drifted, other) if errors[1] < errors[0] else (path, view)


def close_loop(
    state: WorldState, rgb: Tensor, tracked: TrackResult, still: Tensor, seen: Render
) -> tuple[WorldState, TrackResult]:
    """The state and the path after a loop was closed; both as they were if none was.

    `seen` is the map at about the last pose, one view.
    """
    step = state.step + 1
    old = old_keyframes(state, step, tracked.c2w[-1:], seen)
    if not old:
        return state, tracked
    view = render_keyframes(old, tracked.c2w[-1:], state.K, state.size)
    if float(view.known.float().mean()) < LOOP_KNOWN:
        return state, tracked
    found = track(rgb[-1:], None, tracked.c2w[-1:], state.K, view, still[-1:])
    enough = found.translation > LOOP_METRES or found.rotation > LOOP_DEGREES
    if not (found.ok and found.inlier_ratio >= LOOP_INLIERS and enough):
        return state, tracked
    anchor = old[0].step
    corrections = spread_correction(state.keyframes, tracked.c2w[-1], found.c2w[-1], anchor, step)
    before, now = corrections.get(step - 1, torch.eye(4)), corrections.pop(step)
    between = se3_log(invert_se3(before.double()) @ now.double())
    share = torch.arange(1, len(rgb) + 1, dtype=torch.float64)[:, None] / len(rgb)
    c2w = orthonormalise(before.double() @ se3_exp(share * between) @ tracked.c2w.double()).float()
    moved = float(pose_error(found.c2w[-1], tracked.c2w[-1])[0])
    keyframes = tuple(
        dataclasses.replace(k, c2w=orthonormalise(corrections[k.step].double() @ k.c2w.double()).float())
        if k.step in corrections
        else k
        for k in state.keyframes
    )
    memory, _ = warp_steps(state.memory, corrections).bounded()
    return (
        dataclasses.replace(state, memory=memory, keyframes=keyframes),
        dataclasses.replace(tracked, c2w=c2w, loop=anchor, loop_metres=moved),
    )


def old_keyframes(state: WorldState, step: int, c2w: Tensor, seen: Render) -> list[Keyframe]:
    """Keyframes from long before `step` that show what the camera `c2w` [1, 4, 4] sees, the best first.

    Pictures as they were taken, not the map: newer clips have gone into that.
    """
    candidates = [k for k in state.keyframes if k.step <= step - LOOP_GAP]
    if not candidates:
        return []
    scores = overlap(candidates, seen, c2w, state.K)[0]
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
