"""Visual SLAM of one clip: where its cameras were, what it shows, and whether it closes a loop.

`locate` predicts the clip's path (the command, moved by the drift found so far), aligns the frames with what the
map looks like from there, recognises places that were mapped long ago, spreads what that loop disagrees about
over the poses in between (`slam.pose_graph`), moves the points that those poses wrote (`memory.warping`), and
estimates depth and what moves at the refined poses. It is a function of the state: nothing is changed in place.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.cameras import invert_se3, orthonormalise, pose_error, se3_exp
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.rendering import Render, render_rows
from spatia_env.memory.scene import SceneMemory
from spatia_env.memory.warping import warp_steps
from spatia_env.slam.geometry import Geometry
from spatia_env.slam.layout import continue_planes
from spatia_env.slam.planes import find_planes
from spatia_env.slam.pose_graph import Edge, optimise, se3_log
from spatia_env.slam.tracking import TrackResult, agreement, track
from spatia_env.world import WorldState

LOOP_GAP = 4
"""A place that was mapped so many steps ago, or longer, closes a loop when it is seen again."""
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
) -> Located:
    """Locate a clip in the map.

    Args:
        state: The world before the clip.
        rgb: Frames [T, 3, H, W] in [0, 1].
        path: Commanded poses [T, 4, 4].
        view: The map along them.
        understand: Geometry of frames (as given), poses and the map's render along them.
        track_poses: Whether poses are refined; else the command is taken at its word.
        extend_planes: Whether new surface is put onto the planes that it continues (`slam.layout`).
    """
    expected, seen = (path, view) if not track_poses else predict(state, rgb, path, view)
    geometry = understand(rgb, expected, seen)
    if not track_poses:
        tracked = TrackResult(path, 1.0, 0.0, 0.0, False)
    else:
        still = (geometry.dynamic <= 0.5).float()
        tracked = track(rgb, geometry.depth, expected, state.K, seen, still)
        state, tracked = close_loop(state, rgb, tracked, still)
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
        points = state.memory.visible_points(tracked.c2w, state.K, *state.size)["position"]
        planes = find_planes(points) if len(points) else []
        geometry = continue_planes(geometry, rgb, tracked.c2w, state.K, known, planes)
    return Located(state, tracked, seen, geometry)


def predict(state: WorldState, rgb: Tensor, path: Tensor, view: Render) -> tuple[Tensor, Render]:
    """The path on which a clip most likely was filmed, and the map along it: as commanded, or with the last drift.

    A generator that is shown the map comes back to the command; one that only goes on from its last frames does
    not. The frames tell which.
    """
    if torch.equal(state.drift, torch.eye(4)):
        return path, view
    drifted = orthonormalise(state.drift.double() @ path.double()).float()
    other = state.memory.render(drifted, state.K, *state.size)
    errors = [agreement(rgb, state.K, seen)[0] for seen in (view, other)]
    return (drifted, other) if errors[1] < errors[0] else (path, view)


def close_loop(
    state: WorldState, rgb: Tensor, tracked: TrackResult, still: Tensor
) -> tuple[WorldState, TrackResult]:
    """The state and the path after a loop was closed; both as they were if none was."""
    step = state.step + 1
    old = written_before(state.memory, step - LOOP_GAP, tracked.c2w[-1:], state)
    if not len(old):
        return state, tracked
    view = render_rows(old, tracked.c2w[-1:], state.K, *state.size)
    if float(view.known.float().mean()) < LOOP_KNOWN:
        return state, tracked
    found = track(rgb[-1:], None, tracked.c2w[-1:], state.K, view, still[-1:])
    enough = found.translation > LOOP_METRES or found.rotation > LOOP_DEGREES
    if not (found.ok and found.inlier_ratio >= LOOP_INLIERS and enough):
        return state, tracked
    anchor = int(np.bincount(old["first_step"].clip(0)).argmax())
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


def written_before(memory: SceneMemory, step: int, c2w: Tensor, state: WorldState) -> np.ndarray:
    """Points in sight of `c2w` [V, 4, 4] that were first written at `step` or earlier."""
    if step < 0:
        return np.empty(0)
    points = memory.visible_points(c2w, state.K, *state.size)
    return points[(points["first_step"] <= step) & (points["layer"] == 0)]


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
