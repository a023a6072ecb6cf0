"""Panels to look at: the clip, colourings and numbers, the timeline, and worlds in files."""

from collections.abc import Callable
from typing import Any

import numpy as np

from spatia_env.viewer import html
from spatia_env.viewer.clouds import COLOURINGS
from spatia_env.viewer.control_panels import QUIET
from spatia_env.viewer.files import read_picture
from spatia_env.viewer.jobs import Requests
from spatia_env.viewer.player import LAYERS, WIDTH, Player, Reel
from spatia_env.viewer.scene_view import SceneView
from spatia_env.viewer.session import Session
from spatia_env.viewer.views import View, Views

QUALITY = 85
FIGURES = (
    ("points", "points", "{:,.0f}"),
    ("added", "new points", "{:,.0f}"),
    ("seconds", "s a step", "{:.2f}"),
    ("known", "known", "{:.0%}"),
    ("revisit_psnr", "dB, seen again", "{:.1f}"),
)
"""Key of a moment's numbers, its name, and how it is written."""
LEGENDS = {
    "colour": "As it was seen.",
    "age": "Violet was seen first, yellow is new.",
    "confidence": "Violet was seen once or from afar, yellow often and sharply.",
    "static / dynamic": "Blue is remembered, violet was edited; orange moved in the clip and is not remembered.",
}


class ClipPanel:
    """The player, and each client's preview beneath it."""

    def __init__(self, gui: Any, session: Session, player: Player) -> None:
        self._session, self._player = session, player
        with gui.add_folder(None):
            blank = Reel([session.now], "clip")[0]
            self._picture = gui.add_image(blank, format="jpeg", jpeg_quality=QUALITY)
            self._scrub = gui.add_slider("frame", min=0, max=session.num_frames - 1, step=1, initial_value=0)
            buttons = gui.add_button_group("", ("play", "pause", "loop", "once"))
            layer = gui.add_dropdown("show", LAYERS, initial_value="clip")
        self._mine = gui.add_folder("Memory's preview of my view")
        with gui.add_folder(None):
            self._numbers = gui.add_html("")
        self._scrub.on_update(self._scrubbed)
        buttons.on_click(lambda event: self._press(buttons.value))
        layer.on_update(lambda event: player.show(player.moments, layer.value))

    def add_preview(self, client: Any) -> Any:
        """A client's own picture; the widget."""
        height, width = self._session.now.state.size
        blank = np.full((round(WIDTH * height / width), WIDTH, 3), 40, np.uint8)
        with self._mine:
            return client.gui.add_image(blank, format="jpeg", jpeg_quality=QUALITY)

    def frame_changed(self, frame: np.ndarray) -> None:
        """Show a frame; the slider follows."""
        self._picture.image = frame
        at, count = self._player.position
        if self._player.playing and count and self._scrub.value != min(at, int(self._scrub.max)):
            self._scrub.value = min(at, int(self._scrub.max))

    def moments_changed(self) -> None:
        """Other moments are played: the numbers are theirs."""
        rows, shown, now = [], self._player.moments, self._session.now
        for key, name, form in FIGURES:
            values = [form.format(moment.numbers[key]) for moment in shown if key in moment.numbers]
            if values and (key != "points" or len(shown) == 1):
                rows.append((" | ".join(values), name))
        rows += [(str(now.state.step), "steps"), (str(len(now.state.keyframes)), "keyframes")]
        html.put(self._numbers, html.numbers(rows))

    def _scrubbed(self, event: Any) -> None:
        if event.client_id is not None:
            self._player.seek(int(self._scrub.value))

    def _press(self, what: str) -> None:
        if what in ("loop", "once"):
            self._player.looping = what == "loop"
        self._player.play(what != "pause")


class SeePanel:
    """Colourings of the cloud and what else is drawn."""

    def __init__(self, gui: Any, session: Session, scene: SceneView, views: Views) -> None:
        self._session, self._views = session, views
        self._mine = gui.add_folder(None)
        colouring = gui.add_dropdown("cloud by", COLOURINGS, initial_value="colour")
        legend = gui.add_html(html.note(LEGENDS["colour"]))
        self._boxes: dict[str, Any] = {}
        for what in ("keyframes", "path", "events"):
            # Keyframes stand in the way of someone who walks among them.
            box = self._boxes[what] = gui.add_checkbox(what, what != "keyframes")
            box.on_update(lambda event, box=box, what=what: scene.set_visible(what, box.value))
        scene.set_visible("keyframes", False)
        self._says = gui.add_html(html.note(""))

        @colouring.on_update
        def _(event: Any) -> None:
            scene.colour(colouring.value)
            html.put(legend, html.note(LEGENDS[colouring.value]))

    def add_camera_buttons(self, client: Any, view: View) -> Any:
        """A client's own buttons: look from the walker's eyes, or from above; the widget."""
        with self._mine:
            eyes = client.gui.add_button_group("", ("from the walker's eyes", "from above"))
        eyes.on_click(lambda event: self._look(view, eyes.value == "from above"))
        return eyes

    def _look(self, view: View, above: bool) -> None:
        self._boxes["keyframes"].value = above
        (self._views.go_above if above else self._views.go_to_walker)(view)

    def changed(self) -> None:
        """Another moment: how large its map is."""
        memory = self._session.now.state.memory
        megabytes = memory.num_bytes / 1e6
        words = f"{memory.num_points:,} points in {len(memory.blocks)} blocks, {megabytes:.1f} MB"
        html.put(self._says, html.note(words))


