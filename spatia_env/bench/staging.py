"""Events acted out in the simulator: true clips, and clips that miss what was asked for in one respect."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from spatia_env.bench.judge import LOOKS, Look
from spatia_env.geometry import path_from_twist
from spatia_env.sim.scenes import FRAME_SECONDS, SimScene

FRAMES = 8
RGB = {
    "red": (0.86, 0.04, 0.06), "orange": (0.94, 0.42, 0.0), "yellow": (0.92, 0.78, 0.02), "lime": (0.56, 0.9, 0.0),
    "green": (0.0, 0.7, 0.2), "cyan": (0.0, 0.76, 0.82), "blue": (0.06, 0.17, 0.86), "purple": (0.46, 0.08, 0.82),
    "pink": (0.92, 0.1, 0.6), "black": (0.075, 0.075, 0.085),
}  # fmt: skip
"""Colours of the simulator's movers."""


@dataclass(frozen=True)
class Acted:
    """A clip of the simulator.

    Attributes:
        clip: u8 [8, H, W, 3], with the event.
        before: u8 [H, W, 3], the picture before it.
        expected: u8 [8, H, W, 3], the same path without the event.
        dynamic: bool [8, H, W], what moves.
    """

    clip: np.ndarray
    before: np.ndarray
    expected: np.ndarray
    dynamic: np.ndarray


def gentle_path(c2w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Poses f32 [8, 4, 4] after `c2w` [4, 4]: the camera turns on the spot by 2 to 6 degrees."""
    twist = torch.zeros(6)
    twist[4] = float(rng.choice([-1.0, 1.0]) * np.radians(rng.uniform(2, 6)))
    return path_from_twist(torch.from_numpy(np.array(c2w, np.float32)), twist, FRAMES).numpy()


def act(
    seed: int,
    names: Sequence[str],
    path: np.ndarray,
    size: tuple[int, int],
    still_after: float = 0.0,
    earlier: str = "",
) -> Acted:
    """Let events begin at a scene's first pose and film them along `path` [8, 4, 4].

    Args:
        seed: The scene.
        names: Events of the vocabulary that begin together; none for a quiet clip.
        path: Camera poses.
        size: (height, width).
        still_after: Let so many seconds pass first and film time standing still: the wrong motion.
        earlier: A condition that stands before the clip.
    """
    rng = np.random.default_rng([seed, 4])
    with SimScene(seed) as scene:
        start = scene.initial_c2w
        expected = np.stack([scene.render(pose, *size).rgb for pose in path])
        if earlier:
            scene.start_event(earlier, start, rng)
            for _ in range(FRAMES):
                scene.advance(FRAME_SECONDS)
        before = scene.render(start, *size).rgb
        for name in names:
            scene.start_event(name, start, rng)
        if still_after:
            for _ in range(round(still_after / FRAME_SECONDS)):
                scene.advance(FRAME_SECONDS)
        shots = []
        for pose in path:
            if not still_after:
                scene.advance(FRAME_SECONDS)
            shots.append(scene.render(pose, *size))
    return Acted(np.stack([s.rgb for s in shots]), before, expected, np.stack([s.dynamic for s in shots]))


def recoloured(acted: Acted, old: str, new: str) -> Acted:
    """The clip with its moving body painted in another colour; light and shade stay."""
    shade = acted.clip.max(-1, keepdims=True) / (255 * max(RGB[old]))
    painted = np.clip(shade * np.array(RGB[new]) * 255, 0, 255).astype(np.uint8)
    return replace(acted, clip=np.where(acted.dynamic[..., None], painted, acted.clip))


def rectangles(acted: Acted, colours: Sequence[str]) -> np.ndarray:
    """Solid rectangles in the right colours on the true way: the static frames with each frame's bounding box painted.

    A body of several colours is painted in bands from its top down.
    """
    out = acted.expected.copy()
    for frame, mask in zip(out, acted.dynamic, strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows) < 4:
            continue
        edges = np.linspace(rows.min(), rows.max() + 1, len(colours) + 1).round().astype(int)
        for colour, top, foot in zip(colours, edges[:-1], edges[1:], strict=True):
            frame[top:foot, columns.min() : columns.max() + 1] = (np.array(RGB[colour]) * 255).astype(
                np.uint8
            )
    return out


def discs(acted: Acted, colours: Sequence[str]) -> np.ndarray:
    """Solid discs of the true area around the true middle: what a silhouette scores that knows place and
    size only.
    """
    out = acted.expected.copy()
    for frame, mask in zip(out, acted.dynamic, strict=True):
        frame[disc_of(mask)] = (np.array(RGB[colours[0]]) * 255).astype(np.uint8)
    return out


def disc_of(mask: np.ndarray) -> np.ndarray:
    """The disc [H, W] of a mask's area around its middle."""
    if not mask.any():
        return np.zeros_like(mask)
    rows, columns = np.nonzero(mask)
    grid = np.indices(mask.shape)
    squared = (grid[0] - rows.mean()) ** 2 + (grid[1] - columns.mean()) ** 2
    return np.asarray(squared <= np.partition(squared.ravel(), mask.sum() - 1)[mask.sum() - 1])


# -- near misses

OTHER_SHAPE = {
    "red_ball_rolls": "pink_cube_slides", "blue_box_drops": "duck_falls", "duck_falls": "blue_box_drops",
    "green_ball_bounces": "cone_slides", "car_drives": "red_ball_rolls", "robot_drives": "red_ball_rolls",
    "cone_slides": "red_ball_rolls", "balloon_rises": "blue_box_drops", "pink_cube_slides": "red_ball_rolls",
}  # fmt: skip
"""For a mover of one body and colour, the event whose body is shown in its place."""
OTHER_COLOUR = {
    "red": "blue", "orange": "purple", "yellow": "red", "lime": "pink", "green": "red", "cyan": "orange",
    "blue": "orange", "purple": "lime", "pink": "green", "black": "red",
}  # fmt: skip


def near_misses(
    seed: int, name: str, path: np.ndarray, size: tuple[int, int], acted: Acted
) -> dict[str, Acted]:
    """Clips that miss a mover of one body in "colour", "shape" or "motion" alone."""
    look = LOOKS[name]
    if name not in OTHER_SHAPE:
        return {}
    colour, other = look.colours[0], OTHER_SHAPE[name]
    shape = recoloured(act(seed, (other,), path, size), LOOKS[other].colours[0], colour)
    return {
        "colour": recoloured(acted, colour, OTHER_COLOUR[colour]),
        "shape": shape,
        "motion": act(seed, (name,), path, size, still_after=0.4),
    }


# -- compositions

COMPOSITIONS: tuple[tuple[str, str, str], ...] = (
    ("a blue ball rolls in", "red_ball_rolls", "blue"),
    ("a green box drops from above", "blue_box_drops", "green"),
    ("a purple cube slides across", "pink_cube_slides", "purple"),
    ("an orange balloon rises", "balloon_rises", "orange"),
    ("a red toy car drives past", "car_drives", "red"),
    ("a yellow ball bounces", "green_ball_bounces", "yellow"),
    ("a cyan cone slides across", "cone_slides", "cyan"),
    ("a pink duck falls", "duck_falls", "pink"),
)
"""Sentence, the event that differs from it in colour alone, and the colour: pairs that no training sentence
has.
"""


def composed_look(base: str, colour: str) -> Look:
    """The look of a composition."""
    return replace(LOOKS[base], colours=(colour,))
