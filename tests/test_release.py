import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from spatia_env.errors import ActionError, CaseError, CheckpointError
from spatia_env.geometry import invert_se3
from spatia_env.io.ply import read_ply
from spatia_env.release.pipeline import ReleaseConfig, main, run_release
from spatia_env.release.renderer import voxel_means
from spatia_env.release.rounds import Round, plan_rounds
from spatia_env.release.world import ReleaseWorld, through_codec
from spatia_env.slam.mapanything import Reconstruction
from test_official import HEIGHT, WIDTH, build

K_NORM = [0.7, 1.05, 0.5, 0.5]


class Wall:
    """Geometry of a textured wall 2 m ahead of the first camera, seen at 42 x 56."""

    def __init__(self, doubtful=0):
        self.masks, self.asked, self.doubtful = None, [], doubtful

    def reconstruct(self, rgb, c2w, K):
        self.asked.append((rgb, c2w, K))
        count = len(rgb)
        depth = 2 - c2w[:, 2, 3][:, None, None].expand(count, 42, 56).clone()
        valid = torch.ones(count, 42, 56, dtype=torch.bool)
        valid[:, : self.doubtful] = False
        scaled = torch.tensor([[0.7 * 56, 0, 28], [0, 1.05 * 42, 21], [0, 0, 1]])
        points = torch.ones(count, 42, 56, 3) * valid[..., None]
        return Reconstruction(depth * valid, valid.float(), points, valid, scaled)


def path(count):
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, 0, 3] = torch.linspace(0, 0.3, count)
    return c2w


@pytest.fixture()
def case(tmp_path):
    folder = tmp_path / "case"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "img.png")
    Image.fromarray(np.pad(np.full((20, 30), 255, np.uint8), ((0, 60), (0, 90)))).save(folder / "mask.png")
    lines = "".join(json.dumps(pose.tolist()) + "\n" for pose in invert_se3(path(16)))
    (folder / "w2c.txt").write_text(lines)
    (folder / "intrinsics.txt").write_text(f"[{' '.join(map(str, K_NORM))}]")
    (folder / "prompt.txt").write_text("a room\na ball rolls\n")
    return folder


def config_of(case, tmp_path, **changes):
    config = ReleaseConfig(case=case, model=tmp_path, out=tmp_path / "out", width=WIDTH, height=HEIGHT)
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("exact", [False, True])
def test_a_case_becomes_a_film(case, tmp_path, exact):
    geometry, pipeline = Wall(), build()
    rounds = plan_rounds(16, first=9, later=9, history=5)
    said = run_release(config_of(case, tmp_path, release_exact=exact), pipeline, geometry, rounds)
    assert (tmp_path / "out" / "video.mp4").stat().st_size > 0
    assert len(read_ply(tmp_path / "out" / "map.ply")) == said["points"] > 0
    # The release leaves the padding of the last round in the film: 17 frames for 16 cameras.
    assert said["frames"] == (17 if exact else 16) and said["rounds"] == 3
    assert [len(rgb) for rgb, *_ in geometry.asked] == [1, 2, 3]  # every 6th of 1, 9 and 13 frames
    assert "a ball rolls 4K, realistic, high quality, HDR." in pipeline.text_encoder.seen


def world(geometry, **changes):
    return ReleaseWorld(geometry, invert_se3(path(16)), torch.tensor(K_NORM), HEIGHT, WIDTH, **changes)


FRAMES = torch.randint(
    0, 256, (9, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def test_a_round_sees_the_map_from_its_cameras():
    first = world(Wall())
    view = first.view(Round(0, 0, 9, 9, 1), FRAMES[:1])
    assert view.scene_render.shape == (9, HEIGHT, WIDTH, 3) and view.unknown.shape == (9, HEIGHT, WIDTH)
    assert view.references == ()
    assert (first.points[:, 2] - 2).abs().max() < 1e-5
    later = world(Wall()).view(Round(1, 4, 13, 9, 5), FRAMES)
    assert later.references == (0,)


def test_what_moves_is_kept_out_of_the_map():
    whole, masked = world(Wall()), world(Wall(), mask=torch.ones(HEIGHT, WIDTH).triu(30) > 0)
    for each in (whole, masked):
        each.view(Round(0, 0, 9, 9, 1), FRAMES[:1])
    assert 0 < len(masked.points) < len(whole.points)
    named = world(Wall())
    named.geometry.masks = lambda rgb: torch.ones(len(rgb), *rgb.shape[-2:])
    named.view(Round(0, 0, 9, 9, 1), FRAMES[:1])
    assert len(named.points) == 0


def test_doubtful_points_are_dropped_unless_the_release_is_reproduced():
    for exact in (False, True):
        each = world(Wall(doubtful=20), release_exact=exact)
        each.view(Round(0, 0, 9, 9, 1), FRAMES[:1])
        # The network moves them to the origin, where the release leaves them.
        stray = each.points.norm(dim=-1) < 1e-3
        assert bool(stray.any()) is exact


def test_intrinsics_may_be_missing():
    each = world(Wall())
    each.intrinsics = None
    each.view(Round(0, 0, 9, 9, 1), FRAMES[:1])
    torch.testing.assert_close(each.intrinsics, torch.tensor(K_NORM))


def test_voxels_hold_means():
    points = torch.tensor([[0.0, 0, 0], [0.004, 0, 0], [0.5, 0, 0]])
    means, colors = voxel_means(points, points + 1, 0.01)
    torch.testing.assert_close(means, torch.tensor([[0.002, 0, 0], [0.5, 0, 0]]))
    torch.testing.assert_close(colors, means + 1)
    assert voxel_means(points[:0], points[:0], 0.01)[0].shape == (0, 3)


def test_the_codec_keeps_count_and_size_and_changes_little():
    smooth = torch.linspace(0, 255, 64).byte()[None, :, None, None].expand(3, 64, 96, 3).contiguous()
    back = through_codec(smooth)
    assert back.shape == smooth.shape
    assert (back.int() - smooth.int()).abs().float().mean() < 4


def test_bad_arguments_are_named(case, tmp_path):
    with pytest.raises(ActionError, match="multiples of 32"):
        run_release(config_of(case, tmp_path, width=100))
    with pytest.raises(ActionError, match="detector"):
        run_release(config_of(case, tmp_path, moving=("person",)), build(), Wall())
    (case / "prompt.txt").unlink()
    with pytest.raises(CaseError, match="prompt"):
        run_release(config_of(case, tmp_path), build(), Wall())


def test_the_command_takes_what_the_release_takes(case, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--release-exact" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="spatia convert"):
        main(["--case", str(case), "--model", str(tmp_path), "--out", str(tmp_path / "out")])
