"""Group `permanence`: a thing came to rest, the camera went away and is back. Is it still there, once, where
it was?
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from spatia_env.bench.episodes import FRAMES, turn
from spatia_env.bench.groups.events import wording
from spatia_env.bench.judge import LOOKS, body_mask
from spatia_env.bench.registry import SIZE, Stage, figure, group
from spatia_env.bench.systems import EnvPlayer, Start, System
from spatia_env.sim.scenes import FRAME_SECONDS, SimScene

THINGS = ("blue_box_drops", "cone_slides", "duck_falls")
"""Movers that come to rest; scenes take turns."""
SETTLE = 2
"""Clips in which the thing moves and comes to rest."""
LEAST = 0.004
"""Share of the picture that the true thing must fill at the return."""
PRESENT, NEAR, TWIN = 0.3, 0.12, 0.4
"""Share of the true area that counts as there; share of the width that counts as in place; share that a
double has.
"""


@dataclass(frozen=True)
class Trip:
    """A way away and back: degrees clip by clip, and what is asked for before and after."""

    degrees: tuple[float, ...]
    before: str = ""
    after: str = ""


TRIPS: Mapping[str, Trip] = {
    "60 degrees, back": Trip((60, -60)),
    "120 degrees, back": Trip((60, 60, -60, -60)),
    "180 degrees, back": Trip((45, 45, 45, 45, -45, -45, -45, -45)),
    "once around": Trip((90, 90, 90, 90)),
    "60 degrees, back, night between": Trip((60, -60), "night", "night_ends"),
}


@dataclass(frozen=True)
class Return:
    """The thing's pixels [H, W] at the return, in the simulator, in the row's picture, in its map (None
    without one).
    """

    truth: np.ndarray
    shown: np.ndarray
    mapped: np.ndarray | None
    frame: np.ndarray


def show(record: Mapping[str, Return]) -> Mapping[str, np.ndarray]:
    """The last picture of each trip."""
    return {"at the return": np.stack([trip.frame for trip in record.values()])}


@group(
    "permanence",
    "what came stays",
    ("oracle", "default", "no-memory", "no-imagination", "frozen-frame"),
    (0, 6, 30),
    pictures=show,
)
def play(stage: Stage, scene: int, system: System) -> dict[str, Return]:
    """The thing comes, the camera goes and returns, trip by trip from the same rest."""
    name = THINGS[scene % len(THINGS)]
    start = stage.scene(scene).initial_c2w
    expected = stage.scene(scene).render(start, *SIZE).rgb
    out = {}
    player = stage.players.get(system, SIZE) if system.kind == "model" else None
    rest = None if player is None else _brought(player, Start(start, scene), name, stage.split)
    for label, trip in TRIPS.items():
        true = stage.kept(scene, ("trip", label), partial(true_return, scene, name, trip))
        mapped = None
        if system.kind == "truth":
            frame = true
        elif player is None:
            frame = expected
        else:
            frame, mapped = _back(player, rest, start, trip, stage.split)
        masks = [
            None if f is None else body_mask(LOOKS[name], f[None], expected[None])[0]
            for f in (true, frame, mapped)
        ]
        assert masks[0] is not None and masks[1] is not None
        out[label] = Return(masks[0], masks[1], masks[2], frame)
    return out


def still(c2w: np.ndarray) -> np.ndarray:
    """A clip [8, 4, 4] that stays."""
    return np.repeat(c2w[None], FRAMES, 0)


def _brought(player: EnvPlayer, start: Start, name: str, split: str) -> object:
    player.open(start)
    player.play(still(start.c2w), wording(name, split))
    for _ in range(SETTLE - 1):
        player.play(still(start.c2w))
    return player.unwrapped.snapshot()


def _back(
    player: EnvPlayer, rest: object, start: np.ndarray, trip: Trip, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """The last picture of a trip, and what the map shows from there."""
    player.unwrapped.restore(rest)
    player.last = np.asarray(start, np.float64)
    poses, frame = turn(start, trip.degrees), None
    if trip.before:
        player.play(still(start), wording(trip.before, split))
    for index in range(len(trip.degrees)):
        frame = player.play(poses[1 + FRAMES * index : 1 + FRAMES * (index + 1)]).frames[-1]
    if trip.after:
        frame = player.play(still(start), wording(trip.after, split)).frames[-1]
    assert frame is not None
    return frame, player.preview(still(start))["scene_render"][-1]


def true_return(scene: int, name: str, trip: Trip) -> np.ndarray:
    """The simulator's picture at the return; time went on meanwhile."""
    clips = SETTLE + len(trip.degrees) + bool(trip.before) + bool(trip.after)
    with SimScene(scene) as simulated:
        start = simulated.initial_c2w
        simulated.start_event(name, start, np.random.default_rng([scene, 4]))
        for _ in range(clips * FRAMES):
            simulated.advance(FRAME_SECONDS)
        return simulated.render(start, *SIZE).rgb


