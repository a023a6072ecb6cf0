"""Queries against slow, obvious versions of themselves."""

import itertools
import math

import numpy as np
import pytest
import torch

from maps import HEIGHT, WIDTH, K, grid_points, keyframes_of, map_of_points, room_map, view_at
from rendering_oracle import render_points_reference
from rooms import room_view
from spatia_env.errors import ActionError, PoseError
from spatia_env.memory.frontiers import find_path, frontier, nearest_unseen, seen_space
from spatia_env.memory.point_map import SceneMemory, gather, keys_along, keys_in_box
from spatia_env.memory.queries import ball, free_distance, occupied, raycast, visible


@pytest.fixture(scope="module")
def room() -> SceneMemory:
    return room_map(3)


@pytest.fixture(scope="module")
def dust() -> SceneMemory:
    """Points anywhere, of many sizes."""
    rng = np.random.default_rng(1)
    position = rng.uniform(-3, 3, (300, 3)).astype(np.float32)
    return map_of_points(position, radius=rng.uniform(0.005, 0.4, 300))


def slow_raycast(memory, origin, direction, reach):
    """Look at every point of the map."""
    rows = memory.points()
    towards = np.asarray(direction, float) / np.linalg.norm(direction)
    best = None
    for row, size in zip(rows, ball(memory, rows["radius"]), strict=True):
        offset = row["position"].astype(float) - origin
        along = float(offset @ towards)
        across = float(np.linalg.norm(offset - along * towards))
        if across <= size and 0 <= along <= reach and (best is None or along < best):
            best = along
    return best


@pytest.mark.parametrize("name", ["room", "dust"])
def test_raycast_is_the_slow_one(name, request):
    memory, rng = request.getfixturevalue(name), np.random.default_rng(0)
    targets = rng.permutation(memory.points()["position"])
    hits = 0
    for target in targets[:12]:
        origin = rng.uniform(-1.5, 1.5, 3)
        direction = target + rng.normal(size=3) * 0.02 - origin
        reach = rng.uniform(2, 8)
        expected, found = (
            slow_raycast(memory, origin, direction, reach),
            raycast(memory, origin, direction, reach),
        )
        assert (found is None) == (expected is None)
        if found is not None:
            hits += 1
            assert abs(found.distance - expected) < 1e-6
    assert hits > 5


