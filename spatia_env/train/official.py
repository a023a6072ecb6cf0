"""`spatia train official`: fine-tunes the official size in the paper's two stages, by the trainer of the tiny one.

    control   the control branch learns to follow the render of the map; all other weights are frozen. First clips: one
              picture is given, there are no references.
    lora      low-rank adapters of the main blocks learn to go on from nine frames and seven references; the control
              branch is frozen too.

Both learn the velocity of flow matching on the new latents; what is given has timestep 0 (`predict_velocity`, the
function that also samples). The results have the release's own names: `spatia convert` takes them in place of its
files.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from spatia_env.errors import ActionError, CheckpointError, DependencyError
from spatia_env.io.weights import write_tensors
from spatia_env.models.conditioning import add_noise
from spatia_env.models.wan.autoencoder import WanAutoencoder
from spatia_env.models.wan.convert_layouts import release_lora_layers, release_name, transformer_name
from spatia_env.models.wan.folders import KEPT_IN_FLOAT32, check_folder, load_module, read_small
from spatia_env.models.wan.pipeline import AUTOREGRESSIVE, LORA_FILE, Adapters, compute_device
from spatia_env.models.wan.sampling import (
    ClipConditions,
    SamplerSettings,
    encode_conditions,
    from_uint8,
    predict_velocity,
)
from spatia_env.models.wan.schedulers import RELEASE_SHIFT
from spatia_env.models.wan.text_encoder import PROMPT_SUFFIX, UMT5TextEncoder
from spatia_env.models.wan.transformer import LoraTransformer3DModel
from spatia_env.train.loop import LoopConfig, Trainer, open_processes
from spatia_env.train.official_clips import ClipConfig, OfficialClip, random_clips

UNGUIDED = SamplerSettings(guidance_scale=1.0)
DEV_SIGMAS = (0.3, 0.6, 0.9)
"""Noise levels at which dev clips are judged."""
TARGETS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
"""Layers that a new adapter changes: projections and feed-forward layers of the main blocks, not of the branch."""


@dataclass(frozen=True)
class OfficialTrainConfig:
    """Fine-tune the official size: `--stage control`, then `--stage lora`."""

    model: Path
    """folder that `spatia convert` wrote"""
    stage: Literal["control", "lora"] = "control"
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            out=Path("runs/official"), learning_rate=5e-5, warmup=50, ema=0.99, save_minutes=20, log_every=10
        )
    )
    """`out` gets a folder per stage"""
    data: Path = Path("runs/data/train")
    """episode files, of `spatia train data` or of `spatia train videos`"""
    dev: Path = Path("runs/data/dev")
    """episode files of the dev split"""
    dev_clips: int = 4
    """how many clips of it an evaluation looks at"""
    clip: ClipConfig = field(default_factory=ClipConfig)
    batch: int = 1
    """clips per step (and process)"""
    rank: int = 64
    """of the adapters, where the model folder has none to go on from"""
    wordless: float = 0.1
    """share of clips whose text is left out"""
    disturb: float = 0.1
    """most noise that given frames, references and render get, as a share of their latents' deviation"""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """precision of the frozen weights; trained ones are kept in float32 and computed in this"""
    checkpointing: bool = True
    """compute blocks again on the way back instead of keeping what they computed"""
    device: str | None = None
    """None for a GPU if there is one"""
    text_device: str = "cpu"
    """where the text encoder stays"""
    prompt_cache: str | None = None
    """folder of remembered prompt embeddings; None for the user's cache folder, "" for none"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.dev_clips < 1 or self.rank < 1:
            raise ActionError("batch, dev_clips and rank must be 1 or more.")
        if not (0 <= self.wordless <= 1 and 0 <= self.disturb <= 1):
            raise ActionError("wordless and disturb must lie in [0, 1].")


class ControlBranch(nn.Module):
    """What learns in the first stage: the control branch; its weights are the transformer's own, not copies.

    Args:
        transformer: Its branch is made to learn, in float32.

    Raises:
        CheckpointError: If it has none.
    """

    def __init__(self, transformer: LoraTransformer3DModel) -> None:
        super().__init__()
        if not transformer.config.control_layers:
            raise CheckpointError(
                "stage control: this transformer has no control branch; convert it with one."
            )
        self.vace_patch_embedding, self.vace_blocks = (
            transformer.vace_patch_embedding,
            transformer.vace_blocks,
        )
        self.control_scale = 1.0
        self.float().requires_grad_(True)

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Without hints."""
        self.control_scale = 0.0
        try:
            yield
        finally:
            self.control_scale = 1.0

    def released(self) -> dict[str, Tensor]:
        """The weights under the release's names."""
        return {release_name(name): tensor for name, tensor in self.state_dict().items()}


