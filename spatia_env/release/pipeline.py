"""A case folder through the official weights as the release does it: rounds, a map per round, references.

Before every round the map is built anew from every 6th frame so far by MapAnything, rendered along the round's
cameras, and searched for the past frames that show most of what is to come. `release_exact` brings back what the
release does besides: its renderer's projection, bfloat16 counts, frames that went through mp4 files, points that the
network itself had marked as doubtful, and the padding of the last round in the film.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spatia_env.geometry import invert_se3
from spatia_env.io.ply import write_ply
from spatia_env.io.point_cloud import PointCloud
from spatia_env.io.video import VideoWriter
from spatia_env.models.wan.folders import check_folder
from spatia_env.models.wan.options import Levers
from spatia_env.models.wan.pipeline import SpatiaWanPipeline, load_official
from spatia_env.models.wan.sampling import SamplerSettings, check_clip_size
from spatia_env.release.case import Case, read_case
from spatia_env.release.rounds import (
    MAX_FRAMES,
    SEED,
    Round,
    RoundResult,
    decode_film,
    generate_rounds,
    plan_rounds,
)
from spatia_env.release.world import FPS, MAP_VOXEL, Reconstructor, ReleaseWorld
from spatia_env.slam.mapanything import WEIGHTS, MapAnythingGeometry
from spatia_env.slam.segmentation import segmenter_of


@dataclass(frozen=True)
class ReleaseConfig:
    """What a rollout by the release's rounds takes; the defaults are the release's."""

    case: Path
    """folder with img.jpg, w2c.txt, intrinsics.txt, prompt.txt, and perhaps mask.png"""
    model: Path
    """folder that `spatia convert` wrote"""
    out: Path
    """folder for video.mp4 and map.ply, the map that the last round was rendered from"""
    mapanything: str = WEIGHTS
    """folder with MapAnything's config.json and model.safetensors, or a repository with its revision"""
    mapanything_revision: str | None = None
    """full hash of a commit of that repository"""
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


def run_release(
    config: ReleaseConfig,
    pipeline: SpatiaWanPipeline | None = None,
    geometry: Reconstructor | None = None,
    rounds: list[Round] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Follow a case, write `video.mp4` and `map.ply`, and say what was made.

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
    if pipeline is None:
        check_folder(config.model)
    path = torch.from_numpy(case.c2w[: config.max_frames])
    rounds = rounds or plan_rounds(len(path))
    settings = SamplerSettings(
        config.num_inference_steps, config.guidance_scale, control_scale=config.control_scale
    )
    # The small things first: what is missing should be named before the large ones are loaded.
    masks = segmenter_of(config.moving, config.detector, config.segmenter, config.device)
    geometry = geometry or MapAnythingGeometry.from_pretrained(
        config.mapanything, config.mapanything_revision, config.device
    )
    geometry.masks = masks or geometry.masks
    pipeline = pipeline or load_official(config.model, config.device, config.levers, settings)
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
    write_ply(config.out / "map.ply", _cloud(world))
    video = str(config.out / "video.mp4")
    return {"video": video, "frames": len(film), "rounds": len(rounds), "points": len(world.points)}


def _cloud(world: ReleaseWorld) -> PointCloud:
    colour = (world.colors * 255).round().clamp(0, 255).byte().cpu().numpy()
    ones = np.ones(len(colour), dtype=np.float32)
    return PointCloud(world.points.cpu().numpy(), colour, ones, ones * (MAP_VOXEL / 2))


def _picture(case: Case, height: int, width: int) -> tuple[Tensor, Tensor | None]:
    """The first picture u8 [H, W, 3] and its mask, stretched to the clip's size as the release does."""
    picture = Image.fromarray(case.image).resize((width, height), Image.Resampling.BICUBIC)
    if case.mask is None:
        return torch.from_numpy(np.array(picture)), None
    mask = Image.fromarray(case.mask).resize((width, height), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(picture)), torch.from_numpy(np.array(mask))


def main(argv: list[str] | None = None) -> int:
    """Follow a case by the release's rounds: `spatia rollout` with a folder of official weights."""
    import tyro

    config = tyro.cli(
        ReleaseConfig,
        args=argv,
        prog="spatia rollout",
        description=__doc__.split("\n")[0],
        config=(tyro.conf.OmitArgPrefixes,),  # --offload, not --levers.offload
    )
    said = run_release(config, progress=lambda line: print(line, flush=True))
    print(
        f"{said['video']}: {said['frames']} frames in {said['rounds']} rounds; {said['points']} points in the map"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
