"""Suites about parts: the renderer, the autoencoder, what leaks into the map, and time."""

import os
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.bench import metrics
from spatia_env.bench.episodes import FRAMES, generator, turning_path
from spatia_env.bench.quality import Context, Measured
from spatia_env.bench.rows import ROWS, Row
from spatia_env.events.vocabulary import EVENTS
from spatia_env.memory.point_map import SceneMemory
from spatia_env.sim.scenes import FRAME_SECONDS, SimScene
from spatia_env.slam.depth_network import static_weight

PHOTOGRAPHS = ("chelsea", "moon", "motorcycle_left", "retina")
"""Pictures in the scikit-image wheel that no split trains on: a cat, the moon, a motorcycle, a retina. They are
read from the installed wheel; none is shipped."""
GHOST_LEVEL = 0.5
"""A point lies on a mover when more than this share of what was written into it came from mover pixels."""
TIMED_STEPS = 4
PREVIEWS = 12


# -- renderer
# ---------------------------------------------------------------------------------------------------


def measure_renderer(context: Context, scene: int, row: Row) -> Measured:
    """A frame written into an empty map and rendered from where it was seen, at the walk's first poses."""
    truth = context.truth(scene, "walk")
    scores = [round_trip(truth.frames[i], truth.depth[i], truth.c2w[i], truth.K) for i in (0, 8, 16)]
    return Measured(
        {
            "psnr_identity": float(np.mean([s[0] for s in scores])),
            "covered": float(np.mean([s[1] for s in scores])),
        }
    )


def round_trip(frame: np.ndarray, depth: np.ndarray, c2w: np.ndarray, K: np.ndarray) -> tuple[float, float]:
    """PSNR in dB of the identity view on covered pixels with surfaces beyond 1 m, and the share that is
    covered.
    """
    rgb = torch.from_numpy(frame)[None].movedim(-1, 1).float() / 255
    z, pose, intrinsics = torch.from_numpy(depth)[None], torch.from_numpy(c2w)[None], torch.from_numpy(K)
    memory, _ = SceneMemory().update(rgb, z, (z > 0).float(), pose, intrinsics, 0)
    view = memory.render(pose, intrinsics, *frame.shape[:2])
    far = z[0] > 1.0
    covered = (view.known[0] & far).numpy()
    picture = (view.rgb[0].movedim(0, -1) * 255).round().clamp(0, 255).byte().numpy()
    return metrics.psnr(picture, frame, covered), float(covered.sum() / max(int(far.sum()), 1))


# -- autoencoder
# ------------------------------------------------------------------------------------------------


def measure_autoencoder(context: Context, scene: int, row: Row) -> Measured:
    """Encode and decode true frames of a dev scene, without the render that play would show the decoder."""
    frames = context.truth(scene, "walk").frames[::4]
    alone, blank = reconstruct(context, frames), reconstruct(context, frames, blank=True)
    values = {
        "psnr_scene": float(metrics.frame_psnr(alone, frames).mean()),
        "psnr_scene_blank": float(metrics.frame_psnr(blank, frames).mean()),
    }
    return Measured(values, {"frames": frames[:4], "decoded": alone[:4], "nothing known": blank[:4]})


def measure_photographs(context: Context, scene: int, row: Row) -> Measured:
    """Encode and decode crops of photograph number `scene`."""
    frames = photograph_crops(PHOTOGRAPHS[scene], context.size)
    shown = reconstruct(context, frames)
    values = {"psnr_photo": float(metrics.frame_psnr(shown, frames).mean())}
    return Measured(values, {"frames": frames, "decoded": shown})


