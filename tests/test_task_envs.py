"""Tasks in the environment: goals and judges of simulated scenes, their ids, and what reaches `info`."""

import gymnasium as gym
import numpy as np
import pytest

from spatia_env.bench.guard import truth_keys
from spatia_env.errors import ActionError
from spatia_env.geometry import distance_and_angle
from spatia_env.sim.referee import CELL, SimJudge
from untrained import write_untrained

SIZE = (64, 96)
SCENE = 10003
TURN = {"camera": np.array([0, 0, 0, 0, 0.8, 0], np.float32), "event": ""}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def judge():
    judge = SimJudge(SCENE, SIZE)
    yield judge
    judge.close()


def test_the_judge_counts_the_cells_a_camera_sees(judge):
    c2w = np.asarray(judge.scene.initial_c2w, np.float64)
    cells = judge.cells(c2w[None])
    shot = judge.scene.render(c2w, *SIZE)
    # The slow way: one pixel after the other.
    K, expected = np.asarray(judge.scene.K(*SIZE), np.float64), set()
    for v, u in np.argwhere(shot.depth > 0):
        z = float(shot.depth[v, u])
        point = np.array([(u + 0.5 - K[0, 2]) / K[0, 0] * z, (v + 0.5 - K[1, 2]) / K[1, 1] * z, z, 1])
        expected.add(tuple(np.floor((c2w @ point)[:3] / CELL).astype(int)))
    assert len(cells) == len(expected) and (np.diff(cells) > 0).all()


def test_the_judge_sees_objects_where_they_are(judge):
    c2w = np.asarray(judge.scene.initial_c2w, np.float64)
    shot = judge.scene.render(c2w, *SIZE)
    for row in judge.scene.object_table():
        if row.name in judge.names:
            share, metres = judge.target(f"the {row.name}", c2w)
            assert share >= (shot.segmentation == row.body).mean()
            assert 0 < metres < 12
    with pytest.raises(ActionError, match="the scene has no 'a blue whale'; it has"):
        judge.target("a blue whale", c2w)
    assert judge.draw_target(np.random.default_rng(0), c2w) in judge.names


def test_a_goal_can_be_reached(judge):
    start = np.asarray(judge.scene.initial_c2w, np.float64)
    for seed in range(5):
        picture, goal = judge.draw_goal(np.random.default_rng(seed), start)
        metres, degrees = distance_and_angle(start, goal)
        assert picture.shape == (*SIZE, 3) and metres < 2 and degrees < 90
        assert metres > 0.2 or degrees > 15
        again, _ = judge.draw_goal(np.random.default_rng(seed), start)
        assert (picture == again).all()


@pytest.mark.parametrize("name", ["SpatiaImageGoal-v0", "SpatiaFind-v0"])
def test_goals_are_drawn_and_judged(name, model):
    env = gym.make(f"spatia_env:{name}", model=model, size=SIZE)
    _, info = env.reset(seed=4, options={"scene": SCENE})
    assert info["goal"].keys() <= {"image", "target"} and info["goal"]
    observation, reward, terminated, truncated, info = env.step(TURN)
    assert reward == pytest.approx(sum(info["reward_terms"].values()))
    assert info["oracle"]["coverage"] > info["oracle"]["new_coverage"] > 0
    assert set(observation) == {"frames", "depth", "pose", "known"} and not truth_keys(observation)
    assert not truncated and info["is_success"] is terminated


def test_explore_is_judged_on_request_and_mush_ends_it(model):
    env = gym.make("spatia_env:SpatiaExplore-v0", model=model, size=SIZE, judge=True)
    env.unwrapped.task.max_imagined, env.unwrapped.task.patience = 0.01, 1
    env.reset(seed=4, options={"scene": SCENE})
    *_, truncated, info = env.step(TURN)
    assert truncated and "imagined" in info["end"] and info["oracle"]["coverage"] > 0


def test_a_fork_keeps_its_own_score(model):
    env = gym.make("spatia_env:SpatiaReturnHome-v0", model=model, size=SIZE).unwrapped
    env.reset(seed=4, options={"scene": SCENE})
    twin = env.fork()
    twin.step(TURN)
    assert env.task._effort == 0 < twin.task._effort


def test_a_task_that_cannot_begin_leaves_the_world_open(model):
    env = gym.make("spatia_env:SpatiaFind-v0", model=model, size=SIZE).unwrapped
    env.reset(seed=4, options={"scene": SCENE})
    before, task = env.snapshot(), env.task
    with pytest.raises(ActionError, match="reset from a scene"):
        env.reset(options={"image": np.full((*SIZE, 3), 90, np.uint8)})
    assert env.snapshot() is before and env.task is task
    env.step(TURN)
