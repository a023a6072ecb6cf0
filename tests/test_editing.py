"""Edits: what they change, what they leave alone, and that they can be taken back."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from maps import clip_at, grid_points, map_of_points, room_map, same_map
from spatia_env.errors import EditError
from spatia_env.geometry import intrinsics_from_fov, look_at
from spatia_env.io.ply import write_ply
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.editing import extract, freeze, insert, move, recolor, remove, rotate, start_from
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.regions import Box, Click, Mask
from tests.tables import (
    BOX,
    EYE,
    GREY,
    LENS,
    RED,
    SIZE,
    assert_sound,
    in_box,
    one_point,
    pixel_of,
    shifted,
    table,
)


def test_remove_takes_what_is_inside_and_nothing_else():
    before = table()
    after, record = remove(before, BOX)
    rows = before.points()
    assert after.points().tobytes() == rows[~in_box(rows)].tobytes()
    assert record.points == in_box(rows).sum() == before.num_points - after.num_points
    assert np.allclose(record.low, rows["position"][in_box(rows)].min(0))
    assert np.allclose(record.high, rows["position"][in_box(rows)].max(0))
    assert same_map(before, table())
    shared = sum(after.blocks.get(key) is block for key, block in before.blocks.items())
    assert shared == len(before.blocks) - len(record.changes)
    assert_sound(after)


def test_a_box_may_be_turned():
    turned = Box((1, 0, 0.2), (0.1, 3, 1), Rotation.from_euler("z", 30, degrees=True).as_matrix())
    before = table()
    after, _ = remove(before, turned)
    axis = np.array([math.cos(math.pi / 6), math.sin(math.pi / 6)])
    inside = np.abs((before.points()["position"][:, :2] - [1, 0]) @ axis) <= 0.05
    across = np.abs((before.points()["position"][:, :2] - [1, 0]) @ [-axis[1], axis[0]]) <= 1.5
    assert after.num_points == before.num_points - (inside & across).sum()


def test_everything_can_be_removed():
    after, _ = remove(table(), Box((0, 0, 0), (100, 100, 100)))
    assert after.num_points == 0 and not after.blocks
    view = after.render(EYE[None], LENS, *SIZE)
    assert not view.known.any()
    grown, _ = after.update(*clip_at(0.0), step=1)
    assert grown.num_points > 0


def test_move_puts_the_points_elsewhere_and_leaves_a_hole():
    before = table()
    after, record = move(before, BOX, shifted(0.1, 0.4, 0.02))  # whole voxels: nothing is resampled
    rows = before.points()[in_box(before.points())]
    moved = after.points()[after.points()["layer"] == 1]
    assert len(moved) == len(rows) == record.points
    expected = rows["position"] + np.array([0.1, 0.4, 0.02], np.float32)
    assert np.allclose(sorted(moved["position"].tolist()), sorted(expected.tolist()), atol=1e-6)
    assert (moved["colour"] == RED).all() and np.allclose(moved["radius"], rows["radius"][0])
    assert not in_box(after.points()[after.points()["layer"] == 0]).any()
    assert_sound(after)


def test_rotate_turns_about_the_middle():
    after, _ = rotate(table(), BOX, (0, 0, math.pi / 4))
    moved = after.points()[after.points()["layer"] == 1]["position"].astype(np.float64)
    assert np.allclose((moved.min(0) + moved.max(0))[:2] / 2, [1, 0], atol=0.02)
    assert abs(np.ptp(moved[:, 0]) - 0.32 * math.sqrt(2)) < 0.03
    assert_sound(after)


def test_moved_points_replace_what_is_there():
    before = map_of_points([[0.01, 0.01, 0.01], [0.11, 0.01, 0.01]], np.array([RED, GREY], np.uint8))
    after, _ = move(before, Box((0.01, 0.01, 0.01), (0.01, 0.01, 0.01)), shifted(0.1, 0, 0))
    assert after.points()["colour"].tolist() == [list(RED)] and after.num_points == 1


def test_insert_from_a_cloud_a_file_and_another_map(tmp_path):
    cloud = extract(table(), BOX)
    write_ply(tmp_path / "box.ply", cloud)
    there = shifted(-3, 0, 0)
    results = [
        insert(room_map(1), source, there)[0]
        for source in (cloud, tmp_path / "box.ply", str(tmp_path / "box.ply"))
    ]
    assert same_map(results[0], results[1]) and same_map(results[0], results[2])
    new = results[0].points()[results[0].points()["layer"] == 1]
    assert len(new) == len(cloud) and np.allclose(
        new["position"].mean(0), cloud.position.mean(0) - [3, 0, 0], atol=1e-4
    )
    assert_sound(results[0])


def test_insert_scales_and_dates():
    after, _ = insert(SceneMemory(voxel=0.02), extract(table(), BOX).centred(), scale=2.0, step=9)
    rows = after.points()
    assert (rows["last_step"] == 9).all() and (rows["first_step"] == 9).all()
    assert np.allclose(np.ptp(rows["position"], axis=0), [0.64, 0.64, 0.56], atol=0.05)
    assert abs(float(rows["position"][:, 2].min())) < 1e-6


def test_points_of_one_voxel_become_their_weighted_mean():
    cloud = PointCloud(
        np.array([[0.002, 0.001, 0.001], [0.014, 0.001, 0.001]], np.float32),
        np.array([[0, 0, 0], [200, 100, 40]], np.uint8),
        np.array([1, 3], np.float32),
        np.array([0.03, 0.02], np.float32),
    )  # fmt: skip
    after, _ = insert(SceneMemory(voxel=0.02), cloud)
    (row,) = after.points()
    assert np.allclose(row["position"], [0.011, 0.001, 0.001]) and row["colour"].tolist() == [150, 75, 30]
    assert row["weight"] == 4 and abs(float(row["radius"]) - 0.02) < 1e-4


def test_a_mesh_becomes_a_surface_without_holes():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], float)
    colours = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [100, 100, 0]], np.uint8)
    cloud = PointCloud.of_mesh(vertices, np.array([[0, 1, 2], [1, 3, 2]]), colours, spacing=0.02)
    cells = np.unique(np.floor(cloud.position[:, :2] / 0.02 + 1e-4).clip(0, 49), axis=0)
    assert len(cells) == 2500
    assert np.abs(cloud.colour[:, 0] - 100 * cloud.position[:, 0]).max() <= 1
    assert len(PointCloud.of_mesh(vertices, np.zeros((0, 3), int), colours)) == 0


def test_recolor_keeps_light_and_shade():
    colour = np.array([[100, 100, 100], [50, 50, 50]], np.uint8)
    before = map_of_points([[0.01, 0.01, 0.01], [0.05, 0.01, 0.01]], colour)
    everything = Box((0, 0, 0), (1, 1, 1))
    after, record = recolor(before, everything, (150, 75, 0))
    assert after.points()["colour"].tolist() == [[200, 100, 0], [100, 50, 0]]
    flat, _ = recolor(before, everything, (150, 75, 0), keep_shading=False)
    assert flat.points()["colour"].tolist() == [[150, 75, 0]] * 2
    assert record.points == 2 and (after.points()["layer"] == 1).all()
    assert after.points()["position"].tobytes() == before.points()["position"].tobytes()


# -- edited points stay --------------------------------------------------------------------------------------


def test_updates_neither_carve_nor_change_edited_points():
    memory = room_map(2)
    where = grid_points((1.0, -0.3, -0.1), (1.0, 0.3, 0.2))[::7].astype(np.float32)
    few = np.ones(len(where), np.float32)
    ghost = PointCloud(where, np.full((len(where), 3), 9, np.uint8), few, few * 0.02)
    memory, _ = insert(memory, ghost)
    wall, _ = freeze(memory, Box((2, 0, 0), (0.5, 1, 1)))
    kept = wall.points()[wall.points()["layer"] == 1]
    assert len(kept) > len(ghost)
    for step in range(2, 5):
        rgb, depth, weight, path, lens = clip_at(0.0, seed=step)
        wall, _ = wall.update(1 - rgb, depth, torch.ones_like(weight), path, lens, step)
    now = wall.points()[wall.points()["layer"] == 1]
    for name in ("position", "colour", "weight", "radius", "first_step"):
        assert now[name].tobytes() == kept[name].tobytes()
    assert (now["last_step"] >= kept["last_step"]).all() and now["last_step"].max() == 4
    # The same ghost, not edited, is looked through and goes.
    plain = start_from(room_map(2), ghost)
    plain, growth = plain.update(rgb, depth, torch.ones_like(weight), path, lens, step=2)
    assert growth.carved >= len(ghost) // 2


def test_a_render_may_show_what_was_observed_or_what_was_edited_alone():
    wall = SceneMemory(voxel=0.02)
    c2w = look_at(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]))
    k = intrinsics_from_fov(60, 48, 64)
    depth = torch.full((1, 48, 64), 2.0)
    wall, _ = wall.update(torch.full((1, 3, 48, 64), 0.5), depth, torch.ones_like(depth), c2w[None], k, 1)
    painted, _ = recolor(wall, Box((2.0, 0.0, 1.0), (0.2, 0.6, 0.6)), (255, 0, 0), keep_shading=False)
    both, observed, edited = (painted.render(c2w[None], k, 48, 64, layers) for layers in (None, [0], [1]))
    assert not observed.known[0, 24, 32] and edited.known[0, 24, 32] and both.known[0, 24, 32]
    assert observed.known[0, 2, 2] and not edited.known[0, 2, 2]
    assert edited.rgb[0, 0, 24, 32] > 0.9 and edited.rgb[0, 1, 24, 32] < 0.1
    assert not painted.render(c2w[None], k, 48, 64, []).known.any()


def test_blocks_with_edits_are_evicted_last():
    memory = map_of_points([[x + 0.25, 0.25, 0.25] for x in range(4)], max_points=4)
    memory, _ = freeze(memory, Box((0.25, 0.25, 0.25), (0.1, 0.1, 0.1)))
    cloud = one_point(9, 9, 9)
    memory, _ = insert(memory, cloud, step=5)
    assert memory.num_points == 4
    assert {tuple(p) for p in memory.points()["position"].tolist()} >= {(0.25, 0.25, 0.25), (9, 9, 9)}


# -- by picture ----------------------------------------------------------------------------------------------


def test_a_click_takes_the_thing_and_not_the_floor():
    before = table()
    after, _ = remove(before, Click(pixel_of((0.9, -0.1, 0.31)), EYE, LENS, SIZE))
    left, red = after.points(), (before.points()["colour"] == RED).all(-1)
    assert (left["colour"] == RED).all(-1).sum() <= 0.02 * red.sum()
    assert (left["colour"] == GREY).all(-1).sum() >= 0.99 * (~red).sum()


@pytest.mark.parametrize("noise", [0.0, 0.004])
def test_a_click_takes_the_thing_where_colours_are_equal(noise):
    rows = table().points()
    rng = np.random.default_rng(0)
    jitter = np.clip(rng.normal(scale=noise, size=(len(rows), 3)), -0.009, 0.009)
    memory = map_of_points(rows["position"] + jitter, np.full((len(rows), 3), 120, np.uint8))
    thing, position = in_box(rows), memory.points()["position"]
    selection = Click(pixel_of((1.0, 0.0, 0.31)), EYE, LENS, SIZE).select(memory)
    chosen = {
        tuple(p) for key, mask in selection.items() for p in memory.blocks[key][mask]["position"].tolist()
    }
    found = np.array([tuple(p) in chosen for p in position.tolist()])
    assert found[thing].mean() > 0.9 and found[~thing].mean() < 0.01


def test_a_click_on_the_floor_takes_the_floor():
    before = table()
    left, _ = remove(before, Click(pixel_of((0.4, 0.5, 0.01)), EYE, LENS, SIZE))
    assert (left.points()["colour"] == RED).all(-1).sum() == (before.points()["colour"] == RED).all(-1).sum()
    assert left.num_points < 0.4 * before.num_points


def test_a_mask_takes_the_visible_surface_only():
    before = table()
    u, v = pixel_of((1.0, 0.0, 0.31))
    rows, columns = np.mgrid[:96, :128]
    mask = np.hypot(columns + 0.5 - u, rows + 0.5 - v) < 6
    after, record = remove(before, Mask(mask, EYE, LENS))
    gone = {tuple(p) for p in before.points()["position"].tolist()} - {
        tuple(p) for p in after.points()["position"].tolist()
    }
    gone = np.array(sorted(gone))
    assert len(gone) == record.points > 20
    camera = (gone - EYE[:3, 3].numpy()) @ EYE[:3, :3].numpy() @ LENS.numpy().T
    pixel = np.floor(camera[:, :2] / camera[:, 2:]).astype(int)
    assert mask[pixel[:, 1], pixel[:, 0]].all()
    assert gone[:, 2].min() > 0.2  # the floor behind the box stays


def test_nothing_under_the_pixel():
    with pytest.raises(EditError, match="click"):
        remove(table(), Click((64, 2), EYE, LENS, SIZE))
    with pytest.raises(EditError, match="mask"):
        remove(table(), Mask(np.zeros(SIZE, bool), EYE, LENS))
    with pytest.raises(EditError, match="click"):
        remove(SceneMemory(), Click((64, 48), EYE, LENS, SIZE))


# -- undo ----------------------------------------------------------------------------------------------------
