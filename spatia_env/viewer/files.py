"""Files of the playground: saved worlds by name, what browsers upload, and what they download.

Browsers send ids and bytes, never paths. An id has small letters, digits, `-` and `_`; the folder is the server's.
"""

import itertools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.errors import EditError, ViewerError
from spatia_env.io.point_cloud import PointCloud

ID = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)$)[a-z0-9][a-z0-9_-]{0,63}")
"""Names that some systems reserve for devices are none."""
MAX_OBJ_BYTES, MAX_OBJ_LINES = 16 * 2**20, 500_000
GREY = [180.0, 180.0, 180.0]


class SavedWorlds:
    """The worlds in one folder.

    Args:
        folder: Where they are; it is made when the first is saved.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, name: str) -> Path:
        """The file of a world with this id, whether it exists or not.

        Raises:
            ViewerError: If it is not an id.
        """
        if not (isinstance(name, str) and ID.fullmatch(name)):
            raise ViewerError(
                "name: use up to 64 small letters, digits, '-' and '_', and begin with a letter or digit."
            )
        return self.folder / f"{name}.spatia"

    def existing(self, name: str) -> Path:
        """The file of a saved world.

        Raises:
            ViewerError: If it is not an id, or there is no such world.
        """
        path = self.path(name)
        if not path.is_file() or path.is_symlink():
            raise ViewerError(f"there is no saved world {name!r}.")
        return path

    def names(self) -> list[str]:
        """The ids of the saved worlds, in order."""
        found = (path for path in self.folder.glob("*.spatia") if path.is_file() and not path.is_symlink())
        return sorted(path.stem for path in found if ID.fullmatch(path.stem))


def written_bytes(name: str, write: Callable[[Path], Any]) -> bytes:
    """What `write` writes into a file; `name` is the program's own."""
    with tempfile.TemporaryDirectory(prefix="spatia-") as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def read_picture(content: bytes) -> np.ndarray:
    """The picture u8 [H, W, 3] in an upload.

    Raises:
        ViewerError: If it is empty.
        ImageError: If it is none that is read.
    """
    from spatia_env.io.images import read_image

    if not content:
        raise ViewerError("the upload is empty.")
    return _read_bytes("upload", content, read_image)


def read_cloud(name: str, content: bytes) -> PointCloud:
    """The points of an uploaded OBJ, told by the end of its name, or PLY.

    Raises:
        SpatiaError: If it cannot be read.
    """
    from spatia_env.io.ply import read_ply

    if name.lower().endswith(".obj"):
        return read_obj(content)
    return _read_bytes("upload.ply", content, read_ply)


def _read_bytes(name: str, content: bytes, read: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory(prefix="spatia-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return read(path)


def read_obj(content: bytes, spacing: float = 0.01) -> PointCloud:
    """Points on the mesh of a Wavefront OBJ: `v x y z [r g b]` and `f` lines; all else is passed over.

    Args:
        content: The file; it is parsed here, because what it names (materials, pictures) must not be opened.
        spacing: Metres between points.

    Raises:
        EditError: If it is too long, or its lines are not numbers and faces of its vertices.
    """
    if len(content) > MAX_OBJ_BYTES:
        raise EditError(f"the mesh is larger than {MAX_OBJ_BYTES >> 20} MB.")
    lines = content.decode("utf-8", errors="replace").splitlines()
    if len(lines) > MAX_OBJ_LINES:
        raise EditError(f"the mesh has more than {MAX_OBJ_LINES} lines.")
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for number, line in enumerate(lines, start=1):
        kind, *words = line.split() or [""]
        try:
            if kind == "v":
                vertices.append([float(word) for word in words])
            elif kind == "f":
                corners = [int(word.split("/")[0]) for word in words]
                corners = [corner - 1 if corner > 0 else len(vertices) + corner for corner in corners]
                faces += [[corners[0], b, c] for b, c in itertools.pairwise(corners[1:])]
        except (ValueError, IndexError) as cause:
            raise EditError(f"mesh, line {number}: not a vertex or a face.") from cause
    if not faces or any(len(vertex) < 3 for vertex in vertices):
        raise EditError("the mesh has no faces, or vertices without three numbers.")
    colours = [np.multiply(255, vertex[3:6]) if len(vertex) >= 6 else GREY for vertex in vertices]
    rgb = np.clip(np.nan_to_num(np.array(colours)), 0, 255).astype(np.uint8)
    positions = np.array([vertex[:3] for vertex in vertices])
    return PointCloud.of_mesh(positions, np.array(faces, dtype=np.int64), rgb, spacing)
