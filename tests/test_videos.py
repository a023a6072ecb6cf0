"""Posed videos, made from the simulator in the published layout, become episodes that train the world model."""

import json
import shutil

import numpy as np
import pytest
import torch

import mapanything_tiny
from spatia_env.errors import ActionError, DatasetError, DependencyError, VideoError
from spatia_env.geometry import pose_error
from spatia_env.slam.depth_network import SimulatorGeometry
from spatia_env.train import videos
from spatia_env.train.autoencoder import encode_episodes, fresh_autoencoder
from spatia_env.train.episodes import EpisodeFile
from spatia_env.train.loop import LoopConfig, Trainer
from spatia_env.train.posed_geometry import DepthConfig, open_estimator
from spatia_env.train.simulation import EpisodeConfig, VideosFromSimConfig, record_episode, videos_from_sim
from spatia_env.train.videos import VideosConfig, make_videos, plan
from spatia_env.train.world_model import WorldModelConfig, train_world_model

SIZE = (64, 96)
SEED, UNIT = 8, 2.5
TRUTH = DepthConfig("folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One clip of 33 cameras of a walk in scene 8, as pictures with depth and masks."""
    out = tmp_path_factory.mktemp("posed")
    config = VideosFromSimConfig(
        out, first=SEED, count=1, clips=4, size=SIZE, unit=UNIT, kind="frames", truth=True
    )
    assert videos_from_sim(config) == 1
    return out


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """Its episode: every second camera, with the depth of the folder."""
    out = tmp_path_factory.mktemp("episodes")
    config = VideosConfig(folder, out, size=SIZE, clips=2, strides=(2,), depth=TRUTH)
    assert make_videos(config) == {"written": 1, "kept": 0, "left_out": 0}
    return config


def only(config):
    (path,) = config.out.glob("*.safetensors")
    return EpisodeFile(path)


def test_an_episode_is_what_the_simulator_recorded(made):
    episode = only(made)
    truth = record_episode(SEED, EpisodeConfig(4, *SIZE, event_share=0.0, quiet_share=0.0), "train")
    everything = slice(None)
    np.testing.assert_array_equal(episode.get("frames", everything), truth["frames"][::2])
    np.testing.assert_allclose(episode.get("depth", everything), truth["depth"][::2], atol=2e-3)
    np.testing.assert_allclose(episode.get("K", everything), truth["K"], atol=1e-3)
    assert episode.meta["video"]["metres_a_unit"] == pytest.approx(UNIT, rel=0.05)
    assert episode.meta["clips"][0]["text"] == truth["meta"]["prompt"]
    # The same motion, in a world of its own: steps from pose to pose agree.
    poses, true = episode.get("c2w", everything).double(), torch.from_numpy(truth["c2w"][::2]).double()
    steps, true_steps = (torch.linalg.inv(p[:-1]) @ p[1:] for p in (poses, true))
    metres, degrees = pose_error(steps, true_steps)
    assert metres.max() < 0.02 and degrees.max() < 0.05


def test_its_memory_shows_what_was_seen(made):
    episode = only(made)
    for number in range(2):
        known = episode.get("known", number)
        frames = episode.get("frames", slice(1 + 8 * number, 9 + 8 * number)).float()
        error = (episode.get("render", number).float() - frames).abs().mean(-1)
        assert known.float().mean() > 0.4 and error[known].mean() < 12
    assert episode.get("references", slice(None)).shape == (2, 2)


def test_a_second_call_keeps_what_is_there(made):
    assert make_videos(made) == {"written": 0, "kept": 1, "left_out": 0}


def test_the_world_model_trains_on_it(made, tmp_path):
    torch.manual_seed(0)
    network = fresh_autoencoder()
    Trainer(network, LoopConfig(tmp_path / "autoencoder")).save()
    assert encode_episodes(network, made.out) == 1
    loop = LoopConfig(tmp_path / "world-model", max_steps=3, warmup=1, log_every=1)
    figures = train_world_model(
        WorldModelConfig(loop, tmp_path / "autoencoder", (made.out,), made.out, batch=2, pixel_frames=1)
    )
    assert np.isfinite([figures[name] for name in ("observed", "all", "restored")]).all()  # nothing moves
    assert json.loads((tmp_path / "world-model" / "progress.json").read_text())["step"] == 3


def test_depth_of_the_packaged_network(folder, tmp_path):
    config = VideosConfig(folder, tmp_path, size=SIZE, clips=2, strides=(2,))
    assert make_videos(config)["written"] == 1
    episode = only(config)
    truth = record_episode(SEED, EpisodeConfig(4, *SIZE, event_share=0.0, quiet_share=0.0), "train")
    depth, true = (
        x.float() for x in (episode.get("depth", slice(None)), torch.from_numpy(truth["depth"][::2]))
    )
    scale = episode.meta["video"]["metres_a_unit"] / UNIT
    seen = (depth > 0) & (true > 0)
    # One picture does not tell the size of a room; depth and unit are off by the same factor.
    error = (depth / scale - true).abs() / true.clamp_min(0.1)
    assert 0.5 < scale < 2 and seen.float().mean() > 0.7
    assert error[seen].median() < 0.15


def test_mapanything_sees_all_frames_at_once(folder, tmp_path, monkeypatch):
    """Its place is taken by the truth; what it is handed is checked, the network itself has its own tests."""
    truth = record_episode(SEED, EpisodeConfig(4, *SIZE, event_share=0.0, quiet_share=0.0), "train")
    calls = []

    class Seeing(SimulatorGeometry):
        def __init__(self):
            pass

        def __call__(self, rgb, c2w, K, map_rgb, map_depth, known, ground=None):
            calls.append((len(rgb), bool(known.any())))
            frames = torch.from_numpy(truth["frames"]).movedim(-1, 1).float() / 255
            index = [int((frames - picture).abs().mean((1, 2, 3)).argmin()) for picture in rgb]
            self.truth = lambda pose: (
                torch.from_numpy(truth["depth"][index.pop(0)]).float(),
                torch.zeros(SIZE),
            )
            return super().__call__(rgb, c2w, K, map_rgb, map_depth, known, ground)

    monkeypatch.setattr(videos, "open_estimator", lambda config: Seeing())
    config = VideosConfig(
        folder, tmp_path, size=SIZE, clips=2, strides=(2,), depth=DepthConfig("mapanything", scale=UNIT)
    )
    assert make_videos(config)["written"] == 1
    assert calls == [(17, False)]
    videos._estimator.cache_clear()


def test_mapanything_that_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mapanything.models", None)
    assert mapanything_tiny.RECORDED.exists()
    with pytest.raises(DependencyError, match="pip install"):
        open_estimator(DepthConfig("mapanything"))


def test_bad_clips_stop_or_are_left_out(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder / "cameras", copy / "cameras")
    name = next((copy / "cameras").iterdir()).stem
    (copy / "frames").symlink_to(folder / "frames")
    (copy / "depth").symlink_to(folder / "depth")
    (copy / "cameras" / "zz.txt").write_text((copy / "cameras" / f"{name}.txt").read_text())
    (copy / "cameras" / "bad.txt").write_text("https://a/b\n1 2 3\n")
    config = VideosConfig(copy, tmp_path / "out", size=SIZE, clips=4, strides=(1,), depth=TRUTH)
    with pytest.raises(DatasetError, match=r"bad\.txt, line 2.*3 columns"):
        make_videos(config)
    assert not (tmp_path / "out").exists()  # all is checked before anything is written
    (copy / "cameras" / "bad.txt").unlink()
    with pytest.raises(VideoError, match=r"zz\.txt.*missing"):
        plan(config)
    lenient = VideosConfig(copy, tmp_path / "out", SIZE, 4, (1,), depth=TRUTH, skip_bad=True)
    assert make_videos(lenient) == {"written": 1, "kept": 0, "left_out": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": (60, 96)}, "multiples of 32"),
        ({"clips": 9}, "no clip has the 145 cameras"),
        ({"strides": ()}, "1 or more"),
        ({"depth": DepthConfig(scale=-1.0)}, "metres"),
        ({"captions": "nowhere.json"}, "no such file"),
    ],
)
def test_options_that_cannot_be(folder, tmp_path, change, words):
    from pathlib import Path

    options = {"size": SIZE, "clips": 2, "strides": (2,), "depth": TRUTH} | change
    if "captions" in options:
        options["captions"] = Path(options["captions"])
    with pytest.raises(ActionError, match=words):
        make_videos(VideosConfig(folder, tmp_path, **options))
    assert not list(tmp_path.iterdir())


def test_whole_videos_and_clips_make_the_same_episode(tmp_path):
    found = {}
    for kind in ("clips", "whole"):
        root = tmp_path / kind
        videos_from_sim(
            VideosFromSimConfig(root, first=SEED, count=1, clips=1, size=SIZE, kind=kind, truth=True)
        )
        config = VideosConfig(root, root / "out", SIZE, clips=1, strides=(1,), depth=TRUTH)
        make_videos(config)
        found[kind] = only(config).get("frames", slice(None)).float()
    assert (found["clips"] - found["whole"]).abs().mean() < 3
