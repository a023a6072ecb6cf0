"""What estimates depth for a checkpoint: its own depth network, or MapAnything."""

import functools
from pathlib import Path
from typing import Any, cast

from spatia_env.io.weights import load_network
from spatia_env.models.loading import Checkpoint, read_config
from spatia_env.slam.depth_network import GeometryEstimator, TinyGeometry


def load_estimator(checkpoint: Checkpoint) -> GeometryEstimator:
    """The estimator of a checkpoint: its geometry network, or MapAnything if its options ask for it.

    Loaded once per process.
    """
    if checkpoint.options is not None and checkpoint.options.mapanything is not None:
        return _load_mapanything(checkpoint.options)
    return _load_network(checkpoint.geometry)


@functools.lru_cache(maxsize=1)
def _load_mapanything(options: Any) -> GeometryEstimator:
    from spatia_env.slam.mapanything import MapAnythingGeometry
    from spatia_env.slam.segmentation import segmenter_of

    masks = segmenter_of(options.moving, options.detector, options.segmenter, options.device)
    source = str(options.mapanything)
    return MapAnythingGeometry.from_pretrained(source, options.mapanything_revision, options.device, masks)


@functools.lru_cache(maxsize=4)
def _load_network(folder: Path) -> TinyGeometry:
    config = read_config(folder)["geometry"]
    return cast(TinyGeometry, load_network(TinyGeometry, config, folder / "geometry.safetensors"))
