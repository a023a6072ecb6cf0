"""Write and read mp4: uint8 frames, H.264 by the ffmpeg binary of `imageio-ffmpeg`, clip by clip.

A file appears under its name only when it is complete. ffmpeg is run directly: imageio's own writer ignores its exit
code, so a film cut short by a full disk would pass for whole.
"""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from spatia_env.errors import ActionError, VideoError


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
        # yuv420p halves the colour planes, so both sides must be even: `_enlarge` repeats the last row or column.
        width, height = (side * self.scale + side * self.scale % 2 for side in size)
        source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {self.fps} -i -"
        coding = "-c:v libx264 -pix_fmt yuv420p -crf 16 -threads 1 -movflags +faststart"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _stop
        self._process = subprocess.Popen(
            [_ffmpeg(), "-v", "error", "-y", *source.split(), *coding.split(), f"file:{self._part}"],
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
