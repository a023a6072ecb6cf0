"""Model folders in diffusers' layout: checked before anything is loaded, and loaded without foreign code.

Weights are read from safetensors only, but for the base model's own files that `convert` takes. Classes come from the
list below, never from a file; a folder that holds Python, or that asks for a class from elsewhere, is refused.
"""

import hashlib
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spatia_env.errors import CheckpointError
from spatia_env.io.weights import check_header, read_json, read_tensors, refuse_code

CLASSES = {
    "transformer": ("SpatiaTransformer3DModel",),
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"),
    "scheduler": ("UniPCMultistepScheduler",),
}
"""What a model folder may hold, by the name of its subfolder."""

_HASH = re.compile(r"[0-9a-f]{64}")
KEPT_IN_FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")
"""Parts of the transformer whose rounding would show; everything else may be half precision."""


def check_folder(folder: Path) -> dict[str, Any]:
    """The `model_index.json` of a model folder, after checking that nothing in it asks for foreign code.

    Raises:
        CheckpointError: If it is no model folder, holds Python files, or names a class that is not known
            here.
    """
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"{folder}: has no model_index.json; make a model folder with `spatia convert`."
        )
    refuse_code(folder)
    index = read_json(folder / "model_index.json")
    for part, known in CLASSES.items():
        entry = index.get(part)
        if entry is None:
            continue
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] not in known:
            raise CheckpointError(
                f"{folder}/model_index.json: {part} asks for {entry!r}; known are {', '.join(known)} only."
            )
    return index


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of one part, without the private entries, after checking its class.

    Raises:
        CheckpointError: If it is missing, or names another class.
    """
    config = read_json(folder / "config.json")
    named = config.get("_class_name") or next(iter(config.get("architectures", [])), None)
    if named not in CLASSES[part]:
        raise CheckpointError(f"{folder}/config.json: is of class {named!r}; expected {CLASSES[part][0]}.")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def load_module(
    cls: type, folder: Path, part: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Any:
    """An instance of our or diffusers' class `cls` from a subfolder, in eval mode, in `dtype` on `device`.

    Tensors go from the file to the device one at a time; the module never exists twice.

    Raises:
        CheckpointError: If a file is missing, cut or altered, or its tensors are not those of the class.
    """
    config = read_config(folder, part)
    try:
        with torch.device("meta"):
            module = cls.from_config(config)  # type: ignore[attr-defined]
    except (TypeError, ValueError, KeyError) as cause:
        raise CheckpointError(f"{folder}/config.json: {cls.__name__} refuses it: {cause}") from cause
    files = weight_files(folder)
    shapes = {name: tuple(entry["shape"]) for file in files for name, entry in tensor_entries(file).items()}
    compare_shapes(str(folder), {name: tuple(t.shape) for name, t in module.state_dict().items()}, shapes)
    state: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in iterate_tensors(file):
            keep = part == "transformer" and any(kept in name for kept in KEPT_IN_FLOAT32)
            state[name] = tensor.to(device=device, dtype=torch.float32 if keep else dtype, copy=True)
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a part: one, or those that its index names.

    Raises:
        CheckpointError: If there are none, or a shard is missing.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        names = sorted(set(read_json(indices[0]).get("weight_map", {}).values()))
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing or not names:
            raise CheckpointError(f"{folder}: {indices[0].name} names files that are missing: {missing[:3]}.")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: holds no .safetensors file; pickled weights are not read.")
    return files


def tensor_entries(path: Path) -> dict[str, Any]:
    """Header entries (`dtype`, `shape`) of a safetensors file by tensor name, its size checked."""
    return {name: entry for name, entry in check_header(path).items() if name != "__metadata__"}


def iterate_tensors(path: Path) -> Iterable[tuple[str, Tensor]]:
    """(name, tensor) of a safetensors file, one at a time.

    Raises:
        CheckpointError: If a tensor cannot be read, or holds NaN or infinite values.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise CheckpointError(f"{path}: {name} has NaN or infinite values; fetch the file again.")
                yield name, tensor
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause}); fetch it again.") from cause


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


def compare_shapes(
    where: str, expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]
) -> None:
    """Raise `CheckpointError` naming what is missing, extra or misshapen."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} {list(found[name])} instead of {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        for what, names in (("missing", missing), ("extra", extra), ("misshapen", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(f"{where}: not the expected tensors. {'; '.join(problems)}.")


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
