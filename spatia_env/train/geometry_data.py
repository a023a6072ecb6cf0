"""Samples for the geometry network: clips of remembered episodes, disturbed as a generator's clips would be."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.slam.depth_network import FARTHEST, NEAREST, cues, fill
from spatia_env.train.data import EpisodeFile, EpisodeStore

FRAMES = 8
MIRROR = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
CONSISTENT = 0.08
"""The map agrees with the truth where their log ratio is within this of its median over the frame."""


@dataclass(frozen=True)
class Clip:
    """A clip, its truth and the map's render.

    `rgb` and `map_rgb` [T, 3, H, W] in [0, 1]; true `depth` in metres (0 = none) and `dynamic` mask [T, H, W];
    `map_depth` and `known` [T, H, W]; poses `c2w` [T, 4, 4] and intrinsics `K` [3, 3] in pixels.
    """

    rgb: Tensor
    depth: Tensor
    dynamic: Tensor
    c2w: Tensor
    K: Tensor
    map_rgb: Tensor
    map_depth: Tensor
    known: Tensor

    def seen(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What an estimator is given, in its order."""
        return self.rgb, self.c2w, self.K, self.map_rgb, self.map_depth, self.known


@dataclass(frozen=True)
class Batch:
    """N frames: the network's input and its targets, all [N, H, W] but `planes` [N, C, H, W].

    `target` is the log depth in the map's gauge (see `gauge_target`), `agrees` where it is the map's own, `valid`
    where there is a truth.
    """

    planes: Tensor
    base: Tensor
    known: Tensor
    target: Tensor
    agrees: Tensor
    valid: Tensor
    dynamic: Tensor


def read_clip(episode: EpisodeFile, number: int) -> Clip:
    """Clip `number` of an episode with the map as it stood before it."""
    span = slice(1 + FRAMES * number, 1 + FRAMES * (number + 1))
    known = episode.get("known", number)
    return Clip(
        _rgb(episode.get("frames", span)),
        episode.get("depth", span).float(),
        episode.get("dynamic", span),
        episode.get("c2w", span),
        episode.get("K", slice(None)),
        _rgb(episode.get("render", number)),
        episode.get("map_depth", number).float() * known,
        known,
    )


def read_picture(episode: EpisodeFile, index: int) -> Clip:
    """Frame `index` of an episode as a first picture: a clip of one frame without a map."""
    span = slice(index, index + 1)
    rgb, depth = _rgb(episode.get("frames", span)), episode.get("depth", span).float()
    nothing = torch.zeros_like(depth)
    return Clip(
        rgb, depth, episode.get("dynamic", span), episode.get("c2w", span), episode.get("K", slice(None)),
        torch.zeros_like(rgb), nothing, nothing > 0,
    )  # fmt: skip


def _rgb(frames: Tensor) -> Tensor:
    return frames.movedim(-1, -3).float() / 255


def geometry_batches(
    store: EpisodeStore, batch: int, rng: np.random.Generator, picture_share: float, ground_share: float
) -> Iterator[Batch]:
    """Endless batches of `batch` random frames: `picture_share` without a map, the others three of a clip."""
    step = 0
    while True:
        if step % 200 == 0:
            store.refresh()
        step += 1
        parts: list[Batch] = []
        pictures = int(rng.binomial(batch, picture_share))
        while (missing := batch - sum(len(part.base) for part in parts)) > 0:
            episode = store.open(int(rng.integers(len(store))))
            ground = 0.0 if rng.random() < ground_share else None
            if len(parts) < pictures:
                index = int(rng.integers(1 + FRAMES * episode.num_clips))
                parts.append(
                    make_batch(disturb(read_picture(episode, index), rng), ground, torch.tensor([0]))
                )
                continue
            clip = disturb(read_clip(episode, int(rng.integers(episode.num_clips))), rng)
            frames = torch.from_numpy(rng.choice(FRAMES, size=min(3, missing), replace=False))
            parts.append(make_batch(clip, ground, frames))
        yield Batch(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Batch)))


