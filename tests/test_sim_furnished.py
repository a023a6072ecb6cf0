"""Furnished scenes and what they are made of: converted models and panoramas, rooms with doors that lead somewhere."""

import dataclasses
import hashlib
import io
import json
import math
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from spatia_env.errors import SeedError
from spatia_env.sim import assets, convert_assets, furnished, layout, shapes
from spatia_env.sim.scenes import SimScene, camera_pose

HEIGHT, WIDTH = 48, 64
SEEDS = (1, 3, 10003, 20004)


# -- conversion ---------------------------------------------------------------------------------------------------

CUBE = """mtllib {name}.mtl
v -1 0 -2
v 1 0 -2
v 1 3 -2
v -1 3 -2
v -1 0 2
v 1 0 2
v 1 3 2
v -1 3 2
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl back
f 4/4 3/3 2/2 1/1
usemtl plain
f 5//1 6//1 7//1 8//1
f 1 5 8 4
f 2 3 7 6
usemtl glass
f 4 8 7 3
"""
MATERIALS = """newmtl back
Kd 1 1 1
map_Kd C:\\pictures\\tile.png
newmtl plain
Kd 0.2 0.4 0.8
newmtl glass
Kd 1 0 0
d 0.1
"""
ZERO = "Released under Creative Commons Zero"


