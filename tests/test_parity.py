import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import parity.__main__ as parity_command
from parity import checks as parity_checks
from parity.fixtures import Fixtures, worst
from parity_slow import SlowModel, write_variant
from spatia_env.errors import CheckpointError

FIXTURES = Path(__file__).parent / "data" / "parity"


@pytest.fixture(scope="module")
def results():
    return {result.name: result for result in parity_command.run_parity(FIXTURES)}


@pytest.mark.parametrize("name", parity_command.CHECKS)
def test_computes_what_the_release_computes(results, name):
    assert results[name].passed, str(results[name])


def test_float64_time_brings_the_transformer_below_1e_5(results):
    for name in ("a transformer", "b references, history, control", "c first round", "g LoRA"):
        assert results[name].error < 1e-5


@pytest.fixture()
def small_folder(tmp_path, monkeypatch):
    """A copy that runs in a moment: the rotary tables only, and no manifest entry for the rest."""
    for name in ("rope_128", "rope_tiny"):
        shutil.copy(FIXTURES / f"{name}.safetensors", tmp_path)
    monkeypatch.setattr(parity_command, "CHECKS", {"rope": parity_checks.rope})
    (tmp_path / "MANIFEST.json").write_text("{}")
    return tmp_path


def test_a_wrong_number_fails_the_command(small_folder, capsys):
    assert parity_command.main([str(small_folder)]) == 0
    path = small_folder / "rope_tiny.safetensors"
    tensors = load_file(path)
    tensors["angle_cos"][0, 0] += 1e-3
    save_file(tensors, path, metadata={"config": json.dumps(Fixtures(FIXTURES).config("rope_tiny"))})
    assert parity_command.main([str(small_folder)]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_fixture_that_does_not_fit_its_config_fails(small_folder, capsys):
    path = small_folder / "rope_tiny.safetensors"
    config = Fixtures(FIXTURES).config("rope_tiny")
    save_file(load_file(path), path, metadata={"config": json.dumps({**config, "h": config["h"] + 1})})
    assert parity_command.main([str(small_folder)]) == 1
    del config["f"]
    save_file(load_file(path), path, metadata={"config": json.dumps(config)})
    assert parity_command.main([str(small_folder)]) == 1
    assert "does not run: KeyError 'f'" in capsys.readouterr().out


def test_a_nan_is_not_a_pass():
    assert not parity_command.Result("x", float("nan"), 1.0, "").passed
    assert worst(torch.zeros(2), torch.zeros(3)) == float("inf")


def test_altered_missing_or_foreign_folders_are_refused(small_folder, tmp_path, capsys):
    manifest = {"rope_tiny.safetensors": {"sha256": "0" * 64}}
    (small_folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="differs from its hash"):
        parity_command.check_manifest(small_folder)
    (small_folder / "MANIFEST.json").write_text(json.dumps({"gone.safetensors": {"sha256": "0"}}))
    with pytest.raises(CheckpointError, match="not a folder of parity fixtures"):
        parity_command.check_manifest(small_folder)
    assert parity_command.main([str(tmp_path / "nowhere")]) == 2
    assert "parity fixtures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mutation", "at_least"),
    [("references reversed", 0.05), ("references at the new frames' time", 1.0), ("hints ignored", 0.3)],
)
def test_the_fixture_tells_wrong_implementations_apart(mutation, at_least):
    fixtures = Fixtures(FIXTURES)
    case = fixtures.tensors("b_dit_vace_ref_hist")
    latents, timestep = case["latents"], case["timestep_per_frame"].clone()[None]
    if mutation == "references reversed":
        latents = latents[:, :, [1, 0, *range(2, latents.shape[2])]]
    if mutation == "references at the new frames' time":
        timestep[:, :2] = timestep[:, -1]
    with torch.no_grad():
        out = fixtures.transformer(
            latents,
            timestep,
            case["context"],
            case["vace_context"],
            2,
            0.0 if mutation == "hints ignored" else 1.0,
        ).sample
    assert (out - case["out_scale_1.0"]).abs().max() > at_least


@pytest.mark.slow
def test_the_command_runs():
    command = [sys.executable, "-m", "tests.parity", str(FIXTURES)]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=FIXTURES.parents[2], timeout=300)
    assert finished.returncode == 0 and finished.stdout.count("pass") == len(parity_command.CHECKS)


def test_the_slow_model_is_the_release_s():
    """So that what it computes at other sizes is worth comparing with."""
    fixtures = Fixtures(FIXTURES)
    weights = {**fixtures.tensors("dit_weights"), **fixtures.tensors("vace_weights")}
    model = SlowModel(weights, fixtures.config("dit_weights"), fixtures.config("vace_weights"))
    case = fixtures.tensors("b_dit_vace_ref_hist")
    out = model(case["latents"], case["timestep_per_frame"], case["context"], case["vace_context"], 2, 0.6)
    assert worst(out, case["out_scale_0.6"]) < 1e-5


@torch.inference_mode()
def test_fixtures_of_other_sizes_pass(tmp_path, capsys):
    folder = write_variant(FIXTURES, tmp_path / "variant")
    assert parity_command.main([str(folder)]) == 0, capsys.readouterr().out
    assert Fixtures(folder).transformer.config.num_layers == 4
