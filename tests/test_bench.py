"""The benchmark measures what it says: ceilings, floors, failures, resuming, and no truth in a tested row."""

import csv
import dataclasses
import itertools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spatia_env.bench import core, happenings, metrics, probes, quality
from spatia_env.bench.cli import main
from spatia_env.bench.core import BenchConfig, Unit, plan, run_bench
from spatia_env.bench.episodes import record
from spatia_env.bench.figures import FIGURES, compute_figures
from spatia_env.bench.quality import Context, score_frames, score_loop, score_rest
from spatia_env.bench.report import check_results, format_figure, summary_lines, table_text
from spatia_env.bench.results import Results, sanity, suite_tables, worst_of
from spatia_env.bench.rows import ROWS, Clip, MemoryRenderPlayer, Players, check_no_truth, nearest_known
from spatia_env.bench.sheets import read_grid, write_grid
from spatia_env.errors import ActionError
from spatia_env.sim.scenes import SimScene
from spatia_env.slam.geometry import Geometry

SCENE = 10001
SIZE = (48, 64)
FREE_ROWS = ("oracle", "memory-render-only", "frozen-frame")


@pytest.fixture(scope="module")
def walk():
    return record(SCENE, "walk", SIZE)


@pytest.fixture(scope="module")
def loop():
    return record(SCENE, "loop", SIZE)


# -- pictures ---------------------------------------------------------------------------------------------------


def test_truth_scores_at_the_ceiling_and_a_frozen_frame_far_below(walk):
    best = score_frames(walk.frames[1:], walk)
    assert best["psnr_all"] == best["psnr_observed"] == best["psnr_unobserved"] == metrics.PSNR_CAP
    frozen = score_frames(np.repeat(walk.frames[:1], 32, 0), walk)
    assert frozen["psnr_observed"] < 25
    assert len(frozen["psnr_clips"]) == 4
    assert frozen["psnr_all"] == pytest.approx(np.mean(frozen["psnr_clips"]))


def test_damage_is_charged_to_the_pixels_it_is_on(walk):
    frames = walk.frames[1:].copy()
    frames[~walk.observed[1:]] = 0
    scores = score_frames(frames, walk)
    assert scores["psnr_observed"] == metrics.PSNR_CAP
    assert scores["psnr_unobserved"] < 12
    assert scores["psnr_all"] < 30


def test_the_memory_keeps_what_was_observed_and_imagines_nothing(walk):
    player = MemoryRenderPlayer()
    player.start(walk)
    clips = [player.play(walk.c2w[walk.clip(i)]) for i in range(4)]
    scores = score_frames(np.concatenate([c.frames for c in clips]), walk)
    assert scores["psnr_observed"] > 25
    assert scores["psnr_unobserved"] < 12
    known = np.concatenate([c.known for c in clips])
    assert (known == walk.observed[1:]).mean() > 0.93


def test_filling_takes_the_nearest_known_pixel():
    known = np.zeros((4, 6), bool)
    known[1, 1] = known[2, 5] = True
    rows, columns = nearest_known(known)
    for row in range(4):
        for column in range(6):
            near = min(((1, 1), (2, 5)), key=lambda p: (p[0] - row) ** 2 + (p[1] - column) ** 2)
            found = (rows[row, column], columns[row, column])
            assert (found[0] - row) ** 2 + (found[1] - column) ** 2 == (near[0] - row) ** 2 + (
                near[1] - column
            ) ** 2
    rows, columns = nearest_known(np.zeros((4, 6), bool))
    assert (rows == np.arange(4)[:, None]).all() and (columns == np.arange(6)).all()


def test_depth_of_a_world_in_the_wrong_scale_is_only_forgiven_where_it_says_so(walk):
    scores = quality.score_depth(walk.depth[1:] * 1.2, walk)
    assert scores["depth_absrel"] == pytest.approx(0.2, rel=1e-3)
    assert scores["depth_absrel_scaled"] < 1e-3


# -- loops ------------------------------------------------------------------------------------------------------


