"""Planning on the map: actions that go where they should, scores that know what they look at."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

import image_localization
import information_gain
import planning
from spatia_env.geometry import distance_and_angle, se3_exp
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


def test_a_picture_is_found_in_the_map(twin):
    start = twin.world.c2w.double().numpy()
    true = planning.beside(start, 0.6, -0.2, 0.25)
    goal = twin.judge.scene.render(true, *SIZE).rgb
    match = image_localization.match_picture(twin, goal, start, np.random.default_rng(0))
    metres, degrees = distance_and_angle(match.pose, true)
    assert match.trusted and metres < 0.4 and degrees < 10
    again = image_localization.match_picture(twin, goal, start, np.random.default_rng(1), near=match)
    assert again.difference <= match.difference + 0.01
    grey = np.full((*SIZE, 3), (250, 0, 250), np.uint8)
    assert not image_localization.match_picture(twin, grey, start, np.random.default_rng(0)).trusted


def test_a_seeker_arrives(twin):
    before, task = twin.snapshot(), twin.task
    start = twin.world.c2w.double().numpy()
    true = planning.beside(start, 0.5, 0.0, -0.7)
    seeker = image_localization.PictureSeeker(
        start, twin.judge.scene.render(true, *SIZE).rgb, np.random.default_rng(0)
    )
    for _ in range(10):
        camera = seeker(twin)
        if camera is None:
            break
        assert np.abs(camera).max() <= 1
        twin.step(planning.as_action(camera))
    metres, degrees = distance_and_angle(twin.world.c2w.double().numpy(), true)
    assert metres < 0.3 and degrees < 15
    twin.restore(before)
    twin.task = task


def test_a_round_room_is_met_where_slow_steps_meet_it():
    room = information_gain.RoundRoom(np.array([0.5, -0.2]), 3.0, 0.0, 2.5)
    rng = np.random.default_rng(0)
    eyes = np.array([[0.4, 0.3, 1.2], [2.0, 0.5, 2.0]])
    rays = rng.normal(size=(2, 5, 3))
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    distance, cosine = room.meet(eyes, rays)
    for i, eye in enumerate(eyes):
        for j, ray in enumerate(rays[i]):
            steps = eye + np.arange(0, 12, 1e-3)[:, None] * ray
            out = (
                (np.linalg.norm(steps[:, :2] - room.centre, axis=1) > 3)
                | (steps[:, 2] < 0)
                | (steps[:, 2] > 2.5)
            )
            assert distance[i, j] == pytest.approx(out.argmax() * 1e-3, abs=3e-3)
    assert (cosine > 0).all() and (cosine <= 1).all()


def test_surface_is_promised_where_nothing_is_known(twin):
    cameras = np.zeros((2, 6), np.float32)
    cameras[1, 4] = 1
    here, turned = information_gain.promised_surface(twin, planning.ends(twin, cameras))
    assert here < 0.2 * turned and 2 < turned < 200
    inside = planning.ends(twin, np.array([[0, 0, 1, 0, 0, 0]] * 1))
    inside[:, :3, 3] += 20 * inside[:, :3, 2]
    assert information_gain.promised_surface(twin, inside)[0] == -1
    best = information_gain.best_view(twin, np.random.default_rng(0), 12)
    values = information_gain.promised_surface(twin, planning.ends(twin, best))
    assert best.shape == (12, 6) and (np.diff(values) <= 1e-9).all() and np.abs(best).max() <= 1
    ended = planning.ends(twin, best)
    assert np.abs(ended[:, 2, 0]).max() < 0.1, "level"


def test_a_sweep_turns_on_and_steps_aside_where_there_is_room(twin, monkeypatch):
    first = information_gain.sweep(twin, 0)
    assert abs(first[4]) == 1 and first[3] > 0 > information_gain.sweep(twin, 1, 1.0)[3]
    assert information_gain.sweep(twin, 3, -1.0)[4] == -1
    assert first[0] == pytest.approx(-information_gain.STRAFE * first[4])
    monkeypatch.setattr(information_gain, "promised_surface", lambda env, poses: np.array([-1.0, 5.0]))
    assert information_gain.sweep(twin, 0, 1.0)[0] == 0


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
