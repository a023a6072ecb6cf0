"""`SpatiaVectorEnv` against Gymnasium's own vector of single environments, in every autoreset mode."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from spatia_env.errors import ActionError, ClosedEnvError, SeedError, WorldFullError
from spatia_env.models.clip_source import ModelClips
from spatia_env.models.loading import load_checkpoint
from spatia_env.vector.base import split_actions
from spatia_env.vector.sync import SpatiaVectorEnv
from untrained import write_untrained

SIZE = (64, 96)
SCENE = {"scene": 10003}
N = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("model")))


def pair(model, name, count, mode, **options):
    """Ours and Gymnasium's, of the same worlds."""
    options = {"model": model, "size": SIZE, "max_episode_steps": 2, **options}
    ours = gym.make_vec(f"spatia_env:{name}", count, autoreset_mode=mode, **options)
    theirs = gym.make_vec(
        f"spatia_env:{name}", count, "sync", vector_kwargs={"autoreset_mode": mode}, **options
    )
    assert isinstance(ours, SpatiaVectorEnv)
    return ours, theirs


def same(a, b, path="", exactly=False) -> None:
    """Equal; without `exactly`, means over an array to 1e-5 of its range, as a batch may round sums another way.

    A sum that lies between two of a byte's 256 values may then become either, and what is estimated from the
    picture follows it: the last point of a map may be there or not.
    """
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}", exactly)
    elif isinstance(a, tuple | list) or (isinstance(a, np.ndarray) and a.dtype == object):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]", exactly)
    elif isinstance(a, np.ndarray):
        assert a.shape == b.shape and a.dtype == b.dtype, path
        if exactly or a.dtype == bool or not a.size:
            assert np.array_equal(a, b), path
        elif path.startswith("[0]") or ".final_obs" in path:
            scale = 255 if a.dtype == np.uint8 else 50 if path.endswith("depth") else 1
            assert np.abs(a.astype(np.float64) - b).mean() / scale <= 1e-5, path
        else:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3, err_msg=path)
    elif isinstance(a, float):
        assert a == (b if exactly else pytest.approx(b, rel=1e-3, abs=1e-3)), path
    else:
        assert a == b, path


def play(ours, theirs, steps, options=None):
    ours.action_space.seed(3)
    exactly = ours.num_envs == 1
    same(ours.reset(seed=5, options=options), theirs.reset(seed=5, options=options), exactly=True)
    for _ in range(steps):
        action = ours.action_space.sample()
        first, second = ours.step(action), theirs.step(action)
        same(first, second, exactly=exactly)
        if ours.autoreset_mode == AutoresetMode.DISABLED and (first[2] | first[3]).any():
            mask = first[2] | first[3]
            same(ours.reset(options={"reset_mask": mask}), theirs.reset(options={"reset_mask": mask}))
        for world, env in zip(ours.worlds, theirs.envs, strict=True):
            env.unwrapped.restore(world.snapshot())  # each step is compared from the same state


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_one_world_is_a_single_environment(model, mode):
    play(*pair(model, "SpatiaRL-v0", 1, mode, task="explore"), steps=4)


def test_three_worlds_are_three_single_environments(model):
    ours, theirs = pair(model, "Spatia-v0", N, AutoresetMode.SAME_STEP, task="return_home")
    play(ours, theirs, steps=3)
    assert ours.single_action_space == theirs.single_action_space
    assert ours.observation_space == theirs.observation_space


def test_discrete_worlds_with_threads(model):
    ours, theirs = pair(model, "SpatiaDiscrete-v0", 2, AutoresetMode.NEXT_STEP, num_events=2)
    ours.close()
    ours = gym.make_vec(
        "spatia_env:SpatiaDiscrete-v0",
        2,
        model=model,
        size=SIZE,
        max_episode_steps=2,
        num_events=2,
        threads=2,
    )
    play(ours, theirs, steps=3)
    ours.close()


def test_the_model_is_called_once_a_step(model, monkeypatch):
    env = SpatiaVectorEnv(N, model=model, size=SIZE)
    env.reset(seed=0)
    batches = []

    generate = ModelClips.generate

    def counted(source, requests):
        batches.append(len(requests))
        return generate(source, requests)

    monkeypatch.setattr(ModelClips, "generate", counted)
    ahead = np.tile(np.array([0, 0, 0.4, 0, 0.3, 0], np.float32), (N, 1))
    env.step({"camera": ahead, "event": ("",) * N})
    assert batches == [N]


