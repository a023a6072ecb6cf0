"""A case folder through the official weights as the release does it: rounds, a map per round, references.

Before every round the map is built anew from every 6th frame so far by MapAnything, rendered along the round's
cameras, and searched for the past frames that show most of what is to come. `release_exact` brings back what the
release does besides: its renderer's projection, bfloat16 counts, frames that went through mp4 files, points that the
network itself had marked as doubtful, and the padding of the last round in the film.
"""

import dataclasses
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spatia_env.cameras import invert_se3, unproject
from spatia_env.cases import Case, read_case
from spatia_env.errors import CaseError, VideoError
from spatia_env.memory.release_renderer import render_discs, voxel_means
from spatia_env.memory.retrieval import retrieve
from spatia_env.model.levers import Levers
from spatia_env.model.official import SpatiaWanPipeline, load_official
from spatia_env.model.rounds import (
    CANDIDATE_STRIDE,
    MAP_STRIDE,
    MAX_FRAMES,
    NUM_REFERENCES,
    SEED,
    TARGET_STRIDE,
    Round,
    RoundResult,
    RoundView,
    decode_film,
    generate_rounds,
    plan_rounds,
)
from spatia_env.model.sampling import SamplerSettings, check_clip_size
from spatia_env.slam.mapanything import MapAnythingGeometry, Masks, Reconstruction
from spatia_env.slam.segmentation import TextSegmenter
from spatia_env.video import VideoWriter

FPS = 24
MAP_VOXEL = 0.01
"""metres"""
RENDER_VOXEL, RENDER_VOXEL_STEP = 0.01, 0.005
"""metres: of the map that is rendered, and by how much it grows each round"""
CODEC_CRF = 25
"""What imageio makes of the release's quality 5."""


@dataclass(frozen=True)
class ReleaseConfig:
    """What a rollout by the release's rounds takes; the defaults are the release's."""

    case: Path
    """folder with img.jpg, w2c.txt, intrinsics.txt, prompt.txt, and perhaps mask.png"""
    model: Path
    """folder that `spatia convert` wrote"""
    out: Path
    """folder for video.mp4 and the map of every round"""
    mapanything: Path
    """folder with MapAnything's config.json and model.safetensors"""
    width: int = 1248
    height: int = 704
    max_frames: int = MAX_FRAMES
    num_inference_steps: int = 40
    guidance_scale: float = 3.5
    control_scale: float = 1.0
    seed: int = SEED
    release_exact: bool = False
    """reproduce the release's quirks"""
    detector: Path | None = None
    """folder of a GroundingDINO, with `segmenter` and `moving`: what moves is kept out of the map"""
    segmenter: Path | None = None
    """folder of a SAM 2"""
    moving: tuple[str, ...] = ()
    """names of things that move, such as "person" "car"""
    device: str | None = None
    levers: Levers = field(default_factory=Levers)


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


def run_release(
    config: ReleaseConfig,
    pipeline: SpatiaWanPipeline | None = None,
    geometry: Reconstructor | None = None,
    rounds: list[Round] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Follow a case, write `video.mp4` and the map of every round, and say what was made.

    Args:
        config: What to do.
        pipeline: Instead of the one in `config.model`.
        geometry: Instead of the one in `config.mapanything`.
        rounds: Instead of 121, then 81 frames.
        progress: Called with one line per round.

    Raises:
        CaseError: If the case is incomplete.
        CheckpointError, DependencyError: If a model cannot be loaded.
        ActionError: If the size does not fit the model.
    """
    check_clip_size(config.height, config.width)
    case = read_case(config.case)
    path = torch.from_numpy(case.c2w[: config.max_frames])
    rounds = rounds or plan_rounds(len(path))
    settings = SamplerSettings(
        config.num_inference_steps, config.guidance_scale, control_scale=config.control_scale
    )
    pipeline = pipeline or load_official(config.model, config.device, config.levers, settings)
    geometry = geometry or MapAnythingGeometry.from_pretrained(config.mapanything, device=config.device)
    if config.moving:
        geometry.masks = _segmenter(config)
    image, mask = _picture(case, config.height, config.width)
    intrinsics = None if case.intrinsics is None else torch.from_numpy(np.asarray(case.intrinsics)).float()
    world = ReleaseWorld(
        geometry,
        invert_se3(path),
        intrinsics,
        config.height,
        config.width,
        mask,
        config.release_exact,
        pipeline.compute_device,
    )
    config.out.mkdir(parents=True, exist_ok=True)
    results: list[RoundResult] = []
    for result in generate_rounds(pipeline, world, rounds, case.prompts, image, config.seed):
        results.append(dataclasses.replace(result, latents=result.latents.cpu()))
        progress(f"round {result.round.index + 1} of {len(rounds)}: {len(result.frames)} frames")
    film = decode_film(pipeline, results, trim=not config.release_exact)
    with VideoWriter(config.out / "video.mp4", FPS) as writer:
        writer.append(film.numpy())
    video = str(config.out / "video.mp4")
    return {"video": video, "frames": len(film), "rounds": len(rounds), "points": len(world.points)}


def _picture(case: Case, height: int, width: int) -> tuple[Tensor, Tensor | None]:
    """The first picture u8 [H, W, 3] and its mask, stretched to the clip's size as the release does."""
    picture = Image.fromarray(case.image).resize((width, height), Image.Resampling.BICUBIC)
    if case.mask is None:
        return torch.from_numpy(np.array(picture)), None
    mask = Image.fromarray(case.mask).resize((width, height), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(picture)), torch.from_numpy(np.array(mask))


def _segmenter(config: ReleaseConfig) -> TextSegmenter:
    if config.detector is None or config.segmenter is None:
        raise CaseError(
            "moving: names need --detector and --segmenter, the folders of GroundingDINO and SAM 2."
        )
    return TextSegmenter.from_folders(
        config.detector, config.segmenter, list(config.moving), device=config.device
    )