def make_batch(clip: Clip, ground: float | None, frames: Tensor) -> Batch:
    """Some `frames` [N] of a clip as a batch; `ground` as for `cues`."""
    planes, base = cues(*clip.seen(), ground, frames)
    known = clip.known[frames] & (clip.map_depth[frames] > 0)
    depth, dynamic = clip.depth[frames], clip.dynamic[frames]
    target, agrees = gauge_target(depth, dynamic, clip.map_depth[frames], known)
    return Batch(planes, base, known, target, agrees, depth > 0, dynamic)


def gauge_target(depth: Tensor, dynamic: Tensor, map_depth: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Log depth [N, H, W] in the map's own gauge, and where it is the map's depth itself.

    A map built from estimates has small errors of scale. What is added to it must continue it, not correct it,
    or walls double. So the target is the map where it agrees with the truth up to a smooth factor, and the truth
    times that factor, smoothly continued, elsewhere.
    """
    truth = depth.clamp(NEAREST, FARTHEST).log()
    ratio = map_depth.clamp(NEAREST, FARTHEST).log() - truth
    moving = F.max_pool2d(dynamic.float()[:, None], 5, 1, 2)[:, 0] > 0
    usable = known & (depth > 0) & ~moving
    middle = torch.stack(
        [r[u].median() if u.any() else r.new_zeros(()) for r, u in zip(ratio, usable, strict=True)]
    )
    agrees = usable & ((ratio - middle[:, None, None]).abs() < CONSISTENT)
    offset = torch.where(
        agrees.flatten(1).any(1)[:, None, None], fill(ratio, agrees), torch.zeros_like(ratio)
    )
    return torch.where(agrees, truth + ratio, truth + offset), agrees


def disturb(clip: Clip, rng: np.random.Generator) -> Clip:
    """A clip as a generator might draw it: mirrored, blurred, noisy, in another light; the map with new holes."""
    if rng.random() < 0.5:
        clip = mirror(clip)
    rgb, map_rgb, known = clip.rgb, clip.map_rgb, clip.known
    if rng.random() < 0.5:
        tint = _tint(rng, 0.25)
        rgb, map_rgb = rgb * tint, map_rgb * tint
    if rng.random() < 0.3:
        rgb = rgb * _tint(rng, 0.2)
    if rng.random() < 0.5:
        rgb = blur(rgb, float(rng.uniform(0.3, 1.2)))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    flicker = 1 + 0.02 * torch.randn(len(rgb), 1, 1, 1, generator=generator)
    noise = 0.03 * float(rng.random()) ** 2 * torch.randn(rgb.shape, generator=generator)
    if rng.random() < 0.5:
        known = known & ~_hole(rng, *known.shape[-2:])
    return Clip(
        (rgb * flicker + noise).clamp(0, 1), clip.depth, clip.dynamic, clip.c2w, clip.K,
        map_rgb.clamp(0, 1) * known[:, None], clip.map_depth * known, known,
    )  # fmt: skip


def mirror(clip: Clip) -> Clip:
    """The world seen in a mirror: x changes sign in the pictures, the cameras and the world."""
    images = {
        name: getattr(clip, name).flip(-1)
        for name in ("rgb", "depth", "dynamic", "map_rgb", "map_depth", "known")
    }
    K = clip.K.clone()
    K[0, 2] = clip.rgb.shape[-1] - K[0, 2]
    return Clip(**images, c2w=MIRROR @ clip.c2w @ MIRROR, K=K)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Images [N, C, H, W] under a Gaussian of `sigma` pixels (5x5)."""
    line = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / sigma) ** 2)
    kernel = (line / line.sum()).expand(images.shape[1], 1, 1, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    across = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(across, kernel.transpose(-1, -2), groups=images.shape[1])


def _tint(rng: np.random.Generator, spread: float) -> Tensor:
    gain = rng.uniform(1 - spread, 1 + spread) * rng.uniform(0.9, 1.1, 3)
    return torch.tensor(gain, dtype=torch.float32)[:, None, None]


def _hole(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """A rectangle [H, W] of up to 60 % of each side."""
    rows, columns = (int(n * rng.uniform(0.15, 0.6)) for n in (height, width))
    top, left = int(rng.integers(height - rows)), int(rng.integers(width - columns))
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[top : top + rows, left : left + columns] = True
    return hole