class LowRank(nn.Module):
    """What learns in the second stage: low-rank adapters, which add B A x unscaled.

    Args:
        transformer: Gets the adapters; it is frozen otherwise.
        rank: Of new adapters.
        layers: `<layer>.lora_A.weight` and `<layer>.lora_B.weight` to go on from; empty for new ones.
        seed: Of new ones.

    Raises:
        DependencyError: If peft is not installed.
    """

    control_scale = 1.0

    def __init__(
        self, transformer: LoraTransformer3DModel, rank: int, layers: dict[str, Tensor], seed: int = 0
    ) -> None:
        super().__init__()
        if layers:
            adapters = Adapters(transformer)
            adapters.add(AUTOREGRESSIVE, layers)
            adapters.activate([AUTOREGRESSIVE])
        else:
            _add_new(transformer, rank, seed)
        self._transformer = [transformer]  # in a list, so that it is no part of this module
        for name, parameter in transformer.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
                self.register_parameter(name.replace(".", "/"), parameter)

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Without the adapters."""
        self._transformer[0].disable_lora()
        try:
            yield
        finally:
            self._transformer[0].enable_lora()

    def released(self) -> dict[str, Tensor]:
        """The weights under the release's names."""
        own = self.state_dict().items()
        plain = {name.replace("/", ".").replace(f".{AUTOREGRESSIVE}.", "."): tensor for name, tensor in own}
        return release_lora_layers(plain)


def _add_new(transformer: LoraTransformer3DModel, rank: int, seed: int) -> None:
    try:
        from peft import LoraConfig
    except ImportError as cause:
        raise DependencyError('stage lora needs peft; run `pip install "spatia-env[official]"`.') from cause
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)  # alpha = rank: no scale
    transformer.add_adapter(config, adapter_name=AUTOREGRESSIVE)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if ".lora_A." in name:  # peft draws from the global state
            fresh = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)
            parameter.data.copy_(fresh)


@dataclass(frozen=True)
class EncodedClip:
    """A clip's `conditions`, and the latents [1, C, F, h, w] of its `new` frames."""

    conditions: ClipConditions
    new: Tensor


