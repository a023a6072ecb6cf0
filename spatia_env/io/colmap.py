"""COLMAP text models: cameras.txt, images.txt and points3D.txt, written and read.

COLMAP's cameras are ours: OpenCV axes, world to camera, the centre of the first pixel at (0.5, 0.5). The
reader checks sizes, numbers and names line by line and never opens the pictures that a model names.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from spatia_env.errors import WorldFormatError, WorldTooLargeError
from spatia_env.geometry import invert_se3
from spatia_env.io import atomic
from spatia_env.io.point_cloud import DEFAULT_RADIUS, MAX_COORDINATE, MAX_POINTS, PointCloud

MAX_LINE = 1 << 20  # a line of images.txt lists all the points that a picture sees
MAX_IMAGES = 100_000
MAX_SIDE = 65_536
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class ColmapImage:
    """One picture of a model: its `name` inside the picture folder, pose `c2w` [4, 4], `K` [3, 3] and `size` (H, W)."""

    name: str
    c2w: np.ndarray
    K: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class ColmapModel:
    """A model: its pictures in the order of their numbers, and its points."""

    images: tuple[ColmapImage, ...]
    cloud: PointCloud


def write_colmap(folder: str | os.PathLike[str], images: list[ColmapImage], cloud: PointCloud) -> None:
    """Write cameras.txt, images.txt and points3D.txt into a folder that exists.

    Points have no tracks, and 0 as their error. Confidence and radius are not part of the format.
    """
    folder = Path(folder)
    cameras: dict[tuple[float, ...], int] = {}
    rows = []
    for number, image in enumerate(images, start=1):
        K, (height, width) = image.K, image.size
        lens = (width, height, *(float(v) for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])))
        camera = cameras.setdefault(lens, len(cameras) + 1)
        w2c = invert_se3(np.asarray(image.c2w, np.float64))
        numbers = " ".join(repr(float(v)) for v in (*quaternion(w2c[:3, :3]), *w2c[:3, 3]))
        rows.append(f"{number} {numbers} {camera} {image.name}\n\n")
    head = "# Written by spatia_env. See https://colmap.github.io/format.html\n"
    lenses = [f"{n} PINHOLE {' '.join(f'{v!r}' for v in lens)}\n" for lens, n in cameras.items()]
    with atomic.replacing(folder / "cameras.txt") as stream:
        stream.write((head + "".join(lenses)).encode())
    with atomic.replacing(folder / "images.txt") as stream:
        stream.write((head + "".join(rows)).encode())
    with atomic.replacing(folder / "points3D.txt") as stream:
        stream.write(head.encode())
        for start in range(0, len(cloud), 1 << 16):
            position = cloud.position[start : start + (1 << 16)].tolist()
            colour = cloud.colour[start : start + (1 << 16)].tolist()
            lines = [
                f"{start + i + 1} {x!r} {y!r} {z!r} {r} {g} {b} 0\n"
                for i, ((x, y, z), (r, g, b)) in enumerate(zip(position, colour, strict=True))
            ]
            stream.write("".join(lines).encode())


def read_colmap(folder: str | os.PathLike[str], max_points: int = MAX_POINTS) -> ColmapModel:
    """Read a text model; the folder holds the three files, or has them in `sparse/0` or `sparse`.

    Cameras of the models PINHOLE and SIMPLE_PINHOLE are taken; undistort others first.

    Raises:
        WorldFormatError: A file is malformed (its line is named), or names a picture outside the folder.
        WorldTooLargeError: More points, pictures or longer lines than the limits.
        WorldIOError: A file is missing or cannot be read.
    """
    root = atomic.as_path(folder, "COLMAP model")
    for candidate in (root, root / "sparse" / "0", root / "sparse"):
        if (candidate / "cameras.txt").exists():
            root = candidate
            break
    cameras = _read_cameras(root / "cameras.txt")
    return ColmapModel(
        _read_images(root / "images.txt", cameras), _read_points(root / "points3D.txt", max_points)
    )


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """(w, x, y, z), unit, w >= 0, of a rotation matrix [3, 3]."""
    # The symmetric matrix whose eigenvector of the largest eigenvalue is the quaternion: no case distinctions.
    (a, b, c), (d, e, f), (g, h, i) = np.asarray(rotation, np.float64)
    matrix = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    q = np.linalg.eigh(matrix)[1][:, -1]
    w, x, y, z = (q if q[0] >= 0 else -q).tolist()
    return w, x, y, z


def rotation_of(quaternion: tuple[float, float, float, float]) -> np.ndarray:
    """Rotation matrix [3, 3] of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _read_cameras(path: Path) -> dict[int, tuple[np.ndarray, tuple[int, int]]]:
    cameras: dict[int, tuple[np.ndarray, tuple[int, int]]] = {}
    for where, words in _lines(path):
        if not words:
            continue
        counts = {"PINHOLE": 4, "SIMPLE_PINHOLE": 3}
        if len(words) < 4 or words[1] not in counts or len(words) != 4 + counts[words[1]]:
            raise WorldFormatError(
                f"{where}: expected ID PINHOLE W H fx fy cx cy; undistort other cameras first."
            )
        number, width, height = (_integer(words[i], where) for i in (0, 2, 3))
        lens = [_number(word, where) for word in words[4:]]
        fx, fy, cx, cy = lens if len(lens) == 4 else (lens[0], *lens)
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and min(fx, fy) > 0) or number in cameras:
            raise WorldFormatError(
                f"{where}: sizes and focal lengths are positive, and a number occurs once."
            )
        cameras[number] = (np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), (height, width))
        _limit(cameras, MAX_IMAGES, where)
    return cameras


