"""The Python blocks of README.md and docs/ run, page by page, in order; so do the examples."""

import re
import runpy
from pathlib import Path

import pytest

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
