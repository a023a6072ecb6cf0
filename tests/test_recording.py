"""Recorded episodes repeat bit for bit, and a change is found at its step; shards and datasets hold what was seen."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap

import gymnasium as gym
import numpy as np
import pytest
import torch

from contract_env import ContractEnv
from spatia_env import _ENTRY_POINTS, cli
from spatia_env.errors import ActionError, SeedError
from spatia_env.io.video import read_video
from spatia_env.recording import (
    DIFFERS,
    RecordConfig,
    RecordEpisodes,
    RecordShards,
    ReplayConfig,
    collector,
    deltas,
    digest,
    first_difference,
    read_episode,
    run_record,
    run_replay,
    save_minari,
)
from untrained import write_untrained

SIZE = (64, 96)
# Minari's collector removes its folder and leaves the object that owns it to the garbage collector.
MINARI = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
AHEAD = {"camera": np.array([0, 0, 0.4, 0, 0.3, 0], np.float32), "event": "a red ball rolls in"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def recorded(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("episodes")
    config = RecordConfig(out, steps=2, size=SIZE, model=model, scene="10003", task="explore", arrays=True,
                          shards=out / "shards")  # fmt: skip
    (path,) = run_record(config)
    return path


def test_an_episode_repeats(recorded, capsys):
    episode = read_episode(recorded)
    assert [row["truncated"] for row in episode["steps"]] == [False, True]
    assert episode["steps"][0]["world"]["memory"]["points"] > 0 and episode["options"] == {"scene": 10003}
    assert run_replay(ReplayConfig((recorded,))) == 0
    assert "every step repeats" in capsys.readouterr().out


def test_the_first_step_that_differs_is_named(recorded, tmp_path, capsys):
    episode = json.loads(recorded.read_text())
    episode["steps"][1]["action"]["camera"][4] *= 0.5
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(episode))
    assert cli.main(["replay", str(changed)]) == DIFFERS
    assert "differs from step 2 on" in capsys.readouterr().out


def test_films_and_shards_hold_every_clip(recorded):
    frames = read_video(recorded.with_suffix(".mp4"))
    assert len(frames) == 1 + 2 * 8
    assert np.load(recorded.with_suffix(".npz"))["pose"].shape == (17, 4, 4)
    (shard,) = (recorded.parent / "shards").glob("shard-*.tar")
    with tarfile.open(shard) as tar:
        names = tar.getnames()
        about = json.load(tar.extractfile("000000-0001.json"))
        depth = np.load(io.BytesIO(tar.extractfile("000000-0001.depth.npy").read()))
    assert len(names) == 2 * 5 and depth.shape == (8, *SIZE) and depth.dtype == np.float16
    assert about["prompt"] and about["truncated"] and about["world"]["memory"]["points"] > 0


def test_digests_tell_everything_apart():
    observation = {"a": np.arange(4, dtype=np.float32), "b": np.zeros((2, 2), np.uint8)}
    known = digest(observation, 0.5)
    assert known == digest({"b": observation["b"].copy(), "a": observation["a"].copy()}, 0.5)
    others = [
        digest(observation, 0.25), digest(observation, 0.5, True), digest(observation, 0.5, False, True),
        digest(observation | {"a": observation["a"].astype(np.float64)}, 0.5),
        digest(observation | {"b": np.zeros((4, 1), np.uint8)}, 0.5),
        digest(observation | {"a": np.nextafter(observation["a"], 1)}, 0.5),
    ]  # fmt: skip
    assert len({known, *others}) == 7


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not JSON"),
        ("[]", "format"),
        ('{"format": "x"}', "format"),
        ('{"format": "spatia-episode/1"}', "missing"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, complaint):
    path = tmp_path / "e.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ActionError, match=complaint):
        read_episode(path)
    with pytest.raises(ActionError, match="cannot be read"):
        read_episode(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ActionError, match="not a file"):
            read_episode(odd)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "x"),
        ("seed", True),
        ("seed", -1),
        ("kwargs", []),
        ("kwargs", {"size": 5}),
        ("kwargs", {"size": [64]}),
        ("kwargs", {"sise": [64, 64]}),
        ("kwargs", {"id": "Spatia-v0"}),
        ("kwargs", {"model": "nobody"}),
        ("max_episode_steps", "2"),
        ("max_episode_steps", 0),
        ("options", [1]),
        ("options", {"sceen": 1}),
        ("options", {"image": {"__npy__": "AAAA"}}),
        ("id", "os:system"),
        ("id", "Spatia-v1"),
        ("id", 3),
        ("steps", {}),
        ("steps", [3]),
        ("steps", [{}]),
        ("prompt", None),
    ],
)
def test_files_with_one_bad_entry_are_usage_errors(recorded, tmp_path, key, value, capsys):
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(json.loads(recorded.read_text()) | {key: value}))
    assert cli.main(["replay", str(changed)]) == 2
    assert capsys.readouterr().err.startswith("spatia replay: ")


@pytest.mark.parametrize(
    "action",
    [[], {}, {"camera": [0] * 6}, {"camera": "abc", "event": ""}, {"camera": [0] * 6, "event": 3}],
    ids=str,
)
def test_actions_that_are_none_are_usage_errors(recorded, tmp_path, action, capsys):
    episode = json.loads(recorded.read_text())
    episode["steps"][0]["action"] = action
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(episode))
    assert cli.main(["replay", str(changed)]) == 2
    assert capsys.readouterr().err.startswith("spatia replay: ")


@pytest.mark.parametrize(
    "args",
    [
        ["replay"],
        ["record", "--id", "Foo"],
        ["record", "--id", "CartPole-v1"],
        ["record", "--steps", "0"],
        ["record", "--steps", "-1"],
        ["record", "--episodes", "0"],
        ["record", "--seed", "-1"],
        ["record", "--path", "sideways"],
        ["record", "--model", "nobody"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_usage_errors_and_write_nothing(tmp_path, args, capsys):
    more = ["--out", str(tmp_path / "out")] if args[0] == "record" else []
    try:
        code = cli.main([*args, *more])
    except SystemExit as exit_:  # tyro's, for arguments it cannot read
        code = exit_.code
    assert code == 2 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err


@pytest.fixture(scope="module")
def contract():
    gym.register("SpatiaContract-v0", entry_point=ContractEnv, max_episode_steps=20)
    yield "SpatiaContract-v0"
    del gym.registry["SpatiaContract-v0"]


CAMERA = [0, 0, 0.3, 0, 0.2, 0]


@pytest.mark.parametrize(
    ("kind", "move"),
    [
        ("camera", CAMERA),
        ("camera", tuple(CAMERA)),
        ("camera", [0, 0, 1, 0, -1, 0]),
        ("camera", np.array(CAMERA)),
        ("camera", np.array(CAMERA, np.float16)),
        ("camera", np.array(CAMERA, np.float32)[::-1]),
        ("camera", np.array(CAMERA, np.longdouble)),
        ("camera", torch.tensor(CAMERA)),
        ("camera", [torch.tensor(0.1)] * 6),
        ("camera", np.array([0, 0, 1, 0, -1, 0], np.int8)),
        ("camera", [1 / 3, -0.0, 1e-300, 1 + 5e-7, 0.1, np.float32(0.1)]),
        ("path", np.repeat(np.eye(4)[None] * 1.0, 3, 0)),
        ("path", np.repeat(np.eye(4)[None], 3, 0).tolist()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_legal_form_of_an_action_repeats(contract, tmp_path, kind, move):
    env = RecordEpisodes(gym.make(contract, action=kind), tmp_path)
    env.reset(seed=3)
    for event in ("", np.str_("snow falls"), "ein Ball — über"):
        observation, *_ = env.step({kind: move, "event": event})
    env.close()
    episode = read_episode(env.paths[0])
    assert len(episode["steps"]) == 3 and first_difference(episode) is None
    assert episode["steps"][-1]["hash"] == digest(observation, float(len("ein Ball — über")))


def test_options_and_arguments_that_are_arrays_repeat(model, tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (70, 101, 3)).astype(np.uint8)
    goal = np.eye(4)
    goal[:3, 3] = 1 / 3
    env = gym.make(
        "spatia_env:SpatiaImageGoal-v0",
        model=model,
        size=SIZE,
        task_options={"goal_c2w": goal.astype(np.float32)},
    )
    env = RecordEpisodes(env, tmp_path)
    depth = rng.uniform(1, 4, (70, 101)).astype(np.float32)
    env.reset(seed=1, options={"image": picture, "depth": depth, "intrinsics": (0.81, 1.2, 0.5, 0.51)})
    env.step({"camera": CAMERA, "event": ""})
    env.close()
    assert first_difference(read_episode(env.paths[0])) is None


def test_a_running_recording_is_whole_after_every_step(contract, tmp_path):
    env = RecordEpisodes(gym.make(contract), tmp_path)
    env.reset(seed=0)
    for count in range(4):
        (path,) = tmp_path.glob("*.json")
        episode = read_episode(path)
        assert len(episode["steps"]) == count and first_difference(episode) is None
        env.step({"camera": CAMERA, "event": "x" * count})
    other = RecordEpisodes(gym.make(contract), tmp_path)  # beside it, in the same folder
    other.reset(seed=0)
    other.close()
    env.close()
    assert [path.name for path in (*env.paths, *other.paths)] == ["episode-0000.json", "episode-0001.json"]


def test_a_process_that_is_killed_keeps_what_it_played(tmp_path):
    script = """
    import os, signal, sys, gymnasium as gym
    from contract_env import ContractEnv
    from spatia_env.recording import RecordEpisodes
    gym.register("SpatiaContract-v0", entry_point=ContractEnv)
    env = RecordEpisodes(gym.make("SpatiaContract-v0"), sys.argv[1])
    env.reset(seed=0)
    for _ in range(3):
        env.step({"camera": [0] * 6, "event": ""})
    os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, timeout=120, check=False)
    assert done.returncode == -9
    assert len(read_episode(tmp_path / "episode-0000.json")["steps"]) == 3