def test_rays_along_the_axes_and_backwards(room):
    rgb, depth = room_view(view_at(0.0)[None], K, HEIGHT, WIDTH)
    eye, forward = view_at(0.0)[:3, 3].numpy(), view_at(0.0)[:3, 2].numpy()
    hit = raycast(room, eye, 5 * forward)
    assert abs(hit.distance - float(depth[0, HEIGHT // 2, WIDTH // 2])) < 0.05
    assert (
        np.abs(hit.colour / 255 - rgb[0, :, HEIGHT // 2, WIDTH // 2].numpy()).max() < 0.1 and hit.layer == 0
    )
    assert raycast(room, eye, forward, max_distance=1.0) is None
    assert raycast(room, eye + 10 * forward, forward) is None
    for axis in np.eye(3):
        assert raycast(map_of_points([2 * axis + 0.001]), (0, 0, 0), axis).distance == pytest.approx(
            2.001, abs=2e-3
        )
        assert raycast(map_of_points([2 * axis + 0.001]), (0, 0, 0), -axis) is None


def test_rays_have_no_gaps_to_slip_through():
    wall = map_of_points(grid_points((1.0, -0.5, -0.5), (1.0, 0.5, 0.5)))
    rng = np.random.default_rng(0)
    for y, z in rng.uniform(-0.4, 0.4, (200, 2)):
        assert raycast(wall, (0, 0, 0), (1, y, z)) is not None


def test_a_long_ray_looks_only_at_blocks_on_its_way(room, monkeypatch):
    far = map_of_points([[100.01 + 0.5 * i, 50.01, 0.01] for i in range(400)])
    both = far.with_blocks(room.blocks)
    looked = keys_along(both, np.zeros(3), np.array([20.0, 0, 0]), 0.1)
    assert 0 < len(looked) < 40
    assert raycast(both, (0, 0, 0), (1, 0.1, 0)).distance == raycast(room, (0, 0, 0), (1, 0.1, 0)).distance


def test_blocks_along_a_segment_are_all_there():
    rng = np.random.default_rng(3)
    memory = map_of_points(rng.uniform(-2, 2, (500, 3)), block=0.3, voxel=0.02)
    rows, bounds = gather(memory, sorted(memory.blocks))
    for _ in range(20):
        a, b, reach = rng.uniform(-2, 2, 3), rng.uniform(-2, 2, 3), rng.uniform(0.0, 0.5)
        towards = (b - a) / np.linalg.norm(b - a)
        along = np.clip((rows["position"] - a) @ towards, 0, np.linalg.norm(b - a))
        near = np.linalg.norm(rows["position"] - a - along[:, None] * towards, axis=-1) <= reach
        needed = {key for i, key in enumerate(sorted(memory.blocks)) if near[bounds[i] : bounds[i + 1]].any()}
        assert needed <= set(keys_along(memory, a, b, reach))


@pytest.mark.parametrize("wide", [0.05, 1.0, 50.0])
def test_blocks_in_a_box(wide, room):
    low = room.points()[100]["position"] - np.array([0.01, 0.02, 0.03])
    high = low + wide
    needed = {
        key
        for key, block in room.blocks.items()
        if ((block["position"] >= low) & (block["position"] <= high)).all(-1).any()
    }
    assert needed
    keys = keys_in_box(room, low, high)
    assert needed <= set(keys) and keys == sorted(keys)
    assert keys_in_box(room, high, low - 1) == []


def test_occupied_and_free_distance_are_the_slow_ones(dust):
    rng, rows = np.random.default_rng(2), dust.points()
    size = ball(dust, rows["radius"])
    for _ in range(20):
        at, radius = rng.uniform(-3, 3, 3), rng.uniform(0, 0.6)
        expected = (np.linalg.norm(rows["position"] - at, axis=-1) <= radius + size).any()
        assert occupied(dust, at, radius) == expected
        to = rng.uniform(-3, 3, 3)
        length = np.linalg.norm(to - at)
        steps = np.linspace(0, length, 1500)
        track = at + steps[:, None] * (to - at) / length
        first = length
        for point, one in zip(rows["position"], size, strict=True):
            apart = np.linalg.norm(track - point, axis=-1)
            nearing = np.diff(apart, append=apart[-1] + 1) < 0
            touching = (apart < radius + one) & nearing
            if touching.any():
                first = min(first, steps[touching.argmax()])
        assert abs(free_distance(dust, at, to, radius) - first) < 0.02
    answers = occupied(dust, rows["position"][:5], 0.01)
    assert answers.dtype == bool and answers.shape == (5,) and answers.all()


def test_a_ball_stops_at_a_wall_and_may_leave_it():
    wall = map_of_points(grid_points((1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))
    assert abs(free_distance(wall, (0, 0, 0), (2, 0, 0), 0.2) - (0.8 - 0.75 * 0.02)) < 0.02
    assert free_distance(wall, (0.95, 0, 0), (2, 0, 0), 0.2) == 0
    assert free_distance(wall, (0.95, 0, 0), (-2, 0, 0), 0.2) == pytest.approx(2.95)
    assert free_distance(wall, (0, 0, 0), (0, 0, 0)) == 0
    assert free_distance(wall, (0, 0, 0), (0.5, 0, 0), 0.2) == pytest.approx(0.5)
    assert free_distance(wall, (0, 0, 0), (-2, 0, 0)) == pytest.approx(2)


def test_visible_is_what_the_slow_renderer_shows():
    near = grid_points((1.0, -0.2, -0.2), (1.0, 0.2, 0.2), 0.04) + 0.001
    behind = near * 2
    memory = map_of_points(np.concatenate([near, behind, -near]), radius=0.05)
    seen = visible(memory, view_at(0.0, (0.0, 0.0, 0.0)), K, HEIGHT, WIDTH)
    rows = memory.points()
    position, radius = torch.from_numpy(rows["position"].copy()), torch.full((len(rows),), 0.05)
    w2c = torch.linalg.inv(view_at(0.0, (0.0, 0.0, 0.0)))[None]
    depth = render_points_reference(position, torch.zeros(len(rows), 3), radius, w2c, K, HEIGHT, WIDTH).depth[
        0
    ]
    expected = set()
    for point in position:
        x, y, z = (w2c[0, :3, :3] @ point + w2c[0, :3, 3]).tolist()
        if z <= 0:
            continue
        u, v = (
            math.floor(x / z * float(K[0, 0]) + float(K[0, 2])),
            math.floor(y / z * float(K[1, 1]) + float(K[1, 2])),
        )
        if 0 <= u < WIDTH and 0 <= v < HEIGHT and depth[v, u] > 0 and z <= depth[v, u] * 1.03 + 0.02:
            expected.add(tuple(point.tolist()))
    found = {tuple(p) for p in seen["position"].tolist()}
    assert len(found ^ expected) <= 2 and len(found) >= len(near)
    assert not any(p[0] < 0 for p in found)


def test_an_empty_map_answers():
    empty = SceneMemory()
    assert raycast(empty, (0, 0, 0), (1, 0, 0)) is None
    assert not occupied(empty, (0, 0, 0), 1.0) and free_distance(empty, (0, 0, 0), (1, 0, 0)) == 1
    assert len(visible(empty, view_at(0.0), K, HEIGHT, WIDTH)) == 0
    assert len(find_path(empty, (0, 0, 0), (1, 1, 1))) == 2
    assert frontier(empty, keyframes_of([0.0]), K)


@pytest.mark.parametrize("place", [(1e5, 0, 0), (0, -1e5, 1e5)])
def test_poses_far_outside_the_map(room, place):
    assert raycast(room, place, (1, 0, 0)) is None
    assert not occupied(room, place, 1.0)
    assert free_distance(room, place, np.array(place) + 1) == pytest.approx(3**0.5)
    far = view_at(0.0)
    far[:3, 3] = torch.tensor(place)
    assert len(visible(room, far, K, HEIGHT, WIDTH)) == 0


# -- seen and unseen -----------------------------------------------------------------------------------------


def slow_state(memory, keyframes, centre, cell, max_range):
    """State of the cell around `centre`, one keyframe and one point at a time."""
    for row in memory.points():
        if (np.floor(row["position"] / cell) == np.floor(centre / cell)).all():
            return 2
    for keyframe in keyframes:
        local = np.linalg.inv(keyframe.c2w.double().numpy()) @ [*centre, 1]
        if local[2] <= 0:
            continue
        u, v, _ = K.double().numpy() @ (local[:3] / local[2])
        if 0 <= u < WIDTH and 0 <= v < HEIGHT:
            depth = float(keyframe.depth[math.floor(v), math.floor(u)])
            if local[2] < min(depth, max_range):
                return 1
    return 0


def test_seen_space_is_the_slow_one():
    keyframes = keyframes_of([0.0, 2.0])
    memory = map_of_points(np.random.default_rng(0).uniform(-1, 1, (40, 3)))
    space = seen_space(memory, keyframes, K, cell=0.25, max_range=2.0)
    cells = np.random.default_rng(1).integers(-9, 10, (250, 3))
    states = space.at(cells)
    assert set(states.tolist()) == {0, 1, 2}
    for cell, state in zip(cells, states, strict=True):
        assert slow_state(memory, keyframes, (cell + 0.5) * 0.25, 0.25, 2.0) == state
    assert space.at(np.array([[10**6, 0, 0]])).tolist() == [0]


def test_frontiers_lie_between_the_free_and_the_unknown(room):
    keyframes = keyframes_of([0.0, 0.4])
    space = seen_space(room, keyframes, K)
    pieces = frontier(room, keyframes, K)
    assert pieces and [p.area for p in pieces] == sorted((p.area for p in pieces), reverse=True)
    for piece in pieces:
        cell = np.floor(piece.position / 0.2).astype(int)
        around = np.array([cell + d for d in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])])
        assert space.at(cell[None])[0] == 1 and (space.at(around) == 0).any()
        assert np.linalg.norm(piece.direction) == pytest.approx(1)
        assert piece.area >= 0.1
    # One looks along +x: the sides of what is seen lie to the left and the right.
    assert any(p.direction[1] > 0.5 for p in pieces) and any(p.direction[1] < -0.5 for p in pieces)


def test_looking_all_around_leaves_little_frontier_at_eye_level():
    around = keyframes_of([i * math.pi / 6 for i in range(12)])
    memory = SceneMemory(voxel=0.02)
    for keyframe in around:
        rgb, depth = torch.zeros(1, 3, HEIGHT, WIDTH), keyframe.depth[None].float()
        memory, _ = memory.update(rgb, depth, torch.ones_like(depth), keyframe.c2w[None], K, 0)
    few, many = frontier(memory, around[:1], K), frontier(memory, around, K)
    level = [p for p in many if abs(p.direction[2]) < 0.5]
    assert sum(p.area for p in level) < 0.5 * sum(p.area for p in few if abs(p.direction[2]) < 0.5)


def test_the_nearest_unseen_surface(room):
    keyframes = keyframes_of([0.0])
    here = np.array([0.5, 0.3, 0.0])
    found = nearest_unseen(room, keyframes, K, here)
    with_surface = [p for p in frontier(room, keyframes, K) if p.surface]
    assert found.surface
    assert np.linalg.norm(found.position - here) == min(
        np.linalg.norm(p.position - here) for p in with_surface
    )


def test_a_way_around_a_wall():
    wall = map_of_points(grid_points((1.0, -0.6, -0.6), (1.0, 0.6, 0.6)))
    way = find_path(wall, (0.5, 0, 0), (1.5, 0, 0), radius=0.1, step=0.15)
    assert len(way) > 2 and np.allclose(way[0], (0.5, 0, 0)) and np.allclose(way[-1], (1.5, 0, 0))
    for a, b in itertools.pairwise(way):
        assert free_distance(wall, a, b, 0.1) >= np.linalg.norm(b - a) - 1e-9 or np.linalg.norm(b - a) < 0.16
    assert np.linalg.norm(np.diff(way, axis=0), axis=-1).sum() < 3.0


def test_no_way_into_a_closed_box():
    shell = [grid_points((a, -0.3, -0.3), (a, 0.3, 0.3), 0.04) for a in (-0.31, 0.31)]
    shell = np.concatenate([np.roll(side, turn, axis=1) for side in shell for turn in range(3)])
    cells = np.unique(np.floor(shell / 0.02), axis=0, return_index=True)[1]
    box = map_of_points(shell[cells], radius=0.05)
    assert find_path(box, (0.0, 0, 0), (1.5, 0, 0), radius=0.1, step=0.1) is None
    assert find_path(box, (1.5, 0, 0), (0.31, 0, 0), radius=0.1) is None


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: raycast(m, (0, 0, np.nan), (1, 0, 0)), lambda m: raycast(m, (0, 0, 0), (0, 0, 0)),
        lambda m: raycast(m, (0, 0), (1, 0, 0)), lambda m: raycast(m, (0, 0, 0), (1, 0, 0), -1),
        lambda m: raycast(m, (0, 0, 0), (1, 0, 0), np.inf), lambda m: raycast(m, "abc", (1, 0, 0)),
        lambda m: occupied(m, (0, np.inf, 0)), lambda m: occupied(m, (0, 0, 0), -1), lambda m: occupied(m, [[1, 2]]),
        lambda m: free_distance(m, (0, 0, 0), (1, 0, np.nan)), lambda m: free_distance(m, (0, 0, 0), None),
        lambda m: frontier(m, [], K), lambda m: frontier(m, keyframes_of([0]), K, cell=0),
        lambda m: frontier(m, keyframes_of([0]), K, cell=np.nan),
        lambda m: frontier(m, keyframes_of([0]), K, max_range=1e9),
        lambda m: nearest_unseen(m, keyframes_of([0]), K, (np.nan, 0, 0)),
        lambda m: find_path(m, (0, 0, 0), (1, 1, 1), step=0), lambda m: find_path(m, (0, 0, 0), (1, 1, 1), radius=-1),
        lambda m: visible(m, torch.full((4, 4), torch.nan), K, 4, 4), lambda m: visible(m, torch.eye(4), K * 0, 4, 4),
    ],
)  # fmt: skip
def test_impossible_questions(ask, room):
    with pytest.raises((ActionError, PoseError)):
        ask(room)
