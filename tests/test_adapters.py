"""`as_sb3`: infos, final observations and refusals."""

import numpy as np
import pytest

from spatia_env.errors import ActionError
from spatia_env.vector.sb3 import as_sb3, split_infos
from spatia_env.vector.sync import SpatiaVectorEnv
from untrained import write_untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("model")))


def test_infos_are_split_by_world():
    batched = {
        "a": np.array([1.0, 0.0]), "_a": np.array([True, False]),
        "b": {"c": np.array([3, 4]), "_c": np.array([True, True])}, "_b": np.array([True, True]),
    }  # fmt: skip
    assert split_infos(batched, 2) == [{"a": 1.0, "b": {"c": 3}}, {"b": {"c": 4}}]


def test_the_last_observation_of_an_episode_is_in_its_info(model):
    env = as_sb3(
        SpatiaVectorEnv(2, "rl", model=model, size=(64, 64), max_episode_steps=1, autoreset_mode="SameStep")
    )
    env.seed(3)
    first = env.reset()
    assert first["image"].shape == (2, 64, 64, 3)
    observation, rewards, dones, infos = env.step(np.full((2, 6), 0.3, np.float32))
    assert dones.all() and rewards.shape == (2,)
    for index, info in enumerate(infos):
        assert info["TimeLimit.truncated"] and "reward_terms" in info
        last = info["terminal_observation"]["image"]
        assert last.shape == (64, 64, 3) and (last != observation["image"][index]).any()
    assert env.get_attr("checkpoint_id", [0])[0].startswith("untrained")
    env.close()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"view": "rl"}, "SameStep"), ({"autoreset_mode": "SameStep"}, "no Dict actions")],
)
def test_what_sb3_cannot_take_is_refused(model, options, complaint):
    with pytest.raises(ActionError, match=complaint):
        as_sb3(SpatiaVectorEnv(1, model=model, size=(64, 64), **options))
