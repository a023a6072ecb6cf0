"""`spatia bench viewer`: how fast the playground answers in a browser, and what it leaves behind.

Figures and their table; what is measured, and how, is in `spatia_env.viewer.measures`.
"""

import json
import os
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from spatia_env.bench.provenance import origin
from spatia_env.errors import ViewerError

if TYPE_CHECKING:
    from spatia_env.viewer.cli import ViewConfig

MILLION = 1_000_000
CONNECTS = 200
WARM_UP = 40
"""Connections before memory is counted: allocators and caches fill first."""
WALKS = 2
"""Clips that a browser walks before connections are counted."""
PRESSES = 8


@dataclass(frozen=True)
class ViewerBenchConfig:
    """Measure the playground: first picture, key press, a million points, connections, requests to elsewhere."""

    out: Path = Path("out/bench/viewer")
    """Folder for results.json"""
    page: Path | None = None
    """Page whose table of the results is written anew, such as docs/playground.md"""
    scene: str = "10038"
    """Scene to open"""
    connects: int = CONNECTS
    """Connections that are opened and closed"""
    presses: int = PRESSES
    """Key presses"""
    size: tuple[int, int] = (128, 128)
    """Height and width of the frames in pixels"""

    @property
    def view(self) -> "ViewConfig":
        """What `spatia view` is told to open."""
        from spatia_env.viewer.cli import ViewConfig

        return ViewConfig(scene=self.scene, port=0, size=self.size, worlds=self.out / "worlds")

    @property
    def command(self) -> str:
        """What to type to get this again."""
        return (
            f"spatia bench viewer --out {self.out} --scene {self.scene} --size {self.size[0]} {self.size[1]}"
        )


def main(argv: list[str]) -> int:
    """Run `spatia bench viewer`."""
    config = tyro.cli(ViewerBenchConfig, args=argv, prog="spatia bench viewer")
    content = run_viewer_bench(config)
    for name, figure in content["figures"].items():
        print(f"{name:<28} {figure['value']:>10.3f}  reach {figure['reach']:<14} holds: {figure['holds']}")
    print(f"\n{config.out / 'results.json'}")
    if config.page is not None:
        write_table(config.page, config.out / "results.json")
    return 0


def run_viewer_bench(config: ViewerBenchConfig) -> dict[str, Any]:
    """Measure, write results.json and return its content.

    Raises:
        DependencyError: Chromium or Playwright is missing.
        ViewerError: The playground does not start.
    """
    from spatia_env.viewer.browser import find_chromium

    find_chromium()
    begun = os.getloadavg()[0]
    measured, step_seconds = measure(config)
    figures = {name: figure(config, measured[name], **reach) for name, reach in REACHES.items()}
    content = {
        "schema": "spatia-viewer/1",
        "run": {
            "command": config.command,
            **origin(),
            "load_before": round(begun, 2),
            "cores": os.cpu_count(),
        },
        "step_seconds": step_seconds,
        "figures": figures,
    }
    write_results(config.out, content)
    return content


def measure(config: ViewerBenchConfig) -> tuple[dict[str, list[float]], float]:
    """The values of each figure, and the seconds of a step; each part is said when it begins."""
    from spatia_env.viewer import measures

    print("first picture ...", flush=True)
    first = measures.first_picture(config.view)
    print(f"{config.presses} key presses ...", flush=True)
    answers = measures.answers(config.view, config.presses)
    print(f"{config.connects} connections ...", flush=True)
    left = measures.connections(config.view, config.connects, WARM_UP, WALKS)
    print("a million points ...", flush=True)
    points = measures.million_points(MILLION)
    return {
        "viewer_first_picture_s": [first],
        "viewer_key_to_preview_ms": answers["preview_ms"],
        "viewer_key_to_clip_extra_s": answers["clip_extra_s"],
        "viewer_million_points_s": [points],
        "viewer_connects_growth_mb": [left["growth_mb"]],
        "viewer_connects_handles": [left["handles"]],
        "viewer_requests_elsewhere": answers["elsewhere"],
    }, round(statistics.median(answers["step_s"]), 3)


