"""The official size learns in its two stages: the real classes and the real trainer, at a tiny random size."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import official_models as tiny
from spatia_env import cli
from spatia_env.errors import ActionError, CheckpointError
from spatia_env.models.wan.convert import ConvertConfig, convert
from spatia_env.models.wan.convert_layouts import (
    lora_layers,
    release_lora_layers,
    release_name,
    transformer_name,
)
from spatia_env.models.wan.folders import load_module
from spatia_env.models.wan.pipeline import load_official
from spatia_env.models.wan.text_encoder import UMT5TextEncoder
from spatia_env.models.wan.transformer import LoraTransformer3DModel
from spatia_env.train.episodes import EpisodeStore
from spatia_env.train.loop import LoopConfig
from spatia_env.train.official import OfficialTrainConfig, OfficialTrainer, train_official
from spatia_env.train.official_clips import ClipConfig, cut_clip, random_clips
from spatia_env.train.simulation import DataConfig, EpisodeConfig, render_data

pytest.importorskip("peft")
pytest.importorskip("transformers")
pytest.importorskip("ftfy")

H, W = 32, 64
SMALL = ClipConfig(frames=9, history=5, references=2, radius=0.1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The released files in miniature, converted, and an episode of the simulator."""
    root = tmp_path_factory.mktemp("official")
    released = {
        "wan": tiny.write_original(root / "wan"),
        "control": tiny.write_control(root / "control.safetensors"),
        "lora": tiny.write_lora(root / "lora.safetensors"),
    }
    convert(ConvertConfig(out=root / "model", dtype="float32", **released, **tiny.statistics()))
    no_lora = {**released, "lora": None}
    convert(ConvertConfig(out=root / "first", dtype="float32", **no_lora, **tiny.statistics()))
    episode = EpisodeConfig(clips=3, height=H, width=W, event_share=1.0, quiet_share=0.0)
    render_data(DataConfig(root / "data", count=1, workers=1, episode=episode))
    quiet = dataclasses.replace(episode, event_share=0.0)
    render_data(DataConfig(root / "quiet", count=1, workers=1, episode=quiet))
    return root


def config_of(files, tmp_path, stage, model="model", **loop):
    loop = LoopConfig(
        tmp_path / "run", **{"minutes": 5, "max_steps": 4, "learning_rate": 3e-3, "warmup": 1, **loop}
    )
    return OfficialTrainConfig(
        files / model, stage, loop, files / "data", files / "data", dev_clips=2, clip=SMALL, rank=3,
        dtype="float32", device="cpu", prompt_cache=str(tmp_path / "prompts"),
    )  # fmt: skip


# -- clips -----------------------------------------------------------------------------------------------------------


def episode_of(files, name="data"):
    return EpisodeStore(files / name).open(0)


@pytest.mark.parametrize("renderer", ["discs", "splat"])
def test_a_clip_shows_the_episode_and_what_the_cloud_knows_of_it(files, renderer):
    config = dataclasses.replace(SMALL, renderer=renderer, depth_error=0.0, keep=1.0)
    episode = episode_of(files, "quiet")
    clip = cut_clip(episode, 8, config, 5, np.random.default_rng(0), CPU)
    frames = episode.get("frames", slice(8, 17))
    assert torch.equal(clip.frames, frames) and clip.given == 5
    assert clip.scene_render.shape == (9, H, W, 3) and clip.unknown.shape == (9, H, W)
    known = clip.unknown[4] < 64  # the last given frame is in the cloud
    assert known.float().mean() > 0.5
    shown = clip.scene_render[4] / (1 - clip.unknown[4][..., None] / 255).clamp(min=0.5)  # discs are soft
    error = (shown - frames[4].float()).abs().mean(-1)
    assert error[known].mean() < 0.3 * (shown - frames[4].float().mean()).abs().mean(-1)[known].mean()
    assert clip.references.shape == (1, H, W, 3)  # cameras 0 and 12 of 9: one looks for a picture


def test_a_first_clip_has_its_picture_and_no_references(files):
    clip = cut_clip(episode_of(files), 0, SMALL, 1, np.random.default_rng(0), CPU)
    assert clip.given == 1 and len(clip.references) == 0
    later = cut_clip(episode_of(files), 0, SMALL, 5, np.random.default_rng(0), CPU)
    assert len(later.references) == 0  # there is nothing before it


def test_the_text_tells_what_happens_in_order(files):
    episode = episode_of(files)
    said = episode.meta["clips"]
    clip = cut_clip(episode, 4, dataclasses.replace(SMALL, frames=17), 5, np.random.default_rng(0), CPU)
    # New are frames 9 to 20: the second and the third clip of the episode.
    later = f". then {said[2]['event_text']}" if said[2]["event_text"] else ""
    assert clip.text == said[1]["text"] + later