def reconstruct(context: Context, frames: np.ndarray, blank: bool = False) -> np.ndarray:
    """Frames u8 [N, H, W, 3] through the checkpoint's encoder and decoder, frame by frame.

    Args:
        context: Holds the checkpoint.
        frames: What to encode.
        blank: Decode as in play where the map knows nothing: beside a black render, instead of alone.
    """
    autoencoder = context.players.env(ROWS["default"]).unwrapped.pipeline.autoencoder
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    nothing = (torch.full_like(video, -1), torch.zeros_like(video[:, :1])) if blank else ()
    with torch.inference_mode():
        shown = autoencoder.decode(autoencoder.encode(video), *nothing)
    return ((shown[0].permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def photograph_crops(name: str, size: tuple[int, int]) -> np.ndarray:
    """Crops u8 [5, H, W, 3] of a photograph: the largest of the view's shape around its centre, and its quarters."""
    from PIL import Image

    from spatia_env.sim.assets import load_photo

    picture = Image.fromarray(np.asarray(load_photo(name)))
    height, width = size
    share = min(picture.width / width, picture.height / height)
    w, h = int(width * share), int(height * share)
    left, top = (picture.width - w) // 2, (picture.height - h) // 2
    boxes = [(left, top, left + w, top + h)]
    for x in (left, left + w // 2):
        boxes += [(x, y, x + w // 2, y + h // 2) for y in (top, top + h // 2)]
    crops = [picture.crop(box).resize((width, height), Image.Resampling.LANCZOS) for box in boxes]
    return np.stack([np.asarray(crop) for crop in crops])


# -- leakage ----------------------------------------------------------------------------------------------------


def measure_leakage(context: Context, scene: int, row: Row) -> Measured:
    """True frames with movers through our own geometry and masks: how much of what is written lies on movers."""
    movers = [event.name for event in EVENTS if event.kind == "mover"]
    rng = generator(scene, "leakage")
    # Over twelve scenes every mover gets its turn.
    names = [movers[(scene + 3 * i) % len(movers)] for i in range(context.movers)]
    total = Leak()
    with SimScene(scene) as simulated:
        for name in names:
            total = total + leak_of(context, simulated, name, rng)
            simulated.remove_movers()
    return Measured(
        {
            "points": total.points,
            "ghosts": total.ghosts,
            "leakage": total.ghosts / max(total.points, 1),
            "leakage_pixels": total.wrong_pixels / max(total.pixels, 1),
            "leakage_no_filter": total.naive_ghosts / max(total.naive_points, 1),
            "events": names,
        }
    )


@dataclass(frozen=True)
class Leak:
    """Counts: points added and those on movers, with our masks and without any; pixels written, those on movers."""

    points: int = 0
    ghosts: int = 0
    naive_points: int = 0
    naive_ghosts: int = 0
    pixels: int = 0
    wrong_pixels: int = 0

    def __add__(self, other: "Leak") -> "Leak":
        return Leak(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def leak_of(context: Context, simulated: SimScene, event: str, rng: np.random.Generator) -> Leak:
    """One mover: the camera turns to where it is, so that it stands before surface the map has not seen yet."""
    size = context.size
    estimator = context.players.env(ROWS["default"]).unwrapped.estimator
    start = torch.from_numpy(np.array(simulated.initial_c2w, np.float32))
    K = torch.from_numpy(np.asarray(simulated.K(*size), np.float32))
    shot = simulated.render(start.numpy(), *size)
    depth = torch.from_numpy(shot.depth)[None]
    written = (depth, (depth > 0).float(), start[None], K, 0)
    memory, _ = SceneMemory().update(_rgb(shot.rgb[None]), *written)
    # The same map in other colours: white where a pixel shows a mover. Positions, weights and carving do not
    # depend on colours, so this map says exactly which points came from movers.
    tagged, _ = SceneMemory().update(torch.zeros(1, 3, *size), *written)
    naive, leak = tagged, Leak()
    path = turning_path(simulated, start, rng)
    simulated.start_event(event, path[FRAMES - 1].numpy(), rng)
    for step in range(1, 1 + len(path) // FRAMES):
        poses = path[FRAMES * (step - 1) : FRAMES * step]
        rgb, dynamic = _act(simulated, poses, size)
        view = memory.render(poses, K, *size)
        geometry = estimator(rgb, poses, K, view.rgb, view.depth, view.known)
        weight, everything = static_weight(geometry), (geometry.depth > 0).float()
        tag = dynamic.float()[:, None].expand(-1, 3, -1, -1)
        memory, _ = memory.update(rgb, geometry.depth, weight, poses, K, step, view.known)
        tagged, _ = tagged.update(tag, geometry.depth, weight, poses, K, step, view.known)
        naive, _ = naive.update(tag, geometry.depth, everything, poses, K, step, view.known)
        pixels = (int((weight > 0).sum()), int(((weight > 0) & dynamic).sum()))
        leak = leak + Leak(*ghost_points(tagged, step), *ghost_points(naive, step), *pixels)
    return leak


def _act(simulated: SimScene, poses: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Let time pass along poses [T, 4, 4]: frames [T, 3, H, W] in [0, 1] and which pixels move [T, H, W]."""
    shots = []
    for pose in poses.numpy():
        simulated.advance(FRAME_SECONDS)
        shots.append(simulated.render(pose, *size))
    return _rgb(np.stack([s.rgb for s in shots])), torch.from_numpy(np.stack([s.dynamic for s in shots]))


def ghost_points(tagged: SceneMemory, step: int) -> tuple[int, int]:
    """How many points of a tagged map were first seen in this step, and how many of them lie on movers."""
    points = tagged.points()
    fresh = points[points["first_step"] == step]
    return len(fresh), int((fresh["colour"][:, 0] > 255 * GHOST_LEVEL).sum())


def _rgb(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).movedim(-1, 1).float() / 255


# -- time
# -------------------------------------------------------------------------------------------------------


def measure_time(context: Context, scene: int, row: Row) -> Measured:
    """Wall time of steps and previews on a walk; the first step warms up and is dropped."""
    player = context.players.env(row, timed=True)
    truth = context.truth(scene, "walk")
    player.start(truth)
    seconds, outside = [], []
    for number in range(1 + TIMED_STEPS):
        # The walk, then its last clip to and fro: every step moves.
        index = number if number < truth.clips else truth.clips - 1
        path = truth.c2w[truth.clip(index)]
        if number >= truth.clips and (number - truth.clips) % 2 == 0:
            path = np.concatenate([path[::-1][1:], truth.c2w[truth.clip(index).start - 1][None]])
        clip = player.play(path)
        seconds.append(clip.seconds)
        outside.append(1 - clip.info["seconds"]["networks"] / clip.info["seconds"]["total"])
    back = truth.c2w[truth.clip(0)]
    previews = [player.preview_seconds(back) for _ in range(1 + PREVIEWS)]
    return Measured(
        {
            "seconds": seconds[1:],
            "outside": outside[1:],
            "preview_ms": [1000 * s for s in previews[1:]],
            "stages": {k: float(v) for k, v in clip.info["seconds"].items()},
            "points": len(player.points),
            "load": os.getloadavg()[0],
        }
    )
