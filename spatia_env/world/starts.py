"""First pictures: from a simulated scene, or from a photograph of the user's.

A scene gives its first picture and camera (and depth on request), nothing else: the simulator's truth never
enters the tested path.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ActionError, EditError, WorldFormatError
from spatia_env.geometry import check_rigid, intrinsics_from_fov, look_at, scale_intrinsics
from spatia_env.io.colmap import ColmapModel, read_colmap
from spatia_env.io.images import fit_depth, fit_image, fit_mask, read_image
from spatia_env.io.ply import read_ply
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.editing import start_from
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.map import MAX_KEYFRAMES, Map
from spatia_env.memory.point_map import SceneMemory
from spatia_env.world.state import WorldState

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


FOV = 60.0
"""Degrees across, of a camera that no file tells of."""
HEADINGS, COARSE = 12, 4
ARM, LEAST_ASIDE = 0.7, 1.5
"""Metres."""
LEAST_SEEN = 0.02
"""Share of the first picture that must show the cloud."""
SAME_LENS = 0.01
"""Relative difference of focal lengths up to which pictures are of one camera."""


def open_cloud(
    options: dict[str, Any], memory: SceneMemory, size: tuple[int, int], num_preceding: int, seed: int
) -> WorldState:
    """The state of a world that begins as the cloud in `options["world"]`.

    Args:
        options: Checked reset options; `pose` [4, 4] and `intrinsics` (as for a picture) go before the files' own.
        memory: A map without points.
        size: (height, width) of the frames.
        num_preceding: Frames of the past that the model sees.
        seed: Of the world.

    Raises:
        WorldFormatError, WorldTooLargeError, WorldIOError: As the files are bad, or hold no points.
        ActionError: The camera sees (nearly) nothing of the cloud.
    """
    path = Path(options["world"])
    model = read_colmap(path) if path.is_dir() else ColmapModel((), read_ply(path))
    if not len(model.cloud):
        raise WorldFormatError(f"{str(path)!r} holds no points; a world cannot begin with nothing.")
    try:
        memory = start_from(memory, model.cloud)
    except EditError as cause:
        raise WorldFormatError(f"{str(path)!r}: {cause}") from cause
    K = _lens(options, model, size)
    pose = options.get("pose")
    if pose is None:
        pose = model.images[0].c2w if model.images else _standpoint(memory, model.cloud, K, size).numpy()
    c2w = torch.from_numpy(np.asarray(pose, np.float32))
    view = memory.render(c2w[None], K, *size)
    if float(view.known.float().mean()) < LEAST_SEEN:
        raise ActionError(
            f"reset: from {_rounded(c2w[:3, 3])} the camera sees nothing of {str(path)!r}, "
            "which reaches from "
            f"{_rounded(model.cloud.position.min(0))} to {_rounded(model.cloud.position.max(0))}; "
            "give options['pose'] (c2w, x right, y down, z forward; metres, z up)."
        )
    keyframes = _pictures(path, model, memory, K, size)
    at_start = [k for k in keyframes if torch.allclose(k.c2w, c2w, atol=1e-4)]
    if at_start:
        first = at_start[0]
    else:
        first = Keyframe(_picture(view.rgb[0], view.known[0]), (view.depth * view.known)[0].half(), c2w, 0)
    others = [k for k in keyframes if k is not first]
    return WorldState(
        map=Map(memory, (first, *others[: MAX_KEYFRAMES - 1]), K, size, measured=True),
        c2w=c2w,
        start_c2w=c2w,
        prompt=options.get("prompt", ""),
        preceding_frames=first.frame.expand(max(num_preceding, 1), -1, -1, -1).clone(),
        depth=(view.depth * view.known)[0],
        seed=seed,
    )


def _lens(options: dict[str, Any], model: ColmapModel, size: tuple[int, int]) -> Tensor:
    """K [3, 3] in pixels: as the options say, as the first picture's camera, or `FOV` across."""
    height, width = size
    if "intrinsics" in options:
        K = fit_image(np.zeros((height, width, 3), np.uint8), height, width, options["intrinsics"])[1]
    elif model.images:
        K = _fitted(model.images[0].K, model.images[0].size, size)
    else:
        return intrinsics_from_fov(FOV, height, width)
    return torch.from_numpy(np.asarray(K, np.float32))


