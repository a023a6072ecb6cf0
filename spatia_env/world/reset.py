"""Open worlds: from a scene, a photograph, a saved world or a point cloud to the state before the first step."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from spatia_env.errors import ActionError
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.scene import SceneMemory
from spatia_env.models.loading import Checkpoint, read_config
from spatia_env.slam.depth_network import GeometryEstimator, TinyGeometry, static_weight
from spatia_env.weights import load_network
from spatia_env.world.from_cloud import open_cloud
from spatia_env.world.options import is_cloud
from spatia_env.world.starts import Start, start_from_image, start_from_scene
from spatia_env.world.world import World, WorldState

if TYPE_CHECKING:
    from spatia_env.models.wan.options import OfficialOptions

TRAIN_SCENES = 10_000
"""Without options a reset draws one of the training scenes."""


def open_world(
    options: dict[str, Any],
    np_random: np.random.Generator,
    network: GeometryEstimator,
    empty_memory: SceneMemory,
    size: tuple[int, int],
    num_preceding: int,
    remembers: bool,
    oracle: bool,
) -> tuple[WorldState, GeometryEstimator]:
    """The state that checked reset `options` describe, and the estimator for its clips.

    Args:
        options: As `inputs.check_reset_options` returns them.
        np_random: Draws the scene if none is named, and the world's seed.
        network: Estimates the first picture's depth, and the clips' unless `oracle`.
        empty_memory: A map without points, with the settings to use.
        size: (height, width) of the frames.
        num_preceding: Frames of the past that the model sees.
        remembers: Whether the first picture enters the map.
        oracle: Whether clips are understood with the simulator's truth.
    """
    seed = int(np_random.integers(2**62))
    if "world" in options:
        if is_cloud(options["world"]):
            return open_cloud(options, empty_memory, size, num_preceding, seed), network
        return open_saved(options, size), network
    if "image" in options:
        start = start_from_image(options, *size)
    else:
        if "scene" not in options:
            options["scene"] = int(np_random.integers(TRAIN_SCENES))  # the caller's copy: it may want to know
        scene = options["scene"]
        start = start_from_scene(scene, options, *size)
    estimator = start.oracle() if oracle else network
    prompt = options.get("prompt", start.prompt)
    return begin(start, prompt, seed, estimator, empty_memory, num_preceding, remembers), estimator


def begin(
    start: Start,
    prompt: str,
    seed: int,
    estimator: GeometryEstimator,
    memory: SceneMemory,
    num_preceding: int,
    remembers: bool,
) -> WorldState:
    """The state after the first picture: depth estimated unless given, its static pixels in the map."""
    size = (int(start.frame.shape[0]), int(start.frame.shape[1]))
    rgb = start.frame.movedim(-1, 0)[None].float() / 255
    c2w, nothing = start.c2w[None], torch.zeros(1, *size)
    if start.depth is None:
        geometry = estimator(rgb, c2w, start.K, torch.zeros_like(rgb), nothing, nothing.bool(), start.ground)
        # Nothing can be told apart as moving in one picture: all of it is the world.
        geometry = dataclasses.replace(geometry, dynamic=nothing)
        depth, weight = geometry.depth, static_weight(geometry)
    else:
        depth = start.depth[None]
        weight = (depth > 0).float()
    if start.mask is not None:
        weight = weight * (~start.mask).float()
    if remembers:
        memory, _ = memory.update(rgb, depth, weight, c2w, start.K, 0)
    written = torch.where(weight > 0, depth, 0)[0]
    return WorldState(
        memory=memory,
        keyframes=(Keyframe(start.frame, written.half(), start.c2w, 0),),
        c2w=start.c2w,
        start_c2w=start.c2w,
        K=start.K,
        size=size,
        prompt=prompt,
        preceding_frames=start.frame.expand(max(num_preceding, 1), -1, -1, -1).clone(),
        depth=depth[0],
        seed=seed,
        ground=start.ground,
        measured=start.depth is not None,
    )


def open_saved(options: dict[str, Any], size: tuple[int, int]) -> WorldState:
    """The state of a saved (or living) world, with another `prompt` or `pose` if the options give one."""
    saved = options["world"]
    state = saved.state if isinstance(saved, World) else World.load(saved).state
    if state.size != size:
        height, width = state.size
        raise ActionError(
            f"the world was made at size ({height}, {width}); make the env with size=({height}, {width})."
        )
    changes: dict[str, Any] = {"prompt": options["prompt"]} if "prompt" in options else {}
    if "pose" in options:
        changes["c2w"] = torch.from_numpy(options["pose"]).float()
    return dataclasses.replace(state, **changes)


def load_geometry(checkpoint: Checkpoint) -> GeometryEstimator:
    """What estimates depth for a checkpoint: its geometry network, or MapAnything if its options ask for it.

    Loaded once per process.
    """
    if checkpoint.options is not None and checkpoint.options.mapanything is not None:
        return _load_mapanything(checkpoint.options)
    return _load_geometry(checkpoint.geometry)


@functools.lru_cache(maxsize=1)
def _load_mapanything(options: "OfficialOptions") -> GeometryEstimator:
    from spatia_env.slam.mapanything import MapAnythingGeometry
    from spatia_env.slam.segmentation import segmenter_of

    masks = segmenter_of(options.moving, options.detector, options.segmenter, options.device)
    source = str(options.mapanything)
    return MapAnythingGeometry.from_pretrained(source, options.mapanything_revision, options.device, masks)


@functools.lru_cache(maxsize=4)
def _load_geometry(folder: Path) -> TinyGeometry:
    config = read_config(folder)["geometry"]
    return cast(TinyGeometry, load_network(TinyGeometry, config, folder / "geometry.safetensors"))
