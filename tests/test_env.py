"""The environment's contract: spaces, seeds, snapshots, bad actions, and the rule of standing still."""

import hashlib
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import spatia_env
from spatia_env.errors import ActionError, ClosedEnvError, PoseError, PromptError, SpatiaError
from untrained import write_untrained

SIZE = (64, 96)
IDS = ("Spatia-v0", "SpatiaPath-v0", "SpatiaDiscrete-v0", "SpatiaRL-v0")
AHEAD = np.array([0, 0, 0.5, 0, 0.4, 0], np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def opened(model):
    env = gym.make("spatia_env:Spatia-v0", model=model, size=SIZE)
    env.reset(seed=3, options={"scene": 10003, "depth": True})
    yield env, env.unwrapped.snapshot()
    env.close()


@pytest.fixture
def env(opened):
    env, start = opened
    env.unwrapped.restore(start)
    env.unwrapped.debug = False
    return env


def test_every_id_is_registered():
    assert all(name in gym.registry for name in IDS)
    assert spatia_env.__version__


@pytest.mark.parametrize("name", IDS)
def test_check_env_is_clean(name, model):
    env = gym.make(f"spatia_env:{name}", model=model, size=(64, 64), render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Two of the ids are wrapped on purpose; the checker says so of every wrapper.
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        check_env(env, skip_render_check=True)


_ROLL = """
import hashlib, sys
import gymnasium as gym, numpy as np, torch
torch.set_num_threads(1)
name, model, steps, height, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
env = gym.make(f"spatia_env:{name}", model=model, size=(height, width))
env.action_space.seed(7)
digest = hashlib.sha256()
observation, _ = env.reset(seed=11)
for step in range(steps):
    for key in sorted(observation):
        digest.update(np.ascontiguousarray(observation[key]).tobytes())
    np.random.rand(3); torch.rand(3)  # nobody else's draws may matter
    observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
    digest.update(repr((float(reward), terminated, truncated)).encode())
    if terminated or truncated:
        observation, _ = env.reset()
print(digest.hexdigest())
"""


def _two_processes(name, model, steps, size):
    arguments = [sys.executable, "-c", _ROLL, name, model, str(steps), *map(str, size)]
    runs = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=900)[0].strip().splitlines()[-1] for run in runs]
    assert all(run.returncode == 0 for run in runs)
    return outputs


@pytest.mark.parametrize("name", IDS)
def test_two_processes_agree(name, model):
    first, second = _two_processes(name, model, 10, (64, 64))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_two_processes_agree_at_full_size(name):
    first, second = _two_processes(name, "spatia-tiny", 50, (128, 128))
    assert first == second


def _digest(observation):
    return hashlib.sha256(
        b"".join(np.ascontiguousarray(observation[k]).tobytes() for k in sorted(observation))
    )


def _step(env, camera=AHEAD, event=""):
    return env.step({"camera": np.asarray(camera, np.float32), "event": event})


def test_reset_shows_copies_of_the_first_picture(model):
    env = gym.make("spatia_env:Spatia-v0", model=model, size=SIZE)
    observation, info = env.reset(seed=1, options={"scene": 10002})
    assert (observation["frames"] == observation["frames"][:1]).all()
    assert (observation["known"] == 255).all()
    assert info["memory"]["points"] > 1000
    assert info["prompt"]


def test_a_seed_draws_the_same_world(model):
    env = gym.make("spatia_env:Spatia-v0", model=model, size=SIZE)
    first, _ = env.reset(seed=5)
    again, _ = env.reset(seed=5)
    other, _ = env.reset(seed=6)
    assert (first["frames"] == again["frames"]).all()
    assert (first["frames"] != other["frames"]).any()


def test_pose_is_the_executed_path(env):
    start = env.unwrapped.world.c2w.numpy().copy()
    observation, *_ = _step(env, [0, 0, 1, 0, 0, 0])
    moved = np.linalg.inv(start) @ observation["pose"][-1]
    np.testing.assert_allclose(moved[:3, 3], [0, 0, 0.5], atol=1e-4)
    np.testing.assert_allclose(observation["pose"][3], observation["pose"][3] @ np.eye(4), atol=0)


def test_known_is_what_memory_rendered(env):
    observation, *_, info = _step(env, [0, 0, 0, 0, 1, 0])
    assert 0 < (observation["known"] == 255).mean() < 1
    assert info["memory"]["added"] > 0


def test_snapshot_restore_and_fork_repeat_bit_for_bit(env):
    _step(env)
    snapshot, twin = env.unwrapped.snapshot(), env.unwrapped.fork()
    first = _digest(_step(env, event="a red ball rolls in")[0]).hexdigest()
    forked = _digest(_step(twin, event="a red ball rolls in")[0]).hexdigest()
    env.unwrapped.restore(snapshot)
    assert first == forked == _digest(_step(env, event="a red ball rolls in")[0]).hexdigest()


def test_a_fork_leaves_its_parent_alone(env):
    before, points = env.unwrapped.snapshot(), env.unwrapped.world.memory.num_points
    twin = env.unwrapped.fork()
    _step(twin)
    assert env.unwrapped.snapshot() is before
    assert env.unwrapped.world.memory.num_points == points
    assert twin.world.memory.num_points > points


def test_preview_shows_what_the_step_will_see_and_changes_nothing(env):
    env.unwrapped.debug = True
    before = env.unwrapped.snapshot()
    preview = env.unwrapped.preview({"camera": AHEAD, "event": ""})
    assert env.unwrapped.snapshot() is before
    observation, *_, info = _step(env)
    assert (preview["scene_render"] == info["debug"]["scene_render"]).all()
    assert (preview["known"] == observation["known"]).all()


