"""Panels that change the world: walk, speak, edit."""

from typing import TYPE_CHECKING, Any

import numpy as np

from spatia_env.actions import PRESETS
from spatia_env.errors import EditError
from spatia_env.events import vocabulary
from spatia_env.viewer import html as markup
from spatia_env.viewer import objects as things
from spatia_env.viewer import paths
from spatia_env.viewer.scene_view import rotation_of

if TYPE_CHECKING:
    from spatia_env.viewer.app import Playground

STAND = "stand still"
QUIET = (74, 81, 94)
"""Colour of the buttons that are not the main one of their panel."""
ROWS = (
    ("turn left", "forward", "turn right"),
    ("left", "back", "right"),
    ("up", "look up", "look down", "down"),
)
KEYS = (
    "Click the view and hold W A S D, Q E or the arrows, or drag: the preview follows at once. Let go, and the "
    "clip to where you look is generated."
)


class WalkPanel:
    """Buttons, presets and numbers; the keys are the browser's own camera."""

    def __init__(self, app: "Playground") -> None:
        self._app = app
        gui = app.server.gui
        gui.add_html(markup.note(KEYS))
        self._mine = gui.add_folder(None)
        for row in ROWS:
            group = gui.add_button_group("", row)
            group.on_click(lambda event, group=group: self._move(event, group.value))
        with gui.add_folder("Named paths", expand_by_default=False):
            names = tuple(PRESETS)
            self._preset = gui.add_dropdown("path", names, initial_value="orbit_left")
            self._distance = gui.add_slider("distance", min=0.2, max=3.0, step=0.1, initial_value=1.0)
            gui.add_button("Walk it", color=QUIET).on_click(self._walk_preset)
        with gui.add_folder("Numbers", expand_by_default=False):
            gui.add_html(
                markup.note("A clip is six numbers: metres right, down, forward; degrees pitch, yaw, roll.")
            )
            self._numbers = gui.add_text("clips", "0 0 0.4 0 10 0; 0 0 0.4 0 -10 0")
            gui.add_button("Walk them", color=QUIET).on_click(self._walk_numbers)

    def add_camera_controls(self, client: Any, view: Any) -> list[Any]:
        """A client's own switch, whether its camera walks, and a button to walk there; the widgets."""
        with self._mine:
            walks = client.gui.add_checkbox("My camera walks", view.walks)
            go = client.gui.add_button("Go to this view")

        @walks.on_update
        def _(event: Any) -> None:
            view.walks, view.moved = walks.value, 0.0
            if walks.value:
                self._app.views.go_to_walker(view)

        go.on_click(lambda event: self._go(event, view))
        return [walks, go]

    def _move(self, event: Any, name: str) -> None:
        path = paths.from_move(name, self._app.session.num_frames)
        self._app.request(event, lambda owner: self._app.session.walk(path, "", name, owner))

    def _go(self, event: Any, view: Any) -> None:
        session = self._app.session

        def ask(owner: int | None) -> Any:
            path = paths.to_view(session.now.state.c2w, view.c2w, session.num_frames)
            return session.walk(path, "", "to my view", owner)

        self._app.request(event, ask)

    def _walk_preset(self, event: Any) -> None:
        session, name = self._app.session, self._preset.value

        def ask(owner: int | None) -> Any:
            path = paths.from_preset(name, session.num_frames, float(self._distance.value))
            return session.walk(path, "", name.replace("_", " "), owner)

        self._app.request(event, ask)

    def _walk_numbers(self, event: Any) -> None:
        session = self._app.session
        self._app.request(
            event,
            lambda owner: session.walk(
                paths.from_text(self._numbers.value, session.num_frames), "", "numbers", owner
            ),
        )