def _read_images(
    path: Path, cameras: dict[int, tuple[np.ndarray, tuple[int, int]]]
) -> tuple[ColmapImage, ...]:
    images: dict[int, ColmapImage] = {}
    points_follow = False
    for where, words in _lines(path):
        if points_follow:
            points_follow = False
            continue
        if not words:
            continue
        if len(words) < 10:
            raise WorldFormatError(f"{where}: expected ID QW QX QY QZ TX TY TZ CAMERA_ID NAME.")
        number, camera = _integer(words[0], where), _integer(words[8], where)
        if camera not in cameras or number in images:
            raise WorldFormatError(
                f"{where}: camera {camera} is not in cameras.txt, or image {number} occurs twice."
            )
        c2w = _pose([_number(word, where) for word in words[1:8]], where)
        images[number] = ColmapImage(_safe_name(" ".join(words[9:]), where), c2w, *cameras[camera])
        points_follow = True
        _limit(images, MAX_IMAGES, where)
    return tuple(images[number] for number in sorted(images))


def _read_points(path: Path, max_points: int) -> PointCloud:
    position, colour = [], []
    for where, words in _lines(path):
        if not words:
            continue
        if len(words) < 8:
            raise WorldFormatError(f"{where}: expected ID X Y Z R G B ERROR TRACK...")
        point = [_number(word, where) for word in words[1:4]]
        rgb = [_integer(word, where) for word in words[4:7]]
        if max(map(abs, point)) > MAX_COORDINATE or max(rgb) > 255:
            raise WorldFormatError(f"{where}: coordinates lie within 1000 km, colours between 0 and 255.")
        position.append(point)
        colour.append(rgb)
        _limit(position, max_points, where)
    size = len(position)
    return PointCloud(
        np.array(position, np.float32).reshape(-1, 3),
        np.array(colour, np.uint8).reshape(-1, 3),
        np.ones(size, np.float32),
        np.full(size, DEFAULT_RADIUS, np.float32),
    )


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Words of each line that is not a comment, with a name for error messages."""
    with atomic.open_regular(path, "COLMAP file") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > MAX_LINE:
                raise WorldTooLargeError(f"{where}: is longer than {MAX_LINE} bytes.")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as cause:
                raise WorldFormatError(f"{where}: is not UTF-8 text.") from cause
            if not text.startswith("#"):
                yield where, text.split()


def _pose(values: list[float], where: str) -> np.ndarray:
    norm = math.sqrt(sum(v * v for v in values[:4]))
    if abs(norm - 1) > 1e-3 or max(map(abs, values[4:])) > MAX_COORDINATE:
        raise WorldFormatError(
            f"{where}: the quaternion has length {norm:.4g} instead of 1, or TX TY TZ are absurd."
        )
    w, x, y, z = (v / norm for v in values[:4])
    w2c = np.eye(4)
    w2c[:3, :3] = rotation_of((w, x, y, z))
    w2c[:3, 3] = values[4:]
    return invert_se3(w2c)


def _safe_name(name: str, where: str) -> str:
    """A relative name that stays inside its folder on every system."""
    parts = PurePosixPath(name).parts
    bad = (
        not parts
        or name.startswith("/")
        or ".." in parts
        or any(c in name for c in "\\:\0")
        or len(name) > 255
    )
    if bad or not name.isprintable():
        raise WorldFormatError(
            f"{where}: the picture name {name!r:.80} leads out of the folder or is not a name."
        )
    return name


def _number(text: str, where: str) -> float:
    value = float(text) if len(text) < 64 and _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise WorldFormatError(f"{where}: {text!r:.40} is not a finite number.")
    return value


def _integer(text: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise WorldFormatError(f"{where}: {text!r:.40} is not a whole number.")
    return int(text)


def _limit(found: object, limit: int, where: str) -> None:
    if len(found) > limit:  # type: ignore[arg-type]
        raise WorldTooLargeError(f"{where}: more than {limit} entries.")
