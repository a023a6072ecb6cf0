"""Where `convert` reads from: tensors of released files under our names, one at a time, checked first."""

import hashlib
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from spatia_env.errors import CheckpointError
from spatia_env.io.weights import read_tensors
from spatia_env.models.wan.folders import tensor_entries

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass
class Source:
    """Tensors of some files by the names that our classes use.

    Attributes:
        shapes: Shape of every tensor.
        files: The files, for their hashes.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    _where: dict[str, tuple[Path, str]] = field(default_factory=dict)
    _loaded: dict[str, Tensor] = field(default_factory=dict)

    def add_safetensors(self, path: Path, rename: Callable[[str], str] = str) -> "Source":
        """Add the tensors of a safetensors file; only its header is read now.

        Raises:
            CheckpointError: If the file is missing, cut or malformed, or a name comes twice.
        """
        for name, entry in tensor_entries(path).items():
            self._add(rename(name), tuple(entry["shape"]), path)
            self._where[rename(name)] = (path, name)
        self.files.append(path)
        return self

    def add_pickle(self, path: Path, rename: Callable[[str], str] = str) -> "Source":
        """Add the tensors of one of the base model's `.pth` files, read as plain tensors and nothing else.

        Raises:
            CheckpointError: If it is missing, damaged, or holds anything but named tensors.
        """
        for name, tensor in read_plain_pickle(path).items():
            self._add(rename(name), tuple(tensor.shape), path)
            self._loaded[rename(name)] = tensor
        self.files.append(path)
        return self

    def add_copy(self, name: str, of: str) -> None:
        """Let a tensor appear a second time under another name."""
        self.shapes[name] = self.shapes[of]
        if of in self._loaded:
            self._loaded[name] = self._loaded[of]
        else:
            self._where[name] = self._where[of]

    def add_tensor(self, name: str, tensor: Tensor) -> None:
        """Add a tensor that is in no file."""
        self.shapes[name], self._loaded[name] = tuple(tensor.shape), tensor

    def get(self, name: str) -> Tensor:
        """One tensor, on the CPU, in the file's precision."""
        if name in self._loaded:
            return self._loaded[name]
        path, own = self._where[name]
        with safe_open(str(path), framework="pt") as file:
            return file.get_tensor(own)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of all, in the order of the names."""
        for name in sorted(self.shapes):
            yield name, self.get(name)

    def _add(self, name: str, shape: tuple[int, ...], path: Path) -> None:
        if name in self.shapes:
            raise CheckpointError(f"{path}: {name} comes a second time; give each file once, unmodified.")
        self.shapes[name] = shape


def read_plain_pickle(path: Path) -> dict[str, Tensor]:
    """Named tensors of a `.pth` file; torch's restricted reader runs no code of the file.

    Raises:
        CheckpointError: If it is missing, damaged, or holds anything but named tensors.
    """
    try:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the old, unzipped format cannot be mapped
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause.strerror or cause}).") from cause
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as cause:
        first = str(cause).split("\n")[0]
        raise CheckpointError(
            f"{path}: does not hold plain tensors, or is damaged ({first:.120}); fetch it again, and do not load it "
            "by other means unless you trust its source."
        ) from cause
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: holds other things than named tensors; take the released file.")
    return state


def read_small(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file that fits into memory (a LoRA).

    Raises:
        CheckpointError: If it is of another kind, missing, cut or malformed.
    """
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: is not a .safetensors file; pickled weights are not read here.")
    return read_tensors(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def declared_hash(path: Path) -> str | None:
    """The SHA-256 that the download tool of the Hugging Face hub noted beside a file, or None.

    `hf download --local-dir DIR` writes `DIR/.cache/huggingface/download/<file>.metadata`, whose second line is the
    hash of large files.
    """
    for root in path.parents:
        note = root / ".cache" / "huggingface" / "download" / f"{path.relative_to(root)}.metadata"
        if note.is_file():
            lines = note.read_text(encoding="utf-8", errors="replace").splitlines()
            return lines[1] if len(lines) > 1 and _HASH.fullmatch(lines[1]) else None
    return None


def verified_hashes(files: list[Path]) -> dict[str, str]:
    """SHA-256 of every file by its name.

    Raises:
        CheckpointError: If one differs from what its download noted.
    """
    found = {}
    for path in files:
        found[path.name] = sha256(path)
        expected = declared_hash(path)
        if expected is not None and expected != found[path.name]:
            raise CheckpointError(
                f"{path}: its SHA-256 is {found[path.name][:12]}..., its download noted {expected[:12]}...; "
                "fetch it again."
            )
    return found
