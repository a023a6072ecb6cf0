"""Panels to look at: the clip, colourings and numbers, the timeline, and worlds in files."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from spatia_env.errors import ViewerError
from spatia_env.viewer import html as markup
from spatia_env.viewer.clouds import COLOURINGS
from spatia_env.viewer.control_panels import QUIET
from spatia_env.viewer.pictures import LAYERS, WIDTH, Reel
from spatia_env.viewer.views import View

if TYPE_CHECKING:
    from spatia_env.viewer.app import Playground

QUALITY = 85


class ClipPanel:
    """The player, and each client's preview beneath it."""

    def __init__(self, app: "Playground") -> None:
        self._app = app
        gui = app.server.gui
        self.container = gui.add_folder(None)
        with self.container:
            blank = Reel([app.session.now], "clip")[0]
            self._picture = gui.add_image(blank, format="jpeg", jpeg_quality=QUALITY)
            self._scrub = gui.add_slider(
                "frame", min=0, max=app.session.num_frames - 1, step=1, initial_value=0
            )
            self._playing = gui.add_button_group("", ("play", "pause", "loop", "once"))
            self._layer = gui.add_dropdown("show", LAYERS, initial_value="clip")
        self._mine = gui.add_folder("Memory's preview of my view")
        with gui.add_folder(None):
            self._numbers = gui.add_html("")
        self._scrub.on_update(self._scrubbed)
        self._playing.on_click(lambda event: self._play(self._playing.value))
        self._layer.on_update(lambda event: self._relayer())

    def add_preview(self, client: Any) -> Any:
        """A client's own picture; the widget."""
        height, width = self._app.session.now.state.size
        blank = np.full((round(WIDTH * height / width), WIDTH, 3), 40, np.uint8)
        with self._mine:
            return client.gui.add_image(blank, format="jpeg", jpeg_quality=QUALITY)

    def frame_changed(self, frame: np.ndarray) -> None:
        """Show a frame; the slider follows."""
        self._picture.image = frame
        at, count = self._app.player.position
        if self._app.player.playing and count and self._scrub.value != min(at, int(self._scrub.max)):
            self._scrub.value = min(at, int(self._scrub.max))

    def moments_changed(self) -> None:
        """Other moments are played: the numbers are theirs."""
        rows = []
        shown = self._app.player.moments
        for key, name, form in FIGURES:
            values = [form.format(moment.numbers[key]) for moment in shown if key in moment.numbers]
            if values and (key != "points" or len(shown) == 1):
                rows.append((" | ".join(values), name))
        now = self._app.session.now
        rows.append((str(now.state.step), "steps"))
        rows.append((f"{len(now.state.keyframes)}", "keyframes"))
        self._app._set(self._numbers, markup.numbers(rows))

    def _scrubbed(self, event: Any) -> None:
        if event.client_id is not None:
            self._app.player.seek(int(self._scrub.value))

    def _play(self, what: str) -> None:
        player = self._app.player
        if what in ("loop", "once"):
            player.looping = what == "loop"
        player.play(what != "pause")

    def _relayer(self) -> None:
        self._app.player.show(self._app.player.moments, self._layer.value)


FIGURES = (
    ("points", "points", "{:,.0f}"),
    ("added", "new points", "{:,.0f}"),
    ("seconds", "s a step", "{:.2f}"),
    ("known", "known", "{:.0%}"),
    ("revisit_psnr", "dB, seen again", "{:.1f}"),
)
"""Key of a moment's numbers, its name, and how it is written."""


class SeePanel:
    """Colourings of the cloud and what else is drawn."""

    def __init__(self, app: "Playground") -> None:
        self._app = app
        gui = app.server.gui
        self._mine = gui.add_folder(None)
        self._colouring = gui.add_dropdown("cloud by", COLOURINGS, initial_value="colour")
        self._key = gui.add_html(markup.note(KEYS["colour"]))
        self._boxes: dict[str, Any] = {}
        for what in ("keyframes", "path", "events"):
            # Keyframes stand in the way of someone who walks among them.
            box = self._boxes[what] = gui.add_checkbox(what, what != "keyframes")
            box.on_update(lambda event, box=box, what=what: app.stage.set_visible(what, box.value))
        app.stage.set_visible("keyframes", False)
        self._says = gui.add_html(markup.note(""))
        self._colouring.on_update(lambda event: self._colour())

    def add_camera_buttons(self, client: Any, view: View) -> Any:
        """A client's own buttons: look from the walker's eyes, or from above; the widget."""
        with self._mine:
            eyes = client.gui.add_button_group("", ("from the walker's eyes", "from above"))
        eyes.on_click(lambda event: self._look(view, eyes.value == "from above"))
        return eyes

    def _look(self, view: View, above: bool) -> None:
        self._boxes["keyframes"].value = above
        views = self._app.views
        (views.go_above if above else views.go_to_walker)(view)

    def changed(self) -> None:
        """Another moment: how much of the map is on the screen."""
        memory = self._app.session.now.state.memory
        words = (
            f"{memory.num_points:,} points in {len(memory.blocks)} blocks, {memory.num_bytes / 1e6:.1f} MB"
        )
        self._app._set(self._says, markup.note(words))

    def _colour(self) -> None:
        self._app.stage.colour(self._colouring.value)
        self._app._set(self._key, markup.note(KEYS[self._colouring.value]))


