"""`spatia train imagination-detail`: the network that draws the detail of a layout, on upright strips of panoramas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from spatia_env.errors import ActionError
from spatia_env.models.panorama_networks import (
    DETAIL_SCALE,
    ZOOM,
    DetailNetwork,
    encode_colour,
    encode_distance,
    enlarge,
)
from spatia_env.train.imagination import call_in_bfloat16, timed
from spatia_env.train.loop import LoopConfig, Trainer
from spatia_env.train.panorama_data import draw_views, recolouring, shrink

STRIP = 96
"""Columns of a strip, a multiple of 12; it has all rows, so that a cell's elevation is known."""
DISTANCE_WEIGHT = 4.0
KNOWN_WEIGHT = 0.1
LAST_MOMENT = 0.8
"""Play takes about four steps, the last of them before this time."""


@dataclass(frozen=True)
class DetailConfig:
    """Train the detail network."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            out=Path("runs/imagination-detail"), learning_rate=1e-3, warmup=200, eval_minutes=10.0
        )
    )
    data: Path = Path("runs/panoramas/train")
    """folder of shards of the train split"""
    dev: Path = Path("runs/panoramas/dev")
    """folder of shards of the dev split"""
    batch: int = 16
    """strips per step"""
    strips: int = 2
    """strips of each panorama that is read"""
    layout_noise: float = 0.3
    """largest error (root mean square) of the layout: what the layout network draws is not quite a layout"""
    dev_strips: int = 32
    """strips of each dev evaluation"""
    masks: int = 100
    """masks of what is known, drawn once"""
    seed: int = 0


@dataclass
class DetailBatch:
    """Strips `clean` [B, 4, H, W] (colours, log distance) and what the network is given; see `DetailNetwork`."""

    clean: Tensor
    known: Tensor
    layout: Tensor
    whole: Tensor
    """what is known of the whole panoramas [B / strips, 5, H, 4 H]"""


def train_detail(config: DetailConfig) -> dict[str, float]:
    """Train until the minutes are used up; returns the dev figures.

    Raises:
        ActionError: If the folder of `config.data` has no shards.
    """
    torch.manual_seed(config.seed)
    for folder in (config.data, config.dev):
        if not any(folder.glob("*.safetensors")):
            raise ActionError(
                f"{folder} has no panoramas; run `spatia train panoramas --out {folder}` first."
            )
    model = DetailNetwork()
    trainer = Trainer(model, config.loop)
    generator = torch.Generator().manual_seed(1_000_003 * config.seed + trainer.step)
    batches = DetailBatches(
        config.data, config.batch, generator, config.strips, config.layout_noise, config.masks
    )
    dev = next(
        iter(
            DetailBatches(config.dev, config.dev_strips, torch.Generator().manual_seed(5), masks=config.masks)
        )
    )
    objective = timed(lambda batch: detail_loss(model, batch, generator), config.batch)
    return trainer.run(
        iter(batches), objective, lambda: detail_loss(model, dev, torch.Generator().manual_seed(6))[1]
    )


@dataclass
class DetailBatches:
    """Endless batches of strips from the shards of a folder.

    Args:
        folder: Of `PanoramasConfig.out`.
        batch: Strips of a batch, a multiple of `strips`.
        generator: Draws everything.
        strips: Strips of each panorama.
        layout_noise: Largest error of the layout.
        masks: Masks of views drawn ahead; they are turned at random when used.
    """

    folder: Path
    batch: int
    generator: torch.Generator
    strips: int = 2
    layout_noise: float = 0.3
    masks: int = 100

    def __iter__(self) -> Iterator[DetailBatch]:
        """Batches without end."""
        files = [safe_open(path, framework="pt") for path in sorted(self.folder.glob("*.safetensors"))]
        height, width = files[0].get_slice("inverse").get_shape()[1:]
        masks = torch.stack([draw_views(height, width, self.generator) for _ in range(self.masks)]).bool()
        while True:
            panoramas = [self._panorama(files, masks) for _ in range(self.batch // self.strips)]
            clean, known, layout = (torch.cat(parts) for parts in zip(*panoramas, strict=True))
            yield self._strips(clean, known, layout)

    def _panorama(self, files: list, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A panorama [1, 4, H, W], what is known of it [1, 5, H, W] and its layout [1, 7, h, w]."""
        file = files[self._integer(len(files))]
        index = self._integer(file.get_slice("inverse").get_shape()[0])
        rgb, inverse, surface = (
            file.get_slice(name)[index : index + 1] for name in ("rgb", "inverse", "surface")
        )
        layout = shrink(rgb, inverse, surface, inverse.shape[1] // ZOOM)
        colour = encode_colour(rgb.movedim(-1, 1).float() / 255)
        clean = torch.cat([colour, encode_distance(1 / inverse.float().clamp_min(1e-3))[:, None]], dim=1)
        gain, size = recolouring(1, self.generator)
        for image in (clean, layout):
            image[:, :3] = ((image[:, :3] + 2) * gain - 2).clamp(-2, 2)
            image[:, 3:4] += size
        mask = masks[self._integer(len(masks))].roll(self._integer(masks.shape[-1]), -1)
        # Holes of a few pixels to a few cells, as a remembered surface has them.
        coarse = torch.rand(1, 1, 24, 96, generator=self.generator)
        holes = F.interpolate(coarse, mask.shape, mode="bilinear")[0, 0] < 0.3 * self._uniform() ** 2
        mask = (mask & ~holes).float()
        known = torch.cat([clean * mask, mask[None, None]], dim=1)
        if self._uniform() < 0.5:
            clean, known, layout = clean.flip(-1), known.flip(-1), layout.flip(-1)
        return clean, known, layout

    def _strips(self, clean: Tensor, known: Tensor, layout: Tensor) -> DetailBatch:
        """Random strips of panoramas, with errors added to their layouts."""
        error = torch.randn(layout.shape, generator=self.generator)
        share = torch.rand(len(layout), generator=self.generator)[:, None, None, None]
        layout = layout + self.layout_noise * share * error
        cells = STRIP // ZOOM
        parts = []
        for number in range(len(clean)):
            for _ in range(self.strips):
                first = self._integer(layout.shape[-1])
                small = (first + torch.arange(cells)) % layout.shape[-1]
                large = (first * ZOOM + torch.arange(STRIP)) % clean.shape[-1]
                parts.append(
                    (clean[number][..., large], known[number][..., large], layout[number][..., small])
                )
        strip, strip_known, strip_layout = (torch.stack(part) for part in zip(*parts, strict=True))
        return DetailBatch(strip, strip_known, strip_layout, known)

    def _integer(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.generator))

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator))


def detail_loss(
    model: DetailNetwork, batch: DetailBatch, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The squared error of detail at random moments, and the absolute error of log distance."""
    count = len(batch.clean)
    moment = LAST_MOMENT * torch.rand(count, generator=generator)
    detail = (batch.clean[:, :3] - enlarge(batch.layout)[:, :3]) * DETAIL_SCALE
    noise = torch.randn(detail.shape, generator=generator)
    t = moment[:, None, None, None]
    noisy = t * detail + (1 - t) * noise
    said = call_in_bfloat16(model, noisy, moment, batch.known, batch.layout, batch.whole)
    unknown = 1 - (1 - KNOWN_WEIGHT) * batch.known[:, 4:]
    weight = unknown / (1 - t)
    colour = (weight * (said[:, :3] - detail) ** 2).mean() / unknown.mean()
    distance = (unknown * (said[:, 3:] - batch.clean[:, 3:]).abs()).mean() / unknown.mean()
    parts = {"colour": colour.item(), "distance": distance.item()}
    return colour + DISTANCE_WEIGHT * distance, parts