def test_ids_whose_observations_hold_no_clips_are_recorded(model, tmp_path):
    config = RecordConfig(tmp_path, id="SpatiaRL-v0", steps=2, size=SIZE, model=model, path="look_around")
    (path,) = run_record(config)
    assert len(read_video(path.with_suffix(".mp4"))) == 1 + 2 * 8
    assert cli.main(["replay", str(path)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_ENTRY_POINTS))
@pytest.mark.parametrize("path", ["random", "pan_left"])
def test_every_id_is_recorded_and_repeats(model, tmp_path, name, path):
    config = RecordConfig(
        tmp_path, id=name, steps=2, episodes=2, size=SIZE, model=model, path=path, scene="10003"
    )
    if name == "SpatiaDiscrete-v0" and path != "random":
        with pytest.raises(ActionError, match="moves by number"):
            run_record(config)
        return
    paths = run_record(config)
    assert [path.name for path in paths] == ["episode-0000.json", "episode-0001.json"]
    assert sorted(p.stem for p in tmp_path.glob("*.mp4")) == [path.stem for path in paths]
    assert run_replay(ReplayConfig(tuple(paths))) == 0


def test_an_episode_names_only_our_environments(recorded):
    episode = read_episode(recorded) | {"id": "os:system"}
    with pytest.raises(ActionError, match="none of this package's ids"):
        first_difference(episode)


