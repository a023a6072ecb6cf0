"""Batches for the imagination: panoramas of `panoramas` at low resolution, and what could be known of them.

What is known is drawn as it comes up in play: a view or several of one place, the panorama of another place of the
same scene seen from here (with its holes), both together, nearly everything, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from spatia_env.memory.panorama import panorama_coordinates, panorama_rays, render_panorama_points
from spatia_env.models.panorama_networks import (
    DISTANCE_SCALE,
    decode_distance,
    encode_colour,
    encode_distance,
)
from spatia_env.sim.panorama import SURFACES

STRIDE = 2
"""Every second pixel of a panorama is seen from another place: at low resolution the others add nothing."""


@dataclass(frozen=True)
class ConditionConfig:
    """How often what is known."""

    warped: float = 0.35
    """share of samples that know a panorama of another place of the scene"""
    warped_and_views: float = 0.3
    """share of these that know views of their own place too"""
    partly_warped: float = 0.5
    """share of these that know only views of the other place"""
    nothing: float = 0.08
    """share of samples that know nothing"""
    depth_noise: float = 0.06
    """largest smooth relative error (root mean square) of known distances"""
    colour_noise: float = 0.06
    """largest error (root mean square, range 4) of known colours"""


@dataclass
class Batch:
    """Panoramas `clean` [B, 7, H, W] and what is known of them [B, 5, H, W]; see `models.panorama_networks`."""

    clean: Tensor
    known: Tensor


@dataclass
class Scenes:
    """Panoramas of all shards at low resolution, in the order of the files.

    Attributes:
        clean: f16 [N, 7, H, W].
        warped: f16 [N, places - 1, 5, H, W]: what the scene's other panoramas show of each.
        source: i64 [N, places - 1]: their indices.
        eye: [N, 3].
    """

    clean: Tensor
    warped: Tensor
    source: Tensor
    eye: Tensor


class PanoramaStore:
    """The shards of a folder at low resolution; `refresh` reads those that are new.

    Args:
        folder: Of `PanoramasConfig.out`.
        height: Rows of the low resolution; four times as many columns.
        most: Shards read by a call of `refresh`.
    """

    def __init__(self, folder: Path, height: int = 32, most: int = 1000) -> None:
        self.folder, self.height, self.most = folder, height, most
        self.parts: list[Scenes] = []
        self.read: set[Path] = set()
        self.refresh()

    def refresh(self) -> bool:
        """Read new shards; whether there were any."""
        new = [path for path in sorted(self.folder.glob("*.safetensors")) if path not in self.read][
            : self.most
        ]
        for path in new:
            first = sum(len(part.clean) for part in self.parts)
            self.parts.append(read_shard(path, self.height, first))
            self.read.add(path)
        return bool(new)

    def scenes(self) -> Scenes:
        """All panoramas read so far."""
        return Scenes(
            *(torch.cat([getattr(part, name) for part in self.parts]) for name in Scenes.__annotations__)
        )


def read_shard(path: Path, height: int, first: int = 0) -> Scenes:
    """A shard at low resolution; `first` is added to the indices in `source`."""
    shard = load_file(path)
    clean = shrink(shard["rgb"], shard["inverse"], shard["surface"], height)
    seeds = shard["seed"].tolist()
    places = seeds.count(seeds[0])
    others = [
        [j for j in range(i - i % places, i - i % places + places) if j != i] for i in range(len(seeds))
    ]
    warped = [
        torch.stack([see_from(shard, j, shard["eye"][i], height) for j in row])
        for i, row in enumerate(others)
    ]
    return Scenes(clean.half(), torch.stack(warped).half(), torch.tensor(others) + first, shard["eye"])


def shrink(rgb: Tensor, inverse: Tensor, surface: Tensor, height: int) -> Tensor:
    """Panoramas as the network sees them [N, 7, h, w] of a shard's arrays."""
    cell = rgb.shape[1] // height
    colour = encode_colour(F.avg_pool2d(rgb.movedim(-1, 1).float(), cell) / 255)
    nearness = F.avg_pool2d(inverse[:, None].float(), cell)
    kinds = [SURFACES.index(kind) for kind in ("ground", "side", "above")]
    shares = torch.stack([surface == kind for kind in kinds], dim=1).float()
    return torch.cat(
        [colour, encode_distance(1 / nearness.clamp_min(1e-3)), 2 * F.avg_pool2d(shares, cell) - 1], 1
    )


