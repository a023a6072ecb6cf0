"""Panels that change the world: walk, speak, edit."""

from typing import Any

import numpy as np

from spatia_env.actions import PRESETS
from spatia_env.errors import EditError
from spatia_env.events import vocabulary
from spatia_env.viewer import html, objects, paths
from spatia_env.viewer.files import read_cloud
from spatia_env.viewer.jobs import Requests
from spatia_env.viewer.scene_view import SceneView, rotation_of
from spatia_env.viewer.session import Session
from spatia_env.viewer.views import View, Views

QUIET, LOUD = (74, 81, 94), (255, 138, 76)
"""Colours of a button, and of the main one of its panel."""
ROWS = (
    ("turn left", "forward", "turn right"),
    ("left", "back", "right"),
    ("up", "look up", "look down", "down"),
)
KEYS = (
    "Click the view and hold W A S D, Q E or the arrows, or drag: the preview follows at once. Let go, and the "
    "clip to where you look is generated."
)
NUMBERS = "A clip is six numbers: metres right, down, forward; degrees pitch, yaw, roll."
NOTHING = "Nothing is picked."


class WalkPanel:
    """Buttons, presets and numbers; the keys are the browser's own camera."""

    def __init__(self, gui: Any, session: Session, requests: Requests, views: Views) -> None:
        self._session, self._requests, self._views = session, requests, views
        gui.add_html(html.note(KEYS))
        self._mine = gui.add_folder(None)
        for row in ROWS:
            group = gui.add_button_group("", row)
            group.on_click(lambda event, group=group: self._walk(event, group.value))
        with gui.add_folder("Named paths", expand_by_default=False):
            preset = gui.add_dropdown("path", tuple(PRESETS), initial_value="orbit_left")
            distance = gui.add_slider("distance", min=0.2, max=3.0, step=0.1, initial_value=1.0)
            go = gui.add_button("Walk it", color=QUIET)
            go.on_click(lambda event: self._walk(event, preset.value, float(distance.value)))
        with gui.add_folder("Numbers", expand_by_default=False):
            gui.add_html(html.note(NUMBERS))
            self._numbers = gui.add_text("clips", "0 0 0.4 0 10 0; 0 0 0.4 0 -10 0")
            gui.add_button("Walk them", color=QUIET).on_click(self._walk_numbers)

    def add_camera_controls(self, client: Any, view: View) -> list[Any]:
        """A client's own switch, whether its camera walks, and a button to walk there; the widgets."""
        with self._mine:
            walks = client.gui.add_checkbox("My camera walks", view.walks)
            go = client.gui.add_button("Go to this view")

        @walks.on_update
        def _(event: Any) -> None:
            view.walks, view.moved = walks.value, 0.0
            if walks.value:
                self._views.go_to_walker(view)

        go.on_click(
            lambda event: self._requests.ask(
                event.client_id, lambda owner: self._session.walk_to(view.c2w, owner)
            )
        )
        return [walks, go]

    def _walk(self, event: Any, name: str, distance: float = 1.0) -> None:
        def submit(owner: int | None) -> Any:
            path = paths.from_name(name, self._session.num_frames, distance)
            return self._session.walk(path, "", name.replace("_", " "), owner)

        self._requests.ask(event.client_id, submit)

    def _walk_numbers(self, event: Any) -> None:
        def submit(owner: int | None) -> Any:
            path = paths.from_text(self._numbers.value, self._session.num_frames)
            return self._session.walk(path, "", "numbers", owner)

        self._requests.ask(event.client_id, submit)


class SpeakPanel:
    """Events in words, one or several for the same path."""

    def __init__(self, gui: Any, session: Session, requests: Requests) -> None:
        self._session, self._requests = session, requests
        self._path = gui.add_dropdown("while I", paths.NAMES, initial_value=paths.STAND)
        words = gui.add_text("happens", "", hint="Any words, up to 256 characters.")
        gui.add_button("Say it", color=LOUD).on_click(lambda event: self._say(event, words.value))
        with gui.add_folder("Side by side"):
            gui.add_html(html.note("Several events for the same path, beside what happens without any."))
            self._several = gui.add_text("events", "a red ball rolls in; night falls", multiline=False)
            gui.add_button("Play side by side", color=QUIET).on_click(self._side_by_side)
        self._collect = gui.add_checkbox("Examples go into the list", False)
        for title, kind in (("Things", "mover"), ("Light and air", "condition"), ("And back", "ending")):
            examples = [event.canonical for event in vocabulary.EVENTS if event.kind == kind]
            with gui.add_folder(title, expand_by_default=kind != "ending"):
                for pair in (examples[i : i + 2] for i in range(0, len(examples), 2)):
                    group = gui.add_button_group("", tuple(pair))
                    group.on_click(lambda event, group=group: self._example(event, group.value))

    def _listed(self) -> list[str]:
        return [part.strip() for part in self._several.value.split(";") if part.strip()]

    def _example(self, event: Any, words: str) -> None:
        if self._collect.value:
            self._several.value = "; ".join([*self._listed(), words])
        else:
            self._say(event, words)

    def _say(self, event: Any, words: str) -> None:
        name = self._path.value

        def submit(owner: int | None) -> Any:
            path = paths.from_name(name, self._session.num_frames)
            return self._session.walk(path, words, name.replace("_", " "), owner)

        self._requests.ask(event.client_id, submit)

    def _side_by_side(self, event: Any) -> None:
        name = self._path.value

        def submit(owner: int | None) -> Any:
            path = paths.from_name(name, self._session.num_frames)
            return self._session.variants(path, ["", *self._listed()], name.replace("_", " "), owner)

        self._requests.ask(event.client_id, submit)


