"""The map: updates against a slow dictionary, renders against the slow renderer, and the laws that hold always."""

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maps import HEIGHT, WIDTH, clip_at, grid_points, map_of_points, room_map, same_map
from spatia_env.errors import ActionError, WorldFullError
from spatia_env.geometry import invert_se3, pixel_rays
from spatia_env.memory import blocks as blk
from spatia_env.memory.fusion import ECHO, FINE_RADIUS, MAX_WEIGHT
from spatia_env.memory.point_map import Growth, SceneMemory
from spatia_env.memory.visibility import looked_through


def assert_sound(memory: SceneMemory) -> None:
    assert memory.num_points == sum(len(block) for block in memory.blocks.values()) <= memory.max_points
    for key, block in memory.blocks.items():
        assert blk.block_problem(block, key, memory.voxel, memory.voxels_per_side) == ""
        assert len(block) and not block.flags.writeable
        assert (block["views"] > 0).all() and (block["first_step"] <= block["last_step"]).all()


# -- keys ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(*[st.integers(-blk.MAX_BLOCK - 1, blk.MAX_BLOCK)] * 3), max_size=20))
def test_block_keys_are_unique_and_go_back(coordinates):
    array = np.array(coordinates, np.int64).reshape(-1, 3)
    keys = blk.pack_blocks(array)
    assert np.array_equal(blk.unpack_blocks(keys), array) and (keys >= 0).all()
    assert len(set(keys.tolist())) == len(set(coordinates))
    assert sorted(coordinates) == [tuple(c) for c in blk.unpack_blocks(np.sort(keys)).tolist()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-4000, 4000, width=32)] * 3), min_size=1, max_size=8),
    st.sampled_from([0.01, 0.02, 0.25]),
)
def test_points_are_located_in_the_voxel_that_holds_them(points, voxel):
    position, side = np.array(points, np.float32), round(0.5 / voxel)
    keys, index = blk.locate(position, voxel, side)
    for point, key, local in zip(position.tolist(), keys, index.tolist(), strict=True):
        cell = blk.unpack_blocks(np.array([key]))[0] * side + [
            local // side**2,
            local // side % side,
            local % side,
        ]
        assert ((cell * voxel - 1e-9 <= point) & (np.array(point) <= (cell + 1) * voxel + 1e-9)).all()


# -- update against a dictionary -------------------------------------------------------------------------------


class SlowMap:
    """One dictionary entry a voxel, one pixel at a time, in float64; no carving."""

    def __init__(self, voxel: float) -> None:
        self.voxel, self.points = voxel, {}

    def update(self, rgb, depth, weight, c2w, K, step, confirm_only=None) -> Growth:
        sums: dict[tuple, list] = {}
        rays = pixel_rays(K, *depth.shape[-2:])
        for t, row, column in np.ndindex(*depth.shape):
            z, w = float(depth[t, row, column]), float(weight[t, row, column])
            if not (w > 0 and z > 0 and math.isfinite(z)):
                continue
            point = (c2w[t, :3, :3] @ (rays[row, column] * z) + c2w[t, :3, 3]).numpy()
            radius = z / float(K[0, 0])
            opens = confirm_only is None or not bool(confirm_only[t, row, column])
            quality = (1 if opens else ECHO) * w * min(FINE_RADIUS / radius, 2.0) ** 2
            cell = tuple(np.floor(point.astype(np.float64) / self.voxel).astype(int).tolist())
            entry = sums.setdefault(cell, [0.0, np.zeros(3), np.zeros(3), math.inf, 0, False])
            entry[0] += quality
            entry[1] = entry[1] + quality * point.astype(float)
            entry[2] = entry[2] + quality * rgb[t, :, row, column].numpy().astype(float)
            entry[3], entry[4] = min(entry[3], radius if opens else math.inf), entry[4] + 1
            entry[5] |= opens
        added = confirmed = 0
        for cell, (total, position, colour, radius, count, opens) in sums.items():
            if cell in self.points:
                old = self.points[cell]
                weights = old["weight"] + total
                old["position"] = (old["position"] * old["weight"] + position) / weights
                old["colour"] = np.rint((old["colour"] * old["weight"] + 255 * colour) / weights)
                old["weight"], old["radius"] = min(weights, MAX_WEIGHT), min(old["radius"], radius)
                old["views"], old["last_step"] = old["views"] + count, step
                confirmed += 1
            elif opens:
                self.points[cell] = {
                    "position": position / total, "colour": np.rint(255 * colour / total), "radius": radius,
                    "weight": min(total, MAX_WEIGHT), "views": count, "first_step": step, "last_step": step,
                }  # fmt: skip
                added += 1
        return Growth(added=added, confirmed=confirmed)


