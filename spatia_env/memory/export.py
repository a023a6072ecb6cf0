"""A world in other people's formats: PLY, COLMAP text model, nerfstudio's transforms.json, pictures and depth.

Worlds have +Z up and OpenCV cameras (`c2w`, +X right, +Y down, +Z forward). COLMAP takes them as they are;
`transforms.json` holds OpenGL cameras (+Y up, -Z forward): columns 1 and 2 of the rotation change their sign.
"""

import io
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spatia_env.errors import WorldFormatError
from spatia_env.io import atomic as files
from spatia_env.io.colmap import ColmapImage, read_colmap, write_colmap
from spatia_env.io.ply import read_ply, write_ply
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory

DEPTH_UNIT = 1e-3
"""Metres per unit of the 16-bit depth pictures; 0 is no depth, 65.535 m the farthest."""


def export(
    path: str | os.PathLike[str],
    memory: SceneMemory,
    keyframes: Sequence[Keyframe],
    K: Tensor,
    size: tuple[int, int],
    layers: Collection[int] | None = None,
) -> Path:
    """Write the world as `path` says.

    `NAME.ply` is the point cloud alone. Any other name is a new folder with `points.ply`, `images/` and
    `depth/` (16-bit PNG, millimetres), `transforms.json` for nerfstudio, and `sparse/0/` for COLMAP. It appears
    when it is complete.

    Args:
        path: Where to.
        memory: The map.
        keyframes: Pictures with poses.
        K: Intrinsics [3, 3] in pixels of the keyframes.
        size: (H, W) of the keyframes.
        layers: Which points: 0 observed, 1 edited; both by default.

    Returns:
        The path.

    Raises:
        WorldIOError: The system refuses, or the folder exists and is not empty.
    """
    target = files.as_path(path, "export")
    cloud = PointCloud.of_memory(memory, layers)
    if target.suffix.lower() == ".ply":
        write_ply(target, cloud)
        return target
    if target.suffix:
        raise WorldFormatError(
            f"{str(target)!r}: use NAME.ply for a point cloud, or a name without a dot for a folder."
        )
    lens = K.double().cpu().numpy()
    with files.replacing_folder(target, "export") as folder:
        names = [f"{i:06d}.png" for i in range(len(keyframes))]
        write_ply(folder / "points.ply", cloud)
        for part in ("images", "depth", "sparse/0"):
            (folder / part).mkdir(parents=True)
        for name, keyframe in zip(names, keyframes, strict=True):
            (folder / "images" / name).write_bytes(_png(keyframe.frame.numpy()))
            (folder / "depth" / name).write_bytes(_png(_millimetres(keyframe.depth)))
        images = [
            ColmapImage(name, keyframe.c2w.double().numpy(), lens, size)
            for name, keyframe in zip(names, keyframes, strict=True)
        ]
        write_colmap(folder / "sparse" / "0", images, cloud)
        text = json.dumps(transforms(images), indent=2, allow_nan=False)
        (folder / "transforms.json").write_text(text + "\n", encoding="utf-8")
    return target


def transforms(images: Sequence[ColmapImage]) -> dict[str, Any]:
    """The content of a nerfstudio `transforms.json`, its pictures in `images/`, their depth in `depth/`."""
    frames = [
        {
            "file_path": f"images/{image.name}",
            "depth_file_path": f"depth/{image.name}",
            "fl_x": float(image.K[0, 0]),
            "fl_y": float(image.K[1, 1]),
            "cx": float(image.K[0, 2]),
            "cy": float(image.K[1, 2]),
            "w": image.size[1],
            "h": image.size[0],
            "transform_matrix": to_opengl(image.c2w).tolist(),
        }
        for image in images
    ]
    return {
        "camera_model": "OPENCV",
        "ply_file_path": "points.ply",
        "depth_unit_scale_factor": DEPTH_UNIT,
        "frames": frames,
    }


def to_opengl(c2w: np.ndarray) -> np.ndarray:
    """OpenCV camera-to-world matrices [..., 4, 4] as OpenGL's (+Y up, -Z forward), and the reverse."""
    return np.asarray(c2w, np.float64) * np.array([1.0, -1.0, -1.0, 1.0])


def read_points(path: str | os.PathLike[str]) -> PointCloud:
    """Points of a PLY file, or of a COLMAP text model in a folder; see `ply.read_ply` and `colmap.read_colmap`."""
    target = files.as_path(path, "point cloud")
    return read_colmap(target).cloud if target.is_dir() else read_ply(target)


def _millimetres(depth: Tensor) -> np.ndarray:
    return np.rint(np.clip(depth.float().numpy() / DEPTH_UNIT, 0, 65535)).astype(np.uint16)


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
