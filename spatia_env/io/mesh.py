"""Triangle meshes by Open3D: fused from depth views, simplified to colliders, written and read as GLB, OBJ and PLY.

Meshes are `open3d.geometry.TriangleMesh` in the world's frame: metres, +Z up, colours at the vertices. GLB files are +Y
up and have linear colours by their specification; both are converted on the way out and back. Open3D is imported when a
function is called.
"""

import ctypes
import json
import os
import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from spatia_env.errors import DependencyError, WorldFormatError, WorldIOError
from spatia_env.io import atomic
from spatia_env.io.images import to_uint8

SUFFIXES = (".glb", ".obj", ".ply")
VOXEL = 0.03
"""Metres: edge of the voxels of the distance field, and about the length of a triangle's sides."""
TRUNCATION = 5.0
"""Voxels in front of and behind a surface in which its distance is stored; more closes gaps and thickens thin parts."""
MIN_TRIANGLES = 50
"""Connected pieces of fewer triangles are left out: they are noise around silhouettes."""
COLLIDER_CELL = 0.08
"""Metres within which the vertices of a collider are merged, before the rest is simplified."""
MAX_FILE_BYTES = 2 << 30
_BLOCK, _BLOCKS = (
    8,
    20_000,
)  # voxels along the edge of a hashed block, and blocks that are made room for at first
_Z_TO_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def fuse_views(
    rgb: np.ndarray, depth: np.ndarray, K: np.ndarray, w2c: np.ndarray, voxel: float = VOXEL
) -> Any:
    """The mesh of the surface that views see: truncated signed distances averaged in voxels, then marching cubes.

    Args:
        rgb: f32 [V, H, W, 3] in [0, 1].
        depth: z-depth f32 [V, H, W] in metres, 0 = none.
        K: Intrinsics [3, 3] in pixels, pixel centres at +0.5.
        w2c: World-to-camera transforms [V, 4, 4].
        voxel: Metres.

    Returns:
        `open3d.geometry.TriangleMesh`; empty where no view has depth.
    """
    o3d: Any = import_open3d()
    tensor, image = o3d.core.Tensor, o3d.t.geometry.Image
    kinds, channels = ("tsdf", "weight", "color"), (1, 1, 3)
    device = o3d.core.Device("CPU:0")
    grid = o3d.t.geometry.VoxelBlockGrid(
        kinds, (o3d.core.float32,) * 3, channels, voxel, _BLOCK, _BLOCKS, device
    )
    lens = tensor(
        np.asarray(K, np.float64) - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    )  # centres at whole numbers
    reach = float(depth.max(initial=0)) + 1.0
    # Open3D looks for blocks at every fourth pixel, and takes finding none for an error.
    used = [view for view in range(len(depth)) if (depth[view, ::4, ::4] > 0).any()]
    for view in used:
        pose = tensor(np.asarray(w2c[view], np.float64))
        distance = image(tensor(np.ascontiguousarray(depth[view, ..., None], np.float32)))
        colour = image(tensor(np.ascontiguousarray(rgb[view], np.float32)))
        span = (1.0, reach, TRUNCATION)  # depth unit, farthest depth, voxels
        blocks = grid.compute_unique_block_coordinates(distance, lens, pose, *span)
        grid.integrate(blocks, distance, colour, lens, lens, pose, *span)
    if not used:
        return o3d.geometry.TriangleMesh()
    return _without_fragments(grid.extract_triangle_mesh(weight_threshold=0.5).to_legacy())


def collider_of(mesh: Any, max_triangles: int = 20_000) -> Any:
    """A mesh of at most `max_triangles` triangles, without colours, for a physics engine or a navigation mesh."""
    small = mesh.simplify_vertex_clustering(COLLIDER_CELL)
    if len(small.triangles) > max_triangles:
        small = small.simplify_quadric_decimation(max_triangles)
    small.remove_degenerate_triangles()
    small.remove_unreferenced_vertices()
    small.vertex_colors = type(small.vertex_colors)()
    return small


def write_mesh(path: str | os.PathLike[str], mesh: Any) -> Path:
    """Write a mesh as its suffix says: GLB (+Y up), OBJ or PLY (+Z up), with vertex colours and normals.

    Raises:
        WorldFormatError: Another suffix, or a mesh without triangles.
        WorldIOError: The system refuses; a file of that name is as it was.
    """
    target = atomic.as_path(path, "mesh")
    _check_suffix(target)
    if not len(mesh.triangles):
        raise WorldFormatError("the mesh has no triangles: nothing that was seen makes a surface.")
    with TemporaryDirectory(prefix="spatia-") as folder:
        part = Path(folder) / f"mesh{target.suffix.lower()}"
        if part.suffix == ".glb":
            part.write_bytes(_glb(mesh))
        elif not import_open3d().io.write_triangle_mesh(str(part), mesh):
            raise WorldIOError(f"mesh {str(target)!r} could not be written; is the disk full?")
        with atomic.replacing(target, "mesh") as stream:
            stream.write(part.read_bytes())
    return target


