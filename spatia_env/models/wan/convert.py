"""From the released files to one model folder: base model, control branch and LoRA, checked before written.

The base model may be in its original layout (`diffusion_pytorch_model*.safetensors`, `Wan2.2_VAE.pth`,
`models_t5_umt5-xxl-enc-bf16.pth`, `google/umt5-xxl`) or in diffusers' (`transformer/`, `vae/`, `text_encoder/`,
`tokenizer/`). The result is in diffusers' layout, safetensors only, and appears under its name when complete.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from spatia_env.errors import CheckpointError
from spatia_env.io.weights import read_json, refuse_code
from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.models.wan.convert_layouts import (
    add_control_branch,
    autoencoder_config,
    autoencoder_name,
    lora_layers,
    text_encoder_config,
    text_encoder_name,
    transformer_config,
    transformer_name,
)
from spatia_env.models.wan.folders import (
    KEPT_IN_FLOAT32,
    Source,
    compare_shapes,
    read_small,
    verified_hashes,
    weight_files,
)

FORMAT = 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARD_BYTES = 5_000_000_000
TOKENIZER_FILES = ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class ConvertConfig:
    """What `spatia convert` takes."""

    wan: Path
    """folder of the base model Wan2.2-TI2V-5B, as downloaded, in either layout"""
    out: Path
    """folder to write; must not exist"""
    control: Path | None = None
    """the release's control checkpoint, such as step-8500.safetensors; without it a new branch is written, without
    effect until `spatia train official --stage control` has taught it"""
    lora: Path | None = None
    """the release's LoRA, active from the second clip on; without it every clip is made by the base weights"""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """precision of the weights written; norms, modulation and time embedding keep float32 where they have it"""
    control_layers: tuple[int, ...] = ()
    """blocks whose output the control branch adds to; empty: evenly spread, 0, 4, ... 28 at full size"""
    latents_mean: tuple[float, ...] = ()
    """statistics of the autoencoder's channels; empty: those of Wan2.2, or of the given vae/config.json"""
    latents_std: tuple[float, ...] = ()
    text_encoder: bool = True
    """False leaves the text encoder (11 GB) out: `load_official` must then be handed another"""


@dataclass(frozen=True)
class ConvertReport:
    """What was written: `tensors` and `bytes` per part, and the SHA-256 of every source file."""

    folder: Path
    tensors: dict[str, int]
    bytes: int
    sources: dict[str, str]


@dataclass
class _Part:
    """One subfolder to write."""

    source: Source
    config: dict[str, Any]
    kept: tuple[str, ...] = ()
    stem: str = "diffusion_pytorch_model"
    expected: dict[str, tuple[int, ...]] = field(default_factory=dict)


