from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from spatia_env.geometry import (
    intrinsics_from_fov,
    invert_se3,
    look_at,
    orthonormalise,
    path_from_twist,
    pose_error,
    se3_exp,
)
from spatia_env.slam import tracking as alignment
from spatia_env.slam.tracking import fit_light, spread, track
from tests.rooms import room_view

T, H, W = 4, 72, 96
K = intrinsics_from_fov(60.0, H, W)
DRIFT = torch.tensor([0.012, -0.008, 0.014, 0.006, 0.014, -0.009])  # 2 cm and 1 degree


@dataclass
class View:
    rgb: torch.Tensor
    depth: torch.Tensor
    known: torch.Tensor


def clip(drift=DRIFT, seed=0):
    """Frames from drifted cameras, their depth, the commanded path, the true path and the map along the command."""
    generator = torch.Generator().manual_seed(seed)
    eye = torch.rand(3, generator=generator) - 0.5
    start = look_at(eye, torch.tensor([1.8, 2.2, -0.4]))
    commanded = path_from_twist(start, torch.tensor([0.1, 0.0, 0.25, 0.0, 0.15, 0.0]), T)
    fractions = torch.arange(1, T + 1) / T
    true = orthonormalise(commanded @ se3_exp(fractions[:, None] * drift))
    rgb, depth = room_view(true, K, H, W)
    map_rgb, map_depth = room_view(commanded, K, H, W)
    known = torch.ones_like(map_depth, dtype=torch.bool)
    known[..., :10, :] = False
    return rgb, depth, commanded, true, View(map_rgb * known[:, None], map_depth * known, known)


def errors(result, true):
    metres, degrees = pose_error(result.c2w, true)
    return float(metres.max()), float(degrees.max())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1.0, 3.0])
def test_planted_drift_is_found(seed, size):
    rgb, _, commanded, true, view = clip(DRIFT * size, seed)
    result = track(rgb, commanded, K, view)
    metres, degrees = errors(result, true)
    assert result.ok
    assert metres < 0.004 * size + 0.003
    assert degrees < 0.12 * size
    assert result.translation == pytest.approx(0.02 * size, abs=0.006 * size)
    assert result.rotation == pytest.approx(1.0 * size, abs=0.15 * size)
    assert result.inlier_ratio > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_without_drift_the_command_is_kept_to_the_bit(seed):
    rgb, _, commanded, _, view = clip(torch.zeros(6), seed)
    generator = torch.Generator().manual_seed(seed)
    noisy = (rgb + 0.03 * torch.randn(rgb.shape, generator=generator)).clamp(0, 1)
    result = track(noisy, commanded, K, view)
    assert torch.equal(result.c2w, commanded)
    assert not result.ok
    assert (result.translation, result.rotation) == (0.0, 0.0)
    assert result.inlier_ratio > 0.9


def test_another_light_and_a_mover_do_not_matter():
    rgb, _, commanded, true, view = clip()
    dim = rgb * 0.6 + 0.1
    dim[..., 30:55, 20:50] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    metres, degrees = errors(track(dim, commanded, K, view), true)
    assert metres < 0.006
    assert degrees < 0.15


@pytest.mark.parametrize("outliers", [0.0, 0.3])
@pytest.mark.parametrize("gain", [0.5, 1.0, 2.5])
def test_light_is_found_beside_a_bright_mover(outliers, gain):
    generator = torch.Generator().manual_seed(5)
    wanted = torch.rand(900, 3, generator=generator)
    seen = (wanted - 0.05) / gain
    seen[: int(900 * outliers)] = torch.tensor([0.95, 0.02, 0.02]) * (1 if gain > 1 else 2)
    light = fit_light(seen, wanted)
    assert torch.allclose(light.gain, torch.full((3,), gain), rtol=0.03)
    assert torch.allclose(light(seen)[300:], wanted[300:], atol=0.03)


def test_one_brightness_leaves_the_gain_alone():
    light = fit_light(torch.full((50, 1), 0.4), torch.full((50, 1), 0.5))
    assert float(light.gain) == pytest.approx(1.0)
    assert float(light(torch.tensor(0.4))) == pytest.approx(0.5)
    assert torch.equal(fit_light(torch.zeros(0, 3), torch.zeros(0, 3)).gain, torch.ones(3))


