"""The pixels of posed videos: folders of pictures, films with one frame a camera, or whole videos by time.

Frames are handed out one at a time and fitted to the wanted size at once, so a long video costs no memory.
"""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from spatia_env.errors import DatasetError, ImageError, VideoError
from spatia_env.io.images import fit_depth, fit_image, fit_mask, read_image
from spatia_env.train.posed import PosedVideo

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FILMS = (".mp4", ".webm", ".mkv", ".mov", ".avi")
MICROSECONDS = 1_000_000
_FPS = re.compile(r"(\d+(?:\.\d+)?) (?:fps|tbr)")

Pictures = Generator[tuple[int, np.ndarray], None, None]
"""Rows of the camera file, and their pictures u8 [H, W, 3] as they are stored."""


def find_frames(folder: Path, video: PosedVideo) -> Path:
    """Where the pixels of a clip are: a folder of pictures or a film.

    Raises:
        VideoError: There is neither; what was looked for is named.
    """
    pictures = folder / "frames" / video.name
    if pictures.is_dir():
        return pictures
    names = dict.fromkeys((video.name, video.source))
    films = [folder / "videos" / f"{name}{suffix}" for name in names if name for suffix in FILMS]
    found = next((film for film in films if film.is_file()), None)
    if found is None:
        raise VideoError(
            f"{video.path}: its frames are missing; add {pictures}/ or {films[0]}"
            + (f" or {films[len(FILMS)]}." if len(names) > 1 and video.source else ".")
        )
    return found


