"""`spatia gallery`: the pictures of docs/gallery, each with the command that makes it.

A piece is a short film (GIF, and mp4 where it is long) and a sheet. All use the public environment, so what is
shown is what a user gets; the checkpoint's name and the seeds stand beneath each.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from spatia_env.errors import ActionError
from spatia_env.video import contact_sheet, write_sheet, write_video

LIMIT_MB = 12.0
EVENTS = (
    "a red ball rolls in", "a purple balloon rises", "a lime toy car drives past",
    "night falls", "fog rolls in", "warm sunset light fills the scene",
)  # fmt: skip
STILL = np.zeros(6, np.float32)


@dataclass(frozen=True)
class GalleryConfig:
    """Write the gallery: films and sheets, each with its command, at most 12 MB."""

    out: Path = Path("docs/gallery")
    """Folder to write to"""
    only: tuple[str, ...] = ()
    """Only these pieces: events static-dynamic return exploration edit photograph forks"""
    scene: int = 10038
    """Scene of the pieces"""
    clips: int = 16
    """Clips of the exploration"""
    model: str | None = None
    """Checkpoint: a name or a folder; the packaged one by default"""
    size: tuple[int, int] = (128, 128)
    """Height and width of the frames in pixels"""
    seed: int = 0
    """Seed of the environment"""


@dataclass(frozen=True)
class Piece:
    """One entry: its `name`, `title` and `text`, and what it shows.

    `films` are clips u8 [N, H, W, 3] side by side with their captions; `rows` is the sheet, `columns` its
    captions.
    """

    name: str
    title: str
    text: str
    films: list[tuple[str, np.ndarray]]
    rows: list[tuple[str, np.ndarray]]
    columns: list[str] = dataclasses.field(default_factory=list)


class Studio:
    """One environment, opened once, walked by every piece."""

    def __init__(self, config: GalleryConfig) -> None:
        import gymnasium as gym

        given: dict[str, Any] = {"model": config.model} if config.model else {}
        env = gym.make("spatia_env:Spatia-v0", max_episode_steps=-1, debug=True, size=config.size, **given)
        self.env: Any = env.unwrapped
        self.config = config

    def open(self, **options: Any) -> np.ndarray:
        """Begin; the first picture u8 [1, H, W, 3]."""
        observation, _ = self.env.reset(
            seed=self.config.seed, options=options or {"scene": self.config.scene}
        )
        return observation["frames"][-1:]

    def step(self, camera: Any, event: str = "") -> dict[str, Any]:
        """One clip: the observation, and the step's intermediates under `debug`."""
        observation, _, _, _, info = self.env.step({"camera": np.asarray(camera, np.float32), "event": event})
        return {**observation, "debug": info["debug"], "points": info["memory"]["points"]}


def event_grid(studio: Studio) -> Piece:
    """One path, six events."""
    first = studio.open()
    start = studio.env.snapshot()
    films = []
    for event in ("", *EVENTS):
        studio.env.restore(start)
        clips = [studio.step([0.2, 0, 0.3, 0, 0.15, 0], event), studio.step([0.2, 0, 0.3, 0, 0.15, 0])]
        films.append((event or "no event", np.concatenate([first, *(clip["frames"] for clip in clips)])))
    rows = [(name, frames[[0, 4, 8, 12, 16]]) for name, frames in films]
    text = "The same camera path from the same state, once without and six times with an event in words."
    return Piece(
        "events",
        "One path, six events",
        text,
        films[1:],
        rows,
        ["start", *(f"frame {i}" for i in (4, 8, 12, 16))],
    )


def static_dynamic(studio: Studio) -> Piece:
    """What is generated beside what is remembered of it."""
    first = studio.open()
    clip = studio.step(STILL, EVENTS[0])
    again = studio.step(STILL)
    frames = np.concatenate([first, clip["frames"], again["frames"]])
    moved = np.concatenate([clip["debug"]["dynamic"], again["debug"]["dynamic"]]) > 0.5
    marked = frames.copy()
    marked[1:][moved] = (0.4 * marked[1:][moved] + 0.6 * np.array([255, 138, 76])).astype(np.uint8)
    path = np.concatenate([clip["pose"], again["pose"]])
    remembered = _renders(studio, path)
    remembered = np.concatenate([remembered[:1], remembered])
    films = [("generated", frames), ("what moves", marked), ("what is remembered", remembered)]
    rows = [(name, film[[0, 4, 8, 12, 16]]) for name, film in films]
    text = "What moves is seen but not written into the map: memory keeps the room alone."
    return Piece("static-dynamic", "Static and dynamic, apart", text, films, rows)


def there_and_back(studio: Studio) -> Piece:
    """A walk that returns to where it began."""
    first = studio.open()
    out = [[0, 0, 0, 0, 0.9, 0], [0, 0, 0.5, 0, 0.6, 0], [0.4, 0, 0.3, 0, 0, 0]]
    moves = out + [[-value for value in move] for move in out[::-1]]
    clips = [studio.step(move) for move in moves]
    film = np.concatenate([first, *(clip["frames"] for clip in clips)])
    ends = np.concatenate([first, *(clip["frames"][-1:] for clip in clips)])
    known = np.stack([np.repeat(clip["known"][-1][..., None], 3, -1) for clip in clips])
    known = np.concatenate([np.full_like(known[:1], 255), known])
    from spatia_env.pictures import psnr

    score = psnr(film[-1], film[0])
    text = f"Six clips out and back; the last frame is {score:.1f} dB from the first."
    rows = [("generated", ends), ("known", known)]
    return Piece("return", "A walk that returns", text, [("out and back", film)], rows)


