"""Group `events`: does what the words ask for happen, in colour, shape and motion? And what of words nobody
knows?
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.bench import staging
from spatia_env.bench.judge import LOOKS, saw_condition, saw_event, saw_mover
from spatia_env.bench.registry import SIZE, Stage, figure, group
from spatia_env.bench.staging import COMPOSITIONS, Acted, act, composed_look, gentle_path
from spatia_env.bench.systems import EnvPlayer, Start, System
from spatia_env.events.vocabulary import EVENTS, phrasings

UNKNOWN = tuple(
    Path(__file__).parents[1].joinpath("unknown_sentences.txt").read_text(encoding="utf-8").splitlines()
)
"""Sentences of things that no vocabulary, simulator or training sentence has."""
UNKNOWN_A_SCENE = 10
COMPOSED_A_SCENE = 4
FEW_MOVERS = ("red_ball_rolls", "blue_box_drops")
"""Movers of `smoke`."""


@dataclass
class Played:
    """What a row showed for a scene's sentences.

    Attributes:
        movers: Event -> (true clip, the row's clip).
        composed: (sentence, event, colour) -> the same.
        conditions: Event -> (picture before, clip, static render).
        quiet: A clip nobody asked anything of, and its static render; None for rows without one.
        near: Event and what is missed -> (look's event, the missing clip, static render); the oracle's alone.
        unknown: Sentence -> (`info["events"]`, clip, quiet clip).
    """

    movers: dict[str, tuple[Acted, np.ndarray]] = field(default_factory=dict)
    composed: dict[tuple[str, str, str], tuple[Acted, np.ndarray]] = field(default_factory=dict)
    conditions: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)
    quiet: tuple[np.ndarray, np.ndarray] | None = None
    near: dict[str, tuple[str, np.ndarray, np.ndarray]] = field(default_factory=dict)
    unknown: dict[str, tuple[list[dict[str, Any]], np.ndarray, np.ndarray]] = field(default_factory=dict)


def show(record: Played) -> Mapping[str, np.ndarray]:
    """Two frames of each mover."""
    clips = [clip[[3, 6]] for _, clip in record.movers.values()] + [
        clip[[3, 6]] for _, clip in record.composed.values()
    ]
    half = (len(clips) + 1) // 2
    rows = {"movers": clips[:half], "more movers, compositions": clips[half:]}
    return {label: np.concatenate(frames) for label, frames in rows.items() if frames}


@group(
    "events",
    "words become things",
    ("oracle", "default", "no-imagination", "overlay"),
    (1, 6, 30),
    pictures=show,
)
def play(stage: Stage, scene: int, system: System) -> Played:
    """Every mover and condition, compositions, a quiet clip, and words that the world does not know."""
    path = path_of(stage, scene)
    names = FEW_MOVERS if stage.small else tuple(LOOKS)
    composed = [
        COMPOSITIONS[(scene * COMPOSED_A_SCENE + i) % len(COMPOSITIONS)]
        for i in range(0 if stage.small else COMPOSED_A_SCENE)
    ]
    if system.kind == "truth":
        return _true(stage, scene, path, names, composed)
    if system.kind == "overlay":
        record = Played(
            {
                name: (a := true_clip(stage, scene, name), staging.rectangles(a, LOOKS[name].colours))
                for name in names
            }
        )
        for key in composed:
            acted = true_clip(stage, scene, key[1], key[2])
            record.composed[key] = acted, staging.rectangles(acted, (key[2],))
        return record
    return _asked(stage, scene, system, path, names, composed)


def path_of(stage: Stage, scene: int) -> np.ndarray:
    """The gentle path of all of a scene's events [8, 4, 4]."""
    return gentle_path(stage.scene(scene).initial_c2w, np.random.default_rng([scene, 5119]))


def true_clip(stage: Stage, scene: int, name: str, colour: str = "") -> Acted:
    """The simulator's clip of a mover, in another colour if one is given."""
    acted = stage.kept(scene, ("acted", name), lambda: act(scene, (name,), path_of(stage, scene), SIZE))
    return staging.recoloured(acted, LOOKS[name].colours[0], colour) if colour else acted


def _true(stage: Stage, scene: int, path: np.ndarray, names: tuple[str, ...], composed: list) -> Played:
    record = Played({name: (a := true_clip(stage, scene, name), a.clip) for name in names})
    for key in composed:
        acted = true_clip(stage, scene, key[1], key[2])
        record.composed[key] = acted, acted.clip
    for item in EVENTS:
        if item.kind != "mover":
            acted = act(scene, (item.name,), path, SIZE, earlier=item.ends)
            record.conditions[item.name] = acted.before, acted.clip, acted.expected
    for name in names:
        for missed, wrong in staging.near_misses(scene, name, path, SIZE, record.movers[name][0]).items():
            record.near[f"{name}, wrong {missed}"] = name, wrong.clip, wrong.expected
    expected = next(iter(record.movers.values()))[0].expected
    record.quiet = expected, expected
    return record


def _asked(
    stage: Stage, scene: int, system: System, path: np.ndarray, names: tuple[str, ...], composed: list
) -> Played:
    player = stage.players.get(system, SIZE)
    asker = Asker(player, Start(stage.scene(scene).initial_c2w, scene))
    record = Played()
    expected = true_clip(stage, scene, names[0]).expected
    quiet = quiet_clip(stage, scene, system)
    record.quiet = quiet, expected
    for name in names:
        record.movers[name] = true_clip(stage, scene, name), asked_clip(stage, scene, system, name)
    for key in composed:
        record.composed[key] = true_clip(stage, scene, key[1], key[2]), asker(path, key[0])[0]
    first = stage.scene(scene).render(stage.scene(scene).initial_c2w, *SIZE).rgb
    for item in EVENTS:
        if item.kind == "condition" and not stage.small:
            clip, _ = asker(path, wording(item.name, stage.split))
            record.conditions[item.name] = first, clip, expected
            ending = next((e for e in EVENTS if e.ends == item.name), None)
            if ending is not None:
                after = player.play(path[-1:].repeat(8, 0), wording(ending.name, stage.split)).frames
                record.conditions[ending.name] = clip[-1], after, expected[-1:].repeat(8, 0)
    if not stage.small:
        for i in range(UNKNOWN_A_SCENE):
            sentence = UNKNOWN[(scene * UNKNOWN_A_SCENE + i) % len(UNKNOWN)]
            clip, info = asker(path, sentence)
            record.unknown[sentence] = info.get("events", []), clip, quiet
    return record


def wording(name: str, split: str) -> str:
    """A sentence for an event that training never had."""
    return phrasings(name, split)[0]


class Asker:
    """Asks for events in words, each time in the same world: called with a path and a text, returns clip and
    info.
    """

    def __init__(self, player: EnvPlayer, start: Start) -> None:
        self.player, self.start = player, start
        player.open(start)
        self.snapshot = player.unwrapped.snapshot()

    def __call__(self, path: np.ndarray, text: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Clip u8 [8, H, W, 3] and `info` of a step along `path` [8, 4, 4]."""
        self.player.unwrapped.restore(self.snapshot)
        self.player.last = np.asarray(self.start.c2w, np.float64)
        rollout = self.player.play(path, text)
        return rollout.frames, rollout.infos[0]


def asked_clip(stage: Stage, scene: int, system: System, name: str) -> np.ndarray:
    """A system's clip of a mover, kept for the group `things`."""
    return stage.kept(
        scene, ("asked", system.name, name), lambda: _ask(stage, scene, system, wording(name, stage.split))
    )


def quiet_clip(stage: Stage, scene: int, system: System) -> np.ndarray:
    """A system's clip along the same path when nothing is asked for."""
    return stage.kept(scene, ("asked", system.name, ""), lambda: _ask(stage, scene, system, ""))


def _ask(stage: Stage, scene: int, system: System, text: str) -> np.ndarray:
    start = Start(stage.scene(scene).initial_c2w, scene)
    return Asker(stage.players.get(system, SIZE), start)(path_of(stage, scene), text)[0]


# -- figures


@figure("events", "%", "high", ">= 60")
def event_movers(record: Played) -> dict[str, float] | None:
    """Movers that come as asked for, in words never trained on."""
    return {
        n: 100.0 * saw_mover(LOOKS[n], clip, a.expected) for n, (a, clip) in record.movers.items()
    } or None


@figure("events", "%", "high", ">= 80")
def event_conditions(record: Played) -> dict[str, float] | None:
    """Changes of light and air that come as asked for."""
    return {n: 100.0 * saw_condition(n, clip, b, e) for n, (b, clip, e) in record.conditions.items()} or None


@figure("events", "%", "high", ">= 50")
def event_composed(record: Played) -> dict[str, float] | None:
    """Colours and things that were never trained together.

    By sentence, 0 or 100.
    """
    shown = record.composed.items()
    return {
        k[0]: 100.0 * saw_mover(composed_look(k[1], k[2]), clip, a.expected) for k, (a, clip) in shown
    } or None


@figure("events", "%", "low", "<= 5")
def event_false(record: Played) -> float | None:
    """Events seen in clips that nobody asked anything of."""
    if record.quiet is None:
        return None
    clip, expected = record.quiet
    return 100.0 * any(saw_event(item.name, clip, expected[0], expected) for item in EVENTS)


@figure("events", "%", "low", "oracle <= 5")
def near_misses(record: Played) -> dict[str, float] | None:
    """Simulator clips of wrong colour, shape or motion that the judge lets pass."""
    return {
        key: 100.0 * saw_mover(LOOKS[name], clip, expected)
        for key, (name, clip, expected) in record.near.items()
    } or None


@figure("events", "%", "low", "<= 5")
def unknown_taken(record: Played) -> dict[str, float] | None:
    """Sentences of things the world does not know that show a known event.

    By sentence: the log names an event of the vocabulary, or one is seen.
    """
    return {s: 100.0 * _taken(*answer) for s, answer in record.unknown.items()} or None


@figure("events", "%", "high", ">= 90")
def unknown_refused(record: Played) -> dict[str, float] | None:
    """Sentences of things the world does not know that are answered by `understood: False`."""
    return {
        s: 100.0 * (not _taken(*answer) and any(row.get("understood") is False for row in answer[0]))
        for s, answer in record.unknown.items()
    } or None


def _taken(rows: list[dict[str, Any]], clip: np.ndarray, quiet: np.ndarray) -> bool:
    named = any(row.get("name") for row in rows) or any(row.get("understood") for row in rows)
    return named or any(saw_event(name, clip, quiet[0], quiet) for name in LOOKS)
