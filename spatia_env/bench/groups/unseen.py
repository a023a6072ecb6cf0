"""Group `unseen`: what does a place look like that nobody has seen? A full turn and a walk around a
corner.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from spatia_env.bench import features, metrics
from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.reference import Reference
from spatia_env.bench.registry import Stage, figure, group
from spatia_env.bench.systems import GIVEN, MODELS, NO_MODEL, Rollout, System

Pooled = Callable[[np.ndarray], float]
MOVED = 0.25
"""Share of the truth's change from view to view that a row must show to be scored."""
TURN = 8
"""Clips of one full turn."""


@dataclass(frozen=True)
class Unseen:
    """Last frames of the clips of a turn and a walk: true, shown, and where their surface was never seen."""

    truth: np.ndarray
    shown: np.ndarray
    unseen: np.ndarray
    reference: Reference | None

    @property
    def turned(self) -> bool:
        """Whether views differ among themselves: a row that shows one true picture for ever imagines
        nothing.
        """
        steps = [np.abs(np.diff(views.astype(np.int16), axis=0)).mean() for views in (self.shown, self.truth)]
        return bool(steps[0] > MOVED * steps[1])


TWICE = (*GIVEN, "no-imagination")
"""Systems that go around a second time, for `closure`."""


def ring(stage: Stage, scene: int, system: System, clips: int = TURN) -> tuple[Truth, Rollout]:
    """A system's clips around the ring; `closure` asks for two rounds, and both groups share what was
    played.
    """
    clips = 2 * TURN if system.name in TWICE else clips
    truth = stage.truth(scene, "ring", clips=clips)
    return truth, stage.kept(scene, ("ring", system.name), lambda: stage.players.roll(system, truth))


def show(record: Unseen) -> Mapping[str, np.ndarray]:
    """The turn for the contact sheet."""
    return {"frames": record.shown[: TURN - 1]}


@group(
    "unseen",
    "places nobody has seen",
    ("oracle", *MODELS, *NO_MODEL),
    (0, 6, 40),
    pictures=show,
    compares=True,
)
def play(stage: Stage, scene: int, system: System) -> Unseen:
    """A full turn in steps of 45 degrees, and five clips of walking around a corner."""
    last = slice(FRAMES - 1, FRAMES * (TURN - 1), FRAMES)
    episodes = ring(stage, scene, system), _walk(stage, scene, system)
    return Unseen(
        np.concatenate([truth.frames[1:][last] for truth, _ in episodes]),
        np.concatenate([rollout.frames[last] for _, rollout in episodes]),
        np.concatenate([~truth.observed[1:][last] for truth, _ in episodes]),
        stage.reference,
    )


def _walk(stage: Stage, scene: int, system: System) -> tuple[Truth, Rollout]:
    truth = stage.truth(scene, "walk")
    return truth, stage.players.roll(system, truth)


def _kid(network: str) -> dict:
    def pool(records: list, reference: Reference) -> Pooled:
        return metrics.kid(records, reference.patches[network])

    return {"unit": "x1e-3", "better": "low", "pool": pool}


@figure("unseen", target="<= 40", **_kid(features.ALEX))
def kid_alex(record: Unseen) -> np.ndarray | None:
    """KID of never-seen 64x64 patches, STLPIPS-Alex features."""
    return _patches(record, features.ALEX)


@figure("unseen", target="<= 40", **_kid(features.LITE))
def kid_lite(record: Unseen) -> np.ndarray | None:
    """KID of never-seen 64x64 patches, EfficientNet-lite0 features."""
    return _patches(record, features.LITE)


def _patches(record: Unseen, network: str) -> np.ndarray | None:
    if not features.available(network) or not record.turned:
        return None
    return features.pooled(metrics.patches(record.shown, record.unseen), network)


@figure("unseen", "%", "")
def edge_share(record: Unseen) -> float:
    """Share of never-seen pixels on strong edges."""
    return 100 * metrics.edge_share(record.shown, record.unseen)


@figure("unseen", "", "high", ">= 0.5")
def edge_score(record: Unseen) -> float:
    """Strong edges in never-seen places beside the truth's, less for hatching (1 = as the truth)."""
    return metrics.edge_score(record.shown, record.truth, record.unseen) if record.turned else 0.0


def _nearest(records: list, reference: Reference) -> Pooled:
    """Mean cosine distance to the nearest training view."""
    bank = reference.training / np.linalg.norm(reference.training, axis=1, keepdims=True)
    unit = [views / np.linalg.norm(views, axis=1, keepdims=True) for views in records]
    means = [1 - (views @ bank.T).max(1).mean() for views in unit]
    return lambda weights: float(np.average(means, weights=weights))


@figure("unseen", "", "", pool=_nearest)
def nearest_training(record: Unseen) -> np.ndarray | None:
    """Distance of what was imagined to the nearest of 240 training views."""
    whole = record.unseen.mean((1, 2)) > 0.9
    if not features.available() or not whole.any():
        return None
    return features.pooled(record.shown[whole])