def test_recorders_refuse_what_they_cannot_write(tmp_path, model):
    with pytest.raises(ActionError, match=r"gym\.make"):
        RecordEpisodes(ContractEnv(), tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ActionError, match="holds something already"):
        RecordShards(ContractEnv(), tmp_path / "full")
    env = RecordEpisodes(gym.make("spatia_env:Spatia-v0", model=model, size=SIZE), tmp_path)
    with pytest.raises(ActionError, match="cannot be written down"):
        env.reset(options={"world": object()})
    with pytest.raises(ActionError, match="unknown 'sideways'"):
        run_record(RecordConfig(tmp_path, path="sideways"))
    with pytest.raises(SeedError):
        run_record(RecordConfig(tmp_path, seed=-1))
    shards = RecordConfig(tmp_path, id="SpatiaRL-v0", size=SIZE, model=model, shards=tmp_path / "new")
    with pytest.raises(ActionError, match=r"Dict\(frames"):
        run_record(shards)


def test_shards_are_cut(tmp_path):
    env = RecordShards(ContractEnv(), tmp_path / "shards", per_shard=2)
    env.reset(seed=0)
    for _ in range(5):
        env.step(AHEAD)
    env.close()
    shards = sorted((tmp_path / "shards").iterdir())
    assert [path.name for path in shards] == [f"shard-{i:06d}.tar" for i in range(3)]
    counts = []
    for path in shards:
        with tarfile.open(path) as tar:
            counts.append(len({name.split(".")[0] for name in tar.getnames()}))
    assert counts == [2, 2, 1]


