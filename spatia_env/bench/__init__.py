"""The benchmark with ground truth: `spatia bench core --out DIR`, see docs/benchmark.md.

`metrics` and `statistics` are pure functions, `episodes` makes the truth in the simulator, `systems` are the rows
under test and the only module that knows the environment, `groups` play and measure, `registry` names the figures,
`runner` schedules units and resumes, `report` and `pages` write tables. May import everything else.
"""