class TimelinePanel:
    """The tree of moments: jump, compare, and whatever is done next is a branch."""

    def __init__(
        self, gui: Any, session: Session, requests: Requests, show: Callable[[list[Any]], None]
    ) -> None:
        self._session, self._requests, self._show = session, requests, show
        self._drawing = gui.add_html(html.tree(session.timeline))
        options = self._options()
        self.moment = gui.add_dropdown("moment", options, initial_value=options[-1])
        self._followed = options[-1]
        self._other = gui.add_dropdown("with", options, initial_value=options[0])
        buttons = ("play", "compare") if session.read_only else ("jump here", "play", "compare")
        row = gui.add_button_group("", buttons)
        row.on_click(lambda event: self._act(event, row.value))

    def changed(self) -> None:
        """The tree has grown, or now is elsewhere: what is chosen follows, unless it is another moment by choice."""
        options = self._options()
        now = options[self._session.timeline.now_id]
        chosen, other = self.moment.value, self._other.value
        for box in (self.moment, self._other):
            if tuple(box.options) != options:
                box.options = options
        self.moment.value = now if chosen == self._followed or chosen not in options else chosen
        self._followed = now
        self._other.value = other if other in options else options[0]
        html.put(self._drawing, html.tree(self._session.timeline))

    def _options(self) -> tuple[str, ...]:
        return tuple(moment.title[:70] for moment in self._session.timeline)

    def _act(self, event: Any, what: str) -> None:
        timeline, chosen = self._session.timeline, _moment_id(self.moment.value)
        if what == "jump here":
            self._requests.ask(event.client_id, lambda owner: self._session.jump(chosen, owner))
            return
        ids = [chosen] if what == "play" else [_moment_id(self._other.value), chosen]
        moments = self._requests.attempt(
            event.client_id, lambda: [timeline[number] for number in dict.fromkeys(ids)]
        )
        if moments:
            self._show(moments)


def _moment_id(title: str) -> int:
    """The number that a moment's title begins with; -1 when there is none."""
    head = str(title).split(" ", 1)[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 6 else -1


class WorldPanel:
    """Worlds in files, films and clouds; clients name ids and send bytes, never paths."""

    def __init__(self, gui: Any, session: Session, requests: Requests) -> None:
        self._session, self._requests = session, requests
        with gui.add_folder("Keep"):
            name = gui.add_text("name", "my-world")
            save = gui.add_button("Save", color=QUIET)
            names = self._names()
            self._saved = gui.add_dropdown("saved", names, initial_value=names[0])
            load = gui.add_button("Open", color=QUIET)
        with gui.add_folder("Take away"):
            row = gui.add_button_group("", ("film (mp4)", "cloud (PLY)", "page (HTML)"))
        with gui.add_folder("Begin anew"):
            scene = gui.add_number("scene", 10_038, min=0, max=20_199, step=1)
            begin = gui.add_button("Open the scene", color=QUIET)
            prompt = gui.add_text("prompt", "")
            upload = gui.add_upload_button("Open a photograph", mime_type="image/png,image/jpeg,image/webp")
        save.on_click(lambda event: self._ask(event, lambda owner: session.save(name.value, owner)))
        load.on_click(lambda event: self._ask(event, lambda owner: session.load(self._saved.value, owner)))
        row.on_click(lambda event: self._download(event, row.value))
        begin.on_click(lambda event: self._begin(event, int(scene.value)))
        upload.on_upload(lambda event: self._photograph(event, upload.value.content, prompt.value))

    def changed(self) -> None:
        """Perhaps another world was saved."""
        names = self._names()
        if tuple(self._saved.options) != names:
            self._saved.options = names

    def _names(self) -> tuple[str, ...]:
        return tuple(self._session.saved.names()) or ("(none yet)",)

    def _ask(self, event: Any, submit: Callable[[int | None], Any]) -> None:
        self._requests.ask(event.client_id, submit)

    def _begin(self, event: Any, seed: int) -> None:
        self._ask(event, lambda owner: self._session.begin({"scene": seed}, f"scene {seed}", owner))

    def _photograph(self, event: Any, content: bytes, prompt: str) -> None:
        def submit(owner: int | None) -> Any:
            options = {"image": read_picture(content), **({"prompt": prompt} if prompt else {})}
            return self._session.begin(options, "photograph", owner)

        self._ask(event, submit)

    def _download(self, event: Any, what: str) -> None:
        from spatia_env.viewer.export_html import page_of_session

        session = self._session
        if what.startswith("film"):
            name, content = "walk.mp4", session.film_bytes()
        elif what.startswith("cloud"):
            name, content = "world.ply", session.cloud_bytes()
        else:
            name, content = "walk.html", page_of_session(session).encode()
        event.client.send_file_download(name, content, save_immediately=True)
