import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from contract_env import ContractEnv, H, T, W
from spatia_env.actions import EVENTS, MOVES
from spatia_env.errors import ActionError
from spatia_env.io.video import read_video
from spatia_env.wrappers import (
    DiscreteActions,
    FlatCamera,
    LastFrameObservation,
    RecordClips,
    depth_to_bytes,
)
from twists import path_of_twist

ZERO = {"camera": np.zeros(6, np.float32), "event": ""}
AHEAD = {"camera": np.array([0, 0, 1, 0, 0.5, 0], np.float32), "event": ""}


@pytest.mark.parametrize(
    "make",
    [
        ContractEnv,
        lambda: ContractEnv(action="path"),
        lambda: LastFrameObservation(ContractEnv()),
        lambda: FlatCamera(LastFrameObservation(ContractEnv())),
        lambda: DiscreteActions(LastFrameObservation(ContractEnv())),
        lambda: DiscreteActions(ContractEnv(), num_events=3),
    ],
    ids=["camera", "path", "last", "rl", "discrete", "three events"],
)
def test_every_view_passes_gymnasiums_checker_without_a_warning(make):
    env = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The check of the unwrapped environment is the second parametrisation's business.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(env, skip_render_check=True)


def test_last_frame():
    env = LastFrameObservation(ContractEnv())
    base = env.unwrapped
    observation, _ = env.reset(seed=1)
    np.testing.assert_allclose(observation["pose"].reshape(4, 4), np.eye(4), atol=1e-6)
    observation, *_ = env.step(AHEAD)
    assert observation["image"].shape == (H, W, 3) and observation["depth"].shape == (H, W, 1)
    assert np.array_equal(observation["image"], base.frames[-1])
    move = path_of_twist(np.array([0, 0, 0.5, 0, np.radians(15), 0]), T)[-1]
    np.testing.assert_allclose(observation["pose"].reshape(4, 4), move, atol=1e-6)
    assert observation in env.observation_space


def test_last_frame_does_not_share_memory_with_the_clip():
    env = LastFrameObservation(ContractEnv())
    env.reset(seed=1)
    clip, *_ = env.env.step(ZERO)
    assert not np.shares_memory(env.observation(clip)["image"], clip["frames"])


def test_depth_bytes():
    depth = np.array([0, 1e-4, 0.02, 5, 9.99, 10, 1000], np.float32)
    assert depth_to_bytes(depth).tolist() == [0, 1, 1, 128, 255, 255, 255]


@pytest.mark.parametrize("move", range(len(MOVES)))
def test_discrete_moves_reach_the_camera(move):
    env = DiscreteActions(ContractEnv(), num_events=2)
    env.reset(seed=0)
    env.step(np.array([move, 1]))
    action = env.action(np.array([move, 1]))
    assert action["camera"].tolist() == pytest.approx(list(MOVES[move][1]))
    assert env.unwrapped.events == [EVENTS[1]]


def test_discrete_offers_a_prefix_of_the_events():
    assert DiscreteActions(ContractEnv()).action_space.nvec.tolist() == [len(MOVES), len(EVENTS)]
    env = DiscreteActions(ContractEnv(), num_events=2)
    env.reset()
    for bad in ([0, 2], [len(MOVES), 0], [0.5, 0], None):
        with pytest.raises(ActionError):
            env.step(bad)
    for count in (0, len(EVENTS) + 1):
        with pytest.raises(ActionError):
            DiscreteActions(ContractEnv(), num_events=count)


def test_flat_camera():
    env = FlatCamera(ContractEnv())
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert env.unwrapped.events == [""]
    with pytest.raises(ActionError):
        env.step(np.full(6, np.nan))


@pytest.mark.parametrize("wrapper", [LastFrameObservation, DiscreteActions, FlatCamera])
def test_wrappers_refuse_other_environments(wrapper):
    with pytest.raises(ActionError, match="Spatia-v0"):
        wrapper(gym.make("CartPole-v1"))


def test_wrapped_specs_are_json():
    gym.register("Contract-v0", entry_point="contract_env:ContractEnv", max_episode_steps=3)
    try:
        env = FlatCamera(LastFrameObservation(gym.make("Contract-v0")))
        text = env.spec.to_json()
        twin = gym.make(gym.envs.registration.EnvSpec.from_json(text))
        assert twin.action_space == env.action_space
    finally:
        del gym.registry["Contract-v0"]


def test_stable_baselines_trains_on_both_views():
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    for view in (FlatCamera, DiscreteActions):
        env = TimeLimit(view(LastFrameObservation(ContractEnv())), 8)
        model = stable_baselines3.PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0)
        model.learn(16)


def test_record_clips_keeps_every_frame_and_the_arrays(tmp_path):
    env = RecordClips(TimeLimit(ContractEnv(), 4), tmp_path, arrays=True)
    for _ in range(2):
        observation, _ = env.reset(seed=3)
        seen, rewards = [observation["frames"][-1:]], []
        done = False
        while not done:
            observation, reward, _, done, _ = env.step(AHEAD | {"event": "pluie d'été"})
            seen.append(observation["frames"])
            rewards.append(reward)
    env.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"episode-000{i}.{ext}" for i in (0, 1) for ext in ("mp4", "npz")
    ]
    seen = np.concatenate(seen)
    film = read_video(tmp_path / "episode-0001.mp4")
    assert film.shape == seen.shape == (1 + 4 * T, H, W, 3)
    assert np.abs(film.astype(int) - seen).mean() < 4
    with np.load(tmp_path / "episode-0001.npz") as arrays:
        assert arrays["pose"].shape == (1 + 4 * T, 4, 4) and arrays["depth"].shape == (1 + 4 * T, H, W)
        assert arrays["known"].dtype == bool and arrays["reward"].tolist() == rewards
        action = json.loads(str(arrays["actions"][0]))
        assert action["event"] == "pluie d'été" and action["camera"][2] == 1


def test_record_clips_numbers_on_and_survives_an_early_reset(tmp_path):
    for expected in (["episode-0000.mp4"], ["episode-0000.mp4", "episode-0001.mp4"]):
        env = RecordClips(ContractEnv(), tmp_path, scale=2)
        env.reset(seed=0)
        env.step(ZERO)
        env.close()
        assert sorted(p.name for p in tmp_path.iterdir()) == expected
    assert read_video(tmp_path / "episode-0001.mp4").shape == (1 + T, 2 * H, 2 * W, 3)


def test_record_clips_on_a_view_uses_the_rendered_clip(tmp_path):
    env = RecordClips(FlatCamera(LastFrameObservation(ContractEnv("rgb_array_list"))), tmp_path)
    env.reset(seed=0)
    env.step(np.zeros(6, np.float32))
    env.close()
    assert len(read_video(tmp_path / "episode-0000.mp4")) == 1 + T
    view = LastFrameObservation(ContractEnv())
    with pytest.raises(ActionError, match="rgb_array_list"):
        RecordClips(view, tmp_path)
    with pytest.raises(ActionError, match="plain file name"):
        RecordClips(ContractEnv(), tmp_path, prefix="../x")
