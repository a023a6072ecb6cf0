"""What users ask of a reset: options and seeds, checked before anything is opened or loaded.

Pictures are read by `pictures` and case folders by `cases`; their functions are here by name too.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.checks import check_keys
from spatia_env.errors import ActionError, SeedError
from spatia_env.pictures import fit_depth, fit_image, fit_mask, read_image
from spatia_env.poses import as_pose
from spatia_env.release.case import Case, read_case
from spatia_env.spaces import MAX_PROMPT_LENGTH, normalise_text

__all__ = [
    "Case",
    "check_reset_options",
    "check_seed",
    "fit_depth",
    "fit_image",
    "fit_mask",
    "is_cloud",
    "read_case",
    "read_image",
]

SOURCES = ("scene", "image", "world")
RESET_OPTIONS = (*SOURCES, "intrinsics", "depth", "mask", "prompt", "pose")


def is_cloud(source: object) -> bool:
    """Whether the source of a world is a PLY file or a folder, not a saved world."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(source)
    return path.suffix.lower() == ".ply" or path.is_dir()


def check_seed(seed: Any) -> int | None:
    """A seed as a plain `int`, or None.

    Raises:
        SeedError: If it is not a non-negative integer; booleans, floats and text are not integers.
    """
    if seed is None:
        return None
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer):
        raise SeedError(f"seed: expected a non-negative integer, got {seed!r:.40} ({type(seed).__name__}).")
    if seed < 0:
        raise SeedError(f"seed: is {int(seed)}; give a non-negative integer.")
    return int(seed)


def check_reset_options(options: Any) -> dict[str, Any]:
    """Check `reset(options=...)`; nothing is opened, nothing is loaded.

    Args:
        options: None, or a mapping with any of
            `scene`: seed (int) or name (str) of a simulated scene;
            `image`: path or array, with optional `intrinsics` ([4] or [3, 3], see `fit_image`), `depth` [H,
            W] in metres, and `mask` [H, W], set on what moves and is not to be remembered;
            `world`: path of a saved world, or a `World`; or a PLY file, or the folder of a COLMAP text model (an
            export of a world is one), with optional `intrinsics` ([4] or [3, 3]): see `clouds`;
            `depth`: with a scene, True starts from its true depth;
            `prompt`: text; `pose`: `c2w` [4, 4] of the first camera.

    Returns:
        A new dict with the keys that were given and not None: `prompt` normalised, `pose` float64 [4, 4],
        `scene` a plain int or str.

    Raises:
        ActionError: Unknown keys, two sources at once, or a key that does not go with its source.
        PromptError, PoseError: A prompt or a pose that is none.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ActionError(f"reset: options are a dict, got {type(options).__name__}.")
    check_keys(options, required=(), optional=RESET_OPTIONS, what="reset(options=...)")
    checked = {key: value for key, value in options.items() if value is not None}
    sources = [key for key in SOURCES if key in checked]
    if len(sources) > 1:
        raise ActionError(f"reset: {' and '.join(map(repr, sources))} exclude each other; give one of them.")
    source = sources[0] if sources else "scene"
    _check_companions(checked, source)
    if "scene" in checked:
        checked["scene"] = _check_scene(checked["scene"])
    if "prompt" in checked:
        checked["prompt"] = normalise_text(checked["prompt"], "prompt", MAX_PROMPT_LENGTH)
    if "pose" in checked:
        checked["pose"] = as_pose(checked["pose"], "options['pose']")
    return checked


def _check_companions(options: dict[str, Any], source: str) -> None:
    for key in ("intrinsics", "mask"):
        if key in options and source != "image":
            if key == "intrinsics" and is_cloud(options.get("world")):
                continue
            raise ActionError(f"reset: {key!r} goes with an 'image'; a scene and a world have their own.")
    if "depth" not in options:
        return
    if source == "world":
        raise ActionError("reset: 'depth' goes with an 'image' or a 'scene'; a world has its own.")
    is_flag = isinstance(options["depth"], bool | np.bool_)
    if source == "scene" and not is_flag:
        raise ActionError("reset: with a scene, 'depth' is True or False; an array goes with an 'image'.")
    if source == "image" and is_flag:
        raise ActionError("reset: with an image, 'depth' is an array [H, W] in metres.")


def _check_scene(scene: Any) -> int | str:
    if isinstance(scene, str):
        return normalise_text(scene, "scene")
    try:
        seed = check_seed(scene)
    except SeedError as cause:
        raise ActionError(f"reset: scene is a seed (int) or a name (str), got {scene!r:.40}.") from cause
    assert seed is not None  # None was dropped above
    return seed