def test_save_and_load_continue_identically(env, model, tmp_path):
    _step(env)
    env.unwrapped.world.save(tmp_path / "a.spatia")
    straight = _step(env)[0]
    other = gym.make("spatia_env:Spatia-v0", model=model, size=SIZE)
    other.reset(seed=9, options={"world": tmp_path / "a.spatia"})
    resumed = _step(other)[0]
    assert all((straight[key] == resumed[key]).all() for key in straight)


def test_standing_still_changes_nothing(env):
    _step(env)
    first = env.unwrapped.world.state.preceding_frames[-1].numpy().copy()
    points = env.unwrapped.world.memory.num_points
    env.unwrapped.world.state = _at_rest(env.unwrapped.world.state)
    for _ in range(5):
        observation, *_, info = _step(env, np.zeros(6))
        assert (observation["frames"] == first).all()
        assert info["memory"]["added"] == 0
    assert env.unwrapped.world.memory.num_points == points


def _at_rest(state):
    import dataclasses

    return dataclasses.replace(state, moving=False)


def test_no_colours_are_written_while_a_condition_stands(env):
    points = env.unwrapped.world.memory.num_points
    _, *_, info = _step(env, [0, 0, 0, 0, 1, 0], "night falls")
    assert info["events"][0]["kind"] == "condition"
    assert env.unwrapped.world.memory.num_points == points
    env.unwrapped.debug = True
    _, *_, info = _step(env, [0, 0, 0, 0, 0.2, 0])
    assert info["debug"]["text"].startswith("at night")
    assert env.unwrapped.world.memory.num_points == points


def test_without_memory_nothing_is_remembered(model):
    env = gym.make("spatia_env:Spatia-v0", model=model, size=SIZE, memory="none")
    env.reset(seed=1, options={"scene": 10002})
    observation, *_, info = _step(env)
    assert info["memory"]["points"] == 0
    assert not observation["known"].any()


BAD_ACTIONS = {
    "nan": ({"camera": np.full(6, np.nan, np.float32), "event": ""}, ActionError),
    "inf": ({"camera": np.full(6, np.inf, np.float32), "event": ""}, ActionError),
    "range": ({"camera": np.full(6, 2, np.float32), "event": ""}, ActionError),
    "shape": ({"camera": np.zeros(3, np.float32), "event": ""}, ActionError),
    "complex": ({"camera": np.zeros(6, complex), "event": ""}, ActionError),
    "object": ({"camera": np.array([None] * 6), "event": ""}, ActionError),
    "missing": ({"camera": np.zeros(6, np.float32)}, ActionError),
    "extra": ({"camera": np.zeros(6, np.float32), "event": "", "x": 1}, ActionError),
    "none": (None, ActionError),
    "text": ("forward", ActionError),
    "event type": ({"camera": np.zeros(6, np.float32), "event": 3}, PromptError),
    "event length": ({"camera": np.zeros(6, np.float32), "event": "x" * 10_000_000}, PromptError),
    "event surrogate": ({"camera": np.zeros(6, np.float32), "event": "\ud800"}, PromptError),
}


@pytest.mark.parametrize("name", BAD_ACTIONS)
def test_a_bad_action_is_refused_and_changes_nothing(env, name):
    action, error = BAD_ACTIONS[name]
    before = env.unwrapped.snapshot()
    with pytest.raises(error) as caught:
        env.step(action)
    assert isinstance(caught.value, SpatiaError)
    assert env.unwrapped.snapshot() is before


def test_a_path_that_is_not_rigid_is_refused(model):
    env = gym.make("spatia_env:SpatiaPath-v0", model=model, size=SIZE)
    env.reset(seed=1)
    before = env.unwrapped.snapshot()
    with pytest.raises(PoseError):
        env.step({"path": np.tile(2 * np.eye(4, dtype=np.float32), (8, 1, 1)), "event": ""})
    assert env.unwrapped.snapshot() is before


@pytest.mark.parametrize(
    "options",
    [{"sceen": 1}, {"scene": 1, "image": "a.png"}, {"scene": -1}, {"image": "no_such_file.png"},
     {"world": "no_such_world.spatia"}, {"scene": 1, "pose": np.zeros((4, 4))}, {"scene": 12_345}],
)  # fmt: skip
def test_bad_options_leave_the_world_open(env, options):
    before = env.unwrapped.snapshot()
    with pytest.raises(SpatiaError):
        env.reset(options=options)
    assert env.unwrapped.snapshot() is before
    _step(env)


def test_after_close_there_is_one_clear_error(model):
    env = gym.make("spatia_env:Spatia-v0", model=model, size=SIZE).unwrapped
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(ClosedEnvError):
        _step(env)
    with pytest.raises(ClosedEnvError):
        env.reset()


@pytest.mark.parametrize(
    "options", [{"size": (100, 128)}, {"size": (10**6, 128)}, {"memory": "all"}, {"slam": "x"}]
)
def test_bad_arguments_are_refused(model, options):
    with pytest.raises(ActionError):
        gym.make("spatia_env:Spatia-v0", model=model, **options)


@pytest.mark.parametrize("name", ["SpatiaRL-v0", "SpatiaDiscrete-v0"])
def test_ppo_trains_on_the_ids_as_they_come(name, model):
    from stable_baselines3 import PPO

    env = gym.make(f"spatia_env:{name}", model=model, size=(64, 64), task="explore")
    PPO("MultiInputPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0).learn(64)
