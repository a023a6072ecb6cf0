"""`spatia train STAGE`: the stages that make the embedded checkpoint, each resumable.

data, autoencoder, encode, geometry, world-model, ship: in this order; `--loop.minutes` says how long.
"""

from collections.abc import Callable
from typing import Annotated, Any

import tyro

from spatia_env.train.autoencoder import AutoencoderConfig, train_autoencoder
from spatia_env.train.data import DataConfig, render_data
from spatia_env.train.geometry import GeometryConfig, train_geometry
from spatia_env.train.ship import ShipConfig, ship
from spatia_env.train.world_model import EncodeConfig, WorldModelConfig, encode, train_world_model

Stage = (
    Annotated[DataConfig, tyro.conf.subcommand("data")]
    | Annotated[AutoencoderConfig, tyro.conf.subcommand("autoencoder")]
    | Annotated[EncodeConfig, tyro.conf.subcommand("encode")]
    | Annotated[GeometryConfig, tyro.conf.subcommand("geometry")]
    | Annotated[WorldModelConfig, tyro.conf.subcommand("world-model")]
    | Annotated[ShipConfig, tyro.conf.subcommand("ship")]
)


def main(argv: list[str]) -> int:
    """Run one stage and print its figures."""
    config = tyro.cli(Stage, prog="spatia train", description=__doc__, args=argv)  # type: ignore[call-overload]
    runners: dict[type, Callable[[Any], Any]] = {
        DataConfig: render_data,
        AutoencoderConfig: train_autoencoder,
        EncodeConfig: encode,
        GeometryConfig: train_geometry,
        WorldModelConfig: train_world_model,
        ShipConfig: ship,
    }
    print(runners[type(config)](config))
    return 0
