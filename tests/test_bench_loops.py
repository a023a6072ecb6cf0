"""Closed paths and long ones: they close, move, count only when followed; and truths are made once."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from spatia_env.bench import loops, metrics, paths
from spatia_env.bench.config import LOOPS, BenchConfig
from spatia_env.bench.core import plan
from spatia_env.bench.episodes import generator, record
from spatia_env.bench.floors import OraclePlayer
from spatia_env.bench.loops import score_drift, score_loop, score_revisit
from spatia_env.bench.truths import Truths
from spatia_env.errors import ActionError
from spatia_env.geometry import invert_se3
from spatia_env.sim.scenes import SimScene

SCENE = 10003
SIZE = (48, 64)
CLOSED = {kind: clips for kind, clips in LOOPS if kind not in ("loop", "revisit")} | {"drift": 16}


@pytest.fixture(scope="module")
def scene():
    with SimScene(SCENE) as scene:
        yield scene


def poses_of(scene, kind, clips):
    return paths.MAKERS[kind][1](scene, generator(SCENE, kind), clips)


@pytest.mark.parametrize(("kind", "clips"), CLOSED.items())
def test_closed_paths_return_exactly_and_keep_within_a_step(scene, kind, clips):
    path = poses_of(scene, kind, clips)
    assert path.shape == (1 + 8 * clips, 4, 4)
    assert torch.equal(path[-1], path[0])
    relative = invert_se3(path[:-8:8]) @ path[8::8]
    assert (relative[:, :3, 3].norm(dim=-1) <= 0.5 + 1e-4).all()
    away = path[len(path) // 2]
    assert (away - path[0]).abs().max() > 0.02
    assert all(scene.is_free(pose[:3, 3].numpy(), 0.2) for pose in path[::4])


def test_the_drift_path_is_at_the_start_after_2_6_and_16_clips_and_nowhere_between(scene):
    path = poses_of(scene, "drift", 16)
    home = [index for index in range(0, 129, 8) if torch.equal(path[index], path[0])]
    assert home == [0, 16, 48, 128]
    with pytest.raises(ValueError, match="16 clips"):
        poses_of(scene, "drift", 8)


def test_the_revisit_path_comes_twice_to_the_same_unseen_place(scene):
    path = poses_of(scene, "revisit", 6)
    assert torch.equal(path[16], path[48])
    assert torch.equal(path[32], path[0])
    turned = torch.rad2deg(torch.arccos((path[16, :3, 2] @ path[0, :3, 2]).clamp(-1, 1)))
    assert 35 < float(turned) < 45


@pytest.fixture(scope="module")
def revisit():
    return record(SCENE, "revisit", SIZE, 6)


def test_a_generated_place_must_be_the_same_when_it_is_seen_again(revisit):
    best = score_revisit(revisit.frames[1:], revisit)
    assert best["followed"] == 1 and best["psnr_g"] == metrics.PSNR_CAP
    # A place that was imagined otherwise than it is, but the same both times, is as good.
    imagined = revisit.frames[1:].copy()
    unseen = ~revisit.observed[1:]
    imagined[unseen] = 255 - imagined[unseen]
    assert score_revisit(imagined, revisit)["psnr_g"] == metrics.PSNR_CAP
    # Imagined anew the second time it is not.
    forgotten = revisit.frames[1:].copy()
    forgotten[32:][unseen[32:]] = 255 - forgotten[32:][unseen[32:]]
    assert score_revisit(forgotten, revisit)["psnr_g"] < 15
    assert score_revisit(forgotten, revisit)["psnr_g_all"] > score_revisit(forgotten, revisit)["psnr_g"]
    frozen = score_revisit(np.repeat(revisit.frames[:1], 48, 0), revisit)
    assert frozen["psnr_g_raw"] == metrics.PSNR_CAP
    assert frozen["followed"] == 0 and frozen["psnr_g"] < 25


@pytest.fixture(scope="module")
def drift():
    return record(SCENE, "drift", SIZE, 16)


def test_drift_is_measured_at_each_return(drift):
    best = score_drift(drift.frames[1:], drift)
    assert best["psnr_c_2"] == best["psnr_c_16"] == metrics.PSNR_CAP
    assert best["loss_2_16"] == 0 and best["slope"] == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(0).normal(0, 1, drift.frames[1:].shape)
    grown = noise * (4 + np.arange(128) / 8)[:, None, None, None]
    worse = score_drift(np.clip(drift.frames[1:] + grown, 0, 255).astype(np.uint8), drift)
    assert worse["loss_2_16"] > worse["loss_2_6"] > 1
    assert worse["slope"] < -0.2
    assert worse["worst_clip"] < worse["psnr_c_2"] - 4
    frozen = score_drift(np.repeat(drift.frames[:1], 128, 0), drift)
    assert frozen["followed_16"] == 0 and frozen["psnr_c_16"] < 25


def test_a_loop_that_was_not_followed_gets_the_other_metrics_of_a_wrong_place():
    truth = record(SCENE, "look-away", SIZE, 4)
    perfect, frozen = (
        score_loop(frames, truth) for frames in (truth.frames[1:], np.repeat(truth.frames[:1], 32, 0))
    )
    assert (perfect["stlpips_c"], perfect["match_c"], perfect["ssim_c"]) == (0, 1, pytest.approx(1))
    assert frozen["stlpips_c"] > 0.1
    assert frozen["match_c"] < 0.3
    assert frozen["ssim_c"] < 0.9


# -- WorldScore's paths in a scene ----------------------------------------------------------------------------------


def test_a_path_that_ends_in_a_wall_is_noticed(scene):
    path = poses_of(scene, "ws:push_in", 1)
    assert torch.allclose((invert_se3(path[:1]) @ path[-1:])[0, :3, 3], torch.tensor([0, 0, 0.5]), atol=1e-5)
    assert paths.has_room(scene, path)
    outside = path.clone()
    outside[-1, :3, 3] += 50
    assert not paths.has_room(scene, outside)


# -- truths -------------------------------------------------------------------------------------------------------


def test_truths_are_made_once_and_come_back_from_a_folder(tmp_path, monkeypatch):
    with Truths(SIZE, tmp_path) as truths:
        first = truths.get(SCENE, "glance", 1)
        assert truths.get(SCENE, "glance", 1) is first
        assert truths.kept("a", lambda: 1) == truths.kept("a", lambda: 2) == 1
        opened = truths.scene(SCENE)
        assert truths.scene(SCENE) is opened
        truths.get(SCENE + 1, "glance", 1)
        assert truths.kept("a", lambda: 2) == 2
    monkeypatch.setattr("spatia_env.bench.truths.film", lambda *a: pytest.fail("made again"))
    with Truths(SIZE, tmp_path) as truths:
        again = truths.get(SCENE, "glance", 1)
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name)), field.name
    for file in tmp_path.glob(f"{SCENE}-*.npz"):
        file.write_bytes(file.read_bytes()[:500])
    monkeypatch.undo()
    with Truths(SIZE, tmp_path) as truths:
        assert np.array_equal(truths.get(SCENE, "glance", 1).frames, first.frames)


def test_each_pose_is_rendered_once(monkeypatch):
    seen = []
    with SimScene(SCENE) as scene:
        render = scene.render
        monkeypatch.setattr(
            scene, "render", lambda pose, *size: seen.append(pose.tobytes()) or render(pose, *size)
        )
        from spatia_env.bench.episodes import film

        truth = film(scene, "glance", SIZE, 1)
    assert len(seen) == len(set(seen)) == 5
    assert np.array_equal(truth.frames[-1], truth.frames[0])


# -- what wide runs plan ------------------------------------------------------------------------------------------


def test_only_full_may_look_at_test_seeds_and_it_at_no_others():
    full = BenchConfig("full")
    assert full.seeds == tuple(range(20_000, 20_060)) and full.split == "test" and full.truth_folder is None
    assert BenchConfig("standard").split == "dev"
    for config in (BenchConfig("standard", first_seed=20_000), BenchConfig("full", first_seed=10_000)):
        with pytest.raises(ActionError, match="test seeds are for the full"):
            plan(config)


def test_wide_runs_have_every_suite_and_row_scene_by_scene():
    jobs = plan(BenchConfig("standard"))
    assert {job.suite.name for job in jobs} >= {
        "loop", "drift", "events", "leakage", "edit", "memory", "ws-static", "engine", "sweep", "walk", "zero", "time",
    }  # fmt: skip
    assert {job.row for job in jobs} >= {
        "oracle", "default", "no-memory", "no-references", "no-scene-render", "no-slam", "no-dynamic-filter",
        "no-continuation", "memory-render-only", "memory+inpaint", "memory+surfaces", "frozen-frame", "voxel-7cm",
        "references-5",
    }  # fmt: skip
    order = [job.scene for job in jobs]
    assert sum(a != b for a, b in itertools.pairwise(order)) == len(set(order)) - 1
    assert not {job.suite.name for job in plan(BenchConfig("core"))} & {"drift", "edit", "ws-static", "sweep"}


def test_rows_whose_package_is_missing_are_left_out(monkeypatch):
    from spatia_env.bench import core

    monkeypatch.setattr(core, "_can_play", lambda row: row != "memory+inpaint")
    assert "memory+inpaint" not in {job.row for job in plan(BenchConfig("standard"))}


def test_the_oracle_follows_every_closed_path(revisit):
    player = OraclePlayer()
    player.start(revisit)
    shown = np.concatenate([player.play(revisit.c2w[revisit.clip(i)]).frames for i in range(6)])
    assert loops.follows(shown, revisit, 16)[0]
