"""Undo and redo of edits, pictures that saw them, and edits that cannot be."""

import json
import math

import numpy as np
import pytest
import torch

from maps import HEIGHT, WIDTH, K, clip_at, keyframes_of, map_of_points, room_map, same_map
from spatia_env.errors import EditError, WorldFullError, WorldTooLargeError
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.editing import (
    extract,
    freeze,
    insert,
    move,
    recolor,
    remove,
    repaint,
    revert,
    rotate,
    stale,
)
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.regions import Box, Click, Mask
from tests.tables import BOX, EYE, LENS, SIZE, assert_sound, one_point, pixel_of, shifted, table


def edits():
    shift = shifted(0.3, 0.5, 0.1)
    return {
        "remove": lambda m: remove(m, BOX),
        "move": lambda m: move(m, BOX, shift),
        "rotate": lambda m: rotate(m, BOX, (0.2, 0.1, 0.7)),
        "insert": lambda m: insert(m, extract(table(), BOX), shift),
        "recolor": lambda m: recolor(m, BOX, (1, 2, 3)),
        "freeze": lambda m: freeze(m, BOX),
    }


@pytest.mark.parametrize("name", edits())
def test_undo_and_redo_are_exact(name):
    before = table()
    after, record = edits()[name](before)
    back, undone = revert(after, record)
    again, redone = revert(back, undone, "redo")
    assert same_map(back, before) and same_map(again, after)
    assert (undone.kind, redone.kind) == ("undo", "redo") and undone.details["of"] == redone.details["of"]


def test_several_edits_go_back_and_forth():
    memory, states, records = table(), [table()], []
    for name in ("recolor", "insert", "move"):
        memory, record = edits()[name](memory)
        records.append(record)
        states.append(memory)
    undone = []
    for record, expected in zip(reversed(records), reversed(states[:-1]), strict=True):
        memory, back = revert(memory, record)
        undone.append(back)
        assert same_map(memory, expected)
    for record, expected in zip(reversed(undone), states[1:], strict=True):
        memory, _ = revert(memory, record, "redo")
        assert same_map(memory, expected)


def test_undo_keeps_what_was_seen_meanwhile():
    before = room_map(2)
    region = Box((2, 0, 0), (0.6, 1.2, 1.2))
    after, record = remove(before, region)
    grown, growth = after.update(*clip_at(0.3, seed=7), step=7)
    assert growth.added > 0
    back, _ = revert(grown, record)
    seen = grown.points()
    kept = {tuple(p) for p in back.points()["position"].tolist()}
    assert all(tuple(p) in kept for p in seen["position"].tolist())
    assert back.num_points > grown.num_points
    assert_sound(back)


def test_undo_of_an_insertion_after_more_steps_takes_only_the_insertion():
    before = room_map(2)
    cloud = one_point(0.9, 0.1, 0.1)
    after, record = insert(before, cloud)
    grown, _ = after.update(*clip_at(0.3, seed=7), step=7)
    straight, _ = before.update(*clip_at(0.3, seed=7), step=7)
    assert same_map(revert(grown, record)[0], straight)


# -- keyframes -----------------------------------------------------------------------------------------------


