"""Open worlds: from a scene, a photograph, a saved world or a point cloud to the state before the first step."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.memory.map import Map
from spatia_env.memory.scene import SceneMemory
from spatia_env.models.loading import Checkpoint, read_config
from spatia_env.slam.depth_network import GeometryEstimator, TinyGeometry, static_weight
from spatia_env.slam.pipeline import Slam
from spatia_env.weights import load_network
from spatia_env.world.from_cloud import open_cloud
from spatia_env.world.options import is_cloud
from spatia_env.world.starts import Start, start_from_image, start_from_scene
from spatia_env.world.state import WorldState
from spatia_env.world.world import World

if TYPE_CHECKING:
    from spatia_env.models.wan.options import OfficialOptions

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


def load_slam(slam: str | Slam, checkpoint: Checkpoint) -> Slam:
    """The SLAM of an environment, by name (see `SpatiaEnv`) or as it is."""
    if isinstance(slam, Slam):
        return slam
    if slam == "simulator":
        from spatia_env.sim.clip_source import SimulatedScene

        return Slam(SimulatedScene(checkpoint.pipeline.shape), extend_planes=False)
    return Slam(load_geometry(checkpoint), track=slam != "off")


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
