"""Films and contact sheets: uint8 frames in, mp4 and png out.

H.264 by the ffmpeg that `imageio-ffmpeg` ships. A file appears under its name only when it is complete.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spatia_env.errors import ActionError, VideoError

# Dark violet (near) to yellow (far), eight points of matplotlib's public-domain "viridis".
_VIRIDIS = np.array(
    [
        [68, 1, 84],
        [70, 50, 127],
        [54, 92, 141],
        [39, 127, 142],
        [31, 161, 135],
        [74, 194, 109],
        [159, 218, 58],
        [253, 231, 37],
    ],
    dtype=np.float32,
)


class VideoWriter:
    """Write frames to an mp4, clip by clip.

    Args:
        path: The file; its folder is made.
        fps: Frames a second.
        scale: Whole factor by which small frames are enlarged (nearest), so that players do not blur them.

    The film is written to a hidden file beside `path`, and takes its name on `close()`. Leaving a `with`
    block by an exception discards it.
    """

    def __init__(self, path: str | Path, fps: float = 8, scale: int = 1) -> None:
        if fps <= 0 or scale < 1:
            raise ActionError(f"video: fps {fps} and scale {scale} must be positive.")
        self.path = Path(path)
        self.fps = fps
        self.scale = scale
        self.num_frames = 0
        self._size: tuple[int, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part.mp4")

    def append(self, frames: np.ndarray) -> None:
        """Add frames, uint8 [T, H, W, 3] or one [H, W, 3].

        Raises:
            ActionError: If they are not uint8 RGB, or of another size than the first.
            VideoError: If ffmpeg stopped.
        """
        frames = np.asarray(frames)
        frames = frames[None] if frames.ndim == 3 else frames
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ActionError(f"video: expected uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}.")
        size = (frames.shape[2], frames.shape[1])
        if self._process is None:
            self._start(size)
        elif size != self._size:
            raise ActionError(f"video: frames of {size} after frames of {self._size} (width, height).")
        assert self._process is not None and self._process.stdin is not None
        try:
            for frame in frames:
                self._process.stdin.write(_enlarge(frame, self.scale).tobytes())
        except OSError as cause:
            words = self._stop()
            self._part.unlink(missing_ok=True)
            raise VideoError(f"{self.path}: ffmpeg stopped ({words or cause}); is the disk full?") from cause
        self.num_frames += len(frames)

    def _start(self, size: tuple[int, int]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # yuv420p halves the colour planes, so both sides must be even: `_enlarge` repeats the last row or
        # column.
        width, height = (side * self.scale + side * self.scale % 2 for side in size)
        source = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{width}x{height}",
            "-r",
            str(self.fps),
            "-i",
            "-",
        ]
        coding = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "16", "-threads", "1"]
        target = ["-movflags", "+faststart", f"file:{self._part}"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _stop
        self._process = subprocess.Popen(
            [_ffmpeg(), "-v", "error", "-y", *source, *coding, *target],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        self._size = size

    def _stop(self) -> str:
        """End ffmpeg; its last words if it failed."""
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone already; its exit code says so below
            process.stdin.close()
        code = process.wait()
        with self._log as log:
            log.seek(0)
            words = log.read().decode(errors="replace").strip()
        return (words[-300:] or f"exit code {code}") if code else ""

    def close(self) -> None:
        """Finish the film; without frames there is none.

        Raises:
            VideoError: If ffmpeg failed.
        """
        if self._process is None:
            return
        words = self._stop()
        if words:
            self._part.unlink(missing_ok=True)
            raise VideoError(f"{self.path}: ffmpeg failed ({words}).")
        os.replace(self._part, self.path)

    def discard(self) -> None:
        """Stop and leave no file."""
        if self._process is not None:
            self._stop()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def write_video(path: str | Path, frames: np.ndarray, fps: float = 8, scale: int = 1) -> Path:
    """Write frames, uint8 [T, H, W, 3], to an mp4.

    Raises:
        ActionError: If they are not uint8 RGB.
        VideoError: If ffmpeg could not write.
    """
    with VideoWriter(path, fps, scale) as writer:
        writer.append(frames)
    return Path(path)


def read_video(path: str | Path) -> np.ndarray:
    """All frames of a film, uint8 [T, H, W, 3].

    Raises:
        VideoError: If ffmpeg cannot read it.
    """
    command = [_ffmpeg(), "-v", "error", "-i", f"file:{path}", "-f", "image2pipe", "-c:v", "ppm", "-"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if result.returncode or not result.stdout:
        words = result.stderr.decode(errors="replace").strip()[-300:]
        raise VideoError(f"{path}: cannot be read as a film ({words}).")
    # Each frame is a PPM: "P6\nWIDTH HEIGHT\n255\n" and the bytes.
    header = result.stdout[:64].split(b"\n")[:3]
    width, height = map(int, header[1].split())
    skip = sum(len(line) + 1 for line in header)
    frames = np.frombuffer(result.stdout, np.uint8).reshape(-1, skip + height * width * 3)
    return frames[:, skip:].reshape(-1, height, width, 3).copy()


def _ffmpeg() -> str:
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def _enlarge(frame: np.ndarray, scale: int) -> np.ndarray:
    frame = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def depth_to_rgb(depth: np.ndarray, far: float | None = None) -> np.ndarray:
    """Colours, uint8 [..., H, W, 3], of z-depth [..., H, W]: violet is near, yellow far, black none.

    Args:
        depth: Metres, 0 = none.
        far: Depth of the last colour; None takes the 98th percentile of what is there.
    """
    depth = np.asarray(depth, dtype=np.float32)
    valid = depth > 0
    if far is None:
        far = float(np.percentile(depth[valid], 98)) if valid.any() else 1.0
    place = np.clip(depth / max(far, 1e-6), 0, 1) * (len(_VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(_VIRIDIS)), _VIRIDIS[:, c]) for c in range(3)]
    return np.where(valid[..., None], np.stack(channels, axis=-1), 0).astype(np.uint8)


def mask_to_rgb(mask: np.ndarray) -> np.ndarray:
    """White where a mask [..., H, W] is set, dark grey elsewhere, uint8 [..., H, W, 3]."""
    grey = np.where(np.asarray(mask) > 0, 235, 40).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray]],
    columns: Sequence[str] = (),
    cell_height: int = 128,
    gap: int = 4,
) -> Image.Image:
    """A picture of labelled rows of frames.

    Args:
        rows: (label, frames uint8 [N, H, W, 3]); rows may differ in N, all frames share one shape H x W.
        columns: A caption for each column, cut to its width.
        cell_height: Pixels; frames are resized to it.
        gap: Pixels between cells.

    Raises:
        ActionError: If there are no rows, or frames are not uint8 RGB.
    """
    if not rows:
        raise ActionError("contact_sheet: give at least one row.")
    for label, frames in rows:
        if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] != 3:
            raise ActionError(f"contact_sheet: row {label!r} is {frames.dtype} {list(frames.shape)}.")
    height, width = rows[0][1].shape[1:3]
    cell_width = max(1, round(width * cell_height / height))
    font = ImageFont.load_default(size=13)
    margin = gap + max(round(font.getlength(label)) for label, _ in rows) + 2 * gap
    header = 22 if columns else gap
    count = max(len(frames) for _, frames in rows)
    size = (margin + count * (cell_width + gap), header + len(rows) * (cell_height + gap))
    sheet = Image.new("RGB", size, (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    for index, caption in enumerate(columns[:count]):
        draw.text(
            (margin + index * (cell_width + gap), 4), _cut(caption, font, cell_width), (60, 60, 60), font=font
        )
    for row, (label, frames) in enumerate(rows):
        top = header + row * (cell_height + gap)
        draw.text((gap, top + cell_height // 2 - 8), label, (60, 60, 60), font=font)
        for column, frame in enumerate(frames):
            cell = Image.fromarray(frame).resize((cell_width, cell_height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (margin + column * (cell_width + gap), top))
    return sheet


def write_sheet(path: str | Path, sheet: Image.Image) -> Path:
    """Write a picture as png; it appears under its name when it is complete."""
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.png")
    sheet.save(part)
    os.replace(part, path)
    return path


def _cut(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
