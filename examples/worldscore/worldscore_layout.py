"""The official WorldScore benchmark's items and the files that its evaluator reads, in their exact layout."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spatia_env.errors import DatasetError
from spatia_env.io.video import write_video
from ws_cameras import FOCAL, FRAMES, MOVES, interpolated, keyframes, to_stored

FPS = 10
COUNTS = {"static": 2000, "dynamic": 1000}
"""Items of the whole benchmark; a headline of fewer is none."""
_NEEDED = {
    "static": ("image", "visual_style", "scene_type", "camera_path", "prompt_list", "content_list", "style"),
    "dynamic": ("image", "visual_style", "motion_type", "camera_path", "prompt", "style"),
}


@dataclass(frozen=True)
class Item:
    """One item of the benchmark.

    Attributes:
        data: Its entry in static.json or dynamic.json.
        image: Its picture.
        folder: Where its files are written.
    """

    data: dict[str, Any]
    image: Path
    folder: Path

    @property
    def movement(self) -> str:
        """Which half it is of, "static" or "dynamic"."""
        return str(self.data["visual_movement"])

    @property
    def path(self) -> list[str]:
        """Its camera moves."""
        return list(self.data["camera_path"])

    @property
    def total_frames(self) -> int:
        """How many frames the evaluator wants."""
        return len(self.path) * (FRAMES - 1) + 1

    @property
    def prompts(self) -> list[str]:
        """What to ask for, scene by scene, with the item's style behind."""
        texts = self.data["prompt_list"] if self.movement == "static" else [self.data["prompt"]]
        return [
            f"{text} {self.data['style']}" if text.endswith(".") else f"{text}. {self.data['style']}"
            for text in texts
        ]

    def complete(self) -> bool:
        """Whether all of its files are there."""
        files = ["image_data.json", "input_image.png"]
        files += ["camera_data.json"] if self.movement == "static" else []
        frames = self.folder / "frames"
        count = len(list(frames.glob("*.png"))) if frames.is_dir() else 0
        return count == self.total_frames and all((self.folder / name).is_file() for name in files)


def read_items(dataset: Path, movement: str, runs: Path) -> list[Item]:
    """The items of WorldScore-Dataset, "static" or "dynamic", whose files go under `runs`/worldscore_output.

    Raises:
        DatasetError: The dataset is not there, or an item lacks what is needed.
    """
    listing = dataset / movement / f"{movement}.json"
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise DatasetError(
            f"{listing}: cannot be read ({cause}); set DATA_PATH to where WorldScore-Dataset lies."
        ) from cause
    items = []
    for index, data in enumerate(entries):
        missing = [key for key in _NEEDED[movement] if key not in data]
        unknown = [] if missing else sorted(set(data["camera_path"]) - set(MOVES))
        if missing or unknown or data.get("visual_movement") != movement:
            raise DatasetError(
                f"{listing}: item {index} lacks {missing} or has moves {unknown} that do not exist."
            )
        items.append(Item(data, dataset / data["image"], runs / "worldscore_output" / _place(data)))
    return items


def _place(data: dict[str, Any]) -> str:
    """The item's folder; every part comes from a file that was downloaded, so none may lead elsewhere."""
    image = Path(str(data["image"]))
    kind = (
        [data["scene_type"], image.parent.name]
        if data["visual_movement"] == "static"
        else [data["motion_type"]]
    )
    parts = [data["visual_movement"], data["visual_style"], *kind, image.name.split(".")[0]]
    bad = [part for part in parts if not part or part in (".", "..") or "/" in part or os.sep in part]
    if bad or image.is_absolute() or ".." in image.parts:
        raise DatasetError(
            f"WorldScore item {data['image']!r:.80}: does not name a place inside of the benchmark."
        )
    return "/".join(parts)


def fit_picture(picture: Path, resolution: tuple[int, int]) -> Image.Image:
    """A picture cropped at its centre to the shape of `resolution` (width, height), and resized to it.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        with Image.open(picture) as file:
            image = file.convert("RGB")
    except OSError as cause:
        raise DatasetError(f"{picture}: cannot be read as a picture ({cause}).") from cause
    target = resolution[0] / resolution[1]
    if image.width / image.height > target:
        width, height = int(image.height * target), image.height
    else:
        width, height = image.width, int(image.width / target)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height)).resize(resolution)


def write_item(item: Item, picture: Image.Image, frames: np.ndarray, seconds: float) -> None:
    """Write everything the evaluator reads; the frames come last, so that a half-written item is not complete.

    Args:
        item: Whose files.
        picture: What the frames began from.
        frames: u8 [total_frames, H, W, 3], the first shows the picture.
        seconds: How long they took.

    Raises:
        DatasetError: Another number of frames.
    """
    if len(frames) != item.total_frames:
        raise DatasetError(f"{item.folder}: {len(frames)} frames; the evaluator wants {item.total_frames}.")
    item.folder.mkdir(parents=True, exist_ok=True)
    picture.save(item.folder / "input_image.png")
    data = item.data | {"num_scenes": len(item.path), "total_frames": item.total_frames}
    if item.movement == "static":
        data["anchor_frame_idx"] = [i * (FRAMES - 1) for i in range(len(item.path) + 1)]
        _write(item.folder / "camera_data.json", camera_data(item.path))
    _write(item.folder / "image_data.json", data)
    (item.folder / "time.txt").write_text(f"generate_time: {seconds}\n", encoding="utf-8")
    (item.folder / "videos").mkdir(exist_ok=True)
    write_video(item.folder / "videos" / "output.mp4", frames, FPS)
    (item.folder / "frames").mkdir(exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(item.folder / "frames" / f"{index:03d}.png")


def camera_data(path: list[str]) -> dict[str, Any]:
    """The content of camera_data.json for a chain of moves."""
    return {
        "focal_length": int(FOCAL),
        "scale": 1,
        "cameras": to_stored(keyframes(path)).tolist(),
        "cameras_interp": to_stored(interpolated(path)).tolist(),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
