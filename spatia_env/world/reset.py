"""Open worlds: from a scene, a photograph, a saved world or a point cloud to the state before the first step."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError, SeedError
from spatia_env.io.validation import MAX_PROMPT_LENGTH, as_pose, check_keys, normalise_text
from spatia_env.memory.map import Map
from spatia_env.memory.point_map import SceneMemory
from spatia_env.models.loading import Checkpoint
from spatia_env.slam.depth_network import GeometryEstimator, static_weight
from spatia_env.slam.loading import load_estimator
from spatia_env.slam.pipeline import Slam
from spatia_env.world.imagination import Imagination
from spatia_env.world.starts import Start, open_cloud, start_from_image, start_from_scene
from spatia_env.world.state import WorldState
from spatia_env.world.world import World

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


TRAIN_SCENES = 10_000
"""Without options a reset draws one of the training scenes."""


def draw_start(options: dict[str, Any], np_random: np.random.Generator) -> tuple[dict[str, Any], int]:
    """Checked reset options, with a training scene drawn where no place to begin is named; and the world's seed."""
    seed = int(np_random.integers(2**62))
    if {"scene", "image", "world"} & options.keys():
        return options, seed
    return {**options, "scene": int(np_random.integers(TRAIN_SCENES))}, seed


def open_world(
    options: dict[str, Any],
    seed: int,
    estimator: GeometryEstimator,
    empty_points: SceneMemory,
    size: tuple[int, int],
    num_preceding: int,
    writes: bool,
) -> WorldState:
    """The state that checked reset `options` describe.

    Args:
        options: As `options.check_reset_options` returns them, with the scene drawn if none was named.
        seed: Of the world's noise.
        estimator: Estimates the first picture's depth where none is given.
        empty_points: A map without points, with the settings to use.
        size: (height, width) of the frames.
        num_preceding: Frames of the past that the model sees.
        writes: Whether the map is written.
    """
    if "world" in options:
        if is_cloud(options["world"]):
            return open_cloud(options, empty_points, size, num_preceding, seed)
        return open_saved(options, size, writes)
    if "image" in options:
        start = start_from_image(options, *size)
    else:
        start = start_from_scene(options["scene"], options, *size)
    prompt = options.get("prompt", start.prompt)
    return begin(start, prompt, seed, estimator, empty_points, num_preceding, writes)


def begin(
    start: Start,
    prompt: str,
    seed: int,
    estimator: GeometryEstimator,
    empty_points: SceneMemory,
    num_preceding: int,
    writes: bool,
) -> WorldState:
    """The state after the first picture: depth estimated unless given, its static pixels in the map."""
    depth, weight = _first_depth(start, estimator)
    if start.mask is not None:
        weight = weight * (~start.mask).float()
    seen = Map.begin(
        empty_points, start.frame, depth, weight, start.c2w, start.K, start.depth is not None, writes
    )
    return WorldState(
        map=seen,
        c2w=start.c2w,
        start_c2w=start.c2w,
        prompt=prompt,
        preceding_frames=start.frame.expand(max(num_preceding, 1), -1, -1, -1).clone(),
        depth=depth,
        seed=seed,
        ground=start.ground,
    )


def _first_depth(start: Start, estimator: GeometryEstimator) -> tuple[Tensor, Tensor]:
    """z-depth [H, W] of the first picture in metres, and how sure it is [H, W]."""
    if start.depth is not None:
        return start.depth, (start.depth > 0).float()
    rgb = start.frame.movedim(-1, 0)[None].float() / 255
    nothing = torch.zeros(1, *rgb.shape[-2:])
    geometry = estimator(
        rgb, start.c2w[None], start.K, torch.zeros_like(rgb), nothing, nothing.bool(), start.ground
    )
    # Nothing can be told apart as moving in one picture: all of it is the world.
    geometry = dataclasses.replace(geometry, dynamic=nothing)
    return geometry.depth[0], static_weight(geometry)[0]


def open_saved(options: dict[str, Any], size: tuple[int, int], writes: bool = True) -> WorldState:
    """The state of a saved (or living) world, with another `prompt` or `pose` if the options give one."""
    saved = options["world"]
    state = saved.state if isinstance(saved, World) else World.load(saved).state
    if state.size != size:
        height, width = state.size
        raise ActionError(
            f"the world was made at size ({height}, {width}); make the env with size=({height}, {width})."
        )
    if state.map.writes != writes:
        state = dataclasses.replace(state, map=dataclasses.replace(state.map, writes=writes))
    changes: dict[str, Any] = {"prompt": options["prompt"]} if "prompt" in options else {}
    if "pose" in options:
        changes["c2w"] = torch.from_numpy(options["pose"]).float()
    return dataclasses.replace(state, **changes)


def load_imagination(checkpoint: Checkpoint) -> Imagination | None:
    """The imagination of a checkpoint, None where it has none."""
    if checkpoint.imagination is None:
        return None
    return Imagination(checkpoint.imagination)


def load_slam(slam: str | Slam, checkpoint: Checkpoint) -> Slam:
    """The SLAM of an environment, by name (see `SpatiaEnv`) or as it is."""
    if isinstance(slam, Slam):
        return slam
    if slam == "simulator":
        from spatia_env.sim.clip_source import SimulatedScene

        return Slam(SimulatedScene(checkpoint.generator.shape), extend_planes=False)
    return Slam(load_estimator(checkpoint), track=slam != "off")
