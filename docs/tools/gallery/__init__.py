"""`python -m docs.tools.gallery`: the pictures of docs/gallery, each with the command that makes it.

`pieces` says what is filmed, `studio` films it, `layout` puts it side by side, `files` writes it. A piece that
was made already of the same checkpoint, code and options is left as it is.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import tyro

import spatia_env
from spatia_env.errors import ActionError

from .files import Entry, Piece, files_of, read_record, write_page, write_piece, write_record

LIMIT_MB = 12.0
HERO_LIMIT_MB = 3.0


@dataclass(frozen=True)
class GalleryConfig:
    """Write the gallery: films and sheets, each with its command, at most 12 MB in all.

    It goes on where it was interrupted: pieces that were made of the same checkpoint, code and options are kept.
    """

    out: Path = Path("docs/gallery")
    """Folder to write to"""
    only: tuple[str, ...] = ()
    """Only these pieces: hero events static-dynamic return exploration edit photograph forks"""
    again: bool = False
    """Make pieces again that are there already"""
    scene: int | None = None
    """Scene of all pieces; each has its own by default"""
    clips: int = 16
    """Clips of the exploration, at most 16"""
    model: str | None = None
    """Checkpoint: a name or a folder; the packaged one by default"""
    size: tuple[int, int] = (128, 128)
    """Height and width of the frames in pixels"""
    seed: int = 0
    """Seed of the environment"""

    def command(self, name: str) -> str:
        """What to type to get one piece again."""
        words = [f"python -m docs.tools.gallery --only {name}"]
        for option in ("scene", "clips", "model", "size", "seed"):
            value = getattr(self, option)
            if value != getattr(GalleryConfig, option) and (option != "clips" or name == "exploration"):
                words.append(f"--{option} {' '.join(map(str, value)) if option == 'size' else value}")
        return " ".join(words)


def main(argv: list[str]) -> int:
    """Run `python -m docs.tools.gallery`."""
    config = tyro.cli(GalleryConfig, args=argv, prog="python -m docs.tools.gallery")
    files = run_gallery(config)
    print(f"wrote {len(files)} files to {config.out}")
    return 0


def run_gallery(config: GalleryConfig) -> list[Path]:
    """Make the pieces that are not there yet, and the page that shows all; the files written.

    Raises:
        ActionError: An unknown piece, or more than 12 MB came out.
        WorldFormatError: The record in the folder is damaged.
    """
    from .pieces import PIECES
    from .studio import Studio

    unknown = sorted(set(config.only) - set(PIECES))
    if unknown:
        raise ActionError(
            f"gallery --only: {', '.join(unknown)} does not exist; there are {', '.join(PIECES)}."
        )
    entries, written = read_record(config.out), []
    studio = Studio(config.model, config.size, config.seed, config.scene, config.clips)
    for name in config.only or tuple(PIECES):
        made_of = fingerprint(config, name, studio.checkpoint)
        is_same = name in entries and entries[name].made_of == made_of
        if is_same and not config.again and all(path.is_file() for path in files_of(config.out, name)):
            print(f"{name}: is there already")
            continue
        piece = PIECES[name](studio)
        written += write_piece(config.out, name, piece)
        entries[name] = Entry(piece.title, piece.text, config.command(name), made_of, studio.checkpoint)
        write_record(config.out, entries)
        print(f"{name}: {piece.text}", flush=True)
    written.append(write_page(config.out, entries, tuple(PIECES)))
    check_size(config.out)
    return written


def fingerprint(config: GalleryConfig, name: str, checkpoint: str) -> str:
    """A hash of the checkpoint, the options and all code that a piece's pictures may depend on."""
    digest = hashlib.sha256(f"{checkpoint}\0{config.command(name)}".encode())
    for folder in (Path(spatia_env.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def check_size(folder: Path) -> None:
    """Raise `ActionError` if the gallery is larger than it may be."""
    total = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6
    if total > LIMIT_MB:
        raise ActionError(f"{folder}: {total:.1f} MB, more than {LIMIT_MB:g}; use fewer --clips.")
    hero = folder / "hero.gif"
    if hero.is_file() and hero.stat().st_size > HERO_LIMIT_MB * 1e6:
        raise ActionError(f"{hero}: {hero.stat().st_size / 1e6:.1f} MB, more than {HERO_LIMIT_MB:g}.")


__all__ = ["Entry", "GalleryConfig", "Piece", "main", "run_gallery"]
