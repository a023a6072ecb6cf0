"""The gallery: its films, its record, its page and its limits; all pieces on the real model are slow."""

import numpy as np
import pytest
from PIL import Image

import gallery
from gallery import Entry, GalleryConfig, Piece, files, layout
from gallery.layout import Film, Row
from spatia_env.errors import ActionError, WorldFormatError


def film_of(*values: int, size: tuple[int, int] = (8, 12)) -> np.ndarray:
    return np.stack([np.full((*size, 3), value, np.uint8) for value in values])


def piece_of(title: str) -> Piece:
    return Piece(title, "text", film_of(0, 90, 200), layout.sheet([Row("a", film_of(9, 9))], cell=30))


def test_films_stand_side_by_side_and_shorter_ones_wait():
    board = layout.board([Film("a", film_of(40, 41)), Film("b", film_of(200, 201, 202), said=True)], 2, 60)
    gap, tall = layout.GAP, 40
    assert board.shape == (3, tall + layout.BAR + 2 * gap, 2 * 60 + 3 * gap, 3)
    assert (board[2, gap + 5, gap + 5] == 41).all() and (board[2, gap + 5, 2 * gap + 65] == 202).all()
    dot = board[0, gap + tall + layout.BAR // 2, 2 * gap + 60 + 7]
    assert tuple(dot) == layout.ACCENT  # only what was said has one
    assert tuple(board[0, gap + tall + layout.BAR // 2, gap + 7]) != layout.ACCENT


def test_a_sheet_has_every_frame_and_long_labels_are_broken():
    row = Row(
        "a label of several words that is far too long for a line", film_of(10, 20, 30), ["x", "y", "z"]
    )
    sheet = np.asarray(layout.sheet([row, Row("b", film_of(70, 80))], ["start", "", "end"], cell=48))
    for value in (10, 20, 30, 70, 80):
        assert (sheet == value).all(-1).sum() > 400
    assert sheet.shape[1] < 150 + 4 * layout.GAP + 3 * (48 + layout.GAP)


def test_the_walker_stands_where_the_path_ends():
    spots = np.array([[10.0, 50.0], [50.0, 50.0]])
    picture = layout.walked(np.zeros((100, 100, 3), np.uint8), spots, np.array([60.0, 50.0]))
    assert picture[50, 30].sum() > 200 and picture[50, 50].sum() > 200 and not picture[10, 10].any()
    assert picture[50, 62].sum() > 200 and not picture[50, 38 - 34].any()


def test_a_gif_plays_for_as_long_as_its_frames(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (90, 10, 14, 3)).astype(np.uint8)
    path = files.write_gif(tmp_path / "a.gif", frames, fps=10, limit=30)
    with Image.open(path) as picture:
        assert picture.n_frames == 30 and picture.size == (14, 10)
        durations = []
        for at in range(30):
            picture.seek(at)
            durations.append(picture.info["duration"])
    assert abs(sum(durations[:-1]) - 8700) <= 300 and durations[-1] == files.PAUSE


def test_the_page_has_the_command_of_every_piece(tmp_path):
    config, entries = GalleryConfig(out=tmp_path, scene=7), {}
    for name in ("events", "return"):
        files.write_piece(tmp_path, name, piece_of(name.title()))
        entries[name] = Entry(name.title(), "text", config.command(name), "hash", "tiny")
    text = files.write_page(tmp_path, entries, ("return", "events", "forks")).read_text()
    assert text.index("## Return") < text.index("## Events") and "forks" not in text
    for name in entries:
        assert f"python -m docs.tools.gallery --only {name} --scene 7\n" in text and f"({name}.gif)" in text
        assert all(path.stat().st_size for path in files.files_of(tmp_path, name))


class Stopped(Exception):
    """A run that was interrupted."""


def test_a_run_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    from gallery import pieces, studio

    made = []

    def take(name: str, fails: bool = False):
        def one(_):
            made.append(name)
            if fails:
                raise Stopped
            return piece_of(name)

        return one

    monkeypatch.setattr(studio.Studio, "checkpoint", "tiny-1")
    monkeypatch.setattr(pieces, "PIECES", {"a": take("a"), "b": take("b", fails=True)})
    config = GalleryConfig(out=tmp_path)
    with pytest.raises(Stopped):
        gallery.run_gallery(config)
    monkeypatch.setitem(pieces.PIECES, "b", take("b"))
    gallery.run_gallery(config)
    assert made == ["a", "b", "b"]
    gallery.run_gallery(config)
    (tmp_path / "a.gif").unlink()
    gallery.run_gallery(config)
    monkeypatch.setattr(studio.Studio, "checkpoint", "tiny-2")
    gallery.run_gallery(GalleryConfig(out=tmp_path, only=("b",)))
    assert made == ["a", "b", "b", "a", "b"]
    page = (tmp_path / "index.md").read_text()
    assert "## a" in page and "## b" in page and "`tiny-1` and `tiny-2`" in page


def test_what_is_too_large_damaged_or_unknown_is_refused(tmp_path):
    with pytest.raises(ActionError, match="does not exist"):
        gallery.run_gallery(GalleryConfig(only=("films",)))
    (tmp_path / "hero.gif").write_bytes(b"x" * 3_100_000)
    with pytest.raises(ActionError, match="hero"):
        gallery.check_size(tmp_path)
    (tmp_path / "b.gif").write_bytes(b"x" * 9_000_000)
    with pytest.raises(ActionError, match="more than 12"):
        gallery.check_size(tmp_path)
    (tmp_path / files.RECORD).write_text('{"a": 1}')
    with pytest.raises(WorldFormatError, match="damaged"):
        files.read_record(tmp_path)


@pytest.mark.slow
def test_every_piece_is_made_on_the_real_model(tmp_path, capsys):
    from gallery.pieces import PIECES

    config = ["--out", str(tmp_path), "--size", "64", "64", "--clips", "4"]
    assert gallery.main(config) == 0
    assert {path.stem for path in tmp_path.glob("*.gif")} == set(PIECES)
    assert "wrote" in capsys.readouterr().out
