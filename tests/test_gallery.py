"""The gallery: its films, its page and its limit; one piece on the real model."""

import numpy as np
import pytest
from PIL import Image

from spatia_env import gallery
from spatia_env.errors import ActionError
from spatia_env.gallery import GalleryConfig, Piece


def test_films_stand_side_by_side_and_shorter_ones_wait():
    films = [("a", np.full((3, 8, 12, 3), 40, np.uint8)), ("b", np.full((5, 8, 12, 3), 200, np.uint8))]
    strip = gallery.side_by_side(films, cell=60)
    assert strip.shape == (5, 60, 124, 3)
    assert (strip[4, 10, 10] == 40).all() and (strip[0, 10, 100] == 200).all()


def test_a_gif_plays_for_as_long_as_its_frames(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (90, 10, 14, 3)).astype(np.uint8)
    path = gallery.write_gif(tmp_path / "a.gif", frames, fps=10, limit=30)
    with Image.open(path) as picture:
        assert picture.n_frames == 30 and picture.size == (14, 10)
        assert abs(30 * picture.info["duration"] - 9000) <= 300


def test_the_page_has_the_command_of_every_piece(tmp_path):
    film = np.zeros((2, 8, 12, 3), np.uint8)
    pieces = [Piece(name, name.title(), "text", [("a", film)], [("a", film)]) for name in gallery.PIECES]
    config = GalleryConfig(out=tmp_path)
    for piece in pieces:
        gallery.write_piece(tmp_path, piece)
    text = gallery.write_page(config, pieces, "tiny").read_text()
    for name in gallery.PIECES:
        assert f"spatia gallery --only {name} --scene" in text and f"({name}.gif)" in text
        assert all((tmp_path / f"{name}.{kind}").stat().st_size for kind in ("gif", "png", "mp4"))


def test_unknown_pieces_are_refused():
    with pytest.raises(ActionError, match="does not exist"):
        gallery.run_gallery(GalleryConfig(only=("films",)))


@pytest.mark.slow
def test_every_piece_is_made_on_the_real_model(tmp_path, capsys):
    config = ["--out", str(tmp_path), "--size", "64", "64", "--clips", "4"]
    assert gallery.main(config) == 0
    assert {path.stem for path in tmp_path.glob("*.gif")} == set(gallery.PIECES)
    assert "wrote" in capsys.readouterr().out
