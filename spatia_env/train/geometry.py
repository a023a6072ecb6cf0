"""`spatia train geometry`: the network that completes depth and masks what moves, on remembered episodes.

Samples are clips of episode files with the map as it stood before them, disturbed as a generator's clips would be.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.slam.depth_network import (
    DYNAMIC_THRESHOLD,
    FARTHEST,
    NEAREST,
    TOLERANCE,
    Geometry,
    Planes,
    TinyGeometry,
    cues,
    fill,
    static_weight,
)
from spatia_env.train.episodes import FRAMES, REFRESH, EpisodeFile, EpisodeStore, clip_span, dilated
from spatia_env.train.loop import LoopConfig, Trainer, averaged_state, device_of, to_device
from spatia_env.train.losses import edge_loss, masked_mean

LOOKS = 5
"""Attention layers of the network; `unpack` adds fresh ones without effect to older checkpoints."""
MOVING_WEIGHT = 3.0
"""Weight of moving pixels in the mask's cross-entropy: a mover that is missed is written and stays in the map."""
MIRROR = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
CONSISTENT = 0.08
"""The map agrees with the truth where their log ratio is within this of its median over the frame."""


@dataclass(frozen=True)
class GeometryConfig:
    """Train the geometry network."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(out=Path("runs/geometry"), learning_rate=1.2e-3)
    )
    data: tuple[Path, ...] = (Path("runs/data/train"),)
    """folders of episode files of the train split"""
    dev: Path = Path("runs/data/dev")
    """episode files of the dev split"""
    batch: int = 16
    """frames per step"""
    picture_share: float = 0.5
    """share of frames that are a first picture, without a map"""
    ground_share: float = 0.6
    """share of clips whose camera height above the ground is given"""
    dev_episodes: int = 16
    """episodes of each dev evaluation"""
    seed: int = 0


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


def train_geometry(config: GeometryConfig) -> dict[str, float]:
    """Train until the minutes are used up; returns the dev figures.

    Raises:
        ActionError: If the folders of `config.data` have no episodes.
    """
    torch.manual_seed(config.seed)
    store = EpisodeStore(*config.data).require()
    model = TinyGeometry(looks=LOOKS).to(memory_format=torch.channels_last)
    trainer = Trainer(model, config.loop)
    rng = np.random.default_rng([config.seed, trainer.step])
    batches = geometry_batches(store, config.batch, rng, config.picture_share, config.ground_share)

    def loss(batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return geometry_loss(model.predict(batch.planes, batch.base, batch.known), batch)

    return trainer.run(batches, loss, lambda: evaluate(model, config))


def load_trained(run: Path) -> TinyGeometry:
    """The geometry network of a run folder, with averaged weights, as deep as these are."""
    weights = averaged_state(run)
    fine, middle, coarse, looks = (
        len({name.split(".")[1] for name in weights if name.startswith(f"{part}.")})
        for part in ("fine_down", "middle_down", "coarse", "look")
    )
    model = TinyGeometry(blocks=(fine, middle, coarse), looks=looks)
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last).eval()


def geometry_loss(said: Planes, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Errors of depth and its edges, of the expected error, of the gate and of the dynamic mask, summed."""
    valid = batch.valid.float()
    error = (said.log_depth - batch.target).abs()
    depth = masked_mean(error, valid)
    edges = edge_loss(said.log_depth - batch.target, valid)
    # The expected error learns from the error, not the other way round, or hard pixels would be given up.
    scale = said.log_error.clamp(-7, 2)
    sureness = masked_mean(scale + error.detach() * torch.exp(-scale), valid)
    gate = F.binary_cross_entropy(said.keep.clamp(1e-4, 1 - 1e-4), batch.agrees.float(), reduction="none")
    gate = masked_mean(gate, valid * batch.known)
    moving = F.binary_cross_entropy_with_logits(
        said.dynamic, batch.dynamic.float(), pos_weight=said.dynamic.new_tensor(MOVING_WEIGHT)
    )
    loss = depth + 0.5 * edges + 0.05 * sureness + 0.1 * gate + moving
    parts = {"depth": depth, "edges": edges, "sureness": sureness, "gate": gate, "moving": moving}
    return loss, {name: value.item() for name, value in parts.items()}


