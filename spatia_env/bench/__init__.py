"""The benchmark with ground truth: `spatia bench core --out DIR`, see docs/benchmark.md.

`metrics` and `statistics` are pure functions, `episodes` makes the truth in the simulator, `rows` are the
systems under test, `suites` measure one (scene, row) at a time, `core` schedules them and resumes, `figures`
and `report` turn what was measured into tables. Only `rows` knows the environments.
"""
