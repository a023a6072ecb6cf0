"""Do edits last? A thing is painted or put in, the world goes out and back, and the pictures are compared.

The truth is re-rendered: the simulator's frames, in which the pixels whose surface lies in the painted box have its
colour, or in which the cube is drawn where it stands before the scene. Both follow from the true depth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spatia_env.bench import metrics
from spatia_env.bench.episodes import FRAMES, Truth, record
from spatia_env.bench.memory_probes import Probed, Setting, figure
from spatia_env.env import SpatiaEnv
from spatia_env.geometry import pixel_rays, unproject
from spatia_env.io.point_cloud import PointCloud
from spatia_env.world.world import World

SIZE = (128, 128)
CLIPS = 4
SCENES = 4
"""Episodes with the checkpoint take long; so many of the setting's scenes are played."""
LAST = 4
"""Frames at the end of the return that are compared."""
PAINT = (70, 130, 160)
PAINTED, CUBE = 0.8, 0.3
"""Edges in metres of the box that is painted and of the cube that is put in."""
FACES = tuple(tuple(round(shade * c) for c in (210, 160, 90)) for shade in (0.75, 0.85, 0.65, 0.9, 0.55, 1.0))
"""Colours of the cube's sides, one colour under a light from above: -X, +X, -Y, +Y, -Z, +Z."""
LEAST_CHANGED = 0.003
"""Share of the pictures that an edit must change to be judged."""


@dataclass(frozen=True)
class EditedTruth:
    """Frames u8 [N, H, W, 3] as they should be after an edit, and which pixels it changed [N, H, W]."""

    frames: np.ndarray
    changed: np.ndarray


def probe_edits(setting: Setting) -> Probed:
    """Pictures after an edit, four clips and a return, in the edited region and outside of it."""
    env = SpatiaEnv(action="path", size=SIZE, model=setting.model or "spatia-tiny")
    inside: dict[str, dict[int, float]] = {"paint": {}, "insert": {}}
    outside: dict[str, dict[int, float]] = {"paint": {}, "insert": {}}
    pictures = []
    for seed in setting.seeds[:SCENES]:
        truth = record(seed, "loop", SIZE, CLIPS)
        plain = play(env, truth, lambda world: None)[-LAST:]
        centre = middle_of_view(truth)
        edits: dict[str, tuple[Callable[[World], object], EditedTruth]] = {
            "paint": (painter(centre), painted(truth, centre)),
            "insert": (inserter(truth), with_cube(truth)),
        }
        for name, (edit, wanted) in edits.items():
            shown, frames, changed = (
                play(env, truth, edit)[-LAST:],
                wanted.frames[-LAST:],
                wanted.changed[-LAST:],
            )
            if changed.mean() < LEAST_CHANGED:
                continue
            elsewhere = ~grown(changed, 3)
            inside[name][seed] = metrics.psnr(shown, frames, changed)
            outside[name][seed] = abs(
                metrics.psnr(shown, frames, elsewhere) - metrics.psnr(plain, truth.frames[-LAST:], elsewhere)
            )
            pictures.append(np.concatenate([truth.frames[-1], frames[-1], shown[-1], plain[-1]], axis=1))
    both = {i: value for i, value in enumerate(v for cells in inside.values() for v in cells.values())}
    change = {i: value for i, value in enumerate(v for cells in outside.values() for v in cells.values())}
    figures = {
        "edit_inside": figure("edited region after 4 clips and a return", both, 24, unit="dB"),
        "edit_outside": figure("change outside of it", change, 0.5, least=False, unit="dB"),
    }
    rows = {
        name: {
            "inside dB": float(np.mean(list(cells.values()))),
            "outside change dB": float(np.mean(list(outside[name].values()))),
        }
        for name, cells in inside.items()
        if cells
    }
    return Probed(figures, rows, pictures={"edits": np.concatenate(pictures)} if pictures else {})


def play(env: SpatiaEnv, truth: Truth, edit: Callable[[World], object]) -> np.ndarray:
    """Frames u8 [8 n, H, W, 3] of the truth's path in its scene, after an edit of the world that `reset` opens."""
    env.reset(seed=0, options={"scene": truth.scene, "depth": True})
    edit(env.world)
    frames = []
    for index in range(truth.clips):
        part = truth.clip(index)
        relative = np.linalg.inv(truth.c2w[part.start - 1].astype(np.float64)) @ truth.c2w[part].astype(
            np.float64
        )
        frames.append(env.step({"path": relative, "event": ""})[0]["frames"])
    assert len(frames) * FRAMES == len(truth.frames) - 1
    return np.concatenate(frames)