def test_a_batch_makes_the_clips_that_single_calls_make(model):
    env = SpatiaVectorEnv(N, model=model, size=SIZE)
    env.reset(seed=0)
    requests = []
    for world in env.worlds:
        step = world.prepare({"camera": np.array([0, 0, 0.4, 0, 0.3, 0]), "event": "a red ball rolls in"})
        requests.append(step.request)
    source = ModelClips(load_checkpoint(model).pipeline)
    together = source.generate(requests)
    for clip, request in zip(together, requests, strict=True):
        alone = source.generate([request])[0]
        difference = (clip.float() - alone.float()).abs() / 255
        assert float(difference.mean()) <= 1e-5 and not clip.is_inference()


@pytest.mark.parametrize(
    ("actions", "complaint"),
    [
        ({"camera": np.zeros((2, 6)), "event": ("", "", "")}, "holds 2 actions for 3 worlds"),
        ({"camera": np.zeros((3, 6)), "event": "abc"}, "one a world"),
        ({"camera": np.zeros((3, 6))}, "missing"),
        (np.zeros((3, 6)), "a dict of batches"),
        ({"camera": np.full((3, 6), np.nan), "event": ("",) * 3}, "NaN"),
        ({"camera": np.array([[0] * 6, [0] * 6, [2] + [0] * 5]), "event": ("",) * 3}, "range is -1 to 1"),
        ({"camera": [[0] * 6, [0] * 6, [0] * 5], "event": ("",) * 3}, r"expected shape \[6\]"),
        ({"camera": [[0] * 6, [0] * 6, [0, [1]]], "event": ("",) * 3}, "array of numbers"),
        ({"camera": {0: 1, 1: 2, 2: 3}, "event": ("",) * 3}, "one a world"),
        (None, "NoneType"),
    ],
)
def test_bad_batches_move_no_world(model, vector, actions, complaint):
    before = vector.call("snapshot")
    with pytest.raises(ActionError, match=complaint):
        vector.step(actions)
    assert all(a is b for a, b in zip(before, vector.call("snapshot"), strict=True))


@pytest.fixture(scope="module")
def vector(model):
    env = SpatiaVectorEnv(N, model=model, size=SIZE, autoreset_mode="Disabled", max_episode_steps=1)
    env.reset(seed=0, options=SCENE)
    yield env
    env.close()
    env.close()
    with pytest.raises(ClosedEnvError):
        env.reset()
    with pytest.raises(ClosedEnvError):
        env.step(env.action_space.sample())


@pytest.mark.parametrize(
    "mask",
    [[True] * 3, np.ones(2, bool), np.zeros(3, bool), np.ones(3, int)],
    ids=["list", "2", "none", "int"],
)
def test_bad_masks_and_seeds(vector, mask):
    with pytest.raises(ActionError, match="reset_mask is a bool array"):
        vector.reset(options={"reset_mask": mask})
    with pytest.raises(ActionError, match="one seed for each of the 3 worlds"):
        vector.reset(seed=[1, 2])


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"seed": [3, -1, 4]}, SeedError),
        ({"seed": [3, 1.5, 4]}, SeedError),
        ({"seed": -1}, SeedError),
        ({"seed": {1: 0, 2: 0, 3: 0}}, ActionError),
        ({"options": [1]}, ActionError),
        ({"options": {"sceen": 1}}, ActionError),
    ],
)
def test_a_refused_reset_moves_no_world(vector, bad, error):
    before = vector.call("snapshot")
    with pytest.raises(error):
        vector.reset(**bad)
    assert all(a is b for a, b in zip(before, vector.call("snapshot"), strict=True))