class SpeakPanel:
    """Events in words, one or several for the same path."""

    def __init__(self, app: "Playground") -> None:
        self._app = app
        gui = app.server.gui
        names = (STAND, *(name for name, _ in paths.BUTTONS), *PRESETS)
        self._path = gui.add_dropdown("while I", names, initial_value=STAND)
        self._text = gui.add_text("happens", "", hint="Any words, up to 256 characters.")
        gui.add_button("Say it", color=(255, 138, 76)).on_click(
            lambda event: self._say(event, self._text.value)
        )
        with gui.add_folder("Side by side"):
            gui.add_html(markup.note("Several events for the same path, beside what happens without any."))
            self._several = gui.add_text("events", "a red ball rolls in; night falls", multiline=False)
            gui.add_button("Play side by side", color=QUIET).on_click(self._side_by_side)
        self._collect = gui.add_checkbox("Capsules go into the list", False)
        for title, kind in (("Things", "mover"), ("Light and air", "condition"), ("And back", "ending")):
            words = [event.canonical for event in vocabulary.EVENTS if event.kind == kind]
            with gui.add_folder(title, expand_by_default=kind != "ending"):
                for pair in (words[i : i + 2] for i in range(0, len(words), 2)):
                    group = gui.add_button_group("", tuple(pair))
                    group.on_click(lambda event, group=group: self._capsule(event, group.value))

    def _capsule(self, event: Any, words: str) -> None:
        if self._collect.value:
            listed = [part.strip() for part in self._several.value.split(";") if part.strip()]
            self._several.value = "; ".join([*listed, words])
        else:
            self._say(event, words)

    def _say(self, event: Any, words: str) -> None:
        app = self._app
        name = self._path.value
        app.request(
            event,
            lambda owner: app.session.walk(
                named_path(name, app.session.num_frames), words, name.replace("_", " "), owner
            ),
        )

    def _side_by_side(self, event: Any) -> None:
        app, name = self._app, self._path.value
        words = [part.strip() for part in self._several.value.split(";") if part.strip()]
        app.request(
            event,
            lambda owner: app.session.variants(
                named_path(name, app.session.num_frames), ["", *words], name.replace("_", " "), owner
            ),
        )


