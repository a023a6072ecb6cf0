"""Films and contact sheets: uint8 frames in, mp4 and png out.

H.264 by the ffmpeg that `imageio-ffmpeg` ships. A file appears under its name only when it is complete.
"""

import os
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
        self._process: Any = None
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
        try:
            for frame in frames:
                self._process.send(_enlarge(frame, self.scale).tobytes())
        except OSError as cause:
            self.discard()
            raise VideoError(f"{self.path}: ffmpeg stopped ({cause}); is the disk full?") from cause
        self.num_frames += len(frames)

    def _start(self, size: tuple[int, int]) -> None:
        import imageio_ffmpeg

        self.path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size[0] * self.scale, size[1] * self.scale
        # yuv420p halves the colour planes, so both sides must be even: the last row or column is repeated.
        self._process = imageio_ffmpeg.write_frames(
            str(self._part),
            (width + width % 2, height + height % 2),
            fps=self.fps,
            codec="libx264",
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=["-crf", "16", "-preset", "medium", "-movflags", "+faststart", "-threads", "1"],
        )
        self._process.send(None)
        self._size = size

    def close(self) -> None:
        """Finish the film; without frames there is none.

        Raises:
            VideoError: If ffmpeg wrote nothing.
        """
        if self._process is None:
            return
        process, self._process = self._process, None
        process.close()
        if not self._part.is_file() or self._part.stat().st_size == 0:
            self._part.unlink(missing_ok=True)
            raise VideoError(f"{self.path}: ffmpeg wrote nothing; is the disk full?")
        os.replace(self._part, self.path)

    def discard(self) -> None:
        """Stop and leave no file."""
        if self._process is not None:
            process, self._process = self._process, None
            process.close()
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
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        width, height = next(reader)["size"]
        frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    except (OSError, RuntimeError, StopIteration) as cause:
        raise VideoError(f"{path}: cannot be read as a film ({cause}).") from cause
    return np.stack(frames)


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


def _cut(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
