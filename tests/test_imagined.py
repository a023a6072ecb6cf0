"""Imagined points: where they may lie, what flags them, and what the environment does with them."""

import dataclasses

import numpy as np
import pytest
import torch

from rooms import room_view
from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError
from spatia_env.geometry import intrinsics_from_fov, look_at
from spatia_env.memory import blocks as blk
from spatia_env.memory.imagined import known_sphere, mark_shown, with_imagined, without_unshown
from spatia_env.memory.map import Map
from spatia_env.memory.point_map import SceneMemory
from spatia_env.world.world import World
from untrained import write_untrained

H, W = 48, 64
K = intrinsics_from_fov(60, H, W)
HERE = look_at(torch.tensor([0.2, -0.1, 0.1]), torch.tensor([1.8, 0.4, 0.0]))
EYE = HERE[:3, 3]
ROWS, COLUMNS = 24, 96
SIZE = (64, 96)
TURN = {"camera": np.array([0, 0, 0, 0, 1, 0], np.float32), "event": ""}


def seen_map() -> Map:
    rgb, depth = room_view(HERE[None], K, H, W)
    frame = (rgb[0].movedim(0, -1) * 255).round().to(torch.uint8)
    return Map.begin(SceneMemory(), frame, depth[0], torch.ones(H, W), HERE, K)


def imagined(scene: Map, distance: float = 1.5) -> tuple[SceneMemory, int]:
    """The map in a red sphere of this radius."""
    known = known_sphere(scene.points, EYE, ROWS, COLUMNS).known[0]
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, ROWS, COLUMNS)
    far = torch.full((ROWS, COLUMNS), distance)
    return with_imagined(scene.points, scene.keyframes, K, EYE, red, far, known, step=3)


def test_what_is_unknown_is_filled_and_flagged_and_the_rest_stays():
    scene = seen_map()
    points, count = imagined(scene)
    rows = points.points()
    new = rows[rows["layer"] == blk.IMAGINED]
    assert len(new) == count > 1000 and (new["views"] == 0).all() and (new["first_step"] == 3).all()
    old = rows[rows["layer"] == blk.OBSERVED]
    assert old.tobytes() == scene.points.points().tobytes()
    assert known_sphere(points, EYE, ROWS, COLUMNS).known.float().mean() > 0.97
    before, after = (m.render(HERE[None], K, H, W) for m in (scene.points, points))
    inner = slice(6, -6)  # at the picture's edge imagined points lie beside known ones
    assert torch.equal(before.rgb[0, :, inner, inner], after.rgb[0, :, inner, inner])


def test_space_that_a_keyframe_looked_through_stays_free():
    scene = seen_map()
    hidden = dataclasses.replace(scene, points=SceneMemory())  # nothing is known, but a keyframe has looked
    points, _ = imagined(hidden, distance=0.5)
    view = points.render(HERE[None], K, H, W)
    assert view.known[0, H // 4 : -H // 4, W // 4 : -W // 4].float().mean() < 0.02
    behind = look_at(EYE, EYE - torch.tensor([1.0, 0.3, 0.0]))
    assert points.render(behind[None], K, H, W).known.float().mean() > 0.95


def test_points_count_as_shown_once_a_clip_has_shown_them():
    scene = seen_map()
    points, _ = imagined(scene)
    scene = dataclasses.replace(scene, points=points)
    behind = look_at(EYE, EYE - torch.tensor([1.0, 0.3, 0.0]))[None]
    view = scene.render(behind)
    assert view.known.float().mean() > 0.95 and not scene.shown(behind, view).any()
    marked, area = mark_shown(points, view, behind, K)
    after = dataclasses.replace(scene, points=marked)
    assert area > 0.1 and after.shown(behind, view).float().mean() > 0.9
    assert mark_shown(marked, view, behind, K)[1] < 0.05 * area
    left = without_unshown(marked).points()
    assert (left["views"][left["layer"] == blk.IMAGINED] > 0).all() and len(left) < len(marked.points())


def test_what_is_observed_replaces_what_was_imagined():
    scene = seen_map()
    points, _ = imagined(scene, distance=1.0)
    behind = look_at(EYE, EYE - torch.tensor([1.0, 0.3, 0.0]))[None]
    rgb, depth = torch.zeros(1, 3, H, W), points.render(behind, K, H, W).depth
    rgb[:, 2] = 1
    written, _ = points.update(rgb, depth, torch.ones(1, H, W), behind, K, 4)
    rows = written.points()
    blue = rows[(rows["last_step"] == 4) & (rows["layer"] == blk.OBSERVED)]
    assert len(blue) > 500 and (blue["colour"] == [0, 0, 255]).all()
    seen = written.render(behind, K, H, W)
    assert seen.rgb[0, 2][seen.known[0]].mean() > 0.8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("model"), imagination=True))


