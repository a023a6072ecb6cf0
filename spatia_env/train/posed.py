"""Posed videos on disk, in RealEstate10K's layout: cameras as text, one file a clip, beside films or frames.

    cameras/NAME.txt            line 1: the video's address; then one line a frame: timestamp (microseconds),
                                fx fy cx cy divided by width and height, k1 k2, and w2c as 12 numbers, row by row
    videos/NAME.mp4             a film with one frame a line, or
    videos/ID.mp4               the whole video of that address (its `v=`), from which frames are taken by time, or
    frames/NAME/TIMESTAMP.png   pictures (png, jpg, webp), one a line
    captions.json               optional: {"NAME": "text"}
    depth/NAME/TIMESTAMP.png    optional: z-depth in millimetres (16 bit), or .npy in metres, 0 = none
    masks/NAME/TIMESTAMP.png    optional: white on what moves

`cameras/` may be missing: then the text files lie in the folder itself. Matrices become `c2w` here and nowhere
else; every complaint names the file and the line. Numpy only; pixels are read by `posed_frames`.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np

from spatia_env.errors import DatasetError, PoseError, PromptError
from spatia_env.geometry import invert_se3, rigid_problem
from spatia_env.io.images import pixel_intrinsics
from spatia_env.io.validation import MAX_PROMPT_LENGTH, normalise_text

COLUMNS = 19
MAX_LINES = 100_000
MAX_TEXT_BYTES = 64 * 2**20
SAME_LENS = 1e-3
"""Normalised intrinsics of one clip may differ by this much: one lens is kept for all of it."""


@dataclass(frozen=True)
class PosedVideo:
    """The cameras of one clip.

    Attributes:
        name: Of the camera file, without suffix.
        source: The video's id in its address, or its last part.
        timestamps: i64 [N] microseconds, rising.
        intrinsics: `[fx, fy, cx, cy]` divided by width and height.
        c2w: f64 [N, 4, 4] in the file's own world and unit.
        path: The camera file.
        lines: Line of the file of each row, from 1.
    """

    name: str
    source: str
    timestamps: np.ndarray
    intrinsics: np.ndarray
    c2w: np.ndarray
    path: Path
    lines: tuple[int, ...]

    def where(self, row: int) -> str:
        """How an error names a row."""
        return f"{self.path}, line {self.lines[row]}"


def camera_files(folder: Path) -> list[Path]:
    """The camera files of a folder, in order of their names.

    Raises:
        DatasetError: It is no folder, holds none, or two of one name.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is not a folder; see docs/training.md for the layout of posed videos.")
    root = folder / "cameras" if (folder / "cameras").is_dir() else folder
    files = sorted(root.rglob("*.txt"), key=lambda path: path.stem)
    if not files:
        raise DatasetError(f"{root}: holds no camera file (*.txt); see docs/training.md for the layout.")
    for first, second in itertools.pairwise(files):
        if first.stem == second.stem:
            raise DatasetError(f"{second}: has the name of {first}; names must differ.")
    return files


def read_cameras(path: Path) -> PosedVideo:
    """The cameras of one file.

    Raises:
        DatasetError: The file cannot be read, or a line is not of the form; the line is named.
        PoseError: A line's matrix is not a rigid motion, or its intrinsics are no lens.
    """
    lines = _text(path).splitlines()
    rows: list[np.ndarray] = []
    numbers: list[int] = []
    if not lines or _is_row(lines[0]):
        raise DatasetError(f"{path}, line 1: is to hold the video's address; cameras begin in line 2.")
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            rows.append(_numbers(line, f"{path}, line {number}"))
            numbers.append(number)
    if not rows:
        raise DatasetError(f"{path}: holds no camera; write one line a frame after the address.")
    if len(rows) > MAX_LINES:
        raise DatasetError(f"{path}: more than {MAX_LINES} cameras.")
    table = np.stack(rows)
    _check_times(table[:, 0], path, numbers)
    return PosedVideo(
        path.stem,
        _source_of(lines[0]),
        table[:, 0].astype(np.int64),
        _lens(table[:, 1:7], path, numbers),
        _poses(table[:, 7:], path, numbers),
        path,
        tuple(numbers),
    )


