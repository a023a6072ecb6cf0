"""The browsers' own cameras: what memory shows from where each looks, and when one has come to rest.

A view that moves is previewed at once; one that rests, with walking switched on, becomes a request. Previews
are made on a thread of their own, one view at a time and always the newest of each client, so a client that
moves quickly, or is slow to take its pictures, holds up nobody.
"""

import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import look_at, pose_error
from spatia_env.viewer.clouds import bounds
from spatia_env.viewer.scene_view import rotation_of
from spatia_env.viewer.session import Session

REST_SECONDS = (0.12, 0.5)
"""A view that has not moved for so long, at least and at most, has been let go."""
PAUSES = 1.6
"""Between them: so many times as long as it last took from one place to the next. A browser says where its camera is
50 times a second, or as often as it manages to draw."""
UNKNOWN_PACE = 0.1
"""Seconds from one place to the next, before a second one is known."""
NEAR_METRES, NEAR_DEGREES = 0.02, 1.0
"""A view this close to the walker is the walker's."""
LOOK_AT = 0.05
"""Metres ahead about which the browser turns its camera: so near that it turns on the spot."""
STOCK = 3.0
"""Metres along each axis from the origin, at which it looks: where every page of viser begins. A busy browser may say
so again after it has been placed."""
PLACING_SECONDS = 30.0
"""For so long at most a browser is waited for that was told where its camera is; slow ones take seconds."""


@dataclass
class View:
    """One client's camera.

    Attributes:
        client: viser's handle.
        walks: Whether a view that rests is walked to.
        free: Whether it looks around by itself for now, as from above; then it neither walks nor follows.
        moved: When it last moved, monotonic seconds; 0 when it has been dealt with.
        pace: Seconds from one place to the next while it moves.
        c2w: Where it is [4, 4].
        picture: The widget that shows the preview.
        previews: How many have been sent.
        placed: When the program put it somewhere; until the browser says that it is there, what it says is old.
        reported: Where the browser last said that it is.
    """

    client: Any
    walks: bool = True
    free: bool = False
    moved: float = 0.0
    pace: float = UNKNOWN_PACE
    c2w: Tensor = field(default_factory=lambda: torch.eye(4))
    picture: Any = None
    previews: int = 0
    placed: float = 0.0
    reported: Tensor | None = None

    def move(self, c2w: Tensor, now: float) -> None:
        """Stand somewhere else from a moment on."""
        # The slowest of late counts: one that was drawn quickly does not end a slow movement.
        self.pace = max(now - self.moved, 0.7 * self.pace) if self.moved else UNKNOWN_PACE
        self.c2w, self.moved = c2w, now

    def rests_at(self) -> float | None:
        """When it will have been let go if it does not move again; None when it was not moved."""
        least, most = REST_SECONDS
        return self.moved + min(max(PAUSES * self.pace, least), most) if self.moved else None

    def rests(self, now: float) -> bool:
        """Whether it was moved and has been let go."""
        due = self.rests_at()
        return due is not None and now >= due


