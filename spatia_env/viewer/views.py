"""The browsers' own cameras: what memory shows from where each looks, and when one has come to rest.

A view that moves is previewed at once; one that rests, with walking switched on, becomes a request, and what is
left of the client's earlier walk is given up for it. Previews are made on a thread of their own, one view at a time
and always the newest of each client, so a client that moves quickly or reads slowly holds up nobody.
"""

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import look_at, pose_error
from spatia_env.viewer.player import resize
from spatia_env.viewer.scene_view import rotation_of
from spatia_env.viewer.session import TO_VIEW, Session

REST_SECONDS = (0.12, 0.5)
"""A view that has not moved for so long, at least and at most, has been let go."""
PAUSES = 1.6
"""Between them: so many times the last interval of its reports; a browser makes 50 a second, or as many as it draws."""
FIRST_INTERVAL = 0.1
"""Seconds between reports that are assumed until two have come."""
NEAR_METRES, NEAR_DEGREES = 0.02, 1.0
"""A view this close to the walker is the walker's."""
LOOK_AT = 0.05
"""Metres ahead about which the browser turns its camera: so near that it turns on the spot."""
INITIAL = (3.0, 3.0, 3.0)
"""Metres: where every page of viser begins, looking at the origin. A busy browser may report it after it was placed."""
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
        interval: Seconds between its reports while it moves.
        c2w: Where it is [4, 4].
        picture: The widget that shows the preview.
        previews: How many have been sent.
        placed: When the program put it somewhere; until the browser says that it is there, what it says is old.
        reported: Where the browser last said that it is.
        outdated: Where it was before it was placed; what it says of these places is late.
    """

    client: Any
    walks: bool = True
    free: bool = False
    moved: float = 0.0
    interval: float = FIRST_INTERVAL
    c2w: Tensor = field(default_factory=lambda: torch.eye(4))
    picture: Any = None
    previews: int = 0
    placed: float = 0.0
    reported: Tensor | None = None
    outdated: list[Tensor] = field(default_factory=lambda: [initial_pose()])

    def move(self, c2w: Tensor, now: float) -> None:
        """Stand somewhere else from a moment on."""
        # The slowest of late counts: one that was drawn quickly does not end a slow movement.
        self.interval = max(now - self.moved, 0.7 * self.interval) if self.moved else FIRST_INTERVAL
        self.c2w, self.moved = c2w, now

    def rests_at(self) -> float:
        """When it will have been let go if it does not move again; infinity when it was not moved, or is free."""
        rest = min(max(PAUSES * self.interval, REST_SECONDS[0]), REST_SECONDS[1])
        return self.moved + rest if self.moved and self.walks and not self.free else math.inf


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
        self._due: dict[int, View] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="previews")

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
        self._views.pop(client_id, None)
        self._due.pop(client_id, None)

    def close(self) -> None:
        """End the thread, after the picture that is being drawn: a process that ends in native code is aborted."""
        self._due.clear()
        self._worker.shutdown()

    def refresh(self) -> None:
        """The world has changed: previews again, and walking clients stand where the walker is."""
        for view in tuple(self._views.values()):
            if view.walks and not view.free and not view.moved:
                self.go_to_walker(view)
            self._ask(view)

    def tick(self, now: float) -> None:
        """Report views that have come to rest; what is being generated is waited for."""
        resting = [view for view in tuple(self._views.values()) if now >= view.rests_at()]
        if self._session.queue.pending():
            for view in resting:
                self._session.queue.stop(view.client.client_id, TO_VIEW)
            return
        for view in resting:
            view.moved = 0.0
            if not self.is_at_walker(view):
                self._rested(view)

    def next_rest(self) -> float:
        """When the next view will have come to rest (monotonic seconds), infinity if none moves."""
        return min((view.rests_at() for view in tuple(self._views.values())), default=math.inf)

    def is_at_walker(self, view: View) -> bool:
        """Whether a view is the walker's, nearly."""
        return _near(view.c2w, upright(self._session.now.state.c2w))

    def go_to_walker(self, view: View) -> None:
        """Put a client's camera where the walker is."""
        c2w = self._session.now.state.c2w
        view.outdated += [view.c2w] if view.placed else []
        view.free, view.moved, view.c2w = False, 0.0, upright(c2w)
        # A browser that is there already has nothing to say about it.
        is_there = view.reported is not None and _near(view.reported, view.c2w)
        view.placed = 0.0 if is_there else time.monotonic()
        _place(view.client, c2w[:3, 3].numpy(), (c2w[:3, 3] + LOOK_AT * c2w[:3, 2]).numpy())

    def go_above(self, view: View) -> None:
        """Put a client's camera above and behind the walker, to look at the whole."""
        view.free, view.moved = True, 0.0
        state = self._session.now.state
        points = state.memory.points()["position"] if state.memory.blocks else np.zeros((1, 3))
        low, high = points.min(0), points.max(0)
        middle, reach = (low + high) / 2, float(np.clip(np.linalg.norm(high - low), 2.0, 30.0))
        ahead = state.c2w[:3, 2].numpy() * [1.0, 1.0, 0.0]
        ahead = ahead / np.linalg.norm(ahead) if np.linalg.norm(ahead) > 1e-6 else np.array([0.0, 1.0, 0.0])
        _place(view.client, middle + reach * (np.array([0, 0, 0.6]) - 0.55 * ahead), middle)

    def _moved(self, view: View, camera: Any) -> None:
        new, now = pose_of(camera), time.monotonic()
        if new is None or any(_near(new, pose) and not _near(view.c2w, pose) for pose in view.outdated):
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
            view.placed, view.outdated = 0.0, view.outdated[:1]
        if _near(new, view.c2w, 1e-4, 1e-2):
            return
        view.move(new, now)
        if self.is_at_walker(view):
            view.moved = 0.0
        self._ask(view)

    def _ask(self, view: View) -> None:
        if view.client.client_id in self._views:
            self._due[view.client.client_id] = view
            with contextlib.suppress(RuntimeError):  # it has been closed
                self._worker.submit(self._show_next)

    def _show_next(self) -> None:
        """Show the newest place of the client that has waited longest; nothing when it has been shown already."""
        for client_id in list(self._due)[:1]:
            view = self._due.pop(client_id, None)
            try:
                if view is not None:
                    self._show(view)
            except Exception:  # noqa: BLE001 - the thread serves all clients and must outlive any picture
                traceback.print_exc()

    def _show(self, view: View) -> None:
        frame, _ = self._session.preview(view.c2w)
        picture = resize(frame, self._width, round(self._width * frame.shape[0] / frame.shape[1]))
        try:
            if view.client.client_id in self._views:
                with may_leave(view.client):
                    view.picture.image = picture
                view.previews += 1
        except RuntimeError:
            # viser refuses to draw for a client that left just now; the thread goes on for the others.
            self.remove(view.client.client_id)


@contextlib.contextmanager
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


def initial_pose() -> Tensor:
    """The pose [4, 4] with which every page of viser begins."""
    return look_at(torch.tensor(INITIAL), torch.zeros(3))


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
