"""SLAM of a clip on the analytic room: drift that goes on, loops that close, points that move with them."""

import numpy as np
import pytest
import torch

from maps import room_map, same_map
from rooms import room_view
from spatia_env.geometry import intrinsics_from_fov, invert_se3, look_at, path_from_twist, pose_error, se3_exp
from spatia_env.memory.deformation import one_per_voxel, warp_steps
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.map import Map
from spatia_env.memory.point_map import SceneMemory
from spatia_env.slam.depth_network import Geometry
from spatia_env.slam.pipeline import Slam, close_loop, spread_correction
from spatia_env.slam.tracking import TrackResult
from spatia_env.world.state import WorldState
from spatia_env.world.world import World

T, H, W = 4, 72, 96
K = intrinsics_from_fov(60.0, H, W)
DRIFT = torch.tensor([0.02, 0.0, 0.0, 0.0, 0.0175, 0.0])


def understand(rgb, poses, K, map_rgb, map_depth, known, ground=None):
    """True depth of the room for poses that are right; nothing moves."""
    depth = room_view(poses, K, H, W)[1]
    return Geometry(depth, torch.ones_like(depth), torch.zeros_like(depth))


def opened() -> World:
    start = look_at(torch.tensor([0.2, -0.3, 0.1]), torch.tensor([1.8, 2.2, -0.4]))
    rgb, depth = room_view(start[None], K, H, W)
    frame = (rgb[0].movedim(0, -1) * 255).round().byte()
    memory, _ = SceneMemory(voxel=0.02).update(rgb, depth, torch.ones_like(depth), start[None], K, 0)
    keyframe = Keyframe(frame, depth[0].half(), start, 0)
    seen = Map(memory, (keyframe,), K, (H, W))
    return World(WorldState(seen, start, start, "", frame[None], depth[0], seed=1))


def play(world: World, path: torch.Tensor, true: torch.Tensor, track_poses: bool = True):
    rgb = room_view(true, K, H, W)[0]
    view = world.render(path)
    frames = (rgb.movedim(1, -1) * 255).round().byte()
    slam = Slam(understand, track=track_poses, extend_planes=False)
    located = slam(world.state.map, frames, path, view)
    geometry = located.geometry
    after, _ = located.map.integrate(
        frames, geometry.depth, geometry.confidence, located.tracked.c2w, located.view
    )
    world.state = world.state.advance(after, frames, geometry.depth[-1], c2w=path[-1])
    return located


def stray_walk(world: World, clips: int, drift=DRIFT, since=0):
    commanded, true = world.c2w, world.c2w
    for clip in range(clips):
        twist = torch.tensor([0.05, 0.0, 0.05, 0.0, 0.12, 0.0]) * (1 if clip < clips // 2 else -1)
        path = path_from_twist(commanded, twist, T)
        real = path_from_twist(true, twist, T)
        share = torch.arange(1, T + 1) / T
        real = real @ se3_exp(share[:, None] * drift * (clip >= since))
        yield path, real
        commanded, true = path[-1], real[-1]


def test_drift_adds_up_but_the_error_does_not():
    world = opened()
    for path, true in stray_walk(world, 6):
        located = play(world, path, true)
        error = float(pose_error(located.tracked.c2w[-1], true[-1])[0])
        assert error < 0.02
        assert located.tracked.ok
    reckoned = float(pose_error(path[-1], true[-1])[0])
    assert reckoned > 0.08
    assert error < 0.25 * reckoned
    estimate = world.state.drift @ world.c2w
    assert torch.allclose(estimate, located.tracked.c2w[-1], atol=1e-5)


def test_a_clip_that_comes_back_to_the_command_is_not_dragged_along():
    world = opened()
    (path, true), *_ = stray_walk(world, 1)
    play(world, path, true)
    assert not torch.equal(world.state.drift, torch.eye(4))
    on = path_from_twist(path[-1], torch.tensor([0.0, 0.0, 0.05, 0.0, -0.1, 0.0]), T)
    located = play(world, on, on)
    assert float(pose_error(located.tracked.c2w[-1], on[-1])[0]) < 0.01


def test_without_tracking_the_command_is_kept():
    world = opened()
    (path, true), *_ = stray_walk(world, 1)
    located = play(world, path, true, track_poses=False)
    assert torch.equal(located.tracked.c2w, path)
    assert not located.tracked.ok


def test_locating_changes_nothing_and_repeats_to_the_bit():
    world = opened()
    (path, true), *_ = stray_walk(world, 1)
    rgb, view, before = room_view(true, K, H, W)[0], world.render(path), world.state
    frames = (rgb.movedim(1, -1) * 255).round().byte()
    points = before.memory.points().tobytes()
    first, second = (Slam(understand)(before.map, frames, path, view) for _ in range(2))
    assert before.memory.points().tobytes() == points
    assert torch.equal(first.tracked.c2w, second.tracked.c2w)
    assert torch.equal(first.geometry.depth, second.geometry.depth)


def test_a_loop_is_spread_over_the_steps_since():
    poses = path_from_twist(torch.eye(4), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.3, 0.0]), 6)
    frame, depth = torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2, 3).half()
    keyframes = tuple(Keyframe(frame, depth, poses[i], i) for i in range(6))
    shift = torch.eye(4)
    shift[0, 3] = 0.06
    corrections = spread_correction(keyframes[:5], poses[5], shift @ poses[5], anchor=1, step=5)
    assert sorted(corrections) == [2, 3, 4, 5]
    moved = [float((corrections[s] @ poses[s] - poses[s])[:3, 3].norm()) for s in range(2, 6)]
    assert moved == sorted(moved)
    assert moved[0] > 0.005
    assert moved[-1] == pytest.approx(0.06, abs=0.01)


