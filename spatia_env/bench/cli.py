"""`spatia bench core | smoke | memory | viewer | cost`: measure, write results.json and print the table."""

import tyro

from spatia_env.bench.config import BenchConfig
from spatia_env.bench.core import run_bench
from spatia_env.bench.report import summary_lines


def main(argv: list[str]) -> int:
    """Run `spatia bench`; 0 when everything was measured, whatever was reached, 1 when something failed."""
    if argv[:1] == ["memory"]:
        from spatia_env.bench.memory_bench import main as bench_memory

        return bench_memory(argv[1:])
    if argv[:1] == ["viewer"]:
        from spatia_env.bench.viewer_bench import main as bench_viewer

        return bench_viewer(argv[1:])
    if argv[:1] == ["cost"]:
        from spatia_env.model.cost_bench import main as bench_cost

        return bench_cost(argv[1:])
    if argv[:1] == ["vector"]:
        from spatia_env.bench.vector_bench import main as bench_vector

        return bench_vector(argv[1:])
    if argv[:1] == ["ray"]:
        from spatia_env.bench.ray_kills import main as bench_ray

        return bench_ray(argv[1:])
    if argv[:1] == ["policy"]:
        from spatia_env.bench.policy import main as bench_policy

        return bench_policy(argv[1:])
    config = tyro.cli(BenchConfig, args=argv, prog="spatia bench")
    content = run_bench(config)
    print("\n".join(summary_lines(content)))
    print(f"\n{config.out / 'results.json'}, table.md, per_scene.csv, sheets/")
    return 1 if content["failures"] else 0
