"""`spatia train distill`: a student that ends in one or two evaluations where its teacher ends in four.

The sampler predicts the clean clip, adds less noise, and predicts again. The student goes along its own path, and at
each of its levels learns to say in one evaluation in which clip the teacher's longer path ends, from the same noise
(Luhman and Luhman, 2021). At level 1, where sampling starts from the render without noise, that is the mean of the
teacher's clips; at its second level it is that clip. No guidance pass, no network beside the two. The run
folder is one of a world model: `world-model` goes on from it, `ship` packs it.
"""

import copy
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spatia_env.errors import ActionError
from spatia_env.models.conditioning import Conditions, add_noise, predict_clean
from spatia_env.train.dataset import Batch, ClipStore, dev_batches, training_batches
from spatia_env.train.loop import LoopConfig, Trainer, to_device
from spatia_env.train.world_model import begin_transformer, blank_latents, load_world_model, size_of


@dataclass(frozen=True)
class DistillConfig:
    """Distil a flow-trained world model into fewer steps."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            out=Path("runs/distilled"), learning_rate=3e-4, muon=2.0, eval_minutes=15.0
        )
    )
    teacher: Path = Path("runs/world-model")
    """run folder of the trained world model"""
    autoencoder: Path = Path("runs/autoencoder")
    """run folder of the autoencoder that its training began with"""
    data: tuple[Path, ...] = (Path("runs/data/train"),)
    """folders of encoded episodes of the train split"""
    dev: Path = Path("runs/data/dev")
    """encoded episodes of the dev split"""
    dev_episodes: int = 12
    """how many dev episodes an evaluation uses"""
    teacher_sigmas: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """noise levels of the teacher's sampler, falling from 1"""
    sigmas: tuple[float, ...] = (1.0, 0.5)
    """noise levels of the student's, fewer"""
    batch: int = 16
    """clips per step"""
    truth_weight: float = 0.1
    """weight of the error against the true clip, which keeps the student from the teacher's own mistakes"""
    forget_share: float = 0.08
    """share of samples that lose the map's render, and as many that lose the references"""
    seed: int = 0


def train_distill(config: DistillConfig) -> dict[str, float]:
    """Distil until the minutes are used up; returns the dev distances.

    Raises:
        ActionError: Levels that are none, or the student's are not fewer than the teacher's.
    """
    check_levels(config.sigmas, config.teacher_sigmas)
    size = size_of(config.teacher)
    begin_transformer(config.loop.out, size)
    model = load_world_model(config.teacher, config.autoencoder)
    model.autoencoder.requires_grad_(False)
    teacher = copy.deepcopy(model.transformer).requires_grad_(False).eval().to(config.loop.device)
    trainer = Trainer(model, config.loop)
    generator = torch.Generator().manual_seed(config.seed + trainer.step)
    rng = np.random.default_rng([config.seed, trainer.step])
    store = ClipStore(*config.data)
    blank = blank_latents(model.autoencoder, *store.size)
    batches = training_batches(store, config.batch, 1, config.forget_share, blank, rng)
    dev = [
        to_device(batch, trainer.device)
        for batch in dev_batches(ClipStore(config.dev, limit=config.dev_episodes))
    ]
    return trainer.run(
        batches,
        lambda batch: distill_loss(model.transformer, teacher, batch, config, generator),
        lambda: distances(model.transformer, teacher, dev, config),
    )


def check_levels(student: tuple[float, ...], teacher: tuple[float, ...]) -> None:
    """Raise `ActionError` unless both fall from 1 to above 0 and the student's are fewer."""
    for name, levels in (("--sigmas", student), ("--teacher-sigmas", teacher)):
        falling = all(a > b for a, b in itertools.pairwise(levels))
        if not levels or levels[0] != 1.0 or not falling or levels[-1] <= 0:
            raise ActionError(f"{name} {levels}: give noise levels that fall from 1 and stay above 0.")
    if len(student) >= len(teacher):
        raise ActionError(f"--sigmas {student}: give fewer levels than --teacher-sigmas {teacher}.")


def distill_loss(
    student: nn.Module, teacher: nn.Module, batch: Batch, config: DistillConfig, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Error of the student at one of its levels against the teacher's clip of the same noise, and the true clip."""
    conditions = batch.conditions
    noise = torch.randn(batch.clean.shape, generator=generator).to(batch.clean.device)
    number = int(torch.randint(len(config.sigmas), (1,), generator=generator))
    with torch.no_grad():
        noisy = arrive(student, conditions, config.sigmas[: number + 1], noise)
        target = sample(teacher, conditions, config.teacher_sigmas, noise)
    level = config.sigmas[number]
    predicted = _predict(student, noisy, level, conditions)
    distance = ((predicted - target).square() * batch.weight).mean()
    truth = ((predicted - batch.clean).square() * batch.weight).mean()
    return distance + config.truth_weight * truth, {
        f"distance_{level:g}": distance.item(),
        "truth": truth.item(),
    }


def sample(
    transformer: nn.Module, conditions: Conditions, levels: tuple[float, ...], noise: Tensor
) -> Tensor:
    """The clean clip [B, C, T, h, w] in which a sampler with these levels ends, decided by `noise`."""
    return _predict(transformer, arrive(transformer, conditions, levels, noise), levels[-1], conditions)


def arrive(
    transformer: nn.Module, conditions: Conditions, levels: tuple[float, ...], noise: Tensor
) -> Tensor:
    """The noisy clip that a sampler has before it at the last of `levels`.

    At level 1 that is the scene render, in which there is no noise; `noise` enters at the second level, and what is in
    the clip is kept from there on (Song et al., DDIM).
    """
    noisy, kept = conditions.start, noise
    for coarser, level in itertools.pairwise(levels):
        clean = _predict(transformer, noisy, coarser, conditions)
        if coarser < 1:
            kept = (noisy - (1 - coarser) * clean) / coarser
        noisy = add_noise(clean, kept, torch.full((len(clean),), level, device=clean.device))
    return noisy


def _predict(transformer: nn.Module, noisy: Tensor, level: float, conditions: Conditions) -> Tensor:
    levels = torch.full((len(noisy),), level, device=noisy.device)
    return predict_clean(transformer, noisy, levels, conditions)


@torch.no_grad()
def distances(
    student: nn.Module, teacher: nn.Module, batches: list[Batch], config: DistillConfig
) -> dict[str, float]:
    """Root mean square differences of latents over dev clips, all from the same noise.

    `to_teacher`: student's few levels against the teacher's many; `fewer_steps`: the teacher itself at the student's
    levels, which distillation must beat; `student_error`, `teacher_error`: against the true clip.
    """
    sums: dict[str, list[float]] = {}
    for number, batch in enumerate(batches):
        own = torch.Generator().manual_seed(number)
        noise = torch.randn(batch.clean.shape, generator=own).to(batch.clean.device)
        few = sample(student, batch.conditions, config.sigmas, noise)
        many = sample(teacher, batch.conditions, config.teacher_sigmas, noise)
        naive = sample(teacher, batch.conditions, config.sigmas, noise)
        for name, a, b in (
            ("to_teacher", few, many),
            ("fewer_steps", naive, many),
            ("student_error", few, batch.clean),
            ("teacher_error", many, batch.clean),
        ):
            sums.setdefault(name, []).append(float((a - b).square().mean()))
    return {name: round(float(np.sqrt(np.mean(values))), 4) for name, values in sums.items()}
