"""Suite `events`: does what the text asks for happen, and nothing else?

Every event starts from the scene's first pose under a camera that turns by a few degrees. The judges are
those of `detectors`, given the simulator's static frames along the same path; they are first shown the
simulator's own clip of the event (row `oracle`), so that a row is never blamed for what they cannot see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from spatia_env.bench.detectors import detect, detect_all
from spatia_env.bench.episodes import FRAMES, generator, gentle_path
from spatia_env.bench.quality import Context, Measured
from spatia_env.bench.rows import EnvPlayer, Row
from spatia_env.errors import ActionError
from spatia_env.sim.scenes import FRAME_SECONDS, SimScene
from spatia_env.vocabulary import EVENTS, Event, phrasings

SPLIT = "dev"
QUIET_CLIPS = 2
SHOWN = (2, 4, 7)
"""Frames of an event's clip that the contact sheet shows."""


@dataclass(frozen=True)
class Task:
    """One clip to judge: the event (None for a quiet clip), its wording, and whether it goes on from the last
    clip.
    """

    event: Event | None
    text: str
    follows: bool = False

    @property
    def name(self) -> str:
        """The event's name, "" for a quiet clip."""
        return self.event.name if self.event else ""


def tasks(names: tuple[str, ...] = ()) -> list[Task]:
    """The clips of a scene in order: movers; conditions, each followed by its ending; quiet clips.

    Args:
        names: Only these events; all by default. An ending brings its condition along.
    """
    known = [event.name for event in EVENTS]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ActionError(f"events: {', '.join(unknown)} do not exist; there are {', '.join(known)}.")
    wanted = set(names or known)
    out = [Task(e, phrasings(e.name, SPLIT)[0]) for e in EVENTS if e.kind == "mover" and e.name in wanted]
    endings = {event.ends: event for event in EVENTS if event.kind == "ending"}
    for event in EVENTS:
        ending = endings.get(event.name)
        if event.kind == "condition" and (event.name in wanted or (ending and ending.name in wanted)):
            out.append(Task(event, phrasings(event.name, SPLIT)[0]))
            if ending and ending.name in wanted:
                out.append(Task(ending, phrasings(ending.name, SPLIT)[0], follows=True))
    return out + [Task(None, "")] * QUIET_CLIPS


def measure_events(context: Context, scene: int, row: Row, names: tuple[str, ...] = ()) -> Measured:
    """Which events the judges find in the clip of each task."""
    rows, pictures = [], {}
    with SimScene(scene) as static:
        start = torch.from_numpy(np.array(static.initial_c2w, np.float32))
        stage: _Stage = (
            _Oracle(scene, context.size) if row.env is None else _Played(context, row, scene, start.numpy())
        )
        first = static.render(start.numpy(), *context.size).rgb
        with stage:
            for task, path in _paths(tasks(names), scene, start):
                expected = np.stack([static.render(pose, *context.size).rgb for pose in path])
                before, clip = stage.show(task, path, first)
                rows.append(judge(task, clip, before, expected))
                if task.event is not None:
                    pictures[task.name] = clip[list(SHOWN)]
    return Measured({"clips": rows}, pictures)


def _paths(wanted: list[Task], scene: int, start: torch.Tensor) -> Iterator[tuple[Task, np.ndarray]]:
    """Each task with its camera path [8, 4, 4]; one that follows goes on from where the last one ended."""
    last = start
    for index, task in enumerate(wanted):
        rng = np.random.default_rng([scene, 5119, index])
        path = gentle_path(last if task.follows else start, rng)
        last = path[-1]
        yield task, path.numpy()


def judge(task: Task, clip: np.ndarray, before: np.ndarray, expected: np.ndarray) -> dict[str, object]:
    """What the judges say of one clip u8 [8, H, W, 3]; for a quiet clip, `found` names every false event."""
    if task.event is None:
        return {"event": "", "kind": "quiet", "text": "", "found": detect_all(clip, before, expected)}
    success = bool(detect(task.name, clip, before, expected))
    return {"event": task.name, "kind": task.event.kind, "text": task.text, "success": success}


class _Stage:
    """Shows the clip of a task; a context manager."""

    def __enter__(self) -> "_Stage":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def show(self, task: Task, path: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The picture before [H, W, 3] and the clip u8 [8, H, W, 3]."""
        raise ActionError("bench: this stage shows nothing.")


class _Oracle(_Stage):
    """The simulator acts the event out; a fresh scene each time, as movers knock things over."""

    def __init__(self, scene: int, size: tuple[int, int]) -> None:
        self.seed, self.size = scene, size
        self.scene: SimScene | None = None
        self.rng = generator(scene, "event")
        self.before = np.zeros((*size, 3), np.uint8)

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.scene is not None:
            self.scene.close()
        self.scene = None

    def show(self, task: Task, path: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The simulator's clip."""
        if not task.follows or self.scene is None:
            self._close()
            self.scene, self.before = SimScene(self.seed), first
        scene, before = self.scene, self.before
        if task.event is not None:
            scene.start_event(task.name, scene.initial_c2w, self.rng)
        frames = []
        for pose in path:
            scene.advance(FRAME_SECONDS)
            frames.append(scene.render(pose, *self.size).rgb)
        self.before = frames[-1]
        return before, np.stack(frames)


class _Played(_Stage):
    """A row of the environment is asked for the event in words, each time from the same snapshot."""

    def __init__(self, context: Context, row: Row, scene: int, start: np.ndarray) -> None:
        player = context.players.get(row)
        if not isinstance(player, EnvPlayer):
            raise ActionError(f"events: row {row.name} takes no text.")
        self.player, self.start = player, start
        player.open(scene, start)
        self.snapshot = player.unwrapped.snapshot()
        self.last: np.ndarray | None = None

    def show(self, task: Task, path: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row's clip."""
        if not task.follows or self.last is None:
            self.player.unwrapped.restore(self.snapshot)
            self.player.last = np.asarray(self.start, np.float64)
            self.last = first
        before = self.last
        clip = self.player.play(path, task.text).frames
        if len(clip) != FRAMES:
            raise ActionError(f"events: clips of {len(clip)} frames; the judges read {FRAMES}.")
        self.last = clip[-1]
        return before, clip
