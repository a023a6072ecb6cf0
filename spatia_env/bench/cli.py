"""`spatia bench SUITE`: measure, write results.json and print the table; and the tools around it."""

import importlib
import importlib.util
import shlex
import sys

import tyro

from spatia_env.errors import ActionError, DependencyError

OTHERS = {
    "compare": "spatia_env.bench.compare",
    "readme": "spatia_env.bench.pages",
    "cost": "spatia_env.models.wan.cost_bench",
}
"""Tools with arguments of their own; each module has a `main(argv)`."""
MOVED = {"worldscore": "examples/worldscore/worldscore.py", "re10k": "examples/re10k/re10k.py"}
"""Protocols of others, for users of the released weights: scripts in the repository."""


def main(argv: list[str]) -> int:
    """Run `spatia bench`; 0 when everything was measured, whatever was reached, 1 when something failed."""
    if importlib.util.find_spec("pandas") is None:
        raise DependencyError('bench: needs pandas; `pip install "spatia-env[bench]"`.')
    if argv[:1] and argv[0] in OTHERS:
        return int(importlib.import_module(OTHERS[argv[0]]).main(argv[1:]))
    if argv[:1] and argv[0] in MOVED:
        raise ActionError(
            f"bench {argv[0]}: is a script of the repository; run `python {MOVED[argv[0]]} --help`."
        )
    from spatia_env.bench.report import target_lines
    from spatia_env.bench.runner import BenchConfig, run_bench

    command = shlex.join(["spatia", "bench", *argv])
    if argv[:1] == ["policy"]:
        argv = ["core", "--groups", "policies", *argv[1:]]
    config = tyro.cli(BenchConfig, args=argv, prog="spatia bench")
    content = run_bench(config, command)
    print("\n".join(target_lines(content)))
    for note in content["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(f"\n{config.out / 'results.json'}, table.csv, table.md, sheets/, plots/")
    return 1 if content["failures"] else 0
