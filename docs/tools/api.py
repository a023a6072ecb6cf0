"""Write docs/api.md from the docstrings of the public names: `python -m docs.tools.api` (`make api`).

Modules are parsed, not imported, so no network is loaded and no environment is made.
"""

import argparse
import ast
import copy
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Environment", ("env:SpatiaEnv",)),
    (
        "World",
        (
            "world.world:World",
            "world.state:WorldState",
            "world.edits:WorldEdits",
            "world.queries:WorldQueries",
            "world.imagination:Imagination",
            "events.log:LedgerRow",
        ),
    ),
    (
        "Actions",
        (
            "actions:EventText",
            "actions:PathBox",
            "actions:decode_action",
            "actions:decode_camera",
            "actions:decode_path",
            "actions:decode_discrete",
            "actions:preset",
        ),
    ),
    (
        "Tasks",
        (
            "tasks:Task",
            "tasks:TaskContext",
            "tasks:TaskResult",
            "tasks:Explore",
            "tasks:ImageGoal",
            "tasks:ReturnHome",
            "tasks:Find",
            "tasks:make_task",
        ),
    ),
    (
        "Wrappers",
        (
            "wrappers:LastFrameObservation",
            "wrappers:DiscreteActions",
            "wrappers:FlatCamera",
            "wrappers:EditActions",
            "wrappers:SceneStart",
            "wrappers:RecordClips",
            "wrappers:view_env",
        ),
    ),
    (
        "Clip sources",
        (
            "models.clip_source:ClipSource",
            "models.clip_source:ClipRequest",
            "models.clip_source:ModelClips",
            "models.clip_source:RenderedClips",
            "sim.clip_source:SimulatedScene",
            "models.generator:ClipGenerator",
            "models.loading:load_checkpoint",
        ),
    ),
    (
        "SLAM",
        (
            "slam.pipeline:Slam",
            "slam.pipeline:Registration",
            "slam.depth_network:GeometryEstimator",
            "slam.depth_network:Geometry",
        ),
    ),
    (
        "Map",
        (
            "memory.map:Map",
            "memory.point_map:SceneMemory",
            "memory.keyframes:Keyframe",
            "memory.export:export",
        ),
    ),
    (
        "Many worlds",
        (
            "vector.sync:SpatiaVectorEnv",
            "vector.ray:RayVectorEnv",
            "vector.ray:serve_pipeline",
            "vector.sb3:as_sb3",
        ),
    ),
    (
        "Recording",
        (
            "recording:RecordEpisodes",
            "recording:RecordShards",
            "recording:collector",
            "recording:save_minari",
            "recording:first_difference",
            "recording:read_episode",
        ),
    ),
)
Node = ast.ClassDef | ast.FunctionDef
GOOGLE = re.compile(r"^(Args|Arguments|Attributes|Returns|Raises|Yields):$")


def page() -> str:
    """The whole page."""
    parts = [
        "# API\n\nPublic names, from their docstrings; written by `make api`. What is not here may change.",
        "## Ids\n\n" + _ids(),
        *(f"## {title}\n\n" + "\n\n".join(map(_entry, names)) for title, names in SECTIONS),
        "## Errors\n\n" + _errors(),
    ]
    return "\n\n".join(parts) + "\n"


def _module(name: str) -> ast.Module:
    path = ROOT.joinpath("spatia_env", *name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _ids() -> str:
    """The registered ids, from the literal table in the package's `__init__`."""
    for node in _module("").body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_ENTRY_POINTS":
            table = ast.literal_eval(node.value)
            rows = [
                f"| `spatia_env:{name}` | `{entry}` | `{options}` |"
                for name, (entry, options) in table.items()
            ]
            return "\n".join(["| id | entry point | options |", "|---|---|---|", *rows])
    raise LookupError("spatia_env/__init__.py: no table _ENTRY_POINTS.")


def _errors() -> str:
    rows = [
        f"| `{node.name}` | {', '.join(f'`{ast.unparse(base)}`' for base in node.bases)} | {_summary(node)} |"
        for node in _module("errors").body
        if isinstance(node, ast.ClassDef)
    ]
    return "\n".join(["| error | is a | raised when |", "|---|---|---|", *rows])


def _entry(name: str) -> str:
    """A class with its public methods, or a function."""
    module, symbol = name.split(":")
    (node,) = (n for n in _module(module).body if isinstance(n, Node) and n.name == symbol)
    parts = [f"### {symbol}", f"`spatia_env.{module}`", _code(node), _text(ast.get_docstring(node) or "")]
    if isinstance(node, ast.ClassDef):
        parts += [
            _method(child) for child in node.body if isinstance(child, ast.FunctionDef) and _is_public(child)
        ]
    return "\n\n".join(part for part in parts if part)


def _is_public(function: ast.FunctionDef) -> bool:
    return not function.name.startswith("_") or function.name == "__call__"


def _method(function: ast.FunctionDef) -> str:
    kinds = {ast.unparse(decorator) for decorator in function.decorator_list}
    head = f"**`{function.name}`**" if "property" in kinds else f"**`{function.name}{_signature(function)}`**"
    return f"{head}\n\n{_text(ast.get_docstring(function) or '')}".strip()


def _code(node: Node) -> str:
    if isinstance(node, ast.FunctionDef):
        return f"```text\n{node.name}{_signature(node)}\n```"
    made = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    if not made:
        return ""
    return f"```text\n{node.name}{_signature(made[0], returns=False)}\n```"


def _signature(function: ast.FunctionDef, returns: bool = True) -> str:
    """Its arguments without `self`, and what it returns."""
    node = copy.deepcopy(function.args)
    if node.args and node.args[0].arg in ("self", "cls"):
        del node.args[0]
    back = f" -> {ast.unparse(function.returns)}" if returns and function.returns else ""
    return f"({ast.unparse(node)}){back}"


def _summary(node: Node) -> str:
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _text(docstring: str) -> str:
    """A Google-style docstring as Markdown: its sections become lists, its headings bold lines."""
    lines: list[str] = []
    base: int | None = None  # indent of the items of the section that a line is in, None outside of one
    for line in inspect.cleandoc(docstring).splitlines():
        if match := GOOGLE.match(line):
            lines += ["", f"*{match.group(1)}*", ""]
            base = 4
        elif line.startswith("## "):
            lines += ["", f"**{line[3:]}**", ""]
            base = 0 if line == "## Arguments" else None
        else:
            base = None if not line.startswith(" " * (base or 0)) and line.strip() else base
            lines.append(line if base is None or not line.strip() else _item(line, base))
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return text.replace("```python", "```py")  # blocks of the page are no tests


def _item(line: str, base: int) -> str:
    """A line of a section: `name: what` at indent `base` begins an item, a deeper one goes on with it."""
    named = re.match(r"(\*{0,2}[\w, ]+|`[^:]*`):\s+(.*)", line.strip())
    if named and len(line) - len(line.lstrip()) == base:
        return f"- `{named.group(1).strip('`')}`: {named.group(2)}"
    return f"  {line.strip()}"


def main() -> None:
    """Write the page, or with `--check` fail when it is not up to date."""
    parser = argparse.ArgumentParser(description="Write docs/api.md from the docstrings.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page()
    if parser.parse_args().check:
        raise SystemExit("docs/api.md is not up to date; run `make api`." if stale else 0)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