class EditPanel:
    """Pick an object and change it; put objects in; take changes back.

    Attributes:
        picked: What edits apply to.
        listening: Whether a click in the view picks.
    """

    def __init__(self, server: Any, session: Session, requests: Requests, scene: SceneView) -> None:
        self._clicks, self._scene = server.scene, scene
        self._session, self._requests = session, requests
        self.picked: objects.Picked | None = None
        self.listening = False
        self._gizmo: Any = None
        gui = server.gui
        self._picks = gui.add_checkbox("A click picks a thing", False)
        self.tolerance = gui.add_slider(
            "colour step", min=0.02, max=0.3, step=0.01, initial_value=0.08, hint="Larger picks more."
        )
        self._says = gui.add_html(html.note(NOTHING))
        gui.add_button("Remove", color=QUIET).on_click(self._remove)
        gui.add_button("Move to the gizmo", color=QUIET).on_click(self._move)
        self._turn = gui.add_slider("turn", min=-180, max=180, step=5, initial_value=90)
        gui.add_button("Turn", color=QUIET).on_click(self._rotate)
        self._rgb = gui.add_rgb("colour", (60, 130, 220))
        gui.add_button("Recolour", color=QUIET).on_click(self._recolour)
        with gui.add_folder("Put in"):
            self._shape = gui.add_dropdown("shape", objects.SHAPES)
            self._size = gui.add_slider("metres", min=0.1, max=1.5, step=0.05, initial_value=0.35)
            gui.add_button("Put it where I clicked", color=QUIET).on_click(self._insert)
            upload = gui.add_upload_button("Upload a PLY or OBJ", mime_type=".ply,.obj")
            upload.on_upload(lambda event: self._insert_file(event, upload.value))
        history = gui.add_button_group("", ("undo", "redo"))
        history.on_click(lambda event: self._undo_or_redo(event, history.value))
        self._picks.on_update(self._switch)

    def forget(self) -> None:
        """The world has changed: what was picked may be elsewhere."""
        self.picked, self._gizmo = None, self._scene.draw_picked(None)
        html.put(self._says, html.note(NOTHING))

    def _switch(self, event: Any) -> None:
        del event
        if self._picks.value and not self.listening:
            self._clicks.on_click()(self._pick)
        elif not self._picks.value and self.listening:
            self._clicks.remove_click_callback(self._pick)
            self.forget()
        self.listening = bool(self._picks.value)

    def _pick(self, event: Any) -> None:
        memory, tolerance = self._session.now.state.memory, float(self.tolerance.value)
        picked = self._requests.attempt(
            event.client_id,
            lambda: objects.pick(memory, event.ray_origin, event.ray_direction, tolerance),
        )
        if picked is None:
            return
        self.picked, self._gizmo = picked, self._scene.draw_picked(picked)
        (x, y, z), count = picked.size, len(picked.position)
        words = f"{count} point{'s' * (count != 1)}, {x:.2f} x {y:.2f} x {z:.2f} m"
        html.put(self._says, html.note(words, html.TEXT))

    def _change(self, event: Any, words: str, edit: Any) -> None:
        """Ask for an edit of what is picked; `edit` is called with `world.edit` and the object."""

        def submit(owner: int | None) -> Any:
            picked = self.picked
            if picked is None:
                raise EditError("pick a thing first: switch on `A click picks a thing` and click one.")
            return self._session.change(words, lambda world: edit(world, picked), owner)

        self._requests.ask(event.client_id, submit)

    def _remove(self, event: Any) -> None:
        self._change(event, "remove a thing", lambda world, picked: world.remove(picked.region))

    def _move(self, event: Any) -> None:
        gizmo, matrix = self._gizmo, np.eye(4)
        if gizmo is not None:  # else nothing is picked either, which is said
            matrix[:3, :3], matrix[:3, 3] = rotation_of(gizmo.wxyz), gizmo.position

        def edit(world: Any, picked: objects.Picked) -> None:
            world.move(picked.region, matrix @ _standing_at(-picked.centre))

        self._change(event, "move a thing", edit)

    def _rotate(self, event: Any) -> None:
        degrees = float(self._turn.value)
        turn = [0, 0, np.radians(degrees)]
        words = f"turn a thing by {degrees:.0f} degrees"
        self._change(event, words, lambda world, picked: world.rotate(picked.region, turn))

    def _recolour(self, event: Any) -> None:
        rgb = self._colour()
        self._change(event, "recolour a thing", lambda world, picked: world.recolor(picked.region, rgb))

    def _colour(self) -> tuple[int, int, int]:
        red, green, blue = (int(value) for value in self._rgb.value)
        return red, green, blue

    def _insert(self, event: Any) -> None:
        name, size, rgb = self._shape.value, float(self._size.value), self._colour()

        def edit(world: Any, picked: objects.Picked) -> None:
            world.insert(objects.shape(name, size, rgb), _standing_at(picked.hit))

        self._change(event, f"put in a {name}", edit)

    def _insert_file(self, event: Any, upload: Any) -> None:
        size = float(self._size.value)
        cloud = self._requests.attempt(
            event.client_id, lambda: read_cloud(upload.name, upload.content).centred()
        )
        if cloud is not None:
            scale = size / max(float(np.ptp(cloud.position, axis=0).max()), 1e-6)
            self._change(
                event,
                "put in what was uploaded",
                lambda world, picked: world.insert(cloud, _standing_at(picked.hit), scale),
            )

    def _undo_or_redo(self, event: Any, which: str) -> None:
        self._requests.ask(
            event.client_id,
            lambda owner: self._session.change(which, lambda world: getattr(world, which)(), owner),
        )


def _standing_at(point: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = point
    return matrix
