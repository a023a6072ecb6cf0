"""`spatia export-html`: an episode as one page that opens from disk, without a server and without a network.

The page holds the film, the point cloud, the walked path and the events, and fetches nothing; its content security
policy forbids it to. Texts are handed over as JSON and shown as text.
"""

import base64
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from spatia_env.errors import ActionError, WorldFormatError
from spatia_env.geometry import unproject
from spatia_env.io.atomic import write_text
from spatia_env.io.video import read_video, write_video
from spatia_env.viewer.files import written_bytes

MAX_POINTS = 250_000
"""Points of a page; larger clouds are thinned evenly."""
CELL = 0.02
"""Metres: of the points of an episode's frames one a cell of this edge is kept."""
AHEAD = 1.5
"""Metres ahead of the camera where an event is marked."""
TEMPLATE = Path(__file__).parent / "episode.html"


@dataclass(frozen=True)
class PlacedEvent:
    """An event: the `frame` of the film at which it was asked for, its `text`, and its place [3] in metres."""

    frame: int
    text: str
    place: tuple[float, float, float]


@dataclass(frozen=True)
class Episode:
    """What a page shows.

    Attributes:
        title: In words.
        frames: u8 [N, H, W, 3].
        pose: c2w [N, 4, 4].
        K: Intrinsics [3, 3] in pixels of the frames.
        points: f32 [n, 3], world, metres.
        colours: u8 [n, 3].
        events: In the order of their frames.
    """

    title: str
    frames: np.ndarray
    pose: np.ndarray
    K: np.ndarray
    points: np.ndarray
    colours: np.ndarray
    events: tuple[PlacedEvent, ...] = ()


@dataclass(frozen=True)
class ExportConfig:
    """Write an episode as one self-contained page.

    An episode is a saved world (.spatia: its keyframes are the film), what `RecordClips(arrays=True)` wrote
    (episode-0000.npz beside its .mp4), or a folder of such recordings, of which the last is taken.
    """

    episode: tyro.conf.Positional[Path]
    """The episode"""
    out: Path | None = None
    """File to write; beside the episode by default"""
    fps: float = 8.0
    """Frames a second of the film"""
    scale: int = 3
    """Factor by which the film enlarges the frames"""


def main(argv: list[str]) -> int:
    """Run `spatia export-html`."""
    config = tyro.cli(ExportConfig, args=argv, prog="spatia export-html")
    source = find(config.episode)
    page = render(read_episode(source), config.fps, config.scale)
    out = config.out or source.with_suffix(".html")
    write_text(out, page, "page")
    print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")
    return 0


def find(path: Path) -> Path:
    """The file of an episode; in a folder the last recording.

    Raises:
        ActionError: If there is none.
    """
    if path.is_dir():
        found = sorted(path.glob("*.npz")) or sorted(path.glob("*.spatia"))
        if not found:
            raise ActionError(
                f"{path}: holds no recording; wrap the environment in RecordClips(env, folder, arrays=True), "
                "or save the world with env.unwrapped.world.save('name.spatia')."
            )
        return found[-1]
    path = path.with_suffix(".npz") if path.suffix == ".mp4" else path
    if not path.is_file():
        raise ActionError(
            f"{path}: there is no such file; a film needs its arrays (RecordClips(arrays=True))."
        )
    return path


def read_episode(path: Path) -> Episode:
    """Read a saved world or a recording.

    Raises:
        WorldFormatError: If it is neither.
    """
    return _of_world(path) if path.suffix == ".spatia" else _of_recording(path)


def _of_world(path: Path) -> Episode:
    from spatia_env.world.world import World

    state = World.load(path).state
    poses = np.stack([keyframe.c2w.numpy() for keyframe in state.keyframes])
    frames = np.stack([keyframe.frame.numpy() for keyframe in state.keyframes])
    steps = [keyframe.step for keyframe in state.keyframes]
    events = []
    for row in state.ledger:
        frame = min(int(np.searchsorted(steps, row.step)), len(steps) - 1)
        events.append(PlacedEvent(frame, row.text, _ahead_of(poses[frame])))
    return _episode(state.prompt or path.stem, state, frames, poses, events)


