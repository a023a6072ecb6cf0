"""Validates the detectors on simulator clips of dev scenes: recall and false alarms of every event."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from spatia_env.bench.detectors import detect_all
from spatia_env.events.vocabulary import EVENT_NAMES, event
from spatia_env.geometry import path_from_twist

if TYPE_CHECKING:
    from spatia_env.sim.scenes import SimScene

KEYS = ("recall", "false", "recall_blind", "false_blind")
ROOM_NEEDED = 2.0  # metres ahead of the camera where movers are started


@dataclasses.dataclass(frozen=True)
class Sample:
    """A simulated clip: `name` is the event that happens in it, "" for none."""

    name: str
    clip: np.ndarray
    before: np.ndarray
    expected: np.ndarray


def simulate(
    seed: int, name: str, rng: np.random.Generator, height: int = 128, width: int = 128, standing: str = ""
) -> Sample:
    """One clip of 8 frames with a moving camera.

    Args:
        seed: the scene.
        name: the event, "" for none.
        rng: draws the camera, its motion and the event.
        height: of the pictures.
        width: of the pictures.
        standing: a condition that is there before the clip.
    """
    from spatia_env.sim.scenes import SimScene

    with SimScene(seed) as scene:
        c2w = _some_camera(scene, rng)
        # Typical twists are half of the largest (0.5 m, 30 degrees); pitch and roll turn less.
        twist = np.concatenate(
            [rng.normal(0, 0.15, 3) * [1, 0.4, 1], np.radians(rng.normal(0, 1, 3) * [5, 10, 0.5])]
        )
        limit = np.array([0.5] * 3 + [np.radians(30)] * 3)
        path = _path(c2w, np.clip(twist, -limit, limit))
        expected = [scene.render(pose, height, width).rgb for pose in path]
        for earlier in filter(None, (standing, event(name).ends if name else "")):
            scene.start_event(earlier, c2w, rng)
            for _ in range(8):
                scene.advance()
        before = scene.render(c2w, height, width).rgb
        scene.start_event(name, c2w, rng)
        frames = []
        for pose in path:
            scene.advance()
            frames.append(scene.render(pose, height, width).rgb)
    return Sample(name, np.stack(frames), before, np.stack(expected))


def _path(c2w: np.ndarray, twist: np.ndarray) -> np.ndarray:
    import torch

    return path_from_twist(torch.as_tensor(c2w), torch.as_tensor(twist, dtype=torch.float32), 8).numpy()


def _some_camera(scene: SimScene, rng: np.random.Generator) -> np.ndarray:
    """The scene's first camera, or another one with as much room ahead."""
    from spatia_env.sim.scenes import camera_pose

    if rng.random() < 0.5:
        return scene.initial_c2w
    w, d, _ = scene.plan.size
    for _ in range(200):
        eye = (*(rng.uniform(-0.5, 0.5, 2) * [w, d]), rng.uniform(1.2, 1.6))
        c2w = camera_pose(eye, rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(-15, 5)))
        if scene.is_free(np.array(eye), 0.4) and scene.room_ahead(c2w) >= ROOM_NEEDED:
            return c2w
    return scene.initial_c2w


def validate(num_scenes: int, first_seed: int = 10000) -> dict[str, dict[str, float]]:
    """Rates per event over dev scenes: `recall` and `false` with the static render, and without it."""
    tables: dict[str, dict[str, list[bool]]] = {key: {n: [] for n in EVENT_NAMES} for key in KEYS}
    for seed in range(first_seed, first_seed + num_scenes):
        for index, name in enumerate((*EVENT_NAMES, "", "", "")):
            sample = simulate(seed, name, np.random.default_rng([seed, index]))
            for suffix, expected in (("", sample.expected), ("_blind", None)):
                found = detect_all(sample.clip, sample.before, expected)
                for other in EVENT_NAMES:
                    kind = "recall" if other == name else "false"
                    tables[kind + suffix][other].append(other in found)
    return {n: {key: float(np.mean(tables[key][n])) for key in KEYS} for n in EVENT_NAMES}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20, help="how many dev scenes, from seed 10000")
    options = parser.parse_args()
    rates = validate(options.scenes)
    rates["all"] = {key: float(np.mean([row[key] for row in rates.values()])) for key in KEYS}
    print(f"{'':22s} with static render   without")
    print(f"{'event':22s} {'recall':>8s} {'false':>8s} {'recall':>8s} {'false':>8s}")
    for name, row in rates.items():
        print(f"{name:22s} " + " ".join(f"{row[key]:8.1%}" for key in KEYS))


if __name__ == "__main__":
    main()