def state_of(truth: np.ndarray, shown: np.ndarray) -> str:
    """Whether the thing is "present", "duplicated", "moved" or "gone"."""
    shown = ndimage.binary_opening(shown)
    if shown.sum() < PRESENT * truth.sum():
        return "gone"
    labels, count = ndimage.label(ndimage.binary_closing(shown, iterations=2))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if (sizes > TWIN * truth.sum()).sum() > 1:
        return "duplicated"
    return "present" if gap_of(truth, shown) <= NEAR else "moved"


def gap_of(truth: np.ndarray, shown: np.ndarray) -> float:
    """Distance of the middles as a share of the width; 1 where nothing is shown."""
    if not shown.any():
        return 1.0
    return float(
        min(1.0, np.linalg.norm(np.argwhere(truth).mean(0) - np.argwhere(shown).mean(0)) / truth.shape[1])
    )


def _visible(record: Mapping[str, Return]) -> dict[str, Return]:
    return {label: trip for label, trip in record.items() if trip.truth.mean() >= LEAST}


def _share(record: Mapping[str, Return], state: str) -> dict[str, float] | None:
    return {
        label: 100.0 * (state_of(t.truth, t.shown) == state) for label, t in _visible(record).items()
    } or None


@figure("permanence", "%", "high", ">= 80")
def thing_present(record: Mapping[str, Return]) -> dict[str, float] | None:
    """A thing at rest is there at the return, once, in its place."""
    return _share(record, "present")


@figure("permanence", "%", "low", "<= 5")
def thing_duplicated(record: Mapping[str, Return]) -> dict[str, float] | None:
    """A thing at rest is there more than once at the return."""
    return _share(record, "duplicated")


@figure("permanence", "%", "low", "<= 10")
def thing_moved(record: Mapping[str, Return]) -> dict[str, float] | None:
    """A thing at rest is elsewhere at the return than in the simulator by then."""
    return _share(record, "moved")


@figure("permanence", "%", "low", "<= 10")
def thing_gone(record: Mapping[str, Return]) -> dict[str, float] | None:
    """A thing at rest is gone at the return."""
    return _share(record, "gone")


@figure("permanence", "", "low", "<= 0.1")
def thing_offset(record: Mapping[str, Return]) -> dict[str, float] | None:
    """Distance of a thing at the return from the simulator's place, share of the width (gone = 1)."""
    return {label: gap_of(t.truth, t.shown) for label, t in _visible(record).items()} or None


@figure("permanence", "%", "high", ">= 90")
def thing_in_map(record: Mapping[str, Return]) -> dict[str, float] | None:
    """The map shows a thing once it is at rest."""
    seen = {label: t for label, t in _visible(record).items() if t.mapped is not None}
    return {label: 100.0 * (state_of(t.truth, t.mapped) == "present") for label, t in seen.items()} or None  # type: ignore[arg-type]
