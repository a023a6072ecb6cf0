"""Export a world: PLY, triangle mesh, COLMAP text model, nerfstudio's transforms.json, pictures and depth.

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
import torch
from torch import Tensor

from spatia_env.errors import WorldFormatError
from spatia_env.geometry import invert_se3, look_at
from spatia_env.io import atomic, mesh
from spatia_env.io.colmap import ColmapImage, read_colmap, write_colmap
from spatia_env.io.ply import read_ply, write_ply
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.point_map import SceneMemory

DEPTH_UNIT = 1e-3
"""Metres per unit of the 16-bit depth pictures; 0 is no depth, 65.535 m the farthest."""
MAX_PLACES = 6
"""Places from which a map is looked at for its mesh."""
PLACE_GAP = 0.3
"""Metres between them, at least."""
FACE = 256
"""Pixels along the side of a view, six of which show all directions from a place."""
FACE_MARGIN = 0.95
"""Focal length as a share of a right angle's, so that neighbouring views overlap."""


def export(
    path: str | os.PathLike[str],
    memory: SceneMemory,
    keyframes: Sequence[Keyframe],
    K: Tensor,
    size: tuple[int, int],
    layers: Collection[int] | None = None,
    collider: bool = False,
) -> Path:
    """Write the world as `path` says.

    `NAME.ply` is the point cloud alone, `NAME.glb` and `NAME.obj` are a triangle mesh (see `mesh_of`; OBJ keeps +Z up,
    GLB is +Y up). Any other name is a new folder with `points.ply`, `images/` and
    `depth/` (16-bit PNG, millimetres), `transforms.json` for nerfstudio, and `sparse/0/` for COLMAP. It appears
    when it is complete.

    Args:
        path: Where to.
        memory: The map.
        keyframes: Pictures with poses.
        K: Intrinsics [3, 3] in pixels of the keyframes.
        size: (H, W) of the keyframes.
        layers: Which points: 0 observed, 1 edited; both by default.
        collider: Write the mesh simplified and without colours, for a physics engine.

    Returns:
        The path.

    Raises:
        WorldIOError: The system refuses, or the folder exists and is not empty.
    """
    target = atomic.as_path(path, "export")
    if target.suffix.lower() in (".glb", ".obj"):
        surface = mesh_of(memory, torch.stack([k.c2w for k in keyframes]) if keyframes else None, layers)
        return mesh.write_mesh(target, mesh.collider_of(surface) if collider else surface)
    cloud = memory.to_cloud(layers)
    if target.suffix.lower() == ".ply":
        write_ply(target, cloud)
        return target
    if target.suffix:
        raise WorldFormatError(
            f"{str(target)!r}: use NAME.ply for a point cloud, NAME.glb or NAME.obj for a mesh, or a name "
            "without a dot for a folder."
        )
    lens = K.double().cpu().numpy()
    with atomic.replacing_folder(target, "export") as folder:
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


def mesh_of(
    memory: SceneMemory,
    c2w: Tensor | None,
    layers: Collection[int] | None = None,
    voxel: float = mesh.VOXEL,
) -> Any:
    """The map's surface as an `open3d.geometry.TriangleMesh` with vertex colours, in metres, +Z up.

    The map is rendered in all directions from up to `MAX_PLACES` of the places where cameras were, and the views are
    fused into a truncated signed distance field. What no such place sees has no surface. 75,000 points: 4 CPU-seconds.

    Args:
        memory: The map.
        c2w: Camera poses [n, 4, 4] whose positions may be looked from; None or none is an error.
        layers: Which points: 0 observed, 1 edited; both by default.
        voxel: Metres; about the length of a triangle's sides.

    Raises:
        WorldFormatError: If there is no pose.
    """
    if c2w is None or not len(c2w):
        raise WorldFormatError(
            "a mesh needs a place to look from: reset or step first, so that there are keyframes."
        )
    poses = torch.cat([_all_around(eye) for eye in _places(c2w[:, :3, 3].float())])
    focal, half = FACE / 2 * FACE_MARGIN, FACE / 2
    K = torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1]])
    view = memory.render(poses, K, FACE, FACE, layers)
    rgb, depth = view.rgb.movedim(1, -1).numpy(), (view.depth * view.known).numpy()
    return mesh.fuse_views(rgb, depth, K.numpy(), invert_se3(poses.double()).numpy(), voxel)


def _places(eyes: Tensor) -> Tensor:
    """At most `MAX_PLACES` of the positions [n, 3], each the farthest from those before, `PLACE_GAP` apart at least."""
    chosen = [0]
    away = (eyes - eyes[0]).norm(dim=-1)
    while len(chosen) < MAX_PLACES and float(away.max()) > PLACE_GAP:
        chosen.append(int(away.argmax()))
        away = away.minimum((eyes - eyes[chosen[-1]]).norm(dim=-1))
    return eyes[chosen]


def _all_around(eye: Tensor) -> Tensor:
    """Poses [6, 4, 4] at `eye` [3] that look along both directions of each axis."""
    level, upright = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1.0])
    axes = torch.cat([torch.eye(3), -torch.eye(3)])
    return torch.stack([look_at(eye, eye + d, level if float(d[2].abs()) > 0.5 else upright) for d in axes])


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
    target = atomic.as_path(path, "point cloud")
    return read_colmap(target).cloud if target.is_dir() else read_ply(target)


def _millimetres(depth: Tensor) -> np.ndarray:
    return np.rint(np.clip(depth.float().numpy() / DEPTH_UNIT, 0, 65535)).astype(np.uint16)


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
