"""The pieces: what is filmed, and how it is shown.

Scenes are dev scenes, which no training saw. Each function opens its own world and returns what is to be written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from spatia_env.viewer.player import tint

from . import layout
from .files import Piece
from .layout import ACCENT, IMAGINED, Film, Row
from .studio import Studio, action, filmed_walk

BOX, BALLOON, CUBE, NIGHT, SUNSET, ALARM = EVENTS = (
    "a blue box drops from above", "a purple balloon rises", "a pink cube slides across",
    "night falls", "warm sunset light fills the scene", "a red alarm light comes on",
)  # fmt: skip
STROLL = [[0.2, 0, 0.3, 0, 0.15, 0]] * 2
"""The path of the events: two clips ahead and a little to the right."""
OUT = [[0, 0, 0.8, 0, 0.3, 0], [0.3, 0, 0.7, 0, 0.4, 0], [0.6, 0, 0.2, 0, -0.6, 0]]
BACK = [[-value for value in move] for move in OUT[::-1]]
"""The way out, clip by clip, backwards: a twist and its negative undo each other."""
INTO_THE_ROOM = [
    [0, 0, 0.7, 0, 0.2, 0], [0.5, 0, 0.2, 0, -0.4, 0], [-0.6, 0, 0, 0, 0.3, 0], [0, 0, -0.4, 0, -0.1, 0],
]  # fmt: skip
CIRCLE = [[0, 0, 0.25, 0, 1, 0]] * 12
"""Twelve clips that turn by 30 degrees each, walking: at their end the camera is where they began."""
WALKED_SCENE, SAID_SCENE, EDITED_SCENE, EXPLORED_SCENE, FORKED_SCENE = 10021, 10018, 10038, 10054, 10031
CELL, WIDE = 172, 216
"""Pixels of a film beside two others, and in the hero."""


def _piece(
    title: str, text: str, films: list[Film], rows: list[Row], columns: Sequence[str] = (), cell: int = 144
) -> Piece:
    """Films in rows of three, and a sheet of their frames."""
    return Piece(title, text, layout.board(films, 3, CELL), layout.sheet(rows, columns, cell))


def _rows(films: list[Film], frames: list[int]) -> list[Row]:
    return [Row(film.caption, film.frames[frames]) for film in films]


def hero(studio: Studio) -> Piece:
    """The first picture of the README: a walk that returns, and events."""
    walk = filmed_walk(studio, WALKED_SCENE, OUT + BACK)
    first = studio.open(SAID_SCENE)
    start, parts = studio.env.snapshot(), []
    for event in (BOX, NIGHT, ALARM):
        studio.env.restore(start)
        said = studio.filmed(first, STROLL, event)[1:]
        parts.append(layout.board([Film(event, said, said=True)], 1, WIDE))
    left = layout.board([Film("a walk out, and back", walk.frames), Film("its map", walk.above())], 2, WIDE)
    right = np.concatenate([parts[0][:1], *parts])[: len(left), :, layout.GAP :]
    film = np.concatenate([left, right], axis=2)
    shown = film[[len(film) // 6, len(film) // 2, len(film) - 2]]
    text = "A walk that returns to where it began, the map that remembers it, and events asked for in words."
    sheet = Image.fromarray(shown.reshape(-1, *shown.shape[2:]))
    return Piece("A world that remembers", text, film, sheet, colours=240)


def events(studio: Studio) -> Piece:
    """One path, six events."""
    first = studio.open(SAID_SCENE)
    start, films = studio.env.snapshot(), []
    for event in ("", *EVENTS):
        studio.env.restore(start)
        films.append(Film(event or "nothing is said", studio.filmed(first, STROLL, event), bool(event)))
    columns = ["start", *(f"frame {index}" for index in (4, 8, 12, 16))]
    text = "The same camera path from the same state, once without and six times with an event in words."
    return _piece("One path, six events", text, films[1:], _rows(films, [0, 4, 8, 12, 16]), columns)


def static_dynamic(studio: Studio) -> Piece:
    """What is generated beside what is remembered of it."""
    first = studio.open(SAID_SCENE)
    clips = studio.walk([[0.0] * 6, [0.0] * 6], BOX)
    frames = np.concatenate([first, *(clip["frames"] for clip in clips)])
    moved = np.concatenate([clip["debug"]["dynamic"] for clip in clips]) > 0.5
    marked = np.concatenate([first, tint(frames[1:], moved, ACCENT)])
    path = np.concatenate([clip["pose"] for clip in clips])
    remembered = studio.renders(np.concatenate([path[:1], path]))
    films = [
        Film(BOX, frames, said=True), Film("what moves", marked), Film("what is remembered", remembered)
    ]  # fmt: skip
    text = "What moves is seen but not written into the map: memory keeps the room alone."
    return _piece("Static and dynamic, apart", text, films, _rows(films, [0, 3, 5, 7, 9, 12]))


def there_and_back(studio: Studio) -> Piece:
    """A walk that returns to where it began, with and without memory."""
    from spatia_env.io.images import psnr

    walk = filmed_walk(studio, WALKED_SCENE, OUT + BACK)
    frames, forgetful = walk.frames, studio.without_memory(WALKED_SCENE, OUT + BACK)
    out = np.arange(0, len(frames) // 2 + 1, 4)
    back = len(frames) - 1 - out

    def against(film: np.ndarray) -> list[str]:
        pairs = zip(out, back, strict=True)
        return [f"{psnr(film[b], frames[a]):.1f} dB" if a != b else "" for a, b in pairs]

    rows = [
        Row("on the way out", frames[out]),
        Row("on the way back", frames[back], against(frames)),
        Row("back, without memory", forgetful[back], against(forgetful)),
    ]
    films = [
        Film("with memory", frames), Film("without memory", forgetful), Film("the map and the walk", walk.above())
    ]  # fmt: skip
    text = (
        f"Six clips out and back. The last frame is {psnr(frames[-1], frames[0]):.1f} dB from the first; without "
        f"memory, on the same path, {psnr(forgetful[-1], frames[0]):.1f} dB. In the sheet what is above one another "
        "is the same place, with the distance to the first time beneath."
    )
    columns = ["start", *[""] * (len(out) - 2), "turning point"]
    return _piece("A walk that returns", text, films, rows, columns, 128)


def exploration(studio: Studio) -> Piece:
    """Many clips, and the map that grows with them."""
    walk = filmed_walk(studio, EXPLORED_SCENE, (INTO_THE_ROOM + CIRCLE)[: studio.clips])
    counts, clips = walk.counts, len(walk.states) - 1
    films = [
        Film("generated", walk.frames),
        Film("imagined in this clip", tint(walk.frames, ~walk.known, IMAGINED)),
        Film("the map from above", walk.above()),
    ]
    chosen = np.unique(np.linspace(0, clips, 7).round().astype(int))
    at = chosen * ((len(walk.frames) - 1) // clips)
    points = [f"{counts[index]:,} points" for index in chosen]
    names = ("generated", "imagined", "map")
    rows = [
        Row(name, film.frames[at], points if name == "map" else ())
        for name, film in zip(names, films, strict=True)
    ]
    text = (
        f"{clips} clips, into the room and once around. The map grows from {counts[0]:,} to {counts[-1]:,} points; "
        "violet is what each clip had to imagine, the rest it remembered."
    )
    columns = ["start", *(f"clip {index}" for index in chosen[1:])]
    return _piece(f"{clips} clips and a growing map", text, films, rows, columns)


def edit(studio: Studio) -> Piece:
    """The same walk before and after edits of the map."""
    from spatia_env.viewer.objects import shape

    moves = [[0.3, 0, 0.2, 0, -0.2, 0], [-0.3, 0, -0.2, 0, 0.2, 0]]
    first = studio.open(EDITED_SCENE)
    state, world = studio.env.snapshot(), studio.env.world
    films = [Film("as it was", studio.filmed(first, moves))]
    for caption, *shapes in (
        ("a ball is put in", ("ball", 0.45, (70, 130, 220), 0.0, 2.0)),
        ("and a cone, and a box", ("cone", 0.5, (240, 120, 40), -0.65, 2.6), ("box", 0.3, (225, 200, 60), 0.55, 1.8)),
    ):  # fmt: skip
        studio.env.restore(state)
        for name, size, rgb, right, ahead in shapes:
            world.edit.insert(shape(name, size, rgb), _on_the_floor(world, right, ahead))
        state = studio.env.snapshot()
        films.append(Film(caption, studio.filmed(studio.renders(world.c2w.numpy()[None]), moves)))
    text = (
        "The map is edited, not the pictures: the clips that follow show what it holds then, from every side."
    )
    return _piece("An edit, before and after", text, films, _rows(films, [0, 4, 8, 12, 16]))


def _on_the_floor(world: Any, right: float, ahead: float) -> np.ndarray:
    """A place [4, 4] on the map's floor, in metres from the camera as it looks."""
    c2w, place = world.c2w.double().numpy(), np.eye(4)
    level = c2w[:3, 2] * [1, 1, 0] / np.linalg.norm(c2w[:2, 2])
    spot = c2w[:3, 3] + ahead * level + right * np.array([level[1], -level[0], 0.0])
    hit = world.query.raycast(spot, [0.0, 0.0, -1.0])
    place[:3, 3] = [*spot[:2], world.state.ground or 0.0] if hit is None else hit.position
    return place


