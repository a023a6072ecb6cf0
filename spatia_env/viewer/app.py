"""The playground in the browser: a session, the scene, a player, the clients' views and panels, tied together.

Widgets belong to the server, so all clients see the same world and a page that is loaded again finds it as it
was; each client has its own camera and its own preview. One thread ticks: it shows the frame that is due, moves
progress bars and notices views that rest.
"""

import contextlib
import ctypes
import gc
import math
import threading
import time
import traceback
from typing import Any

import numpy as np

from spatia_env.viewer import html
from spatia_env.viewer.control_panels import QUIET, EditPanel, SpeakPanel, WalkPanel
from spatia_env.viewer.display_panels import ClipPanel, SeePanel, TimelinePanel, WorldPanel
from spatia_env.viewer.jobs import Requests
from spatia_env.viewer.player import WIDTH, Player
from spatia_env.viewer.scene_view import SceneView
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
        self.scene = SceneView(server, budget)
        self.views = Views(session, WIDTH, self._walk_to)
        self.requests = Requests(server)
        self._world_changed = threading.Event()
        self._queue_changed = threading.Event()
        self._stop = threading.Event()
        self._arriving = threading.Lock()
        self._shown: np.ndarray | None = None
        self._tidy_at = math.inf
        self._build()
        session.subscribe(self._on_change)
        self._show_now()
        server.on_client_connect(self._arrived)
        server.on_client_disconnect(self._left)
        self._ticker = threading.Thread(target=self._tick_on, name="ticker", daemon=True)
        self._ticker.start()

    def close(self) -> None:
        """Stop every thread, the server and the session."""
        self._stop.set()
        self._ticker.join(30)
        self.views.close()
        self.scene.close()
        self.session.close()
        self.server.stop()

    # -- building --------------------------------------------------------------------------------------------

    def _build(self) -> None:
        gui, session, requests = self.server.gui, self.session, self.requests
        gui.configure_theme(
            dark_mode=True, show_logo=False, show_share_button=False, control_width="large", brand_color=BRAND
        )
        gui.set_panel_label("spatia")
        left = gui.add_panel()
        with left.add_tab("Clip"):
            self.clip = ClipPanel(gui, session, self.player)
        left.dock_left()
        left.set_width(PANEL_WIDTH)
        tabs, writable = gui.add_tab_group(), not session.read_only
        self.walk = self.edit = self.world = None
        if writable:
            with tabs.add_tab("Walk"):
                self.walk = WalkPanel(gui, session, requests, self.views)
            with tabs.add_tab("Speak"):
                SpeakPanel(gui, session, requests)
        with tabs.add_tab("See"):
            self.see = SeePanel(gui, session, self.scene, self.views)
        if writable:
            with tabs.add_tab("Edit"):
                self.edit = EditPanel(self.server, session, requests, self.scene)
            with tabs.add_tab("World"):
                self.world = WorldPanel(gui, session, requests)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(PANEL_WIDTH)
        below = gui.add_panel()
        with below.add_tab("Timeline"):
            self.timeline = TimelinePanel(gui, session, requests, self._play)
            gui.add_divider()
            self._jobs = gui.add_html(html.jobs([], 0.0))
            self._cancel = gui.add_button("Stop", color=QUIET, visible=False)
            self._cancel.on_click(lambda event: session.queue.stop())
        below.dock_below(gui.main_panel)

    # -- what happens ----------------------------------------------------------------------------------------

    def _on_change(self, what: str) -> None:
        """From any thread: only noted, the ticker acts."""
        self._queue_changed.set()
        if what != "queue":
            self._world_changed.set()

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
        return widgets + (self.walk.add_camera_controls(client, view) if self.walk is not None else [])

    def _left(self, client: Any) -> None:
        self.views.remove(client.client_id)
        self.session.queue.stop(client.client_id)
        self._tidy_at = min(self._tidy_at, time.monotonic() + TIDY_SECONDS)

    def _walk_to(self, view: View) -> None:
        self.requests.ask(view.client.client_id, lambda owner: self.session.walk_to(view.c2w, owner))

    def _play(self, moments: list[Any]) -> None:
        """Play these moments side by side."""
        self.player.show(moments)
        self.clip.moments_changed()

    def _show_now(self) -> None:
        now = self.session.now
        # The clip first, it is what was waited for; after several events for one path, all of them.
        self._play(self.session.timeline.beside(now)[-8:])
        self._show_frame(time.monotonic())
        if self.server.get_clients():
            # A browser draws all that has come together, so the picture would wait for what is heavy.
            time.sleep(HEAD_START)
        self.scene.show(self.session.timeline)
        self.timeline.changed()
        self.see.changed()
        if self.edit is not None and self.world is not None:
            self.edit.forget()
            self.world.changed()
        eye, ahead = (now.state.c2w[:3, column].double().numpy() for column in (3, 2))
        self.server.initial_camera.position = tuple(eye.tolist())
        self.server.initial_camera.look_at = tuple((eye + 0.05 * ahead).tolist())
        self.views.refresh()

    # -- ticking ---------------------------------------------------------------------------------------------

    def _tick_on(self) -> None:
        while not self._stop.is_set():
            due = self.views.next_rest() - time.monotonic()
            # A moment that has come is shown at once.
            self._world_changed.wait(TICK if due <= 0 else min(TICK, due))
            try:
                self._tick(time.monotonic())
            except Exception:  # noqa: BLE001 - it serves everyone and must outlive what fails once
                traceback.print_exc()

    def _tick(self, now: float) -> None:
        if self._world_changed.is_set():
            self._world_changed.clear()
            self._show_now()
        pending = self.session.queue.pending()
        if pending or self._queue_changed.is_set():
            self._queue_changed.clear()
            running = bool(pending) and pending[0].phase == "running"
            share = self.session.progress(pending[0], now) if running else 0.0
            html.put(self._jobs, html.jobs(pending, share))
            if self._cancel.visible != bool(pending):
                self._cancel.visible = bool(pending)
        self.requests.tell_failures()
        if now >= self._tidy_at:
            self._tidy_at = math.inf
            release_memory()
        if self.server.get_clients():
            self.views.tick(now)
            self._show_frame(now)

    def _show_frame(self, now: float) -> None:
        frame = self.player.frame(now)
        if frame is not None and frame is not self._shown:
            self._shown = frame
            self.clip.frame_changed(frame)


def release_memory() -> None:
    """Hand what clients left behind back to the system.

    What a connection leaves holds itself in circles, 0.2 MB each, that Python does not look for soon; and glibc keeps
    what threads freed in pools of their own. With other C libraries only the first part happens.
    """
    if gc.get_freeze_count():  # else it would go through all that was imported, for half a second
        gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