def played(env: SpatiaEnv, seed: int = 0) -> list[dict]:
    observation, _ = env.reset(seed=seed, options={"scene": 3})
    return [observation, env.step(TURN)[0], env.step(TURN)[0]]


def imagined_rows(env: SpatiaEnv) -> np.ndarray:
    rows = env.world.memory.points()
    return rows[rows["layer"] == blk.IMAGINED]


def test_a_reset_imagines_and_a_seed_decides_what(model):
    env = SpatiaEnv(size=SIZE, model=model)
    first, again = played(env), played(env)
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(first, again, strict=True) for k in a)
    one = imagined_rows(env)
    played(env, seed=1)
    assert len(one) > 1000 and one.tobytes() != imagined_rows(env).tobytes()
    off = SpatiaEnv(size=SIZE, model=model, imagination=False)
    played(off)
    assert not len(imagined_rows(off)) and env.checkpoint_id == off.checkpoint_id


def test_known_says_what_was_shown_before_this_step(model):
    env = SpatiaEnv(size=SIZE, model=model)
    env.reset(seed=0, options={"scene": 3})
    first = env.step(TURN)[0]
    env.step({"camera": -TURN["camera"], "event": ""})
    again = env.step(TURN)[0]
    assert (first["known"][-1] == 0).mean() > 0.2 and (again["known"][-1] > 0).mean() > 0.75


def test_imagined_points_are_saved_forked_and_drawn_anew(model, tmp_path):
    env = SpatiaEnv(size=SIZE, model=model)
    env.reset(seed=0, options={"scene": 3})
    env.step(TURN)
    env.world.save(tmp_path / "w.spatia")
    loaded = World.load(tmp_path / "w.spatia")
    assert loaded.memory.points().tobytes() == env.world.memory.points().tobytes()
    twin = env.fork()
    ours, theirs = env.step(TURN)[0], twin.step(TURN)[0]
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    forks = [env.fork() for _ in range(2)]
    counts = [fork.world.imagine(seed) for seed, fork in enumerate(forks)]
    assert min(counts) > 500 and imagined_rows(forks[0]).tobytes() != imagined_rows(forks[1]).tobytes()
    shown = imagined_rows(env)
    shown = shown[shown["views"] > 0]
    kept = imagined_rows(forks[0])
    assert np.isin(shown["position"][:, 0], kept["position"][:, 0]).all()  # what was shown stays
    with pytest.raises(ActionError, match="no imagination"):
        loaded.imagine(0)


def test_a_walk_into_the_unseen_imagines_again(model):
    env = SpatiaEnv(size=SIZE, model=model, action="path")
    env.reset(seed=0, options={"scene": 3})
    path = np.tile(np.eye(4, dtype=np.float32), (8, 1, 1))
    path[:, 0, 3] = np.linspace(1, 8, 8)  # far aside, through whatever stands there
    info = env.step({"path": path, "event": ""})[-1]
    assert info["imagined"] > 0
    assert (
        env.step({"path": np.tile(np.eye(4, dtype=np.float32), (8, 1, 1)), "event": ""})[-1]["imagined"] == 0
    )
