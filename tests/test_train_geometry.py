import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spatia_env.errors import ActionError
from spatia_env.geometry import intrinsics_from_fov, look_at, path_from_twist, unproject
from spatia_env.slam.depth_network import Geometry, Planes
from spatia_env.train import episodes
from spatia_env.train.episodes import CorruptionConfig, EpisodeStore, remember_episode
from spatia_env.train.geometry import (
    GeometryConfig,
    Tally,
    disturb,
    evaluate,
    gauge_target,
    geometry_batches,
    geometry_loss,
    load_trained,
    mirror,
    read_clip,
    train_geometry,
)
from spatia_env.train.loop import LoopConfig
from tests.rooms import room_view

H, W, CLIPS = 48, 64, 2


def write_episode(path: Path, seed: int, corruption: CorruptionConfig) -> None:
    """A walk in the analytic room with a red square that slides across the second clip."""
    rng = np.random.default_rng(seed)
    K = intrinsics_from_fov(32.0, H, W)
    yaw = rng.uniform(0, 2 * np.pi)
    eye = torch.tensor(
        [rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8), rng.uniform(-0.1, 0.1)], dtype=torch.float32
    )
    c2w = look_at(eye, eye + torch.tensor([np.cos(yaw), np.sin(yaw), -0.1], dtype=torch.float32))[None]
    for turn in (0.3, -0.3):
        c2w = torch.cat([c2w, path_from_twist(c2w[-1], torch.tensor([0.0, 0.0, 0.2, 0.0, turn, 0.0]), 8)])
    rgb, depth = room_view(c2w, K, H, W)
    dynamic = torch.zeros(depth.shape, dtype=torch.bool)
    for i in range(9, 17):
        dynamic[i, 16:32, 4 + 4 * (i - 9) : 20 + 4 * (i - 9)] = True
    rgb = torch.where(dynamic[:, None], torch.tensor([0.9, 0.1, 0.1])[:, None, None], rgb)
    depth = torch.where(dynamic, torch.full_like(depth, 0.8), depth)
    meta = {"seed": seed, "prompt": "a room", "clips": [{"conditions": False}] * CLIPS}
    recorded = {
        "frames": (rgb.movedim(1, -1) * 255).round().byte(),
        "depth": depth.half(),
        "dynamic": dynamic,
        "c2w": c2w,
        "K": K,
    }
    remembered = remember_episode(recorded | {"meta": meta}, corruption, rng)
    episodes.write_episode(path, recorded | remembered, meta)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("episodes")
    for seed in range(3):
        write_episode(path / f"{seed:05d}.safetensors", seed, CorruptionConfig(clean_share=seed % 2))
    return path


@pytest.fixture()
def clip(folder):
    return read_clip(EpisodeStore(folder).open(1), 1)


