import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import mapanything_tiny as tiny
from spatia_env.errors import ActionError, CheckpointError, DependencyError
from spatia_env.slam.mapanything import (
    NORMALISATIONS,
    MapAnythingGeometry,
    fixed_mask,
    network_size,
    resize_frame,
)

ALLOWED = {
    "img", "data_norm_type", "depth_z", "ray_directions", "intrinsics", "camera_poses", "is_metric_scale", "true_shape",
    "idx", "instance",
}  # fmt: skip
"""Keys of a view that the real class accepts; any other is an error there."""


class Encoder:
    data_norm_type = "croco"
    patch_size = 16


class Recorded:
    """Replays what the real class answered, and keeps what it was asked."""

    encoder = Encoder()

    def __init__(self):
        self.tensors = load_file(tiny.RECORDED)

    def infer(self, views, **options):
        assert all(view.keys() <= ALLOWED for view in views)
        self.views, self.options = views, options
        said = [{key: self.tensors[f"{i}/{key}"] for key in tiny.KEYS} for i in range(len(views))]
        return [{**view, "mask": view["mask"].bool()} for view in said]


@pytest.fixture()
def recorded():
    model = Recorded()
    return model, MapAnythingGeometry(model, long_side=tiny.LONG_SIDE, use_amp=False)


def test_the_clip_is_handed_over_as_it_was_recorded(recorded):
    model, geometry = recorded
    geometry.reconstruct(*tiny.clip())
    with safe_open(str(tiny.RECORDED), framework="pt") as file:
        assert sorted(model.views[0]) == json.loads(file.metadata()["config"])["asked"]
    _, c2w, K = tiny.clip()
    for index, view in enumerate(model.views):
        torch.testing.assert_close(view["img"], model.tensors[f"{index}/asked/img"])
        assert torch.equal(view["camera_poses"][0], c2w[index]) and bool(view["is_metric_scale"])
        expected = K * torch.tensor([48 / 32, 32 / 20, 1.0])[:, None]
        torch.testing.assert_close(view["intrinsics"][0], expected)
    assert model.options["apply_mask"] and model.options["mask_edges"]


def test_what_is_ambiguous_has_no_depth(recorded):
    model, geometry = recorded
    seen = geometry.reconstruct(*tiny.clip())
    valid = torch.cat([model.tensors[f"{i}/mask"] for i in range(3)])[..., 0] > 0
    assert torch.equal(seen.valid, valid) and 0 < valid.float().mean() < 1
    assert not seen.depth[~valid].any() and not seen.confidence[~valid].any()
    torch.testing.assert_close(seen.depth[1][valid[1]], model.tensors["1/depth_z"][0, ..., 0][valid[1]])
    assert seen.confidence.min() >= 0 and seen.confidence.max() < 1


def test_it_is_a_geometry_estimator(recorded):
    _, geometry = recorded
    rgb, c2w, K = tiny.clip()
    empty = torch.zeros(3, 20, 32)
    geometry.masks = fixed_mask(torch.eye(20, 32))
    said = geometry(rgb, c2w, K, rgb, empty, empty.bool())
    assert said.depth.shape == said.confidence.shape == said.dynamic.shape == (3, 20, 32)
    assert torch.equal(said.dynamic, torch.eye(20, 32).expand(3, -1, -1))


def test_intrinsics_may_be_estimated(recorded):
    model, geometry = recorded
    rgb, c2w, _ = tiny.clip()
    seen = geometry.reconstruct(rgb, c2w, None)
    assert "intrinsics" not in model.views[0]
    expected = torch.cat([model.tensors[f"{i}/intrinsics"] for i in range(3)]).mean(0)
    torch.testing.assert_close(seen.K, expected)


def test_frames_and_poses_must_be_as_many(recorded):
    rgb, c2w, K = tiny.clip()
    with pytest.raises(ActionError, match="poses"):
        recorded[1].reconstruct(rgb, c2w[:2], K)


def test_network_size_of_the_release():
    assert network_size(704, 1248) == (294, 518)
    assert network_size(1248, 704) == (518, 294)


def test_resizing_keeps_colours_in_range():
    picture = resize_frame(torch.rand(3, 9, 13), 28, 42)
    assert picture.shape == (3, 28, 42) and picture.min() >= 0 and picture.max() <= 1
    same = torch.randint(0, 256, (3, 14, 28)).float() / 255
    torch.testing.assert_close(resize_frame(same, 14, 28), same)


def test_a_drawn_mask_covers_what_it_touches():
    mask = torch.zeros(40, 64)
    mask[10, 20] = 1
    small = fixed_mask(mask)(torch.zeros(2, 3, 20, 32))
    assert small.shape == (2, 20, 32) and small[0, 5, 10] == 1 and small.sum() < 20
    with pytest.raises(ActionError, match="mask"):
        fixed_mask(torch.zeros(3, 4, 4))(torch.zeros(2, 3, 4, 4))


def test_weights_come_from_a_folder_or_a_fixed_commit(tmp_path, monkeypatch):
    import sys
    import types

    package = types.ModuleType("mapanything.models")
    package.MapAnything = None  # never reached: the source is refused before
    monkeypatch.setitem(sys.modules, "mapanything", types.ModuleType("mapanything"))
    monkeypatch.setitem(sys.modules, "mapanything.models", package)
    for revision in (None, "main", "v1"):
        with pytest.raises(CheckpointError, match="hash of a commit"):
            MapAnythingGeometry.from_pretrained("facebook/map-anything-apache", revision=revision)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        MapAnythingGeometry.from_pretrained(tmp_path)
    (tmp_path / "custom.py").write_text("")
    with pytest.raises(CheckpointError, match="code is never loaded"):
        MapAnythingGeometry.from_pretrained(tmp_path)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mapanything", None)
    monkeypatch.setitem(__import__("sys").modules, "mapanything.models", None)
    with pytest.raises(DependencyError, match="git\\+https"):
        MapAnythingGeometry.from_pretrained()


def test_unknown_colours_are_refused():
    class Other(Recorded):
        encoder = type("Encoder", (), {"data_norm_type": "mars", "patch_size": 14})

    with pytest.raises(CheckpointError, match="mars"):
        MapAnythingGeometry(Other())


def test_the_real_class_answers_as_recorded():
    """Runs where mapanything is installed."""
    model_module = pytest.importorskip("mapanything.models.mapanything.model")
    from uniception.models.encoders.image_normalizations import IMAGE_NORMALIZATION_DICT

    for name, (mean, std) in NORMALISATIONS.items():
        torch.testing.assert_close(IMAGE_NORMALIZATION_DICT[name].mean.flatten(), torch.tensor(mean))
        torch.testing.assert_close(IMAGE_NORMALIZATION_DICT[name].std.flatten(), torch.tensor(std))
    torch.manual_seed(0)
    model = model_module.MapAnything(**tiny.config()).eval()
    live = MapAnythingGeometry(model, long_side=tiny.LONG_SIDE, use_amp=False).reconstruct(*tiny.clip())
    replayed = MapAnythingGeometry(Recorded(), long_side=tiny.LONG_SIDE).reconstruct(*tiny.clip())
    torch.testing.assert_close(live.depth, replayed.depth, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(live.points, replayed.points, atol=1e-4, rtol=1e-3)