def _fitted(K: np.ndarray, made: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """K of a picture of size `made` after it was scaled to cover `size` and cropped at its centre."""
    scale = max(size[0] / made[0], size[1] / made[1])
    fitted = np.asarray(K, np.float64).copy()
    fitted[:2] *= scale
    fitted[0, 2] -= (made[1] * scale - size[1]) / 2
    fitted[1, 2] -= (made[0] * scale - size[0]) / 2
    return fitted


def _standpoint(memory: SceneMemory, cloud: PointCloud, K: Tensor, size: tuple[int, int]) -> Tensor:
    """A level camera [4, 4] near the cloud's middle, at eye height above its lowest points, that sees most of it."""
    middle = np.median(cloud.position[:, :2], axis=0)
    aside = np.ptp(np.percentile(cloud.position[:, :2], [5, 95], axis=0), axis=0) / 4
    aside = aside.clip(min=LEAST_ASIDE)  # a wall or a thing is seen from outside
    low, high = np.percentile(cloud.position[:, 2], [1, 99]).tolist()
    z = low + min(EYE_HEIGHT, (high - low) / 2)
    angles = torch.arange(HEADINGS) * (2 * torch.pi / HEADINGS)
    ways = torch.stack([angles.cos(), angles.sin(), torch.zeros(HEADINGS)], 1)
    poses = []
    for place in np.ndindex(3, 3):
        x, y = (middle + (np.array(place) - 1) * aside).tolist()
        eye = torch.tensor([x, y, z], dtype=torch.float32)
        poses += [look_at(eye, eye + way) for way in ways]
    stacked = torch.stack(poses)
    small = scale_intrinsics(K, 1 / COARSE, 1 / COARSE)
    view = memory.render(stacked, small, max(size[0] // COARSE, 1), max(size[1] // COARSE, 1))
    # What is nearer than an arm fills the picture, and says nothing of the place.
    seen = (view.known & (view.depth > ARM)).flatten(1).float().mean(1)
    return stacked[int(seen.argmax())]


def _pictures(
    path: Path, model: ColmapModel, memory: SceneMemory, K: Tensor, size: tuple[int, int]
) -> list[Keyframe]:
    """Keyframes of the pictures that lie beside a model and were taken with the world's lens, evenly chosen."""
    found = [image for image in model.images if (path / "images" / image.name).is_file()]
    lens = K.numpy()
    same = [
        image for image in found
        if np.allclose(_fitted(image.K, image.size, size), lens, rtol=SAME_LENS, atol=0.5)
    ]  # fmt: skip
    chosen = [
        same[i] for i in np.linspace(0, len(same) - 1, min(len(same), MAX_KEYFRAMES)).round().astype(int)
    ]
    keyframes = []
    for image in chosen:
        picture = read_image(path / "images" / image.name)
        frame = torch.from_numpy(np.ascontiguousarray(fit_image(picture, *size, image.K)[0]))
        c2w = torch.from_numpy(image.c2w.astype(np.float32))
        view = memory.render(c2w[None], K, *size)
        keyframes.append(Keyframe(frame, (view.depth * view.known)[0].half(), c2w, 0))
    return keyframes


def _picture(rgb: Tensor, known: Tensor) -> Tensor:
    """A render [3, H, W] as a frame u8 [H, W, 3], its holes filled from around them."""
    from spatia_env.slam.depth_network import fill

    whole = fill(rgb, known.expand(3, -1, -1)).clamp(0, 1)
    return (whole.movedim(0, -1) * 255).round().to(torch.uint8)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 2) for value in values]