def exploration(studio: Studio) -> Piece:
    """Many clips, and the map that grows with them."""
    first = studio.open()
    film, maps, counts = [first], [_from_above(studio)], []
    for index in range(studio.config.clips):
        clip = studio.step([0, 0, 0.25 if index % 4 == 3 else 0, 0, 0.75, 0])
        film.append(clip["frames"])
        above = _from_above(studio)
        maps.append(np.repeat(above, len(clip["frames"]), axis=0))
        counts.append(int(clip["points"]))
    frames, grown = np.concatenate(film), np.concatenate(maps)
    step = max(1, studio.config.clips // 6)
    chosen = list(range(0, len(frames), step * len(film[1])))
    columns = [f"clip {index // len(film[1])}" for index in chosen]
    text = f"{studio.config.clips} clips; the map grows to {counts[-1]:,} points."
    return Piece(
        "exploration", f"{studio.config.clips} clips and a growing map", text,
        [("generated", frames), ("the map from above", grown)],
        [("generated", frames[chosen]), ("map", grown[chosen])], columns,
    )  # fmt: skip


def edit(studio: Studio) -> Piece:
    """The same walk before and after an edit of the map."""
    from spatia_env.viewer.things import shape

    first = studio.open()
    walk = [[0.3, 0, 0.2, 0, -0.2, 0], [-0.3, 0, -0.2, 0, 0.2, 0]]
    start = studio.env.snapshot()
    before = np.concatenate([first, *(studio.step(move)["frames"] for move in walk)])
    studio.env.restore(start)
    world = studio.env.world
    c2w = world.c2w.double().numpy()
    place = np.eye(4)
    place[:3, 3] = c2w[:3, 3] + 2.0 * c2w[:3, 2]
    place[2, 3] = max(0.0, float(world.state.ground or 0.0))
    world.edit.insert(shape("ball", 0.45, (70, 130, 220)), place)
    after = np.concatenate(
        [_renders(studio, world.c2w.numpy()[None]), *(studio.step(m)["frames"] for m in walk)]
    )
    films = [("before", before), ("after", after)]
    rows = [(name, film[[0, 4, 8, 12, 16]]) for name, film in films]
    text = "A blue ball is put into the map; the clips that follow contain it, from every side."
    return Piece("edit", "An edit, before and after", text, films, rows)


def photograph(studio: Studio) -> Piece:
    """A photograph brought to life."""
    from skimage import data

    first = studio.open(image=data.coffee(), prompt="a cup of coffee on a table")
    moves = [[0.25, 0, 0.2, 0, -0.1, 0], [-0.5, 0, 0, 0, 0.2, 0], [0.25, 0, -0.2, 0, -0.1, 0]]
    film = np.concatenate([first, *(studio.step(move)["frames"] for move in moves)])
    text = "`reset(options={'image': ...})`: depth is estimated, the rest generated. Picture: scikit-image."
    return Piece(
        "photograph", "A photograph brought to life", text, [("walked", film)], [("walked", film[::4])]
    )


def forks(studio: Studio) -> Piece:
    """Several futures of one state."""
    first = studio.open()
    begun = studio.step([0, 0, 0.3, 0, 0.3, 0])["frames"]
    films = []
    for name, camera in (
        ("left", [0, 0, 0.3, 0, -0.6, 0]),
        ("ahead", [0, 0, 0.7, 0, 0, 0]),
        ("right", [0, 0, 0.3, 0, 0.6, 0]),
    ):
        twin = studio.env.fork()
        frames = [
            twin.step({"camera": np.array(camera, np.float32), "event": ""})[0]["frames"] for _ in range(2)
        ]
        films.append((name, np.concatenate([first, begun, *frames])))
    rows = [(name, film[[0, 8, 12, 16, 20, 24]]) for name, film in films]
    text = "`env.unwrapped.fork()`: independent worlds that share the map until they step."
    return Piece("forks", "Forks from one state", text, films, rows)


PIECES: dict[str, Callable[[Studio], Piece]] = {
    "events": event_grid,
    "static-dynamic": static_dynamic,
    "return": there_and_back,
    "exploration": exploration,
    "edit": edit,
    "photograph": photograph,
    "forks": forks,
}


def run_gallery(config: GalleryConfig) -> list[Path]:
    """Make the pieces, write them and the page that shows them; the files.

    Raises:
        ActionError: An unknown piece, or more than 12 MB came out.
    """
    unknown = sorted(set(config.only) - set(PIECES))
    if unknown:
        raise ActionError(
            f"gallery --only: {', '.join(unknown)} does not exist; there are {', '.join(PIECES)}."
        )
    studio, written, pieces = Studio(config), [], []
    for name in config.only or tuple(PIECES):
        piece = PIECES[name](studio)
        pieces.append(piece)
        written += write_piece(config.out, piece)
        print(f"{name}: {piece.text}")
    written.append(write_page(config, pieces, studio.env.checkpoint_id))
    total = sum(path.stat().st_size for path in config.out.iterdir() if path.is_file()) / 1e6
    if total > LIMIT_MB:
        raise ActionError(f"{config.out}: {total:.1f} MB, more than {LIMIT_MB:g}; use fewer --clips.")
    return written


def write_piece(folder: Path, piece: Piece) -> list[Path]:
    """The piece's sheet, its GIF, and its mp4."""
    folder.mkdir(parents=True, exist_ok=True)
    strip = side_by_side(piece.films)
    sheet = write_sheet(folder / f"{piece.name}.png", contact_sheet(piece.rows, piece.columns))
    film = write_video(folder / f"{piece.name}.mp4", strip)
    return [sheet, write_gif(folder / f"{piece.name}.gif", strip), film]


def side_by_side(films: list[tuple[str, np.ndarray]], columns: int = 3, cell: int = 160) -> np.ndarray:
    """Films with their captions in one, u8 [N, h, w, 3]; shorter ones stop at their last frame."""
    from spatia_env.viewer.pictures import enlarge, text_bar

    count, across = max(len(film) for _, film in films), min(columns, len(films))
    height, width = films[0][1].shape[1:3]
    tall, bar, gap = round(cell * height / width), 20, 4
    rows = -(-len(films) // across)
    strip = np.full((count, rows * (tall + bar), across * (cell + gap) - gap, 3), 27, np.uint8)
    for index, (caption, film) in enumerate(films):
        left, top = index % across * (cell + gap), index // across * (tall + bar)
        strip[:, top + tall : top + tall + bar, left : left + cell] = text_bar(caption, cell, bar)
        for at in range(count):
            strip[at, top : top + tall, left : left + cell] = enlarge(
                film[min(at, len(film) - 1)], cell, tall
            )
    return strip


def write_gif(path: Path, frames: np.ndarray, fps: float = 8, limit: int = 60) -> Path:
    """An animated GIF of at most `limit` frames, evenly chosen."""
    keep = np.unique(np.linspace(0, len(frames) - 1, min(limit, len(frames))).astype(int))
    pictures = [Image.fromarray(frames[index]).quantize(96, dither=Image.Dither.NONE) for index in keep]
    milliseconds = round(1000 * len(frames) / fps / len(keep))
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True
    )
    return path


def write_page(config: GalleryConfig, pieces: list[Piece], checkpoint: str) -> Path:
    """index.md: each piece, and beneath it the command that makes it."""
    lines = [
        "# Gallery",
        "",
        f"Every picture here is written by `make gallery` (checkpoint `{checkpoint}`).",
        "",
    ]
    for piece in pieces:
        command = f"spatia gallery --only {piece.name} --scene {config.scene} --seed {config.seed}"
        command += f" --clips {config.clips}" if piece.name == "exploration" else ""
        lines += [
            f"## {piece.title}", "", piece.text, "", f"![{piece.title}]({piece.name}.gif)", "",
            f"```bash\n{command}\n```", "", f"[Sheet]({piece.name}.png) · [film]({piece.name}.mp4)", "",
        ]  # fmt: skip
    path = config.out / "index.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _renders(studio: Studio, path: np.ndarray) -> np.ndarray:
    import torch

    view = studio.env.world.render(torch.from_numpy(np.asarray(path, np.float32)))
    return (view.rgb.movedim(1, -1) * 255).round().clamp(0, 255).byte().numpy()


def _from_above(studio: Studio) -> np.ndarray:
    """The map from high above its middle, without what is higher than the eye: u8 [1, H, W, 3]."""
    import torch

    from spatia_env.cameras import intrinsics_from_fov, invert_se3, look_at
    from spatia_env.memory.rendering import render_points

    state = studio.env.world.state
    rows = state.memory.points()
    rows = rows[rows["position"][:, 2] < float(state.c2w[2, 3]) + 0.2]
    middle = state.start_c2w[:3, 3].clone()
    middle[2] = 0
    c2w = look_at(middle + torch.tensor([0.0, -0.01, 11.0]), middle, torch.tensor([0.0, 1.0, 0.0]))
    height, width = state.size
    view = render_points(
        torch.from_numpy(np.ascontiguousarray(rows["position"])),
        torch.from_numpy(np.ascontiguousarray(rows["colour"])).float() / 255,
        torch.full((len(rows),), 0.03),
        invert_se3(c2w)[None],
        intrinsics_from_fov(45.0, height, width),
        height,
        width,
    )
    return (view.rgb.movedim(1, -1) * 255).round().clamp(0, 255).byte().numpy()


def main(argv: list[str]) -> int:
    """Run `spatia gallery`."""
    config = tyro.cli(GalleryConfig, args=argv, prog="spatia gallery")
    files = run_gallery(config)
    print(f"wrote {len(files)} files to {config.out}")
    return 0
