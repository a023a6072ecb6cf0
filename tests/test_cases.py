import json

import numpy as np
import pytest
from PIL import Image

from spatia_env.errors import CaseError
from spatia_env.geometry import invert_se3
from spatia_env.release.case import read_case, read_w2c, write_poses
from twists import path_of_twist

H, W = 60, 96


@pytest.fixture
def folder(tmp_path):
    write_case(tmp_path / "case", 9)
    return tmp_path / "case"


def write_case(folder, num_poses: int) -> np.ndarray:
    """A case in the official layout; returns its c2w [N, 4, 4]."""
    folder.mkdir()
    image = np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "img.jpg")
    first = path_of_twist(np.array([1, 2, 3, 0.1, 0.2, 0.3]), 1)
    moves = path_of_twist(np.array([0.3, 0, 0.6, 0, 0.5, 0]), num_poses - 1)
    c2w = np.concatenate([first, first @ moves])
    write_poses(folder / "w2c.txt", invert_se3(c2w))
    (folder / "intrinsics.txt").write_text("[0.8246414596970016 1.4608655677087053 0.499 0.5008]")
    (folder / "prompt.txt").write_text("A bright kitchen.\nThe camera turns to the window.")
    return c2w


def test_reads_the_official_layout(folder):
    case = read_case(folder)
    assert case.image.shape == (H, W, 3)
    np.testing.assert_allclose(case.c2w[3] @ np.linalg.inv(case.c2w[3]), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(case.path[0], np.eye(4), atol=1e-9)
    np.testing.assert_allclose(
        case.path[-1], path_of_twist(np.array([0.3, 0, 0.6, 0, 0.5, 0]), 1)[0], atol=1e-9
    )
    np.testing.assert_allclose(case.intrinsics, [0.8246414596970016, 1.4608655677087053, 0.499, 0.5008])
    assert case.prompts == ("A bright kitchen.", "The camera turns to the window.")
    assert [case.prompt(i)[:3] for i in range(4)] == ["A b", "The", "The", "The"]
    assert case.mask is None


def test_w2c_round_trip_is_exact_enough_to_chain(folder, tmp_path):
    c2w = read_w2c(folder / "w2c.txt")
    write_poses(tmp_path / "again.txt", invert_se3(c2w))
    np.testing.assert_allclose(read_w2c(tmp_path / "again.txt"), c2w, atol=1e-12)


def test_three_by_four_blank_lines_bom_and_crlf(folder):
    rows = [json.dumps(json.loads(line)[:3]) for line in (folder / "w2c.txt").read_text().splitlines()]
    before = read_w2c(folder / "w2c.txt")
    (folder / "w2c.txt").write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n\r\n").encode())
    np.testing.assert_allclose(read_w2c(folder / "w2c.txt"), before)


def test_optional_files(folder):
    (folder / "intrinsics.txt").unlink()
    mask = np.zeros((H, W), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    case = read_case(folder)
    assert case.intrinsics is None and case.mask.sum() == 10 * W


@pytest.mark.parametrize("text", ["0.8, 1.4, 0.5, 0.5", "\n[8e-1 1.4 .5 5.0E-1]\n", "(0.8 1.4 0.5 0.5)"])
def test_intrinsics_forms(folder, text):
    (folder / "intrinsics.txt").write_text(text)
    np.testing.assert_allclose(read_case(folder).intrinsics, [0.8, 1.4, 0.5, 0.5])


EYE = "[[1,0,0,0],[0,1,0,0],[0,0,1,0]]"
BAD_W2C = {
    "no json": "1 0 0 0",
    "text": '"eye"',
    "number": "3",
    "object": '{"a": 1}',
    "shape": "[[1,0],[0,1]]",
    "ragged": "[[1,0,0,0],[0,1,0],[0,0,1,0]]",
    "strings": '[["a","b","c","d"],["a","b","c","d"],["a","b","c","d"]]',
    "null": "[[null,0,0,0],[0,1,0,0],[0,0,1,0]]",
    "nan": "[[NaN,0,0,0],[0,1,0,0],[0,0,1,0]]",
    "inf": "[[1,0,0,1e400],[0,1,0,0],[0,0,1,0]]",
    "singular": "[[0,0,0,0],[0,0,0,0],[0,0,0,0]]",
    "scaled": "[[2,0,0,0],[0,2,0,0],[0,0,2,0]]",
    "mirrored": "[[-1,0,0,0],[0,1,0,0],[0,0,1,0]]",
    "bottom row": "[[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,1,1]]",
    "nested deep": "[" * 100_000,
    "long integer": "[[" + "9" * 10_000 + ",0,0,0],[0,1,0,0],[0,0,1,0]]",
    "two on a line": EYE + " " + EYE,
}


@pytest.mark.parametrize("line", BAD_W2C.values(), ids=BAD_W2C.keys())
def test_bad_w2c_names_the_line(folder, line):
    (folder / "w2c.txt").write_text(f"{EYE}\n\n{line}\n{EYE}\n")
    with pytest.raises(CaseError, match=r"w2c\.txt, line 3"):
        read_case(folder)


BAD_INTRINSICS = {
    "pixels": "[1000 1000 48 30]",
    "three": "[0.8 1.4 0.5]",
    "five": "[0.8 1.4 0.5 0.5 0.1]",
    "words": "[fx fy cx cy]",
    "negative": "[-0.8 1.4 0.5 0.5]",
    "zero": "[0 1.4 0.5 0.5]",
    "nan": "[nan 1.4 0.5 0.5]",
}


@pytest.mark.parametrize("text", BAD_INTRINSICS.values(), ids=BAD_INTRINSICS.keys())
def test_bad_intrinsics_name_the_line(folder, text):
    (folder / "intrinsics.txt").write_text("\n" + text)
    with pytest.raises(CaseError, match=r"intrinsics\.txt, line 2"):
        read_case(folder)


def test_bad_prompts_name_the_line(folder):
    (folder / "prompt.txt").write_text("fine\nbell \x07")
    with pytest.raises(CaseError, match=r"prompt\.txt, line 2"):
        read_case(folder)
    (folder / "prompt.txt").write_text("fine\n" + "x" * 2001)
    with pytest.raises(CaseError, match=r"prompt\.txt, line 2"):
        read_case(folder)
    (folder / "prompt.txt").write_text("\n \n")
    with pytest.raises(CaseError, match="holds no text"):
        read_case(folder)


@pytest.mark.parametrize("name", ["img.jpg", "w2c.txt", "prompt.txt"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CaseError, match=name.replace(".", r"\.")):
        read_case(folder)


def test_other_damage(folder, tmp_path):
    with pytest.raises(CaseError, match="is not a folder"):
        read_case(tmp_path / "none")
    (folder / "w2c.txt").write_text("\n\n")
    with pytest.raises(CaseError, match="holds no camera"):
        read_case(folder)
    (folder / "w2c.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CaseError, match="not UTF-8"):
        read_case(folder)
    (folder / "img.jpg").write_bytes(b"nothing")
    with pytest.raises(CaseError, match=r"img\.jpg"):
        read_case(folder)


def test_mask_must_fit_its_picture(folder):
    Image.fromarray(np.zeros((W, H), np.uint8)).save(folder / "mask.png")
    with pytest.raises(CaseError, match="sizes must agree"):
        read_case(folder)
