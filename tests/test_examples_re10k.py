"""The RealEstate10K row, on a folder made from the simulator in that layout."""

import dataclasses
import json

import numpy as np
import pytest

import re10k
from re10k import Re10kConfig, run, score, table_lines
from spatia_env.errors import ActionError
from spatia_env.train.posed_geometry import DepthConfig
from spatia_env.train.simulation import VideosFromSimConfig, videos_from_sim
from spatia_env.train.videos import plan, read_episode
from untrained import write_untrained

SIZE = (64, 96)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two clips of 17 cameras with their depth, an untrained checkpoint."""
    folder = tmp_path_factory.mktemp("re10k")
    posed = VideosFromSimConfig(
        folder / "posed", "dev", 10008, 2, size=SIZE, unit=2.0, kind="frames", truth=True
    )
    videos_from_sim(posed)
    (folder / "model").mkdir()
    return Re10kConfig(
        folder / "posed", folder / "out", ("default", "memory-render-only", "frozen-frame"), clips=1, stride=1,
        size=SIZE, model=str(write_untrained(folder / "model")), depth=DepthConfig("folder"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def content(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(re10k, "code_hash", lambda: "code")
        return run(config)


def test_the_file_says_what_was_measured(config, content):
    assert json.loads((config.out / "results.json").read_text()) == json.loads(json.dumps(content))
    assert content["suite"] == "re10k" and content["schema"] == "spatia-re10k/1"
    assert content["run"]["checkpoint"].startswith("untrained") and not content["failures"]
    assert set(content["rows"]) == set(config.rows)
    cell = content["rows"]["default"]["psnr"]
    assert cell["ci95"][0] <= cell["mean"] <= cell["ci95"][1] and cell["n"] == 2
    assert sorted(path.stem for path in (config.out / "sheets").iterdir()) == [
        video["name"] for video in content["videos"]
    ]


def test_a_frozen_frame_scores_what_it_is(config, content):
    jobs, _ = plan(config.source())
    episode = read_episode(jobs[0], config.source(), None)
    frames = episode.frames.numpy()
    squared = ((frames[1:].astype(float) - frames[:1]) ** 2).mean((1, 2, 3))
    expected = np.minimum(60, 10 * np.log10(255**2 / np.maximum(squared, 1e-12))).mean()
    assert content["videos"][0]["rows"]["frozen-frame"]["psnr"] == pytest.approx(expected, abs=0.01)
    assert content["videos"][0]["metres_a_unit"] == pytest.approx(2.0, rel=0.05)


def test_the_map_shows_the_first_picture_along_the_clips_own_path(config):
    jobs, _ = plan(config.source())
    episode = read_episode(jobs[0], config.source(), None)
    with re10k._Envs(config) as envs:
        shown = re10k.play(envs, "memory-render-only", episode, "", config.depth)
    known, truth = shown.max(-1) > 0, episode.frames[1:].numpy().astype(float)
    assert known.mean() > 0.5 and np.abs(shown - truth).mean(-1)[known].mean() < 12


def test_published_numbers_stand_apart(content):
    text = "\n".join(table_lines(content))
    ours, others = text.split("Published, not reproduced")
    assert "18.58" in others and "18.58" not in ours and "frozen-frame" in ours
    assert "LPIPS |" not in ours.replace("STLPIPS-Alex |", "")


def test_clips_that_were_measured_are_kept(config, content, monkeypatch):
    def never(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(re10k, "play", never)
    monkeypatch.setattr(re10k, "code_hash", lambda: "code")
    assert run(config)["rows"] == content["rows"]


def test_a_clip_that_fails_counts_as_worst(config, content, tmp_path):
    import shutil

    copy = tmp_path / "posed"
    shutil.copytree(config.folder, copy)
    name = content["videos"][1]["name"]
    min((copy / "frames" / name).iterdir(), key=lambda path: int(path.stem)).unlink()
    changed = dataclasses.replace(config, folder=copy, out=tmp_path / "out", rows=("frozen-frame",))
    found = run(changed)
    assert [item["video"] for item in found["failures"]] == [name] and "missing" in found["failures"][0][
        "error"
    ]
    good = found["videos"][0]["rows"]["frozen-frame"]["psnr"]
    assert found["rows"]["frozen-frame"]["psnr"]["mean"] == pytest.approx(good / 2, abs=1e-3)
    assert name in "\n".join(table_lines(found))


def test_scores_see_a_planted_fault(config):
    jobs, _ = plan(config.source())
    truth = read_episode(jobs[0], config.source(), None).frames.numpy()
    noise = np.random.default_rng(0).normal(0, 1, truth.shape)
    light, heavy = (np.clip(truth + sigma * noise, 0, 255).astype(np.uint8) for sigma in (4, 16))
    best, better, worse = (score(frames, truth) for frames in (truth, light, heavy))
    assert best["psnr"] > better["psnr"] > worse["psnr"]
    assert best["ssim"] == 1 and best["ssim"] > better["ssim"] > worse["ssim"]
    if "perceptual" in best:
        assert best["perceptual"] < better["perceptual"] < worse["perceptual"]


def test_rows_that_do_not_exist(config):
    with pytest.raises(ActionError, match=r"oracle.*frozen-frame"):
        run(dataclasses.replace(config, rows=("oracle",)))