def see_from(shard: dict[str, Tensor], index: int, eye: Tensor, height: int) -> Tensor:
    """What is known [5, h, w] around `eye` if the panorama `index` of a shard is."""
    inverse = shard["inverse"][index, ::STRIDE, ::STRIDE].float()
    full_height, full_width = shard["inverse"].shape[1:]
    rays = panorama_rays(full_height, full_width)[::STRIDE, ::STRIDE]
    distance = 1 / inverse.clamp_min(1e-3)
    points = (shard["eye"][index] + rays * distance[..., None]).reshape(-1, 3)
    colours = shard["rgb"][index, ::STRIDE, ::STRIDE].reshape(-1, 3).float() / 255
    radius = distance.flatten() * (2 * math.pi / full_width * STRIDE)
    seen = render_panorama_points(points, colours, radius, eye, height, 4 * height)
    known = seen.known[0]
    values = torch.cat([encode_colour(seen.rgb[0]), encode_distance(seen.depth)])
    return torch.cat([values * known, known[None].float()])


def view_mask(
    height: int, width: int, heading: float, pitch: float, field_of_view: float, aspect: float
) -> Tensor:
    """Where a camera looks, f32 [H, W]: angles in radians, `field_of_view` horizontal, aspect = width / height."""
    rays = panorama_rays(height, width)
    ahead = rays[..., 0] * math.cos(heading) + rays[..., 1] * math.sin(heading)
    right = rays[..., 0] * math.sin(heading) - rays[..., 1] * math.cos(heading)
    forward = ahead * math.cos(pitch) + rays[..., 2] * math.sin(pitch)
    up = rays[..., 2] * math.cos(pitch) - ahead * math.sin(pitch)
    reach = math.tan(field_of_view / 2)
    inside = (right.abs() < reach * forward) & (up.abs() < reach / aspect * forward)
    return inside.float()


