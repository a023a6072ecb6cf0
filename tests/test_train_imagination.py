"""Panoramas as training data, and a few steps of both stages of the imagination."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from spatia_env.errors import ActionError
from spatia_env.memory.panorama import panorama_rays
from spatia_env.models.loading import load_checkpoint
from spatia_env.train.imagination import ImaginationConfig, train_imagination
from spatia_env.train.imagination_detail import DetailBatches, DetailConfig, train_detail
from spatia_env.train.imagination_export import ExportConfig, export_imagination
from spatia_env.train.loop import LoopConfig
from spatia_env.train.panorama_data import (
    ConditionConfig,
    PanoramaBatches,
    PanoramaStore,
    draw_views,
    see_from,
    view_mask,
)
from spatia_env.train.panoramas import PanoramasConfig, render_panoramas
from untrained import write_untrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("panoramas")
    assert render_panoramas(PanoramasConfig(out, first=10000, count=2, rooms=1, places=2)) == 2
    return out


def test_shards_are_kept_and_repeat(folder: Path, tmp_path: Path) -> None:
    config = PanoramasConfig(folder, first=10000, count=2, rooms=1, places=2)
    assert render_panoramas(config) == 0
    assert render_panoramas(replace(config, out=tmp_path, first=10001, count=1)) == 1
    again, kept = load_file(tmp_path / "10001.safetensors"), load_file(folder / "10001.safetensors")
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    assert kept["rgb"].shape == (2, 192, 768, 3) and kept["inverse"].dtype == torch.float16
    assert (kept["eye"][0] - kept["eye"][1]).norm() > 0.5


def test_what_another_place_shows_agrees_with_the_truth(folder: Path) -> None:
    store = PanoramaStore(folder)
    scenes = store.scenes()
    assert scenes.clean.shape == (4, 7, 32, 128) and scenes.warped.shape == (4, 1, 5, 32, 128)
    assert scenes.source[:, 0].tolist() == [1, 0, 3, 2]
    known = scenes.warped[:, 0, 4] > 0
    error = (scenes.warped[:, 0, :4] - scenes.clean[:, :4]).abs().float()
    assert known.float().mean() > 0.5
    assert error[:, :3].mean(1)[known].median() < 0.1
    assert error[:, 3][known].median() < 0.05


def test_a_panorama_seen_from_its_own_place_is_itself(folder: Path) -> None:
    shard = load_file(folder / "10000.safetensors")
    seen = see_from(shard, 0, shard["eye"][0], 32)
    clean = PanoramaStore(folder).scenes().clean[0].float()
    assert seen[4].mean() > 0.99
    assert (seen[:4] - clean[:4]).abs().mean() < 0.05


def test_view_masks_are_what_a_camera_sees() -> None:
    mask = view_mask(40, 240, 0.5, -0.2, math.radians(60), 1.5)
    rays = panorama_rays(40, 240)
    forward = torch.tensor([math.cos(0.5) * math.cos(-0.2), math.sin(0.5) * math.cos(-0.2), math.sin(-0.2)])
    right = torch.tensor([math.sin(0.5), -math.cos(0.5), 0.0])
    down = torch.linalg.cross(forward, right)
    reach = math.tan(math.radians(30))
    for row in range(0, 40, 3):
        for column in range(0, 240, 7):
            z, x, y = (float(rays[row, column] @ axis) for axis in (forward, right, down))
            inside = z > 0 and abs(x / z) < reach and abs(y / z) < reach / 1.5
            assert bool(mask[row, column]) == inside


def test_drawn_views_cover_some_of_the_panorama() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([float(draw_views(32, 128, generator).mean()) for _ in range(50)])
    assert shares.min() > 0.02 and shares.max() < 1 and shares.std() > 0.1


def test_batches_repeat_and_agree_where_known(folder: Path) -> None:
    config = ConditionConfig(depth_noise=0.0, colour_noise=0.0, warped=0.0)
    store = PanoramaStore(folder)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        drawn = next(iter(PanoramaBatches(store, 16, torch.Generator().manual_seed(2), config, masks=20)))
        return drawn.clean, drawn.known

    clean, known = batch()
    assert torch.equal(clean, batch()[0])
    mask = known[:, 4:]
    assert torch.allclose(known[:, :4], clean[:, :4] * mask, atol=1e-5)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_detail_strips_lie_under_their_layout(folder: Path) -> None:
    batches = DetailBatches(folder, 4, torch.Generator().manual_seed(0), layout_noise=0.0, masks=3)
    batch = next(iter(batches))
    assert batch.clean.shape == (4, 4, 192, 96) and batch.layout.shape == (4, 7, 32, 16)
    small = torch.nn.functional.avg_pool2d(batch.clean, 6)
    assert (small[:, :3] - batch.layout[:, :3]).abs().max() < 0.15
    assert (small[:, 3] - batch.layout[:, 3]).abs().median() < 0.02
    assert batch.whole.shape == (2, 5, 192, 768)


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of a step of each stage."""
    out = tmp_path_factory.mktemp("runs")
    loop = LoopConfig(out=out / "layout", max_steps=1, log_every=1, warmup=1)
    figures = train_imagination(
        ImaginationConfig(loop=loop, data=folder, dev=folder, batch=2, dev_samples=4, masks=4)
    )
    assert set(figures) == {"loss", "colour", "distance", "surface"} and math.isfinite(figures["loss"])
    detail = DetailConfig(replace(loop, out=out / "detail"), folder, folder, batch=2, dev_strips=2, masks=2)
    assert set(train_detail(detail)) == {"colour", "distance"}
    return out


def test_training_resumes(runs: Path, folder: Path) -> None:
    loop = LoopConfig(out=runs / "layout", max_steps=2, log_every=1, warmup=1)
    train_imagination(ImaginationConfig(loop=loop, data=folder, dev=folder, batch=2, dev_samples=4, masks=4))
    steps = [line.split(",")[0] for line in (runs / "layout" / "log.csv").read_text().splitlines()]
    assert {"1", "2"} <= set(steps)


def test_the_exported_folder_loads_and_draws(runs: Path, folder: Path, tmp_path: Path) -> None:
    out, sheet = write_untrained(tmp_path), tmp_path / "sheet.png"
    config = ExportConfig(runs / "layout", runs / "detail", out, sheet, folder, rooms=1, samples=1)
    assert 1e6 < export_imagination(config) < 20e6
    model = load_checkpoint(out).imagination
    nothing = torch.zeros(1, 192, 768)
    rgb, distance = model.complete(
        nothing[:, None].expand(-1, 3, -1, -1), nothing, nothing > 0, torch.Generator().manual_seed(0), 1, 1
    )
    assert torch.isfinite(rgb).all() and (distance > 0).all()
    with Image.open(sheet) as image:
        assert image.width == 3 * 384


def test_no_shards_is_said(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match="spatia train panoramas"):
        train_imagination(ImaginationConfig(data=tmp_path, dev=tmp_path))
    with pytest.raises(ActionError, match="spatia train panoramas"):
        train_detail(DetailConfig(data=tmp_path, dev=tmp_path))
