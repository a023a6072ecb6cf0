"""Model folders in diffusers' layout: checked before anything is loaded, and loaded without foreign code.

Weights are read from safetensors only. Classes come from the list below, never from a file; a folder that
holds Python, or that asks for a class from elsewhere, is refused.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spatia_env.errors import CheckpointError
from spatia_env.io.weights import check_header, read_json, refuse_code

CLASSES = {
    "transformer": ("SpatiaTransformer3DModel",),
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"),
    "scheduler": ("UniPCMultistepScheduler",),
}
"""What a model folder may hold, by the name of its subfolder."""

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
