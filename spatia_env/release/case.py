"""The case folder of the official release: a picture, cameras, intrinsics, prompts, and perhaps a mask.

    img.jpg          the first picture (or img.png, img.jpeg, img.webp)
    w2c.txt          one JSON matrix a line, 3x4 or 4x4, world to camera, OpenCV axes; the first is the picture's
    intrinsics.txt   [fx fy cx cy], divided by the width and the height
    prompt.txt       one line a round; the last line holds for all rounds that follow
    mask.png         optional: white where the picture shows things that move

Matrices become `c2w` here and nowhere else. Every complaint names the file and the line.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.errors import CaseError, ImageError, PoseError, PromptError
from spatia_env.geometry import invert_se3, rigid_problem
from spatia_env.io.images import pixel_intrinsics, read_image
from spatia_env.io.validation import MAX_PROMPT_LENGTH, normalise_text

PICTURES = ("img.jpg", "img.png", "img.jpeg", "img.webp")
MAX_POSES = 100_000
MAX_TEXT_BYTES = 64 * 2**20
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        image: u8 [H, W, 3].
        c2w: Camera-to-world [N, 4, 4] float64; the first belongs to the picture.
        intrinsics: `[fx, fy, cx, cy]` divided by width and height, or None when the file is missing.
        prompts: At least one line.
        mask: bool [H, W], True on what moves, or None.
    """

    image: np.ndarray
    c2w: np.ndarray
    intrinsics: np.ndarray | None
    prompts: tuple[str, ...]
    mask: np.ndarray | None = None

    @property
    def path(self) -> np.ndarray:
        """The poses [N, 4, 4] relative to the first camera."""
        return invert_se3(self.c2w[0]) @ self.c2w

    def prompt(self, round_index: int) -> str:
        """The prompt of a round, counted from 0; the last line is repeated."""
        return self.prompts[min(round_index, len(self.prompts) - 1)]


def read_case(folder: str | Path) -> Case:
    """Read a case folder.

    Raises:
        CaseError: A file is missing or malformed; the file, and the line where there is one, are named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CaseError(
            f"{folder}: is not a folder; a case holds img.jpg, w2c.txt, intrinsics.txt, prompt.txt."
        )
    image = _read_picture(folder)
    return Case(
        image=image,
        c2w=read_w2c(folder / "w2c.txt"),
        intrinsics=_read_intrinsics(folder / "intrinsics.txt", image),
        prompts=_read_prompts(folder / "prompt.txt"),
        mask=_read_mask(folder / "mask.png", image),
    )


def read_w2c(path: str | Path) -> np.ndarray:
    """The cameras of a `w2c.txt` as `c2w` [N, 4, 4] float64.

    Raises:
        CaseError: No cameras, or a line that is not a rigid 3x4 or 4x4 matrix in JSON.
    """
    path = Path(path)
    poses = []
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            poses.append(_parse_w2c(line, f"{path}, line {number}"))
        if len(poses) > MAX_POSES:
            raise CaseError(f"{path}: more than {MAX_POSES} cameras.")
    if not poses:
        raise CaseError(f"{path}: holds no camera; write one JSON matrix a line.")
    return invert_se3(np.stack(poses))


def write_poses(path: str | Path, poses: np.ndarray) -> None:
    """Write matrices [N, 4, 4], one JSON 4x4 a line, as `w2c.txt` has them."""
    text = "".join(json.dumps([[float(x) for x in row] for row in pose]) + "\n" for pose in poses)
    Path(path).write_text(text, encoding="utf-8")


def _parse_w2c(line: str, where: str) -> np.ndarray:
    try:
        rows = json.loads(line)
        matrix = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError, RecursionError, OverflowError) as cause:
        raise CaseError(
            f"{where}: is not a matrix in JSON, such as [[1,0,0,0],[0,1,0,0],[0,0,1,0]] ({cause})."
        ) from cause
    if matrix.shape not in ((3, 4), (4, 4)):
        raise CaseError(f"{where}: expected a 3x4 or 4x4 matrix, got shape {list(matrix.shape)}.")
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0, 0, 0, 1]]])
    problem = rigid_problem(matrix)
    if problem:
        raise CaseError(f"{where}: {problem}.")
    return matrix


def _read_picture(folder: Path) -> np.ndarray:
    found = [folder / name for name in PICTURES if (folder / name).exists()]
    if not found:
        raise CaseError(f"{folder}: has no picture; add img.jpg (or img.png, img.webp).")
    try:
        return read_image(found[0])
    except ImageError as cause:
        raise CaseError(str(cause)) from cause


def _read_intrinsics(path: Path, image: np.ndarray) -> np.ndarray | None:
    if not path.exists():
        return None
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        values = np.array([float(text) for text in _NUMBER.findall(line)])
        left_over = _NUMBER.sub("", line).strip(" \t[](),;\r\n")
        if len(values) != 4 or left_over:
            raise CaseError(
                f"{path}, line {number}: expected [fx fy cx cy], divided by width and height; "
                f"got {line.strip()!r:.80}."
            )
        try:
            pixel_intrinsics(values, image.shape[0], image.shape[1])
        except PoseError as cause:
            raise CaseError(f"{path}, line {number}: {cause}") from cause
        return values
    raise CaseError(f"{path}: is empty; write [fx fy cx cy], or remove the file for 60 degrees across.")


def _read_prompts(path: Path) -> tuple[str, ...]:
    prompts = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            text = normalise_text(line.replace("\t", " ").strip(), "prompt", MAX_PROMPT_LENGTH)
        except PromptError as cause:
            raise CaseError(f"{path}, line {number}: {cause}") from cause
        if text:
            prompts.append(text)
    if not prompts:
        raise CaseError(f"{path}: holds no text; write one prompt a line.")
    return tuple(prompts)


def _read_mask(path: Path, image: np.ndarray) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        mask = read_image(path)
    except ImageError as cause:
        raise CaseError(str(cause)) from cause
    if mask.shape != image.shape:
        raise CaseError(
            f"{path}: is {mask.shape[1]}x{mask.shape[0]}, the picture is {image.shape[1]}x{image.shape[0]}; "
            "sizes must agree."
        )
    return mask.max(axis=-1) > 127


def _lines(path: Path) -> list[str]:
    try:
        if not path.is_file():
            raise CaseError(f"{path}: is missing.")
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise CaseError(f"{path}: is larger than {MAX_TEXT_BYTES >> 20} MB.")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as cause:
        raise CaseError(f"{path}: is not UTF-8 text ({cause}).") from cause
    except OSError as cause:
        raise CaseError(f"{path}: cannot be read ({cause}).") from cause
    return text.split("\n")


def describe(case: Case) -> dict[str, Any]:
    """Size, number of cameras and of prompts: what a summary says about a case."""
    return {
        "image_height": int(case.image.shape[0]),
        "image_width": int(case.image.shape[1]),
        "poses": len(case.c2w),
        "prompts": list(case.prompts),
        "mask": case.mask is not None,
    }