def test_an_episode_remembers_what_came_to_rest_as_the_env_does():
    """A red box stands before the wall from the first clip on: two clips later it is in the map."""
    K = intrinsics_from_fov(60.0, H, W)
    here = look_at(torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    c2w = here.repeat(1 + 8 * 4, 1, 1)
    rgb, depth = room_view(c2w, K, H, W)
    frames = (rgb.movedim(1, -1) * 255).round().byte()
    frames[1:, 16:32, 30:42] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    depth[1:, 16:32, 30:42] = 1.5
    meta = {"clips": [{"conditions": False}] * 4}
    recorded = {"frames": frames, "depth": depth, "dynamic": torch.zeros(depth.shape, dtype=torch.bool)}
    clean = CorruptionConfig(clean_share=1.0)
    out = remember_episode(recorded | {"c2w": c2w, "K": K, "meta": meta}, clean, np.random.default_rng(0))
    red = (out["render"][:, -1, 20:28, 33:39].float() - torch.tensor([255.0, 0, 0])).abs().amax(
        (1, 2, 3)
    ) < 30
    assert red.tolist() == [False, False, True, True]
    assert (out["map_depth"][2, -1, 20:28, 33:39] - 1.5).abs().max() < 0.05
    assert out["references"].shape == (4, 2) and out["references"].max() < 25


class TestGauge:
    def test_the_map_where_it_agrees_and_the_truth_in_its_scale_elsewhere(self):
        truth = torch.linspace(1, 4, 32 * 48).view(1, 32, 48)
        known = torch.zeros(1, 32, 48, dtype=torch.bool)
        known[..., :30] = True
        dynamic = torch.zeros_like(known)
        dynamic[:, 5:9, 5:9] = True
        map_depth = truth * 1.06 * known
        map_depth[:, 20:24, 10:14] *= 1.5  # the map remembers something else here
        target, agrees = gauge_target(truth, dynamic, map_depth, known)
        assert torch.allclose(target[agrees], map_depth[agrees].log(), atol=1e-5)
        assert torch.allclose(target.exp(), truth * 1.06, rtol=1e-3)
        assert not agrees[dynamic].any()
        assert not agrees[:, 20:24, 10:14].any()
        assert not agrees[~known].any()
        assert agrees.float().mean() > 0.5

    def test_without_a_map_it_is_the_truth(self):
        truth = torch.rand(2, 16, 24) * 3 + 0.5
        nothing = torch.zeros(2, 16, 24, dtype=torch.bool)
        target, agrees = gauge_target(truth, nothing, torch.zeros_like(truth), nothing)
        assert torch.allclose(target.exp(), truth, rtol=1e-5)
        assert not agrees.any()


class TestSamples:
    def test_clips_hold_the_truth_and_the_map_of_before(self, clip):
        assert clip.rgb.shape == (8, 3, H, W)
        assert clip.known.float().mean() > 0.5
        assert (clip.map_depth[~clip.known] == 0).all()
        still = clip.known & ~clip.dynamic
        assert (clip.map_rgb - clip.rgb).abs().mean(1)[still].mean() < 0.05

    def test_the_mirrored_world_is_the_mirror_image_of_the_world(self, clip):
        twice = mirror(mirror(clip))
        assert torch.allclose(twice.c2w, clip.c2w)
        assert torch.equal(twice.rgb, clip.rgb)
        mirrored = mirror(clip)
        points = unproject(clip.depth, clip.K, clip.c2w)
        seen = unproject(mirrored.depth, mirrored.K, mirrored.c2w).flip(-2)
        assert torch.allclose(seen * torch.tensor([-1.0, 1, 1]), points, atol=1e-4)

    def test_disturbing_keeps_the_truth_and_stays_in_range(self, clip):
        for seed in range(6):
            out = disturb(clip, np.random.default_rng(seed))
            assert 0 <= out.rgb.min() <= out.rgb.max() <= 1
            same = torch.equal(out.depth, clip.depth) or torch.equal(out.depth, clip.depth.flip(-1))
            assert same
            assert (out.map_depth[~out.known] == 0).all()
            assert not torch.equal(out.rgb, clip.rgb)

    def test_batches_have_the_asked_size_and_repeat_for_a_seed(self, folder):
        def first(seed):
            return next(geometry_batches(EpisodeStore(folder), 7, np.random.default_rng(seed), 0.4, 0.5))

        one, two, other = first(5), first(5), first(6)
        assert len(one.base) == len(one.planes) == len(one.target) == 7
        assert torch.equal(one.planes, two.planes)
        assert not torch.equal(one.planes, other.planes)


class TestLoss:
    def perfect(self, batch):
        logit = (batch.dynamic.float() * 2 - 1) * 20
        return Planes(batch.target, batch.agrees.float(), torch.full_like(batch.base, -7.0), logit)

    def test_is_least_for_the_truth(self, folder):
        batch = next(geometry_batches(EpisodeStore(folder), 6, np.random.default_rng(0), 0.3, 0.5))
        best = self.perfect(batch)
        least, parts = geometry_loss(best, batch)
        assert parts["depth"] == parts["edges"] == 0
        assert parts["moving"] < 1e-6
        for worse in (
            replace(best, log_depth=best.log_depth + 0.1),
            replace(best, log_depth=best.log_depth + 0.02 * torch.randn_like(best.log_depth)),
            replace(best, keep=1 - best.keep),
            replace(best, dynamic=-best.dynamic),
            replace(best, log_error=torch.zeros_like(best.log_error)),
        ):
            assert geometry_loss(worse, batch)[0] > least + 0.01

    def test_the_expected_error_settles_at_the_mean_error(self, folder):
        batch = next(geometry_batches(EpisodeStore(folder), 4, np.random.default_rng(0), 0.3, 0.5))
        scales = torch.linspace(-5, 0, 26)
        best = self.perfect(batch)
        off = replace(best, log_depth=best.log_depth + 0.05)
        values = [
            geometry_loss(replace(off, log_error=torch.full_like(batch.base, float(s))), batch)[0]
            for s in scales
        ]
        assert float(scales[int(torch.stack(values).argmin())]) == pytest.approx(np.log(0.05), abs=0.15)

    def test_pixels_without_truth_do_not_count(self, folder):
        batch = next(geometry_batches(EpisodeStore(folder), 4, np.random.default_rng(1), 0.3, 0.5))
        hole = torch.zeros_like(batch.valid)
        hole[:, 10:20, 10:20] = True
        batch = replace(batch, valid=batch.valid & ~hole)
        said = self.perfect(batch)
        wild = replace(said, log_depth=torch.where(hole, said.log_depth + 3, said.log_depth))
        assert geometry_loss(wild, batch)[0] == geometry_loss(said, batch)[0]


def test_tally_counts_by_hand():
    depth = torch.full((1, 6, 10), 2.0)
    depth[0, 0, 0] = 0  # no truth there
    dynamic = torch.zeros(1, 6, 10, dtype=torch.bool)
    dynamic[0, 2, 2] = dynamic[0, 5, 9] = True
    known = torch.zeros_like(dynamic)
    known[..., :5] = True
    said = Geometry(torch.full((1, 6, 10), 2.2), torch.full((1, 6, 10), 0.7), torch.zeros(1, 6, 10))
    said.depth[..., 5:] = 2.0
    said.dynamic[0, 2, 2] = said.dynamic[0, 2, 3] = 1.0
    tally = Tally()
    tally.add(said, depth, dynamic, known)
    figures = tally.figures()
    assert figures["absrel"] == pytest.approx(0.1 * 29 / 59, abs=1e-4)
    assert figures["absrel_unknown"] == 0
    assert (figures["iou"], figures["recall"], figures["precision"]) == (
        pytest.approx(1 / 3, abs=1e-4),
        0.5,
        0.5,
    )
    # 2 pixels of dilation: rows 0-4, columns 0-5 are kept out, so 30 of 60 are written, one of them moves.
    assert figures["leakage"] == pytest.approx(1 / 30, abs=1e-4)
    assert figures["static_recall"] == pytest.approx(29 / 57, abs=1e-4)
    assert (figures["sure"], figures["right"]) == (pytest.approx(0.7), pytest.approx(30 / 59, abs=1e-4))


class TestTraining:
    def config(self, folder, out, steps):
        loop = LoopConfig(out=out, minutes=2, max_steps=steps, learning_rate=2e-3, warmup=5, ema=0.8)
        return GeometryConfig(loop=loop, data=(folder,), dev=folder, batch=6, dev_episodes=2)

    def test_learns_resumes_and_is_loaded(self, folder, tmp_path):
        before = train_geometry(self.config(folder, tmp_path / "run", 1))
        after = train_geometry(self.config(folder, tmp_path / "run", 40))
        assert after["absrel"] < 0.8 * before["absrel"]
        assert after["absrel_picture"] < 0.9 * before["absrel_picture"]
        assert json.loads((tmp_path / "run" / "progress.json").read_text())["step"] == 40
        model = load_trained(tmp_path / "run")
        again = evaluate(model, self.config(folder, tmp_path / "run", 40))
        assert again == pytest.approx(after, abs=2e-3, nan_ok=True)

    def test_several_folders_are_one_store(self, folder, tmp_path):
        store, both = EpisodeStore(folder), EpisodeStore(folder, tmp_path, folder)
        assert len(both) == 2 * len(store) > 0
        assert both.open(len(store)).path == store.open(0).path

    def test_without_episodes_it_says_what_to_run(self, tmp_path):
        with pytest.raises(ActionError, match="spatia train data"):
            train_geometry(self.config(tmp_path / "none", tmp_path / "run", 1))