def evaluate(model: TinyGeometry, config: GeometryConfig) -> dict[str, float]:
    """Figures over the dev clips (maps as stored) and first pictures; see `Tally.figures`."""
    store = EpisodeStore(config.dev)
    tally, with_ground, without = Tally(), Tally(), Tally()

    def estimate(clip: Clip, ground: float | None = None) -> Geometry:
        said = model(*to_device(clip.seen(), device_of(model)), ground=ground)
        return to_device(said, torch.device("cpu"))

    for index in range(min(config.dev_episodes, len(store))):
        episode = store.open(index)
        for number in range(episode.num_clips):
            clip = read_clip(episode, number)
            tally.add(estimate(clip, 0.0), clip.depth, clip.dynamic, clip.known)
        picture = read_picture(episode, 0)
        with_ground.add(estimate(picture, 0.0), picture.depth, picture.dynamic, picture.known)
        without.add(estimate(picture), picture.depth, picture.dynamic, picture.known)
    figures = tally.figures()
    figures["absrel_picture"] = with_ground.figures()["absrel"]
    figures["absrel_picture_no_ground"] = without.figures()["absrel"]
    return figures


class Tally:
    """Sums over frames from which the figures of depth and mask are taken."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}

    def add(self, geometry: Geometry, depth: Tensor, dynamic: Tensor, known: Tensor) -> None:
        """Count frames: an estimated `Geometry` against the true depth and mask [T, H, W]."""
        valid = depth > 0
        error = (geometry.depth - depth).abs() / depth.clamp_min(1e-3)
        written = (static_weight(geometry) > 0) & valid
        said = geometry.dynamic > DYNAMIC_THRESHOLD
        movers = dynamic.flatten(1).any(1)[:, None, None] & valid
        values = {
            "error": error[valid].sum(), "valid": valid.sum(),
            "error_unknown": error[valid & ~known].sum(), "unknown": (valid & ~known).sum(),
            "error_written": error[written].sum(), "written": written.sum(),
            "hit": (said & dynamic).sum(), "said": said.sum(), "moving": dynamic.sum(),
            "leaked": (written & dynamic & movers).sum(), "written_movers": (written & movers).sum(),
            "static_written": (written & ~dynamic).sum(), "static": (valid & ~dynamic).sum(),
            "sure": geometry.confidence[valid].sum(), "right": (error[valid] < TOLERANCE).sum(),
        }  # fmt: skip
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def figures(self) -> dict[str, float]:
        """Shares and mean relative errors.

        `absrel` over all, `_unknown`, `_written` pixels; `iou`, `recall`, `precision` of the mask; `leakage`:
        share of the written pixels of frames with movers that show a mover; `static_recall`: share of static
        pixels that are written; `sure` and `right`: mean confidence, and the share it should equal.
        """
        s = self.sums

        def ratio(a: float, b: float) -> float:
            return round(a / b, 4) if b else float("nan")

        return {
            "absrel": ratio(s["error"], s["valid"]),
            "absrel_unknown": ratio(s["error_unknown"], s["unknown"]),
            "absrel_written": ratio(s["error_written"], s["written"]),
            "iou": ratio(s["hit"], s["said"] + s["moving"] - s["hit"]),
            "recall": ratio(s["hit"], s["moving"]),
            "precision": ratio(s["hit"], s["said"]),
            "leakage": ratio(s["leaked"], s["written_movers"]),
            "static_recall": ratio(s["static_written"], s["static"]),
            "sure": ratio(s["sure"], s["valid"]),
            "right": ratio(s["right"], s["valid"]),
        }


def read_clip(episode: EpisodeFile, number: int) -> Clip:
    """Clip `number` of an episode with the map as it stood before it."""
    span = clip_span(number)
    known = episode.get("known", number)
    return Clip(
        _rgb(episode.get("frames", span)),
        episode.get("depth", span).float(),
        episode.get("dynamic", span),
        episode.get("c2w", span),
        episode.get("K"),
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
        rgb, depth, episode.get("dynamic", span), episode.get("c2w", span), episode.get("K"),
        torch.zeros_like(rgb), nothing, nothing > 0,
    )  # fmt: skip


def _rgb(frames: Tensor) -> Tensor:
    return frames.movedim(-1, -3).float() / 255


def geometry_batches(
    store: EpisodeStore, batch: int, rng: np.random.Generator, picture_share: float, ground_share: float
) -> Iterator[Batch]:
    """Endless batches of `batch` random frames: `picture_share` without a map, the others three of a clip."""
    for step in itertools.count():
        if step % REFRESH == 0:
            store.refresh()
        parts: list[Batch] = []
        pictures = int(rng.binomial(batch, picture_share))
        while (missing := batch - sum(len(part.base) for part in parts)) > 0:
            episode = store.open(int(rng.integers(len(store))))
            ground = 0.0 if rng.random() < ground_share else None
            if len(parts) < pictures:
                index = int(rng.integers(episode.size[0]))
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
    usable = known & (depth > 0) & ~dilated(dynamic)
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