def read_rows(
    where: Path, video: PosedVideo, rows: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """The frames of some rows, fitted to a size.

    Args:
        where: As `find_frames` returns it.
        video: The cameras.
        rows: Rows of the camera file, rising.
        size: (height, width) wanted.

    Returns:
        Frames u8 [N, H, W, 3], their K [3, 3] in pixels, and (height, width) of the frames as they are stored.

    Raises:
        VideoError: Frames are missing or cannot be decoded, or a film has another number of frames than cameras.
        DatasetError: Frames of different sizes, or smaller than what is wanted.
    """
    stored: tuple[int, int] | None = None
    frames, K = [], np.eye(3)
    with contextlib.closing(_raw(where, video, rows)) as raw:
        for row, picture in raw:
            size_here = (picture.shape[0], picture.shape[1])
            _check_size(video.where(row), size_here, stored, size)
            stored = size_here
            frame, K = fit_image(picture, *size, video.intrinsics)
            frames.append(frame)
    assert stored is not None
    return np.stack(frames), K, stored


def read_planes(
    folder: Path,
    video: PosedVideo,
    rows: np.ndarray,
    stored: tuple[int, int],
    size: tuple[int, int],
    kind: str,
) -> np.ndarray:
    """Depth f32 in metres (`kind` "depth") or masks bool ("masks") [N, H, W] of some rows, fitted as the frames are.

    Raises:
        DatasetError: A file is missing, cannot be read, or is of another size than its frame.
    """
    planes = []
    for row in rows:
        path = _plane_file(folder / kind / video.name, video, int(row))
        try:
            if kind == "depth":
                planes.append(fit_depth(_read_depth(path), stored, *size))
            else:
                planes.append(fit_mask(read_image(path).max(-1) > 127, stored, *size))
        except ImageError as cause:
            raise DatasetError(f"{path}: {cause}") from cause
    return np.stack(planes)


def _plane_file(folder: Path, video: PosedVideo, row: int) -> Path:
    stem = str(video.timestamps[row])
    found = next((p for s in (".png", ".npy") if (p := folder / f"{stem}{s}").is_file()), None)
    if found is None:
        raise DatasetError(f"{video.where(row)}: {folder / stem}.png (or .npy) is missing.")
    return found


def _read_depth(path: Path) -> np.ndarray:
    """Metres [H, W] of a 16-bit PNG in millimetres or an array in metres."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        with Image.open(path, formats=("PNG",)) as image:
            if not image.mode.startswith("I"):
                raise DatasetError(f"{path}: is {image.mode}; depth is a 16-bit grey PNG in millimetres.")
            return np.asarray(image).astype(np.float32) / 1000
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as cause:
        if isinstance(cause, DatasetError):
            raise
        raise DatasetError(f"{path}: cannot be read as depth ({cause}).") from cause


def _check_size(
    where: str, here: tuple[int, int], before: tuple[int, int] | None, wanted: tuple[int, int]
) -> None:
    if before is not None and here != before:
        raise DatasetError(
            f"{where}: its frame is {here[1]}x{here[0]}, the ones before {before[1]}x{before[0]}."
        )
    if here[0] < wanted[0] or here[1] < wanted[1]:
        raise DatasetError(
            f"{where}: its frame is {here[1]}x{here[0]}, smaller than {wanted[1]}x{wanted[0]}; lower --size."
        )


def _raw(where: Path, video: PosedVideo, rows: np.ndarray) -> Pictures:
    if where.is_dir():
        return _from_pictures(where, video, rows)
    if where.stem == video.name:
        return _from_clip(where, video, rows)
    return _by_time(where, video, rows)


def _from_pictures(where: Path, video: PosedVideo, rows: np.ndarray) -> Pictures:
    """Pictures named by timestamp; else, if there is one for each camera, in order of their names."""
    pictures = sorted(path for path in where.iterdir() if path.suffix.lower() in SUFFIXES)
    by_stem = {path.stem: path for path in pictures}
    in_order = len(pictures) == len(video.timestamps)
    for row in map(int, rows):
        path = by_stem.get(str(video.timestamps[row]))
        if path is None and in_order and not any(str(t) in by_stem for t in video.timestamps):
            path = pictures[row]
        if path is None:
            raise VideoError(
                f"{video.where(row)}: {where / str(video.timestamps[row])}.png (or jpg) is missing; the folder holds "
                f"{len(pictures)} pictures for {len(video.timestamps)} cameras."
            )
        try:
            yield row, read_image(path)
        except ImageError as cause:
            raise VideoError(str(cause)) from cause


def _from_clip(where: Path, video: PosedVideo, rows: np.ndarray) -> Pictures:
    """Frames of a film that has exactly one for each camera; it is read to its end to know."""
    wanted, count = set(map(int, rows)), 0
    with contextlib.closing(_decoded(where)) as stream:
        for count, picture in enumerate(stream, start=1):
            if count - 1 in wanted:
                yield count - 1, picture
    if count != len(video.timestamps):
        raise VideoError(
            f"{where}: has {count} frames, {video.path} has {len(video.timestamps)} cameras; cut one to the other, or "
            f"name the film {video.source or 'after its address'}{where.suffix} to have frames found by time."
        )


def _by_time(where: Path, video: PosedVideo, rows: np.ndarray) -> Pictures:
    """The frame nearest to each row's timestamp, in a film of a constant rate."""
    times = video.timestamps[rows] / MICROSECONDS
    begin = max(0.0, float(times[0]) - 1.0)
    rate, next_one = _rate(where), 0
    # Decoding begins with the first frame at or after `begin`.
    first = int(np.ceil(begin * rate - 1e-6))
    wanted = np.maximum(np.round(times * rate).astype(int) - first, 0).tolist()
    with contextlib.closing(_decoded(where, begin)) as stream:
        for index, picture in enumerate(stream):
            while next_one < len(wanted) and wanted[next_one] == index:
                yield int(rows[next_one]), picture
                next_one += 1
            if next_one == len(wanted):
                return
    raise VideoError(
        f"{video.where(int(rows[next_one]))}: is at {times[next_one]:.2f} s, {where} ends before; is it that video?"
    )


def _decoded(where: Path, begin: float = 0.0) -> Generator[np.ndarray, None, None]:
    """The frames u8 [H, W, 3] of a film from `begin` seconds, one by one.

    Raises:
        VideoError: It cannot be decoded.
    """
    command = [*_ffmpeg(where, begin), "-f", "image2pipe", "-c:v", "ppm", "-"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=2**20
        )
        assert process.stdout is not None
        try:
            while (picture := _read_ppm(process.stdout)) is not None:
                yield picture
            if process.wait():
                log.seek(0)
                raise VideoError(f"{where}: cannot be decoded as a film ({_last_line(log.read())}).")
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _read_ppm(stream: IO[bytes]) -> np.ndarray | None:
    """The next picture of a stream of PPMs ("P6", width and height, 255, each on a line, and the bytes)."""
    header = [stream.readline() for _ in range(3)]
    if not header[2]:
        return None
    width, height = map(int, header[1].split())
    data = stream.read(3 * width * height)
    return (
        np.frombuffer(data, np.uint8).reshape(height, width, 3) if len(data) == 3 * width * height else None
    )


def _rate(where: Path) -> float:
    """Frames a second that a film says it has.

    Raises:
        VideoError: It does not say, or is no film.
    """
    result = subprocess.run(_ffmpeg(where, 0.0), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    found = _FPS.search(result.stderr.decode(errors="replace"))
    if found is None or float(found[1]) <= 0:
        raise VideoError(
            f"{where}: cannot be decoded as a film of a constant rate ({_last_line(result.stderr)})."
        )
    return float(found[1])


def _ffmpeg(where: Path, begin: float) -> list[str]:
    import imageio_ffmpeg

    seek = ["-ss", f"{begin:.6f}"] if begin > 0 else []
    # Only this file is opened, whatever a playlist inside may ask for.
    source = ["-protocol_whitelist", "file", *seek, "-i", f"file:{where.resolve()}"]
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostats", "-y", *source]


def _last_line(words: bytes) -> str:
    lines = [line.strip() for line in words.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][-200:] if lines else "it has no pictures"
