"""Planning on the map: actions that go where they should, scores that know what they look at."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from spatia_env import planning
from spatia_env.poses import distance_and_angle, se3_exp
from untrained import write_untrained

SIZE = (64, 96)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The simulator: no model, so what is tested is the planning."""
    model = str(write_untrained(tmp_path_factory.mktemp("model")))
    env = gym.make("spatia_env:SpatiaSim-v0", model=model, size=SIZE, task="explore").unwrapped
    env.reset(seed=1, options={"scene": 10003})
    yield env
    env.close()


def test_towards_arrives_in_steps():
    rng = np.random.default_rng(0)
    for _ in range(20):
        goal = se3_exp(rng.uniform(-1, 1, 6) * [2, 0.3, 2, 0.3, 2.5, 0.2])
        here = np.eye(4)
        for _ in range(40):
            camera = planning.towards(here, goal)
            assert np.abs(camera).max() <= 1
            here = here @ se3_exp(camera * planning.LIMITS)
        metres, degrees = distance_and_angle(here, goal)
        assert metres < 0.01 and degrees < 0.5
    assert np.abs(planning.towards(goal, goal)).max() < 1e-9


def test_face_is_level_and_looks_there():
    c2w = se3_exp(np.array([1, 2, 0.5, 0.3, 0.2, 0.1]))
    target = np.array([-3.0, 4.0, 9.0])
    pose = planning.face(c2w, target)
    ahead = (target - c2w[:3, 3]) * [1, 1, 0]
    np.testing.assert_allclose(pose[:3, 2], ahead / np.linalg.norm(ahead), atol=1e-9)
    np.testing.assert_allclose(pose[:3, 1], [0, 0, -1], atol=1e-9)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)


def test_looking_agrees_with_preview(twin):
    camera = np.array([0.2, 0, 0.3, 0, 0.5, 0], np.float32)
    frames, depth, known = planning.look(twin, planning.ends(twin, camera[None]))
    preview = twin.preview(planning.as_action(camera))
    assert (known[0] == (preview["known"][-1] > 0)).mean() > 0.995
    assert np.abs(frames[0].astype(int) - preview["scene_render"][-1])[known[0]].mean() < 1
    assert depth[0][known[0]].min() > 0


def test_scores():
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    known = np.array([np.ones((4, 6), bool), np.zeros((4, 6), bool)])
    depth = np.where(known, 2.0, 0.0)
    assert planning.unseen_surface(frames, depth, known).tolist() == [0.0, 1.0]
    assert planning.unseen_surface(frames, np.where(known, 0.1, 0.0), known)[0] == -1
    score = planning.likeness(np.full((4, 6, 3), 51, np.uint8))(frames, depth, known)
    np.testing.assert_allclose(score, [-0.2, -0.25], atol=1e-6)


@pytest.mark.parametrize("method", ["shoot", "cross_entropy"])
def test_planners_rank_by_score_and_prefer_the_unseen(twin, method):
    before = twin.snapshot()
    ranked = getattr(planning, method)(twin, planning.unseen_surface, np.random.default_rng(0))
    values = planning.unseen_surface(*planning.look(twin, planning.ends(twin, ranked)))
    assert (np.diff(values) <= 1e-6).all()
    still = planning.unseen_surface(*planning.look(twin, planning.ends(twin, np.zeros((1, 6)))))
    assert values[0] > still[0] + 0.2
    assert twin.snapshot() is before, "planning changes nothing"


def test_imagining_takes_the_action_that_is_rewarded(twin):
    turn, still = np.array([0, 0, 0, 0, 1, 0], np.float32), np.zeros(6, np.float32)
    before = twin.snapshot()
    assert (planning.imagine(twin, np.stack([still, turn])) == turn).all()
    assert twin.snapshot() is before


def test_a_view_of_the_map_is_found(twin):
    start = twin.world.c2w.double().numpy()
    true = start @ se3_exp(np.array([0, 0, 0, 0, 0.2, 0]))
    true[:2, 3] += start[:2, 2] * 0.4
    goal = twin.judge.scene.render(true, *SIZE).rgb
    found, value = planning.find_view(twin, goal, start, np.random.default_rng(0), count=48, rounds=4)
    metres, degrees = distance_and_angle(found, true)
    assert value > -0.12 and metres < 0.4 and degrees < 12


def test_the_frontier_is_explored(twin):
    before = twin.snapshot()
    task = twin.task
    first = twin.world.memory.num_points
    for _ in range(3):
        twin.step(planning.as_action(planning.explore_frontier(twin)))
    assert twin.world.memory.num_points > 1.3 * first
    twin.restore(before)
    twin.task = task


def test_without_a_frontier_it_turns(twin, monkeypatch):
    monkeypatch.setattr(planning, "frontier", lambda env: None)
    env = SimpleNamespace(world=twin.world)
    assert planning.explore_frontier(env)[4] == 1
