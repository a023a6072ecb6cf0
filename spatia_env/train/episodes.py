"""Record episodes in the simulator: what an env would have seen, with the truth beside it.

An episode is a first picture and `clips` clips of `FRAMES` frames along a random walk, some with text events.
One safetensors file each; every worker renders its own seeds. The memory is not simulated here (`samples.py`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spatia_env.events import vocabulary
from spatia_env.geometry import path_from_twist
from spatia_env.io.weights import write_tensors
from spatia_env.models.text_encoder import compose_text
from spatia_env.sim.scenes import SimScene

FRAMES = 8
FRAME_SECONDS = 0.1
MAX_TRANSLATION = 0.5
MAX_ROTATION = np.radians(30.0)


@dataclass(frozen=True)
class EpisodeConfig:
    """What an episode contains."""

    clips: int = 5
    height: int = 128
    width: int = 128
    event_share: float = 0.65
    """share of clips in which an event starts"""
    quiet_share: float = 0.15
    """share of episodes in which nothing ever happens"""
    several_share: float = 0.12
    """share of the movers that begin together with another one"""
    movers: tuple[str, ...] = ()
    """names of the movers to choose from; all by default"""


def record_episode(seed: int, config: EpisodeConfig, split: str) -> dict:
    """Simulate one episode.

    Returns a dict with `frames` u8 [1+8n, H, W, 3], `depth` f16 [1+8n, H, W] (m, 0 = none), `dynamic` bool
    [1+8n, H, W], `c2w` f32 [1+8n, 4, 4], `K` f32 [3, 3] and `meta` (seed, prompt, and per clip the event's
    name, that of another one beside it, their text, the composed text, and whether a condition lay on the light
    or the air).
    """
    rng = np.random.default_rng([seed, 20917])
    scene = SimScene(seed)
    try:
        return _record(scene, rng, config, split, seed)
    finally:
        scene.close()


def _record(scene: SimScene, rng: np.random.Generator, config: EpisodeConfig, split: str, seed: int) -> dict:
    size = (config.height, config.width)
    c2w = torch.as_tensor(np.asarray(scene.initial_c2w), dtype=torch.float32)
    shots, poses, clips = [scene.render(c2w.numpy(), *size)], [c2w], []
    walk = RandomWalk(scene, rng)
    share = 0.0 if rng.random() < config.quiet_share else config.event_share
    for _ in range(config.clips):
        standing = [vocabulary.event(name).condition_phrase for name in scene.conditions]
        names, text = _maybe_events(scene, rng, share, config, split, c2w)
        path = walk.next_path(c2w)
        for pose in path:
            scene.advance(FRAME_SECONDS)
            shots.append(scene.render(pose.numpy(), *size))
            poses.append(pose)
        c2w = path[-1]
        clips.append(
            {
                "event": names[0] if names else "",
                "also": names[1] if names[1:] else "",
                "event_text": text,
                "text": compose_text(scene.prompt, standing, text),
                "text_short": compose_text("", standing, text),
                "conditions": bool(standing) or bool(scene.conditions),
            }
        )
    return {
        "frames": np.stack([shot.rgb for shot in shots]),
        "depth": np.stack([shot.depth for shot in shots]).astype(np.float16),
        "dynamic": np.stack([shot.dynamic for shot in shots]),
        "c2w": torch.stack(poses).numpy(),
        "K": np.asarray(scene.K(*size), dtype=np.float32),
        "meta": {"seed": seed, "prompt": scene.prompt, "clips": clips},
    }


def _maybe_events(
    scene: SimScene,
    rng: np.random.Generator,
    share: float,
    config: EpisodeConfig,
    split: str,
    c2w: torch.Tensor,
) -> tuple[list[str], str]:
    """Names of the events that begin now, and their words, each a sentence of its own as `ledger.listen` has it."""
    if rng.random() >= share:
        return [], ""
    names = [str(rng.choice(possible_events(tuple(scene.conditions), rng, config.movers)))]
    if vocabulary.event(names[0]).kind == "mover" and rng.random() < config.several_share:
        names.append(str(rng.choice([e.name for e in vocabulary.EVENTS if e.kind == "mover"])))
    names = list(dict.fromkeys(names))
    texts = [str(rng.choice(vocabulary.phrasings(name, split))) for name in names]
    for name in names:
        scene.start_event(name, c2w.numpy(), rng)
    return names, ". ".join(texts)


def possible_events(
    conditions: tuple[str, ...], rng: np.random.Generator, movers: tuple[str, ...] = ()
) -> list[str]:
    """Events to choose from: movers mostly (all or these), one condition at a time, and its ending soon after."""
    kinds = {
        kind: [e for e in vocabulary.EVENTS if e.kind == kind] for kind in ("mover", "condition", "ending")
    }
    if conditions and rng.random() < 0.6:
        return [event.name for event in kinds["ending"] if event.ends in conditions]
    if not conditions and rng.random() < 0.3:
        return [event.name for event in kinds["condition"]]
    return [event.name for event in kinds["mover"] if not movers or event.name in movers]


class RandomWalk:
    """Camera moves as users make them: mostly one or two degrees of freedom, returns, standstills."""

    def __init__(self, scene: SimScene, rng: np.random.Generator) -> None:
        self.scene, self.rng = scene, rng
        self.undo: list[np.ndarray] = []

    def next_path(self, c2w: torch.Tensor) -> torch.Tensor:
        """Poses [8, 4, 4] of the next clip from `c2w` [4, 4], through free space where it can be found."""
        for _ in range(12):
            twist = self._twist()
            path = path_from_twist(c2w, torch.tensor(twist, dtype=torch.float32), FRAMES)
            if self._allowed(path):
                self.undo.append(-twist)
                return path
        return path_from_twist(c2w, torch.tensor([0, 0, 0, 0, 0.3, 0], dtype=torch.float32), FRAMES)

    def _twist(self) -> np.ndarray:
        rng = self.rng
        kind = rng.random()
        if kind < 0.12:
            return np.zeros(6)
        if kind < 0.27 and self.undo:
            return self.undo.pop()
        scale = np.array([MAX_TRANSLATION] * 3 + [MAX_ROTATION] * 3)
        twist = rng.uniform(-1, 1, 6) * scale
        # Few moves use all axes at once; up-down, pitch and roll are small.
        active = rng.random(6) < np.array([0.4, 0.2, 0.6, 0.3, 0.65, 0.1])
        twist *= active * np.array([0.8, 0.3, 1.0, 0.3, 1.0, 0.15])
        if rng.random() < 0.5:
            twist[2] = abs(twist[2])
        return twist

    def _allowed(self, path: torch.Tensor) -> bool:
        pitch = torch.rad2deg(torch.asin(path[-1, 2, 2].clamp(-1, 1)))
        if abs(float(pitch)) > 30 or abs(float(path[-1, 2, 0])) > 0.2:
            return False
        return all(self.scene.is_free(pose[:3, 3].numpy(), 0.3) for pose in path[[3, 7]])


def save_episode(episode: dict, path: Path) -> None:
    """Write an episode file; the mask is packed to bits. A reader sees a whole file or none."""
    arrays = {name: np.asarray(episode[name]) for name in ("frames", "depth", "c2w", "K")}
    arrays["dynamic"] = np.packbits(episode["dynamic"], axis=-1)
    write_tensors(path, arrays, {"meta": json.dumps(episode["meta"])})


def load_episode(path: Path) -> dict:
    """Read what `save_episode` wrote, as torch tensors and the `meta` dict."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        meta = json.loads(file.metadata()["meta"])
    bits = np.unpackbits(tensors["dynamic"].numpy(), axis=-1)[..., : tensors["frames"].shape[2]]
    return {**tensors, "dynamic": torch.from_numpy(bits).bool(), "meta": meta}
