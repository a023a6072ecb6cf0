"""The map as the official release keeps it: built anew for every round, rendered by discs, searched for references."""

import subprocess
import tempfile
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from spatia_env.errors import VideoError
from spatia_env.geometry import invert_se3, unproject
from spatia_env.release.renderer import render_discs, voxel_means
from spatia_env.release.retrieval import retrieve
from spatia_env.release.rounds import (
    CANDIDATE_STRIDE,
    MAP_STRIDE,
    NUM_REFERENCES,
    TARGET_STRIDE,
    Round,
    RoundView,
)
from spatia_env.slam.mapanything import Masks, Reconstruction

FPS = 24
MAP_VOXEL = 0.01
"""metres"""
RENDER_VOXEL, RENDER_VOXEL_STEP = 0.01, 0.005
"""metres: of the map that is rendered, and by how much it grows each round"""
CODEC_CRF = 25
"""What imageio makes of the release's quality 5."""


class Reconstructor(Protocol):
    """What the map is built with: `MapAnythingGeometry`."""

    masks: Masks | None

    def reconstruct(self, rgb: Tensor, c2w: Tensor | None, K: Tensor | None) -> Reconstruction:
        """Depth and points of frames [N, 3, H, W] in [0, 1]."""
        ...


class ReleaseWorld:
    """The release's map, as `RoundWorld`: built anew before every round.

    Args:
        geometry: Makes depth of frames.
        w2c: Cameras of the whole path [N, 4, 4].
        intrinsics: `[fx, fy, cx, cy]` divided by width and height; None to have them estimated from the picture.
        height: Of the clips, pixels.
        width: Of the clips, pixels.
        mask: What moves in the first picture, bool [H, W], or None.
        release_exact: The release's quirks.
        device: Where the map is rendered.
    """

    def __init__(
        self,
        geometry: Reconstructor,
        w2c: Tensor,
        intrinsics: Tensor | None,
        height: int,
        width: int,
        mask: Tensor | None = None,
        release_exact: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.geometry, self.w2c, self.intrinsics = geometry, w2c.float(), intrinsics
        self.height, self.width, self.mask = height, width, mask
        self.release_exact, self.device = release_exact, torch.device(device)
        self.points = torch.zeros(0, 3)
        self.colors = torch.zeros(0, 3)

    def view(self, current: Round, frames: Tensor) -> RoundView:
        """What the map shows of a round; see `RoundWorld`."""
        self._rebuild(frames)
        voxel = RENDER_VOXEL + RENDER_VOXEL_STEP * current.index
        points, colors = voxel_means(self.points, self.colors, voxel)
        cameras = current.cameras(self.w2c)
        rgb, coverage = render_discs(
            points.to(self.device),
            colors.to(self.device),
            cameras.to(self.device),
            self._K(self.height, self.width).to(self.device),
            self.height,
            self.width,
            projection="release" if self.release_exact else "opencv",
        )
        render = (rgb * 255).byte().permute(0, 2, 3, 1).cpu()
        score = (coverage * 255).byte().cpu()
        if self.release_exact:
            render = through_codec(render)
            score = through_codec(score[..., None].expand(-1, -1, -1, 3))[..., 0]
        return RoundView(render, 255 - score, self._references(current, cameras))

    def _rebuild(self, frames: Tensor) -> None:
        chosen = frames[::MAP_STRIDE]
        if self.release_exact:
            chosen = through_codec(chosen)
        rgb = chosen.permute(0, 3, 1, 2).float() / 255
        c2w = invert_se3(self.w2c[: len(frames)][::MAP_STRIDE])
        K = None if self.intrinsics is None else self._K(self.height, self.width)
        seen = self.geometry.reconstruct(rgb, c2w, K)
        height, width = seen.depth.shape[-2:]
        if self.intrinsics is None:
            sizes = torch.tensor([width, height, width, height])
            self.intrinsics = seen.K[[0, 1, 0, 1], [0, 1, 2, 2]] / sizes
        colors = torch.nn.functional.interpolate(rgb, (height, width), mode="bicubic", antialias=True).clamp(
            0, 1
        )
        keep = self._still(rgb, height, width)
        if self.release_exact:
            points = seen.points @ c2w[0, :3, :3].T + c2w[0, :3, 3]
        else:
            points, keep = unproject(seen.depth, seen.K, c2w), keep & seen.valid
        self.points, self.colors = voxel_means(points[keep], colors.permute(0, 2, 3, 1)[keep], MAP_VOXEL)

    def _still(self, rgb: Tensor, height: int, width: int) -> Tensor:
        """Where nothing moves, bool [n, h, w]."""
        moving = torch.zeros(len(rgb), *rgb.shape[-2:])
        if self.geometry.masks is not None:
            moving = self.geometry.masks(rgb).float()
        if self.mask is not None:
            moving[0] = torch.maximum(moving[0], self.mask.float())
        small = torch.nn.functional.adaptive_max_pool2d(moving[:, None], (height, width))[:, 0]
        return small == 0

    def _references(self, current: Round, cameras: Tensor) -> tuple[int, ...]:
        if current.index == 0:
            return ()
        targets = cameras[::TARGET_STRIDE]
        candidates = self.w2c[: current.start][::CANDIDATE_STRIDE]
        pairs = retrieve(
            self.points.to(self.device),
            targets.to(self.device),
            candidates.to(self.device),
            self._K(self.height, self.width).to(self.device),
            self.height,
            self.width,
            self.release_exact,
        )
        return tuple(CANDIDATE_STRIDE * candidate for _, candidate in pairs[:NUM_REFERENCES])

    def _K(self, height: int, width: int) -> Tensor:
        assert self.intrinsics is not None
        fx, fy, cx, cy = (self.intrinsics.float() * torch.tensor([width, height, width, height])).tolist()
        return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def through_codec(frames: Tensor, crf: int = CODEC_CRF) -> Tensor:
    """Frames u8 [T, H, W, 3], sides even, as they come back from an mp4 file of the release's quality."""
    from imageio_ffmpeg import get_ffmpeg_exe

    count, height, width, _ = frames.shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FPS)]
    quiet = [get_ffmpeg_exe(), "-y", "-v", "error"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "frames.mp4")
        encode = [*quiet, *raw, "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(crf), path]
        decode = [*quiet, "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        try:
            subprocess.run(encode, input=frames.numpy().tobytes(), capture_output=True, check=True)
            data = subprocess.run(decode, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as cause:
            reason = getattr(cause, "stderr", b"") or str(cause).encode()
            raise VideoError(
                f"mp4 round trip: ffmpeg failed ({reason.decode(errors='replace')[-200:]})."
            ) from cause
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(count, height, width, 3)
