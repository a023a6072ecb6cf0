"""The official size behind the same call as the tiny one: text, render, references and past in, a clip out."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from spatia_env.errors import ActionError, CheckpointError, DependencyError
from spatia_env.io.weights import read_json
from spatia_env.models.generator import ClipShape
from spatia_env.models.pipeline import SpatiaPipeline
from spatia_env.models.wan.autoencoder import WanAutoencoder
from spatia_env.models.wan.convert_layouts import lora_layers
from spatia_env.models.wan.folders import check_folder, load_module, read_small
from spatia_env.models.wan.options import Levers, apply_levers
from spatia_env.models.wan.sampling import Clip, SamplerSettings, encode_conditions, sample_clip
from spatia_env.models.wan.text_encoder import NEGATIVE_PROMPT, PROMPT_SUFFIX, UMT5TextEncoder
from spatia_env.models.wan.transformer import LoraTransformer3DModel

OFFICIAL_SHAPE = ClipShape(
    num_frames=72, num_preceding=9, num_references=7, height=704, width=1248, multiple=32
)
"""A step makes 72 new frames: after the first picture 1 + 72, later 9 + 72."""
LORA_FILE = Path("lora") / "autoregressive.safetensors"
AUTOREGRESSIVE = "autoregressive"
"""The release's LoRA, active from the second clip on."""
FEW_STEP = "few_step"
"""An optional distilled LoRA, active in every clip."""


class Adapters:
    """The adapters that a transformer carries. Weights stay as they are; an adapter adds B A x, unscaled.

    Args:
        transformer: Gets the adapters.
    """

    def __init__(self, transformer: LoraTransformer3DModel) -> None:
        self.transformer = transformer
        self.names: tuple[str, ...] = ()
        self.active: tuple[str, ...] = ()

    def add(self, name: str, layers: Mapping[str, Tensor]) -> None:
        """Add an adapter, inactive, from `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.

        Raises:
            DependencyError: If peft is not installed.
        """
        from diffusers.utils import is_peft_available

        if not is_peft_available():
            raise DependencyError('a LoRA needs peft; run `pip install "spatia-env[official]"`.')
        weight = self.transformer.patch_embedding.weight
        state = {key: tensor.to(weight) for key, tensor in layers.items()}
        with warnings.catch_warnings():
            # peft asks whether a second adapter is meant: it is.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            self.transformer.load_lora_adapter(state, prefix=None, adapter_name=name)
        self.names = (*self.names, name)
        self.activate(self.active)

    def activate(self, names: Sequence[str]) -> None:
        """Activate exactly these adapters.

        Raises:
            ActionError: If one is not there.
        """
        unknown = set(names) - set(self.names)
        if unknown:
            raise ActionError(f"adapter {sorted(unknown)[0]!r}: is not loaded; there are {list(self.names)}.")
        if names:
            self.transformer.enable_lora()
            self.transformer.set_adapters(list(names), [1.0] * len(names))
        elif self.names:
            self.transformer.disable_lora()
        self.active = tuple(names)

    def for_clip(self, first: bool) -> None:
        """Activate what belongs to a first clip, or to a later one."""
        inactive = {AUTOREGRESSIVE} if first else set()
        self.activate([name for name in self.names if name not in inactive])


