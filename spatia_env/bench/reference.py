"""True pictures to compare sets of pictures with: other dev rooms for KID, training rooms for copies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatia_env.bench import features
from spatia_env.bench.episodes import turn
from spatia_env.bench.metrics import coarse, patches
from spatia_env.sim.scenes import SimScene

TRUE_SCENES = range(10_900, 10_924)
"""Dev rooms and yards whose pictures are the true set; no group measures them."""
TRAINING_SCENES = range(0, 60)
ANGLES = (45, 90, 135, 180, 225, 270, 315)


@dataclass(frozen=True)
class Reference:
    """Features of true pictures.

    Attributes:
        patches: Per network, features [N, F] of 64 x 64 patches of other dev scenes.
        rooms: Colours [S, V, 16, 16, 3] of their views (`metrics.coarse`).
        training: STLPIPS-Alex features [M, 256] of whole views of training scenes.
    """

    patches: dict[str, np.ndarray]
    rooms: np.ndarray
    training: np.ndarray


def views(seed: int, size: tuple[int, int], angles: tuple[int, ...] = ANGLES) -> np.ndarray:
    """Pictures u8 [N, H, W, 3] of a scene from its first camera, turned by degrees."""
    with SimScene(seed) as scene:
        first = scene.initial_c2w
        return np.stack([scene.render(turn(first, [angle])[-1], *size).rgb for angle in angles])


def networks() -> list[str]:
    """The networks whose weights are installed."""
    return [name for name in features.FILES if features.available(name)]


def load_reference(path: Path, size: tuple[int, int]) -> Reference:
    """The reference, read from `path` if it is there, else made (about a minute) and written."""
    names = networks()
    try:
        with np.load(path, allow_pickle=False) as file:
            return Reference({name: file[name] for name in names}, file["rooms"], file["training"])
    except (OSError, KeyError, ValueError):
        pass
    true = [views(seed, size) for seed in TRUE_SCENES]
    everywhere = np.concatenate([patches(v, np.ones(v.shape[:3], bool), step=64) for v in true])
    training = np.zeros((0, 256), np.float32)
    if features.available():
        training = features.pooled(
            np.concatenate([views(seed, size, ANGLES[::2]) for seed in TRAINING_SCENES])
        )
    made = Reference(
        {name: features.pooled(everywhere, name) for name in names},
        np.stack([coarse(v) for v in true]),
        training,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, rooms=made.rooms, training=made.training, **made.patches)  # type: ignore[arg-type]
    part.replace(path)
    return made
