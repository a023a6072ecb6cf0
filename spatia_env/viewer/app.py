"""The playground in the browser: a session, a stage, a player and panels, tied together.

Widgets belong to the server, so all clients see the same world and a page that is loaded again finds it as it
was; each client has its own camera and its own preview. One thread ticks: it shows the frame that is due, moves
progress bars and notices views that rest.
"""

import math
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from spatia_env.errors import SpatiaError
from spatia_env.viewer import html as markup
from spatia_env.viewer import paths
from spatia_env.viewer.control_panels import EditPanel, SpeakPanel, WalkPanel
from spatia_env.viewer.display_panels import ClipPanel, SeePanel, TimelinePanel, WorldPanel
from spatia_env.viewer.gc import give_back
from spatia_env.viewer.jobs import Job
from spatia_env.viewer.pictures import WIDTH
from spatia_env.viewer.player import Player
from spatia_env.viewer.scene_view import Stage
from spatia_env.viewer.session import Session
from spatia_env.viewer.views import View, Views, may_leave

TICK = 0.06
"""Seconds between ticks; half a frame of the player."""
HEAD_START = 0.06
"""Seconds by which the picture of a new clip is ahead of the map's changes."""
TIDY_SECONDS = 1.0
"""After a client left: by then its connection has ended too."""
PANEL_WIDTH = 396
BRAND = (255, 138, 76)


