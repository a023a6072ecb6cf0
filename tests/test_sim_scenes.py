"""Scenes: deterministic, geometrically right, split, and gone after close."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from spatia_env import geometry
from spatia_env.errors import ClosedEnvError, PoseError, PromptError, SeedError
from spatia_env.sim import assets, engine, layout
from spatia_env.sim.scenes import NAMED_SCENES, SimScene, camera_pose, split_of

HEIGHT, WIDTH = 72, 96


def digest(seeds: tuple[int, ...]) -> str:
    """Hash of pictures, depth, bodies and masks of an eventful second in each scene."""
    sha = hashlib.sha256()
    for seed in seeds:
        with SimScene(seed) as scene:
            c2w = scene.initial_c2w
            scene.start_event("tower_topples", c2w, np.random.default_rng(seed))
            scene.start_event("snow", c2w, np.random.default_rng(seed))
            for _ in range(5):
                scene.advance()
            frame = scene.render(c2w, HEIGHT, WIDTH)
            for array in (frame.rgb, frame.depth, frame.segmentation, frame.dynamic):
                sha.update(array.tobytes())
            sha.update(scene.prompt.encode())
    return sha.hexdigest()


def world_points(scene: SimScene, depth: np.ndarray, c2w: np.ndarray) -> np.ndarray:
    K = torch.as_tensor(scene.K(*depth.shape))
    return geometry.unproject(torch.as_tensor(depth), K, torch.as_tensor(c2w)).numpy()


def body_named(scene: SimScene, name: str) -> int:
    return next(row.body for row in scene.object_table() if row.name == name)


def test_a_seed_is_the_same_scene_in_every_process():
    seeds = (3, 10001, 20000)
    code = (
        f"import sys; sys.path.insert(0, 'tests'); from test_sim_scenes import digest; print(digest({seeds}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.split()[-1] == digest(seeds)
    assert digest((4,)) != digest((3,))


@pytest.mark.parametrize(("seed", "size"), [(2, (72, 96)), (4, (72, 96)), (9, (65, 97))])
def test_depth_lies_on_the_floor_and_the_walls(seed, size):
    with SimScene(seed) as scene:
        frame = scene.render(scene.initial_c2w, *size)
        points = world_points(scene, frame.depth, scene.initial_c2w)
        floor = points[frame.segmentation == body_named(scene, "floor")]
        assert len(floor) > 200
        assert np.abs(floor[:, 2]).mean() < 1e-3 and np.abs(floor[:, 2]).max() < 0.02
        for side in range(4):
            name = scene.plan.fence or f"wall {side}"
            if scene.plan.outdoor:
                continue
            wall = points[frame.segmentation == body_named(scene, name)]
            if len(wall):
                away = np.abs(np.abs(wall[:, side % 2]) - scene.plan.size[side % 2] / 2)
                assert away.mean() < 2e-3 and away.max() < 0.03


def test_two_views_agree():
    with SimScene(8) as scene:
        first = scene.initial_c2w
        twist = torch.tensor([0.2, 0.05, 0.3, 0.0, 0.2, 0.0])
        second = geometry.path_from_twist(torch.as_tensor(first), twist, 1)[0].numpy()
        a, b = scene.render(first, HEIGHT, WIDTH), scene.render(second, HEIGHT, WIDTH)
        points = world_points(scene, a.depth, first).reshape(-1, 3)
        K = torch.as_tensor(scene.K(HEIGHT, WIDTH))
        pixels, z = geometry.project(
            torch.as_tensor(points), geometry.invert_se3(torch.as_tensor(second))[None], K
        )
        u, v = np.floor(pixels[0].numpy()).astype(int).T
        inside = (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT) & (z[0].numpy() > 0.1)
        u, v, z = u[inside], v[inside], z[0].numpy()[inside]
        assert inside.mean() > 0.5
        same = np.abs(b.depth[v, u] - z) < 0.05 * z
        assert same.mean() > 0.9  # the rest is hidden in one of the views
        colours = np.abs(b.rgb[v, u].astype(int) - a.rgb.reshape(-1, 3)[inside].astype(int)).mean(-1)
        assert np.median(colours[same]) < 8


def test_intrinsics_shift_the_picture():
    with SimScene(6) as scene:
        K = scene.K(HEIGHT, WIDTH)
        plain = scene.render(scene.initial_c2w, HEIGHT, WIDTH).depth
        K[0, 2] += 10
        K[1, 2] -= 6
        moved = scene.render(scene.initial_c2w, HEIGHT, WIDTH, K).depth
        difference = np.abs(moved[:-6, 10:] - plain[6:, :-10])
        assert np.median(difference) < 1e-3 and (difference > 0.01).mean() < 0.03


def test_averaging_down_equals_the_obvious_way():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (12, 18, 3)).astype(np.uint8)
    inverse, ids = rng.uniform(0.2, 1, (12, 18)), rng.integers(0, 3, (12, 18)).astype(np.int32)
    colours, _, label = engine._two_thirds(rgb, inverse, ids)
    fine = (
        rgb.astype(float).repeat(2, 0).repeat(2, 1)
    )  # every drawn pixel as 2 x 2, every new one covers 3 x 3
    slow = fine.reshape(8, 3, 12, 3, 3).mean((1, 3))
    assert np.abs(colours - slow).max() <= 0.5 + 1e-6
    assert (label == ids[np.ix_([0, 2, 3, 5, 6, 8, 9, 11], [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17])]).all()


def test_depth_of_a_slope_is_exact_after_averaging():
    v, u = np.mgrid[0:12, 0:18] + 0.5
    plane = 0.5 + 0.004 * u + 0.003 * v  # 1/z of a plane is linear in the pixel coordinates
    for shrink, factor in ((engine._two_thirds, 1.5), (engine._halve, 2.0)):
        _, depth, _ = shrink(np.zeros((12, 18, 3), np.uint8), plane, np.zeros((12, 18), np.int32))
        rows, columns = depth.shape
        v2, u2 = (np.mgrid[0:rows, 0:columns] + 0.5) * factor
        assert np.allclose(depth, 1 / (0.5 + 0.004 * u2 + 0.003 * v2), rtol=1e-6)


def test_first_cameras_have_room_and_a_view():
    outdoor = 0
    for seed in (*range(20, 25), 10020, 20020):
        with SimScene(seed) as scene:
            c2w = scene.initial_c2w
            outdoor += scene.plan.outdoor
            assert scene.is_free(c2w[:3, 3], 0.4) and scene.room_ahead(c2w) >= 1.5
            assert 1.2 <= c2w[2, 3] <= 1.6 and abs(c2w[2, 0]) < 1e-6  # no roll
            geometry.check_rigid(torch.as_tensor(c2w))
            depth = scene.render(c2w, 48, 64).depth
            assert depth.min() > 0 and depth.max() < 11 and (depth > 1.2).mean() > 0.85
            assert scene.prompt.startswith(("a room", "a yard"))
    assert 0 < outdoor < 7


def test_is_free_knows_walls_furniture_and_movers():
    with SimScene(15) as scene:
        item = scene.plan.items[0]
        eye = scene.initial_c2w[:3, 3]
        assert not scene.is_free(np.array([item.x, item.y, 0.1]), 0.2)
        assert not scene.is_free(np.array([scene.plan.size[0] / 2 - 0.1, 0, 1.4]), 0.3)
        assert not scene.is_free(np.array([0, 0, scene.plan.size[2]]), 0.1)
        scene.start_event("balloon_rises", scene.initial_c2w, np.random.default_rng(0))
        balloon = next(row for row in scene.object_table() if "balloon" in row.name)
        assert not scene.is_free((np.array(balloon.low) + balloon.high) / 2, 0.1)
        assert scene.is_free(eye, 0.3)


def test_splits_share_nothing():
    for split, seeds in assets.SEED_RANGES.items():
        assert {split_of(seed) for seed in (seeds[0], seeds[-1])} == {split}
    textures = [set(assets.texture_ids("planks", split)) for split in assets.SPLITS]
    photos = [set(assets.photo_ids(split)) for split in assets.SPLITS]
    blobs = [set(assets.BLOB_RANGES[split]) for split in assets.SPLITS]
    meshes = [set(assets.STATIC_MESHES[split]) for split in assets.SPLITS]
    for groups in (textures, photos, blobs, meshes):
        assert all(groups) and sum(map(len, groups)) == len(set.union(*groups))


@pytest.mark.parametrize("split", assets.SPLITS)
def test_scenes_use_assets_of_their_split(split):
    for seed in assets.SEED_RANGES[split][40:90]:
        plan = layout.draw_plan(seed)
        textures = [plan.floor, *plan.walls, plan.ceiling, *(item.texture for item in plan.items)]
        for texture in filter(None, textures):
            kind, _, number = texture.rpartition("-")
            if kind == "blob":
                assert int(number) in assets.BLOB_RANGES[split]
            elif kind:
                assert assets.texture_split(texture) == split
            elif texture.startswith("photo:"):
                assert split == "train"
            else:
                assert texture in assets.STATIC_MESHES[split]
        assert all(d.photo in ("", *assets.PHOTOS[split]) for d in plan.decorations)


def test_photographs_are_there_and_cannot_be_written():
    for split in assets.SPLITS:
        for name in assets.photo_ids(split):
            picture = assets.load_photo(name)
            assert picture.dtype == np.uint8 and picture.shape[2] == 3 and min(picture.shape[:2]) >= 250
            with pytest.raises(ValueError, match="read-only"):
                picture[0, 0] = 0
    with pytest.raises(FileNotFoundError):
        assets.load_photo("no_such_picture")


@pytest.mark.parametrize("seed", [-1, 10000 + 1000, 15000, 20200, True, 1.5, "7", None])
def test_other_seeds_are_errors(seed):
    with pytest.raises(SeedError):
        SimScene(seed)


def test_names():
    for name, seed in NAMED_SCENES.items():
        with SimScene.from_name(name) as scene:
            assert scene.seed == seed and scene.plan.outdoor == (name == "yard")
    with SimScene.from_name("seed:123") as scene:
        assert scene.seed == 123
    for name in ("kitchen", "seed:", "seed:-3", "seed:12000"):
        with pytest.raises(SeedError):
            SimScene.from_name(name)


def test_errors_leave_the_scene_as_it_was():
    scene = SimScene(12)
    before = scene.render(scene.initial_c2w, 32, 48)
    for pose in (np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(PoseError):
            scene.render(pose, 32, 48)
    with pytest.raises(PromptError):
        scene.start_event("a dragon lands", scene.initial_c2w, np.random.default_rng(0))
    assert scene.start_event("", scene.initial_c2w, np.random.default_rng(0)) == ""
    scene.advance()
    assert (scene.render(scene.initial_c2w, 32, 48).rgb == before.rgb).all() and not scene.events_active
    scene.close()
    scene.close()
    for call in (
        scene.advance,
        lambda: scene.render(np.eye(4)),
        lambda: scene.start_event("fog", np.eye(4), None),
    ):
        with pytest.raises(ClosedEnvError):
            call()


def test_memory_is_freed():
    def resident() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6

    def churn(count: int) -> None:
        for seed in range(count):
            with SimScene(seed % 8) as scene:
                scene.render(scene.initial_c2w, 32, 48)

    churn(5)
    before = resident()
    churn(10)
    assert resident() - before < 40  # megabytes; 10 scenes that stay open are 300


def test_a_forgotten_scene_closes_itself():
    scene = SimScene(1)
    finalizer = scene.engine._finalizer
    del scene
    assert not finalizer.alive


def test_pitch_and_yaw():
    forward = camera_pose((0, 0, 1), np.pi / 2, 0.3)[:3, 2]
    assert np.allclose(forward, [0, np.cos(0.3), np.sin(0.3)], atol=1e-6)


def test_movers_change_their_own_pixels_only():
    with SimScene(10003) as scene, SimScene(10003) as twin:
        c2w = scene.initial_c2w
        scene.start_event("blue_box_drops", c2w, np.random.default_rng(1))
        for _ in range(3):
            scene.advance()
        frame, static = scene.render(c2w, HEIGHT, WIDTH), twin.render(c2w, HEIGHT, WIDTH)
        assert frame.dynamic.mean() > 0.02 and not static.dynamic.any()
        names = {row.body: row.name for row in scene.object_table()}
        assert all("blue_box" in names[body] for body in np.unique(frame.segmentation[frame.dynamic]))
        apart = ~ndimage.binary_dilation(frame.dynamic, np.ones((3, 3)))  # edges are blended
        assert (frame.rgb[apart] == static.rgb[apart]).all()
        assert np.allclose(frame.depth[apart], static.depth[apart], atol=1e-4)  # furniture settles by microns
        scene.remove_movers()
        assert (scene.render(c2w, HEIGHT, WIDTH).rgb == static.rgb).all()