def convert(config: ConvertConfig, progress: Callable[[str], None] = lambda line: None) -> ConvertReport:
    """Write a model folder from released files.

    Args:
        config: Where the files are.
        progress: Called with one line per step.

    Raises:
        CheckpointError: Before anything is written, if files are missing, cut or altered, or hold other tensors
            than the models have; the message names what is missing, extra or misshapen.
    """
    if config.out.exists():
        raise CheckpointError(f"{config.out}: exists; give a new folder, or remove it first.")
    progress("checking names and shapes")
    parts = _read_parts(config)
    for name, part in parts.items():
        compare_shapes(name, part.expected, part.source.shapes)
    adapter = _read_adapter(config, parts["transformer"].source)
    progress("hashing the source files")
    files = [path for part in parts.values() for path in part.source.files]
    hashes = verified_hashes(files + ([config.lora] if config.lora else []))

    partial = config.out.with_name(config.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, part in parts.items():
            progress(f"writing {name}: {len(part.source.shapes)} tensors")
            _write_part(partial / name, part, DTYPES[config.dtype])
        _write_rest(partial, config, parts, adapter, hashes)
        partial.rename(config.out)
    except OSError as cause:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{config.out}: cannot be written ({cause.strerror}).") from cause
    written = sum(path.stat().st_size for path in config.out.rglob("*") if path.is_file())
    return ConvertReport(config.out, {n: len(p.source.shapes) for n, p in parts.items()}, written, hashes)


def _read_parts(config: ConvertConfig) -> dict[str, _Part]:
    if not config.wan.is_dir():
        raise CheckpointError(f"{config.wan}: is not a folder; give the one that holds Wan2.2-TI2V-5B.")
    original = not (config.wan / "transformer").is_dir()
    reader = _read_original if original else _read_diffusers
    parts = reader(config)
    layers = config.control_layers
    if config.control is None:
        layers = add_control_branch(parts["transformer"].source, layers)
    else:
        parts["transformer"].source.add_safetensors(_safetensors(config.control), transformer_name)
    hints = read_json(config.wan / ("config.json" if original else "transformer/config.json"))
    sizes = transformer_config(parts["transformer"].source.shapes, hints, layers)
    parts["transformer"].config = {"_class_name": "SpatiaTransformer3DModel", **sizes}
    parts["transformer"].kept = KEPT_IN_FLOAT32
    with torch.device("meta"):
        model = SpatiaTransformer3DModel.from_config(sizes)
        vae = AutoencoderKLWan.from_config(parts["vae"].config)
    parts["transformer"].expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    parts["vae"].expected = {name: tuple(t.shape) for name, t in vae.state_dict().items()}
    return parts


def _read_original(config: ConvertConfig) -> dict[str, _Part]:
    wan, transformer = config.wan, Source()
    for path in weight_files(wan):
        transformer.add_safetensors(path, transformer_name)
    vae = Source().add_pickle(wan / "Wan2.2_VAE.pth", autoencoder_name)
    statistics = (config.latents_mean, config.latents_std)
    parts = {
        "transformer": _Part(transformer, {}),
        "vae": _Part(vae, autoencoder_config(vae.shapes, *statistics)),
    }
    if config.text_encoder:
        text = Source().add_pickle(_only(wan, "models_t5_*.pth"), text_encoder_name)
        sizes, expected = text_encoder_config(text.shapes)
        parts["text_encoder"] = _Part(text, sizes, stem="model", expected=expected)
    return parts


def _read_diffusers(config: ConvertConfig) -> dict[str, _Part]:
    refuse_code(config.wan)

    def read(name: str) -> Source:
        source = Source()
        for path in weight_files(config.wan / name):
            source.add_safetensors(path)
        return source

    vae = read_json(config.wan / "vae" / "config.json")
    if vae.get("_class_name") != "AutoencoderKLWan":
        raise CheckpointError(f"{config.wan}/vae/config.json: is of class {vae.get('_class_name')!r}.")
    parts = {"transformer": _Part(read("transformer"), {}), "vae": _Part(read("vae"), vae)}
    if config.text_encoder:
        text = read("text_encoder")
        text.shapes.pop("encoder.embed_tokens.weight", None)  # a second name of `shared.weight`
        sizes, expected = text_encoder_config(text.shapes)
        parts["text_encoder"] = _Part(text, sizes, stem="model", expected=expected)
    return parts


def _read_adapter(config: ConvertConfig, transformer: Source) -> dict[str, Tensor]:
    if config.lora is None:
        return {}
    layers = lora_layers(read_small(config.lora))
    for name, tensor in layers.items():
        layer = name.rsplit(".lora_", 1)[0] + ".weight"
        rows = transformer.shapes.get(layer)
        side = None if rows is None else (rows[1] if "lora_A" in name else rows[0])
        if side != (tensor.shape[1] if "lora_A" in name else tensor.shape[0]):
            raise CheckpointError(
                f"{config.lora}: {name} {list(tensor.shape)} fits no layer of the transformer."
            )
    return layers


def _write_part(folder: Path, part: _Part, dtype: torch.dtype) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(part.config, indent=2) + "\n")
    shards = list(_shards(part, dtype))
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"{part.stem}.safetensors"
        if len(shards) > 1:
            file = f"{part.stem}-{number:05}-of-{len(shards):05}.safetensors"
        save_file(
            {name: _cast(part, name, dtype) for name in names}, folder / file, metadata={"format": "pt"}
        )
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{part.stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _shards(part: _Part, dtype: torch.dtype) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name in sorted(part.source.shapes):
        wide = 4 if any(kept in name for kept in part.kept) else dtype.itemsize
        count = torch.Size(part.source.shapes[name]).numel() * wide
        if names and size + count > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += count
    yield names


def _cast(part: _Part, name: str, dtype: torch.dtype) -> Tensor:
    tensor = part.source.get(name)
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{name}: has NaN or infinite values; fetch the file again.")
    keep = any(kept in name for kept in part.kept) and tensor.dtype == torch.float32
    return tensor.to(torch.float32 if keep else dtype).contiguous()


def _write_rest(
    folder: Path,
    config: ConvertConfig,
    parts: dict[str, _Part],
    adapter: dict[str, Tensor],
    hashes: dict[str, str],
) -> None:
    index: dict[str, Any] = {
        "_class_name": "SpatiaWanPipeline",
        "transformer": ["spatia_env.models.transformer", "SpatiaTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }
    scheduler = {
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 5.0,
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    if config.text_encoder:
        index["text_encoder"] = ["transformers", "UMT5EncoderModel"]
        index["tokenizer"] = ["transformers", "T5TokenizerFast"]
        _copy_tokenizer(config.wan, folder / "tokenizer")
    if adapter:
        (folder / "lora").mkdir()
        tensors = {name: tensor.contiguous() for name, tensor in adapter.items()}
        save_file(tensors, folder / "lora" / "autoregressive.safetensors", metadata={"format": "pt"})
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    made = {"format": FORMAT, "dtype": config.dtype, "sources": hashes}
    (folder / "spatia.json").write_text(json.dumps(made, indent=2) + "\n")


def _copy_tokenizer(wan: Path, target: Path) -> None:
    source = next((wan / name for name in ("google/umt5-xxl", "tokenizer") if (wan / name).is_dir()), None)
    if source is None or not any((source / name).is_file() for name in TOKENIZER_FILES[:2]):
        raise CheckpointError(
            f"{wan}: has no tokenizer (google/umt5-xxl or tokenizer); fetch the whole base model."
        )
    refuse_code(source)
    target.mkdir()
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _safetensors(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: is not a .safetensors file; pickled weights are read from the base model only."
        )
    return path


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: expected one file {pattern}, found {len(found)}; fetch the whole base model, "
            "or leave the text encoder out."
        )
    return found[0]


def main(argv: list[str]) -> int:
    """Run `spatia convert`; one line a step."""
    config = tyro.cli(
        ConvertConfig,
        args=argv,
        prog="spatia convert",
        description="Turn the released files into one folder that --model takes.",
    )
    report = convert(config, progress=lambda line: print(line, flush=True))
    tensors = ", ".join(f"{name} {count} tensors" for name, count in report.tensors.items())
    print(f"wrote {report.folder}: {tensors}, {report.bytes / 1e9:.2f} GB")
    return 0