def test_a_frozen_frame_cannot_win_a_loop(loop):
    frozen = score_loop(np.repeat(loop.frames[:1], 32, 0), loop)
    assert frozen["psnr_c_raw"] == metrics.PSNR_CAP
    assert frozen["followed"] == 0
    assert frozen["psnr_c"] == metrics.psnr(loop.frames[16], loop.frames[0]) < 25


def test_a_loop_that_was_followed_scores_its_return(loop):
    perfect = score_loop(loop.frames[1:], loop)
    assert perfect["followed"] == 1
    assert perfect["psnr_c"] == metrics.PSNR_CAP
    # Followed, but the frame at the end is another one.
    swapped = loop.frames[1:].copy()
    swapped[-1] = loop.frames[20]
    scores = score_loop(swapped, loop)
    assert scores["followed"] == 1
    assert scores["psnr_c"] == scores["psnr_c_raw"] < 30


def test_a_loop_that_neither_follows_nor_returns_gains_nothing(loop):
    noise = np.random.default_rng(0).integers(0, 256, (32, *SIZE, 3), np.uint8)
    scores = score_loop(noise, loop)
    assert scores["followed"] == 0
    assert scores["psnr_c"] == scores["psnr_c_raw"]


# -- rest -------------------------------------------------------------------------------------------------------


def test_rest_sees_slow_drift_that_steps_hide():
    picture = np.full((*SIZE, 3), 100, np.uint8)
    still = np.repeat(picture[None, None], 5, 0).repeat(8, 1)
    assert score_rest(picture, still) == {"psnr_zero": metrics.PSNR_CAP, "psnr_zero_step": metrics.PSNR_CAP}
    drift = still + np.arange(1, 41, dtype=np.uint8).reshape(5, 8, 1, 1, 1)
    scores = score_rest(picture, drift)
    assert scores["psnr_zero_step"] > 45
    assert scores["psnr_zero"] < 20


# -- events -----------------------------------------------------------------------------------------------------


def test_every_event_is_asked_for_once_and_endings_follow_their_conditions():
    from spatia_env.vocabulary import EVENT_NAMES, event, phrasings

    tasks = happenings.tasks()
    names = [task.name for task in tasks if task.event]
    assert sorted(names) == sorted(EVENT_NAMES)
    assert sum(task.event is None for task in tasks) == happenings.QUIET_CLIPS
    for before, task in itertools.pairwise(tasks):
        assert task.follows == (task.event is not None and task.event.kind == "ending")
        if task.follows:
            assert before.name == task.event.ends
    trained = {text for name in EVENT_NAMES for text in phrasings(name, "train")}
    assert not trained & {task.text for task in tasks if task.event}
    assert [t.name for t in happenings.tasks(("fog_ends",)) if t.event] == ["fog", "fog_ends"]
    assert event("fog_ends").ends == "fog"
    with pytest.raises(ActionError, match="snowstorm do not exist"):
        happenings.tasks(("snowstorm",))


@pytest.fixture(scope="module")
def acted():
    """The simulator's own clips of three events and two quiet ones."""
    names = ("red_ball_rolls", "night", "night_ends")
    return happenings.measure_events(Context(None, (96, 128)), SCENE, ROWS["oracle"], names)


def test_the_judges_see_the_simulators_events_and_nothing_in_quiet_clips(acted):
    clips = acted.values["clips"]
    assert [clip["event"] for clip in clips] == ["red_ball_rolls", "night", "night_ends", "", ""]
    assert all(clip["success"] for clip in clips[:3])
    assert clips[3]["found"] == clips[4]["found"] == []
    assert list(acted.pictures) == ["red_ball_rolls", "night", "night_ends"]


def test_shuffled_events_are_not_taken_for_one_another(acted):
    clips = {clip["event"]: clip for clip in acted.values["clips"]}
    tasks = {task.name: task for task in happenings.tasks(("red_ball_rolls", "night")) if task.event}
    with SimScene(SCENE) as scene:
        before = scene.render(scene.initial_c2w, 96, 128).rgb
    still = np.repeat(before[None], 8, 0)
    night = np.repeat(acted.pictures["night"][-1:], 8, 0)
    assert clips["night"]["success"]
    assert happenings.judge(tasks["night"], night, before, still)["success"]
    assert not happenings.judge(tasks["red_ball_rolls"], night, before, still)["success"]
    assert not happenings.judge(tasks["night"], still, before, still)["success"]