def test_what_has_no_weight_is_not_looked_at():
    rgb, _, commanded, true, view = clip()
    weight = torch.ones(T, H, W)
    weight[..., :60] = 0
    # Most of the picture moved together: only the weight tells that this is not the camera.
    fooled = torch.where(weight[:, None] > 0, rgb, view.rgb.roll(4, dims=-1))
    metres, degrees = errors(track(fooled, commanded, K, view, weight), true)
    assert metres < 0.02
    assert degrees < 0.4


def test_a_bare_wall_and_an_empty_map_change_nothing():
    rgb, _, commanded, _, view = clip()
    bare = View(torch.full_like(view.rgb, 0.5), view.depth, view.known)
    empty = View(torch.zeros_like(view.rgb), torch.zeros_like(view.depth), torch.zeros_like(view.known))
    for frames, model in ((torch.full_like(rgb, 0.5), bare), (rgb, empty)):
        result = track(frames, commanded, K, model)
        assert torch.equal(result.c2w, commanded)
        assert not result.ok
    assert result.inlier_ratio == 0.0


def test_an_unbelievable_correction_is_refused():
    rgb, _, commanded, _, view = clip(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.13, 0.0]))
    result = track(rgb, commanded, K, view)
    assert torch.equal(result.c2w, commanded)
    assert not result.ok


def test_a_frame_of_another_world_is_refused():
    _, _, commanded, _, view = clip()
    other = torch.rand(view.rgb.shape, generator=torch.Generator().manual_seed(1))
    result = track(other, commanded, K, view)
    assert torch.equal(result.c2w, commanded)
    assert not result.ok


def test_the_correction_grows_over_the_clip():
    rgb, _, commanded, _, view = clip()
    result = track(rgb, commanded, K, view)
    moved, turned = pose_error(result.c2w, commanded)
    assert torch.allclose(turned, turned[-1] * torch.arange(1, T + 1) / T, atol=0.01)
    assert torch.allclose(moved, moved[-1] * torch.arange(1, T + 1) / T, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "number", "wanted"), [(8, 2, [3, 7]), (1, 2, [0]), (5, 3, [1, 2, 4]), (2, 2, [0, 1])]
)
def test_spread(count, number, wanted):
    assert spread(count, number) == wanted


def test_sample_is_bilinear_at_the_projection():
    view = clip()[-1]
    colour = view.rgb[[1, 3]]
    share = torch.tensor([0.5, 1.0])
    template = alignment._template(colour, view.depth[[1, 3]], view.known[[1, 3]], share, K, 1)
    seen, inside = alignment.sample(colour, template, K, DRIFT)
    for i in range(0, len(seen), 97):
        # true camera = commanded camera @ exp(share * drift), so its inverse maps the point
        x, y, z = (
            invert_se3(se3_exp(template.share[i] * DRIFT)) @ torch.cat([template.point[i], torch.ones(1)])
        )[:3]
        u, v = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
        assert bool(inside[i]) == (0.5 <= u <= W - 0.5 and 0.5 <= v <= H - 0.5)
        grid = torch.stack([u / W * 2 - 1, v / H * 2 - 1])[None, None, None]
        image = colour[template.view[i]][None]
        slow = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
        if inside[i]:
            assert torch.allclose(seen[i], slow.flatten(), atol=1e-4)


def test_the_jacobian_is_the_derivative_of_the_sample():
    view = clip()[-1]
    colour, share = view.rgb[[3]], torch.tensor([1.0])
    template = alignment._template(colour, view.depth[[3]], view.known[[3]], share, K, 1)
    step = 2e-3
    for axis in range(6):
        nudge = torch.zeros(6)
        nudge[axis] = step
        ahead, inside = alignment.sample(colour, template, K, nudge)
        behind, both = alignment.sample(colour, template, K, -nudge)
        numeric = (ahead - behind) @ torch.tensor(alignment.LUMA) / (2 * step)
        inside = inside & both
        scale = template.jacobian[:, axis].abs().mean()
        assert (numeric - template.jacobian[:, axis])[inside].abs().mean() < 0.1 * scale
