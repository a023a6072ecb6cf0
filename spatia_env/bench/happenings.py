"""Suite `events`: does what the text asks for happen, and nothing else?

Every event starts from the scene's first pose under a camera that turns by a few degrees. The judges are
those of `detectors`, given the simulator's static frames along the same path; they are first shown the
simulator's own clip of the event (row `oracle`), so that a row is never blamed for what they cannot see.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from spatia_env.bench import metrics
from spatia_env.bench.detectors import Evidence, detect, detect_all, detect_several
from spatia_env.bench.episodes import FRAMES, generator, gentle_path
from spatia_env.bench.event_tasks import Task, tasks
from spatia_env.bench.players import EnvPlayer
from spatia_env.bench.quality import Context, Measured
from spatia_env.bench.rows import Row
from spatia_env.errors import ActionError
from spatia_env.sim.scenes import FRAME_SECONDS, SimScene

SHOWN = (2, 4, 7)
"""Frames of an event's clip that the contact sheet shows."""
MARGIN = 3
"""Pixels around an event's bodies that are not counted as background: shadows, soft edges."""


def measure_events(context: Context, scene: int, row: Row, names: tuple[str, ...] = ()) -> Measured:
    """Which events the judges find in the clip of each task."""
    rows, pictures, background = [], {}, []
    static = context.source.scene(scene)
    start = torch.from_numpy(np.array(static.initial_c2w, np.float32))
    stage: _Stage = (
        _Oracle(scene, context.size) if row.env is None else _Played(context, row, scene, start.numpy())
    )
    first = static.render(start.numpy(), *context.size).rgb
    # Wordings take turns, so that over the scenes all of the split are asked for.
    wanted = tasks(names, context.split, scene if context.several else None, scene if context.several else 0)
    with stage:
        for task, path in _paths(wanted, scene, start):
            expected = np.stack([static.render(pose, *context.size).rgb for pose in path])
            before, clip = stage.show(task, path, first)
            rows.append(judge(task, clip, before, expected))
            if task.events:
                pictures[task.name] = clip[list(SHOWN)]
            if task.twin and isinstance(stage, _Played):
                mask = event_mask(context, scene, task, path) | Evidence(clip, before, expected).bodies(
                    task.name
                )
                background.append(background_loss(clip, stage.quiet(path), expected, mask))
    values: dict[str, Any] = {"clips": rows}
    if background:
        values["background_loss"] = float(np.mean(background))
    return Measured(values, pictures)


def _paths(wanted: list[Task], scene: int, start: torch.Tensor) -> Iterator[tuple[Task, np.ndarray]]:
    """Each task with its camera path [8, 4, 4]; one that follows goes on from where the last one ended."""
    last = start
    for index, task in enumerate(wanted):
        rng = np.random.default_rng([scene, 5119, index])
        path = gentle_path(last if task.follows else start, rng)
        last = path[-1]
        yield task, path.numpy()


def judge(task: Task, clip: np.ndarray, before: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """What the judges say of one clip u8 [8, H, W, 3]; where nothing should happen, `found` names false events."""
    entry = {"event": task.name, "kind": task.kind, "text": task.text}
    if not task.events:
        return entry | {"found": detect_all(clip, before, expected)}
    if len(task.events) > 1:
        return entry | {"success": bool(detect_several(task.events, clip, before, expected))}
    return entry | {"success": bool(detect(task.name, clip, before, expected))}


def event_mask(context: Context, scene: int, task: Task, path: np.ndarray) -> np.ndarray:
    """Where the simulator's own event moves along a path: bool [8, H, W]."""
    stage = _Oracle(scene, context.size)
    with stage:
        stage.show(task, path, np.zeros((*context.size, 3), np.uint8))
        return stage.dynamic


def background_loss(clip: np.ndarray, quiet: np.ndarray, expected: np.ndarray, mask: np.ndarray) -> float:
    """How far the background of a clip lies below that of the same clip without an event, in dB.

    Args:
        clip: u8 [8, H, W, 3], with the event.
        quiet: The same path, asked for nothing.
        expected: The true static frames.
        mask: bool [8, H, W], where the event is; it is widened by `MARGIN` pixels.
    """
    outside = ~ndimage.maximum_filter(mask, (1, 2 * MARGIN + 1, 2 * MARGIN + 1))
    if not outside.any():
        return 0.0
    return metrics.psnr(quiet, expected, outside) - metrics.psnr(clip, expected, outside)


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
    """The simulator acts the event out; a fresh scene after every mover, as movers knock things over."""

    def __init__(self, scene: int, size: tuple[int, int]) -> None:
        self.seed, self.size = scene, size
        self.scene: SimScene | None = None
        self.rng = generator(scene, "event")
        self.before = np.zeros((*size, 3), np.uint8)
        self.dynamic = np.zeros((FRAMES, *size), bool)

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.scene is not None:
            self.scene.close()
        self.scene = None

    def show(self, task: Task, path: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The simulator's clip; where something moved in it is kept in `dynamic`."""
        if not task.follows or self.scene is None:
            self._close()
            self.scene, self.before = SimScene(self.seed), first
        scene, before = self.scene, self.before
        for name in task.events:
            scene.start_event(name, scene.initial_c2w, self.rng)
        frames, dynamic = [], []
        for pose in path:
            scene.advance(FRAME_SECONDS)
            shot = scene.render(pose, *self.size)
            frames.append(shot.rgb)
            dynamic.append(shot.dynamic)
        self.before, self.dynamic = frames[-1], np.stack(dynamic)
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
            self._begin_again()
            self.last = first
        before = self.last
        clip = self.player.play(path, task.text).frames
        if len(clip) != FRAMES:
            raise ActionError(f"events: clips of {len(clip)} frames; the judges read {FRAMES}.")
        self.last = clip[-1]
        return before, clip

    def quiet(self, path: np.ndarray) -> np.ndarray:
        """The clip along the same path when nothing is asked for; the next task begins from the snapshot."""
        self._begin_again()
        self.last = None
        return self.player.play(path).frames

    def _begin_again(self) -> None:
        self.player.unwrapped.restore(self.snapshot)
        self.player.last = np.asarray(self.start, np.float64)
