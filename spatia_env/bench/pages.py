"""`spatia bench readme`: the generated tables in README.md and docs/benchmark.md, from committed results files.

A page holds blocks such as

    <!-- bench: docs/results/core/results.json figures -->
    ...
    <!-- /bench -->

whose inside is written from the file (a path relative to the page). `figures` is the table of figures with a reach,
`all` adds those that are only reported, `SUITE` (such as `loop`) is that suite's rows, `memory` all tables of
`spatia bench memory`, `lone` the figures of the benches that do not look at scenes of a split (vector, ray, policy),
`policies` the rows of `spatia bench policy`, `published` the published numbers of other systems. A test fails when a
page and its files differ.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from spatia_env.bench.core import write_json
from spatia_env.bench.published import published_lines
from spatia_env.bench.report import ResultsError, read_results
from spatia_env.bench.tables import figure_lines, suite_lines
from spatia_env.errors import ActionError

BLOCK = re.compile(r"<!-- bench: (?P<file>\S+) (?P<what>\S+) -->\n(?P<inside>.*?)<!-- /bench -->", re.DOTALL)
PAGES = tuple(
    Path(page)
    for page in ("README.md", "docs/benchmark.md", "docs/memory.md", "docs/scale.md", "agents/README.md")
)


@dataclass(frozen=True)
class PagesConfig:
    """Write the generated tables into pages, from committed results files."""

    results: Path | None = None
    """a results.json to take over first: it is copied to docs/results/SUITE/results.json"""
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
    """Copy a results file to where pages read it, without the values of single scenes.

    Raises:
        ResultsError: It is no results file.
    """
    content = read_results(results)
    for table in content["suites"].values():
        for cells in table["rows"].values():
            for cell in cells.values():
                cell.pop("scenes", None)
    path = folder / content["run"]["suite"] / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return path


def rewritten(page: Path) -> str:
    """A page's text as it should be.

    Raises:
        ActionError: A block asks for what its file does not have.
        ResultsError: A file is missing or has another form.
    """

    def block(match: re.Match[str]) -> str:
        head = f"<!-- bench: {match['file']} {match['what']} -->"
        lines = inside(page.parent / match["file"], match["what"])
        return "\n".join([head, "", *lines, "", "<!-- /bench -->"])

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def inside(path: Path, what: str) -> list[str]:
    """The lines of a block."""
    if what == "published":
        return published_lines()
    if what in OTHERS:
        return lines_of(path, OTHERS[what])
    content = read_results(path)
    if what in ("figures", "all"):
        return [origin_line(content), "", *figure_lines(content["figures"], what == "all")]
    if what not in content["suites"]:
        raise ActionError(f"{path}: has no suite {what}; there are {', '.join(content['suites'])}.")
    return suite_lines(what, content["suites"][what])[2:]


def lines_of(path: Path, make: Callable[[dict[str, Any]], list[str]]) -> list[str]:
    """What `make` writes of a results file of another form than `read_results` knows.

    Raises:
        ResultsError: It cannot be read, or lacks what is written.
    """
    try:
        return make(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, StopIteration) as cause:
        raise ResultsError(f"{path}: not a results file of that bench ({cause!r}).") from cause


def memory_lines(content: dict[str, Any]) -> list[str]:
    """What `spatia bench memory` found: what was run, the figures, and the rows of every probe."""
    from spatia_env.bench.memory_bench import table_lines

    run = content["run"]
    first = f"`spatia bench memory --out DIR`, {run['hardware']['cores']} CPU cores, {run['date']}."
    return [first, "", *table_lines(content)]


def lone_lines(content: dict[str, Any]) -> list[str]:
    """The figures of one run, and its command."""
    run, figures = content["run"], content["figures"]
    command = next(iter(figures.values()))["command"]
    where = f"{run['hardware']['cores']} CPU cores, {run['date']}"
    lines = [f"`{command}`, {where}.", "", "| figure | value | reach | holds |", "|---|---|---|---|"]
    for name, figure in figures.items():
        low, high = figure["ci"]
        spread = f" [{low:.3g}, {high:.3g}]" if low != high else ""
        holds = {True: "yes", False: "**no**", None: ""}[figure["holds"]]
        value = f"{figure['value']:.3g} {figure['unit']}".strip()
        lines.append(
            f"| {figure['title']} (`{name}`) | {value}{spread} | {figure['reach'] or ''} | {holds} |"
        )
    return lines


def policy_rows(content: dict[str, Any]) -> list[str]:
    """The rows of `spatia bench policy`."""
    from spatia_env.bench.policy_report import policy_lines

    return policy_lines(content["suites"]["policy"])


OTHERS = {"memory": memory_lines, "lone": lone_lines, "policies": policy_rows}
"""Blocks from results of another form than the scenes' benches write."""


def origin_line(content: dict[str, Any]) -> str:
    """What was run, in one sentence."""
    run = content["run"]
    busy = "".join(f" Note: {note}." for note in content["notes"])
    return (
        f"`{run['command']}`: checkpoint `{run['checkpoint']}`, {len(run['seeds'])} {run['split']} scenes that were "
        f"never trained on, {run['size'][0]}x{run['size'][1]}, {run['hardware']['cores']} CPU cores, {run['date']}. "
        f"In brackets: 95 % intervals, scenes resampled whole.{busy}"
    )
