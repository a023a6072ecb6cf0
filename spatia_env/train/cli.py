"""`spatia train STAGE`: the stages that make the embedded checkpoint, and that of the official size, each resumable."""

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import tyro

from spatia_env.io.validation import near_miss

USAGE_ERROR = 2


@dataclass(frozen=True)
class Stage:
    """A stage: its module in `spatia_env.train`, what it takes, what runs it, and its line in the help."""

    module: str
    config: str
    function: str
    summary: str


STAGES = {
    "data": Stage("simulation", "DataConfig", "render_data", "episodes of the simulator, remembered"),
    "autoencoder": Stage(
        "autoencoder", "AutoencoderConfig", "train_autoencoder", "frames to latents and back"
    ),
    "encode": Stage("autoencoder", "EncodeConfig", "encode_folders", "episodes at latent size, once"),
    "geometry": Stage("geometry", "GeometryConfig", "train_geometry", "depth completion and what moves"),
    "world-model": Stage("world_model", "WorldModelConfig", "train_world_model", "transformer and decoder"),
    "hearing": Stage(
        "event_classifier", "HearingConfig", "train_hearing", "vectors of known event sentences"
    ),
    "panoramas": Stage("panoramas", "PanoramasConfig", "render_panoramas", "RGB-D panoramas of scenes"),
    "imagination": Stage(
        "imagination", "ImaginationConfig", "train_imagination", "layout of what nobody has seen"
    ),
    "imagination-detail": Stage("imagination_detail", "DetailConfig", "train_detail", "its detail"),
    "imagination-export": Stage(
        "imagination_export", "ExportConfig", "export_imagination", "both into a checkpoint folder"
    ),
    "ship": Stage("checkpoint", "ShipConfig", "ship", "pack runs into a checkpoint folder"),
    "unpack": Stage("checkpoint", "UnpackConfig", "unpack", "run folders of a checkpoint, to go on from it"),
    "videos": Stage("videos", "VideosConfig", "make_videos", "episodes of posed videos"),
    "videos-from-sim": Stage(
        "simulation", "VideosFromSimConfig", "videos_from_sim", "posed videos of simulated scenes"
    ),
    "rollouts": Stage("rollouts", "RolloutsConfig", "make_rollouts", "recorded episodes played by a model"),
    "distill": Stage("distill", "DistillConfig", "train_distill", "a student with fewer evaluations a clip"),
    "official": Stage("official", "OfficialTrainConfig", "train_official", "fine-tune the official size"),
}
"""By the verb. Only the module of the stage that runs is imported: `official` needs what the others do not."""

HELP = """\
usage: spatia train STAGE [OPTIONS]        spatia train STAGE --help for its options

data, autoencoder, encode, geometry, world-model, ship: in this order; --loop.minutes says how long (docs/training.md).

stages:
{stages}"""


def main(argv: list[str]) -> int:
    """Run one stage and print its figures."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        rows = "\n".join(f"  {name:<18} {stage.summary}" for name, stage in STAGES.items())
        print(HELP.format(stages=rows))
        return 0 if argv else USAGE_ERROR
    if argv[0] not in STAGES:
        print(f"spatia train: unknown stage {argv[0]!r}{near_miss(argv[0], STAGES)}", file=sys.stderr)
        return USAGE_ERROR
    stage = STAGES[argv[0]]
    print(getattr(_module(stage), stage.function)(parse(argv)))
    return 0


def parse(argv: list[str]) -> Any:
    """The configuration of the stage `argv[0]`, from its options."""
    stage = STAGES[argv[0]]
    config = getattr(_module(stage), stage.config)
    return tyro.cli(config, prog=f"spatia train {argv[0]}", args=argv[1:])


def _module(stage: Stage) -> Any:
    return importlib.import_module(f"spatia_env.train.{stage.module}")