def test_a_walk_of_true_frames_holds_no_false_events():
    truth = record(SCENE, "walk", (96, 128), clips=1)
    assert quality.false_events(truth.frames[1:], truth) == [[]]
    red = truth.frames[1:].copy()
    red[:, 28:68, 40:88] = (235, 10, 16)
    assert quality.false_events(red, truth) == [["red_ball_rolls"]]


# -- leakage ----------------------------------------------------------------------------------------------------


class Masks:
    """An estimator with true depth of the empty scene's size, and masks that are perfect, or that see nothing."""

    def __init__(self, perfect):
        self.perfect = perfect

    def __call__(self, rgb, c2w, K, map_rgb, map_depth, known):
        # Movers are what differs most from the map; here the truth is asked for through the colours of a ball.
        red = (rgb[:, 0] > 0.35) & (rgb[:, 1] < 0.12) & (rgb[:, 2] < 0.12)
        dynamic = red.float() if self.perfect else torch.zeros_like(map_depth)
        return Geometry(torch.full_like(map_depth, 2.0), torch.ones_like(map_depth), dynamic)


def leak(perfect):
    env = SimpleNamespace(unwrapped=SimpleNamespace(estimator=Masks(perfect)))
    context = Context(SimpleNamespace(env=lambda row: env), (64, 96))
    with SimScene(SCENE) as scene:
        return probes.leak_of(context, scene, "red_ball_rolls", np.random.default_rng(0))


def test_leakage_counts_what_a_mask_lets_through():
    with_mask, without = leak(True), leak(False)
    assert without.ghosts == without.naive_ghosts > 50
    assert without.wrong_pixels > 200
    assert with_mask.ghosts < 0.2 * without.ghosts
    assert with_mask.points < without.points
    assert with_mask.naive_points == pytest.approx(without.naive_points, rel=0.1)


# -- the renderer and photographs -------------------------------------------------------------------------------


def test_the_round_trip_sees_a_shifted_camera(walk):
    score, covered = probes.round_trip(walk.frames[0], walk.depth[0], walk.c2w[0], walk.K)
    assert score > 40
    assert covered > 0.99


def test_photograph_crops_fill_the_view():
    crops = probes.photograph_crops("chelsea", (48, 80))
    assert crops.shape == (probes.CROPS, 48, 80, 3)
    assert len({crop.tobytes() for crop in crops}) == probes.CROPS


def test_no_photograph_of_the_benchmark_is_trained_on():
    from spatia_env.sim.assets import photo_ids

    assert not set(probes.PHOTOGRAPHS) & set(photo_ids("train"))


# -- truth stays outside ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "info",
    [
        {"truth": 1},
        {"debug": {"true_segmentation": 1}},
        {"a": [{"gt_depth": 1}]},
        {"memory": {"simulator": 1}},
        {"dynamic": np.zeros(3)},
    ],
)
def test_a_key_that_smells_of_truth_is_refused(info):
    with pytest.raises(ActionError, match="ground truth"):
        check_no_truth({}, info)
    with pytest.raises(ActionError, match="ground truth"):
        check_no_truth(info, {})


def test_what_the_environment_says_is_allowed():
    info = {"memory": {"points": 1}, "slam": {}, "debug": {"dynamic": np.zeros(1), "weight": 1}, "length": 2}
    check_no_truth({"frames": 1, "depth": 1}, info)


# -- figures ----------------------------------------------------------------------------------------------------


def units_of(suite, row, metric, values):
    return [Unit(suite, 10000 + i, row, "f", {metric: value}) for i, value in enumerate(values)]


def figure(units, name):
    return compute_figures(Results(units), "command")[name]