def read_mesh(path: str | os.PathLike[str]) -> Any:
    """The mesh of a GLB, OBJ or PLY file, +Z up; `PointCloud.of_mesh` makes points of it.

    Raises:
        WorldFormatError: Another suffix, or no triangles in the file.
        WorldIOError: It is missing, not a regular file, or larger than 2 GB.
    """
    target = atomic.as_path(path, "mesh")
    _check_suffix(target)
    if atomic.regular_size(target, "mesh") > MAX_FILE_BYTES:
        raise WorldIOError(f"mesh {str(target)!r} is larger than {MAX_FILE_BYTES >> 30} GB.")
    o3d: Any = import_open3d()
    mesh = o3d.io.read_triangle_mesh(str(target))
    if not len(mesh.triangles):
        raise WorldFormatError(f"mesh {str(target)!r} holds no triangles, or is damaged.")
    if target.suffix.lower() == ".glb":
        mesh.transform(_Z_TO_Y_UP.T)
        mesh.vertex_colors = o3d.utility.Vector3dVector(_to_srgb(np.asarray(mesh.vertex_colors)))
    return mesh


def arrays_of(mesh: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices f64 [n, 3], faces i32 [m, 3], colours u8 [n, 3] (grey if there are none), for `PointCloud.of_mesh`."""
    vertices, faces = np.array(mesh.vertices), np.array(mesh.triangles)
    if not mesh.has_vertex_colors():
        return vertices, faces, np.full(vertices.shape, 128, np.uint8)
    return vertices, faces, to_uint8(np.array(mesh.vertex_colors))


def import_open3d() -> ModuleType:
    """The module `open3d`, on machines without its system library libusb too.

    Open3D 0.20 is linked against `libusb-1.0.so.0`, which a bare Debian does not have. The package `libusb-package`
    ships that library; once it is loaded into the process, Open3D finds it there.

    Raises:
        DependencyError: If it is missing, or a system library it needs is.
    """
    if "open3d" not in sys.modules:
        _preload_libusb()
    try:
        import open3d
    except ModuleNotFoundError as cause:
        raise DependencyError(f"open3d is not installed ({cause}); run `pip install open3d`.") from cause
    except (ImportError, OSError) as cause:
        raise DependencyError(
            f"open3d is installed but cannot be loaded ({cause}). On Debian and Ubuntu run `apt-get install "
            "libusb-1.0-0 libegl1 libgl1 libx11-6 libudev1 libidn2-0`."
        ) from cause
    return open3d


def _preload_libusb() -> None:
    """Load the packaged libusb so that its symbols are visible; the system's own serves where this fails."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import libusb_package
    except ModuleNotFoundError:
        return
    path = libusb_package.get_library_path()
    if path is None:
        return
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return  # made for another system; Open3D's own complaint is the better message


def _glb(mesh: Any) -> bytes:
    """A binary glTF 2.0 file of one unlit mesh; Open3D's own writer leaves out the binary chunk."""
    turn = _Z_TO_Y_UP[:3, :3].T
    colours = np.asarray(mesh.vertex_colors) if mesh.has_vertex_colors() else np.ones_like(mesh.vertices)
    linear = np.rint(65535 * np.pad(_to_linear(np.clip(colours, 0, 1)), ((0, 0), (0, 1)), constant_values=1))
    position = np.ascontiguousarray(np.asarray(mesh.vertices) @ turn, np.float32)
    parts = {  # glTF names: component types and targets of buffers
        "POSITION": (position, "VEC3", 5126, 34962),
        "COLOR_0": (linear.astype(np.uint16), "VEC4", 5123, 34962),
        "indices": (np.asarray(mesh.triangles).astype(np.uint32).reshape(-1), "SCALAR", 5125, 34963),
    }
    views, accessors, start = [], [], 0
    for number, (array, kind, component, target) in enumerate(parts.values()):
        views.append({"buffer": 0, "byteOffset": start, "byteLength": array.nbytes, "target": target})
        accessors.append(
            {"bufferView": number, "componentType": component, "count": len(array), "type": kind}
        )
        start += array.nbytes
    accessors[0] |= {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    accessors[1]["normalized"] = True
    document = {
        "asset": {"version": "2.0", "generator": "spatia_env"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [{"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}],
        "buffers": [{"byteLength": start}],
        "bufferViews": views,
        "accessors": accessors,
    }  # fmt: skip
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)  # chunks end at multiples of four; those of the buffers do anyway
    head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + start)
    data = b"".join(array.tobytes() for array, *_ in parts.values())
    return head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", start, b"BIN\0") + data


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


def _without_fragments(mesh: Any) -> Any:
    """The mesh without connected pieces of fewer than `MIN_TRIANGLES` triangles, its colours in [0, 1]."""
    labels, counts, _ = mesh.cluster_connected_triangles()
    small = np.asarray(counts)[np.asarray(labels)] < MIN_TRIANGLES
    mesh.remove_triangles_by_mask(small)
    mesh.remove_unreferenced_vertices()
    mesh.vertex_colors = type(mesh.vertex_colors)(np.clip(np.asarray(mesh.vertex_colors), 0, 1))
    return mesh


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise WorldFormatError(f"{str(path)!r}: a mesh is a file {', '.join(SUFFIXES)}.")
