import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file

import official_models as tiny
from parity.fixtures import rename
from spatia_env.errors import CheckpointError
from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.models.wan.convert import ConvertConfig, convert
from spatia_env.models.wan.convert_layouts import (
    autoencoder_config,
    autoencoder_name,
    lora_layers,
    text_encoder_config,
    text_encoder_name,
    transformer_config,
    transformer_name,
)
from spatia_env.models.wan.folders import check_folder, declared_hash, load_module, read_plain_pickle, sha256


@pytest.fixture()
def released(tmp_path):
    """Arguments that convert the miniature release."""
    return ConvertConfig(
        wan=tiny.write_original(tmp_path / "wan"),
        control=tiny.write_control(tmp_path / "step-8500.safetensors"),
        lora=tiny.write_lora(tmp_path / "lora_weights_10000.safetensors"),
        out=tmp_path / "model",
        dtype="float32",
        **tiny.statistics(),
    )


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    state = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    return state


def test_original_layout_becomes_a_folder_with_the_same_numbers(released):
    lines = []
    report = convert(released, lines.append)
    assert report.tensors == {
        "transformer": 177 + len(load_file(released.control)),
        "vae": 196,
        "text_encoder": 22,
    }
    assert lines and set(report.sources) >= {"Wan2.2_VAE.pth", "step-8500.safetensors"}
    check_folder(released.out)
    model = load_module(SpatiaTransformer3DModel, released.out / "transformer", "transformer")
    for name, tensor in tiny.FIXTURES.weights.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert tuple(model.config["control_layers"]) == (0, 2, 4)
    vae = load_module(AutoencoderKLWan, released.out / "vae", "vae")
    video = tiny.FIXTURES.tensors("f_vae_io")["video"]
    expected = tiny.FIXTURES.autoencoder.vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(vae.encode(video).latent_dist.mode(), expected)
    adapter = load_file(released.out / "lora" / "autoregressive.safetensors")
    assert adapter.keys() == tiny.FIXTURES.lora.keys() and not any("vace" in name for name in adapter)
    assert not (released.out.parent / "model.partial").exists()


def test_diffusers_layout_gives_the_same_folder(released, tmp_path):
    convert(released)
    stock_folder = tmp_path / "stock"
    main, control = tiny.FIXTURES.weights, {"vace_"}
    config = {**tiny.FIXTURES.transformer.config}
    stock = WanTransformer3DModel(
        **{
            k: v
            for k, v in config.items()
            if not k.startswith(("control", "place", "_")) and k != "use_kw_only_attributes"
        }
    )
    stock.load_state_dict({k: v for k, v in main.items() if not k.startswith(tuple(control))})
    stock.save_pretrained(stock_folder / "transformer")
    tiny.FIXTURES.autoencoder.vae.save_pretrained(stock_folder / "vae")
    (stock_folder / "text_encoder").mkdir()
    text = rename(tiny.text_encoder_tensors(), text_encoder_name)
    text["encoder.embed_tokens.weight"] = text["shared.weight"].clone()  # some repacks store it twice
    save_file(text, stock_folder / "text_encoder" / "model.safetensors")
    tiny.write_tokenizer(stock_folder / "tokenizer")
    again = dataclasses.replace(released, wan=stock_folder, out=tmp_path / "again")
    convert(again)
    for part in ("transformer", "vae", "text_encoder", "lora"):
        first, second = weights_of(released.out / part), weights_of(again.out / part)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        if part != "lora":
            read = [
                json.loads((folder / part / "config.json").read_text())
                for folder in (released.out, again.out)
            ]
            assert {k: v for k, v in read[1].items() if k in read[0]} == read[0]


def test_half_precision_keeps_norms_and_times_in_float32(released):
    convert(dataclasses.replace(released, dtype="bfloat16", text_encoder=False))
    state = weights_of(released.out / "transformer")
    kept = {name for name, tensor in state.items() if tensor.dtype == torch.float32}
    assert kept == {n for n in state if any(k in n for k in ("time_embedder", "scale_shift_table", "norm2"))}
    loaded = load_module(
        SpatiaTransformer3DModel, released.out / "transformer", "transformer", torch.bfloat16
    )
    assert loaded.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert loaded.blocks[0].scale_shift_table.dtype == torch.float32