def test_a_figure_has_a_value_an_interval_a_reach_and_a_verdict():
    entry = figure(units_of("walk", "default", "psnr_observed", [24.0, 26.0, 28.0]), "observed_psnr")
    assert entry["value"] == 26
    assert entry["n"] == 3
    assert entry["ci"][0] <= 26 <= entry["ci"][1]
    assert entry["holds"] is True
    assert entry["reach"] == ">= 25"
    assert entry["command"] == "command"
    low = figure(units_of("walk", "default", "depth_absrel", [0.09]), "depth_absrel")
    assert (low["reach"], low["holds"]) == ("<= 0.08", False)


def test_every_number_of_the_table_has_a_figure_with_a_reach():
    needed = {
        "renderer_identity_psnr": 40, "autoencoder_scenes_psnr": 31, "autoencoder_photos_psnr": 25, "observed_psnr": 25,
        "observed_gain_over_frozen": 6, "all_gain_over_memory_render": 0, "all_gain_over_frozen": 0,
        "loop_psnr_gain_over_no_memory": 4, "depth_absrel": 0.08, "leakage": 0.03, "detector_recall": 0.95,
        "event_success": 0.6, "event_false": 0.1, "zero_move_psnr": 30, "seconds_per_step": 1.5,
        "share_outside_networks": 0.35, "preview_ms": 30,
    }  # fmt: skip
    reaches = {figure.id: figure.reach for figure in FIGURES}
    assert needed.items() <= reaches.items()
    assert "zero_move_growth" in reaches
    assert len(reaches) == len(FIGURES)


def test_gains_are_paired_by_scene():
    units = units_of("walk", "default", "psnr_all", [20.0, 30.0]) + units_of(
        "walk", "frozen-frame", "psnr_all", [19, 29]
    )
    entry = figure(units, "all_gain_over_frozen")
    assert entry["value"] == entry["ci"][0] == entry["ci"][1] == 1


def test_a_failure_counts_as_the_worst_score_and_a_failed_baseline_gives_no_credit():
    units = units_of("walk", "default", "psnr_all", [20.0, 20.0]) + units_of(
        "walk", "frozen-frame", "psnr_all", [10, 10]
    )
    failed = [
        dataclasses.replace(unit, values={}, error="boom") if unit.scene == 10001 else unit for unit in units
    ]
    assert Results(failed[:2]).scalars("walk", "default", "psnr_all") == {10000: 20, 10001: 0}
    both = Results(failed[:2] + units[2:]).gain("walk", "default", "frozen-frame", "psnr_all")
    assert both.value == pytest.approx((10 - 10) / 2)
    kind = Results(units[:2] + failed[2:]).gain("walk", "default", "frozen-frame", "psnr_all")
    assert kind.value == pytest.approx((10 + 0) / 2)
    assert worst_of("depth_absrel") == worst_of("leakage") == 1
    assert worst_of("psnr_observed") == 0
    assert worst_of("seconds") > 10


def test_numbers_that_are_not_finite_count_as_the_worst():
    values = core.plain(
        {"psnr_all": np.float32("nan"), "n": np.int64(3), "list": (np.float64(1), float("inf"))}
    )
    assert values == {"psnr_all": None, "n": 3, "list": [1.0, None]}
    assert Results([Unit("walk", 1, "default", "f", values)]).scalars("walk", "default", "psnr_all") == {1: 0}


def clip_row(event, success, kind="mover"):
    return {"event": event, "kind": kind, "text": "", "success": success}


def test_event_figures_count_successes_misses_and_false_events():
    clips = [
        clip_row("a", True),
        clip_row("b", False),
        {"event": "", "kind": "quiet", "text": "", "found": ["a"]},
    ]
    units = [
        Unit("events", 1, "default", "f", {"clips": clips}),
        Unit("walk", 1, "default", "f", {"found": [[], [], []]}),
    ]
    results = Results(units)
    assert results.events("default").value == 0.5
    assert results.events("default", name="a").value == 1
    assert results.false_events("default").value == 0.25
    units.append(Unit("events", 2, "default", "f", error="boom"))
    assert Results(units).events("default").value == pytest.approx(1 / 3)
    assert Results(units).false_events("default").value == pytest.approx(2 / 5)


