"""Options of the official size: what `gym.make(..., model_options=...)` takes, and what each costs and saves.

`OfficialOptions` are read from a flat dict, checked by name. `Levers` are those about memory and time, `LEVERS` is the
table of the documentation. "Exact" means the same mathematics, so the same picture up to rounding. What is not optional
because it costs nothing is in the table too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from spatia_env.errors import ActionError
from spatia_env.io.validation import near_miss
from spatia_env.models.wan.sampling import SamplerSettings

Exactness = Literal["exact", "approximate"]


@dataclass(frozen=True)
class Levers:
    """Options of the official size. The defaults are the release's numbers in the least memory without loss of time."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """precision of the weights; norms, modulation and time embedding stay float32"""
    text_device: str = "cpu"
    """where the text encoder runs; it is loaded for new prompts only"""
    offload: Literal["none", "stages", "groups"] = "none"
    """"stages": only the network in use is on the accelerator; "groups": only a few of its blocks"""
    attention: str | None = None
    """attention back-end by diffusers' name, such as "_native_cudnn"; those ending in _hub fetch compiled code"""
    compile_blocks: bool = False
    """compile the transformer's blocks: a minute at the first clip"""
    fuse_qkv: bool = False
    """one projection instead of three in self-attention; not together with a LoRA"""
    vae_tiling: bool = False
    """encode and decode in overlapping tiles"""
    first_block_cache: float | None = None
    """skip the main blocks where the first one's output changed by less than this share, such as 0.05"""
    float8_weights: bool = False
    """store the transformer's weights in 8 bits, computing in `dtype`"""
    few_step_lora: Path | None = None
    """a distilled LoRA (.safetensors), with `few_step_sigmas`"""
    few_step_sigmas: tuple[float, ...] = (1.0, 0.757, 0.522)
    """noise levels that the distilled LoRA was trained for"""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dtype", ("bfloat16", "float16", "float32")),
            ("offload", ("none", "stages", "groups")),
        ):
            if getattr(self, name) not in allowed:
                raise ActionError(f"{name}={getattr(self, name)!r}: use one of {allowed}.")
        if self.first_block_cache is not None and not 0 < self.first_block_cache < 1:
            raise ActionError(
                f"first_block_cache={self.first_block_cache!r}: give a share in (0, 1), such as 0.05."
            )


@dataclass(frozen=True)
class Lever:
    """One line of the table: `name`, the `option` that sets it, whether it is exact, and what it saves."""

    name: str
    option: str
    exactness: Exactness
    saves: str


LEVERS: tuple[Lever, ...] = (
    Lever(
        "modulation by frame", "always on", "exact", "one row per latent frame instead of one per token: 2 GB"
    ),
    Lever("step the free frames only", "always on", "exact", "sampler state of references and given frames"),
    Lever(
        "prompt embeddings on disk", "always on", "exact", "the text encoder for every prompt but a new one"
    ),
    Lever("text encoder off the GPU", 'text_device="cpu" (default)', "exact", "11 GB of GPU memory"),
    Lever(
        "half precision",
        'dtype="bfloat16" (default)',
        "approximate",
        "half of the memory; as the release runs",
    ),
    Lever("offload by stage", 'offload="stages"', "exact", "1.4 GB while sampling, 12.8 GB while decoding"),
    Lever(
        "offload by block",
        'offload="groups"',
        "exact",
        "all weights but two blocks (0.7 GB); time for copies",
    ),
    Lever(
        "attention back-end",
        'attention="_native_cudnn"',
        "exact",
        "time: self-attention is half of the FLOPs",
    ),
    Lever(
        "8-bit attention", 'attention="sage_hub"', "approximate", "more of that time; fetches compiled code"
    ),
    Lever("compiled blocks", "compile_blocks=True", "exact", "time between the matrix products"),
    Lever("fused projections", "fuse_qkv=True", "exact", "a little time; without a LoRA only"),
    Lever("autoencoder in tiles", "vae_tiling=True", "approximate", "memory while decoding; faint seams"),
    Lever(
        "first-block cache",
        "first_block_cache=0.05",
        "approximate",
        "main blocks of similar steps; hints stay",
    ),
    Lever("8-bit weights", "float8_weights=True", "approximate", "6.4 GB of GPU memory"),
    Lever("fewer steps", "num_inference_steps=20", "approximate", "half of the time at 20 instead of 40"),
    Lever("no guidance", "guidance_scale=1", "approximate", "half of the time"),
    Lever("few-step LoRA", "few_step_lora=FILE", "approximate", "3 forward passes instead of 80"),
)