def test_points_move_with_the_step_that_wrote_them():
    memory = room_map(3)
    shift = torch.eye(4)
    shift[:3, 3] = torch.tensor([0.1, -0.2, 0.04])
    warped = warp_steps(memory, {1: shift})
    before, after = memory.points(), warped.points()
    mine = before["first_step"] == 1
    assert mine.any() and not mine.all()
    assert set(after["first_step"]) == {0, 1, 2}
    where = {tuple(np.round(p, 3)) for p in after["position"]}
    expected = before["position"][mine] + np.array([0.1, -0.2, 0.04], np.float32)
    # Some meet others in their new voxel and are merged with them.
    found = np.mean([tuple(np.round(p, 3)) in where for p in expected])
    assert found > 0.5
    for key, block in warped.blocks.items():
        from spatia_env.memory import blocks as blk

        assert blk.block_problem(block, key, warped.voxel, warped.voxels_per_side) == ""
    untouched = [k for k, b in memory.blocks.items() if k in warped.blocks and warped.blocks[k] is b]
    assert untouched
    assert same_map(memory, warp_steps(memory, {})) and same_map(memory, warp_steps(memory, {9: shift}))


def test_moving_there_and_back_keeps_the_points():
    memory = room_map(2)
    turn = se3_exp(torch.tensor([0.3, 0.1, 0.0, 0.0, 0.0, 0.2]))
    corrections = {0: turn, 1: turn}
    back = warp_steps(warp_steps(memory, corrections), {s: invert_se3(turn) for s in (0, 1)})
    assert abs(back.num_points - memory.num_points) < 0.35 * memory.num_points
    low, high = (memory.points()["position"].min(0), memory.points()["position"].max(0))
    assert np.allclose(back.points()["position"].min(0), low, atol=0.02)
    assert np.allclose(back.points()["position"].max(0), high, atol=0.02)


def test_one_per_voxel_merges_by_weight_and_keeps_edits():
    rows = room_map(1).points()[:4].copy()
    rows["voxel"] = [5, 3, 5, 3]
    rows["weight"] = [1, 1, 3, 1]
    rows["layer"] = [0, 0, 0, 1]
    out = one_per_voxel(rows)
    assert out["voxel"].tolist() == [3, 5]
    assert np.allclose(out["position"][0], rows["position"][3])
    assert np.allclose(out["position"][1], (rows["position"][0] + 3 * rows["position"][2]) / 4, atol=1e-6)
    assert out["views"].tolist() == [int(rows["views"][[1, 3]].sum()), int(rows["views"][[0, 2]].sum())]


def test_a_closed_loop_mends_poses_and_map():
    """The map's newer part was written from wrong poses; the start comes into sight again."""
    world = opened()
    start = world.c2w
    for path, true in stray_walk(world, 6, DRIFT, since=3):
        play(world, path, true, track_poses=False)
    state = world.state
    true = start[None].expand(T, 4, 4)
    wrong = true @ se3_exp(torch.tensor([0.05, 0.0, 0.0, 0.0, 0.02, 0.0]))
    rgb = room_view(true, K, H, W)[0]
    tracked = TrackResult(wrong, 1.0, 0.0, 0.0, False)
    seen = state.map.render(wrong[-1:])
    closed, found = close_loop(state.map, rgb, tracked, torch.ones(T, H, W), seen)
    assert found.loop is not None and found.loop <= 2
    assert float(pose_error(found.c2w[-1], start)[0]) < 0.02
    assert found.loop_metres > 0.03
    assert closed.points is not state.memory
    assert state.memory.num_points == world.state.memory.num_points
    moved = [
        float((a.c2w - b.c2w).abs().max()) for a, b in zip(closed.keyframes, state.keyframes, strict=True)
    ]
    steps = [keyframe.step for keyframe in state.keyframes]
    assert max(m for m, s in zip(moved, steps, strict=True) if s <= found.loop) == 0
    assert moved[-1] > 0.005
