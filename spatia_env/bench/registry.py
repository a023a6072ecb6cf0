"""What is measured: groups play episodes, figures read numbers from what was played."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from spatia_env.bench.episodes import Truth, film, path_of
from spatia_env.bench.reference import Reference
from spatia_env.bench.systems import Players, System
from spatia_env.sim.scenes import SimScene

SIZE = (128, 128)


@dataclass(frozen=True)
class Figure:
    """A number in the tables.

    Attributes:
        name: Unique; as in the results.
        title: What it is, one line.
        unit: "" for a plain number.
        better: "high", "low", or "" where neither is.
        target: Such as ">= 0.5" for the row `default`, "" for none.
        group: Name of its group.
        measure: Reads it from a group's record: a number, numbers by sentence, features to be pooled, or
            None where it does not apply.
        pool: Of all scenes' features and the reference, the figure as a function of how often each scene
            counts; None for means.
    """

    name: str
    title: str
    unit: str
    better: str
    target: str
    group: str
    measure: Callable[[Any], Any]
    pool: Callable[..., Callable[[np.ndarray], float]] | None = None


@dataclass(frozen=True)
class Group:
    """Episodes of one kind.

    Attributes:
        name: As typed.
        title: What it asks, one line.
        play: Plays one scene with one system; returns a record that the group's figures read.
        systems: Names of its rows.
        scenes: How many scenes of `smoke`, `core` and `full`.
        pictures: What its contact sheets show of a record: label -> u8 [N, H, W, 3].
        subjects: Whether a scene number is a simulator seed ("scenes") or counts from 0 ("items").
        missing: Why it cannot be measured here, "" if it can.
        compares: Whether it needs the reference pictures.
    """

    name: str
    title: str
    play: Callable[["Stage", int, System], Any]
    systems: tuple[str, ...]
    scenes: tuple[int, int, int]
    pictures: Callable[[Any], Mapping[str, np.ndarray]] | None = None
    subjects: str = "scenes"
    missing: Callable[[], str] = field(default=lambda: "")
    compares: bool = False


M = TypeVar("M", bound=Callable[[Any], Any])
FIGURES: dict[str, Figure] = {}
GROUPS: dict[str, Group] = {}


def figure(
    group: str, unit: str = "", better: str = "", target: str = "", pool: Any = None
) -> Callable[[M], M]:
    """Register a function of a group's record as a figure: its name and the first line of its docstring are
    the figure's.
    """

    def register(measure: M) -> M:
        name, title = measure.__name__, (measure.__doc__ or "").strip().split("\n")[0].rstrip(".")
        word = title.split(" ")[0][1:]  # abbreviations keep their capitals
        if name in FIGURES:
            raise ValueError(f"figure {name}: registered twice.")
        FIGURES[name] = Figure(
            name,
            title[:1].lower() + title[1:] if word.islower() or not word else title,
            unit,
            better,
            target,
            group,
            measure,
            pool,
        )
        return measure

    return register


def group(
    name: str, title: str, systems: tuple[str, ...], scenes: tuple[int, int, int], **more: Any
) -> Callable:
    """Register a function that plays one scene with one system as a group."""

    def register(play: Callable[["Stage", int, System], Any]) -> Callable:
        GROUPS[name] = Group(name, title, play, systems, scenes, **more)
        return play

    return register


def figures_of(name: str) -> Iterator[Figure]:
    """The figures of a group."""
    return (item for item in FIGURES.values() if item.group == name)


class Stage:
    """What measuring needs: players, true episodes of the scene at hand, the split. A context that closes them.

    Args:
        model: Checkpoint name or folder, None for the packaged one.
        split: "dev" or "test", of seeds and wordings.
        reference: Features of other true pictures; None where no figure needs them.
        small: Play the short form of groups that have one, for `smoke`.
    """

    def __init__(
        self,
        model: str | None = None,
        split: str = "dev",
        reference: Reference | None = None,
        small: bool = False,
    ) -> None:
        self.split, self.reference, self.small = split, reference, small
        self.players = Players(model)
        self._scene: SimScene | None = None
        self._truths: dict[tuple, Truth] = {}
        self._kept: dict[Any, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Stage":
        self._stack.enter_context(self.players)
        return self

    def __exit__(self, *exc: object) -> None:
        self._let_go()
        self._stack.close()

    def _let_go(self) -> None:
        if self._scene is not None:
            self._scene.close()
        self._scene = None
        self._truths.clear()
        self._kept.clear()

    def scene(self, seed: int) -> SimScene:
        """The scene, open; nothing may happen in it."""
        if self._scene is None or self._scene.seed != seed:
            self._let_go()
            self._scene = SimScene(seed)
        return self._scene

    def truth(self, seed: int, path: str, size: tuple[int, int] = SIZE, clips: int | None = None) -> Truth:
        """The truth of an episode; those of the scene at hand are kept. `clips` cuts it short."""
        scene = self.scene(seed)
        key = (path, size, clips)
        if key not in self._truths:
            c2w = path_of(scene, path)
            self._truths[key] = film(scene, c2w if clips is None else c2w[: 1 + 8 * clips], size)
        return self._truths[key]

    def kept(self, seed: int, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returned when this key was first asked for in this scene."""
        self.scene(seed)
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]
