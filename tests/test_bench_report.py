"""What a run leaves behind, tables in pages, and comparisons of runs, on units made by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spatia_env.bench import compare, pages, report, runner
from spatia_env.bench.cli import main
from spatia_env.bench.report import ResultsError, read_results
from spatia_env.bench.runner import BenchConfig, plan
from spatia_env.bench.statistics import pooled, two_way_bootstrap
from spatia_env.errors import ActionError

ROOT = Path(__file__).parent.parent
RUN = {
    "command": "spatia bench core --out x",
    "suite": "core",
    "split": "dev",
    "checkpoint": "spatia-tiny-0",
    "seeds": [10020, 10021],
    "size": [128, 128],
    "test_looks": 0,
    "code": "c0ffee",
    "commit": "abc",
    "protocol": 3,
    "date": "2026-01-01",
    "hardware": {"cores": 2, "load": 0.1},
}


def unit(group, scene, system, error="", **values):
    return {
        "group": group,
        "scene": scene,
        "system": system,
        "values": values,
        "error": error,
        "pictures": {},
        "cpu_seconds": 1.0,
    }


def some_units(shift=0.0, scenes=(10020, 10021, 10022)):
    out = []
    for i, scene in enumerate(scenes):
        for system, base in (("oracle", 60.0), ("default", 20.0 + shift), ("memory+inpaint", 25.0)):
            out.append(unit("returns", scene, system, loop_return=base + i, square_return=base))
        words = {"duck_falls": 100.0 * (i > 0), "car_drives": 0.0}
        out.append(unit("events", scene, "default", event_movers=words, event_false=0.0))
        out.append(unit("events", scene, "oracle", near_misses={"duck_falls, wrong shape": 0.0}))
    return out


def written(folder, units=None, **run):
    folder.mkdir(parents=True, exist_ok=True)
    return report.write_report(folder, units or some_units(), RUN | run, [], folder / "none.npz", plots=False)


# -- statistics


def test_intervals_hold_the_mean_and_narrow_with_scenes():
    rng = np.random.default_rng(0)
    few, many = (two_way_bootstrap(rng.normal(3, 1, (n, 1))) for n in (5, 80))
    for estimate in (few, many):
        assert estimate.low <= estimate.value <= estimate.high
    assert many.high - many.low < few.high - few.low
    assert two_way_bootstrap(np.array([[4.0]])).low == 4.0


def test_sentences_widen_the_interval_as_scenes_do():
    same = np.repeat(np.random.default_rng(1).choice([0.0, 100.0], (1, 6)), 40, 0)
    estimate = two_way_bootstrap(same)
    assert estimate.high - estimate.low > 20  # every scene is alike, but there are six sentences only
    gaps = same.copy()
    gaps[1:, 0] = np.nan
    assert two_way_bootstrap(gaps).value == pytest.approx(np.nanmean(gaps))


def test_pooled_figures_resample_scenes():
    values = np.array([1.0, 2.0, 6.0])
    estimate = pooled(lambda w: float(np.average(values, weights=w)), 3)
    assert estimate.value == 3 and estimate.low < 3 < estimate.high and estimate.n == 3
    assert pooled(lambda w: 1.0, 1).low == 1.0


# -- results


def test_a_run_is_one_tidy_table_and_its_summary(tmp_path):
    content = written(tmp_path)
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert list(table.columns) == report.COLUMNS
    assert len(table) == 3 * (2 * 3 + 3 + 1)
    rows = {(r["figure"], r["system"]): r for r in content["rows"]}
    assert rows["loop_return", "default"]["value"] == 21 and rows["loop_return", "default"]["n"] == 3
    assert rows["event_movers", "default"]["value"] == pytest.approx(100 * 2 / 6, abs=1e-3)
    assert read_results(tmp_path) == json.loads((tmp_path / "results.json").read_text())
    figures = {f["name"]: f for f in content["figures"]}
    assert figures["loop_return"]["met"] is False and figures["near_misses"]["met"] is True
    assert figures["near_misses"]["row"] == "oracle"


def test_what_hurts_stands_first_beside_the_rows_without_a_model(tmp_path):
    lines = report.target_lines(written(tmp_path))
    order = [line.split("`")[1] for line in lines[2:]]
    assert order.index("event_movers") < order.index("loop_return") < order.index("event_false")
    assert "| **no** | 61.0 | 26.0 |" in next(line for line in lines if "`loop_return`" in line)


def test_failures_are_listed_and_end_with_an_error_code(tmp_path):
    content = written(tmp_path, [*some_units(), unit("walls", 10020, "default", error="ValueError: no")])
    assert content["failures"] == [{"unit": "walls-10020-default", "error": "ValueError: no"}]
    assert "## Failures" in (tmp_path / "table.md").read_text()


def test_results_of_another_form_are_refused(tmp_path):
    written(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    for change in (
        {"schema": "spatia-bench/1"},
        {"run": {"date": ""}},
        {"rows": [{**content["rows"][0], "low": 1e9}]},
    ):
        (tmp_path / "bad.json").write_text(json.dumps(content | change))
        with pytest.raises(ResultsError):
            read_results(tmp_path / "bad.json")
    with pytest.raises(ResultsError, match="spatia bench core"):
        read_results(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.012"), (1.236, "1.24"), (36.26, "36.3"), (1234.4, "1234")]
)
def test_numbers_are_short(value, text):
    assert report.digits(value) == text


# -- pages


def test_pages_are_written_from_their_files_and_checked(tmp_path):
    written(tmp_path / "results")
    page = tmp_path / "page.md"
    head = "<!-- bench: results/results.json"
    page.write_text(
        f"# A\n{head} targets -->\nold\n<!-- /bench -->\n{head} returns -->\n<!-- /bench -->\nend\n"
    )
    assert pages.main(["--pages", str(page), "--check"]) == 1
    assert pages.main(["--pages", str(page)]) == 0 == pages.main(["--pages", str(page), "--check"])
    text = page.read_text()
    assert "old" not in text and "| memory+inpaint | 26.0" in text and text.endswith("end\n")
    page.write_text(f"{head} nosuch -->\n<!-- /bench -->\n")
    with pytest.raises(ActionError, match=r"nosuch.*returns"):
        pages.rewritten(page)


def test_a_run_is_taken_over_into_the_docs(tmp_path, monkeypatch):
    written(tmp_path / "run")
    target = pages.adopt(tmp_path / "run", tmp_path / "docs")
    assert sorted(path.name for path in target.iterdir()) == ["results.json", "table.csv"]
    assert target.name == "core"


def test_committed_pages_agree_with_committed_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert pages.main(["--check"]) == 0


def test_committed_results_are_of_the_packaged_checkpoint():
    from spatia_env.models.loading import load_checkpoint

    packaged = load_checkpoint("spatia-tiny").id
    found = sorted((ROOT / "docs" / "results").glob("*/results.json"))
    assert found
    for path in found:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("schema") == report.SCHEMA:
            assert content["run"]["checkpoint"] == packaged, f"{path}: measure again, `spatia bench core`"


# -- comparing


def test_differences_are_paired_and_called_by_their_direction(tmp_path):
    written(tmp_path / "a")
    written(tmp_path / "b", some_units(shift=3.0))
    table = compare.compare(tmp_path / "a", tmp_path / "b").set_index("figure")
    row = table.loc["loop_return"]
    assert (row["difference"], row["low"], row["high"], row["verdict"]) == (3, 3, 3, "better")
    assert table.loc["event_movers", "verdict"] == ""
    assert compare.verdict_of("low", 1, 2) == "worse" and compare.verdict_of("", 1, 2) == ""
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "d.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "d.csv")) == len(table)


def test_runs_that_cannot_be_compared_say_why(tmp_path):
    written(tmp_path / "a")
    written(tmp_path / "other", protocol=2)
    written(tmp_path / "elsewhere", some_units(scenes=(10500,)))
    with pytest.raises(ResultsError, match="protocol differs"):
        compare.compare(tmp_path / "a", tmp_path / "other")
    with pytest.raises(ResultsError, match="share no"):
        compare.compare(tmp_path / "a", tmp_path / "elsewhere")
    (tmp_path / "other" / "table.csv").unlink()
    with pytest.raises(ResultsError, match="spatia bench core"):
        compare.read_table(tmp_path / "other")


# -- planning and running


def test_a_plan_goes_scene_by_scene_and_notes_what_is_missing():
    chunks, notes = plan(
        BenchConfig(groups=("returns", "walls"), systems=("default", "oracle", "no-imagination"))
    )
    assert [job.scene for chunk in chunks for job in chunk] == sorted(
        job.scene for chunk in chunks for job in chunk
    )
    first = [(job.group, job.system) for job in chunks[0]]
    assert (
        ("returns", "oracle") in first and ("walls", "default") in first and ("walls", "oracle") not in first
    )
    assert all("no-imagination" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": ("nosuch",)}, "closure"),
        ({"systems": ("nosuch",)}, "frozen-frame"),
        ({"first_seed": 20_000}, "test seeds are for `full`"),
        ({"suite": "full", "first_seed": 10_000}, "not test seeds"),
        ({"scenes": 5000}, "not dev seeds"),
        ({"piece": (4, 4)}, "0 4"),
    ],
)
def test_bad_plans_are_refused(options, message):
    with pytest.raises(ActionError, match=message):
        plan(BenchConfig(**options))


def test_protocols_of_others_name_their_scripts():
    with pytest.raises(ActionError, match=r"examples/worldscore"):
        main(["worldscore", "prepare"])
    assert all(
        (ROOT / path).is_file() for path in ("examples/worldscore/worldscore.py", "examples/re10k/re10k.py")
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A short run with an untrained checkpoint, and its folder."""
    from untrained import write_untrained

    folder = tmp_path_factory.mktemp("smoke")
    (folder / "model").mkdir()
    config = BenchConfig(
        "smoke",
        folder / "out",
        groups=("known", "events", "things"),
        model=str(write_untrained(folder / "model")),
    )
    return config, runner.run_bench(config)


