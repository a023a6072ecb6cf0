"""The examples for other libraries run at a small size, where those libraries are installed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from untrained import write_untrained

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("model")))


def _load(path):
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # RLlib's workers look the functions up by their module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_torchrl_rolls_out_and_updates(model):
    pytest.importorskip("torchrl")
    # Marked slow for what importing TorchRL costs.
    assert np.isfinite(_load(EXAMPLES / "torchrl" / "ppo_rollout.py").main(steps=2, model=model))


@pytest.mark.slow
def test_rllib_trains(model, monkeypatch):
    pytest.importorskip("ray.rllib")
    monkeypatch.syspath_prepend(str(EXAMPLES / "rllib"))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES / "rllib"), prepend=":")
    import ppo

    if Path(ppo.__file__).parent.name != "rllib":
        pytest.skip("another module named ppo is loaded; run this file by itself")
    assert ppo.main(iterations=1, model=model, batch=8) >= 8