def test_frames_after_the_clip_stay_out_unless_asked_for(files, monkeypatch):
    from spatia_env.train import official_clips

    seen = []
    monkeypatch.setattr(
        official_clips, "_Cloud", lambda episode, chosen, *rest: seen.append(chosen) or Shown()
    )
    monkeypatch.setattr(official_clips, "_condition", lambda episode, index: index == 21)

    class Shown:
        def show(self, c2w):
            return torch.zeros(len(c2w), H, W, 3).byte(), torch.zeros(len(c2w), H, W).byte()

    every = dataclasses.replace(SMALL, keep=1.0, map_stride=3)
    for later in (False, True):
        config = dataclasses.replace(every, later=later)
        cut_clip(episode_of(files), 6, config, 1, np.random.default_rng(0), CPU)
    assert seen == [[0, 3, 6], [0, 3, 6, 15, 18, 24]]  # frame 21 lies in fog


def test_clips_that_cannot_be_are_named(files, tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(ActionError, match="spatia train data"):
        next(random_clips(tmp_path, SMALL, 1, rng, CPU))
    with pytest.raises(ActionError, match="at least 10 clips"):
        next(random_clips(files / "data", ClipConfig(), 1, rng, CPU))
    for change in ({"frames": 10}, {"history": 9}, {"keep": 2.0}, {"radius": 0.0}, {"references": -1}):
        with pytest.raises(ActionError):
            dataclasses.replace(SMALL, **change)


# -- stages ----------------------------------------------------------------------------------------------------------


def parts_of(folder, dtype=torch.float32):
    return load_module(LoraTransformer3DModel, folder / "transformer", "transformer", dtype, CPU)


def trainer_of(config):
    pipeline = load_official(config.model, "cpu", prompt_cache="", text_encoder=zero_text)
    return OfficialTrainer(config, parts_of(config.model), pipeline.autoencoder.float(), zero_text)


def zero_text(texts):
    return torch.zeros(len(texts), 6, tiny.TEXT_DIM)


def clips_of(files, config):
    given = 1 if config.stage == "control" else config.clip.history
    return random_clips(files / "data", config.clip, given, np.random.default_rng(3), CPU)


@pytest.mark.parametrize("stage", ["control", "lora"])
def test_only_the_stage_s_own_weights_learn_and_the_error_falls(files, tmp_path, stage):
    config = config_of(files, tmp_path, stage, "first", max_steps=8, learning_rate=2e-2)
    trainer = trainer_of(dataclasses.replace(config, wordless=0.0, disturb=0.0))
    before = {n: p.detach().clone() for n, p in trainer.transformer.named_parameters()}
    clip = next(clips_of(files, config))
    first = trainer.evaluate([clip])
    figures = trainer.run(iter(lambda: clip, None), [clip])
    assert figures["velocity"] < 0.99 * first["velocity"]
    assert figures["velocity_silent"] == first["velocity_silent"]
    changed = {n for n, p in trainer.transformer.named_parameters() if not torch.equal(p, before[n])}
    own = "vace_" if stage == "control" else ".lora_"
    assert changed and all(own in name for name in changed)
    assert len(changed) > 0.9 * sum(own in name for name in before)
    saved = load_file(tmp_path / "run" / stage / "state.safetensors")
    assert sum(n.startswith("model.") for n in saved) == sum(own in name for name in before)


def test_both_stages_from_the_command_line_and_back_through_convert(files, tmp_path, capsys):
    """A branch that has learnt nothing, both stages, and a folder that makes clips."""
    released = {"wan": files / "wan", "dtype": "float32", **tiny.statistics()}
    convert(ConvertConfig(out=tmp_path / "base", **released))
    common = [
        "train", "official", "--data", str(files / "data"), "--dev", str(files / "data"), "--loop.out",
        str(tmp_path / "run"), "--loop.max-steps", "2", "--clip.frames", "9", "--clip.history", "5",
        "--clip.radius", "0.1", "--dtype", "float32", "--device", "cpu", "--rank", "2", "--dev-clips", "1",
        "--prompt-cache", str(tmp_path / "prompts"),
    ]  # fmt: skip
    assert cli.main([*common, "--model", str(tmp_path / "base"), "--stage", "control"]) == 0
    control = tmp_path / "run" / "control" / "control.safetensors"
    convert(ConvertConfig(out=tmp_path / "second", control=control, control_layers=(0, 4), **released))
    assert cli.main([*common, "--model", str(tmp_path / "second"), "--stage", "lora"]) == 0
    lora = tmp_path / "run" / "lora" / "lora.safetensors"
    names = set(load_file(lora))
    assert all(name.startswith("pipe.dit.blocks.") for name in names) and not any("alpha" in n for n in names)
    assert "pipe.dit.blocks.0.self_attn.q.lora_A.default.weight" in names
    made = convert(
        ConvertConfig(out=tmp_path / "model2", control=control, lora=lora, control_layers=(0, 4), **released)
    )
    pipeline = load_official(made.folder, "cpu", text_encoder=zero_text)
    assert pipeline.adapters.names == ("autoregressive",)
    assert "velocity" in capsys.readouterr().out


def test_a_new_branch_changes_nothing_until_it_has_learnt(files, tmp_path):
    released = {"wan": files / "wan", "dtype": "float32", **tiny.statistics()}
    folder = convert(ConvertConfig(out=tmp_path / "base", **released)).folder
    model, case = parts_of(folder), tiny.FIXTURES.tensors("b_dit_vace_ref_hist")
    assert model.config.control_layers == [0, 4]
    with torch.inference_mode():
        out = model(
            case["latents"], case["timestep_per_frame"][None], case["context"], case["vace_context"], 2
        ).sample
    torch.testing.assert_close(out, case["out_novace"], atol=1e-4, rtol=1e-4)


def test_a_run_goes_on_where_it_stopped(files, tmp_path):
    config = config_of(files, tmp_path, "lora", "first", max_steps=2)
    clips = clips_of(files, config)
    trainer_of(config).run(clips, [next(clips)])
    again = trainer_of(dataclasses.replace(config, loop=dataclasses.replace(config.loop, max_steps=3)))
    assert again.trainer.step == 2
    saved = load_file(tmp_path / "run" / "lora" / "state.safetensors")
    for name, parameter in again.part.named_parameters():
        assert torch.equal(parameter, saved[f"model.{name}"])
    again.run(clips, [next(clips)])
    assert json.loads((tmp_path / "run" / "lora" / "progress.json").read_text())["step"] == 3


def test_a_released_lora_is_what_the_second_stage_goes_on_from(files, tmp_path):
    config = config_of(files, tmp_path, "lora", max_steps=0)
    train_official(config)
    written = load_file(tmp_path / "run" / "lora" / "lora.safetensors")
    released = load_file(files / "lora.safetensors")
    kept = {name: tensor for name, tensor in released.items() if "pipe.dit." in name}
    assert lora_layers(written).keys() == lora_layers(kept).keys()
    for name, tensor in lora_layers(kept).items():
        assert torch.equal(lora_layers(written)[name], tensor)


@pytest.mark.parametrize("stage", ["control", "lora"])
def test_half_precision_rests_and_float32_learns(files, tmp_path, stage):
    config = dataclasses.replace(config_of(files, tmp_path, stage), dtype="bfloat16", rank=2)
    pipeline = load_official(config.model, "cpu", text_encoder=zero_text)
    transformer = parts_of(config.model, torch.bfloat16)
    trainer = OfficialTrainer(config, transformer, pipeline.autoencoder.float(), zero_text)
    assert {p.dtype for p in trainer.part.parameters()} == {torch.float32}
    own = {id(p) for p in trainer.part.parameters()}
    resting = [p for p in transformer.blocks[0].attn1.to_q.parameters() if id(p) not in own]
    assert resting and {p.dtype for p in resting} == {torch.bfloat16}
    clips = clips_of(files, config)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = trainer.loss([next(clips), next(clips)])
    loss.backward()
    assert torch.isfinite(loss)
    grads = {name: p.grad for name, p in trainer.part.named_parameters()}
    name = "vace_blocks.0.proj_in.weight" if stage == "control" else _adapter("lora_B")
    assert grads[name].abs().sum() > 0
    exported = load_file(trainer.export())
    if stage == "control":
        assert exported["vace_blocks.0.modulation"].dtype == torch.float32
        assert exported["vace_blocks.0.self_attn.q.weight"].dtype == torch.bfloat16
    else:
        assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}


