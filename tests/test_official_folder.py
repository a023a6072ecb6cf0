"""Folders of converted official weights: levers, LoRAs, options."""

import dataclasses
from pathlib import Path

import pytest
import torch

import official_models as tiny
from parity.fixtures import worst
from spatia_env.errors import ActionError, CheckpointError
from spatia_env.models.wan.options import LEVERS, Levers
from spatia_env.models.wan.pipeline import load_official, official_id
from spatia_env.models.wan.sampling import SamplerSettings, from_uint8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("peft")
    return tiny.converted(tmp_path_factory.mktemp("official"))


EXACT = Levers(dtype="float32")


def end_to_end(pipeline, index):
    """The end-to-end fixture's round through a loaded folder; the error of its latents."""
    given, expected = tiny.FIXTURES.tensors("h_e2e_inputs"), tiny.FIXTURES.tensors("h_e2e_outputs")
    pipeline.text_encoder = lambda texts: torch.cat(
        [given["emb_pos"] if "HDR." in text else given["emb_neg"] for text in texts]
    )
    pipeline.settings = SamplerSettings(4, 3.5)
    past = given["first_image"][None] if index == 0 else given["hist_1"]
    clip = pipeline.generate(
        "a",
        from_uint8(given[f"control_{index}"]),
        (from_uint8(given[f"score_{index}"]) + 1) / 2,
        from_uint8(past),
        from_uint8(given["refs_1"]) if index else None,
        torch.Generator().manual_seed(20917),
    )
    return worst(clip.latents, expected[f"latents_{index}"])


def test_a_converted_folder_reproduces_the_release_with_its_lora_from_the_second_round(folder):
    pipeline = load_official(folder, "cpu", EXACT, prompt_cache="")
    for index in (0, 1, 0):  # and the adapter falls silent again for a new world
        assert end_to_end(pipeline, index) < 1e-4
        assert pipeline.adapters.active == (("autoregressive",) if index else ())


@pytest.mark.parametrize(
    "levers",
    [
        {"offload": "stages"},
        {"offload": "groups"},
        {"attention": "native"},
        {"attention": "_native_math"},
    ],
    ids=str,
)
def test_exact_levers_change_nothing(folder, levers):
    pipeline = load_official(folder, "cpu", dataclasses.replace(EXACT, **levers), prompt_cache="")
    assert end_to_end(pipeline, 1) < 1e-4


def test_approximate_levers_stay_close(folder):
    for levers in (
        {"first_block_cache": 1e-9},
        {"vae_tiling": True},
    ):  # nothing to skip, nothing to tile at this size
        pipeline = load_official(folder, "cpu", dataclasses.replace(EXACT, **levers), prompt_cache="")
        assert end_to_end(pipeline, 0) < 1e-4
    half = load_official(folder, "cpu", Levers(), prompt_cache="")
    assert end_to_end(half, 0) < 0.5
    eight = load_official(folder, "cpu", dataclasses.replace(EXACT, float8_weights=True), prompt_cache="")
    assert 1e-4 < end_to_end(eight, 0) < 1.5


def test_levers_that_cannot_be_are_named(folder):
    with pytest.raises(ActionError, match="fuse_qkv"):
        load_official(folder, "cpu", dataclasses.replace(EXACT, fuse_qkv=True))
    with pytest.raises(ActionError, match="not available"):
        load_official(folder, "cpu", dataclasses.replace(EXACT, attention="sage"))
    with pytest.raises(ActionError, match="is not loaded"):
        load_official(folder, "cpu", EXACT).adapters.activate(["other"])


def test_a_few_step_lora_is_loaded_beside_the_own_one(folder):
    lora = folder.parent / "lora.safetensors"
    pipeline = load_official(
        folder, "cpu", dataclasses.replace(EXACT, few_step_lora=lora_without_prefix(lora))
    )
    assert pipeline.settings.few_step_sigmas == (1.0, 0.757, 0.522)
    pipeline.adapters.for_clip(first=True)
    assert pipeline.adapters.active == ("few_step",)
    pipeline.adapters.for_clip(first=False)
    assert pipeline.adapters.active == ("autoregressive", "few_step")


def lora_without_prefix(path):
    from safetensors.torch import load_file, save_file

    plain = {
        f"diffusion_model.{n.removeprefix('pipe.dit.')}": t
        for n, t in load_file(path).items()
        if "pipe.dit." in n
    }
    target = path.with_name("distilled.safetensors")
    save_file(plain, target)
    return target


def test_a_folder_has_an_id_of_its_weights(folder):
    assert official_id(folder) == official_id(str(folder)) and official_id(folder).startswith("spatia-wan-")


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="spatia convert"):
        load_official(tmp_path)


def test_every_option_has_a_line_in_the_table_and_the_documentation():
    options = {field.name for field in dataclasses.fields(Levers)} - {"few_step_sigmas"}
    named = " ".join(lever.option for lever in LEVERS)
    assert all(option in named for option in options)
    page = (Path(__file__).parent.parent / "docs" / "official.md").read_text(encoding="utf-8")
    for lever in LEVERS:
        option = lever.option if lever.option == "always on" else f"`{lever.option}`"
        assert f"| {lever.name} | {option} | {lever.exactness} | {lever.saves} |" in page


# -- caches and compilation -----------------------------------------------------------------------------------------


def inputs_b():
    case = tiny.FIXTURES.tensors("b_dit_vace_ref_hist")
    return (case["latents"], case["timestep_per_frame"][None], case["context"], case["vace_context"], 2)


@torch.inference_mode()
def test_first_block_cache_keeps_hints_right():
    from diffusers import FirstBlockCacheConfig

    model = type(tiny.FIXTURES.transformer).from_config(tiny.FIXTURES.transformer.config).eval()
    model.load_state_dict(tiny.FIXTURES.weights)
    expected = model(*inputs_b()).sample
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    skipped = []
    model.blocks[3].attn1.register_forward_hook(lambda *_: skipped.append(1))
    with model.cache_context("cond"):
        torch.testing.assert_close(model(*inputs_b()).sample, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(*inputs_b()).sample, expected, atol=1e-5, rtol=1e-5)
    assert len(skipped) == 1  # the second pass took the remembered residual, hints included


@pytest.mark.slow
@torch.inference_mode()
def test_blocks_compile_in_one_graph_and_fused_projections_agree():
    torch.manual_seed(0)
    config = {**tiny.FIXTURES.transformer.config, "num_layers": 2, "control_layers": (0,)}
    model = type(tiny.FIXTURES.transformer).from_config(config).eval()
    torch.nn.init.normal_(model.vace_blocks[0].proj_out.weight)
    expected = model(*inputs_b()).sample
    model.fuse_qkv_projections()
    torch.testing.assert_close(model(*inputs_b()).sample, expected, atol=1e-5, rtol=1e-5)
    model.unfuse_qkv_projections()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(model(*inputs_b()).sample, expected, atol=1e-5, rtol=1e-5)
