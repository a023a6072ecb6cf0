"""The adapter to the official WorldScore: its cameras, its layout, its arithmetic."""

import json

import numpy as np
import pytest
from PIL import Image

import worldscore
import worldscore_layout
import worldscore_scores
from spatia_env.errors import DatasetError
from untrained import write_untrained
from worldscore_layout import camera_data, fit_picture, read_items
from ws_cameras import MOVES, from_stored, interpolated, keyframes, to_stored

# -- cameras ------------------------------------------------------------------------------------------------------

ENDS = {
    "push_in": ((0, 0, 1), 0), "pull_out": ((0, 0, -1), 0), "move_left": ((-0.5, 0, 0), 0),
    "move_right": ((0.5, 0, 0), 0), "pan_left": ((0, 0, 0), -30), "pan_right": ((0, 0, 0), 30),
    "orbit_left": ((-0.5, 0, 0.134), 30), "orbit_right": ((0.5, 0, 0.134), -30), "fixed": ((0, 0, 0), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_each_move_ends_where_the_benchmark_ends_it(name):
    centre, yaw = ENDS[name]
    pose = interpolated([name])[-1]
    assert np.allclose(pose[:3, 3], centre, atol=1e-3)
    assert np.degrees(np.arctan2(pose[0, 2], pose[2, 2])) == pytest.approx(yaw, abs=1e-6)


def test_orbits_are_no_exact_arcs_and_look_at_the_point_ahead():
    middle, end = interpolated(["orbit_left"])[[25, 49]]
    assert np.allclose(middle[:3, 3], (-0.264, 0, 0.001), atol=1e-3)
    ahead = np.array([0, 0, 1.0]) - end[:3, 3]
    assert np.allclose(end[:3, 2], ahead / np.linalg.norm(ahead), atol=1e-6)


def test_a_chain_has_the_benchmarks_frames_and_end():
    path = interpolated(["pan_left", "move_left", "pull_out"])
    assert path.shape == (148, 4, 4)
    assert np.allclose(path[-1, :3, 3], (0.067, 0, -1.116), atol=1e-3)
    assert np.allclose(path[[0, 49, 98, 147]], keyframes(["pan_left", "move_left", "pull_out"]))


def test_stored_matrices_are_the_benchmarks_and_come_back():
    path = interpolated(["orbit_right", "push_in"], 10)
    stored = to_stored(path)
    assert np.array_equal(stored[0], np.diag([-1, 1, -1, 1]))
    assert np.allclose(from_stored(stored), path)
    # Stepping left is towards +x in a world whose x points left.
    assert to_stored(interpolated(["move_left"]))[-1][0, 3] == pytest.approx(0.5)
    assert to_stored(interpolated(["push_in"]))[-1][2, 3] == pytest.approx(1)
    data = camera_data(["push_in"])
    assert (data["focal_length"], data["scale"], len(data["cameras"]), len(data["cameras_interp"])) == (
        500,
        1,
        2,
        50,
    )


# -- arithmetic ---------------------------------------------------------------------------------------------------

PUBLISHED = dict(
    zip(
        worldscore_scores.ASPECTS,
        (75.66, 52.32, 69.95, 86.40, 89.10, 80.09, 54.86, 54.83, 24.75, 80.26),
        strict=True,
    )
)


def test_the_published_row_follows_from_its_aspects():
    assert worldscore_scores.aggregate(PUBLISHED) == {
        "WorldScore-Static": 72.63, "WorldScore-Dynamic": 66.82, "average": 69.73,
    }  # fmt: skip


def test_aspects_that_were_not_measured_count_as_nothing():
    static = {name: PUBLISHED[name] for name in worldscore_scores.STATIC}
    totals = worldscore_scores.aggregate(static)
    assert totals["WorldScore-Static"] == 72.63
    assert totals["WorldScore-Dynamic"] == pytest.approx(508.38 / 10, abs=0.01)


def write_evaluation(output, place, **aspects):
    folder = output / place
    folder.mkdir(parents=True)
    content = {
        name: {metric: {"score": 0, "score_normalized": value} for metric, value in metrics.items()}
        for name, metrics in aspects.items()
    }
    (folder / "evaluation.json").write_text(json.dumps(content))


def test_scores_are_averaged_over_items_then_over_the_metrics_of_an_aspect(tmp_path):
    write_evaluation(
        tmp_path, "static/photorealistic/indoor/rooms/a", camera_control={"camera_error": 0.8},
        subjective_quality={"clip": 0.5, "laion": 0.7},
    )  # fmt: skip
    write_evaluation(tmp_path, "static/photorealistic/indoor/rooms/b", camera_control={"camera_error": 0.6})
    write_evaluation(tmp_path, "dynamic/stylized/rigid/c", motion_accuracy={"flow": 0.25})
    content = worldscore_scores.collect(tmp_path)
    assert content["items"] == {"static": 2, "dynamic": 1}
    assert content["aspects"]["camera_control"]["value"] == 70
    assert content["aspects"]["camera_control"]["n"] == 2
    assert content["aspects"]["subjective_quality"]["value"] == 60
    assert content["aspects"]["motion_accuracy"]["value"] == 25
    assert content["totals"]["WorldScore-Static"] == pytest.approx(130 / 7, abs=0.01)
    # What the benchmark wrote must agree.
    (tmp_path / "worldscore.json").write_text(
        json.dumps({"camera_control": 70.0, "WorldScore-Static": 18.57})
    )
    assert worldscore_scores.collect(tmp_path) == content
    (tmp_path / "worldscore.json").write_text(json.dumps({"camera_control": 71.0}))
    with pytest.raises(DatasetError, match="differs"):
        worldscore_scores.collect(tmp_path)


def test_nothing_evaluated_and_damaged_files_are_said(tmp_path):
    with pytest.raises(DatasetError, match="evaluate` first"):
        worldscore_scores.collect(tmp_path)
    write_evaluation(tmp_path, "dynamic/stylized/rigid/c", motion_accuracy={"flow": 0.25})
    (tmp_path / "dynamic/stylized/rigid/c/evaluation.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        worldscore_scores.collect(tmp_path)


# -- items in the true layout -------------------------------------------------------------------------------------


def static_entry(**change):
    return {
        "image": "static/images/photorealistic/indoor/rooms/001.png", "visual_movement": "static",
        "visual_style": "photorealistic", "scene_type": "indoor", "category": "rooms", "style": "Photo style.",
        "camera_path": ["pan_left"], "content_list": [["room", "chair"], ["room", "lamp"]],
        "prompt_list": ["A room with a chair.", "A room with a lamp"],
    } | change  # fmt: skip


DYNAMIC = {
    "image": "dynamic/images/rigid/042.png", "visual_movement": "dynamic", "visual_style": "stylized",
    "motion_type": "rigid", "style": "Paint.", "camera_path": ["fixed"], "objects": ["ball"], "prompt": "A ball rolls",
    "masks": ["dynamic/masks/042.png"],
}  # fmt: skip


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A dataset of two items in the true layout, an empty clone, and a folder for runs."""
    data = tmp_path / "data" / "WorldScore-Dataset"
    rng = np.random.default_rng(0)
    for entry in (static_entry(), DYNAMIC):
        picture = data / entry["image"]
        picture.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)).save(picture)
        movement = entry["visual_movement"]
        (data / movement / f"{movement}.json").write_text(json.dumps([entry]))
    (tmp_path / "clone" / "WorldScore" / "config").mkdir(parents=True)
    monkeypatch.setenv("DATA_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "models"))
    monkeypatch.setenv("WORLDSCORE_PATH", str(tmp_path / "clone"))
    return tmp_path


def test_items_are_generated_in_the_exact_layout_and_kept(places, tmp_path_factory, capsys):
    model = str(write_untrained(tmp_path_factory.mktemp("checkpoint")))
    args = ["generate", "--model", model, "--size", "32", "32", "--resolution", "48", "48"]
    assert worldscore.main(args) == 0
    assert "2 of 2 items are complete" in capsys.readouterr().out
    output = places / "models" / "spatia_env" / "worldscore_output"
    static = output / "static" / "photorealistic" / "indoor" / "rooms" / "001"
    dynamic = output / "dynamic" / "stylized" / "rigid" / "042"
    for folder in (static, dynamic):
        names = sorted(path.name for path in (folder / "frames").iterdir())
        assert names == [f"{i:03d}.png" for i in range(50)]
        for name in ("frames/049.png", "input_image.png"):
            with Image.open(folder / name) as picture:
                assert picture.size == (48, 48)
        assert (folder / "videos" / "output.mp4").stat().st_size > 0
        assert (folder / "time.txt").read_text().startswith("generate_time: ")
        data = json.loads((folder / "image_data.json").read_text())
        assert (data["num_scenes"], data["total_frames"]) == (1, 50)
    assert json.loads((static / "image_data.json").read_text())["anchor_frame_idx"] == [0, 49]
    cameras = json.loads((static / "camera_data.json").read_text())
    assert np.array(cameras["cameras_interp"]).shape == (50, 4, 4)
    assert not (dynamic / "camera_data.json").exists()
    # A second run has nothing to do; an item that lost a frame is made again.
    stamp = (static / "frames" / "000.png").stat().st_mtime_ns
    (dynamic / "frames" / "030.png").unlink()
    assert worldscore.main(args) == 0
    assert (static / "frames" / "000.png").stat().st_mtime_ns == stamp
    assert (dynamic / "frames" / "030.png").exists()


def test_prompts_carry_the_style_and_come_where_a_scene_begins(places):
    dataset = places / "data" / "WorldScore-Dataset"
    entry = static_entry(camera_path=["pan_left", "pull_out"], prompt_list=["A.", "B", "C."])
    (dataset / "static" / "static.json").write_text(json.dumps([entry]))
    item = read_items(dataset, "static", places)[0]
    assert item.prompts == ["A. Photo style.", "B. Photo style.", "C. Photo style."]
    assert item.total_frames == 99
    asked = [worldscore.event_of(item, first, 8) for first in range(0, 98, 8)]
    assert asked[0] == "B. Photo style."
    assert asked[6] == "C. Photo style."
    assert sum(bool(text) for text in asked) == 2
    moving = read_items(dataset, "dynamic", places)[0]
    assert worldscore.event_of(moving, 40, 8) == "A ball rolls. Paint."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_path": ["roll_left"]}, "roll_left"),
        ({"image": "../../outside.png"}, "inside of the benchmark"),
        ({"visual_style": "../up"}, "inside of the benchmark"),
        ({"visual_movement": "dynamic"}, "item 0"),
    ],
)
def test_items_that_are_not_the_benchmarks_are_refused(places, change, message):
    dataset = places / "data" / "WorldScore-Dataset"
    (dataset / "static" / "static.json").write_text(json.dumps([static_entry(**change)]))
    with pytest.raises(DatasetError, match=message):
        read_items(dataset, "static", places)


def test_a_picture_is_cropped_at_its_centre(tmp_path):
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 200
    Image.fromarray(picture).save(tmp_path / "wide.png")
    assert (np.asarray(fit_picture(tmp_path / "wide.png", (40, 40))) == 200).all()
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(DatasetError, match="cannot be read"):
        fit_picture(tmp_path / "bad.png", (40, 40))


def test_too_few_frames_are_never_written(places):
    item = read_items(places / "data" / "WorldScore-Dataset", "static", places)[0]
    with pytest.raises(DatasetError, match="wants 50"):
        worldscore_layout.write_item(item, Image.new("RGB", (8, 8)), np.zeros((49, 8, 8, 3), np.uint8), 1.0)
    assert not item.folder.exists()


def test_prepare_says_what_is_missing_and_writes_the_configuration(places, monkeypatch, capsys):
    assert worldscore.main(["prepare"]) == 1
    said = capsys.readouterr().out
    assert "droid.pth" in said and "run_evaluate.py" in said
    text = (places / "clone/WorldScore/config/model_configs/spatia_env.yaml").read_text()
    assert "frames: 50" in text and "generate_type: i2v" in text and "${oc.env:MODEL_PATH}/spatia_env" in text
    with pytest.raises(DatasetError, match=r"droid\.pth"):
        worldscore.main(["evaluate"])
    monkeypatch.delenv("DATA_PATH")
    assert worldscore.main(["prepare"]) == 1
    assert "environment variable DATA_PATH" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="DATA_PATH is not set"):
        worldscore.main(["generate"])


def test_no_headline_of_a_part_of_the_benchmark(places, capsys):
    output = places / "models" / "spatia_env" / "worldscore_output"
    write_evaluation(output, "static/photorealistic/indoor/rooms/a", camera_control={"camera_error": 0.8})
    assert worldscore.main(["collect"]) == 1
    said = capsys.readouterr().out
    assert "no headline" in said and "WorldScore-Static" not in said
    assert worldscore.main(["collect", "--partial"]) == 0
    assert "WorldScore-Static: 11.43 (partial" in capsys.readouterr().out