def test_pictures_that_saw_the_change_are_repainted_and_others_are_the_same_objects():
    keyframes = keyframes_of([0.0, math.pi])
    memory = SceneMemory(voxel=0.02)
    for keyframe in keyframes:
        rgb = keyframe.frame.movedim(-1, 0)[None].float() / 255
        memory, _ = memory.update(
            rgb,
            keyframe.depth[None].float(),
            torch.ones(1, HEIGHT, WIDTH),
            keyframe.c2w[None],
            K,
            keyframe.step,
        )
    region = Box((2, -0.1, 0), (0.3, 0.8, 0.8))
    after, record = recolor(memory, region, (255, 0, 255), keep_shading=False)
    assert stale(keyframes, record, K) == [0]
    painted = repaint(keyframes, memory, after, record, K)
    assert painted[1] is keyframes[1]
    changed = (painted[0].frame != keyframes[0].frame).any(-1)
    centre = painted[0].frame[HEIGHT // 2, WIDTH // 2].tolist()
    assert centre[0] > 200 and centre[1] < 60 and centre[2] > 200
    assert 0.02 < changed.float().mean() < 0.6
    gone, record = remove(memory, region)
    emptied = repaint(keyframes, memory, gone, record, K)[0]
    assert emptied.depth[HEIGHT // 2, WIDTH // 2] == 0
    assert (emptied.depth[~(emptied.depth != keyframes[0].depth)] > 0).all()


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Box((0, 0, 0), (1, -1, 1)), lambda: Box((0, 0, 0), (0, 1, 1)), lambda: Box((0, 0, np.nan), (1, 1, 1)),
        lambda: Box((0, 0, 0), (1, np.inf, 1)), lambda: Box((0, 0), (1, 1, 1)), lambda: Box("abc", (1, 1, 1)),
        lambda: Box((0, 0, 0), (1, 1, 1), np.diag([1, 1, -1])), lambda: Box((0, 0, 0), (1, 1, 1), np.ones((3, 3))),
        lambda: Box.between((0, 0, 0), (1, -1, 1)), lambda: Box.between((1, 1, 1), (0, 0, 0)),
        lambda: Mask(np.zeros(5, bool), EYE, LENS), lambda: Mask(np.zeros(SIZE), EYE, LENS),
        lambda: Mask(np.ones(SIZE, bool), EYE * 2, LENS), lambda: Mask(np.ones(SIZE, bool), EYE, LENS * 0),
        lambda: Click((-1, 5), EYE, LENS, SIZE), lambda: Click((128, 5), EYE, LENS, SIZE),
        lambda: Click((np.nan, 5), EYE, LENS, SIZE), lambda: Click((5, 5), EYE[:3], LENS, SIZE),
        lambda: Click((5, 5), None, LENS, SIZE), lambda: Click((5, 5), EYE, LENS, SIZE, colour_tolerance=0),
        lambda: Click((5, 5), EYE, LENS, SIZE, max_radius=np.nan),
    ],
)  # fmt: skip
def test_impossible_regions(make):
    with pytest.raises(EditError):
        make()


CLOUD = one_point(0, 0, 0)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: remove(m, Box((50, 50, 50), (1, 1, 1))), lambda m: move(m, Box((9, 9, 9), (1, 1, 1)), np.eye(4)),
        lambda m: move(m, BOX, np.zeros((4, 4))), lambda m: move(m, BOX, np.diag([1, 1, 2, 1])),
        lambda m: move(m, BOX, np.full((4, 4), np.nan)), lambda m: move(m, BOX, np.eye(3)),
        lambda m: move(m, BOX, None), lambda m: move(m, BOX, shifted(1e5, 0, 0)),
        lambda m: rotate(m, BOX, (np.nan, 0, 0)), lambda m: rotate(m, BOX, (0, 0)),
        lambda m: rotate(m, BOX, (0, 0, 1), "x"), lambda m: recolor(m, BOX, (300, 0, 0)),
        lambda m: recolor(m, BOX, (-1, 0, 0)), lambda m: recolor(m, BOX, "red"),
        lambda m: insert(m, CLOUD, scale=0), lambda m: insert(m, CLOUD, scale=np.nan),
        lambda m: insert(m, CLOUD, np.ones((4, 4))), lambda m: insert(m, one_point(0, 0, 0, count=0)),
        lambda m: PointCloud.of_mesh([[0, 0, 0]], [[0, 1, 2]], np.zeros((1, 3), np.uint8)),
        lambda m: PointCloud.of_mesh([[0, 0, np.nan]], [[0, 0, 0]], np.zeros((1, 3), np.uint8)),
        lambda m: PointCloud.of_mesh(np.eye(3), [[0, 1, 2]], np.zeros((3, 3), np.uint8), spacing=0),
    ],
)  # fmt: skip
def test_impossible_edits_leave_the_map_as_it_was(edit):
    memory = table()
    with pytest.raises(EditError):
        edit(memory)
    assert same_map(memory, table())


def test_edits_that_are_too_large():
    small = map_of_points([[0.01, 0.01, 0.01]], max_points=2)
    many = PointCloud.of_mesh(np.eye(3), [[0, 1, 2]], np.zeros((3, 3), np.uint8))
    with pytest.raises(WorldTooLargeError, match="max_points"):
        insert(small, many)
    with pytest.raises(WorldTooLargeError, match="spacing"):
        PointCloud.of_mesh(np.eye(3), [[0, 1, 2]], np.zeros((3, 3), np.uint8), spacing=1e-5)
    full = map_of_points([[0.01, 0.01, 0.01], [0.5, 0.5, 0.5]], max_points=2, on_full="error")
    with pytest.raises(WorldFullError):
        insert(full, CLOUD, shifted(5, 0, 0))


def test_a_record_is_plain_data():
    _, record = move(table(), BOX, np.eye(4))
    _, clicked = freeze(table(), Click(pixel_of((0.9, -0.1, 0.31)), EYE, LENS, SIZE))
    for one in (record, clicked):
        assert json.loads(json.dumps(one.as_dict())) == one.as_dict()