class OfficialTrainer:
    """The official size, made ready for one stage.

    Args:
        config: What to do.
        transformer: At rest; the stage's part of it is made to learn.
        autoencoder: Encodes clips.
        text_encoder: Callable from sentences to embeddings [B, L, D].
        adapter: Layers of a LoRA to go on from, in the second stage.
    """

    def __init__(
        self,
        config: OfficialTrainConfig,
        transformer: LoraTransformer3DModel,
        autoencoder: WanAutoencoder,
        text_encoder: Any,
        adapter: dict[str, Tensor] | None = None,
    ) -> None:
        self.config, self.transformer = config, transformer
        self.autoencoder, self.text_encoder = autoencoder, text_encoder
        self.device = transformer.patch_embedding.weight.device
        self.part = (
            ControlBranch(transformer)
            if config.stage == "control"
            else LowRank(transformer, config.rank, adapter or {}, config.seed)
        )
        if config.checkpointing:
            transformer.enable_gradient_checkpointing()
        self.given = 1 if config.stage == "control" else config.clip.history
        self.out = config.loop.out / config.stage
        loop = dataclasses.replace(config.loop, out=self.out, bf16=config.dtype == "bfloat16")
        self.trainer = Trainer(self.part, loop)
        self.generator = torch.Generator().manual_seed(config.seed + self.trainer.step)

    def run(
        self, clips: Iterator[OfficialClip] | None = None, dev: Iterable[OfficialClip] | None = None
    ) -> dict[str, float]:
        """Train, write the result into the run folder, and return the last dev figures.

        Args:
            clips: Endless; None for those of the config's data.
            dev: A few; None for those of the config's dev data.
        """
        config = self.config
        if clips is None:
            rng = np.random.default_rng([config.seed, self.trainer.step])
            clips = random_clips(config.data, config.clip, self.given, rng, self.device)
        if dev is None:
            fixed = random_clips(
                config.dev, config.clip, self.given, np.random.default_rng(20917), self.device
            )
            dev = [next(fixed) for _ in range(config.dev_clips)]
        dev = list(dev)
        batches = ([next(clips) for _ in range(config.batch)] for _ in iter(int, 1))
        figures = self.trainer.run(batches, self.loss, lambda: self.evaluate(dev))
        self.export()
        return figures

    def loss(self, clips: list[OfficialClip]) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the new latents' velocity at one random noise level a clip."""
        total = torch.zeros((), device=self.device)
        for clip in clips:
            wordless = float(torch.rand((), generator=self.generator)) < self.config.wordless
            encoded = self.encode(dataclasses.replace(clip, text="") if wordless else clip)
            level = float(torch.rand((), generator=self.generator))
            # The release's shift, so that levels are learnt as often as they are sampled.
            sigma = RELEASE_SHIFT * level / (1 + (RELEASE_SHIFT - 1) * level)
            disturbed = self._disturb(encoded.conditions)
            total = total + self._error(encoded.new, disturbed, sigma, self.generator)
        return total / len(clips), {}

    @torch.no_grad()
    def encode(self, clip: OfficialClip) -> EncodedClip:
        """A clip's conditions and new latents, as `SpatiaWanPipeline.generate` encodes them."""

        def video(frames: Tensor) -> Tensor:
            return from_uint8(frames.to(self.device))

        frames = video(clip.frames)
        text = f"{clip.text}{PROMPT_SUFFIX}" if clip.text else ""
        # Autocast would also encode in half precision; the autoencoder has its own precision.
        with torch.autocast(self.device.type, enabled=False):
            conditions = encode_conditions(
                self.autoencoder,
                self.text_encoder([text]).to(self.device),
                None,
                video(clip.scene_render),
                clip.unknown.to(self.device).float().div(255)[None, None],
                frames[:, :, : clip.given],
                video(clip.references) if len(clip.references) else None,
            )
            latents = self.autoencoder.encode(frames)
        return EncodedClip(conditions, latents[:, :, conditions.given_latents.shape[2] :])

    @torch.no_grad()
    def evaluate(self, clips: list[OfficialClip]) -> dict[str, float]:
        """Error on dev clips at fixed noise, and with the trained part switched off (`velocity_silent`)."""
        errors: dict[str, list[float]] = {"velocity": [], "velocity_silent": []}
        for number, clip in enumerate(clips):
            encoded = self.encode(clip)
            for sigma in DEV_SIGMAS:
                for name, silence in (
                    ("velocity", nullcontext()),
                    ("velocity_silent", self.part.silenced()),
                ):
                    generator = torch.Generator().manual_seed(number)
                    with silence, self._autocast():
                        error = self._error(encoded.new, encoded.conditions, sigma, generator)
                    errors[name].append(float(error))
        return {name: round(sum(values) / len(values), 5) for name, values in errors.items()}

    def export(self) -> Path:
        """Write what was learnt (averaged weights) under the release's names, for `spatia convert`."""
        path = self.out / f"{self.config.stage}.safetensors"
        if self.trainer.processes.is_main_process:
            dtype = getattr(torch, self.config.dtype)
            with self.trainer.averaged():
                tensors = {
                    name: tensor.detach().to("cpu", torch.float32 if _kept(name) else dtype, copy=True)
                    for name, tensor in self.part.released().items()
                }
            write_tensors(path, tensors, {"format": "pt"})
        return path

    def _error(
        self, new: Tensor, conditions: ClipConditions, sigma: float, generator: torch.Generator
    ) -> Tensor:
        noise = torch.randn(new.shape, generator=generator).to(new)
        noisy = add_noise(new, noise, torch.full((1,), sigma, device=new.device))
        settings = dataclasses.replace(UNGUIDED, control_scale=self.part.control_scale)
        with warnings.catch_warnings():  # norms keep float32 weights, as they should
            warnings.filterwarnings("ignore", message="Mismatch dtype")
            velocity = predict_velocity(self.transformer, conditions, noisy, 1000 * sigma, settings)
        return (velocity - (noise - new)).square().mean()

    def _disturb(self, conditions: ClipConditions) -> ClipConditions:
        """Conditions with a little noise: at play they come from the model's own earlier clips."""

        def noised(latents: Tensor) -> Tensor:
            amount = self.config.disturb * float(torch.rand((), generator=self.generator))
            return latents + amount * torch.randn(latents.shape, generator=self.generator).to(latents)

        render, mask = conditions.control.chunk(2, dim=1)
        return dataclasses.replace(
            conditions,
            control=torch.cat([noised(render), mask], dim=1),
            given_latents=noised(conditions.given_latents),
            reference_latents=noised(conditions.reference_latents),
        )

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")


def train_official(config: OfficialTrainConfig) -> dict[str, float]:
    """Run one stage on the weights of a model folder; returns the last dev figures.

    Raises:
        CheckpointError: If the folder is incomplete, altered, or asks for code that is not ours.
        ActionError: If there are no clips to learn from, or sizes do not fit.
        DependencyError: If the second stage lacks peft, or the text encoder transformers.
    """
    open_processes()  # takes a GPU a process before anything is loaded
    check_folder(config.model)
    device, dtype = compute_device(config.device), getattr(torch, config.dtype)
    transformer = load_module(
        LoraTransformer3DModel, config.model / "transformer", "transformer", dtype, device
    )
    vae = load_module(AutoencoderKLWan, config.model / "vae", "vae", dtype, device)
    words = UMT5TextEncoder(config.model, config.text_device, cache=config.prompt_cache, keep_loaded=True)
    file = config.model / LORA_FILE
    adapter = read_small(file) if config.stage == "lora" and file.is_file() else {}
    autoencoder = WanAutoencoder(vae).to(device)
    return OfficialTrainer(config, transformer, autoencoder, words, adapter).run()


def _kept(released: str) -> bool:
    return any(kept in transformer_name(released) for kept in KEPT_IN_FLOAT32)