def test_tables_show_the_share_of_the_gap_that_is_closed():
    units = [
        *units_of("walk", "oracle", "psnr_all", [60.0]),
        *units_of("walk", "default", "psnr_all", [25.0]),
        *units_of("walk", "frozen-frame", "psnr_all", [15.0]),
    ]
    table = suite_tables(Results(units))["walk"]["rows"]
    assert table["default"]["psnr_all"]["normalised"] == pytest.approx(10 / 45, abs=1e-4)
    assert sanity(Results(units)) == []
    units[0].values["psnr_all"] = 20.0
    assert "above the oracle" in sanity(Results(units))[0]


def test_results_without_their_parts_are_refused():
    good = {
        "schema": "spatia-bench/1",
        "run": {},
        "rows": {},
        "suites": {},
        "failures": [],
        "problems": [],
        "figures": {},
    }
    check_results(good)
    with pytest.raises(ValueError, match="missing"):
        check_results({k: v for k, v in good.items() if k != "failures"})
    entry = figure(units_of("walk", "default", "psnr_observed", [24.0, 26.0]), "observed_psnr")
    check_results(good | {"figures": {"observed_psnr": entry}})
    for change in ({"ci": [1, 2]}, {"n": 0}, {"holds": None}):
        with pytest.raises(ValueError, match="observed_psnr"):
            check_results(good | {"figures": {"observed_psnr": entry | change}})


def test_numbers_print_with_their_units():
    entry = {"unit": "", "value": 0.0212, "ci": [0.01, 0.031]}
    assert format_figure(entry) == "2.1 % [1.0, 3.1]"
    assert format_figure({"unit": "dB", "value": 25.311, "ci": [24.8, 25.9]}) == "25.31 dB [24.80, 25.90]"


# -- runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return BenchConfig(
        "smoke", out=tmp_path_factory.mktemp("bench"), first_seed=SCENE, only=("renderer", "walk", "loop"),
        rows=FREE_ROWS, size=SIZE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def content(config):
    return run_bench(config)


def test_a_run_without_a_model_measures_ceilings_and_floors(config, content):
    rows = content["suites"]["walk"]["rows"]
    assert rows["oracle"]["psnr_all"]["mean"] == metrics.PSNR_CAP
    assert (
        rows["memory-render-only"]["psnr_observed"]["mean"]
        > rows["frozen-frame"]["psnr_observed"]["mean"] + 5
    )
    assert content["figures"]["renderer_identity_psnr"]["holds"]
    assert content["problems"] == content["failures"] == []
    on_disk = json.loads((config.out / "results.json").read_text())
    check_results(on_disk)
    assert on_disk == json.loads(json.dumps(content))
    assert on_disk["run"]["seeds"] == [SCENE]


def test_a_run_leaves_tables_and_pictures(config, content):
    table = (config.out / "table.md").read_text()
    assert table == table_text(content)
    assert "renderer_identity_psnr" in table
    with open(config.out / "per_scene.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["row"] for line in lines} == set(FREE_ROWS)
    assert (config.out / "sheets" / f"walk-{SCENE}.png").stat().st_size > 5000
    assert any("renderer_identity_psnr" in line for line in summary_lines(content))


def test_a_run_resumes_and_measures_again_only_what_changed(config, content, monkeypatch):
    measured = []

    def fake(config, context, job, fingerprint):
        measured.append(job.name)
        return Unit(job.suite.name, job.scene, job.row, fingerprint, {"psnr_all": 1.0}), {}

    monkeypatch.setattr(core, "measure_unit", fake)
    again = run_bench(config)
    assert measured == []
    assert again["figures"] == content["figures"]
    jobs = plan(config)
    unit = config.out / "units" / f"{jobs[1].name}.json"
    kept = unit.read_text()
    broken = json.loads(kept) | {"error": "boom"}
    unit.write_text(json.dumps(broken))
    (config.out / "units" / f"{jobs[2].name}.json").write_text("{")
    with Players(SIZE) as players:
        core.measure(config, jobs[:3], players, "")
        assert measured == [jobs[1].name, jobs[2].name]
        measured.clear()
        core.measure(dataclasses.replace(config, size=(64, 64)), jobs[:1], players, "")
    assert measured == [jobs[0].name]


def test_a_unit_that_raises_is_listed_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "round_trip", lambda *a: 1 / 0)
    config = BenchConfig(
        "smoke", tmp_path, SCENE, only=("renderer",), rows=("memory-render-only",), size=SIZE, plots=False
    )
    content = run_bench(config)
    assert content["figures"]["renderer_identity_psnr"]["value"] == 0
    assert "ZeroDivisionError" in content["failures"][0]["error"]
    assert "ZeroDivisionError" in (tmp_path / "table.md").read_text()