def points_of(truth: Truth) -> np.ndarray:
    """The surface point of each pixel of the clips, [8 n, H, W, 3] metres."""
    depth, K, c2w = (torch.from_numpy(np.asarray(v, np.float32)) for v in (truth.depth, truth.K, truth.c2w))
    return unproject(depth[1:], K, c2w[1:]).numpy()


def middle_of_view(truth: Truth) -> np.ndarray:
    """The surface point [3] in the middle of the first picture."""
    height, width = truth.size
    depth, K, c2w = (
        torch.from_numpy(np.asarray(v, np.float32)) for v in (truth.depth[:1], truth.K, truth.c2w[:1])
    )
    return unproject(depth, K, c2w)[0, height // 2, width // 2].numpy().astype(np.float64)


def painter(centre: np.ndarray) -> Callable[[World], object]:
    """The edit that paints a box around a point."""
    return lambda world: world.edit.recolor(world.edit.box(centre, [PAINTED] * 3), PAINT, keep_shading=False)


def painted(truth: Truth, centre: np.ndarray) -> EditedTruth:
    """The truth with that box painted."""
    inside = (np.abs(points_of(truth) - centre) <= PAINTED / 2).all(-1) & (truth.depth[1:] > 0)
    return EditedTruth(np.where(inside[..., None], np.array(PAINT, np.uint8), truth.frames[1:]), inside)


def cube_middle(truth: Truth) -> np.ndarray:
    """Where the cube is put: ahead of the first camera, a little below its axis, well before the surface."""
    depth = truth.depth[0, truth.size[0] // 2, truth.size[1] // 2]
    c2w, ahead = truth.c2w[0].astype(np.float64), min(1.4, 0.6 * float(depth))
    return c2w[:3, 3] + ahead * (c2w[:3, 2] + 0.12 * c2w[:3, 1])


def inserter(truth: Truth) -> Callable[[World], object]:
    """The edit that puts a coloured cube before the camera."""
    corners: list[np.ndarray] = []
    faces: list[tuple[int, int, int]] = []
    colours: list[tuple[int, ...]] = []
    for side, colour in enumerate(FACES):
        axis, sign = side // 2, 1 if side % 2 else -1
        first = len(corners)
        for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1)):
            corners.append(np.insert([a, b], axis, sign) * CUBE / 2)
        faces += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
        colours += [colour] * 4
    cloud = PointCloud.of_mesh(np.array(corners), np.array(faces), np.array(colours, np.uint8), spacing=0.008)
    pose = np.eye(4)
    pose[:3, 3] = cube_middle(truth)
    return lambda world: world.edit.insert(cloud, pose)


def with_cube(truth: Truth) -> EditedTruth:
    """The truth with that cube before it: rays against its six sides."""
    height, width = truth.size
    rays = np.einsum(
        "tij,hwj->thwi",
        truth.c2w[1:, :3, :3],
        pixel_rays(torch.from_numpy(np.asarray(truth.K, np.float32)), height, width).numpy(),
    ).astype(np.float64)
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    origin = (truth.c2w[1:, :3, 3].astype(np.float64) - cube_middle(truth))[:, None, None]
    first, second = (-CUBE / 2 - origin) / rays, (CUBE / 2 - origin) / rays
    enter, leave = np.minimum(first, second), np.maximum(first, second).min(-1)
    axis, near = enter.argmax(-1), enter.max(-1)
    hit = (near > 0) & (near < leave) & ((near < truth.depth[1:]) | (truth.depth[1:] == 0))
    towards = np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0
    colour = np.array(FACES, np.uint8)[2 * axis + ~towards]
    return EditedTruth(np.where(hit[..., None], colour, truth.frames[1:]), hit)


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Masks [N, H, W], wider by some pixels."""
    values: Tensor = torch.from_numpy(mask).float()[:, None]
    return (torch.nn.functional.max_pool2d(values, 2 * pixels + 1, 1, pixels)[:, 0] > 0).numpy()
