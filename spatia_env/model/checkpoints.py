"""Checkpoints on disk: a folder of safetensors files and one config.json; the tiny one is in the package."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatia_env.errors import CheckpointError
from spatia_env.model.pipeline import ClipShape, SpatiaPipeline
from spatia_env.weights import load_network

FORMAT = 1
PACKAGED = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: its `pipeline`, `config`, `folder` and an `id` (name and hash of its weights)."""

    pipeline: SpatiaPipeline
    config: dict[str, Any]
    folder: Path
    id: str


def load_checkpoint(name: str | Path) -> Checkpoint:
    """Load a checkpoint by name ("spatia-tiny") or folder; the same one is loaded once per process.

    Raises:
        CheckpointError: If the folder or a file is missing, altered, or asks for code that is not ours.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = PACKAGED / str(name)
    if not folder.is_dir():
        known = sorted(path.name for path in PACKAGED.iterdir() if path.is_dir()) if PACKAGED.is_dir() else []
        raise CheckpointError(
            f"model {str(name)!r}: no such folder or packaged checkpoint; packaged are {known}."
        )
    return _load(folder.resolve())


@functools.lru_cache(maxsize=4)
def _load(folder: Path) -> Checkpoint:
    from spatia_env.model.autoencoder import TinyAutoencoder
    from spatia_env.model.sentences import sentence_encoder
    from spatia_env.model.text import WordTextEncoder
    from spatia_env.model.transformer import SpatiaTransformer3DModel

    config = read_config(folder)
    transformer = load_network(
        SpatiaTransformer3DModel, config["transformer"], folder / "transformer.safetensors"
    )
    autoencoder = load_network(TinyAutoencoder, config["autoencoder"], folder / "autoencoder.safetensors")
    reads_words = config["transformer"]["text_dim"] == WordTextEncoder.dim
    text_encoder = WordTextEncoder() if reads_words else sentence_encoder()
    pipeline = SpatiaPipeline(
        transformer, autoencoder, text_encoder, ClipShape(**config["shape"]), tuple(config["sigmas"])
    )
    return Checkpoint(pipeline, config, folder, f"{config['name']}-{weights_hash(folder)[:12]}")


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
