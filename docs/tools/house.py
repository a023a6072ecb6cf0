"""The figures of the structure as one table, `figure | value | target | met`: `python -m docs.tools.house`.

Counted from the source: an import is any statement that names a module of the package, at module level or
inside a function (also under `TYPE_CHECKING`). A circle is a group of files, or of rooms, each of which imports
every other, if through others; a room is a folder or a loose module at the top of the package. What start-up
costs is measured in processes of their own, the second of two: the first warms the disk.
"""

from __future__ import annotations

import argparse
import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = "spatia_env"
LOADED = f"import sys, {PACKAGE}.env; print(sum(m.split('.')[0] == '{PACKAGE}' for m in sys.modules))"
FIRST_RESET = f'import gymnasium as g; g.make("{PACKAGE}:Spatia-v0").reset(options={{"scene": 10007}})'

Graph = dict[str, set[str]]  # the name of a module or room -> what it imports


def modules(root: Path) -> dict[str, Path]:
    """The modules of the package in folder `root` by their dotted names."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def import_graph(files: dict[str, Path], inside_functions: bool = True) -> Graph:
    """Which modules of `files` each of them imports, at module level alone or inside functions as well."""
    graph: Graph = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        found = {m for node in _imports(tree, inside_functions) for m in _targets(node, package, files)}
        graph[name] = found - {name}
    return graph


def _imports(node: ast.AST, inside_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif inside_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _imports(child, inside_functions)


def _targets(node: ast.Import | ast.ImportFrom, package: str, files: dict[str, Path]) -> Iterator[str]:
    """The modules that a statement names: `from a import b` means a.b where that is one, else a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in files)
        return
    above = package.rsplit(".", node.level - 1)[:1] if node.level else []
    source = ".".join([*above, node.module] if node.module else above)
    for alias in node.names:
        inner = f"{source}.{alias.name}"
        if inner in files or source in files:
            yield inner if inner in files else source


def rooms(graph: Graph) -> Graph:
    """The graph between the folders and loose modules at the top of the package."""
    merged: Graph = {}
    for name, imported in graph.items():
        if name.count("."):
            room = name.split(".")[1]
            others = {m.split(".")[1] for m in imported if m.count(".")}
            merged.setdefault(room, set()).update(others - {room})
    return merged


def circles(graph: Graph) -> list[set[str]]:
    """The groups of more than one node in which each node reaches every other."""
    reached = {node: _reachable(graph, node) for node in graph}
    groups = {frozenset(m for m in ahead if node in reached[m]) for node, ahead in reached.items()}
    return [set(group) for group in groups if len(group) > 1]


def _reachable(graph: Graph, start: str) -> set[str]:
    seen, ahead = set[str](), [start]
    while ahead:
        new = graph[ahead.pop()] - seen
        seen, ahead = seen | new, ahead + list(new)
    return seen


def single_importers(graph: Graph) -> list[str]:
    """The modules that exactly one other module of the package imports; a folder's `__init__` is not counted."""
    folders = {name.rpartition(".")[0] for name in graph}
    counts = {name: sum(name in imported for imported in graph.values()) for name in graph}
    return [name for name, count in counts.items() if count == 1 and name not in folders]


def lines(root: Path) -> int:
    """Lines of all Python files below `root`."""
    return sum(path.read_text(encoding="utf-8").count("\n") for path in root.rglob("*.py"))


def run_twice(code: str) -> tuple[str, float]:
    """What the second of two processes that run `code` prints, and its CPU-seconds (user and system)."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", code]
        out = subprocess.check_output(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return out.strip(), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table() -> list[tuple[str, float, float]]:
    """Rows of figure, value and the largest value that meets the target."""
    root, files = REPOSITORY / PACKAGE, modules(REPOSITORY / PACKAGE)
    graph, loaded_first = import_graph(files), import_graph(files, inside_functions=False)
    return [
        ("loose modules at the package top", len(list(root.glob("[!_]*.py"))), 9),
        ("folders at the package top", len(list(root.glob("*/__init__.py"))), 13),
        ("lines of Python in the package", lines(root), 32_000),
        ("lines of Python in the tests", lines(REPOSITORY / "tests"), 16_000),
        ("modules with exactly one importer", len(single_importers(graph)), 30),
        ("circles between files, at module level", len(circles(loaded_first)), 0),
        ("circles between files, functions too", len(circles(graph)), 0),
        ("circles between rooms, at module level", len(circles(rooms(loaded_first))), 0),
        ("circles between rooms, functions too", len(circles(rooms(graph))), 0),
        (f"modules loaded by import {PACKAGE}.env", int(run_twice(LOADED)[0]), 45),
        ("gym.make and first reset, CPU-seconds", round(run_twice(FIRST_RESET)[1], 1), 5),
    ]


def main() -> None:
    """Print the table; with --names also the modules and circles that the counts stand for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--names", action="store_true", help="also list what is counted")
    options = parser.parse_args()
    print("| figure | value | target | met |\n|---|---|---|---|")
    for figure, value, target in table():
        print(f"| {figure} | {value:,} | <= {target:,} | {'yes' if value <= target else 'no'} |")
    if options.names:
        graph = import_graph(modules(REPOSITORY / PACKAGE))
        print("\nOne importer:", *single_importers(graph), sep="\n  ")
        print("\nCircles:", *(sorted(group) for group in circles(graph) + circles(rooms(graph))), sep="\n  ")


if __name__ == "__main__":
    main()
