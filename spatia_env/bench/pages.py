"""`spatia bench readme`: the generated tables in README.md and docs/benchmark.md, from committed results files.

A page holds blocks such as

    <!-- bench: docs/results/core/results.json targets -->
    ...
    <!-- /bench -->

whose inside is written from the file (a path relative to the page): `targets` is the table of figures with a target,
`worst` its first rows, which miss theirs by most, `GROUP` (such as `unseen`) that group's rows. A test fails when a
page and its files differ, or when the files are not of the packaged checkpoint.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from spatia_env.bench.report import group_lines, origin_line, read_results, target_lines
from spatia_env.errors import ActionError

BLOCK = re.compile(r"<!-- bench: (?P<file>\S+) (?P<what>\S+) -->\n(?P<inside>.*?)<!-- /bench -->", re.DOTALL)
PAGES = (Path("README.md"), Path("docs/benchmark.md"))
WORST = 10
"""Figures of a `worst` block."""
SHEETS = 12
"""Contact sheets that are kept with the results, at most."""


@dataclass(frozen=True)
class PagesConfig:
    """Write the generated tables into pages, from committed results files."""

    results: Path | None = None
    """folder of a run to take over first: its results.json and table.csv are copied to docs/results/SUITE"""
    pages: tuple[Path, ...] = PAGES
    """pages with blocks"""
    check: bool = False
    """write nothing; exit code 1 if a page differs from its files"""


def main(argv: list[str]) -> int:
    """Run `spatia bench readme`."""
    config = tyro.cli(PagesConfig, args=argv, prog="spatia bench readme", description=__doc__)
    if config.results is not None and not config.check:
        print(adopt(config.results))
    differing = [page for page in config.pages if rewritten(page) != page.read_text(encoding="utf-8")]
    for page in differing:
        if not config.check:
            page.write_text(rewritten(page), encoding="utf-8")
        print(f"{page}: {'differs from its results' if config.check else 'written'}")
    return 1 if config.check and differing else 0


def adopt(results: Path, folder: Path = Path("docs/results")) -> Path:
    """Copy a run's results.json and table.csv to where pages read them.

    Raises:
        ResultsError: It is no run.
    """
    content = read_results(results)
    target = folder / content["run"]["suite"]
    target.mkdir(parents=True, exist_ok=True)
    source = results if results.is_dir() else results.parent
    for name in ("results.json", "table.csv"):
        shutil.copyfile(source / name, target / name)
    return target


def rewritten(page: Path) -> str:
    """A page's text as it should be.

    Raises:
        ActionError: A block asks for what its file does not have.
        ResultsError: A file is missing or has another form.
    """

    def block(match: re.Match[str]) -> str:
        head = f"<!-- bench: {match['file']} {match['what']} -->"
        lines = inside(read_results(page.parent / match["file"]), match["what"])
        return "\n".join([head, "", *lines, "", "<!-- /bench -->"])

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def inside(content: dict[str, Any], what: str) -> list[str]:
    """The lines of a block."""
    if what == "targets":
        return [origin_line(content), "", *target_lines(content)]
    if what == "worst":
        return [origin_line(content), "", *target_lines(content)[: 2 + WORST]]
    groups = list(dict.fromkeys(figure["group"] for figure in content["figures"]))
    if what not in groups:
        raise ActionError(f"pages: results have no group {what}; there are {', '.join(groups)}.")
    return group_lines(content, what)
