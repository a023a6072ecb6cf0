"""`spatia train STAGE`: the stages that make the embedded checkpoint, each resumable.

data, autoencoder, encode, geometry, world-model, ship: in this order; `--loop.minutes` says how long. hearing makes
what recognises events in sentences. unpack
makes run folders of a checkpoint, to go on from it. videos makes episodes of posed videos, rollouts lets a model play
recorded ones, distill makes it end in fewer steps. official fine-tunes the official size (docs/official.md).
"""

from collections.abc import Callable
from typing import Annotated, Any

import tyro

from spatia_env.train.autoencoder import AutoencoderConfig, train_autoencoder
from spatia_env.train.data import DataConfig, render_data
from spatia_env.train.distill import DistillConfig, train_distill
from spatia_env.train.encode import EncodeConfig, encode_folders
from spatia_env.train.event_classifier import HearingConfig, train_hearing
from spatia_env.train.export_checkpoint import ShipConfig, ship
from spatia_env.train.geometry import GeometryConfig, train_geometry
from spatia_env.train.import_checkpoint import UnpackConfig, unpack
from spatia_env.train.official import OfficialTrainConfig, train_official
from spatia_env.train.self_rollouts import RolloutsConfig, make_rollouts
from spatia_env.train.videos import VideosConfig, make_videos
from spatia_env.train.videos_sim import VideosFromSimConfig, videos_from_sim
from spatia_env.train.world_model import WorldModelConfig, train_world_model

Stage = (
    Annotated[DataConfig, tyro.conf.subcommand("data")]
    | Annotated[AutoencoderConfig, tyro.conf.subcommand("autoencoder")]
    | Annotated[EncodeConfig, tyro.conf.subcommand("encode")]
    | Annotated[GeometryConfig, tyro.conf.subcommand("geometry")]
    | Annotated[WorldModelConfig, tyro.conf.subcommand("world-model")]
    | Annotated[HearingConfig, tyro.conf.subcommand("hearing")]
    | Annotated[ShipConfig, tyro.conf.subcommand("ship")]
    | Annotated[UnpackConfig, tyro.conf.subcommand("unpack")]
    | Annotated[VideosConfig, tyro.conf.subcommand("videos")]
    | Annotated[VideosFromSimConfig, tyro.conf.subcommand("videos-from-sim")]
    | Annotated[RolloutsConfig, tyro.conf.subcommand("rollouts")]
    | Annotated[DistillConfig, tyro.conf.subcommand("distill")]
    | Annotated[OfficialTrainConfig, tyro.conf.subcommand("official")]
)


def main(argv: list[str]) -> int:
    """Run one stage and print its figures."""
    config = tyro.cli(Stage, prog="spatia train", description=__doc__, args=argv)  # type: ignore[call-overload]
    runners: dict[type, Callable[[Any], Any]] = {
        DataConfig: render_data,
        AutoencoderConfig: train_autoencoder,
        EncodeConfig: encode_folders,
        GeometryConfig: train_geometry,
        WorldModelConfig: train_world_model,
        HearingConfig: train_hearing,
        ShipConfig: ship,
        UnpackConfig: unpack,
        VideosConfig: make_videos,
        VideosFromSimConfig: videos_from_sim,
        RolloutsConfig: make_rollouts,
        DistillConfig: train_distill,
        OfficialTrainConfig: train_official,
    }
    print(runners[type(config)](config))
    return 0