KEYS = {
    "colour": "As it was seen.",
    "age": "Violet was seen first, yellow is new.",
    "confidence": "Violet was seen once or from afar, yellow often and sharply.",
    "static / dynamic": "Blue is remembered, violet was edited; orange moved in the clip and is not remembered.",
}


class TimelinePanel:
    """The tree of moments: jump, compare, and whatever is done next is a branch."""

    def __init__(self, app: "Playground") -> None:
        self._app = app
        gui = app.server.gui
        self._drawing = gui.add_html(markup.tree(app.session.timeline))
        options = self._options()
        self._moment = gui.add_dropdown("moment", options, initial_value=options[-1])
        self._followed = options[-1]
        self._other = gui.add_dropdown("with", options, initial_value=options[0])
        buttons = ("jump here", "play", "compare") if not app.session.read_only else ("play", "compare")
        row = gui.add_button_group("", buttons)
        row.on_click(lambda event: self._act(event, row.value))

    def changed(self) -> None:
        """The tree has grown, or now is elsewhere: what is chosen follows, unless it is another moment by choice."""
        options = self._options()
        timeline = self._app.session.timeline
        chosen, other = self._moment.value, self._other.value
        for box in (self._moment, self._other):
            if tuple(box.options) != options:
                box.options = options
        if chosen == self._followed or chosen not in options:
            chosen = options[timeline.now_id]
        self._followed = options[timeline.now_id]
        self._moment.value = chosen
        self._other.value = other if other in options else options[0]
        self._app._set(self._drawing, markup.tree(timeline))

    def _options(self) -> tuple[str, ...]:
        return tuple(moment.title[:70] for moment in self._app.session.timeline)

    def _act(self, event: Any, what: str) -> None:
        app = self._app
        chosen = moment_id(self._moment.value)
        if what == "jump here":
            app.request(event, lambda owner: app.session.jump(chosen, owner))
            return
        ids = [chosen] if what == "play" else [moment_id(self._other.value), chosen]
        moments = app.guarded(event, lambda: [app.session.timeline[i] for i in dict.fromkeys(ids)])
        if moments:
            app.show(moments)


def moment_id(title: str) -> int:
    """The number that a moment's title begins with; -1 when there is none."""
    head = str(title).split(" ", 1)[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 6 else -1


class WorldPanel:
    """Worlds in files, films and clouds; clients name ids and send bytes, never paths."""

    def __init__(self, app: "Playground") -> None:
        self._app = app
        gui = app.server.gui
        with gui.add_folder("Keep"):
            self._name = gui.add_text("name", "my-world")
            gui.add_button("Save", color=QUIET).on_click(self._save)
            names = self._names()
            self._saved = gui.add_dropdown("saved", names, initial_value=names[0])
            gui.add_button("Open", color=QUIET).on_click(self._open)
        with gui.add_folder("Take away"):
            row = gui.add_button_group("", ("film (mp4)", "cloud (PLY)", "page (HTML)"))
            row.on_click(lambda event: self._download(event, row.value))
        with gui.add_folder("Begin anew"):
            self._scene = gui.add_number("scene", 10_038, min=0, max=20_199, step=1)
            gui.add_button("Open the scene", color=QUIET).on_click(self._begin)
            self._prompt = gui.add_text("prompt", "")
            self._upload = gui.add_upload_button(
                "Open a photograph", mime_type="image/png,image/jpeg,image/webp"
            )
            self._upload.on_upload(self._photograph)

    def changed(self) -> None:
        """Perhaps another world was saved."""
        names = self._names()
        if tuple(self._saved.options) != names:
            self._saved.options = names

    def _names(self) -> tuple[str, ...]:
        return tuple(self._app.session.library.names()) or ("(none yet)",)

    def _save(self, event: Any) -> None:
        self._app.request(event, lambda owner: self._app.session.save(self._name.value, owner))

    def _open(self, event: Any) -> None:
        self._app.request(event, lambda owner: self._app.session.load(self._saved.value, owner))

    def _begin(self, event: Any) -> None:
        seed = int(self._scene.value)
        self._app.request(
            event, lambda owner: self._app.session.begin({"scene": seed}, f"scene {seed}", owner)
        )

    def _photograph(self, event: Any) -> None:
        content, prompt = self._upload.value.content, self._prompt.value

        def ask(owner: int | None) -> Any:
            options: dict[str, Any] = {"image": read_picture(content)}
            if prompt:
                options["prompt"] = prompt
            return self._app.session.begin(options, "photograph", owner)

        self._app.request(event, ask)

    def _download(self, event: Any, what: str) -> None:
        session = self._app.session
        if what.startswith("film"):
            name, content = "walk.mp4", session.film_bytes()
        elif what.startswith("cloud"):
            name, content = "world.ply", session.cloud_bytes()
        else:
            from spatia_env.viewer.export_html import page_of_session

            name, content = "walk.html", page_of_session(session).encode()
        event.client.send_file_download(name, content, save_immediately=True)


def read_picture(content: bytes) -> np.ndarray:
    """The picture u8 [H, W, 3] in an upload.

    Raises:
        ImageError: If it is none that is read.
    """
    import tempfile
    from pathlib import Path

    from spatia_env.io.images import read_image

    if not content:
        raise ViewerError("the upload is empty.")
    with tempfile.TemporaryDirectory(prefix="spatia-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(io.BytesIO(content).getvalue())
        return read_image(path)
