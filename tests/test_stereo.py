"""Depth that parallax corrects, and points that move along the rays of the picture that showed them."""

import dataclasses

import pytest
import torch

from maps import same_map
from rooms import room_view
from spatia_env.geometry import intrinsics_from_fov, invert_se3, look_at, project, se3_exp, unproject
from spatia_env.memory.deformation import slide
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.map import Map
from spatia_env.memory.point_map import SceneMemory
from spatia_env.slam import depth_refinement as multi_view_stereo
from spatia_env.slam.depth_refinement import candidates, refine, revise

H, W = 64, 80
K = intrinsics_from_fov(60, H, W)
HERE = look_at(torch.tensor([-0.6, 0.1, 0.1]), torch.tensor([1.5, 0.4, 0.0]))
MOVES = torch.tensor([[0.3, 0, 0.1, 0, 0, 0], [0.15, 0, 0.1, 0, 0, 0], [-0.2, 0.05, 0.2, 0, 0.03, 0]])
THERE = HERE @ se3_exp(MOVES)


def pictures(c2w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return room_view(c2w, K, H, W)


def seen_map(scale: float, measured: bool = False) -> Map:
    rgb, depth = (x[0] for x in pictures(HERE[None]))
    memory, _ = SceneMemory().update(
        rgb[None], scale * depth[None], torch.ones(1, H, W), HERE[None], K, step=0
    )
    frame = (rgb.movedim(0, -1) * 255).round().to(torch.uint8)
    return Map(memory, (Keyframe(frame, (scale * depth).half(), HERE, 0),), K, (H, W), measured=measured)


@pytest.mark.parametrize("scale", [0.93, 1.08])
def test_parallax_tells_how_far_a_surface_is(scale):
    (rgb, depth), (others, _) = pictures(HERE[None]), pictures(THERE)
    factor = refine(rgb[0], scale * depth[0], HERE, others, THERE, K)
    assert factor is not None
    before, after = (abs(d / depth[0] - 1) for d in (scale * depth[0], scale * depth[0] * factor.exp()))
    assert float(after.median()) < 0.35 * float(before.median())


def test_what_is_right_or_cannot_be_told_is_left():
    (rgb, depth), (others, _) = pictures(HERE[None]), pictures(THERE)
    turned = HERE @ se3_exp(torch.tensor([[0, 0, 0, 0, 0.2, 0.0]]))
    assert refine(rgb[0], depth[0], HERE, others, THERE, K) is None
    assert refine(rgb[0], 1.08 * depth[0], HERE, pictures(turned)[0], turned, K) is None
    assert refine(rgb[0], torch.zeros(H, W), HERE, others, THERE, K) is None


def test_points_move_along_the_rays_of_a_picture():
    state = seen_map(1.0)
    depth = state.keyframes[0].depth.float()
    farther = slide(state.points, HERE, K, depth, torch.full((H, W), 1.05))
    view, moved = (m.render(HERE[None], K, H, W) for m in (state.points, farther))
    both = view.known & moved.known
    assert both.float().mean() > 0.9
    assert abs(float((moved.depth[both] / view.depth[both]).median()) - 1.05) < 0.005
    assert same_map(state.points, slide(state.points, HERE, K, depth, torch.ones(H, W)))
    assert same_map(state.points, slide(state.points, HERE, K, depth, torch.full((H, W), 1.05), first_step=1))


def test_a_clip_from_elsewhere_corrects_the_map_of_a_lone_picture():
    rgb, _ = pictures(THERE)
    state = seen_map(1.08)
    view = state.points.render(THERE, K, H, W)
    after = revise(state, rgb, THERE, view)
    errors = []
    for memory in (state.points, after.points):
        seen = memory.render(HERE[None], K, H, W)
        true = pictures(HERE[None])[1]
        errors.append(float((seen.depth / true - 1)[seen.known].abs().median()))
    assert errors[1] < 0.4 * errors[0]
    assert float((after.keyframes[0].depth.float() / pictures(HERE[None])[1][0] - 1).abs().median()) < 0.03
    assert len(state.keyframes) == 1 and state.points is not after.points


def test_what_was_measured_and_what_was_seen_from_there_before_stays():
    rgb, _ = pictures(THERE)
    measured = seen_map(1.08, measured=True)
    assert revise(measured, rgb, THERE, measured.render(THERE)) is measured
    state = seen_map(1.08)
    elsewhere = dataclasses.replace(state.keyframes[0], c2w=THERE[-1], step=1)
    again = dataclasses.replace(state, keyframes=(*state.keyframes, elsewhere))
    assert candidates(state, THERE, state.points.render(THERE, K, H, W)) == [0]
    assert candidates(again, THERE, state.points.render(THERE, K, H, W)) == []


def test_path_costs_equal_a_search_over_all_offsets():
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 7, 25):
        costs, edge = (torch.rand(*shape, generator=generator) for shape in ((count, 2, 9), (2, 9)))
        labels = torch.arange(count)
        change = (multi_view_stereo.SLOPE * (labels[:, None] - labels).abs()).clamp_max(
            multi_view_stereo.JUMP
        )
        slow = (costs[:, None] + edge * change[..., None, None]).amin(0)
        assert torch.allclose(multi_view_stereo._reached(costs, costs.amin(0), edge), slow, atol=1e-6)


def test_places_along_rays_and_least_values_equal_the_obvious():
    generator = torch.Generator().manual_seed(1)
    depth = 1 + torch.rand(H, W, generator=generator)
    rays, offsets = unproject(depth, K, HERE).flatten(0, 1) - HERE[:3, 3], torch.tensor([-0.2, 0.0, 0.1])
    uv, z = multi_view_stereo._along(HERE[:3, 3], rays, offsets, THERE[0], K)
    for row, offset in enumerate(offsets):
        slow_uv, slow_z = project(HERE[:3, 3] + rays * offset.exp(), invert_se3(THERE[:1]), K)
        assert torch.allclose(uv[row], slow_uv[0], atol=1e-3) and torch.allclose(z[row], slow_z[0], atol=1e-5)
    stack = torch.rand(5, 3, 4, generator=generator)
    pooled = torch.nn.functional.avg_pool2d(stack, 3, 1, 1)
    assert torch.allclose(multi_view_stereo._box(stack), pooled, atol=1e-6)
    for kept in (1, 2, 3):
        assert multi_view_stereo._least(stack, kept).equal(stack.sort(0).values[:kept])