def test_large_parts_are_sharded(released, monkeypatch):
    monkeypatch.setattr("spatia_env.models.wan.convert.SHARD_BYTES", 400_000)
    convert(released)
    assert len(list((released.out / "transformer").glob("*-of-0000*.safetensors"))) > 2
    model = load_module(SpatiaTransformer3DModel, released.out / "transformer", "transformer")
    assert torch.equal(model.proj_out.weight, tiny.FIXTURES.weights["proj_out.weight"])
    next((released.out / "transformer").glob("*-00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match="files that are missing"):
        load_module(SpatiaTransformer3DModel, released.out / "transformer", "transformer")


def resave(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_what_is_missing_extra_or_misshapen_is_named(released):
    def change(tensors):
        tensors["vace_blocks.9.extra.weight"] = torch.zeros(2)
        tensors["vace_blocks.1.after_proj.bias"] = torch.zeros(7)
        del tensors["vace_blocks.2.norm3.bias"]

    resave(released.control, change)
    with pytest.raises(CheckpointError) as error:
        convert(released)
    message = str(error.value)
    assert "missing" in message and "extra" in message and "vace_blocks" in message
    assert not released.out.exists()


def test_one_missing_tensor_and_one_misshapen(released):
    def change(tensors):
        tensors["vace_blocks.1.after_proj.bias"] = torch.zeros(7)
        del tensors["vace_blocks.2.norm3.bias"]

    resave(released.control, change)
    with pytest.raises(
        CheckpointError,
        match=r"1 missing: vace_blocks\.2\.norm2\.bias; 1 misshapen: .* \[7\] instead of \[60\]",
    ):
        convert(released)


def test_a_stray_block_is_extra_and_a_lost_one_is_missing(released):
    tensors = load_file(released.control)
    save_file({**tensors, "vace_blocks.9.x": torch.zeros(2)}, released.control)
    with pytest.raises(CheckpointError, match=r"tensors\. 1 extra: vace_blocks\.9\.x\.$"):
        convert(released)
    save_file({n: t for n, t in tensors.items() if ".1." not in n[:14]}, released.control)
    with pytest.raises(CheckpointError, match=r"tensors\. \d+ missing: vace_blocks\.1\."):
        convert(released)


def test_a_cut_file_is_refused(released):
    data = released.control.read_bytes()
    released.control.write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="fetch it again"):
        convert(released)


def test_a_download_that_differs_from_its_noted_hash_is_refused(released):
    vae = released.wan / "Wan2.2_VAE.pth"
    note = released.wan / ".cache" / "huggingface" / "download" / "Wan2.2_VAE.pth.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"abc\n{sha256(vae)}\n1.0\n")
    assert declared_hash(vae) == sha256(vae)
    convert(released)
    shutil.rmtree(released.out)
    note.write_text(f"abc\n{'0' * 64}\n1.0\n")
    with pytest.raises(CheckpointError, match="its download noted"):
        convert(released)


class Payload:
    def __reduce__(self):
        return (Path("payload-ran").touch, ())


def test_pickles_with_anything_but_tensors_are_refused_and_run_nothing(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, released.wan / "Wan2.2_VAE.pth")
    with pytest.raises(CheckpointError, match="does not hold plain tensors"):
        convert(released)
    assert not (tmp_path / "payload-ran").exists()
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    with pytest.raises(CheckpointError, match="other things"):
        read_plain_pickle(tmp_path / "numbers.pth")
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(CheckpointError):
        read_plain_pickle(tmp_path / "text.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_plain_pickle(tmp_path / "gone.pth")


def test_old_format_pickles_of_tensors_are_read(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_plain_pickle(tmp_path / "old.pth")["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": Path("step-8500.pth")}, "not a .safetensors file"),
        ({"lora": Path("lora.pt")}, "not a .safetensors file"),
        ({"wan": Path("nowhere")}, "not a folder"),
        ({"latents_mean": (), "latents_std": ()}, "6 latent channels"),
    ],
)
def test_wrong_arguments_are_named(released, change, words):
    with pytest.raises(CheckpointError, match=words):
        convert(dataclasses.replace(released, **change))


def test_an_existing_folder_is_left_alone(released):
    released.out.mkdir()
    with pytest.raises(CheckpointError, match="exists"):
        convert(released)


def test_a_lora_of_another_kind_is_refused(released):
    save_file({"transformer.x.lora_A.weight": torch.ones(1, 2)}, released.lora)
    with pytest.raises(CheckpointError, match=r"pipe\.dit\."):
        convert(released)
    save_file({"pipe.dit.blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 60)}, released.lora)
    with pytest.raises(CheckpointError, match="incomplete"):
        convert(released)
    pair = {"pipe.dit.blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 61)}
    save_file({**pair, "pipe.dit.blocks.0.self_attn.q.lora_B.weight": torch.ones(60, 4)}, released.lora)
    with pytest.raises(CheckpointError, match="fits no layer"):
        convert(released)


def test_folders_that_ask_for_code_are_refused(released):
    convert(dataclasses.replace(released, text_encoder=False))
    (released.out / "transformer" / "modeling.py").write_text("")
    with pytest.raises(CheckpointError, match="code is never loaded"):
        check_folder(released.out)
    (released.out / "transformer" / "modeling.py").unlink()
    index_path = released.out / "model_index.json"
    index = json.loads(index_path.read_text())
    for change in (
        {"custom_pipeline": "x"},
        {"vae": ["diffusers", "AutoencoderKL"]},
        {"vae": {"auto_map": {}}},
    ):
        index_path.write_text(json.dumps({**index, **change}))
        with pytest.raises(CheckpointError):
            check_folder(released.out)
    index_path.write_text(json.dumps(index))
    config_path = released.out / "transformer" / "config.json"
    config = json.loads(config_path.read_text())
    for change in ({"_class_name": "Other"}, {"num_layers": 5}, {"attention_head_dim": 16}):
        config_path.write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError):
            load_module(SpatiaTransformer3DModel, released.out / "transformer", "transformer")


def test_nan_weights_are_refused(released):
    resave(released.control, lambda tensors: tensors["vace_patch_embedding.bias"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match="NaN"):
        convert(released)


def test_full_size_is_recognised_by_its_shapes():
    with torch.device("meta"):
        official = SpatiaTransformer3DModel()
    shapes = {name: tuple(tensor.shape) for name, tensor in official.state_dict().items()}
    config = transformer_config(shapes, {"num_heads": 24, "eps": 1e-6})
    assert config["control_layers"] == (0, 4, 8, 12, 16, 20, 24, 28)
    with torch.device("meta"):
        again = SpatiaTransformer3DModel.from_config(config)
    assert {n: tuple(t.shape) for n, t in again.state_dict().items()} == shapes
    with pytest.raises(CheckpointError, match="vace_patch_embedding"):
        transformer_config({n: s for n, s in shapes.items() if not n.startswith("vace")}, {})


def released_block(prefix, dim=3072, hidden=14336):
    """Names and shapes of a block of the release's transformer, as its files have them."""
    shapes = {f"{prefix}.modulation": (1, 6, dim)}
    for attention in ("self_attn", "cross_attn"):
        for layer in "qkvo":
            shapes |= {
                f"{prefix}.{attention}.{layer}.weight": (dim, dim),
                f"{prefix}.{attention}.{layer}.bias": (dim,),
            }
        shapes |= {f"{prefix}.{attention}.norm_{which}.weight": (dim,) for which in "qk"}
    shapes |= {f"{prefix}.norm3.weight": (dim,), f"{prefix}.norm3.bias": (dim,)}
    shapes |= {f"{prefix}.ffn.0.weight": (hidden, dim), f"{prefix}.ffn.0.bias": (hidden,)}
    return shapes | {f"{prefix}.ffn.2.weight": (dim, hidden), f"{prefix}.ffn.2.bias": (dim,)}


def released_linear(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def test_the_full_size_has_the_release_s_825_and_236_tensors_by_name_and_shape():
    dim = 3072
    main = {"patch_embedding.weight": (dim, 48, 1, 2, 2), "patch_embedding.bias": (dim,)}
    main |= released_linear("text_embedding.0", dim, 4096) | released_linear("text_embedding.2", dim, dim)
    main |= released_linear("time_embedding.0", dim, 256) | released_linear("time_embedding.2", dim, dim)
    main |= released_linear("time_projection.1", 6 * dim, dim)
    main |= released_linear("head.head", 48 * 4, dim) | {"head.modulation": (1, 2, dim)}
    control = {"vace_patch_embedding.weight": (dim, 96, 1, 2, 2), "vace_patch_embedding.bias": (dim,)}
    control |= released_linear("vace_blocks.0.before_proj", dim, dim)
    for index in range(30):
        main |= released_block(f"blocks.{index}")
    for index in range(8):
        control |= released_block(f"vace_blocks.{index}")
        control |= released_linear(f"vace_blocks.{index}.after_proj", dim, dim)
    assert (len(main), len(control)) == (825, 236)
    with torch.device("meta"):
        model = SpatiaTransformer3DModel()
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {transformer_name(name): shape for name, shape in (main | control).items()} == found


def test_names_of_all_networks_are_covered():
    release = {**tiny.FIXTURES.tensors("dit_weights"), **tiny.FIXTURES.tensors("vace_weights")}
    assert rename(release, transformer_name).keys() == tiny.FIXTURES.transformer.state_dict().keys()
    vae = rename(tiny.FIXTURES.tensors("f_vae_weights"), autoencoder_name)
    config = autoencoder_config({n: tuple(t.shape) for n, t in vae.items()}, *tiny.statistics().values())
    assert vae.keys() == AutoencoderKLWan.from_config(config).state_dict().keys()
    text = rename(tiny.text_encoder_tensors(), text_encoder_name)
    shapes = {n: tuple(t.shape) for n, t in text.items()}
    assert text_encoder_config(shapes)[1] == shapes
    with pytest.raises(CheckpointError, match="neither"):
        lora_layers({"pipe.dit.blocks.0.x.alpha": torch.ones(1)})