def assert_agrees(memory: SceneMemory, slow: SlowMap) -> None:
    rows = memory.points()
    assert len(rows) == len(slow.points)
    for row in rows:
        cell = tuple(np.floor(row["position"].astype(np.float64) / memory.voxel).astype(int).tolist())
        expected = slow.points.get(cell)
        if expected is None:  # a mean on the border of its voxel, rounded across it
            continue
        assert np.allclose(row["position"], expected["position"], atol=1e-5)
        assert np.abs(row["colour"].astype(float) - expected["colour"]).max() <= 1
        assert np.isclose(row["weight"], expected["weight"], rtol=1e-4)
        assert np.isclose(float(row["radius"]), expected["radius"], rtol=2e-3)
        for name in ("views", "first_step", "last_step"):
            assert row[name] == expected[name]


def test_updates_are_those_of_a_slow_map():
    memory, slow = SceneMemory(voxel=0.05, carve=False), SlowMap(0.05)
    for step, turn in enumerate((0.0, 0.2, 0.1)):
        rgb, depth, weight, path, lens = clip_at(turn, frames=2, noise=0.01, seed=step, height=9, width=14)
        weight[0, 2] = 0
        depth[1, 3] = 0
        confirm = torch.zeros_like(depth, dtype=torch.bool)
        confirm[:, :, 5:] = step == 1
        memory, growth = memory.update(rgb, depth, weight, path, lens, step, confirm)
        expected = slow.update(rgb, depth, weight, path, lens, step, confirm)
        assert (growth.added, growth.confirmed) == (expected.added, expected.confirmed)
        assert_agrees(memory, slow)
        assert_sound(memory)
    assert memory.num_points > 100 and (memory.points()["first_step"] == 2).any()


def test_weights_and_views_have_a_limit():
    memory = SceneMemory(voxel=0.25)
    rgb, depth, _, path, lens = clip_at(0.0, frames=2)
    for step in range(60):
        memory, _ = memory.update(rgb, depth, torch.ones_like(depth), path, lens, step)
    assert memory.points()["weight"].max() == MAX_WEIGHT
    assert_sound(memory)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 0.0, 1e9, 3e38])
def test_bad_pixels_are_not_written(bad):
    rgb, depth, weight, path, lens = clip_at(0.0, frames=2)
    clean, _ = SceneMemory(voxel=0.02).update(rgb, depth, weight, path, lens, 0)
    spoiled = depth.clone()
    spoiled[:, :5] = bad
    memory, growth = SceneMemory(voxel=0.02).update(rgb, spoiled, weight, path, lens, 0)
    assert_sound(memory)
    assert 0 < growth.added < clean.num_points
    painted = rgb.clone()
    painted[:, :, :5] = bad
    for change in ({"rgb": painted}, {"weight": torch.where(spoiled == depth, weight, bad)}):
        arguments = {"rgb": rgb, "depth": depth, "weight": weight, **change}
        memory, _ = SceneMemory(voxel=0.02).update(**arguments, c2w=path, K=lens, step=0)
        memory, _ = memory.update(**arguments, c2w=path, K=lens, step=1)
        assert_sound(memory)


def test_a_clip_of_nothing_changes_nothing():
    memory = room_map(2)
    rgb, depth, weight, path, lens = clip_at(0.0)
    for nothing in ({"depth": depth * 0}, {"weight": weight * 0}):
        after, growth = memory.update(
            **{"rgb": rgb, "depth": depth, "weight": weight, **nothing}, c2w=path, K=lens, step=9
        )
        assert growth == Growth() and same_map(after, memory)


