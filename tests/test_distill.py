"""Few-step distillation: the student ends where the teacher's longer path ends."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from spatia_env.errors import ActionError
from spatia_env.models.conditioning import Conditions, control_latents, sample_few_steps
from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.train import distill
from spatia_env.train.autoencoder import encode_episodes, fresh_autoencoder
from spatia_env.train.dataset import Batch
from spatia_env.train.distill import (
    DistillConfig,
    check_levels,
    distances,
    distill_loss,
    sample,
    train_distill,
)
from spatia_env.train.loop import LoopConfig, Trainer
from spatia_env.train.simulation import DataConfig, EpisodeConfig, render_data
from spatia_env.train.world_model import WorldModel, load_world_model, tiny_transformer

LEVELS = (1.0, 0.75, 0.5, 0.25)


def network(seed=0):
    """A small random transformer whose velocity depends on what it sees."""
    torch.manual_seed(seed)
    model = SpatiaTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=8, out_channels=8,
        text_dim=16, freq_dim=32, ffn_dim=64, num_layers=1, control_layers=(0,), control_in_channels=8 + 16,
        control_at_input=True,
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.04)
    return model


def batch(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    preceding, render = draw(8, 8, 4, 2, 4), draw(8, 8, 8, 2, 4)
    control = control_latents(preceding, render, torch.ones(8, 16, 8, 2, 4))
    conditions = Conditions(draw(8, 5, 16), draw(8, 8, 2, 2, 4), preceding, control)
    return Batch(conditions, draw(8, 8, 8, 2, 4), torch.ones(8, 1, 8, 2, 4), None)


def test_a_straight_path_ends_at_once(monkeypatch):
    """Where every prediction is one clip, the noise that came in stays in, level by level."""
    example = batch(0)
    clean, noise = torch.randn_like(example.clean), torch.randn_like(example.clean)
    seen = []

    def predict(transformer, noisy, level, conditions):
        seen.append(level)
        expected = (1 - level) * clean + level * noise if level < 1 else conditions.start
        torch.testing.assert_close(noisy, expected)
        return clean

    monkeypatch.setattr(distill, "_predict", predict)
    torch.testing.assert_close(sample(None, example.conditions, LEVELS, noise), clean)
    assert seen == list(LEVELS)


def test_the_path_is_that_of_the_few_step_sampler():
    """With two levels it is what plays: the same clip from the same noise."""
    example, model = batch(3), network()
    noise = torch.randn(example.clean.shape, generator=torch.Generator().manual_seed(5))
    ours = sample(model, example.conditions, (1.0, 0.5), noise)
    played = sample_few_steps(model, example.conditions, [1.0, 0.5], torch.Generator().manual_seed(5))
    assert (ours - played).square().mean().sqrt() < 0.02 * played.std()  # bfloat16 in training


@pytest.mark.parametrize("levels", [pytest.param((1.0,), marks=pytest.mark.slow), (1.0, 0.5)])
def test_the_student_comes_nearer_to_the_teacher(tmp_path, levels):
    """Through the Trainer, on new clips: nearer than it began, which is the teacher at fewer steps."""
    teacher, student = network(), network()
    loop = LoopConfig(tmp_path, max_steps=80, learning_rate=4e-3, warmup=3, ema=0.9, log_every=10)
    config = DistillConfig(loop, teacher_sigmas=LEVELS, sigmas=levels, truth_weight=0.0)
    dev = [batch(1000), batch(1001)]
    before = distances(student, teacher, dev, config)
    assert before["to_teacher"] == before["fewer_steps"] > 0.02
    generator = torch.Generator().manual_seed(0)
    after = Trainer(student, loop).run(
        (batch(seed) for seed in range(80)),
        lambda b: distill_loss(student, teacher, b, config, generator),
        lambda: distances(student, teacher, dev, config),
    )
    assert after["fewer_steps"] == before["fewer_steps"]  # the teacher is as it was
    assert after["to_teacher"] < 0.85 * before["to_teacher"]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((1.0, 0.5), (1.0, 0.5)),
        ((0.9,), LEVELS),
        ((1.0, 1.0), LEVELS),
        ((1.0,), (1.0, 0.5, 0.0)),
        ((), LEVELS),
    ],
)
def test_levels_that_cannot_be(student, teacher):
    with pytest.raises(ActionError, match="sigmas"):
        check_levels(student, teacher)


@pytest.mark.slow
def test_a_run_folder_of_a_world_model_comes_out(tmp_path):
    """From recorded episodes and a world model's run to another run of the same form, and on from there."""
    episode = EpisodeConfig(clips=1, height=64, width=96)
    render_data(DataConfig(tmp_path / "data", count=1, workers=1, episode=episode))
    autoencoder = fresh_autoencoder()
    Trainer(autoencoder, LoopConfig(tmp_path / "autoencoder")).save()
    encode_episodes(autoencoder, tmp_path / "data")
    Trainer(WorldModel(tiny_transformer(), autoencoder), LoopConfig(tmp_path / "world-model")).save()

    def config(steps):
        loop = LoopConfig(tmp_path / "distilled", max_steps=steps, warmup=1, log_every=1)
        data = tmp_path / "data"
        return DistillConfig(loop, tmp_path / "world-model", tmp_path / "autoencoder", (data,), data, batch=2)

    figures = train_distill(config(1))
    assert set(figures) == {"to_teacher", "fewer_steps", "student_error", "teacher_error"}
    assert np.isfinite(list(figures.values())).all()
    train_distill(config(2))
    assert json.loads(Path(tmp_path / "distilled" / "progress.json").read_text())["step"] == 2
    model = load_world_model(tmp_path / "distilled", tmp_path / "autoencoder")
    assert model.autoencoder.config.falling_planes == 2