def _of_recording(path: Path) -> Episode:
    try:
        # numpy leaves a file open that is no archive; this one is closed in any case
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = {"pose", "depth", "actions", "K"} - set(arrays.files)
            if missing:
                raise WorldFormatError(f"{path}: lacks {', '.join(sorted(missing))}; record it again.")
            pose, depth, K = (arrays[name].astype(np.float32) for name in ("pose", "depth", "K"))
            actions = [json.loads(str(line)) for line in arrays["actions"]]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as cause:
        if isinstance(cause, WorldFormatError):
            raise
        raise WorldFormatError(f"{path}: is not a recording of RecordClips ({cause}).") from cause
    frames = read_video(path.with_suffix(".mp4"))
    height, width = depth.shape[1:]
    factor = max(1, frames.shape[1] // height)
    frames = frames[:, : height * factor : factor, : width * factor : factor]
    if len(frames) != len(pose) or frames.shape[1:3] != depth.shape[1:]:
        raise WorldFormatError(f"{path}: {len(frames)} frames in the film, {len(pose)} poses in the arrays.")
    points, colours = cloud_of_frames(frames, depth, pose, K)
    per_step = (len(frames) - 1) // max(len(actions), 1)
    events = [
        PlacedEvent(1 + index * per_step, str(action["event"]), _ahead_of(pose[1 + index * per_step]))
        for index, action in enumerate(actions)
        if isinstance(action, dict) and action.get("event")
    ]
    return Episode(path.stem, frames, pose, K, points, colours, tuple(events))


def page_of_session(session: Any, fps: float = 8) -> str:
    """The page of the branch that a playground's session is in."""
    line = session.timeline.branch()
    clips = [moment.clip if moment.kind == "clip" else moment.clip.last() for moment in line]
    begins = np.cumsum([0, *(len(clip.frames) for clip in clips)]).tolist()
    events = [
        PlacedEvent(begin, moment.event, moment.place)
        for begin, moment in zip(begins, line, strict=False)
        if moment.event and moment.place is not None
    ]
    frames, poses = (np.concatenate([getattr(clip, name) for clip in clips]) for name in ("frames", "pose"))
    title = line[-1].state.prompt or line[0].caption
    return render(_episode(title, line[-1].state, frames, poses, events), fps)


def _episode(
    title: str, state: Any, frames: np.ndarray, poses: np.ndarray, events: list[PlacedEvent]
) -> Episode:
    """An episode whose cloud is the map of a world's state."""
    rows = state.memory.points()
    return Episode(title, frames, poses, state.K.numpy(), rows["position"], rows["colour"], tuple(events))


def cloud_of_frames(
    frames: np.ndarray, depth: np.ndarray, pose: np.ndarray, K: np.ndarray, every: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Points f32 [n, 3] and colours u8 [n, 3] that frames [N, H, W, 3] show, one a cell of `CELL` metres.

    Args:
        frames: u8.
        depth: z-depth [N, H, W] in metres, 0 = none.
        pose: c2w [N, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        every: Only every so-many-th frame is used, and the last.
    """
    used = np.unique([*range(0, len(frames), every), len(frames) - 1])
    seen = depth[used] > 0
    tensors = (torch.from_numpy(np.asarray(array, np.float32)) for array in (depth[used], K, pose[used]))
    position = unproject(*tensors).numpy()[seen]
    _, first = np.unique(np.floor(position / CELL).astype(np.int64), axis=0, return_index=True)
    first.sort()
    return position[first], frames[used][seen][first]


def render(episode: Episode, fps: float = 8, scale: int = 3) -> str:
    """The page as text.

    Raises:
        ActionError: If there are no frames.
    """
    if not len(episode.frames):
        raise ActionError("export-html: the episode has no frames.")
    film = written_bytes("film.mp4", lambda path: write_video(path, episode.frames, fps, scale))
    return fill(TEMPLATE.read_text(encoding="utf-8"), _content(episode, fps), film)


def fill(template: str, content: dict[str, Any], film: bytes) -> str:
    """The template with the content as JSON that no text can break out of, and the film in it."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)
    for character in "<>&":  # `</script>` in an event must stay inside its string
        text = text.replace(character, f"\\u{ord(character):04x}")
    return template.replace("__CONTENT__", text).replace("__FILM__", base64.b64encode(film).decode())


def _content(episode: Episode, fps: float) -> dict[str, Any]:
    keep = slice(None, None, -(-len(episode.points) // MAX_POINTS) or 1)
    points = np.asarray(episode.points[keep], np.float64).reshape(-1, 3)
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(3), np.ones(3))
    span = np.maximum(high - low, 1e-6)
    packed = np.rint((points - low) / span * 65535).astype("<u2")
    height, width = episode.frames.shape[1:3]
    return {
        "title": episode.title,
        "fps": fps,
        "size": [width, height],
        "focal": [float(episode.K[0, 0]), float(episode.K[1, 1])],
        "low": low.tolist(),
        "span": span.tolist(),
        "points": _packed(packed),
        "colours": _packed(np.ascontiguousarray(episode.colours[keep], np.uint8)),
        "poses": np.round(episode.pose[:, :3, :4].astype(np.float64), 5)
        .reshape(len(episode.pose), -1)
        .tolist(),
        "events": [{"frame": e.frame, "text": e.text, "place": list(e.place)} for e in episode.events],
    }


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _ahead_of(pose: Sequence[Any] | np.ndarray) -> tuple[float, float, float]:
    c2w = np.asarray(pose, np.float64)
    x, y, z = (c2w[:3, 3] + AHEAD * c2w[:3, 2]).tolist()
    return (x, y, z)