# -- immutability ----------------------------------------------------------------------------------------------


def test_an_update_leaves_the_old_map_alone_and_shares_the_rest():
    before = room_map(3)
    contents = {key: block.tobytes() for key, block in before.blocks.items()}
    rgb, depth, weight, path, lens = clip_at(0.0, seed=9)
    after, growth = before.update(rgb, depth, weight, path, lens, 9)
    assert {key: block.tobytes() for key, block in before.blocks.items()} == contents
    shared = [key for key in before.blocks if after.blocks.get(key) is before.blocks[key]]
    seen = set(after.visible_keys(path, lens, HEIGHT, WIDTH).tolist())
    assert growth.confirmed > 0 and len(shared) > 0
    assert all(key in shared for key in before.blocks if key not in seen)
    with pytest.raises(TypeError):
        after.blocks[0] = blk.EMPTY
    with pytest.raises(ValueError, match="read-only"):
        next(iter(after.blocks.values()))["weight"] = 0


def test_counts_and_bytes():
    memory = room_map(2)
    assert_sound(memory)
    assert len(memory.points()) == memory.num_points and memory.num_bytes == 36 * memory.num_points
    keys = blk.locate(memory.points()["position"], memory.voxel, memory.voxels_per_side)[0]
    assert (np.diff(keys) >= 0).all()


def fingerprint(clips: list) -> str:
    """Hash of the map that clips make and of its render along the last of them."""
    memory = SceneMemory()
    for step, clip in enumerate(clips):
        memory, _ = memory.update(*clip, step=step)
    path, lens, (height, width) = clips[-1][3], clips[-1][4], clips[-1][1].shape[-2:]
    view = memory.render(path, lens, height, width)
    parts = [memory.points().tobytes(), *(t.numpy().tobytes() for t in (view.rgb, view.depth, view.known))]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_threads_do_not_change_a_bit():
    clips = [clip_at(1.1 * i, noise=0.002, seed=i, height=64, width=96) for i in range(2)]
    before, digests = torch.get_num_threads(), set()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        digests.add(fingerprint(clips))
    torch.set_num_threads(before)
    assert len(digests) == 1


def test_another_process_makes_the_same_map(tmp_path):
    clips = [clip_at(1.1 * i, noise=0.002, seed=i) for i in range(3)]
    torch.save(clips, tmp_path / "clips.pt")
    script = "import sys, torch, test_memory_scene as t; print(t.fingerprint(torch.load(sys.argv[1])))"
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.path.dirname(here)])
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "clips.pt")], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": path, "LC_ALL": "C"}, cwd=tmp_path,
    )  # fmt: skip
    assert told.stdout.strip() == fingerprint(clips)


# -- carving ---------------------------------------------------------------------------------------------------


