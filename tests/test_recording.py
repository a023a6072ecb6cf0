"""Recorded episodes repeat bit for bit, and a change is found at its step; shards and datasets hold what was seen."""

import dataclasses
import io
import json
import tarfile

import gymnasium as gym
import numpy as np
import pytest

from contract_env import ContractEnv
from spatia_env.datasets import RecordShards, collector, deltas, save_minari
from spatia_env.errors import ActionError
from spatia_env.io.video import read_video
from spatia_env.record import RecordConfig, run_record
from spatia_env.recording import RecordEpisodes, digest, first_difference, read_episode
from spatia_env.replay import ReplayConfig, run_replay
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
    assert run_replay(ReplayConfig((changed,))) == 1
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
    ],
)
def test_bad_files_are_refused(tmp_path, content, complaint):
    path = tmp_path / "e.json"
    path.write_text(content)
    with pytest.raises(ActionError, match=complaint):
        read_episode(path)
    with pytest.raises(ActionError, match="cannot be read"):
        read_episode(tmp_path / "none.json")


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
