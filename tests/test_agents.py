"""Every agent runs at a small size; the learning ones update, and the table of results is made."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "agents"))
PARTS = {"planning", "information_gain", "image_localization"}
"""What agents share."""
PLANNERS = (
    "random_walk",
    "scripted",
    "preview_mpc",
    "fork_mpc",
    "frontier",
    "sweep",
    "next_best_view",
    "return_to_start",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from untrained import write_untrained

    return str(write_untrained(tmp_path_factory.mktemp("model")))


def _agent(name):
    import importlib

    return importlib.import_module(name)


@pytest.mark.parametrize("name", PLANNERS)
def test_planning_agents_run(name, model):
    agent = _agent(name)
    result = agent.main(agent.Args(steps=1, model=model))
    assert result["clips"] == 1 and result["coverage"] > 0 and np.isfinite(result["return"])


def test_every_agent_is_in_the_readme():
    page = (ROOT / "agents" / "README.md").read_text()
    files = {path.stem for path in (ROOT / "agents").glob("*.py")} - {"results"} - PARTS
    assert set(PLANNERS) <= files
    assert all(f"]({name}.py)" in page for name in files)


@pytest.mark.parametrize("path", ["orbit", "lawnmower", "panorama", "worldscore", "there_and_back"])
def test_scripted_paths_stay_within_a_clip(path):
    actions = _agent("scripted").camera_path(path)
    assert actions.ndim == 2 and actions.shape[1] == 6 and np.abs(actions).max() <= 1
    if path == "worldscore":
        from planning import LIMITS
        from spatia_env.geometry import se3_exp

        pose = np.eye(4)
        for camera in actions:
            pose = pose @ se3_exp(camera * LIMITS)
        np.testing.assert_allclose(pose, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("env_id", ["SpatiaRL-v0", "SpatiaDiscrete-v0", "SpatiaSim-v0"])
def test_ppo_updates(env_id, model):
    ppo = _agent("ppo")
    args = ppo.Args(
        env_id=f"spatia_env:{env_id}",
        num_envs=2,
        total_steps=8,
        num_steps=4,
        horizon=2,
        model=model,
        minibatches=2,
    )
    agent, log = ppo.train(args)
    assert len(log) == 1 and np.isfinite(list(log[0].values())).all() and "charts/episodic_return" in log[0]
    assert agent.policy.bias.abs().sum() > 0, "the policy moved"


def test_advantages_are_those_of_slow_code():
    ppo = _agent("ppo")
    args, generator = ppo.Args(), torch.Generator().manual_seed(0)
    rewards, values = torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)
    ends, last = (torch.rand(5, 2, generator=generator) < 0.3).float(), torch.randn(2, generator=generator)
    fast = ppo.advantages(rewards, values, ends, last, args)
    for world in range(2):
        for t in range(5):
            total, weight = 0.0, 1.0
            for k in range(t, 5):
                after = float(last[world] if k == 4 else values[k + 1, world])
                keep = 1 - float(ends[k, world])
                delta = float(rewards[k, world]) + args.gamma * after * keep - float(values[k, world])
                total += weight * delta
                weight *= args.gamma * args.gae_lambda * keep
            assert float(fast[t, world]) == pytest.approx(total, abs=1e-5)


def test_sb3_trains_on_a_vector_of_worlds(model):
    agent = _agent("ppo_sb3")
    result = agent.main(agent.Args(num_envs=2, total_steps=8, num_steps=4, horizon=2, model=model))
    assert result["steps"] == 8 and result["episodes"] == 4


@pytest.mark.slow
def test_transfer_compares_both_worlds(model):
    transfer, ppo = _agent("transfer"), _agent("ppo")
    small = ppo.Args(num_envs=2, total_steps=8, num_steps=4, horizon=2, model=model, minibatches=2)
    result = transfer.main(transfer.Args(ppo=small, scenes=1))
    assert set(result["returns"]) == {"untrained", "imagined", "simulator"}


def test_the_table_is_written_between_its_marks_and_nothing_played_twice(model, tmp_path, monkeypatch):
    results = _agent("results")
    page = tmp_path / "README.md"
    page.write_text(f"before\n{results.MARK}\nold\n{results.MARK}\nafter\n")
    args = results.Args(scenes=1, steps=1, model=model, readme=page, runs=(0,), out=tmp_path / "out")
    table = results.main(args)
    monkeypatch.setattr(_agent("random_walk"), "main", lambda args: pytest.fail("played again"))
    assert results.main(args) == table
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert "| random_walk | explore |" in text
