"""The playground's bench: its figures, and the table that the documentation shows of them."""

from pathlib import Path

import pytest

from spatia_env.bench import viewer_bench
from spatia_env.bench.viewer_bench import REACHES, ViewerBenchConfig
from spatia_env.errors import ViewerError

PAGE = Path(__file__).parent.parent / "docs" / "playground.md"


def test_a_figure_is_a_median_with_its_range():
    figure = viewer_bench.figure(ViewerBenchConfig(), [3.0, 1.0, 9.0], "a title", 2.5, "s")
    assert (figure["value"], figure["ci"], figure["n"], figure["holds"]) == (3.0, [1.0, 9.0], 3, False)
    assert figure["reach"] == "<= 2.5 s" and "spatia bench viewer" in figure["command"]


def test_a_table_is_written_into_its_block_again_and_again(tmp_path):
    config = ViewerBenchConfig(out=tmp_path / "results")
    figures = {
        name: viewer_bench.figure(config, [reach["limit"]], **reach) for name, reach in REACHES.items()
    }
    run = {"command": config.command, "cores": 2, "date": "2026-01-01", "load_before": 0.5}
    viewer_bench.write_results(config.out, {"run": run, "step_seconds": 0.8, "figures": figures})
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- viewer: old.json -->\n<!-- /viewer -->\nafter\n")
    for _ in range(2):
        viewer_bench.write_table(page, config.out / "results.json")
    text = page.read_text()
    assert text.startswith("before\n<!-- viewer: results/results.json -->") and text.endswith("after\n")
    assert text.count("| yes |") == len(REACHES) and "150 ms" in text
    page.write_text("nothing")
    with pytest.raises(ViewerError, match="no block"):
        viewer_bench.write_table(page, config.out / "results.json")
    page.write_text("<!-- viewer: x.json -->\n<!-- /viewer -->\n")
    assert "Not measured yet" in viewer_bench.with_table(page.read_text(), tmp_path)
    (tmp_path / "x.json").write_text('{"run": 1}')
    with pytest.raises(ViewerError, match=r"x\.json"):
        viewer_bench.with_table(page.read_text(), tmp_path)


def test_the_documentation_shows_the_committed_results():
    text = PAGE.read_text(encoding="utf-8")
    assert viewer_bench.with_table(text, PAGE.parent) == text