def test_fingerprints_tell_checkpoints_apart_only_where_one_plays(config):
    by_row = {job.row: job for job in plan(BenchConfig("smoke"))}
    for row, same in (("default", False), ("oracle", True)):
        prints = {core.fingerprint_of(config, by_row[row], name, "code") for name in ("a", "b")}
        assert (len(prints) == 1) == same
    assert core.fingerprint_of(config, by_row["oracle"], "a", "code") != core.fingerprint_of(
        config, by_row["oracle"], "a", "other"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_seed": 20_000}, "test seeds"),
        ({"first_seed": 5}, "not dev seeds"),
        ({"scenes": 0}, "not dev seeds"),
        ({"only": ("wlak",)}, "wlak"),
        ({"rows": ("best",)}, "best"),
        ({"events": ("rain_of_frogs",)}, "rain_of_frogs"),
    ],
)
def test_impossible_runs_are_refused_before_anything_is_measured(change, message):
    with pytest.raises(ActionError, match=message):
        plan(dataclasses.replace(BenchConfig("smoke"), **change))


def test_core_plans_every_row_and_at_least_twelve_scenes():
    jobs = plan(BenchConfig("core"))
    assert len({job.scene for job in jobs if job.suite.name == "walk"}) >= 12
    assert {"default", "no-memory", "no-references", "memory-render-only", "frozen-frame", "oracle"} <= {
        j.row for j in jobs
    }
    assert len({job.name for job in jobs}) == len(jobs)


def test_the_command_that_made_a_run_is_written_down(tmp_path):
    config = BenchConfig("core", tmp_path, first_seed=10_100, scenes=3, only=("walk", "loop"), model="m")
    assert (
        config.command
        == f"spatia bench core --out {tmp_path} --first-seed 10100 --scenes 3 --only walk loop --model m"
    )


def test_the_command_line_runs(tmp_path, capsys):
    args = ["smoke", "--out", str(tmp_path), "--first-seed", str(SCENE), "--only", "renderer"]
    assert main([*args, "--size", "48", "64", "--no-plots"]) == 0
    assert "renderer_identity_psnr" in capsys.readouterr().out


def test_plots_are_optional(tmp_path, content, monkeypatch):
    from spatia_env.bench import plots

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install matplotlib" in plots.write_plots(tmp_path, content, Results([]))


def test_a_grid_comes_back_by_its_labels(tmp_path):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 255, (3, 1, 1, 3)) + np.zeros((3, 16, 24, 3))
    pictures = {"a": smooth.astype(np.uint8), "b": smooth[:2].astype(np.uint8)}
    write_grid(tmp_path / "grid.jpg", pictures)
    back = read_grid(tmp_path / "grid.jpg", {"a": 3, "b": 2})
    for label, frames in pictures.items():
        assert back[label].shape == frames.shape
        assert np.abs(back[label].astype(int) - frames).mean() < 6
    assert read_grid(tmp_path / "none.jpg", {"a": 1}) == {}


def test_a_clip_is_plain_data():
    clip = Clip(np.zeros((8, 4, 6, 3), np.uint8), np.zeros((8, 4, 6), np.float32), np.zeros((8, 4, 6), bool))
    assert clip.info == {}