class SpatiaWanPipeline(SpatiaPipeline):
    """Generates clips with the official weights; called like `SpatiaPipeline`.

    Args:
        transformer: `LoraTransformer3DModel`.
        autoencoder: `WanAutoencoder`.
        text_encoder: Callable from sentences to embeddings [B, 512, D].
        shape: Frames, references and picture size.
        settings: Steps, guidance and scales.
        adapters: LoRAs of the transformer; None for none.
        device: Where clips are computed.
        offload: Whether each network is moved there only while it works.
    """

    reads_known_words = False
    reads_continued = False

    def __init__(
        self,
        transformer: LoraTransformer3DModel,
        autoencoder: WanAutoencoder,
        text_encoder: object,
        shape: ClipShape = OFFICIAL_SHAPE,
        settings: SamplerSettings | None = None,
        adapters: Adapters | None = None,
        device: torch.device | str = "cpu",
        offload: bool = False,
    ) -> None:
        super().__init__(transformer, autoencoder, text_encoder, shape)
        self.settings = settings or SamplerSettings()
        self.adapters = adapters or Adapters(transformer)
        self.compute_device, self.offload = torch.device(device), offload

    @torch.inference_mode()
    def __call__(
        self,
        prompt: list[str],
        scene_render: Tensor,
        known: Tensor,
        reference_frames: Tensor,
        preceding_frames: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        places: Tensor | None = None,
        falling: Tensor | None = None,
        continued: Tensor | None = None,
    ) -> Tensor:
        """Generate the next clip of B worlds, one after the other.

        Args:
            prompt: B sentences.
            scene_render: The map rendered along the new path [B, 3, T, H, W] in [-1, 1]; or along the P preceding
                cameras and the new path, P + T frames, which is what the weights were trained with. Where
                the first are missing the preceding frames stand in for their own render.
            known: Where the render is covered, [B, 1, T or P + T, H, W] in [0, 1].
            reference_frames: Retrieved pictures [B, 3, R, H, W]; not used for a first clip.
            preceding_frames: [B, 3, P, H, W]: P = 1, the first picture, for a first clip; else 4k + 1, the release
                has 9. A picture that is repeated P times, as when a world has just begun, counts as one.
            generator: Source of the noise on the CPU, one for all or one per world.
            places: Not used: the released weights were trained without.
            falling: Likewise.
            continued: Likewise.

        Returns:
            The new frames [B, 3, T, H, W] in [-1, 1].

        Raises:
            ActionError: If sizes or numbers of frames do not fit.
        """
        clips = []
        for world, sentence in enumerate(prompt):
            row = slice(world, world + 1)
            given = _given(preceding_frames[row])
            past = given.shape[2]
            render, cover = _whole_clip(scene_render[row], known[row], given, self.shape.num_frames)
            clip = self.generate(
                sentence,
                render,
                1 - cover,
                given_frames=given,
                reference_frames=None if past == 1 else reference_frames[row],
                generator=generator[world] if isinstance(generator, list) else generator,
            )
            clips.append(clip.frames[:, :, past:])
        return torch.cat(clips)

    @torch.inference_mode()
    def generate(
        self,
        prompt: str,
        scene_render: Tensor,
        unknown: Tensor,
        given_frames: Tensor,
        reference_frames: Tensor | None = None,
        generator: torch.Generator | None = None,
        settings: SamplerSettings | None = None,
    ) -> Clip:
        """One clip with its latents, given frames included.

        Args:
            prompt: One sentence, as the user wrote it; the release's suffix is added.
            scene_render: The map along the whole clip [1, 3, T, H, W] in [-1, 1].
            unknown: 1 where the render is empty [1, 1 or 3, T, H, W] in [0, 1].
            given_frames: [1, 3, 1, H, W], the first picture, or [1, 3, 4k + 1, H, W], the last frames.
            reference_frames: [1, 3, R, H, W].
            generator: On the CPU.
            settings: Instead of the pipeline's own.
        """
        settings = settings or self.settings
        guided = settings.guidance_scale != 1 and not settings.few_step_sigmas
        # In one call, so that the text encoder is loaded once for both.
        embeds = self.text_encoder([prompt + PROMPT_SUFFIX, *([NEGATIVE_PROMPT] if guided else [])])
        embeds, negative = embeds[:1], embeds[1:] if guided else None
        self.adapters.for_clip(first=given_frames.shape[2] == 1)
        with self._working(self.autoencoder) as autoencoder:
            conditions = encode_conditions(
                autoencoder,
                self._here(embeds),
                None if negative is None else self._here(negative),
                self._here(scene_render),
                self._here(unknown),
                self._here(given_frames),
                None if reference_frames is None else self._here(reference_frames),
            )
        with self._working(self.transformer) as transformer:
            latents = sample_clip(transformer, conditions, generator, settings)
        with self._working(self.autoencoder) as autoencoder:
            frames = autoencoder.decode(latents)
        return Clip(frames.cpu(), latents.cpu())

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] of latents of any length, such as those of several clips."""
        with self._working(self.autoencoder) as autoencoder:
            return autoencoder.decode(self._here(latents)).cpu()

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.compute_device)

    @contextmanager
    def _working(self, module: nn.Module) -> Iterator[Any]:
        """A network that is on the device while it works, and afterwards only if nothing is offloaded."""
        if self.offload:
            module.to(self.compute_device)
        try:
            yield module
        finally:
            if self.offload:
                module.to("cpu")
                if self.compute_device.type == "cuda":
                    torch.cuda.empty_cache()


def load_official(
    folder: str | Path,
    device: torch.device | str | None = None,
    levers: Levers | None = None,
    settings: SamplerSettings | None = None,
    shape: ClipShape = OFFICIAL_SHAPE,
    prompt_cache: Path | str | None = None,
    text_encoder: Callable[[list[str]], Tensor] | None = None,
) -> SpatiaWanPipeline:
    """The pipeline of a model folder that `spatia convert` wrote.

    Args:
        folder: The folder.
        device: Where clips are computed; None for a GPU if there is one.
        levers: Memory and time.
        settings: Steps, guidance and scales.
        shape: Frames, references and picture size of a step.
        prompt_cache: See `UMT5TextEncoder`.
        text_encoder: From sentences to embeddings [B, 512, D], instead of the folder's own.

    Raises:
        CheckpointError: If the folder is incomplete, altered, or asks for code that is not ours.
        DependencyError: If it needs a package that is not installed.
        ActionError: If levers exclude one another.
    """
    folder, levers, settings = Path(folder), levers or Levers(), settings or SamplerSettings()
    device = compute_device(device)
    check_folder(folder)
    if text_encoder is None and not (folder / "text_encoder").is_dir():
        raise CheckpointError(
            f"{folder}: has no text_encoder; convert the weights again with it, or hand in text_encoder=."
        )
    text_encoder = text_encoder or UMT5TextEncoder(folder, levers.text_device, cache=prompt_cache)
    dtype = getattr(torch, levers.dtype)
    at_once = device if levers.offload == "none" else torch.device("cpu")
    transformer = load_module(LoraTransformer3DModel, folder / "transformer", "transformer", dtype, at_once)
    vae = load_module(AutoencoderKLWan, folder / "vae", "vae", dtype, at_once)
    adapters = Adapters(transformer)
    if (folder / LORA_FILE).is_file():
        adapters.add(AUTOREGRESSIVE, read_small(folder / LORA_FILE))
    if levers.few_step_lora is not None:
        adapters.add(FEW_STEP, few_step_layers(Path(levers.few_step_lora)))
        settings = replace(settings, few_step_sigmas=levers.few_step_sigmas)
    autoencoder = WanAutoencoder(vae).to(at_once)
    apply_levers(transformer, autoencoder, levers, device)
    return SpatiaWanPipeline(
        transformer,
        autoencoder,
        text_encoder,
        shape,
        settings,
        adapters,
        device,
        offload=levers.offload == "stages",
    )


def compute_device(name: torch.device | str | None) -> torch.device:
    """Where clips are computed: as named, else a GPU if there is one.

    Raises:
        ActionError: If torch knows no such device, or sees no GPU.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as cause:
        raise ActionError(f"device {str(name)!r}: is none; give cuda, cuda:1 or cpu.") from cause
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ActionError(f"device {str(name)!r}: no GPU is visible to torch here; give device cpu.")
    return device