def test_a_reset_that_fails_in_one_world_is_undone_in_all(model, monkeypatch):
    env = SpatiaVectorEnv(2, model=model, size=SIZE, task="explore")
    env.reset(seed=0)
    twin = SpatiaVectorEnv(2, model=model, size=SIZE, task="explore")
    twin.reset(seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(env.worlds[1], "reset", lambda **_: (_ for _ in ()).throw(OSError("no disk")))
        with pytest.raises(OSError, match="no disk"):
            env.reset()
    action = env.action_space.sample()
    same(env.step(action), twin.step(action), exactly=True)
    same(env.reset(), twin.reset(), exactly=True)  # the random states were put back too


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_that_fails_in_one_world_is_undone_in_all(model, threads):
    full = SpatiaVectorEnv(2, model=model, size=SIZE, threads=threads, max_points=20_000, on_full="error")
    full.reset(seed=0, options=SCENE)
    before = full.call("snapshot")
    turn, stay = np.array([0, 0, 0.5, 0, 1, 0], np.float32), np.zeros(6, np.float32)
    with pytest.raises(WorldFullError):
        for _ in range(6):
            before = full.call("snapshot")
            full.step({"camera": np.stack([stay, turn]), "event": ("", "")})
    assert all(a is b for a, b in zip(before, full.call("snapshot"), strict=True))


def test_a_reset_that_fails_after_a_step_repeats_no_step(model, monkeypatch):
    options = {"model": model, "size": SIZE, "max_episode_steps": 1, "autoreset_mode": "SameStep"}
    env, twin = SpatiaVectorEnv(2, **options), SpatiaVectorEnv(2, **options)
    env.reset(seed=5)
    twin.reset(seed=5)
    action = env.action_space.sample()
    with monkeypatch.context() as patch:
        patch.setattr(env.worlds[1], "reset", lambda **_: (_ for _ in ()).throw(OSError("no disk")))
        with pytest.raises(OSError, match="no disk"):
            env.step(action)
    for _ in range(2):
        same(env.step(action), twin.step(action), exactly=True)


def test_worlds_that_show_their_map_alone_need_no_model(model):
    ours, theirs = pair(model, "Spatia-v0", 2, AutoresetMode.NEXT_STEP, render_only=True)
    play(ours, theirs, steps=2)


def test_ragged_pairs_of_discrete_worlds(model):
    env = SpatiaVectorEnv(2, "discrete", model=model, size=SIZE)
    env.reset(seed=0)
    with pytest.raises(ActionError, match="two integers"):
        env.step([[1, [2]], [0, 0]])


def test_worlds_that_ended_must_be_reset(model):
    env = SpatiaVectorEnv(2, model=model, size=SIZE, autoreset_mode="Disabled", max_episode_steps=1)
    with pytest.raises(ActionError, match=r"call reset\(\) first"):
        env.step(env.action_space.sample())
    env.reset(seed=0, options=SCENE)
    still = {"camera": np.zeros((2, 6), np.float32), "event": ("", "")}
    *_, truncated, _ = env.step(still)
    assert truncated.all()
    with pytest.raises(ActionError, match=r"worlds \[0, 1\] have ended"):
        env.step(still)
    mask = np.array([True, False])
    options = {"reset_mask": mask, **SCENE}
    env.reset(options=options)
    assert options["reset_mask"] is mask, "the caller's options are the caller's"
    with pytest.raises(ActionError, match=r"worlds \[1\] have ended"):
        env.step(still)


@pytest.mark.parametrize(
    "options",
    [
        {"num_envs": 0},
        {"autoreset_mode": "sometimes"},
        {"autoreset_mode": ["NextStep", "SameStep"]},
        {"view": "x"},
    ],
)
def test_bad_arguments(model, options):
    with pytest.raises(ActionError):
        SpatiaVectorEnv(**{"num_envs": 1, "model": model, "size": SIZE, **options})


@pytest.mark.parametrize("steps", [(3, None, 5), (None, 3, 5)])
def test_infos_that_are_numbers_in_some_worlds_and_none_in_others(vector, steps):
    infos = {}
    for world, step in enumerate(steps):
        infos = vector._add_info(infos, {"slam": {"loop_step": step, "loop_m": 0.1}}, world)
    assert infos["slam"]["loop_step"].tolist() == list(steps)
    assert infos["slam"]["_loop_step"].all() and infos["slam"]["loop_m"].dtype == float


def test_lists_of_single_actions_are_batches_too(vector):
    space = vector.single_action_space
    batch = [space.sample() for _ in range(N)]
    assert split_actions(space, batch, N) == batch


def test_a_fork_after_torch_is_refused_instead_of_hanging(model):
    """Gymnasium's own AsyncVectorEnv forks by default."""
    script = """
import sys, gymnasium as gym, torch
from spatia_env.errors import ForkError
torch.set_num_threads(2)
options = {"model": sys.argv[1], "size": (64, 64), "vector_kwargs": {"context": "fork"}}
envs = gym.make_vec("spatia_env:SpatiaRL-v0", 2, "async", **options)
try:
    envs.reset(seed=1)
except ForkError as error:
    print(error)
envs.close(terminate=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, model], capture_output=True, text=True, timeout=120
    )
    assert '"context": "spawn"' in done.stdout and done.returncode == 0, done.stderr[-1000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shared_memory"),
    [
        ("Spatia-v0", True),
        ("Spatia-v0", False),
        ("SpatiaPath-v0", True),
        ("SpatiaDiscrete-v0", True),
        ("SpatiaRL-v0", True),
        ("SpatiaSim-v0", True),
    ],
)
def test_gymnasiums_own_processes_make_the_same_worlds(model, name, shared_memory):
    kwargs = {"context": "spawn", "shared_memory": shared_memory}
    options = {"model": model, "size": SIZE}
    theirs = gym.make_vec(
        f"spatia_env:{name}", 2, vectorization_mode="async", vector_kwargs=kwargs, **options
    )
    ours = gym.make_vec(f"spatia_env:{name}", 2, vectorization_mode="sync", **options)
    ours.action_space.seed(3)
    try:
        same(ours.reset(seed=5, options=SCENE), theirs.reset(seed=5, options=SCENE))
        action = ours.action_space.sample()
        same(ours.step(action), theirs.step(action))
    finally:
        theirs.close()