@dataclass(frozen=True)
class OfficialOptions:
    """How the official weights are run in the environment."""

    levers: Levers = field(default_factory=Levers)
    """memory and time"""
    settings: SamplerSettings = field(default_factory=SamplerSettings)
    """steps, guidance and scales"""
    device: str | None = None
    """where clips are computed; None for a GPU if there is one"""
    prompt_cache: str | None = None
    """folder of remembered prompt embeddings; None for the user's cache folder, "" for none"""
    mapanything: str | None = None
    """folder or repository of MapAnything, for depth; None for the packaged geometry network"""
    mapanything_revision: str | None = None
    """full hash of a commit of that repository"""
    detector: str | None = None
    """folder of a GroundingDINO and ..."""
    segmenter: str | None = None
    """... of a SAM 2, which find what is named in `moving`; with `mapanything`"""
    moving: tuple[str, ...] = ()
    """names of things that move, such as "person": kept out of the map"""


_OWN = tuple(one.name for one in fields(OfficialOptions) if one.name not in ("levers", "settings"))
_LEVERS = tuple(one.name for one in fields(Levers))
# The levels of a few-step LoRA are the lever's; the pipeline hands them on to its sampler.
_SETTINGS = tuple(one.name for one in fields(SamplerSettings) if one.name not in _LEVERS)


def read_options(given: Mapping[str, Any] | None) -> OfficialOptions:
    """Options from a flat dict whose keys are fields of `Levers`, of `SamplerSettings` and of `OfficialOptions`.

    Raises:
        ActionError: If a key is not known, or a value is none of its kind.
    """
    values = {name: _frozen(value) for name, value in (given or {}).items()}
    known = (*_LEVERS, *_SETTINGS, *_OWN)
    for name in values:
        if name not in known:
            raise ActionError(f"model_options: unknown key {name!r}{near_miss(name, known)}")
    if values.get("moving") and values.get("mapanything") is None:
        raise ActionError("model_options['moving']: needs 'mapanything', whose depth the masks are for.")
    return OfficialOptions(
        Levers(**{name: value for name, value in values.items() if name in _LEVERS}),
        SamplerSettings(**{name: value for name, value in values.items() if name in _SETTINGS}),
        **{name: value for name, value in values.items() if name in _OWN},
    )


def _frozen(value: Any) -> Any:
    """Lists as tuples and paths as text, so that equal options load one pipeline."""
    if isinstance(value, list):
        return tuple(value)
    return str(value) if isinstance(value, Path) else value


def apply_levers(transformer: Any, autoencoder: Any, levers: Levers, device: torch.device | str) -> None:
    """Place both networks on `device` as the levers say. Adapters are loaded before this.

    Raises:
        ActionError: If options exclude one another, or this machine lacks what one needs.
    """
    device = torch.device(device)
    if levers.fuse_qkv and getattr(transformer, "peft_config", None):
        raise ActionError("fuse_qkv: a LoRA acts on the separate projections; leave one of the two out.")
    if levers.float8_weights:
        transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=getattr(torch, levers.dtype)
        )
    if levers.fuse_qkv:
        transformer.fuse_qkv_projections()
    if levers.attention is not None:
        _set_attention(transformer, levers.attention)
    if levers.vae_tiling:
        autoencoder.vae.enable_tiling()
    if levers.first_block_cache is not None:
        from diffusers import FirstBlockCacheConfig

        transformer.enable_cache(FirstBlockCacheConfig(threshold=levers.first_block_cache))
    _place(transformer, autoencoder, levers.offload, device)
    if levers.compile_blocks:
        transformer.compile_repeated_blocks(fullgraph=True)


def _set_attention(transformer: Any, name: str) -> None:
    try:
        transformer.set_attention_backend(name)
    except (ValueError, RuntimeError, ImportError) as cause:
        raise ActionError(f"attention {name!r}: not available on this machine ({cause}).") from cause


def _place(transformer: Any, autoencoder: Any, offload: str, device: torch.device) -> None:
    if offload == "none":
        transformer.to(device)
        autoencoder.to(device)
    elif offload == "groups":
        transformer.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device.type == "cuda",
        )
        autoencoder.to(device)
