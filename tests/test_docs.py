"""The Python blocks of README.md and docs/ run, page by page, in order; so do the examples."""

import json
import re
import runpy
from pathlib import Path

import gymnasium as gym
import pytest

import api
from untrained import write_untrained

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)")


def pages() -> list[Path]:
    return sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if path.exists())


def with_code() -> list[Path]:
    return [path for path in pages() if BLOCK.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", with_code(), ids=lambda page: page.name)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace: dict = {"__name__": "snippet"}
    elsewhere = [path.read_text(encoding="utf-8") for path in examples()]
    for match in BLOCK.finditer(text):
        if any(match.group(1).strip() in code for code in elsewhere):
            continue  # it is run as that example
        # Blank lines in front make a traceback name the line of the page.
        code = "\n" * (text[: match.start()].count("\n") + 1) + match.group(1)
        exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def examples() -> list[Path]:
    return sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", examples(), ids=lambda path: path.name)
def test_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert list(tmp_path.iterdir()), f"{path.name} leaves nothing to look at"


def test_the_first_example_is_short_and_in_the_readme():
    code = (ROOT / "examples" / "00_hello.py").read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert len(code.splitlines()) <= 14
    if (ROOT / "README.md").exists():
        assert code in (ROOT / "README.md").read_text(encoding="utf-8")


INFO_ROW = re.compile(r"^\| `([\w.]+)` \|[^|]+\|[^|]+\| ([RS ]+) \| ([^|]+) \|$", re.MULTILINE)


def documented_info(which: str) -> dict[str, str]:
    """Keys of docs/info.md in the `info` of "R"eset or "S"tep, and when they are present."""
    rows = INFO_ROW.findall((ROOT / "docs" / "info.md").read_text(encoding="utf-8"))
    return {key: present for key, where, present in rows if which in where.split()}


def flat(info: dict, table: dict) -> set[str]:
    """The keys of `info`, joined by dots where the table has keys below them."""
    keys = set()
    for key, value in info.items():
        below = [name for name in table if name.startswith(f"{key}.")]
        keys |= {f"{key}.{name}" for name in value} if below and value else {key}
    return keys


ALWAYS = ("always", "with a referee", "where the shortest way", "`block_collisions", "`timings", "`debug")


def test_the_table_of_info_keys_is_what_a_step_returns(tmp_path):
    env = gym.make(
        "spatia_env:Spatia-v0", model=str(write_untrained(tmp_path)), size=(64, 96), task="image_goal",
        block_collisions=True, timings=True, debug=True,
    )  # fmt: skip
    _, at_reset = env.reset(seed=3, options={"scene": "demo"})
    move = {"camera": [0, 0, 0.2, 0, 0.4, 0], "event": "a red ball rolls in"}
    _, _, _, _, at_step = env.step(move)
    back = [{"camera": [0, 0, 0, 0, yaw, 0], "event": ""} for yaw in (0.5, -0.5)]
    env.reset(options={"scene": "demo"})
    revisits = [env.step(action)[-1]["revisit"] for action in back]
    env.close()

    table = documented_info("R")
    assert flat(at_reset, table) == {key for key in table if key != "revisit.step"}
    table = documented_info("S")
    expected = {key for key, present in table.items() if present.startswith(ALWAYS)}
    assert flat(at_step, table) == expected
    assert {f"revisit.{key}" for key in revisits[-1]} == {key for key in table if key.startswith("revisit.")}
    assert set(at_step["events"][0]) == {"step", "text", "name", "kind"}
    assert set(at_step["reward_terms"]) and isinstance(at_step["seconds"]["total"], float)


def test_the_api_page_is_up_to_date():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == api.page(), "docs/api.md is not up to date; run `make api`"


def test_the_api_page_reads_google_docstrings():
    text = api._text("Do it.\n\nArgs:\n    a: First\n        thing.\n    b, c: Others.\n\nMore.\n")
    assert "- `a`: First\n  thing.\n- `b, c`: Others." in text and text.endswith("More.")


def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "notebook"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    assert {"room.spatia", "room.glb"} <= {path.name for path in tmp_path.iterdir()}
