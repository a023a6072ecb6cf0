"""Group `known`: pixels whose surface was given must stay as they are, at every size, in scenes and
photographs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatia_env.bench import metrics
from spatia_env.bench.episodes import FRAMES, Truth, slide
from spatia_env.bench.registry import SIZE, Stage, figure, group
from spatia_env.bench.systems import GIVEN, Rollout, System, filled, joined

PHOTOGRAPHS = ("chelsea", "retina")
"""Pictures of the scikit-image wheel that no split trains on."""
SIZES = ((128, 128), (256, 256), (192, 320))
OFF = 40
"""Levels of 255 beyond which a known pixel counts as changed."""


@dataclass(frozen=True)
class Known:
    """Going a little aside and back: the truth and what was shown by size, and from a photograph u8 [H, W,
    3].
    """

    episodes: Mapping[tuple[int, int], tuple[Truth, Rollout]]
    photo: tuple[np.ndarray, Rollout] | None = None


def show(record: Known) -> Mapping[str, np.ndarray]:
    """First frame, turning point, last frame; the smallest size."""
    frames = record.episodes[SIZE][1].frames
    return {"frames": frames[[0, FRAMES - 1, 2 * FRAMES - 1]]}


@group("known", "surface that was given", GIVEN, (1, 4, 20), pictures=show)
def play(stage: Stage, scene: int, system: System) -> Known:
    """Two clips at every size; `smoke` has the smallest alone."""
    sizes = (SIZE,) if stage.small else SIZES
    truths = {size: stage.truth(scene, "glance", size) for size in sizes}
    photo = (
        from_photograph(stage, scene, system)
        if system.kind in ("model", "render") and not stage.small
        else None
    )
    return Known({size: (truth, stage.players.roll(system, truth)) for size, truth in truths.items()}, photo)


def from_photograph(stage: Stage, scene: int, system: System) -> tuple[np.ndarray, Rollout]:
    """A photograph as the world shows it first, and two clips: 20 cm ahead, and back."""
    from skimage import data

    player = stage.players.get(system, SIZES[-1])
    observation, _ = player.env.reset(
        seed=0, options={"image": getattr(data, PHOTOGRAPHS[scene % len(PHOTOGRAPHS)])()}
    )
    first, pose = observation["frames"][-1], observation["pose"][-1]
    player.last = np.asarray(pose, np.float64)
    out = slide(pose, 0, 0.2)
    clips = out, np.concatenate([out[:-1][::-1], pose[None]])
    K = player.unwrapped.world.state.K.numpy()
    if system.kind == "render":
        return first, joined([filled(player.preview(path), system.fill, path, K) for path in clips])
    return first, joined([player.play(path) for path in clips])


def render_psnr(record: Known, size: tuple[int, int]) -> float | None:
    """As `against_render`; None without that size."""
    return against_render(record.episodes[size][1]) if size in record.episodes else None


def against_render(rollout: Rollout) -> float | None:
    """PSNR of known pixels against what the map showed there; None without a map."""
    if rollout.render is None or not rollout.known.any():
        return None
    return metrics.psnr(rollout.frames, rollout.render, rollout.known)


@figure("known", "dB", "high", ">= 40")
def known_128(record: Known) -> float | None:
    """Known pixels against the map's render, 128x128."""
    return render_psnr(record, (128, 128))


@figure("known", "dB", "high", ">= 40")
def known_256(record: Known) -> float | None:
    """Known pixels against the map's render, 256x256."""
    return render_psnr(record, (256, 256))


@figure("known", "dB", "high", ">= 40")
def known_192x320(record: Known) -> float | None:
    """Known pixels against the map's render, 192x320."""
    return render_psnr(record, (192, 320))


@figure("known", "dB", "high", ">= 40")
def known_photograph(record: Known) -> float | None:
    """Known pixels against the map's render, from a photograph at 192x320."""
    return None if record.photo is None else against_render(record.photo[1])


@figure("known", "dB", "high", ">= 30")
def photograph_back(record: Known) -> float | None:
    """A photograph's own surface after going 20 cm ahead and back."""
    return None if record.photo is None else metrics.psnr(record.photo[1].frames[-1], record.photo[0])


@figure("known", "%", "low", "<= 0.5")
def known_changed(record: Known) -> float | None:
    """Known pixels of a first frame more than 40/255 off the render, worst size."""
    shares = []
    for _, rollout in record.episodes.values():
        if rollout.render is not None and rollout.known[0].any():
            off = np.abs(rollout.frames[0].astype(int) - rollout.render[0]).max(-1) > OFF
            shares.append(100 * off[rollout.known[0]].mean())
    return float(max(shares)) if shares else None


@figure("known", "dB", "high", ">= 30")
def observed(record: Known) -> float:
    """Pixels whose surface the start picture shows, against the truth, mean over sizes."""
    scores = []
    for truth, rollout in record.episodes.values():
        frames = metrics.frame_psnr(rollout.frames, truth.frames[1:], truth.observed[1:])
        scores.append(np.nanmean(frames) if np.isfinite(frames).any() else 0.0)
    return float(np.mean(scores))


@figure("known", "%", "low", "<= 8")
def depth_error(record: Known) -> float:
    """Depth of all pixels against the truth (AbsRel), 128x128."""
    truth, rollout = record.episodes[SIZE]
    return 100 * metrics.depth_absrel(rollout.depth, truth.depth[1:])