def draw_views(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A mask [H, W] of what a camera has seen that stood in one place: one view, some of a turn, or most of it."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    wide = uniform(0, 1) < 0.3
    field_of_view = math.radians(uniform(40, 90) if wide else 60)
    aspect = uniform(0.75, 1.8) if wide else 1.0
    count = 1 if uniform(0, 1) < 0.45 else int(uniform(2, 9))
    heading, step = uniform(-math.pi, math.pi), math.radians(uniform(10, 45))
    pitch = math.radians(uniform(-22, 10))
    mask = torch.zeros(height, width)
    for _ in range(count):
        mask = torch.maximum(mask, view_mask(height, width, heading, pitch, field_of_view, aspect))
        heading += step
        pitch += math.radians(uniform(-4, 4))
    return mask


def recolouring(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gains of colours [count, 3, 1, 1] and shifts of log distance [count, 1, 1, 1]: exposure, white balance, scale."""
    brightness = torch.randn(count, 1, 1, 1, generator=generator)
    balance = torch.randn(count, 3, 1, 1, generator=generator)
    size = torch.randn(count, 1, 1, 1, generator=generator)
    return torch.exp(0.12 * brightness + 0.05 * balance), 0.08 * DISTANCE_SCALE * size


@dataclass
class PanoramaBatches:
    """Endless batches of a store.

    Args:
        store: Where the panoramas come from; it is looked at again every `refresh_steps` batches.
        batch: Panoramas of a batch.
        generator: Draws everything.
        config: How often what is known.
        refresh_steps: See `store`.
        masks: Masks of views drawn ahead; they are turned at random when used.
    """

    store: PanoramaStore
    batch: int
    generator: torch.Generator
    config: ConditionConfig = field(default_factory=ConditionConfig)
    refresh_steps: int = 100
    masks: int = 1000

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end."""
        scenes = self.store.scenes()
        height, width = scenes.clean.shape[-2:]
        pool = torch.stack([draw_views(height, width, self.generator) for _ in range(self.masks)])
        step = 0
        while True:
            step += 1
            if step % self.refresh_steps == 0 and self.store.refresh():
                scenes = self.store.scenes()
            yield self.draw(scenes, pool)

    def draw(self, scenes: Scenes, pool: Tensor) -> Batch:
        """A batch of `scenes`, with masks of `pool` [n, H, W]."""
        index = self._integers(len(scenes.clean), self.batch)
        clean = scenes.clean[index].float()
        known = self._known(scenes, index, clean, pool)
        both = self._turned(torch.cat([clean, known], 1))
        clean, known = both[:, :7], both[:, 7:]
        self._recolour(clean, known)
        self._disturb(known)
        return Batch(clean, known)

    def _known(self, scenes: Scenes, index: Tensor, clean: Tensor, pool: Tensor) -> Tensor:
        """What is known [B, 5, H, W] of the panoramas at `index`, without errors."""
        config, count = self.config, len(index)
        masks = self._turned(pool[self._integers(len(pool), count)][:, None])
        known = torch.cat([clean[:, :4] * masks, masks], 1)
        warps = self._rand(count) < config.warped
        which = self._integers(scenes.warped.shape[1], count)
        seen = scenes.warped[index, which].float()
        partly = (self._rand(count) < config.partly_warped)[:, None, None, None]
        other = self._turned(pool[self._integers(len(pool), count)][:, None])
        shift = scenes.eye[index] - scenes.eye[scenes.source[index, which]]
        seen = torch.where(partly, seen * self._seen_from(other, seen, shift), seen)
        # What is seen of the own place lies over what is remembered of another.
        over = torch.where(masks > 0, known, seen)
        together = self._rand(count) < config.warped_and_views
        seen = torch.where(together[:, None, None, None], over, seen)
        known = torch.where(warps[:, None, None, None], seen, known)
        return known * (self._rand(count) >= config.nothing)[:, None, None, None]

    def _seen_from(self, masks: Tensor, seen: Tensor, shift: Tensor) -> Tensor:
        """Which pixels of `seen` [B, 5, H, W] lie in `masks` [B, 1, H, W] of panoramas that are `-shift` away."""
        height, width = masks.shape[-2:]
        distance = decode_distance(seen[:, 3])
        u, v = panorama_coordinates(
            panorama_rays(height, width) * distance[..., None] + shift[:, None, None], height, width
        )
        inside = (v >= 0) & (v < height)
        flat = v.clamp(0, height - 1).long() * width + u.long() % width
        return (masks.flatten(1).gather(1, flat.flatten(1)).view_as(inside) * inside)[:, None]

    def _turned(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W], each turned by a heading of its own, half of them mirrored."""
        count, width = len(images), images.shape[-1]
        columns = torch.arange(width) + self._integers(width, count)[:, None]
        columns = torch.where((self._rand(count) < 0.5)[:, None], columns, -columns) % width
        return images.gather(-1, columns[:, None, None].expand_as(images))

    def _recolour(self, clean: Tensor, known: Tensor) -> None:
        """Another exposure, white balance and scale, the same for a panorama and what is known of it."""
        gain, size = recolouring(len(clean), self.generator)
        for images, mask in ((clean, 1.0), (known, known[:, 4:])):
            images[:, :3] = ((images[:, :3] + 2) * gain - 2).clamp(-2, 2) * mask
        clean[:, 3:4] += size
        known[:, 3:4] += size * known[:, 4:]

    def _disturb(self, known: Tensor) -> None:
        """Smooth errors of known distances and colours, as depth and picture have them in play."""
        count, _, height, width = known.shape
        mask = known[:, 4:]
        coarse = F.pad(self._randn(count, 4, 4, 10), (1, 1, 0, 0), mode="circular")
        smooth = F.interpolate(coarse, (height, width + 2 * (width // 10)), mode="bilinear")[
            ..., width // 10 :
        ][..., :width]
        scale = self._rand(count)[:, None, None, None]
        known[:, 3:4] += mask * smooth[:, 3:] * scale * (self.config.depth_noise * DISTANCE_SCALE)
        colour = 0.5 * smooth[:, :3] + 0.7 * self._randn(count, 3, height, width)
        known[:, :3] += mask * colour * self._rand(count)[:, None, None, None] * self.config.colour_noise

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator)

    def _rand(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator)

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)