def write_cameras(
    path: Path, address: str, timestamps: np.ndarray, intrinsics: np.ndarray, c2w: np.ndarray
) -> None:
    """Write a camera file: `timestamps` [N] in microseconds, normalised `intrinsics` [4], `c2w` [N, 4, 4]."""
    lens = " ".join(f"{value:.9f}" for value in [*intrinsics, 0.0, 0.0])
    lines = [address]
    for time, pose in zip(timestamps, invert_se3(np.asarray(c2w, np.float64)), strict=True):
        lines.append(f"{int(time)} {lens} " + " ".join(f"{value:.9f}" for value in pose[:3].ravel()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_captions(path: Path) -> dict[str, str]:
    """Texts by clip name from a JSON object; a list of texts gives its first. Empty if there is no file.

    Raises:
        DatasetError: Not a JSON object of texts.
        PromptError: A text that is none.
    """
    if not path.exists():
        return {}
    try:
        table = json.loads(_text(path))
    except (ValueError, RecursionError) as cause:
        raise DatasetError(f"{path}: is not JSON ({cause}).") from cause
    if not isinstance(table, dict):
        raise DatasetError(f'{path}: expected an object, such as {{"clip": "a kitchen"}}.')
    captions = {}
    for name, value in table.items():
        text = value[0] if isinstance(value, list) and value else value
        if not isinstance(text, str):
            raise DatasetError(f"{path}: the caption of {name!r:.60} is not text.")
        try:
            captions[Path(name).stem] = normalise_text(text.strip(), "caption", MAX_PROMPT_LENGTH)
        except PromptError as cause:
            raise PromptError(f"{path}, {name!r:.60}: {cause}") from cause
    return captions


def windows(rows: int, frames: int, stride: int, most: int) -> list[np.ndarray]:
    """Rows of up to `most` episodes of `frames` frames, every `stride`-th row, that do not overlap."""
    span = (frames - 1) * stride + 1
    starts = range(0, rows - span + 1, span)
    return [start + stride * np.arange(frames) for start in starts[: most or None]]


def _is_row(line: str) -> bool:
    try:
        return len([float(part) for part in line.split()]) > 1
    except ValueError:
        return False


def _numbers(line: str, where: str) -> np.ndarray:
    parts = line.split()
    if len(parts) != COLUMNS:
        raise DatasetError(
            f"{where}: has {len(parts)} columns, expected {COLUMNS}: timestamp fx fy cx cy k1 k2 and 12 of w2c."
        )
    try:
        values = np.array([float(part) for part in parts])
    except ValueError as cause:
        raise DatasetError(f"{where}: holds something that is not a number ({cause}).") from cause
    if not np.isfinite(values).all():
        raise DatasetError(f"{where}: has NaN or infinite entries.")
    return values


def _check_times(times: np.ndarray, path: Path, numbers: list[int]) -> None:
    # A double holds whole microseconds far beyond the length of any video.
    whole = (times >= 0) & (times == np.floor(times)) & (times < 2**53)
    rising = np.concatenate([[True], np.diff(times) > 0])
    bad = np.flatnonzero(~(whole & rising))
    if len(bad):
        raise DatasetError(
            f"{path}, line {numbers[bad[0]]}: timestamps are whole microseconds that rise from line to line, "
            f"got {times[bad[0]]:.15g}."
        )


def _lens(columns: np.ndarray, path: Path, numbers: list[int]) -> np.ndarray:
    """The normalised intrinsics [4] that all rows share; columns are fx fy cx cy k1 k2."""
    moved = np.flatnonzero(np.abs(columns[:, :4] - columns[0, :4]).max(1) > SAME_LENS)
    if len(moved):
        raise DatasetError(
            f"{path}, line {numbers[moved[0]]}: intrinsics differ from the first line's; split the clip where it zooms."
        )
    bent = np.flatnonzero(np.abs(columns[:, 4:]).max(1) > 1e-6)
    if len(bent):
        raise DatasetError(
            f"{path}, line {numbers[bent[0]]}: k1 and k2 are not 0; undistort the frames first (a pinhole is assumed)."
        )
    try:
        pixel_intrinsics(columns[0, :4], 1, 1)
    except PoseError as cause:
        raise PoseError(
            f"{path}, line {numbers[0]}: fx fy cx cy are divided by width and height ({cause})"
        ) from cause
    return columns[0, :4].copy()


def _poses(columns: np.ndarray, path: Path, numbers: list[int]) -> np.ndarray:
    w2c = np.tile(np.eye(4), (len(columns), 1, 1))
    w2c[:, :3] = columns.reshape(-1, 3, 4)
    for number, matrix in zip(numbers, w2c, strict=True):
        problem = rigid_problem(matrix)
        if problem:
            raise PoseError(f"{path}, line {number}: w2c {problem}.")
    return invert_se3(w2c)


def _source_of(address: str) -> str:
    parsed = urlparse(address.strip())
    found = parse_qs(parsed.query).get("v")
    return found[0] if found else Path(parsed.path).name


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DatasetError(f"{path}: is larger than {MAX_TEXT_BYTES >> 20} MB.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as cause:
        raise DatasetError(f"{path}: is not UTF-8 text ({cause}).") from cause
    except OSError as cause:
        raise DatasetError(f"{path}: cannot be read ({cause.strerror}).") from cause
