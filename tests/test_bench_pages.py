"""Pages say what the committed results say, and results have the form that the schema promises."""

import json
from pathlib import Path

import jsonschema
import pytest

from spatia_env.bench import pages, published
from spatia_env.bench.report import ResultsError
from spatia_env.errors import ActionError

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "spatia_env" / "bench" / "results.schema.json").read_text(encoding="utf-8"))
COMMITTED = sorted(
    path
    for path in (ROOT / "docs" / "results").glob("*/results.json")
    if path.parent.name in ("smoke", "core", "standard", "full")
)
PAGES = [ROOT / page for page in pages.PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_what_its_results_say(page):
    text = page.read_text(encoding="utf-8")
    assert pages.BLOCK.search(text), f"{page.name} has no generated table"
    assert text == pages.rewritten(page), f"{page.name} differs from its results: run `spatia bench readme`"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_results_have_the_form_of_the_schema(path):
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), SCHEMA)


def test_there_are_committed_results():
    assert ROOT / "docs" / "results" / "core" / "results.json" in COMMITTED


@pytest.fixture
def page(tmp_path):
    content = json.loads((ROOT / "docs" / "results" / "core" / "results.json").read_text(encoding="utf-8"))
    (tmp_path / "results.json").write_text(json.dumps(content))
    path = tmp_path / "page.md"
    path.write_text(
        "before\n<!-- bench: results.json figures -->\nSTALE\n<!-- /bench -->\nbetween\n"
        "<!-- bench: results.json loop -->\n<!-- /bench -->\nafter\n"
    )
    return path


def test_blocks_are_written_and_the_rest_is_left(page, capsys):
    assert pages.main(["--pages", str(page), "--check"]) == 1
    assert "STALE" in page.read_text()
    assert pages.main(["--pages", str(page)]) == 0
    text = page.read_text()
    assert "STALE" not in text and "| figure | value | reach | holds |" in text and "| no-memory |" in text
    assert text.startswith("before\n") and text.endswith("after\n") and "\nbetween\n" in text
    assert pages.main(["--pages", str(page), "--check"]) == 0
    changed = json.loads((page.parent / "results.json").read_text())
    changed["figures"]["observed_psnr"]["value"] = changed["figures"]["observed_psnr"]["ci"][1]
    (page.parent / "results.json").write_text(json.dumps(changed))
    assert pages.main(["--pages", str(page), "--check"]) == 1
    assert "differs" in capsys.readouterr().out


def test_blocks_that_ask_for_what_is_not_there_are_refused(page):
    page.write_text("<!-- bench: results.json flights -->\n<!-- /bench -->\n")
    with pytest.raises(ActionError, match="no suite flights"):
        pages.rewritten(page)
    page.write_text("<!-- bench: nothing.json figures -->\n<!-- /bench -->\n")
    with pytest.raises(ResultsError, match=r"nothing\.json"):
        pages.rewritten(page)


def test_adopting_a_run_copies_it_without_single_scenes(page, tmp_path):
    content = json.loads((tmp_path / "results.json").read_text())
    content["suites"]["loop"]["rows"]["default"]["psnr_c"]["scenes"] = {"10000": 1.0}
    (tmp_path / "run.json").write_text(json.dumps(content))
    path = pages.adopt(tmp_path / "run.json", tmp_path / "docs")
    assert path == tmp_path / "docs" / "core" / "results.json"
    adopted = json.loads(path.read_text())
    assert "scenes" not in adopted["suites"]["loop"]["rows"]["default"]["psnr_c"]
    assert adopted["figures"] == content["figures"]
    jsonschema.validate(adopted, SCHEMA)
    with pytest.raises(ResultsError, match="no results file"):
        pages.adopt(page, tmp_path)


def test_published_numbers_are_named_as_such():
    lines = published.published_lines()
    titles = [line for line in lines if line.startswith("*")]
    assert len(titles) == len(published.PUBLISHED)
    for line, table in zip(titles, published.PUBLISHED, strict=True):
        assert "not reproduced" in line and table.source in line
        assert table.grade in ("A", "B", "C")
        assert all(len(row) == len(table.columns) + 1 for row in table.rows)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("figures"),
        lambda c: c["figures"]["observed_psnr"].pop("ci"),
        lambda c: c["figures"]["observed_psnr"].update(reach="25"),
        lambda c: c["run"].update(suite="best"),
        lambda c: c["suites"]["walk"]["rows"]["default"]["psnr_all"].update(n=0),
    ],
)
def test_the_schema_refuses_damage(damage):
    content = json.loads(COMMITTED[0].read_text(encoding="utf-8"))
    damage(content)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMA)
