"""The past of a session: moments in a tree, each with the world's state and the clip that led to it.

States are immutable and share their maps, so all are kept; of clips only the newest are kept whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from spatia_env.errors import ViewerError

MAX_MOMENTS = 512
MAX_CLIPS = 128
"""Clips that are kept, the newest; of older moments only the last frame is."""
Kind = Literal["start", "clip", "edit"]


@dataclass(frozen=True, eq=False)
class Clip:
    """What one step showed.

    Attributes:
        frames: u8 [T, H, W, 3].
        depth: f16 [T, H, W] metres, 0 = none.
        pose: f32 [T, 4, 4], c2w.
        known: bool [T, H, W], true where rendered from memory.
        scene_render: u8 [T, H, W, 3], what the model was given.
        references: u8 [R, H, W, 3], and their overlap `scores` in [0, 1].
        dynamic: bool [T, H, W], what moved.
    """

    frames: np.ndarray
    depth: np.ndarray
    pose: np.ndarray
    known: np.ndarray
    scene_render: np.ndarray
    references: np.ndarray
    scores: tuple[float, ...]
    dynamic: np.ndarray

    def last(self) -> "Clip":
        """The clip with its last frame alone, without references."""
        framewise = ("frames", "depth", "pose", "known", "scene_render", "dynamic")
        kept = {name: getattr(self, name)[-1:].copy() for name in framewise}
        return Clip(**kept, references=self.references[:0].copy(), scores=())


@dataclass(eq=False)
class Moment:
    """A state that the session has been in.

    Attributes:
        id: 0, 1, 2, ...
        parent: The moment before it, None for the first.
        kind: What led here: the opening, a clip, or an edit.
        caption: The path or the edit in words.
        event: What was asked for in words, "" for nothing.
        state: The world's state (`WorldState`).
        clip: What the step showed; edits keep the clip of their parent.
        numbers: Live figures: points, seconds, revisit PSNR.
        place: Where the event was seen [3] in metres, if there was one.
        group: Shared by moments that show the same clip of a path with other events; None for others.
    """

    id: int
    parent: int | None
    kind: Kind
    caption: str
    event: str
    state: Any
    clip: Clip
    numbers: dict[str, float] = field(default_factory=dict)
    place: tuple[float, float, float] | None = None
    group: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """One line: number, path, event."""
        words = f"{self.id} · {self.caption}"
        return f"{words} · {self.event}" if self.event else words


class Timeline:
    """The tree of moments, and which one is now."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []
        self.now_id = -1

    def __len__(self) -> int:
        return len(self._moments)

    def __iter__(self) -> Iterator[Moment]:
        return iter(tuple(self._moments))

    def __getitem__(self, moment_id: int) -> Moment:
        """The moment with this id.

        Raises:
            ViewerError: If there is none.
        """
        if not (isinstance(moment_id, int) and 0 <= moment_id < len(self._moments)):
            raise ViewerError(f"there is no moment {moment_id!r:.20}.")
        return self._moments[moment_id]

    @property
    def now(self) -> Moment:
        """The moment that the session is in."""
        return self[self.now_id]

    def check_room(self, count: int = 1) -> None:
        """Raise `ViewerError` unless `count` more moments fit."""
        if len(self._moments) + count > MAX_MOMENTS:
            raise ViewerError(f"the timeline holds {MAX_MOMENTS} moments; save the world and open it again.")

    def add(self, kind: Kind, caption: str, event: str, state: Any, clip: Clip, **more: Any) -> Moment:
        """Add a child of now and make it now."""
        self.check_room()
        parent = self.now_id if self._moments else None
        moment = Moment(len(self._moments), parent, kind, caption, event, state, clip, **more)
        self._moments.append(moment)
        self.now_id = moment.id
        old = len(self._moments) - 1 - MAX_CLIPS
        if old >= 0:
            self._moments[old].clip = self._moments[old].clip.last()
        return moment

    def go(self, moment_id: int) -> Moment:
        """Make another moment now."""
        moment = self[moment_id]
        self.now_id = moment.id
        return moment

    def branch(self, moment_id: int | None = None) -> list[Moment]:
        """From the first moment to this one (now by default)."""
        moment: Moment | None = self.now if moment_id is None else self[moment_id]
        line: list[Moment] = []
        while moment is not None:
            line.append(moment)
            moment = None if moment.parent is None else self._moments[moment.parent]
        return line[::-1]

    def beside(self, moment: Moment) -> list[Moment]:
        """The moments to be seen side by side with this one, itself among them."""
        if moment.group is None:
            return [moment]
        return [other for other in self._moments if other.group == moment.group]

    def tips(self) -> list[Moment]:
        """The ends of the branches, oldest first."""
        parents = {moment.parent for moment in self._moments}
        return [moment for moment in self._moments if moment.id not in parents]

    def lanes(self) -> dict[int, int]:
        """A row for each moment to be drawn in: a first child stays in its parent's, others open new ones."""
        lanes: dict[int, int] = {}
        used, opened = set(), 0
        for moment in self._moments:
            if moment.parent is None:
                lanes[moment.id] = 0
            elif moment.parent not in used:
                used.add(moment.parent)
                lanes[moment.id] = lanes[moment.parent]
            else:
                opened += 1
                lanes[moment.id] = opened
        return lanes
