import pytest
import torch

from spatia_env.errors import ActionError
from spatia_env.geometry import intrinsics_from_fov, invert_se3, look_at, path_from_twist, project, unproject
from spatia_env.slam import depth_network as cue
from spatia_env.slam.depth_network import (
    DYNAMIC_THRESHOLD,
    LEAST_CONFIDENCE,
    Geometry,
    Look,
    SimulatorGeometry,
    TinyGeometry,
    cell_places,
    static_weight,
    working_size,
)
from spatia_env.train.geometry import LOOKS
from tests.rooms import room_view

H, W = 96, 128
NAMES = ("depth", "confidence", "dynamic")


def walk(frames=4, height=H, width=W, fov=60.0):
    """Arguments of an estimator: a walk in the analytic room, the left part of which the map knows exactly."""
    K = intrinsics_from_fov(fov, height, width)
    start = look_at(torch.tensor([-1.0, -1.0, 0.0]), torch.tensor([1.5, 2.0, -0.2]))
    c2w = path_from_twist(start, torch.tensor([0.1, 0.0, 0.2, 0.0, 0.2, 0.0]), frames)
    rgb, depth = room_view(c2w, K, height, width)
    known = torch.zeros(frames, height, width, dtype=torch.bool)
    known[..., : width // 2] = True
    return (rgb, c2w, K, rgb * known[:, None], depth * known, known), depth


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = TinyGeometry()
    # A fresh head says nothing; a small random one makes every output depend on every input.
    torch.nn.init.normal_(model.head.weight, std=0.02)
    return model


class TestFill:
    def test_known_values_stay_and_others_lie_between(self):
        values = torch.rand(2, 24, 40)
        known = torch.rand(2, 24, 40) < 0.2
        filled = cue.fill(values, known)
        assert torch.equal(filled[known], values[known])
        assert filled.min() >= values[known].min() - 1e-6
        assert filled.max() <= values[known].max() + 1e-6

    def test_a_frame_without_a_map_is_constant_and_does_not_touch_the_other(self):
        values = torch.rand(2, 24, 40)
        known = torch.rand(2, 24, 40) < 0.5
        alone = cue.fill(values[1:], known[1:])
        known[0] = False
        filled = cue.fill(values, known)
        assert torch.equal(filled[0], torch.full((24, 40), cue.MEAN_LOG_DEPTH))
        assert torch.equal(filled[1:], alone)

    def test_continues_a_slope_better_than_its_mean(self):
        slope = torch.linspace(0, 1, 64).expand(1, 32, 64)
        known = torch.ones(1, 32, 64, dtype=torch.bool)
        known[..., 20:30] = False
        filled = cue.fill(slope, known)
        hole = ~known
        assert (filled - slope)[hole].abs().mean() < 0.3 * (slope[known].mean() - slope[hole]).abs().mean()


class TestCues:
    def test_warp_grid_equals_projection_of_each_pixel(self):
        (_, c2w, K, *_), depth = walk(2, 16, 24)
        grid, inside = cue.warp_grid(depth[:1], c2w[:1], c2w[1:], K)
        points = unproject(depth[:1], K, c2w[:1])[0]
        w2c = invert_se3(c2w[1:])
        for row, column in ((0, 0), (3, 20), (15, 11), (8, 23)):
            uv, z = project(points[row, column][None], w2c, K)
            u, v = uv[0, 0].tolist()
            assert grid[0, row, column].tolist() == pytest.approx([u / 24 * 2 - 1, v / 16 * 2 - 1], abs=1e-4)
            assert bool(inside[0, row, column]) == (0 < u < 24 and 0 < v < 16 and float(z) > 0)

    @pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
    def test_neighbours_are_other_frames_of_the_clip(self, count):
        frames = torch.arange(count)
        for other in cue.neighbours(count, frames):
            assert ((other >= 0) & (other < count)).all()
            assert count == 1 or (other != frames).all()

    def test_a_still_world_cancels_and_a_mover_remains(self):
        (rgb, c2w, K, *_), depth = walk()
        known = torch.ones_like(depth, dtype=torch.bool)
        still, _ = cue.cues(rgb, c2w, K, rgb, depth, known)
        moved = rgb.clone()
        moved[2, :, 30:50, 40:70] = 0.9
        disturbed, _ = cue.cues(moved, c2w, K, rgb, depth, known)
        inner = (slice(None), slice(None), slice(8, -8), slice(16, -16))
        assert still[:, 3:6].abs().max() == 0
        assert still[:, 8:11][inner].abs().mean() < 0.01
        assert disturbed[2, 3:6, 35:45, 45:65].abs().mean() > 0.3
        assert (
            disturbed[1, 12:15, 35:45, 50:60].abs().mean() > 0.2
        )  # frame 1 compared with the frame after it

    def test_the_planes_of_some_frames_are_those_of_all(self):
        args, _ = walk()
        planes, base = cue.cues(*args, ground=-1.4)
        some, some_base = cue.cues(*args, ground=-1.4, frames=torch.tensor([3, 1]))
        assert planes.shape[1] == cue.PLANES
        assert torch.allclose(some, planes[[3, 1]], atol=1e-6)
        assert torch.allclose(some_base, base[[3, 1]], atol=1e-6)

    def test_gravity_planes_give_the_floor_its_depth(self):
        (_, c2w, K, *_), depth = walk()
        points = unproject(depth, K, c2w)
        floor = points[..., 2] < -1.4 + 1e-3
        plane = cue.gravity_planes(c2w, K, H, W, ground=-1.4)[:, 1] + cue.MEAN_LOG_DEPTH
        assert floor.float().mean() > 0.05
        assert torch.allclose(plane[floor], depth[floor].log(), atol=1e-3)
        assert (cue.gravity_planes(c2w, K, H, W, None)[:, 2] == 0).all()


class TestTinyGeometry:
    def test_is_small(self):
        assert sum(p.numel() for p in TinyGeometry().parameters()) <= 1_500_000
        assert sum(p.numel() for p in TinyGeometry(looks=LOOKS).parameters()) <= 2_200_000

    @pytest.mark.parametrize(("height", "width", "fov"), [(96, 128, 60.0), (64, 48, 75.0), (50, 90, 90.0)])
    @pytest.mark.parametrize("frames", [1, 3])
    def test_any_size_and_length_in_range(self, network, height, width, fov, frames):
        args, _ = walk(frames, height, width, fov)
        copies = [a.clone() for a in args]
        found = network(*args)
        for name in NAMES:
            values = getattr(found, name)
            assert values.shape == (frames, height, width)
            assert torch.isfinite(values).all()
        assert found.depth.min() >= cue.NEAREST
        assert found.depth.max() <= cue.FARTHEST
        for name in NAMES[1:]:
            assert 0 <= getattr(found, name).min() <= getattr(found, name).max() <= 1
        assert all(torch.equal(a, b) for a, b in zip(args, copies, strict=True))
        again = network(*args)
        assert all(torch.equal(getattr(found, n), getattr(again, n)) for n in NAMES)

    def test_fresh_looks_change_nothing(self, network):
        args, _ = walk(2, 64, 96)
        looking = TinyGeometry(looks=2)
        kept = looking.load_state_dict(network.state_dict(), strict=False)
        assert all(name.startswith("look.") for name in kept.missing_keys) and kept.missing_keys
        assert torch.equal(looking(*args).depth, network(*args).depth)

    def test_a_look_goes_from_corner_to_corner_and_knows_the_places(self):
        torch.manual_seed(1)
        look = Look(16)
        torch.nn.init.normal_(look.out.weight)
        x, places = torch.randn(1, 16, 3, 5), cell_places(3, 5, torch.zeros(1))
        other = x.clone()
        other[..., 0, 0] = torch.randn(16)
        assert (look(x, places) - look(other, places))[..., -1, -1].abs().max() > 1e-3
        turned = look(x.flip(-1), places).flip(-1)
        assert (turned - look(x, places)).abs().max() > 1e-3

    def test_cells_lie_about_the_middle(self):
        places = cell_places(6, 8, torch.zeros(1))
        assert places.shape == (2, 6, 8)
        assert torch.allclose(places.flip(1)[0], -places[0]) and torch.allclose(places.flip(2)[1], -places[1])
        assert float(places[1, 0, 1] - places[1, 0, 0]) == pytest.approx(16 / 110.85)

    def test_looks_at_one_focal_length(self):
        for height, width, fov in ((128, 128, 60.0), (64, 64, 60.0), (704, 1248, 60.0), (100, 128, 90.0)):
            small = working_size(intrinsics_from_fov(fov, height, width), height, width)
            focal = intrinsics_from_fov(fov, height, width)[0, 0] * small[1] / width
            assert all(n % 16 == 0 for n in small)
            assert abs(float(focal) / 110.85 - 1) < 0.1
        assert working_size(intrinsics_from_fov(60.0, 128, 128), 128, 128) == (128, 128)

    @pytest.mark.parametrize(("height", "width"), [(96, 128), (60, 84)])
    def test_where_the_gate_is_shut_the_map_passes_unchanged(self, network, height, width):
        args, _ = walk(2, height, width)
        shut = TinyGeometry()
        shut.load_state_dict(network.state_dict())
        torch.nn.init.constant_(shut.head.bias[16:32], 50.0)
        found = shut(*args)
        known = args[-1]
        assert torch.allclose(found.depth[known], args[4][known], rtol=1e-4)
        open_ = TinyGeometry()
        open_.load_state_dict(network.state_dict())
        torch.nn.init.constant_(open_.head.bias[16:32], -50.0)
        assert (open_(*args).depth / args[4] - 1)[known].abs().mean() > 1e-3

    def test_what_is_not_known_is_not_looked_at(self, network):
        args, _ = walk(2)
        rgb, c2w, K, map_rgb, map_depth, known = args
        garbage = torch.where(known, map_depth, torch.full_like(map_depth, 7.7))
        other = network(rgb, c2w, K, torch.where(known[:, None], map_rgb, 0.3), garbage, known)
        assert torch.allclose(network(*args).depth, other.depth)

    def test_the_world_may_be_moved_and_turned_about_the_vertical(self, network):
        (rgb, c2w, *rest), _ = walk(2)
        turn = torch.tensor([[0.0, -1, 0, 3.0], [1, 0, 0, -2.0], [0, 0, 1, 5.0], [0, 0, 0, 1]])
        assert torch.allclose(
            network(rgb, c2w, *rest).depth, network(rgb, turn @ c2w, *rest).depth, rtol=1e-3
        )

    def test_saves_and_loads(self, network, tmp_path):
        network.save_pretrained(tmp_path)
        assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
        args, _ = walk(1)
        assert torch.equal(TinyGeometry.from_pretrained(tmp_path)(*args).depth, network(*args).depth)


class TestStaticWeight:
    def test_equals_the_obvious_loop(self):
        generator = torch.Generator().manual_seed(3)
        shape = (2, 14, 19)
        depth = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) > 0.1)
        confidence = torch.rand(shape, generator=generator)
        dynamic = (torch.rand(shape, generator=generator) > 0.97).float() * 0.8
        dynamic[0, 3, 4] = DYNAMIC_THRESHOLD  # not above it
        found = static_weight(Geometry(depth, confidence, dynamic), dilation=2)
        for t in range(2):
            for y in range(14):
                for x in range(19):
                    near = dynamic[t, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
                    sure = float(confidence[t, y, x])
                    wrong = (
                        bool((near > DYNAMIC_THRESHOLD).any())
                        or depth[t, y, x] == 0
                        or sure < LEAST_CONFIDENCE
                    )
                    assert float(found[t, y, x]) == (0 if wrong else sure)


class TestSimulatorGeometry:
    def test_hands_out_the_truth_frame_by_frame(self):
        args, depth = walk(3)
        depth[1, 0, 0] = 0
        asked = []

        def truth(pose):
            asked.append(pose)
            return depth[len(asked) - 1].numpy(), depth[len(asked) - 1].numpy() < 1.0

        found = SimulatorGeometry(truth)(*args)
        assert torch.equal(found.depth, depth)
        assert torch.equal(found.dynamic > 0, depth < 1.0)
        assert found.confidence[1, 0, 0] == 0
        assert found.confidence.sum() == depth.numel() - 1
        assert all((pose == c2w.numpy()).all() for pose, c2w in zip(asked, args[1], strict=True))

    def test_another_size_is_an_error(self):
        args, depth = walk(1)
        with pytest.raises(ActionError, match="size of the frames"):
            SimulatorGeometry(lambda pose: (depth[0, :-1], depth[0, :-1] > 9))(*args)