def write_results(folder: Path, content: dict[str, Any]) -> None:
    """Write results.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


REACHES: dict[str, dict[str, Any]] = {
    "viewer_first_picture_s": {"title": "first picture after `spatia view` is called", "limit": 15.0, "unit": "s"},
    "viewer_key_to_preview_ms": {"title": "key press to preview in the browser", "limit": 150.0, "unit": "ms"},
    "viewer_key_to_clip_extra_s": {"title": "letting go to the clip, beyond the step", "limit": 0.3, "unit": "s"},
    "viewer_million_points_s": {"title": "a million points to the browser", "limit": 2.0, "unit": "s"},
    "viewer_connects_growth_mb": {"title": "200 connects: process growth", "limit": 32.0, "unit": "MB"},
    "viewer_connects_handles": {"title": "200 connects: file handles", "limit": 0.0, "unit": "handles"},
    "viewer_requests_elsewhere": {
        "title": "requests to anywhere but the server", "limit": 0.0, "unit": "requests",
    },
}  # fmt: skip
"""What each figure must not exceed. `key_to_clip_extra` is what a clip takes beyond the step itself."""


def figure(
    config: ViewerBenchConfig, values: list[float], title: str, limit: float, unit: str
) -> dict[str, Any]:
    """A figure of repeated measurements: the median, and the range of the values as its interval."""
    value = statistics.median(values)
    return {
        "title": title,
        "value": round(value, 4),
        "ci": [round(min(values), 4), round(max(values), 4)],
        "n": len(values),
        "unit": unit,
        "reach": f"<= {limit:g} {unit}".rstrip(),
        "holds": bool(value <= limit),
        "command": config.command,
    }


BLOCK = re.compile(r"(<!-- viewer: (\S+) -->\n).*?(<!-- /viewer -->)", re.DOTALL)
"""Where a page holds the table: its file, relative to the page, then what is written anew."""


def write_table(page: Path, results: Path) -> None:
    """Write the table of some results into a page, and where they are."""
    file = Path(os.path.relpath(results, page.parent)).as_posix()
    text = BLOCK.sub(f"<!-- viewer: {file} -->\n<!-- /viewer -->", page.read_text(encoding="utf-8"))
    page.write_text(with_table(text, page.parent), encoding="utf-8")


def with_table(text: str, folder: Path) -> str:
    """A page's text with the tables that its results say.

    Raises:
        ViewerError: It has no block for one, or its results cannot be read.
    """
    if not BLOCK.search(text):
        raise ViewerError("the page has no block `<!-- viewer: results.json -->` ... `<!-- /viewer -->`.")

    def block(match: re.Match[str]) -> str:
        path = folder / match[2]
        if not path.exists():
            words = "Not measured yet: `spatia bench viewer --page` with this page writes a table here."
            return f"{match[1]}\n{words}\n\n{match[3]}"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return match[1] + "\n" + "\n".join(table_lines(content)) + "\n\n" + match[3]
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ViewerError(f"{path}: are no results ({cause!r}).") from cause

    return BLOCK.sub(block, text)


def table_lines(content: dict[str, Any]) -> list[str]:
    """The figures of some results as a Markdown table, and what they were measured on."""
    run = content["run"]
    lines = [
        f"`{run['command']}` on {run['cores']} CPU cores that also draw the browser's pictures, {run['date']}; "
        f"{run['load_before']:g} other processes wanted a core when it began. A step took "
        f"{content['step_seconds']:.2f} s. In brackets: the least and the most of several presses.",
        "",
        "| figure | value | reach | holds |",
        "|---|---|---|---|",
    ]
    for figure in content["figures"].values():
        low, high = figure["ci"]
        spread = f" [{low:.3g}, {high:.3g}]" if figure["n"] > 1 else ""
        value = f"{figure['value']:.3g} {figure['unit']}{spread}"
        holds = "yes" if figure["holds"] else "**no**"
        lines.append(f"| {figure['title']} | {value} | {figure['reach']} | {holds} |")
    return lines
