"""Exactly once: commits by compare-and-set, repeated steps, late workers. No Ray is needed for any of it."""

import dataclasses
import sqlite3

import numpy as np
import pytest

from spatia_env.env import SpatiaEnv
from spatia_env.errors import SpatiaError, WorldIOError
from spatia_env.recording import digest
from spatia_env.vector.ray import EnvWorker
from spatia_env.vector.ray_store import Head, StaleEpochError, WorldStore, pack, unpack
from untrained import write_untrained

AHEAD = {"camera": np.array([0, 0, 0.3, 0, 0.4, 0], np.float32), "event": ""}
TURN = {"camera": np.array([0, 0, 0, 0, -0.5, 0], np.float32), "event": "night falls"}


def test_a_commit_counts_once(tmp_path):
    store = WorldStore(tmp_path)
    assert store.head("a") == Head()
    first = Head(1, "t", b"x", b"0")
    assert store.commit("a", first) and not store.commit("a", first)
    made = Head(2, "h1", b"y", b"1")
    assert store.commit("a", made)
    assert not store.commit("a", dataclasses.replace(made, token="h2"))
    assert WorldStore(tmp_path).head("a") == made and store.head("b") == Head()


def test_a_folder_without_a_store_is_named(tmp_path):
    (tmp_path / "worlds.db").write_text("this is no database, and much longer than a header" * 100)
    with pytest.raises(WorldIOError, match=r"worlds\.db"):
        WorldStore(tmp_path)


def test_values_survive_packing():
    value = {
        "a": [1, 2.5, None, True, "é", float("inf"), 2**127],
        "b": [np.arange(6, dtype=np.int64).reshape(2, 3), {"c": np.zeros((0, 3), np.uint8)}],
        "d": (np.float32(0.1), np.bool_(True)),
    }
    again = unpack(pack(value))
    assert again["a"] == value["a"] and again["d"] == [float(np.float32(0.1)), True]
    assert (again["b"][0] == value["b"][0]).all() and again["b"][0].flags.writeable
    assert again["b"][1]["c"].shape == (0, 3) and pack(value) == pack(value)
    for bad in (object(), np.array([object()])):
        with pytest.raises((AttributeError, ValueError)):
            pack({"x": bad})


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    model = str(write_untrained(tmp_path_factory.mktemp("model")))
    return {"model": model, "size": (64, 96), "task": "return_home"}


def test_any_worker_takes_a_world_up_and_nothing_happens_twice(options, tmp_path):
    direct = SpatiaEnv(**options)
    expected = [direct.reset(seed=1, options={"scene": 10003}), direct.step(AHEAD), direct.step(TURN)]
    begin = ("w", "one", 1, {"scene": 10003})
    first = EnvWorker(str(tmp_path), options)
    epoch, begun = first.reset(*begin)
    assert epoch == 1 and digest(unpack(begun)[0]) == digest(expected[0][0])
    made = first.step("w", "two", 1, AHEAD)
    # The first worker is gone, its answer too: the step is asked for again, of another one, which must not compute it.
    second = EnvWorker(str(tmp_path), {"model": "no such model"})
    assert second.step("w", "two", 1, AHEAD) == made
    third = EnvWorker(str(tmp_path), options)
    with pytest.raises(SpatiaError, match="range is -1 to 1"):
        third.step("w", "three", 2, {"camera": np.full(6, 2.0), "event": ""})
    epoch, last = third.step("w", "four", 2, TURN)
    for got, wanted in ((unpack(made[1]), expected[1]), (unpack(last), expected[2])):
        assert digest(*got[:4]) == digest(*wanted[:4])
        assert got[4]["reward_terms"] == wanted[4]["reward_terms"]
    with pytest.raises(StaleEpochError, match="at epoch 3"):
        first.step("w", "five", 2, AHEAD)
    assert [path.name for path in tmp_path.iterdir()] == ["worlds.db"]
    assert third.reset("w", "six", 1, {"scene": 10003}) == (4, begun)


def test_a_late_worker_is_refused(options, tmp_path, monkeypatch):
    late, fast = EnvWorker(str(tmp_path), options), EnvWorker(str(tmp_path), options)
    late.reset("w", "one", 1, {"scene": 10003})
    commit = late.store.commit

    def slowly(world, head):
        fast.step("w", "its replacement's", 1, TURN)
        return commit(world, head)

    monkeypatch.setattr(late.store, "commit", slowly)
    with pytest.raises(StaleEpochError, match="at epoch 2"):
        late.step("w", "late", 1, AHEAD)
    assert fast.store.head("w").token == "its replacement's"


def test_what_is_stored_holds_no_pickle(options, tmp_path):
    EnvWorker(str(tmp_path), options).reset("w", "one", 1, {"scene": 10003})
    with sqlite3.connect(tmp_path / "worlds.db") as database:
        state, outcome = database.execute("SELECT state, outcome FROM head").fetchone()
    assert {"world", "scene", "task", "np_random"} == set(unpack(state)) and len(unpack(outcome)) == 2
