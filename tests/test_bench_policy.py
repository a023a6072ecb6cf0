"""`spatia bench policy`, `vector`: small runs end to end, resumed without playing anything twice."""

import json

import pytest

from spatia_env.bench import policy
from spatia_env.bench.policies import POLICIES
from spatia_env.bench.policy import PolicyBenchConfig, plan, run_policy_bench
from spatia_env.bench.vector_bench import VectorBenchConfig, run_vector_bench
from spatia_env.errors import ActionError
from untrained import write_untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("model")))


def test_there_are_enough_policies_and_tasks(tmp_path):
    units = plan(PolicyBenchConfig(tmp_path, planner_scenes=5))
    assert len(POLICIES) >= 12 and len({(u.task, u.scene) for u in units}) == 20
    assert len(units) == 2 * 20 * len(POLICIES)
    more = plan(PolicyBenchConfig(tmp_path, planner_scenes=7))[len(units) :]
    assert len(more) == 2 * 3 and {u.world for u in more} == {"simulator"}


def test_a_small_run_is_whole_and_resumes(model, tmp_path, monkeypatch):
    config = PolicyBenchConfig(
        tmp_path, scenes=1, steps=2, policies=("still", "random", "sweeping"), tasks=("explore", "image_goal"),
        model=model, exploit_scenes=0, planner_scenes=1,
    )  # fmt: skip
    content = run_policy_bench(config)
    assert {"policy_spearman", "policy_pearson", "policy_mmrv", "planner_success"} <= content[
        "figures"
    ].keys()
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == content["figures"]
    table = content["suites"]["policy"]
    assert table["still"]["coverage_simulator"] == 0 < table["sweeping"]["coverage_simulator"]
    assert (tmp_path / "table.md").read_text().count("\n| ") > 6

    def again(*_):
        raise AssertionError("played again")

    monkeypatch.setattr(policy, "play", again)
    assert run_policy_bench(config)["figures"] == content["figures"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"policies": ("spn", "still", "random")}, "did you mean 'spin'"), ({"tasks": ("x",)}, "unknown name"),
     ({"policies": ("spin",)}, "at least 3")],
)  # fmt: skip
def test_bad_arguments_play_nothing(tmp_path, options, complaint):
    with pytest.raises(ActionError, match=complaint):
        run_policy_bench(PolicyBenchConfig(tmp_path, **options))
    assert not (tmp_path / "units").exists()


def test_the_vector_is_timed_against_single_environments(model, tmp_path):
    found = run_vector_bench(VectorBenchConfig(tmp_path, num_envs=2, rounds=1, model=model))
    assert len(found["ratios"]) == 1 and found["fps_single"] > 0 and found["fps_vector"] > 0