def few_step_layers(path: Path) -> dict[str, Tensor]:
    """Layers of a distilled LoRA in the original Wan naming, with or without a `diffusion_model.` prefix.

    Raises:
        CheckpointError: If the file is no such LoRA.
    """
    plain = {}
    for name, tensor in read_small(path).items():
        name = (
            name.removeprefix("diffusion_model.").replace("lora_down", "lora_A").replace("lora_up", "lora_B")
        )
        plain[f"pipe.dit.{name}"] = tensor
    return lora_layers(plain)


def official_id(folder: str | Path) -> str:
    """A name and a hash for the weights of a model folder, from the hashes of what it was made of.

    Raises:
        CheckpointError: If the folder lacks the note that `spatia convert` leaves.
    """
    made = read_json(Path(folder) / "spatia.json")
    text = json.dumps({"sources": made.get("sources"), "dtype": made.get("dtype")}, sort_keys=True)
    return f"spatia-wan-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _given(preceding_frames: Tensor) -> Tensor:
    """The frames of a history, or the one picture that it repeats."""
    first = preceding_frames[:, :, :1]
    return first if bool((preceding_frames == first).all()) else preceding_frames


def _whole_clip(
    scene_render: Tensor, known: Tensor, preceding_frames: Tensor, num_frames: int
) -> tuple[Tensor, Tensor]:
    """Render and coverage [1, ., P + T, H, W] over preceding and new frames."""
    past, given = preceding_frames.shape[2], scene_render.shape[2]
    if given == past + num_frames:
        return scene_render, known
    if given != num_frames:
        raise ActionError(
            f"scene_render: has {given} frames; give {num_frames} (the new ones), "
            f"or {past + num_frames} with the {past} preceding ones first."
        )
    covered = torch.ones_like(known[:, :, :1]).expand(-1, -1, past, -1, -1)
    return torch.cat([preceding_frames, scene_render], dim=2), torch.cat([covered, known], dim=2)