def ball_obj(rings: int = 40) -> str:
    mesh = shapes.ball(1.0, rings=rings, sides=2 * rings)
    lines = [f"v {x} {y} {z}" for x, y, z in mesh.vertices.tolist()]
    return "\n".join(lines + [f"f {a} {b} {c}" for a, b, c in (mesh.triangles + 1).tolist()])


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The output folder of a package of a sofa, a ball of many triangles, one with another licence, and one unknown."""
    folder = tmp_path_factory.mktemp("package")
    tile = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), (200, 40, 40), np.uint8)).save(tile, "PNG")
    rows, number = ["id=package"], 0
    with zipfile.ZipFile(folder / "package.sh3f", "w") as archive:
        archive.writestr("LICENSE.TXT", "This file is under the Creative Commons Zero (Public Domain)")
        for name, licence in (
            ("couch", ZERO),
            ("bed1", "Creative Commons Attribution 3.0"),
            ("basketball", ""),
            ("ufo", ZERO),
        ):
            number += 1
            size = (90, 90, 90) if name == "basketball" else (200, 80, 90)
            rows += [f"name#{number}={name}", f"model#{number}=/m/{name}/{name}.obj", f"creator#{number}=Ann"]
            rows += [f"{key}#{number}={v}" for key, v in zip(("width", "depth", "height"), size, strict=True)]
            archive.writestr(
                f"m/{name}/{name}.obj", ball_obj() if name == "basketball" else CUBE.format(name=name)
            )
            archive.writestr(f"m/{name}/{name}.mtl", MATERIALS)
            archive.writestr(f"m/{name}/tile.png", tile.getvalue())
            if licence:
                archive.writestr(f"m/{name}/LICENSE.html", licence)
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(rows))
    convert_assets.furniture(folder / "package.sh3f", folder / "out")
    return folder / "out"


def test_only_what_is_cc0_and_has_a_use_is_converted(converted):
    index = json.loads((converted / "furniture.json").read_text())
    assert set(index) == {"couch", "basketball"} and index["couch"]["role"] == "sofa"
    assert index["couch"]["author"] == "Ann" and index["couch"]["size"] == [2.0, 0.8, 0.9]
    text = (converted / "CREDITS-furniture.md").read_text()
    assert "| couch | couch | Ann |" in text and "bed1" not in text


def test_a_converted_model_has_its_size_its_back_and_its_colours(converted, monkeypatch):
    monkeypatch.setattr(assets, "LIBRARY", converted)
    mesh, texture = assets.load_furniture.__wrapped__("couch")
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    assert np.allclose(low, [-1, -0.4, 0], atol=1e-3) and np.allclose(high, [1, 0.4, 0.9], atol=1e-3)
    assert len(mesh.triangles) == 8  # the glass is not there
    for triangle in mesh.triangles:
        corners, uv = mesh.vertices[triangle], mesh.uvs[triangle].mean(0)
        colour = texture[int((1 - uv[1]) * len(texture)), int(uv[0] * texture.shape[1])].astype(int)
        back = (corners[:, 1] > 0.39).all()
        expected = (200, 40, 40) if back else (51, 102, 204)
        assert np.abs(colour - expected).max() < 12
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        assert normal @ mesh.normals[triangle].mean(0) > 0
        assert not back or normal[1] > 0


def test_many_triangles_become_few_of_the_same_shape(converted):
    tensors = load_file(converted / "furniture.safetensors")
    low, high = tensors["basketball.box"]
    assert len(tensors["basketball.triangles"]) <= 1.4 * convert_assets.face_budget(high - low) < 1000
    points = low + tensors["basketball.vertices"] / 65535 * (high - low)
    assert np.abs(np.linalg.norm(points - [0, 0, 0.45], axis=1) - 0.45).max() < 0.03


def test_normals_are_smooth_within_a_crease_and_sharp_beyond():
    mesh = shapes.ball(1.0)
    corners = mesh.vertices[mesh.triangles]
    whole = (
        np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) > 1e-6
    )
    smooth = convert_assets.corner_normals(corners[whole])
    assert (np.einsum("nij,nij->ni", smooth, corners[whole]) > 0.97).all()
    box = shapes.box((0, 0, 0), (1, 1, 1))
    sharp = convert_assets.corner_normals(box.vertices[box.triangles])
    assert np.allclose(np.abs(sharp).max(-1), 1, atol=1e-6)


def test_tone_mapping_keeps_order_and_range():
    light = np.geomspace(1e-3, 1e3, 64, dtype=np.float32)[None, :, None].repeat(2, 0).repeat(3, 2)
    light[1, 5] = np.nan
    picture = convert_assets.tone_map(light)
    assert picture.dtype == np.uint8 and (np.diff(picture[0, :, 0].astype(int)) >= 0).all()
    assert picture[0, 0, 0] < 20 and picture[0, -1, 0] == 255 and picture[1, 5, 0] == 255


# -- the library --------------------------------------------------------------------------------------------------


def test_the_library_is_whole_and_small():
    size = sum(path.stat().st_size for path in assets.LIBRARY.rglob("*") if path.is_file())
    assert size < 5e6 and sum(p.stat().st_size for p in (assets.LIBRARY / "panoramas").iterdir()) < 1.6e6
    credits = (assets.LIBRARY / "CREDITS-furniture.md").read_text()
    for name, row in assets.furniture_index().items():
        mesh, texture = assets.load_furniture(name)
        assert np.allclose(np.ptp(mesh.vertices, axis=0), row["size"], atol=1e-3), name
        assert len(mesh.triangles) == row["faces"] and mesh.triangles.max() < len(mesh.vertices)
        assert abs(mesh.vertices[:, 2].min()) < 0.3 and np.isfinite(mesh.normals).all()
        assert texture.dtype == np.uint8 and (mesh.uvs >= 0).all() and (mesh.uvs <= 1).all()
        assert f"| {name} |" in credits


def test_models_and_panoramas_of_the_splits_share_nothing():
    rows = assets.furniture_index()
    roles = {row["role"] for row in rows.values()}
    for role in roles:
        groups = [set(assets.furniture_names(role, split)) for split in assets.SPLITS]
        assert (
            sum(map(len, groups)) == len(set.union(*groups)) == sum(r["role"] == role for r in rows.values())
        )
        if sum(map(len, groups)) >= 3:
            assert all(groups), role
    for role in ("sofa", "bed", "chair", "table", "bookcase"):
        assert all(assets.furniture_names(role, split) for split in assets.SPLITS), role
    panoramas = [set(assets.panorama_names(split)) for split in assets.SPLITS]
    assert sum(map(len, panoramas)) == len(set.union(*panoramas)) == 25 and len(panoramas[2]) == 8
    picture = assets.load_panorama(min(panoramas[0]))
    assert picture.shape[1] == 2 * picture.shape[0]
    with pytest.raises(ValueError, match="read-only"):
        picture[0, 0] = 0


# -- scenes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SEEDS)
def scene(request):
    with SimScene(request.param, style="furnished") as opened:
        yield opened


def test_plain_scenes_are_what_they_were():
    sha = hashlib.sha256()
    for seed in (0, 5, 15, 123, 10001, 20007):
        plan = layout.draw_plan(seed)
        items = [
            (
                i.kind,
                *(round(float(v), 6) for v in (i.x, i.y, i.yaw, *i.size, *i.colour)),
                i.texture,
                i.mass,
                i.word,
            )
            for i in plan.items
        ]
        panels = [
            (d.kind, d.wall, round(d.along, 6), round(d.width, 6), d.seed, d.photo) for d in plan.decorations
        ]
        eye = [round(v, 6) for v in (*plan.size, *plan.eye, plan.yaw, plan.pitch)]
        sha.update(repr((items, panels, eye, plan.floor, plan.walls, plan.ceiling, plan.prompt)).encode())
        assert not plan.rooms and not plan.openings
    assert sha.hexdigest()[:16] == "3924113990e4d5fc"


def test_a_furnished_seed_is_the_same_plan_in_every_process():
    code = "from spatia_env.sim.furnished import draw_plan; print([draw_plan(s) for s in (2, 10005)])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip().endswith(repr([furnished.draw_plan(s) for s in (2, 10005)]))
    assert furnished.draw_plan(2) != furnished.draw_plan(3)


def test_a_furnished_scene_is_rendered_the_same_twice():
    pictures = []
    for _ in range(2):
        with SimScene.from_name("furnished:10005") as scene:
            frame = scene.render(scene.initial_c2w, HEIGHT, WIDTH)
            pictures.append((frame.rgb, frame.depth, frame.segmentation))
    assert all((a == b).all() for a, b in zip(*pictures, strict=True))


def test_the_first_camera_is_free_and_sees_a_closed_world(scene):
    eye = scene.initial_c2w[:3, 3]
    assert scene.is_free(eye, 0.4)
    for turn in range(4):
        c2w = camera_pose(tuple(eye.tolist()), scene.plan.yaw + turn * math.pi / 2, 0.0)
        depth = scene.render(c2w, HEIGHT, WIDTH).depth
        assert depth.min() > 0.15 and depth.max() < 15
    assert scene.prompt.startswith(("a yard", *(f"a {kind} with" for kind in furnished.KINDS)))


def test_furniture_stands_inside_its_room_and_apart(scene):
    rooms = scene.plan.rooms
    solid = [item for item in scene.plan.items if item.kind not in furnished.FLAT and item.z < 0.2]
    for item in solid:
        assert any(
            r.low[0] - 0.05 <= item.x <= r.high[0] + 0.05 and r.low[1] - 0.05 <= item.y <= r.high[1] + 0.05
            for r in rooms
        )
    for i, a in enumerate(solid):
        for b in solid[:i]:
            assert math.hypot(a.x - b.x, a.y - b.y) > 0.1, (a.word, b.word)


def test_openings_lead_somewhere(scene):
    ways = [o for o in scene.plan.openings if o.kind in ("door", "arch")]
    assert ways or any(o.kind == "open" for o in scene.plan.openings)
    first = scene.plan.rooms[0]
    for way in ways:
        axis, sign = way.wall % 2, 1 if way.wall < 2 else -1
        edge = (first.high if sign > 0 else first.low)[axis]
        eye = np.array([way.along, way.along, 1.5])
        eye[axis] = edge - sign * 0.8
        c2w = camera_pose(tuple(eye.tolist()), (0, math.pi / 2, math.pi, -math.pi / 2)[way.wall], 0.0)
        frame = scene.render(c2w, HEIGHT, WIDTH)
        assert (
            frame.depth[HEIGHT // 2 - 2 : HEIGHT // 2 + 2, WIDTH // 2 - 2 : WIDTH // 2 + 2].min() > 0.8 + 0.5
        )
        for step in np.linspace(-0.5, 0.5, 5):
            point = eye.copy()
            point[axis] = edge + sign * step
            assert scene.is_free(point, 0.28)
        beside = eye.copy()
        beside[1 - axis] += way.width / 2 + 0.3
        beside[axis] = edge + sign * 0.06
        assert not scene.is_free(beside, 0.05)  # the wall beside it is solid


def test_windows_show_what_is_far():
    plan = next(
        plan
        for plan in (furnished.draw_plan(seed) for seed in range(40))
        if any(o.kind == "window" for o in plan.openings)
    )
    window = next(o for o in plan.openings if o.kind == "window")
    with SimScene(plan.seed, style="furnished") as scene:
        axis, sign = window.wall % 2, 1 if window.wall < 2 else -1
        edge = (plan.rooms[0].high if sign > 0 else plan.rooms[0].low)[axis]
        eye = np.full(3, window.along + window.width / 4)  # beside the bar in the middle
        eye[axis], eye[2] = edge - sign * 0.4, window.bottom + 0.35 * (window.top - window.bottom)
        c2w = camera_pose(tuple(eye.tolist()), (0, math.pi / 2, math.pi, -math.pi / 2)[window.wall], 0.0)
        depth = scene.render(c2w, HEIGHT, WIDTH).depth
        assert depth[HEIGHT // 2, WIDTH // 2] > 2.0
        eye[axis] = edge + sign * 0.3
        assert not scene.is_free(eye, 0.1)


def test_scenes_use_models_and_views_of_their_split():
    index = assets.furniture_index()
    for split, seeds in assets.SEED_RANGES.items():
        for seed in seeds[10:22]:
            plan = furnished.draw_plan(seed)
            used = {item.texture for item in plan.items if item.kind == "model"}
            assert all(index[name]["split"] == split for name in used)
            views = {o.view for o in plan.openings} | {plan.sky}
            views |= {d.photo[9:] for d in plan.decorations if d.photo.startswith("panorama:")}
            assert views - {""} <= set(assets.panorama_names(split))


def test_events_play_in_a_furnished_room():
    with SimScene(10003, style="furnished") as scene:
        scene.start_event("red_ball_rolls", scene.initial_c2w, np.random.default_rng(0))
        shares = []
        for _ in range(6):
            scene.advance()
            shares.append(scene.render(scene.initial_c2w, HEIGHT, WIDTH).dynamic.mean())
        assert max(shares) > 0.005


def test_other_styles_are_errors():
    with pytest.raises(SeedError, match="plain, furnished"):
        SimScene(1, style="baroque")
    with pytest.raises(SeedError):
        SimScene(11500, style="furnished")


# -- shapes -------------------------------------------------------------------------------------------------------


def test_a_pierced_wall_has_the_area_that_is_left():
    holes = [(0.2, 0.4, 0.0, 0.8), (0.6, 0.9, 0.3, 0.7)]
    mesh = shapes.pierced((0, 0, 0), (4, 0, 0), (0, 0, 3), holes)
    corners = mesh.vertices[mesh.triangles]
    area = convert_assets.areas(corners).sum()
    assert area == pytest.approx(12 * (1 - 0.2 * 0.8 - 0.3 * 0.4))
    middle = corners.mean(1) / [4, 1, 3]
    for left, right, bottom, top in holes:
        x, z = middle[:, 0], middle[:, 2]
        assert not ((x > left) & (x < right) & (z > bottom) & (z < top)).any()
    assert shapes.pierced((0, 0, 0), (4, 0, 0), (0, 0, 3), [(0, 1, 0, 1)]) is None


def test_distance_to_walls_equals_the_slow_way():
    plan = furnished.draw_plan(2)
    own = layout.room_plan(plan, 0)
    rng = np.random.default_rng(0)
    half = np.array(own.size[:2]) / 2
    points = rng.uniform(-half, half, (40, 2))
    from spatia_env.sim.painting import wall_distance

    fast = wall_distance(own, points[:, 0], points[:, 1])
    samples = []
    for wall in range(4):
        length = own.size[1 - wall % 2]
        along = np.linspace(-length / 2, length / 2, 4001)
        solid = np.ones(len(along), dtype=bool)
        for hole in own.holes:
            if hole.wall == wall and hole.bottom == 0:
                solid &= (along <= hole.left) | (along >= hole.right)
        outward = np.array(((1, 0), (0, 1), (-1, 0), (0, -1))[wall])
        right = np.array([outward[1], -outward[0]])
        samples.append(outward * half[wall % 2] + right * along[solid, None])
    slow = np.linalg.norm(points[:, None] - np.concatenate(samples)[None], axis=-1).min(1)
    assert np.abs(fast - slow).max() < 0.02
    assert dataclasses.replace(own, holes=()).size == own.size