class Views:
    """The cameras of all clients.

    Args:
        session: What they look at.
        width: Pixels of the previews.
        rested: Called with a view that has come to rest somewhere else than the walker.
    """

    def __init__(self, session: Session, width: int, rested: Callable[[View], None]) -> None:
        self._session, self._width, self._rested = session, width, rested
        self._views: dict[int, View] = {}
        self._pending: dict[int, View] = {}
        self._condition = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)
        self._thread.start()

    def __getitem__(self, client_id: int) -> View | None:
        """The view of a client, None if it has gone."""
        return self._views.get(client_id)

    def add(self, client: Any, picture: Any, walks: bool) -> View:
        """Follow a client's camera, beginning where the walker is."""
        view = View(client, walks, c2w=self._session.now.state.c2w, picture=picture)
        self._views[client.client_id] = view
        view.reported = pose_of(client.camera)
        client.camera.on_update(lambda camera: self._moved(view, camera))
        self.go_to_walker(view)
        self._ask(view)
        return view

    def remove(self, client_id: int) -> None:
        """Forget a client."""
        with self._condition:
            self._views.pop(client_id, None)
            self._pending.pop(client_id, None)

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._stop = True
            self._condition.notify()
        # A picture that is being drawn is finished first: a process that ends in native code is aborted.
        self._thread.join(30)

    def refresh(self) -> None:
        """The world has changed: previews again, and walking clients stand where the walker is."""
        for view in tuple(self._views.values()):
            if view.walks and not view.free and not view.moved:
                self.go_to_walker(view)
            self._ask(view)

    def tick(self, now: float) -> None:
        """Report views that have come to rest; what is being generated is waited for."""
        if self._session.queue.pending():
            return
        for view in tuple(self._views.values()):
            if view.walks and not view.free and view.rests(now):
                view.moved = 0.0
                if not self.is_at_walker(view):
                    self._rested(view)

    def next_rest(self) -> float:
        """When the next view will have come to rest (monotonic seconds), infinity if none moves."""
        times = [view.rests_at() for view in tuple(self._views.values()) if view.walks and not view.free]
        return min((time for time in times if time is not None), default=math.inf)

    def is_at_walker(self, view: View) -> bool:
        """Whether a view is the walker's, nearly."""
        return _near(view.c2w, upright(self._session.now.state.c2w))

    def go_to_walker(self, view: View) -> None:
        """Put a client's camera where the walker is."""
        c2w = self._session.now.state.c2w.double().numpy()
        view.free, view.moved = False, 0.0
        view.c2w = upright(self._session.now.state.c2w)
        # A browser that is there already has nothing to say about it.
        is_there = view.reported is not None and _near(view.reported, view.c2w)
        view.placed = 0.0 if is_there else time.monotonic()
        _place(view.client, c2w[:3, 3], c2w[:3, 3] + LOOK_AT * c2w[:3, 2])

    def go_above(self, view: View) -> None:
        """Put a client's camera above and behind the walker, to look at the whole."""
        view.free, view.moved = True, 0.0
        state = self._session.now.state
        low, high = bounds(state.memory.blocks)
        middle, reach = (low + high) / 2, float(np.clip(np.linalg.norm(high - low), 2.0, 30.0))
        back = _level(state.c2w[:3, 2].double().numpy())
        _place(view.client, middle - 0.55 * reach * back + np.array([0, 0, 0.6 * reach]), middle)

    def _moved(self, view: View, camera: Any) -> None:
        new, now = pose_of(camera), time.monotonic()
        if new is None or _near(new, look_at(torch.full((3,), STOCK), torch.zeros(3))):
            return
        before, view.reported = view.reported, new
        if view.placed:
            # Where it was before it was told says nothing, however late it says it; a place that is nearer to where it
            # was put is one to which it has moved since.
            is_stale = before is not None and _near(new, before)
            has_moved_on = before is not None and _apart(new, view.c2w) < _apart(new, before)
            is_early = not has_moved_on and now - view.placed < PLACING_SECONDS
            if not _near(new, view.c2w) and (is_stale or is_early):
                return
            view.placed = 0.0
        if _near(new, view.c2w, 1e-4, 1e-2):
            return
        view.move(new, now)
        if self.is_at_walker(view):
            view.moved = 0.0
        self._ask(view)

    def _ask(self, view: View) -> None:
        with self._condition:
            if view.client.client_id in self._views:
                self._pending[view.client.client_id] = view
                self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._pending and not self._stop:
                    self._condition.wait()
                if self._stop:
                    return
                client_id = next(iter(self._pending))
                view = self._pending.pop(client_id)
            try:
                self._show(view)
            except Exception:  # noqa: BLE001 - the thread serves all clients and must outlive any picture
                traceback.print_exc()

    def _show(self, view: View) -> None:
        from spatia_env.viewer.pictures import enlarge

        frame, _ = self._session.preview(view.c2w)
        height = round(self._width * frame.shape[0] / frame.shape[1])
        picture = enlarge(frame, self._width, height)
        try:
            if view.client.client_id in self._views:
                with may_leave(view.client):
                    view.picture.image = picture
                view.previews += 1
        except RuntimeError:
            # viser refuses to draw for a client that left just now; the thread goes on for the others.
            self.remove(view.client.client_id)


@contextmanager
def may_leave(client: Any) -> Iterator[None]:
    """Write to a client that may leave meanwhile: what is written after that goes nowhere, and is no fault."""
    with client._websock_connection.get_message_buffer().sanctioned_dead_writes():
        yield


def _near(a: Tensor, b: Tensor, metres: float = NEAR_METRES, degrees: float = NEAR_DEGREES) -> bool:
    distance, angle = pose_error(a, b)
    return float(distance) < metres and float(angle) < degrees


def _apart(a: Tensor, b: Tensor) -> float:
    """How far two poses are from one another: metres, and a metre for each radian."""
    distance, angle = pose_error(a, b)
    return float(distance) + math.radians(float(angle))


def upright(c2w: Tensor) -> Tensor:
    """The pose [4, 4] without its roll, as browsers' cameras have none; turning while looking down gives some."""
    if float(c2w[2, 2].abs()) > 0.999:
        return c2w
    return look_at(c2w[:3, 3], c2w[:3, 3] + c2w[:3, 2])


def pose_of(camera: Any) -> Tensor | None:
    """The pose [4, 4] of a browser's camera; None if it is none, or farther than a kilometre away."""
    position, wxyz = np.asarray(camera.position), np.asarray(camera.wxyz)
    if not (np.isfinite(position).all() and np.isfinite(wxyz).all() and np.linalg.norm(wxyz) > 0.5):
        return None
    if np.abs(position).max() > 1e3:
        return None
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = rotation_of(wxyz), position
    return torch.from_numpy(c2w).float()


def _place(client: Any, eye: np.ndarray, target: np.ndarray) -> None:
    with client.atomic():
        client.camera.up_direction = (0.0, 0.0, 1.0)
        client.camera.position = tuple(eye.tolist())
        client.camera.look_at = tuple(target.tolist())


def _level(direction: np.ndarray) -> np.ndarray:
    flat = direction * np.array([1.0, 1.0, 0.0])
    norm = np.linalg.norm(flat)
    return flat / norm if norm > 1e-6 else np.array([0.0, 1.0, 0.0])
