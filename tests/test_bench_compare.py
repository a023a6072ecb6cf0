"""Paired differences between runs, and ratios with intervals."""

import json

import numpy as np
import pytest

from spatia_env.bench import compare
from spatia_env.bench.core import Unit
from spatia_env.bench.figures import figures_of
from spatia_env.bench.figures_full import WIDE_FIGURES, WIDE_REACH
from spatia_env.bench.report import SCHEMA, ResultsError
from spatia_env.bench.results import Results, lower_is_better, suite_tables, worst_of
from spatia_env.bench.statistics import ratio_bootstrap


def run_of(offset, scenes=range(12), seed=0, **run):
    """A run in which scenes differ much, and the default row is better by `offset` dB."""
    rng = np.random.default_rng(seed)
    units = []
    for scene in scenes:
        level = 25 + 5 * np.random.default_rng(scene).normal()
        values = {"psnr_all": level + offset + 0.1 * rng.normal(), "depth_absrel": 0.05 - 0.01 * offset}
        units.append(Unit("walk", scene, "default", "f", values))
        units.append(Unit("walk", scene, "oracle", "f", {"psnr_all": 60.0}))
    return {
        "schema": SCHEMA, "rows": {}, "suites": suite_tables(Results(units)), "figures": {}, "failures": [],
        "problems": [], "notes": [],
        "run": {"size": [128, 128], "protocol": 2, "checkpoint": "a", "date": "d", "code": "c"} | run,
    }  # fmt: skip


def test_a_small_gain_that_scenes_hide_is_found():
    entries = compare.compare(run_of(0.0), run_of(0.3, seed=1), ("default",))
    found = {entry["metric"]: entry for entry in entries}
    assert found["psnr_all"]["difference"] == pytest.approx(0.3, abs=0.1)
    assert found["psnr_all"]["ci"][0] > 0.1
    assert found["psnr_all"]["verdict"] == "better"
    assert found["psnr_all"]["n"] == 12
    assert found["depth_absrel"]["difference"] == pytest.approx(-0.003)
    assert found["depth_absrel"]["verdict"] == "better"
    same = compare.compare(run_of(0.0), run_of(0.0, seed=1), ("default",))
    assert next(entry for entry in same if entry["metric"] == "psnr_all")["verdict"] == ""


def test_only_scenes_of_both_are_compared():
    entries = compare.compare(run_of(0.0, range(8)), run_of(0.0, range(6, 12)))
    assert {entry["n"] for entry in entries} == {2}
    assert {entry["row"] for entry in entries} == {"default", "oracle"}
    with pytest.raises(ResultsError, match="share no"):
        compare.compare(run_of(0, range(3)), run_of(0, range(3, 6)))
    with pytest.raises(ResultsError, match="size differs"):
        compare.compare(run_of(0), run_of(0, size=[64, 64]))
    with pytest.raises(ResultsError, match="protocol differs"):
        compare.compare(run_of(0), run_of(0, protocol=1))


def test_the_command_prints_and_writes(tmp_path, capsys):
    for name, offset in (("a", 0.0), ("b", -1.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(run_of(offset)))
    arguments = [
        str(tmp_path / "a.json"),
        str(tmp_path / "b.json"),
        "--out",
        str(tmp_path / "d" / "diff.json"),
    ]
    assert compare.main(arguments) == 0
    assert "| walk | default | psnr_all |" in (said := capsys.readouterr().out)
    assert "worse" in said and "oracle" not in said
    written = json.loads((tmp_path / "d" / "diff.json").read_text())
    assert {entry["metric"] for entry in written["differences"]} == {"psnr_all", "depth_absrel"}


def test_a_ratio_is_of_means_and_scenes_are_resampled_in_pairs():
    rng = np.random.default_rng(0)
    base = {scene: 10 + 5 * rng.random() for scene in range(12)}
    estimate = ratio_bootstrap({scene: 0.9 * value for scene, value in base.items()}, base)
    assert estimate.value == pytest.approx(0.9)
    assert estimate.high - estimate.low < 1e-9
    with pytest.raises(ValueError, match="scenes differ"):
        ratio_bootstrap({1: 1.0}, {2: 1.0})


# -- the second table ---------------------------------------------------------------------------------------------


def test_every_number_of_the_second_table_has_its_reach_in_wide_runs():
    wide = {figure.id: figure for figure in figures_of(True)}
    assert len(wide) == len(figures_of(True))
    needed = {
        "loop_psnr_c": 26, "loop_psnr_gain_over_no_memory": 6, "loop_psnr_gain_over_no_references": 1,
        "loop_stlpips_saved": 0.4, "loop_loss_2_to_6": 1, "drift_loss_2_to_16": 2.5, "observed_psnr": 28,
        "observed_stlpips_over_memory_render": 0, "loop_match": 0.7, "loop_match_of_oracle": 0.9,
        "camera_control": 85, "camera_control_of_oracle": 0.95, "event_success": 0.85, "event_false": 0.05,
        "event_background_loss": 1, "depth_absrel": 0.04, "depth_absrel_picture_only_scaled": 0.04,
        "seconds_per_step": 0.5,
    }  # fmt: skip
    assert needed == {name: wide[name].reach for name in needed}
    at_most = {
        "loop_loss_2_to_6", "drift_loss_2_to_16", "observed_stlpips_over_memory_render", "event_false",
        "event_background_loss", "depth_absrel", "depth_absrel_picture_only_scaled", "seconds_per_step",
    }  # fmt: skip
    assert {name for name in needed if not wide[name].least} == at_most
    assert set(WIDE_REACH) <= set(wide)
    assert {figure.id for figure in WIDE_FIGURES} & {figure.id for figure in figures_of(False)} == set()


def test_wide_figures_follow_from_units():
    units = []
    for scene, (own, bare) in enumerate([(0.1, 0.4), (0.3, 0.6)]):
        loops = {"stlpips_c": own, "loop-2.psnr_c": 30.0 + scene, "loop-6.psnr_c": 28.5 + scene}
        units.append(Unit("loop", scene, "default", "f", loops))
        units.append(Unit("loop", scene, "no-memory", "f", {"stlpips_c": bare}))
    values = {figure.id: figure.compute(Results(units)) for figure in WIDE_FIGURES}
    assert values["loop_stlpips_saved"].value == pytest.approx(1 - 0.2 / 0.5)
    assert values["loop_stlpips_saved"].low <= 0.6 <= values["loop_stlpips_saved"].high
    assert values["loop_loss_2_to_6"].value == pytest.approx(1.5)
    assert values["camera_control"] is None
    units[0] = Unit("loop", 0, "default", "f", error="boom")
    failed = {figure.id: figure.compute(Results(units)) for figure in WIDE_FIGURES}
    assert failed["loop_stlpips_saved"].value < 0
    assert failed["loop_loss_2_to_6"] is None or failed["loop_loss_2_to_6"].value > 20


def test_the_path_before_a_metric_does_not_change_which_way_is_better():
    assert lower_is_better("loop-6.stlpips_c") and not lower_is_better("loop-6.psnr_c")
    assert worst_of("push_in.degrees") == 15 and worst_of("loop-2.psnr_c") == 0
    assert worst_of("loss_2_16") == 60 and worst_of("stlpips_c") == 1
