"""PLY point clouds: written as binary little-endian; read with every size and number checked.

Read are binary little-endian and ASCII files whose first element is `vertex`, with scalar properties. Used
are x, y, z, red, green, blue, confidence and radius; other properties are skipped. Sizes are compared with
the file's before memory is taken.
"""

import os
import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from spatia_env.errors import WorldCorruptError, WorldFormatError, WorldTooLargeError
from spatia_env.io import atomic
from spatia_env.io.point_cloud import (
    DEFAULT_COLOUR,
    DEFAULT_RADIUS,
    MAX_COORDINATE,
    MAX_POINTS,
    PointCloud,
)

MAX_HEADER = 64 * 1024
MAX_LINE = 4096
MAX_PROPERTIES = 128
_CHUNK = 1 << 18  # rows or lines at a time
_TYPES = {
    "char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4",
    "float": "<f4", "double": "<f8", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2",
    "int32": "<i4", "uint32": "<u4", "float32": "<f4", "float64": "<f8",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_ROW = np.dtype([("position", "<f4", (3,)), ("colour", "u1", (3,)), ("confidence", "<f4"), ("radius", "<f4")])


def write_ply(path: str | os.PathLike[str], cloud: PointCloud) -> None:
    """Write a cloud: x y z (float), red green blue (uchar), confidence and radius (float), little-endian.

    Raises:
        WorldIOError: The system refuses; a file of that name is as it was.
    """
    rows = np.empty(len(cloud), dtype=_ROW)
    for name in _ROW.names or ():
        rows[name] = getattr(cloud, name)
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {name}" for name in ("red", "green", "blue")]
    properties += ["property float confidence", "property float radius"]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(rows)}",
        *properties,
        "end_header",
    ]
    with atomic.replacing(path, "point cloud") as stream:
        stream.write(("\n".join(header) + "\n").encode())
        stream.write(rows.tobytes())


def read_ply(path: str | os.PathLike[str], max_points: int = MAX_POINTS) -> PointCloud:
    """Read a cloud. Without colours it is grey (128), without confidence 1, without radius 1 cm.

    Raises:
        WorldFormatError: It is not a PLY of the kinds above, or has NaN, infinite or absurd coordinates.
        WorldCorruptError: It holds fewer or more points than it declares.
        WorldTooLargeError: It declares more than `max_points`.
        WorldIOError: It cannot be opened, or is not a regular file.
    """
    target = atomic.as_path(path, "point cloud")
    with atomic.open_regular(target, "point cloud") as stream:
        header = _read_header(stream, str(target))
        if header.count > max_points:
            raise WorldTooLargeError(
                f"{str(target)!r} declares {header.count} points; the limit is {max_points}."
            )
        left = os.fstat(stream.fileno()).st_size - stream.tell()
        read = _read_ascii if header.ascii else _read_binary
        return read(stream, header, left, str(target))


@dataclass(frozen=True)
class _Header:
    """What a header declares of its vertices, and whether other elements follow them."""

    ascii: bool
    count: int
    properties: tuple[tuple[str, str], ...]  # name, numpy type
    more: bool

    @property
    def row(self) -> np.dtype:
        return np.dtype(list(self.properties))


def _read_header(stream: BinaryIO, name: str) -> _Header:
    lines = _header_lines(stream, name)
    encoding, count, more = "", -1, False
    properties: list[tuple[str, str]] = []
    for words in lines:
        match words:
            case ["format", kind, "1.0"] if not encoding:
                encoding = kind
            case ["comment" | "obj_info", *_] | []:
                continue
            case ["element", "vertex", number] if count < 0 and not more:
                count = _count(number, name)
            case ["element", other, number] if count >= 0 and other != "vertex":
                _count(number, name)
                more = True
            case ["property", *_] if more:
                continue
            case ["property", kind, label] if count >= 0 and kind in _TYPES and _NAME.fullmatch(label):
                properties.append((label, _TYPES[kind]))
            case _:
                raise WorldFormatError(
                    f"{name!r}: the header line {' '.join(words)!r:.80} is not one this reader takes."
                )
        if len(properties) > MAX_PROPERTIES:
            raise WorldFormatError(f"{name!r} declares more than {MAX_PROPERTIES} properties.")
    _check_properties(encoding, count, properties, name)
    return _Header(encoding == "ascii", count, tuple(properties), more)


def _header_lines(stream: BinaryIO, name: str) -> list[list[str]]:
    if stream.readline(8).rstrip(b"\r\n") != b"ply":
        raise WorldFormatError(f"{name!r} is not a PLY file.")
    lines: list[list[str]] = []
    returns = False
    while stream.tell() <= MAX_HEADER:
        line = stream.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE or not line.endswith(b"\n"):
            raise WorldFormatError(
                f"{name!r}: a header line is longer than {MAX_LINE} bytes, or is cut short."
            )
        returns |= line.endswith(b"\r\n")
        try:
            words = line.decode("ascii").split()
        except UnicodeDecodeError as cause:
            raise WorldFormatError(f"{name!r}: the header is not ASCII text.") from cause
        if words == ["end_header"]:
            # With CR LF it is undecidable whether the CR after end_header belongs to the header or to the data.
            if returns and ["format", "ascii", "1.0"] not in lines:
                raise WorldFormatError(f"{name!r}: a binary PLY must end its header lines with LF alone.")
            return lines
        lines.append(words)
    raise WorldFormatError(f"{name!r}: the header is longer than {MAX_HEADER} bytes.")


