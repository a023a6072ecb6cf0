"""Edits as actions, and moves that stop at surfaces, in the environment with small random networks."""

import json

import gymnasium as gym
import numpy as np
import pytest

from maps import grid_points, map_of_points, same_map
from spatia_env.errors import ActionError, PromptError
from spatia_env.io.point_cloud import PointCloud
from spatia_env.wrappers import EDITS, EditActions
from untrained import write_untrained

CUBE = PointCloud.of_rows(map_of_points(grid_points((0, 0, 0), (0.2, 0.2, 0.2))).points())


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    model = str(write_untrained(tmp_path_factory.mktemp("model")))
    base = gym.make("spatia_env:Spatia-v0", model=model, size=(64, 96), block_collisions=True)
    env = EditActions(base, items={"cube": CUBE})
    env.reset(seed=3, options={"scene": 10003, "depth": True})
    yield env, env.unwrapped.snapshot()
    env.close()


@pytest.fixture
def env(opened):
    env, start = opened
    env.unwrapped.restore(start)
    return env


def action(kind="none", camera=(0, 0, 0, 0, 0.1, 0), event="", **changes):
    edit = {
        "kind": EDITS.index(kind), "pixel": np.array([0.5, 0.8], np.float32), "shift": np.zeros(3, np.float32),
        "turn": np.zeros(1, np.float32), "rgb": np.array([250, 0, 0], np.uint8), "item": 0, **changes,
    }  # fmt: skip
    return {"camera": np.array(camera, np.float32), "event": event, "edit": edit}


def with_edit(changes):
    wish = action("remove")
    return {**wish, "edit": {**wish["edit"], **changes}}


def test_the_space_holds_what_it_draws_and_steps_take_it(env):
    env.action_space.seed(1)
    drawn = env.action_space.sample()
    assert env.action_space.contains(drawn) and env.action_space.contains(action("remove"))
    _, _, _, _, info = env.step({**drawn, "event": ""})
    assert isinstance(info["edit"], dict)


def test_without_items_nothing_can_be_inserted(env):
    plain = EditActions(env.env)
    assert plain.edit_space["kind"].n == len(EDITS) - 1 and "item" not in plain.edit_space.spaces


def test_an_edit_is_made_before_the_step_and_told(env):
    before = env.unwrapped.world.memory
    _, _, _, _, info = env.step(action("recolor"))
    assert info["edit"]["kind"] == "recolor" and info["edit"]["points"] > 0
    row = info["events"][0]
    assert row["kind"] == "edit" and json.loads(row["text"]) == info["edit"]
    edited = env.unwrapped.world.memory.points()
    assert (edited["layer"] == 1).sum() == info["edit"]["points"]
    assert not same_map(before, env.unwrapped.world.memory)
    _, _, _, _, info = env.step(action("undo"))
    assert info["edit"]["kind"] == "undo" and not (env.unwrapped.world.memory.points()["layer"] == 1).any()


@pytest.mark.parametrize("kind", ["remove", "move", "freeze", "insert"])
def test_every_kind(env, kind):
    shift = np.array([0, 0, 0.3], np.float32)
    _, _, _, _, info = env.step(action(kind, shift=shift, turn=np.array([0.5], np.float32)))
    assert info["edit"]["kind"] == kind and info["edit"]["points"] > 0


def test_what_is_inserted_stands_on_the_surface_under_the_pixel(env):
    world = env.unwrapped.world
    edit = env.step(action("insert"))[4]["edit"]
    hit = np.array(edit["c2w"])[:3, 3]
    assert abs(np.array(edit["low"])[2] - hit[2]) < 0.05 and world.query.occupied(hit + [0, 0, 0.19], 0.05)


def test_an_edit_that_meets_nothing_is_told_and_the_step_is_made(env):
    before = env.unwrapped.world.state
    _, _, _, _, info = env.step(action("redo"))
    after = env.unwrapped.world.state
    assert "redo" in info["edit"]["error"] and after.step == before.step + 1 and after.ledger == before.ledger


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": 99}, {"kind": 0.5}, {"pixel": [0.5]}, {"pixel": [0.5, np.nan]}, {"pixel": [2, 0]},
        {"rgb": [1.5, 0, 0]},        {"shift": [5, 0, 0]}, {"item": 1}, {"turn": "left"}, {"more": 1},
    ],
)  # fmt: skip
def test_bad_edits_change_nothing(env, bad):
    before = env.unwrapped.world.state
    for wrong in (with_edit(bad), {k: v for k, v in action().items() if k != "edit"}):
        with pytest.raises(ActionError):
            env.step(wrong)
    assert env.unwrapped.world.state is before


def test_a_step_that_fails_takes_its_edit_back(env):
    before = env.unwrapped.world.state
    with pytest.raises(PromptError):
        env.step(action("remove", event="\x00"))
    assert env.unwrapped.world.state is before


def test_moves_stop_at_surfaces(env):
    base = env.unwrapped
    infos, ahead = [], (0, 0, 1, 0, 0, 0)
    shown = base.preview({"camera": np.array(ahead, np.float32), "event": ""})
    for _ in range(12):
        observation, _, _, _, info = env.step(action(camera=ahead))
        infos.append(info["blocked"])
        if len(infos) == 1:
            assert np.array_equal(shown["pose"], observation["pose"])
        if info["blocked"]:
            break
    stop = infos[-1]
    assert stop and 0 <= stop["frame"] < 8 and all(not blocked for blocked in infos[:-1])
    assert np.allclose(observation["pose"][-1, :3, 3], stop["position"], atol=1e-4)
    assert np.allclose(observation["pose"][stop["frame"] :, :3, 3], observation["pose"][-1, :3, 3], atol=1e-6)
