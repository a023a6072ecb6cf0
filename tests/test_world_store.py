"""Exactly once: commits by compare-and-set, repeated steps, late workers. No Ray is needed for any of it."""

import dataclasses

import numpy as np
import pytest

from spatia_env import wire
from spatia_env.errors import ActionError, SpatiaError
from spatia_env.recording import digest
from spatia_env.vector.ray import EnvWorker
from spatia_env.vector.ray_store import Head, StaleEpochError, WorldStore
from spatia_env.vector.sync import StagedEnv
from untrained import write_untrained

AHEAD = {"camera": np.array([0, 0, 0.3, 0, 0.4, 0], np.float32), "event": ""}
TURN = {"camera": np.array([0, 0, 0, 0, -0.5, 0], np.float32), "event": "night falls"}


def test_a_commit_counts_once(tmp_path):
    store = WorldStore(tmp_path)
    with pytest.raises(ActionError, match="reset it first"):
        store.head("a")
    first = Head(0, "t", {"path": str(tmp_path / "x")}, b"0")
    assert store.commit("a", None, first) and not store.commit("a", None, first)
    begun = store.head("a")
    made = Head(1, "h1", {"path": str(tmp_path / "y")}, b"1")
    assert store.commit("a", begun, made)
    assert not store.commit("a", begun, Head(1, "h2", {"path": "z"}, b"2"))
    assert WorldStore(tmp_path).head("a") == dataclasses.replace(made, stamp=1)


def test_what_comes_from_an_episode_before_is_refused(tmp_path):
    """An epoch comes again with every episode, a stamp does not."""
    store = WorldStore(tmp_path)
    for epoch in (0, 1, 0, 1):
        since = store.head("a") if store.has("a") else None
        assert store.commit("a", since, Head(epoch, "h", {"path": str(tmp_path / "x")}, b""))
        if since is None:
            begun = store.head("a")
    assert not store.commit("a", begun, Head(1, "late", {"path": "y"}, b""))
    assert not store.commit("a", begun, Head(0, "a late reset", {"path": "y"}, b""))


def test_files_that_nobody_committed_are_tidied_away(tmp_path):
    store = WorldStore(tmp_path)
    for name in ("run_0-1-aa", "run_0-1-bb", "other_0-1-cc"):
        (tmp_path / f"{name}.spatia").touch()
    store.commit("run_0", None, Head(1, "h", {"path": str(tmp_path / "run_0-1-aa.spatia")}, b""))
    store.tidy("run_")
    assert {path.stem for path in tmp_path.glob("*.spatia")} == {"run_0-1-aa", "other_0-1-cc"}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    model = str(write_untrained(tmp_path_factory.mktemp("model")))
    return {"model": model, "size": [64, 64], "task": "return_home"}


def test_any_worker_takes_a_world_up_and_nothing_happens_twice(options, tmp_path):
    direct = StagedEnv(**{**options, "size": (64, 64)})
    expected = [direct.reset(seed=1, options={"scene": 10003}), direct.step(AHEAD), direct.step(TURN)]
    message = wire.pack({"seed": 1, "options": {"scene": 10003}, "token": "one"})
    first = EnvWorker(str(tmp_path), options)
    begun = first.reset("w", message)
    assert digest(wire.unpack(begun)[0]) == digest(expected[0][0])
    made = first.step("w", 0, wire.pack(AHEAD))
    # The first worker is gone, its answer too: the step is asked for again, of another one.
    second = EnvWorker(str(tmp_path), options)
    second._advance = None  # it must not compute it
    assert second.step("w", 0, wire.pack(AHEAD)) == made
    third = EnvWorker(str(tmp_path), options)
    with pytest.raises(SpatiaError, match="range is -1 to 1"):
        third.step("w", 1, wire.pack({"camera": np.full(6, 2.0), "event": ""}))
    outcome = wire.unpack(third.step("w", 1, wire.pack(TURN)))
    for got, wanted in ((wire.unpack(made), expected[1]), (outcome, expected[2])):
        assert digest(*got[:4]) == digest(*wanted[:4])
        assert got[4]["reward_terms"] == wanted[4]["reward_terms"]
    with pytest.raises(StaleEpochError, match="at epoch 2"):
        first.step("w", 1, wire.pack(AHEAD))
    assert len(list(tmp_path.glob("w-*.spatia"))) == 1, "what is not needed is removed"
    assert third.reset("w", message) == begun and WorldStore(tmp_path).head("w").epoch == 0


def test_a_late_worker_is_refused_and_leaves_no_file(options, tmp_path, monkeypatch):
    late, fast = EnvWorker(str(tmp_path), options), EnvWorker(str(tmp_path), options)
    late.reset("w", wire.pack({"seed": 1, "options": {"scene": 10003}, "token": "one"}))
    advance = late._advance

    def slowly(env, action):
        outcome = advance(env, action)
        fast.step("w", 0, wire.pack(TURN))  # meanwhile its replacement has made another step
        return outcome

    monkeypatch.setattr(late, "_advance", slowly)
    with pytest.raises(StaleEpochError):
        late.step("w", 0, wire.pack(AHEAD))
    assert WorldStore(tmp_path).head("w").epoch == 1
    assert len(list(tmp_path.glob("w-*.spatia"))) == 1