@MINARI
def test_minari_holds_observations_actions_and_the_worlds_changes(tmp_path, monkeypatch, model):
    minari = pytest.importorskip("minari")
    pytest.importorskip("jax")  # Minari collects with it
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = collector(gym.make("spatia_env:Spatia-v0", model=model, size=(64, 64), max_episode_steps=2))
    observation, _ = env.reset(seed=1, options={"scene": 10003})
    _, reward, *_, info = env.step(AHEAD)
    env.step(AHEAD)
    save_minari(env, "spatia/test-v0")
    (episode,) = minari.load_dataset("spatia/test-v0").iterate_episodes()
    assert (episode.observations["frames"][0] == observation["frames"]).all()
    assert episode.actions["event"][0] == AHEAD["event"] and episode.rewards[0] == reward
    assert episode.infos["memory"]["points"][1] == deltas(info)["memory"]["points"]
    again = collector(gym.make("spatia_env:Spatia-v0", model=model, size=(64, 64), max_episode_steps=1))
    again.reset(seed=1, options={"scene": 10003})
    again.step(AHEAD)
    with pytest.raises(ActionError, match="another name"):
        save_minari(again, "spatia/test-v0")


@MINARI
@pytest.mark.slow
@pytest.mark.parametrize("name", list(_ENTRY_POINTS))
def test_minari_holds_every_id_without_loss(tmp_path, monkeypatch, model, name):
    minari = pytest.importorskip("minari")
    pytest.importorskip("jax")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    config = RecordConfig(
        tmp_path / "out", id=name, steps=2, size=SIZE, model=model, scene="10003", minari="spatia/all-v0"
    )
    (path,) = run_record(config)
    dataset = minari.load_dataset("spatia/all-v0")
    (episode,) = dataset.iterate_episodes()
    env = dataset.recover_environment()
    env.close()
    assert env.spec.id == name and len(episode.rewards) == 2
    hashes = [row["hash"] for row in read_episode(path)["steps"]]
    for number, expected in enumerate(hashes):
        observation = {key: value[number + 1] for key, value in episode.observations.items()}
        flags = float(episode.rewards[number]), episode.terminations[number], episode.truncations[number]
        assert digest(observation, *flags) == expected


@MINARI
def test_a_recorded_dataset_names_its_plain_environment_and_is_not_written_twice(
    tmp_path, monkeypatch, model
):
    minari = pytest.importorskip("minari")
    pytest.importorskip("jax")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    config = RecordConfig(
        tmp_path / "out", steps=1, scene="10003", size=(64, 64), model=model, minari="spatia/walk-v0",
        shards=tmp_path / "out" / "shards",
    )  # fmt: skip
    run_record(config)
    dataset = minari.load_dataset("spatia/walk-v0")
    env = dataset.recover_environment()
    assert env.spec.id == "Spatia-v0" and not env.spec.additional_wrappers
    env.close()
    samples = pytest.importorskip("webdataset").WebDataset(
        str(tmp_path / "out" / "shards" / "shard-000000.tar"), shardshuffle=False
    )
    assert {"mp4", "depth.npy", "pose.npy", "known.npy", "json"} <= set(next(iter(samples)))
    before = sorted((tmp_path / "out").iterdir())
    for name, complaint in (("spatia/walk-v0", "already"), ("no name", "names no dataset")):
        with pytest.raises(ActionError, match=complaint):
            run_record(dataclasses.replace(config, minari=name, shards=None))
    assert sorted((tmp_path / "out").iterdir()) == before, "nothing was played"
