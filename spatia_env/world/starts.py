"""First pictures: from a simulated scene, or from a photograph of the user's.

A scene gives its first picture and camera (and depth on request), nothing else: the simulator's truth never
enters the tested path.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import check_rigid, look_at
from spatia_env.pictures import fit_depth, fit_image, fit_mask, read_image

EYE_HEIGHT = 1.4
"""Metres above the world's origin where a photograph's camera stands, looking level along +Y."""


@dataclass(frozen=True)
class Start:
    """A first picture `frame` u8 [H, W, 3], its `K` and `c2w`, `prompt`, and what else is known of it.

    `ground` is the world z in metres that the camera's height is counted from; it gives a lone picture its scale.
    """

    frame: Tensor
    K: Tensor
    c2w: Tensor
    prompt: str = ""
    depth: Tensor | None = None
    mask: Tensor | None = None
    ground: float | None = None
    scene: int | str | None = None


def start_from_scene(scene: int | str, options: dict[str, Any], height: int, width: int) -> Start:
    """The first picture of a simulated scene (seed or name); with `options["depth"]` true, its depth too."""
    from spatia_env.sim.scenes import open_scene

    simulated = open_scene(scene)
    try:
        c2w = np.asarray(options.get("pose", simulated.initial_c2w), dtype=np.float32)
        shot = simulated.render(c2w, height, width)
        return Start(
            frame=torch.from_numpy(np.ascontiguousarray(shot.rgb)),
            K=torch.from_numpy(np.asarray(simulated.K(height, width), dtype=np.float32)),
            c2w=torch.from_numpy(c2w),
            prompt=simulated.prompt,
            depth=torch.from_numpy(np.ascontiguousarray(shot.depth)) if options.get("depth") else None,
            ground=0.0,
            scene=scene,
        )
    finally:
        simulated.close()


def start_from_image(options: dict[str, Any], height: int, width: int) -> Start:
    """A photograph resized to cover and cropped at the centre, with optional intrinsics, depth, mask and pose."""
    picture = read_image(options["image"])
    frame, K = fit_image(picture, height, width, options.get("intrinsics"))
    size = (picture.shape[0], picture.shape[1])
    depth = options.get("depth")
    mask = options.get("mask")
    level = look_at(torch.tensor([0.0, 0.0, EYE_HEIGHT]), torch.tensor([0.0, 1.0, EYE_HEIGHT]))
    c2w = torch.from_numpy(np.asarray(options["pose"], dtype=np.float32)) if "pose" in options else level
    check_rigid(c2w, "options['pose']")
    return Start(
        frame=torch.from_numpy(np.ascontiguousarray(frame)),
        K=torch.from_numpy(np.asarray(K, dtype=np.float32)),
        c2w=c2w,
        depth=None if depth is None else torch.from_numpy(fit_depth(depth, size, height, width)),
        ground=None if "pose" in options else 0.0,
        mask=None if mask is None else torch.from_numpy(fit_mask(mask, size, height, width)),
    )