class EditPanel:
    """Pick a thing and change it; put things in; take changes back."""

    def __init__(self, app: "Playground") -> None:
        self._app = app
        self._picked: things.Picked | None = None
        self._gizmo: Any = None
        gui = app.server.gui
        self._picks = gui.add_checkbox("A click picks a thing", False)
        self._tolerance = gui.add_slider(
            "colour step", min=0.02, max=0.3, step=0.01, initial_value=0.08, hint="Larger picks more."
        )
        self._says = gui.add_html(markup.note("Nothing is picked."))
        gui.add_button("Remove", color=QUIET).on_click(self._remove)
        gui.add_button("Move to the gizmo", color=QUIET).on_click(self._move)
        self._turn = gui.add_slider("turn", min=-180, max=180, step=5, initial_value=90)
        gui.add_button("Turn", color=QUIET).on_click(self._rotate)
        self._rgb = gui.add_rgb("colour", (60, 130, 220))
        gui.add_button("Recolour", color=QUIET).on_click(self._recolour)
        with gui.add_folder("Put in"):
            self._shape = gui.add_dropdown("shape", things.SHAPES)
            self._size = gui.add_slider("metres", min=0.1, max=1.5, step=0.05, initial_value=0.35)
            gui.add_button("Put it where I clicked", color=QUIET).on_click(self._insert)
            self._upload = gui.add_upload_button("Upload a PLY or OBJ", mime_type=".ply,.obj")
            self._upload.on_upload(self._uploaded)
        history = gui.add_button_group("", ("undo", "redo"))
        history.on_click(lambda event: self._history(event, history.value))
        self._picks.on_update(self._switch)
        self._listening = False

    def forget(self) -> None:
        """The world has changed: what was picked may be elsewhere."""
        self._picked, self._gizmo = None, self._app.stage.draw_picked(None)
        self._app._set(self._says, markup.note("Nothing is picked."))

    def pick(self, event: Any, origin: Any, direction: Any) -> None:
        """Pick what a ray meets."""
        memory = self._app.session.now.state.memory
        picked = self._app.guarded(
            event, lambda: things.pick(memory, origin, direction, float(self._tolerance.value))
        )
        if picked is None:
            return
        self._picked, self._gizmo = picked, self._app.stage.draw_picked(picked)
        x, y, z = picked.size
        count = len(picked.position)
        words = f"{count} point{'s' * (count != 1)}, {x:.2f} x {y:.2f} x {z:.2f} m"
        self._app._set(self._says, markup.note(words, markup.TEXT))

    def _switch(self, event: Any) -> None:
        del event
        scene = self._app.server.scene
        if self._picks.value and not self._listening:
            scene.on_click()(self._clicked)
            self._listening = True
        elif not self._picks.value and self._listening:
            scene.remove_click_callback(self._clicked)
            self._listening = False
            self.forget()

    def _clicked(self, event: Any) -> None:
        self.pick(event, event.ray_origin, event.ray_direction)

    def _region(self) -> things.Picked:
        if self._picked is None:
            raise EditError("pick a thing first: switch on `A click picks a thing` and click one.")
        return self._picked

    def _change(self, event: Any, words: str, edit: Any) -> None:
        """Ask for an edit of what is picked; `edit` is called with `world.edit` and the thing."""

        def ask(owner: int | None) -> Any:
            picked = self._region()
            return self._app.session.change(words, lambda world: edit(world, picked), owner)

        self._app.request(event, ask)

    def _remove(self, event: Any) -> None:
        self._change(event, "remove a thing", lambda world, picked: world.remove(picked.region))

    def _move(self, event: Any) -> None:
        gizmo = self._gizmo
        pose = None if gizmo is None else (np.array(gizmo.position), rotation_of(gizmo.wxyz))

        def edit(world: Any, picked: things.Picked) -> None:
            assert pose is not None  # something is picked, so there is a gizmo
            matrix = np.eye(4)
            matrix[:3, :3] = pose[1]
            matrix[:3, 3] = pose[0] - pose[1] @ picked.centre
            world.move(picked.region, matrix)

        self._change(event, "move a thing", edit)

    def _rotate(self, event: Any) -> None:
        degrees = float(self._turn.value)
        self._change(
            event,
            f"turn a thing by {degrees:.0f} degrees",
            lambda world, picked: world.rotate(picked.region, [0, 0, np.radians(degrees)]),
        )

    def _recolour(self, event: Any) -> None:
        rgb = self._colour()
        self._change(event, "recolour a thing", lambda world, picked: world.recolor(picked.region, rgb))

    def _colour(self) -> tuple[int, int, int]:
        red, green, blue = (int(value) for value in self._rgb.value)
        return red, green, blue

    def _insert(self, event: Any) -> None:
        name, size, rgb = self._shape.value, float(self._size.value), self._colour()

        def edit(world: Any, picked: things.Picked) -> None:
            world.insert(things.shape(name, size, rgb), _standing_at(picked.hit))

        self._change(event, f"put in a {name}", edit)

    def _uploaded(self, event: Any) -> None:
        content, name = self._upload.value.content, self._upload.value.name
        size = float(self._size.value)

        def ask(owner: int | None) -> Any:
            picked = self._region()
            cloud = read_thing(name, content).centred()
            scale = size / max(float(np.ptp(cloud.position, axis=0).max()), 1e-6)
            return self._app.session.change(
                "put in what was uploaded",
                lambda world: world.insert(cloud, _standing_at(picked.hit), scale),
                owner,
            )

        self._app.request(event, ask)

    def _history(self, event: Any, which: str) -> None:
        session = self._app.session
        self._app.request(
            event, lambda owner: session.change(which, lambda world: getattr(world, which)(), owner)
        )


def named_path(name: str, num_frames: int) -> paths.Path:
    """The clips of a preset, a move, or of standing still.

    Raises:
        ActionError: If there is no such path.
    """
    if name in PRESETS:
        return paths.from_preset(name, num_frames)
    return paths.from_move("none" if name == STAND else name, num_frames)


def read_thing(name: str, content: bytes) -> Any:
    """The cloud in an uploaded file: OBJ by its ending, else PLY. The name is looked at, never used as one.

    Raises:
        SpatiaError: If it cannot be read.
    """
    if name.lower().endswith(".obj"):
        return things.read_obj(content)
    import tempfile
    from pathlib import Path

    from spatia_env.io.ply import read_ply

    with tempfile.TemporaryDirectory(prefix="spatia-") as folder:
        path = Path(folder) / "upload.ply"
        path.write_bytes(content)
        return read_ply(path)


def _standing_at(point: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = point
    return matrix
