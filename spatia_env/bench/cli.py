"""`spatia bench SUITE`: measure, write results.json and print the table; and the tools around it."""

import importlib

import tyro

from spatia_env.bench.config import BenchConfig
from spatia_env.bench.core import run_bench
from spatia_env.bench.report import summary_lines

OTHERS = {
    "memory": "spatia_env.bench.memory_bench",
    "viewer": "spatia_env.bench.viewer_bench",
    "cost": "spatia_env.models.wan.cost_bench",
    "vector": "spatia_env.bench.vector_bench",
    "ray": "spatia_env.bench.ray_kills",
    "policy": "spatia_env.bench.policy",
    "compare": "spatia_env.bench.compare",
    "readme": "spatia_env.bench.pages",
    "worldscore": "spatia_env.bench.worldscore",
    "re10k": "spatia_env.bench.re10k",
}
"""Benches and tools with arguments of their own; each module has a `main(argv)`."""


def main(argv: list[str]) -> int:
    """Run `spatia bench`; 0 when everything was measured, whatever was reached, 1 when something failed."""
    if argv[:1] and argv[0] in OTHERS:
        return int(importlib.import_module(OTHERS[argv[0]]).main(argv[1:]))
    config = tyro.cli(BenchConfig, args=argv, prog="spatia bench")
    content = run_bench(config)
    print("\n".join(summary_lines(content)))
    print(f"\n{config.out / 'results.json'}, table.md, per_scene.csv, sheets/, videos/")
    return 1 if content["failures"] else 0