def _count(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,30}", text):
        raise WorldFormatError(f"{name!r} declares {text!r:.40} elements.")
    return int(text)


def _check_properties(encoding: str, count: int, properties: list[tuple[str, str]], name: str) -> None:
    if encoding == "binary_big_endian":
        raise WorldFormatError(f"{name!r} is big-endian; write it as binary_little_endian.")
    if encoding not in ("ascii", "binary_little_endian"):
        raise WorldFormatError(f"{name!r}: the format {encoding!r:.40} is not known.")
    if count < 0:
        raise WorldFormatError(f"{name!r} has no vertices as its first element.")
    types = dict(properties)
    if len(types) != len(properties):
        raise WorldFormatError(f"{name!r} declares a property twice.")
    for axis in "xyz":
        if types.get(axis) not in ("<f4", "<f8"):
            raise WorldFormatError(f"{name!r}: {axis} must be a float or double property of the vertices.")
    colours = {types.get(channel) for channel in ("red", "green", "blue")}
    if len(colours) != 1 or not colours <= {None, "u1", "<f4", "<f8"}:
        raise WorldFormatError(f"{name!r}: red, green and blue must be uchar, or float from 0 to 1.")


def _read_binary(stream: BinaryIO, header: _Header, left: int, name: str) -> PointCloud:
    need = header.count * header.row.itemsize
    if left < need or (left > need and not header.more):
        raise WorldCorruptError(f"{name!r} has {left} bytes of points where its header declares {need}.")
    parts = []
    for start in range(0, header.count, _CHUNK):
        size = min(_CHUNK, header.count - start) * header.row.itemsize
        data = stream.read(size)
        if len(data) != size:  # another process cut it meanwhile
            raise WorldCorruptError(f"{name!r} ends before its last point.")
        parts.append(_cloud(np.frombuffer(data, header.row), header, name))
    return PointCloud.joined(parts)


def _read_ascii(stream: BinaryIO, header: _Header, left: int, name: str) -> PointCloud:
    # The shortest row has one digit and one separator for each property.
    if left + 1 < header.count * 2 * len(header.properties):
        raise WorldCorruptError(f"{name!r} is too short for the {header.count} points it declares.")
    parts = []
    for start in range(0, header.count, _CHUNK):
        lines = [_row(stream, header, name) for _ in range(min(_CHUNK, header.count - start))]
        try:
            table = np.array([float(token) for line in lines for token in line])
        except ValueError as cause:
            raise WorldFormatError(f"{name!r} has a value that is not a number ({cause!s:.80}).") from cause
        table = table.reshape(len(lines), -1)
        columns = {label: table[:, i] for i, (label, _) in enumerate(header.properties)}
        parts.append(_cloud(columns, header, name))
    if not header.more and stream.read(MAX_LINE).strip():
        raise WorldCorruptError(f"{name!r} goes on after its last point.")
    return PointCloud.joined(parts)


def _row(stream: BinaryIO, header: _Header, name: str) -> list[bytes]:
    line = stream.readline(MAX_LINE + 1)
    tokens = line.split()
    if not line:
        raise WorldCorruptError(f"{name!r} ends before its last point.")
    if len(line) > MAX_LINE or len(tokens) != len(header.properties) or b"_" in line:
        raise WorldFormatError(f"{name!r}: the row {line[:60]!r} does not have the declared values.")
    return tokens


def _cloud(columns: np.ndarray | dict[str, np.ndarray], header: _Header, name: str) -> PointCloud:
    """Points of columns by name, checked and in our types."""
    types = dict(header.properties)
    position = np.stack([np.asarray(columns[axis], np.float64) for axis in "xyz"], axis=-1)
    if not (np.abs(position) <= MAX_COORDINATE).all():  # also false for NaN
        raise WorldFormatError(f"{name!r} has coordinates that are NaN, infinite or beyond 1000 km.")
    size = len(position)
    if types.get("red") is None:
        colour = np.full((size, 3), DEFAULT_COLOUR, np.uint8)
    else:
        values = np.stack([np.asarray(columns[c], np.float64) for c in ("red", "green", "blue")], axis=-1)
        scale = 1.0 if types["red"] == "u1" else 255.0
        if not ((values >= 0) & (values * scale <= 255)).all():
            raise WorldFormatError(f"{name!r} has colours out of range; uchar is 0 to 255, float 0 to 1.")
        colour = np.rint(values * scale).astype(np.uint8)
    confidence = _positive(columns, types, "confidence", 1.0, name)
    return PointCloud(
        position.astype(np.float32),
        colour,
        confidence,
        _positive(columns, types, "radius", DEFAULT_RADIUS, name),
    )


def _positive(
    columns: np.ndarray | dict[str, np.ndarray], types: dict[str, str], label: str, default: float, name: str
) -> np.ndarray:
    if label not in types:
        return np.full(len(columns["x"]), default, np.float32)
    values = np.asarray(columns[label], np.float64)
    if not ((values >= 0) & (values <= 1e6)).all():
        raise WorldFormatError(f"{name!r}: {label} must be between 0 and a million.")
    return values.astype(np.float32)
