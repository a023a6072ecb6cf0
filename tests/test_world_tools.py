"""Edits and questions on a whole world: its map, its pictures, its ledger; and moves that stop at surfaces."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from maps import HEIGHT, WIDTH, clip_at, grid_points, map_of_points, same_map, view_at
from spatia_env.errors import ActionError, EditError, PoseError, WorldFormatError, WorldFullError
from spatia_env.geometry import path_from_twist
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.regions import Box
from spatia_env.world.queries import halted
from worlds import room_world

AHEAD = Box((2.0, 0.0, 0.0), (0.4, 0.8, 0.8))
"""A patch of the wall that the camera looks at."""


def same_state(a, b) -> bool:
    tensors = ("c2w", "preceding_frames", "depth")
    return (
        same_map(a.memory, b.memory)
        and all(torch.equal(getattr(a, n), getattr(b, n)) for n in tensors)
        and len(a.keyframes) == len(b.keyframes)
        and all(
            torch.equal(x.frame, y.frame) and torch.equal(x.depth, y.depth)
            for x, y in zip(a.keyframes, b.keyframes, strict=True)
        )
    )


def test_an_edit_shows_in_the_map_the_pictures_and_the_ledger():
    world = room_world()
    before = world.state
    record = world.edit.recolor(AHEAD, (255, 0, 0), keep_shading=False)
    view = world.render(before.c2w[None])
    v, u = HEIGHT // 2, WIDTH // 2
    assert view.rgb[0, :, v, u].tolist() == [1.0, 0.0, 0.0]
    shown = [world.state.preceding_frames[i, v, u].tolist() for i in range(4)]
    assert shown == [[255, 0, 0]] * 4
    assert world.state.keyframes[0].frame[v, u].tolist() == [255, 0, 0]
    assert world.state.keyframes[3] is before.keyframes[3]  # it looks the other way
    row = world.state.ledger[-1]
    assert (row.step, row.name, row.kind) == (3, "recolor", "edit")
    assert json.loads(row.text)["points"] == record.points > 0


def test_removing_leaves_a_hole_that_the_pictures_do_not_show_as_known():
    world = room_world()
    world.edit.remove(AHEAD)
    v, u = HEIGHT // 2, WIDTH // 2
    assert not world.render(world.c2w[None]).known[0, v, u]
    assert world.state.keyframes[0].depth[v, u] == 0 and world.state.depth[v, u] == 0


@pytest.mark.parametrize("kind", ["remove", "move", "rotate", "recolor", "freeze", "insert"])
def test_undo_is_exact_and_redo_repeats(kind):
    world = room_world()
    before = world.state
    cloud = PointCloud.of_rows(map_of_points(grid_points((0.8, -0.1, -0.1), (0.8, 0.1, 0.1))).points())
    shift = np.eye(4)
    shift[2, 3] = 0.3
    {
        "remove": lambda: world.edit.remove(AHEAD),
        "move": lambda: world.edit.move(AHEAD, shift),
        "rotate": lambda: world.edit.rotate(AHEAD, (0.4, 0, 0)),
        "recolor": lambda: world.edit.recolor(AHEAD, (0, 255, 0)),
        "freeze": lambda: world.edit.freeze(AHEAD),
        "insert": lambda: world.edit.insert(cloud),
    }[kind]()
    after = world.state
    assert not same_map(before.memory, after.memory)
    world.edit.undo()
    assert same_state(world.state, before)
    world.edit.redo()
    assert same_state(world.state, after)
    assert [row.name for row in world.state.ledger[1:]] == [
        "move" if kind == "rotate" else kind, "undo", "redo",
    ]  # fmt: skip
    with pytest.raises(EditError, match="redo"):
        world.edit.redo()


def test_undo_after_the_world_went_on_takes_the_edit_out_of_later_pictures_too():
    world = room_world()
    world.edit.recolor(AHEAD, (255, 0, 0), keep_shading=False)
    _, depth, weight, path, _ = clip_at(0.0, frames=4)
    view = world.render(path)
    frames = (view.rgb * 255).round().to(torch.uint8).movedim(1, -1).contiguous()
    seen, _ = world.state.map.integrate(frames, depth, weight, path, view)
    world.state = world.state.advance(seen, frames, depth[-1])
    assert len(world.state.keyframes) == 5
    red = world.state.keyframes[4].frame
    world.edit.undo()
    brought_back = world.state.keyframes[4].frame
    assert (red[..., 0] == 255).any() and not (
        (brought_back[..., 0] == 255) & (brought_back[..., 1] == 0)
    ).any()
    assert not (world.render(path).rgb[:, 0] == 1).any()


def test_forks_and_snapshots_have_histories_of_their_own():
    world = room_world()
    snapshot, twin = world.snapshot(), world.fork()
    world.edit.remove(AHEAD)
    with pytest.raises(EditError, match="undo"):
        twin.edit.undo()
    world.restore(snapshot)
    with pytest.raises(EditError, match="undo"):
        world.edit.undo()


def test_an_edited_world_is_saved_and_loaded(tmp_path):
    world = room_world()
    world.edit.recolor(AHEAD, (255, 0, 0))
    world.save(tmp_path / "w.spatia")
    loaded = type(world).load(tmp_path / "w.spatia")
    assert same_state(loaded.state, world.state) and loaded.state.ledger == world.state.ledger


def test_regions_by_click_and_by_mask_use_the_last_view():
    world = room_world()
    click = world.edit.click((WIDTH / 2, HEIGHT / 2), max_radius=0.3)
    assert len(world.edit.extract(click)) > 0
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:14, 10:20] = True
    assert len(world.edit.extract(world.edit.mask(mask))) > 0
    assert len(world.edit.extract(world.edit.box((2, 0, 0), (0.4, 0.8, 0.8)))) == len(
        world.edit.extract(AHEAD)
    )


NAN, FAR = float("nan"), np.diag([1.0, 1, 1, 1]) + 1e9 * (np.arange(16).reshape(4, 4) == 3)
BAD_EDITS = {
    "matches nothing": lambda w: w.edit.remove(Box((30, 0, 0), (1, 1, 1))),
    "negative box": lambda w: w.edit.remove(w.edit.box((0, 0, 0), (-1, 1, 1))),
    "nan box": lambda w: w.edit.remove(w.edit.box((NAN, 0, 0), (1, 1, 1))),
    "infinite box": lambda w: w.edit.remove(w.edit.box((0, 0, 0), (np.inf, 1, 1))),
    "text box": lambda w: w.edit.remove(w.edit.box("here", (1, 1, 1))),
    "click outside": lambda w: w.edit.remove(w.edit.click((WIDTH + 1, 0))),
    "click radius": lambda w: w.edit.remove(w.edit.click((1, 1), max_radius="wide")),
    "click on nothing": lambda w: w.edit.remove(w.edit.click((5, 5), view_at(0.0, (90.0, 0, 0)))),
    "mask shape": lambda w: w.edit.remove(w.edit.mask(np.ones((2, 2), bool))),
    "mask type": lambda w: w.edit.remove(w.edit.mask(np.ones((HEIGHT, WIDTH)))),
    "far move": lambda w: w.edit.move(AHEAD, FAR),
    "skewed move": lambda w: w.edit.move(AHEAD, 2 * np.eye(4)),
    "nan turn": lambda w: w.edit.rotate(AHEAD, (NAN, 0, 0)),
    "colour": lambda w: w.edit.recolor(AHEAD, (300, 0, 0)),
    "scale": lambda w: w.edit.insert(w.edit.extract(AHEAD), scale="big"),
    "nothing to insert": lambda w: w.edit.insert(PointCloud.of_rows(w.memory.points()[:0])),
    "no file": lambda w: w.edit.insert("/nonexistent.ply"),
    "undo": lambda w: w.edit.undo(),
    "redo": lambda w: w.edit.redo(),
}


@pytest.mark.parametrize("name", BAD_EDITS)
def test_bad_edits_leave_the_world_as_it_was(name):
    world = room_world()
    before = world.state
    with pytest.raises((EditError, OSError, WorldFormatError)):
        BAD_EDITS[name](world)
    assert world.state is before


def test_a_full_map_refuses_an_insertion():
    world = room_world()
    memory = dataclasses.replace(world.memory, max_points=world.memory.num_points, on_full="error")
    world.state = dataclasses.replace(world.state, map=dataclasses.replace(world.state.map, points=memory))
    before = world.state
    with pytest.raises(WorldFullError):
        world.edit.insert(PointCloud.of_rows(map_of_points(grid_points((0, 0, 0), (0.2, 0.2, 0))).points()))
    assert world.state is before


def test_without_a_map_there_is_nothing_to_edit():
    world = room_world()
    world.state = dataclasses.replace(world.state, map=dataclasses.replace(world.state.map, writes=False))
    with pytest.raises(EditError, match="memory"):
        world.edit.remove(AHEAD)


# -- questions -------------------------------------------------------------------------------------------------


def test_questions_start_at_the_camera():
    world = room_world()
    hit = world.query.raycast()
    assert hit is not None and abs(hit.position[0] - 2.0) < 0.1
    assert world.query.occupied(hit.position) and not world.query.occupied(world.c2w[:3, 3], 0.1)
    assert 0 < len(world.query.visible()) < world.memory.num_points
    assert world.query.free_distance((5.0, 0, 0)) < 2.0
    way = world.query.path(view_at(0.0, (1.0, 0.5, 0.0)))
    assert way is not None and np.allclose(way[-1], (1.0, 0.5, 0.0), atol=1e-6)
    assert world.query.path((2.0, 0.0, 0.0)) is None  # inside the wall
    pieces = world.query.frontier()
    assert pieces and pieces[0].area == max(piece.area for piece in pieces)
    assert world.query.nearest_unseen() is not None


def test_poses_outside_of_the_map_see_nothing():
    world = room_world()
    far = view_at(0.0, (500.0, 0.0, 0.0))
    assert not len(world.query.visible(far)) and not world.render(far[None]).known.any()
    assert world.query.raycast((500, 0, 0), (1, 0, 0)) is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda q: q.raycast((NAN, 0, 0)), lambda q: q.raycast(direction=(0, 0, 0)),
        lambda q: q.raycast(max_distance="x"),
        lambda q: q.visible(np.zeros((4, 4))), lambda q: q.visible("here"), lambda q: q.occupied((0, 0)),
        lambda q: q.occupied((0, 0, 0), -1), lambda q: q.path((0, 0, np.inf)), lambda q: q.path((0, 0, 0), radius=None),
        lambda q: q.nearest_unseen(2 * np.eye(4)), lambda q: q.free_distance((0, 0, 0), radius=NAN),
    ],
)  # fmt: skip
def test_bad_questions(ask):
    with pytest.raises((ActionError, PoseError)):
        ask(room_world().query)


# -- surfaces stop moves ---------------------------------------------------------------------------------------


def test_a_move_stops_at_a_wall_and_goes_on_turning():
    wall = map_of_points(grid_points((1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))
    start = view_at(0.0, (0.0, 0.0, 0.0))
    twist = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.3, 0.0])
    path = path_from_twist(start, twist, 8)
    stopped, blocked = halted(wall, start, path, radius=0.2)
    reach = float(stopped[-1, :3, 3].norm())
    assert 0.7 < reach < 0.83 and blocked["frame"] == 3 and 0.7 < blocked["distance"] < 0.85
    assert torch.equal(stopped[:3], path[:3]) and torch.equal(stopped[:, :3, :3], path[:, :3, :3])
    assert torch.equal(stopped[3:, :3, 3], stopped[3:4, :3, 3].expand(5, 3))
    assert np.allclose(stopped[-1, :3, 3].numpy(), blocked["position"], atol=1e-6)


def test_a_free_move_is_not_touched():
    wall = map_of_points(grid_points((1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))
    start = view_at(0.0, (0.0, 0.0, 0.0))
    for twist in ([0.0, 0, 0.5, 0, 0.3, 0], [0.0, 0, 0, 0, 0.5, 0], [0.0, 0, -3.0, 0, 0, 0]):
        path = path_from_twist(start, torch.tensor(twist), 8)
        same, blocked = halted(wall, start, path)
        assert same is path and blocked == {}