def photograph(studio: Studio) -> Piece:
    """A photograph brought to life."""
    from skimage import data

    from spatia_env.io.images import depth_to_rgb

    moves = [[0.25, 0, 0.2, 0, -0.1, 0], [-0.5, 0, 0, 0, 0.2, 0], [0.25, 0, -0.2, 0, -0.1, 0]]
    first = studio.open(image=data.stereo_motorcycle()[0], prompt="a motorcycle in a workshop")
    start, depth = studio.env.snapshot(), studio.env.world.state.depth.numpy()[None]
    clips = studio.walk(moves)
    walked = np.concatenate([first, *(clip["frames"] for clip in clips)])
    far = float(np.percentile(depth[depth > 0], 98))
    depths = depth_to_rgb(np.concatenate([depth, *(clip["depth"] for clip in clips)]), far)
    studio.env.restore(start)
    night = Film(NIGHT, studio.filmed(first, moves, NIGHT), said=True)
    films = [Film("walked", walked), Film("its depth", depths), night]
    text = (
        "`reset(options={'image': ...})`: depth is estimated, the rest is generated. Picture: scikit-image."
    )
    rows = _rows(films, [0, 5, 9, 13, 17, 21, 24])
    return _piece("A photograph brought to life", text, films, rows, cell=128)


def forks(studio: Studio) -> Piece:
    """Several futures of one state."""
    first = studio.open(FORKED_SCENE)
    trunk, films = studio.filmed(first, [[0, 0, 0.3, 0, 0.3, 0]]), []
    for name, camera, event in (
        ("left", [0, 0, 0.3, 0, -0.6, 0], ""),
        ("ahead", [0, 0, 0.7, 0, 0, 0], ""),
        ("ahead, and night falls", [0, 0, 0.7, 0, 0, 0], NIGHT),
    ):
        twin = studio.env.fork()
        clips = [twin.step(action(camera, said))[0]["frames"] for said in (event, "")]
        films.append(Film(name, np.concatenate([trunk, *clips]), bool(event)))
    text = "`env.unwrapped.fork()`: independent worlds that share the map until they step."
    columns = ["start", "one state", "", "", "", ""]
    return _piece("Forks from one state", text, films, _rows(films, [0, 8, 12, 16, 20, 24]), columns)


PIECES: dict[str, Callable[[Studio], Piece]] = {
    "hero": hero,
    "events": events,
    "static-dynamic": static_dynamic,
    "return": there_and_back,
    "exploration": exploration,
    "edit": edit,
    "photograph": photograph,
    "forks": forks,
}
