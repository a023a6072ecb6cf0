"""The benchmark at play: every row through the environment, and no truth in what the rows see or say."""

import numpy as np
import pytest

from spatia_env.bench.config import BenchConfig
from spatia_env.bench.core import run_bench
from spatia_env.bench.episodes import record
from spatia_env.bench.figures import FIGURES, figures_of
from spatia_env.bench.players import EnvPlayer, Players
from spatia_env.bench.report import check_results
from spatia_env.bench.rows import ROWS
from spatia_env.models.loading import PACKAGED
from untrained import write_untrained

SCENE = 10001
SIZE = (64, 96)
# Rows along an axis are alike: one of each is enough.
ALIKE = ("voxel-5cm", "voxel-7cm", "references-3", "references-5", "references-7")
TESTED = [row for row in ROWS.values() if row.env is not None and row.name not in ALIKE]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def walk():
    return record(SCENE, "walk", SIZE, clips=2)


@pytest.fixture(scope="module")
def players(untrained):
    with Players(SIZE, untrained) as players:
        yield players


def arrays(value):
    """All arrays in nested dicts and lists."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [array for inner in value.values() for array in arrays(inner)]
    if isinstance(value, list | tuple):
        return [array for inner in value for array in arrays(inner)]
    return []


@pytest.mark.parametrize("row", TESTED, ids=lambda row: row.name)
def test_no_tested_row_sees_or_says_the_truth(players, walk, row):
    """Beyond the names that every step checks: no frame or depth of the truth is in any array that comes out."""
    player = players.get(row)
    observation, _ = player.env.reset(seed=SCENE, options={"scene": SCENE, "depth": row.depth})
    assert np.array_equal(observation["frames"][-1], walk.frames[0])
    assert np.array_equal(observation["depth"][-1], walk.depth[0]) == row.depth
    player.last = walk.c2w[0].astype(np.float64)
    clip = player.play(walk.c2w[walk.clip(0)])
    truth = [*walk.frames[1:], *walk.depth[1:]]
    shown = [clip.frames, clip.depth, *arrays(clip.info)]
    for array in shown:
        pictures = array if array.ndim > 2 else array[None]
        for picture in pictures:
            assert not any(picture.shape == true.shape and np.array_equal(picture, true) for true in truth)


def test_a_player_executes_the_path_that_it_is_given(players, walk):
    player = players.get(ROWS["default"])
    player.start(walk)
    for index in range(2):
        path = walk.c2w[walk.clip(index)]
        player.play(path)
        assert np.allclose(player.unwrapped.world.c2w.numpy(), path[-1], atol=1e-4)


def test_rest_is_handed_over_exactly(players, walk):
    player = players.get(ROWS["default"])
    player.start(walk)
    player.play(walk.c2w[walk.clip(0)])
    rest = player.action(np.repeat(walk.c2w[8][None], 8, 0))["path"]
    assert np.array_equal(rest, np.repeat(np.eye(4, dtype=np.float32)[None], 8, 0))


def test_each_row_is_one_switch(players):
    default = players.get(ROWS["default"]).unwrapped
    assert default.remembers
    assert default.num_references > 0
    assert not players.get(ROWS["no-memory"]).unwrapped.remembers
    assert players.get(ROWS["no-references"]).unwrapped.num_references == 0
    assert ROWS["default-picture-only"].env == ROWS["default"].env
    assert isinstance(players.env(ROWS["default"], timed=True), EnvPlayer)


def test_smoke(tmp_path, untrained):
    """`spatia bench smoke` gives every figure; with the packaged checkpoint where it is there."""
    model = None if (PACKAGED / "spatia-tiny").is_dir() else untrained
    config = BenchConfig(
        "smoke", tmp_path, first_seed=SCENE, clips=2, size=SIZE, model=model, plots=False, truths=None
    )
    content = run_bench(config)
    assert content["failures"] == []
    assert content["problems"] == []
    check_results(content)
    assert set(content["figures"]) == {figure.id for figure in FIGURES}
    assert content["run"]["checkpoint"]
    assert content["figures"]["renderer_identity_psnr"]["holds"]


def test_a_part_that_is_switched_off_is_off_and_the_rest_is_the_default(players, walk):
    """Without the render the model is shown nothing; without the filter nothing is masked."""
    blind, unfiltered = (
        players.get(ROWS[name]).unwrapped for name in ("no-scene-render", "no-dynamic-filter")
    )
    for env in (blind, unfiltered):
        assert env.remembers and env.num_references == players.get(ROWS["default"]).unwrapped.num_references
    player = players.get(ROWS["no-scene-render"])
    player.start(walk)
    pending = blind.prepare(player.action(walk.c2w[walk.clip(0)]))
    assert pending.view.known.any()
    asked = blind.request(pending)
    assert not asked.known.any() and not asked.scene_render.any()
    assert not asked.continued.any()
    untold = players.get(ROWS["no-continuation"])
    untold.start(walk)
    pending = untold.unwrapped.prepare(untold.action(walk.c2w[walk.clip(0)]))
    assert untold.unwrapped.request(pending).known.any()
    assert pending.continued is None and not untold.unwrapped.request(pending).continued.any()
    player = players.get(ROWS["no-dynamic-filter"])
    player.start(walk)
    assert unfiltered.request(pending).known.any()
    clip = player.play(walk.c2w[walk.clip(0)])
    assert not clip.info["debug"]["dynamic"].any()
    assert players.get(ROWS["no-slam"]).unwrapped.slam == "off"


@pytest.mark.slow
def test_a_wide_run_gives_every_figure(tmp_path, untrained):
    """`spatia bench standard` on one scene: every suite, row and figure, and the form of its results."""
    import json
    from pathlib import Path

    import jsonschema

    config = BenchConfig(
        "standard", tmp_path, scenes=1, first_seed=SCENE, size=(64, 64), model=untrained, truths=None,
        events=("red_ball_rolls", "blue_box_drops", "duck_falls", "green_ball_bounces", "night", "night_ends"),
    )  # fmt: skip
    content = run_bench(config)
    assert content["failures"] == []
    missing = {figure.id for figure in figures_of(True)} - set(content["figures"])
    # Hard tasks are asked for only beside all events.
    assert missing <= {"event_several", "detector_several", "event_false_denied", "event_false_absent"}
    schema = Path(__file__).parent.parent / "spatia_env" / "bench" / "results.schema.json"
    jsonschema.validate(json.loads((tmp_path / "results.json").read_text()), json.loads(schema.read_text()))
    assert {path.name.split("-")[0] for path in (tmp_path / "videos").iterdir()} == {"walk", "loop", "drift"}
    assert (tmp_path / "plots" / "drift.png").exists() and (tmp_path / "plots" / "sweeps.png").exists()