def slow_looked_through(position, depth, weight, w2c, K) -> np.ndarray:
    """One point and one view at a time: the nearest surface of the 3x3 pixels around, all of them sure."""
    views = sorted(
        {0, (len(depth) - 1) // 2 if len(depth) % 2 else round((len(depth) - 1) / 2), len(depth) - 1}
    )
    need, out = min(2, len(views)), []
    for point in position:
        through = 0
        for view in views:
            x, y, z = (w2c[view, :3, :3] @ torch.tensor(point) + w2c[view, :3, 3]).tolist()
            if z <= 0:
                continue
            u, v = (
                math.floor(x / z * float(K[0, 0]) + float(K[0, 2])),
                math.floor(y / z * float(K[1, 1]) + float(K[1, 2])),
            )
            if not (0 <= u < depth.shape[2] and 0 <= v < depth.shape[1]):
                continue
            rows, columns = slice(max(v - 1, 0), v + 2), slice(max(u - 1, 0), u + 2)
            around, sure = depth[view, rows, columns], weight[view, rows, columns]
            if bool(((sure > 0.5) & (around > 0)).all()) and float(around.min()) > z * 1.04 + 0.06:
                through += 1
        out.append(through >= need)
    return np.array(out)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_carving_is_the_slow_one(frames):
    _, depth, weight, path, lens = clip_at(0.3, frames=frames)
    weight = torch.where(torch.arange(WIDTH) < 20, torch.ones_like(weight), weight)
    rng = np.random.default_rng(0)
    position = rng.uniform((0, -1, -0.5), (2.2, 1.2, 0.5), (400, 3)).astype(np.float32)
    w2c = invert_se3(path)
    gone = looked_through(position, depth, weight, w2c, lens)
    assert np.array_equal(gone, slow_looked_through(position, depth, weight, w2c, lens))
    assert 0 < gone.sum() < len(gone)


def test_a_ghost_goes_and_the_wall_stays():
    memory = room_map(2)
    ghost = map_of_points(grid_points((1.0, -0.14, -0.1), (1.0, 0.06, 0.1)), np.full(3, 9, np.uint8))
    haunted = memory.with_blocks(ghost.blocks)
    rgb, depth, weight, path, lens = clip_at(0.0)
    after, growth = haunted.update(rgb, depth, torch.ones_like(weight), path, lens, 5)
    assert growth.carved >= 0.95 * ghost.num_points
    assert (after.points()["colour"] == 9).all(-1).sum() <= 0.05 * ghost.num_points
    straight, plain = memory.update(rgb, depth, torch.ones_like(weight), path, lens, 5)
    assert plain.carved <= 0.01 * memory.num_points and abs(after.num_points - straight.num_points) < 50
    kept, _ = SceneMemory(voxel=0.02, carve=False).with_blocks(haunted.blocks).update(
        rgb, depth, torch.ones_like(weight), path, lens, 5
    )  # fmt: skip
    assert (kept.points()["colour"] == 9).all(-1).sum() == ghost.num_points
    unsure, growth = haunted.update(rgb, depth, torch.full_like(weight, 0.4), path, lens, 5)
    assert growth.carved == 0 and unsure.num_points >= haunted.num_points


# -- bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_a_full_map_evicts_what_was_seen_longest_ago(spare):
    full = room_map(3)
    limited = room_map(3, max_points=full.num_points + spare)
    assert_sound(limited)
    if spare >= 0:
        assert same_map(full, limited)
        return
    gone = [key for key in full.blocks if key not in limited.blocks]
    newest = max(int(full.blocks[key]["last_step"].max()) for key in gone)
    assert all(int(block["last_step"].max()) >= newest for block in limited.blocks.values())
    assert full.num_points - limited.num_points == sum(len(full.blocks[key]) for key in gone)


def test_evictions_are_counted_and_repeatable():
    memory = room_map(2)
    small = room_map(2, max_points=memory.num_points)
    after, growth = small.update(*clip_at(2.5, seed=3), step=3)
    again, _ = small.update(*clip_at(2.5, seed=3), step=3)
    assert growth.evicted > 0 and same_map(after, again)
    assert (
        after.num_points
        == small.num_points + growth.added - growth.carved - growth.evicted
        <= small.max_points
    )
    tiny, growth = SceneMemory(voxel=0.02, max_points=10).update(*clip_at(0.0), step=0)
    assert tiny.num_points <= 10 and growth.evicted == growth.added - tiny.num_points


def test_a_full_map_can_refuse():
    memory = room_map(2)
    strict = SceneMemory(voxel=0.02, max_points=memory.num_points, on_full="error").with_blocks(memory.blocks)
    with pytest.raises(WorldFullError, match="max_points"):
        strict.update(*clip_at(2.5, seed=3), step=3)
    assert same_map(strict, memory)


@pytest.mark.parametrize(
    "setting", [{"on_full": "explode"}, {"max_points": 0}, {"voxel": -0.01}, {"block": 0.333}]
)
def test_impossible_settings(setting):
    with pytest.raises(ActionError):
        SceneMemory(**setting)


# -- rendering -------------------------------------------------------------------------------------------------
