"""Runs of the benchmark: what they leave behind, how they resume, and what they refuse."""

import csv
import dataclasses
import json
import sys

import numpy as np
import pytest

from spatia_env.bench import core, metrics, probes
from spatia_env.bench.cli import main
from spatia_env.bench.config import BenchConfig
from spatia_env.bench.core import Unit, plan, run_bench
from spatia_env.bench.guard import check_no_truth
from spatia_env.bench.players import Players
from spatia_env.bench.report import check_results, summary_lines, table_text
from spatia_env.bench.results import Results
from spatia_env.bench.sheets import read_grid, write_grid
from spatia_env.errors import ActionError

SCENE = 10001
SIZE = (48, 64)
FREE_ROWS = ("oracle", "memory-render-only", "frozen-frame")

# -- truth stays outside ------------------------------------------------------------------------------------------


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


# -- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return BenchConfig(
        "smoke", out=tmp_path_factory.mktemp("bench"), first_seed=SCENE, only=("renderer", "walk", "loop"),
        rows=FREE_ROWS, size=SIZE, truths=None,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def fixed_code():
    """A source file that is edited while the tests run must not make them measure again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "code_hash", lambda: "code")
        yield


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
        return Unit(job.suite.name, job.scene, job.row, fingerprint, {"psnr_all": 1.0}), {}, None

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
        ({"clips": 3}, "an even number"),
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
