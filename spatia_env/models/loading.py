"""Checkpoints on disk: the tiny one of the package (safetensors and one config.json), or official weights.

A folder of official weights is what `spatia convert` writes: diffusers' layout, with a model_index.json.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from spatia_env.errors import ActionError, CheckpointError
from spatia_env.io.weights import load_network, read_json
from spatia_env.models.generator import ClipGenerator, ClipShape

if TYPE_CHECKING:  # they load classes that not every checkpoint needs
    from spatia_env.models.imagination import ImaginationModel
    from spatia_env.models.pipeline import SpatiaPipeline
    from spatia_env.models.wan.options import OfficialOptions

FORMAT = 1
PACKAGED = Path(__file__).parent.parent / "checkpoints"
TINY = "spatia-tiny"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        generator: Makes clips.
        config: Its config.json, or the model_index.json of official weights.
        folder: Where it was loaded from.
        id: Name and hash of its weights.
        geometry: Folder that holds the geometry network. The release has none of its own, so official weights go with
            the packaged one, unless `options` name MapAnything.
        options: How official weights are run; None for the tiny size.
        imagination: Completes panoramas; None where the checkpoint has no such network.
    """

    generator: ClipGenerator
    config: dict[str, Any]
    folder: Path
    id: str
    geometry: Path
    options: "OfficialOptions | None" = None
    imagination: "ImaginationModel | None" = None

    @functools.cached_property
    def pipeline(self) -> "SpatiaPipeline":
        """The generator as a diffusers pipeline."""
        from spatia_env.models.pipeline import SpatiaPipeline

        made = self.generator
        if isinstance(made, SpatiaPipeline):
            return made
        return SpatiaPipeline(made.transformer, made.autoencoder, made.text_encoder, made.shape, made.sigmas)


def load_checkpoint(name: str | Path, options: Mapping[str, Any] | None = None) -> Checkpoint:
    """Load a checkpoint by name ("spatia-tiny") or folder; the same one is loaded once per process.

    Args:
        name: Of a packaged checkpoint, or a folder.
        options: Of a folder of official weights; see `OfficialOptions`.

    Raises:
        CheckpointError: If the folder or a file is missing, altered, or asks for code that is not ours.
        ActionError: If an option is not known, or the checkpoint takes none.
        DependencyError: If it needs a package that is not installed.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = PACKAGED / str(name)
    if not folder.is_dir():
        known = sorted(path.name for path in PACKAGED.iterdir() if path.is_dir()) if PACKAGED.is_dir() else []
        raise CheckpointError(
            f"model {str(name)!r}: no such folder or packaged checkpoint; packaged are {known}."
        )
    if is_official(folder):
        from spatia_env.models.wan.options import read_options

        return _load_official(folder.resolve(), read_options(options))
    if options:
        raise ActionError(
            f"model_options: {str(name)!r} takes none; they are for folders of official weights."
        )
    return _load(folder.resolve())


def is_official(folder: str | Path) -> bool:
    """Whether a folder is one of official weights, as `spatia convert` writes it."""
    return (Path(folder) / "model_index.json").is_file()


@functools.lru_cache(maxsize=1)  # one is as much as a machine holds
def _load_official(folder: Path, options: "OfficialOptions") -> Checkpoint:
    from spatia_env.models.wan.pipeline import load_official, official_id

    pipeline = load_official(
        folder, options.device, options.levers, options.settings, prompt_cache=options.prompt_cache
    )
    config = read_json(folder / "model_index.json")
    return Checkpoint(pipeline, config, folder, official_id(folder), PACKAGED / TINY, options)


@functools.lru_cache(maxsize=4)
def _load(folder: Path) -> Checkpoint:
    from spatia_env.models.autoencoder import TinyAutoencoder
    from spatia_env.models.text_encoder import sentence_encoder
    from spatia_env.models.transformer import SpatiaTransformer3DModel

    config = read_config(folder)
    transformer = load_network(
        SpatiaTransformer3DModel, config["transformer"], folder / "transformer.safetensors"
    )
    autoencoder = load_network(TinyAutoencoder, config["autoencoder"], folder / "autoencoder.safetensors")
    generator = ClipGenerator(
        transformer, autoencoder, sentence_encoder(), ClipShape(**config["shape"]), tuple(config["sigmas"])
    )
    name = f"{config['name']}-{weights_hash(folder)[:12]}"
    return Checkpoint(generator, config, folder, name, folder, imagination=_load_imagination(config, folder))


def _load_imagination(config: dict[str, Any], folder: Path) -> "ImaginationModel | None":
    if "imagination" not in config:
        return None
    from spatia_env.models.autoencoder import knows_bfloat16
    from spatia_env.models.imagination import ImaginationModel

    path = folder / "imagination.safetensors"
    network = cast(ImaginationModel, load_network(ImaginationModel, config["imagination"], path))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.bfloat16() if knows_bfloat16() else network


def read_config(folder: Path) -> dict[str, Any]:
    """The checked config.json of a checkpoint folder.

    Raises:
        CheckpointError: If it is missing, not of this format, or the folder holds Python code.
    """
    if any(folder.glob("**/*.py")):
        raise CheckpointError(
            f"{folder}: holds Python files; code is never loaded from a checkpoint. Remove them."
        )
    try:
        config = json.loads((folder / "config.json").read_text())
    except OSError as cause:
        raise CheckpointError(f"{folder}/config.json: cannot be read ({cause.strerror}).") from cause
    except (UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise CheckpointError(f"{folder}/config.json: not JSON ({cause}).") from cause
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{folder}/config.json: not a spatia_env checkpoint of format {FORMAT}.")
    missing = {"name", "transformer", "autoencoder", "geometry", "shape", "sigmas"} - config.keys()
    if missing:
        raise CheckpointError(f"{folder}/config.json: lacks {sorted(missing)}.")
    return config


def weights_hash(folder: Path) -> str:
    """SHA-256 over the safetensors files of a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