class Playground:
    """What `spatia view` shows.

    Args:
        server: A viser server, see `server.open_server`.
        session: The world; it must have been opened.
        budget: Points a browser is sent at most.
    """

    def __init__(self, server: Any, session: Session, budget: int = 2_000_000) -> None:
        self.server, self.session = server, session
        self.player = Player(WIDTH)
        self.stage = Stage(server, budget)
        self.views = Views(session, WIDTH, self._walk_to)
        self._asked: list[tuple[Job, int | None]] = []
        self._fresh = threading.Event()
        self._queue_changed = threading.Event()
        self._stop = threading.Event()
        self._arriving = threading.Lock()
        self._shown: np.ndarray | None = None
        self._tidy_at = math.inf
        self._build()
        session.subscribe(self._heard)
        self._show_now()
        self._point_camera()
        server.on_client_connect(self._arrived)
        server.on_client_disconnect(self._left)
        self._ticker = threading.Thread(target=self._tick_on, name="ticker", daemon=True)
        self._ticker.start()

    def close(self) -> None:
        """Stop every thread, the server and the session."""
        self._stop.set()
        self._ticker.join(30)
        self.views.close()
        self.stage.close()
        self.session.close()
        self.server.stop()

    # -- for the panels --------------------------------------------------------------------------------------

    def request(self, event: Any, ask: Callable[[int | None], Job]) -> Job | None:
        """Ask for a job in the name of whoever caused an event; what is wrong with it is told to them."""
        owner = event.client_id if event is not None else None
        try:
            job = ask(owner)
        except SpatiaError as error:
            self.tell(owner, str(error))
            return None
        self._asked.append((job, owner))
        return job

    def guarded(self, event: Any, act: Callable[[], Any]) -> Any:
        """Do something at once; what is wrong with it is told to whoever caused the event."""
        try:
            return act()
        except SpatiaError as error:
            self.tell(event.client_id, str(error))
            return None

    def tell(self, owner: int | None, words: str, title: str = "That did not work") -> None:
        """Show a line to a client, to all when there is none."""
        clients = self.server.get_clients()
        for client_id, client in clients.items():
            if owner in (None, client_id):
                client.add_notification(title, words[:400], auto_close_seconds=8.0, color="orange")

    def show(self, moments: list[Any]) -> None:
        """Play these moments side by side."""
        self.player.show(moments)
        self.clip.moments_changed()

    # -- building --------------------------------------------------------------------------------------------

    def _build(self) -> None:
        gui = self.server.gui
        gui.configure_theme(
            dark_mode=True, show_logo=False, show_share_button=False, control_width="large", brand_color=BRAND
        )
        gui.set_panel_label("spatia")
        left = gui.add_panel()
        with left.add_tab("Clip"):
            self.clip = ClipPanel(self)
        left.dock_left()
        left.set_width(PANEL_WIDTH)
        tabs = gui.add_tab_group()
        writable = not self.session.read_only
        self.walk = self.speak = self.edit = None
        if writable:
            with tabs.add_tab("Walk"):
                self.walk = WalkPanel(self)
            with tabs.add_tab("Speak"):
                self.speak = SpeakPanel(self)
        with tabs.add_tab("See"):
            self.see = SeePanel(self)
        if writable:
            with tabs.add_tab("Edit"):
                self.edit = EditPanel(self)
            with tabs.add_tab("World"):
                self.world = WorldPanel(self)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(PANEL_WIDTH)
        below = gui.add_panel()
        with below.add_tab("Timeline"):
            self.timeline = TimelinePanel(self)
            gui.add_divider()
            self.queue_view = gui.add_html(markup.jobs([], 0.0))
        below.dock_below(gui.main_panel)

    def _point_camera(self) -> None:
        c2w = self.session.now.state.c2w.double().numpy()
        self.server.initial_camera.position = tuple(c2w[:3, 3].tolist())
        self.server.initial_camera.look_at = tuple((c2w[:3, 3] + 0.05 * c2w[:3, 2]).tolist())

    # -- what happens ----------------------------------------------------------------------------------------

    def _heard(self, what: str) -> None:
        """From any thread: only noted, the ticker acts."""
        if what == "queue":
            self._queue_changed.set()
        else:
            self._fresh.set()
            self._queue_changed.set()

    def _arrived(self, client: Any) -> None:
        with self._arriving:  # a container of widgets is filled by one thread at a time
            # viser takes a client's widgets away when it leaves, also while they are being made.
            try:
                with may_leave(client):
                    widgets = self._furnish(client)
            except RuntimeError:
                if client.client_id in self.server.get_clients():
                    raise
                widgets = []
            if client.client_id not in self.server.get_clients():
                self.views.remove(client.client_id)
                with may_leave(client):
                    for widget in widgets:
                        if not widget._impl.removed:
                            widget.remove()

    def _furnish(self, client: Any) -> list[Any]:
        """A client's own widgets."""
        picture = self.clip.add_preview(client)
        view = self.views.add(client, picture, walks=not self.session.read_only)
        widgets = [picture, self.see.add_camera_buttons(client, view)]
        if self.walk is not None:
            widgets += self.walk.add_camera_controls(client, view)
        return widgets

    def _left(self, client: Any) -> None:
        self.views.remove(client.client_id)
        self.session.queue.drop(client.client_id)
        self._tidy_at = min(self._tidy_at, time.monotonic() + TIDY_SECONDS)

    def _walk_to(self, view: View) -> None:
        start, end, count = self.session.now.state.c2w, view.c2w, self.session.num_frames
        try:
            path = paths.to_view(start, end, count)
            self._asked.append(
                (self.session.walk(path, "", "to my view", view.client.client_id), view.client.client_id)
            )
        except SpatiaError as error:
            self.tell(view.client.client_id, str(error))

    def _show_now(self) -> None:
        now = self.session.now
        self.show(self._to_play(now))  # first: it is what was waited for
        self._show_frame(time.monotonic())
        if self.server.get_clients():
            # A browser draws all that has come together, so the picture would wait for what is heavy.
            time.sleep(HEAD_START)
        self.stage.show(self.session.timeline)
        self.timeline.changed()
        self.see.changed()
        if self.edit is not None:
            self.edit.forget()
            self.world.changed()
        self._point_camera()
        self.views.refresh()

    def _to_play(self, now: Any) -> list[Any]:
        """The clip of now; after several events for one path, all of them."""
        return self.session.timeline.beside(now)[-8:]

    # -- ticking ---------------------------------------------------------------------------------------------

    def _tick_on(self) -> None:
        while not self._stop.is_set():
            due = self.views.next_rest() - time.monotonic()
            self._fresh.wait(TICK if due <= 0 else min(TICK, due))  # a moment that has come is shown at once
            try:
                self._tick(time.monotonic())
            except Exception:  # noqa: BLE001 - it serves everyone and must outlive what fails once
                traceback.print_exc()

    def _tick(self, now: float) -> None:
        if self._fresh.is_set():
            self._fresh.clear()
            self._show_now()
        pending = self.session.queue.pending()
        if pending or self._queue_changed.is_set():
            self._queue_changed.clear()
            share = (
                self.session.progress(pending[0], now) if pending and pending[0].phase == "running" else 0.0
            )
            self._set(self.queue_view, markup.jobs(pending, share))
        for job, owner in [pair for pair in self._asked if pair[0].ended.is_set()]:
            self._asked.remove((job, owner))
            if job.phase == "failed":
                self.tell(owner, job.error)
        if now >= self._tidy_at:
            self._tidy_at = math.inf
            give_back()
        if self.server.get_clients():
            self.views.tick(now)
            self._show_frame(now)

    def _show_frame(self, now: float) -> None:
        frame = self.player.frame(now)
        if frame is not None and frame is not self._shown:
            self._shown = frame
            self.clip.frame_changed(frame)

    @staticmethod
    def _set(handle: Any, content: str) -> None:
        if handle.content != content:
            handle.content = content