def _adapter(half):
    return f"blocks/0/attn1/to_q/{half}/autoregressive/weight"


def test_a_clip_without_words_is_text_too(files, tmp_path):
    words = UMT5TextEncoder(files / "model", cache=tmp_path)
    assert words(["", "a ball"]).abs().sum((1, 2)).min() > 0


def test_names_find_their_way_back():
    weights = tiny.FIXTURES
    for name in [*weights.tensors("dit_weights"), *weights.tensors("vace_weights")]:
        assert release_name(transformer_name(name)) == name
    with torch.device("meta"):
        full = LoraTransformer3DModel()
    for name in full.state_dict():
        assert transformer_name(release_name(name)) == name
    assert lora_layers(release_lora_layers(weights.lora)).keys() == weights.lora.keys()


def test_bad_settings_are_named(files, tmp_path):
    for change in ({"batch": 0}, {"rank": 0}, {"dev_clips": 0}, {"wordless": 1.5}, {"disturb": -1}):
        with pytest.raises(ActionError):
            OfficialTrainConfig(files, **change)
    with pytest.raises(CheckpointError, match="spatia convert"):
        train_official(OfficialTrainConfig(tmp_path))
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with torch.device("meta"):
        bare = LoraTransformer3DModel(
            num_attention_heads=1, attention_head_dim=12, num_layers=1, control_layers=(), ffn_dim=8
        )
    with pytest.raises(CheckpointError, match="no control branch"):
        OfficialTrainer(config_of(files, tmp_path, "control"), bare, None, None)
