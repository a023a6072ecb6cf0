"""Worlds in worker processes: equal to worlds in this one, and safe from workers that die or hang."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from spatia_env import wire
from spatia_env.errors import ActionError, ClosedEnvError, PoseError, WorkerError
from spatia_env.vector.sync import SpatiaVectorEnv
from spatia_env.workers import SpatiaAsyncVectorEnv, WorkerProcess
from untrained import write_untrained

SIZE = (64, 96)
AHEAD = {
    "camera": np.tile(np.array([0, 0, 0.3, 0, 0.4, 0], np.float32), (2, 1)),
    "event": ("", "a red ball rolls in"),
}
TURN = {"camera": np.tile(np.array([0, 0, 0, 0, -0.5, 0], np.float32), (2, 1)), "event": ("", "")}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    model = str(write_untrained(tmp_path_factory.mktemp("model")))
    return {"model": model, "size": SIZE, "task": "return_home", "autoreset_mode": "SameStep"}


@pytest.fixture(scope="module")
def expected(options):
    env = SpatiaVectorEnv(2, **options)
    first = env.reset(seed=5, options={"scene": 10003})
    return [first, env.step(AHEAD), env.step(TURN), env.step(AHEAD)]


@pytest.fixture(scope="module")
def env(options):
    env = SpatiaAsyncVectorEnv(2, workers=2, timeout=240, **options)
    yield env
    processes = [worker.process for worker in env.workers]
    env.close()
    assert all(process.poll() is not None for process in processes), "a worker outlived its environment"
    with pytest.raises(ClosedEnvError):
        env.step(AHEAD)


def same(step, other):
    for key, value in step[0].items():
        np.testing.assert_allclose(value.astype(float), other[0][key].astype(float), atol=1e-5, err_msg=key)
    for a, b in zip(step[1:-1], other[1:-1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert step[-1].keys() == other[-1].keys()


def test_workers_make_the_same_worlds_and_survive_a_kill(env, expected):
    same(env.reset(seed=5, options={"scene": 10003}), expected[0])
    same(env.step(AHEAD), expected[1])
    os.kill(env.workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"worker 1 .* died; no world has moved") as caught:
        env.step(TURN)
    assert caught.value.index == 1
    with pytest.raises(WorkerError):
        env.step(TURN)
    env.restore_worker(1)
    same(env.step(TURN), expected[2])


def test_a_worker_that_hangs_is_restarted_and_nothing_is_lost(env, expected):
    env.reset(seed=5, options={"scene": 10003})
    env.step(AHEAD)
    env.restart, env.timeout = True, 10
    try:
        stopped = env.workers[0].process
        os.kill(stopped.pid, signal.SIGSTOP)
        same(env.step(TURN), expected[2])
        assert stopped.poll() is not None and env.workers[0].process is not stopped
        same(env.step(AHEAD), expected[3])
    finally:
        env.restart, env.timeout = False, 240


def test_a_kill_between_a_step_and_its_resets_repeats_no_step(options, monkeypatch):
    """The step was taken; the next call goes on with the resets, and with the very ones that were begun."""
    more = options | {"max_episode_steps": 1}
    plain = SpatiaVectorEnv(2, **more)
    plain.reset(seed=5)
    expected = [plain.step(AHEAD), plain.step(TURN)]
    env = SpatiaAsyncVectorEnv(2, workers=2, timeout=240, **more)
    try:
        env.reset(seed=5)
        ask = env._ask

        def ask_and_kill(call, *args, **kwargs):
            if call == "reset":
                env.workers[1].process.kill()
                env.workers[1].process.wait()
                monkeypatch.setattr(env, "_ask", ask)
            return ask(call, *args, **kwargs)

        monkeypatch.setattr(env, "_ask", ask_and_kill)
        with pytest.raises(WorkerError, match="worker 1"):
            env.step(AHEAD)
        env.restore_worker(1)
        same(env.step(AHEAD), expected[0])
        same(env.step(TURN), expected[1])
    finally:
        env.close()


def test_a_worker_that_does_not_listen_is_found_out(options):
    """A message larger than the socket holds must not wait for ever."""
    worker = WorkerProcess(0, [0], {"model": options["model"], "size": SIZE}, None)
    worker.receive(time.monotonic() + 240)
    os.kill(worker.process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="did not listen"):
        worker.send({"call": "finish", "clips": {"0": np.zeros(8_000_000, np.uint8)}}, seconds=0.2)
    assert worker.process.poll() is not None


def test_workers_begun_by_a_thread_outlive_it(options):
    """Linux tells a child of its parent's death when the thread that began it ends."""
    made = []

    def begin():
        made.append(WorkerProcess(0, [0], {"model": options["model"], "size": SIZE}, None))
        made[0].receive(time.monotonic() + 240)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert made[0].process.poll() is None
    made[0].send({"call": "load", "saved": {}})
    made[0].receive(time.monotonic() + 60)
    made[0].connection.close()
    assert made[0].process.wait(timeout=60) is not None


def test_bad_actions_reach_the_caller_and_move_nothing(env, expected):
    env.reset(seed=5, options={"scene": 10003})
    with pytest.raises(ActionError, match="range is -1 to 1"):
        env.step({"camera": np.full((2, 6), 3.0), "event": ("", "")})
    with pytest.raises(PoseError):
        env.reset(options={"scene": 10003, "pose": np.zeros((4, 4))})
    same(env.step(AHEAD), expected[1])


@pytest.mark.parametrize(
    ("more", "complaint"),
    [({"start_method": "fork"}, "locks"), ({"workers": 3}, "1 to 2 workers"), ({"timeout": 0}, "seconds")],
)
def test_bad_arguments_start_nothing(options, more, complaint):
    with pytest.raises(ActionError, match=complaint):
        SpatiaAsyncVectorEnv(2, **{"workers": 1, **options, **more})


def test_messages_survive_the_wire():
    value = {
        "a": [1, 2.5, None, True, "é"],
        "b": (np.arange(6, dtype=np.int64).reshape(2, 3), {"c": np.zeros((0, 3), np.uint8)}),
    }
    again = wire.unpack(wire.pack(value))
    assert again["a"] == value["a"] and isinstance(again["b"], tuple)
    assert (again["b"][0] == value["b"][0]).all() and again["b"][0].flags.writeable
    assert again["b"][1]["c"].shape == (0, 3)
    for bad in (object(), {1: 2}, np.array([object()])):
        with pytest.raises(ActionError, match="cannot be sent"):
            wire.pack({"x": bad})
    for damaged in (b"", b"12345", wire.pack(value)[:-1], wire.pack(value) + b"x"):
        with pytest.raises(ActionError, match="message"):
            wire.unpack(damaged)
