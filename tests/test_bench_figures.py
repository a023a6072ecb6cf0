"""From units to figures: intervals, paired gains, failures, and the form of results.json."""

import dataclasses

import numpy as np
import pytest

from spatia_env.bench import core
from spatia_env.bench.core import Unit
from spatia_env.bench.figures import FIGURES, compute_figures
from spatia_env.bench.report import check_results
from spatia_env.bench.results import Results, notes, sanity, suite_tables, worst_of
from spatia_env.bench.tables import format_figure


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
        "notes": [],
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


def test_times_from_a_busy_machine_are_marked():
    assert notes(Results(units_of("time", "default", "load", [1.9, 2.4])), cores=2) == []
    assert "busy" in notes(Results(units_of("time", "default", "load", [1.9, 6.4])), cores=2)[0]
    assert notes(Results([]), cores=2) == []