def test_smoke_runs_and_says_what_it_ran(smoke):
    config, content = smoke
    assert content["failures"] == []
    assert {r["system"] for r in content["rows"]} == {"oracle", "default", "memory+inpaint", "overlay"}
    assert content["run"]["checkpoint"].startswith("untrained") and content["run"]["seeds"] == [10020]
    rows = {(r["figure"], r["system"]): r["value"] for r in content["rows"]}
    assert rows["event_movers", "oracle"] == 100 and rows["event_movers", "overlay"] == 0
    assert rows["near_misses", "oracle"] == 0 and rows["observed", "oracle"] == 60
    assert (config.out / "sheets" / "things-10020.png").is_file()


def test_a_second_run_plays_nothing(smoke, monkeypatch):
    config, content = smoke
    monkeypatch.setattr(runner, "play_unit", lambda *a: pytest.fail("played again"))
    assert runner.run_bench(config)["rows"] == content["rows"]


def test_failed_and_foreign_units_are_played_again(smoke, monkeypatch):
    config, _ = smoke
    played = []
    monkeypatch.setattr(runner, "play_unit", lambda stage, out, job, stamp: played.append(job.name))
    path = config.out / "units" / "known-10020-default.json"
    good = path.read_text()
    for change in ({"error": "ValueError: once"}, {"stamp": "another version"}):
        path.write_text(json.dumps(json.loads(good) | change))
        runner.run_bench(config)
    path.write_text("{")
    runner.run_bench(config)
    path.write_text(good)
    assert played == ["known-10020-default"] * 3


def test_an_error_becomes_part_of_the_unit(tmp_path, monkeypatch):
    from spatia_env.bench.registry import GROUPS, Stage

    monkeypatch.setitem(GROUPS, "walls", runner.GROUPS["known"])
    with Stage() as stage:
        unit = runner.play_unit(stage, tmp_path, runner.Job("known", -1, "oracle"), "s")
    assert "SeedError" in unit["error"]
    assert json.loads((tmp_path / "units" / "known--1-oracle.json").read_text())["error"] == unit["error"]


def test_looks_at_test_scenes_are_counted_once_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "results").mkdir(parents=True)
    full, core = BenchConfig("full"), BenchConfig("core")
    assert [runner.count_look(core, "a"), runner.count_look(full, "a"), runner.count_look(full, "a")] == [
        0,
        1,
        1,
    ]
    assert [runner.count_look(full, "b"), runner.count_look(core, "c")] == [2, 2]
