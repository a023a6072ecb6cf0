"""The playground without a screen: one environment, a tree of moments, and requests that wait their turn.

Everything that changes the world is a job of the queue, so the environment is used by one thread only. Reading
is free: states are immutable, so previews, films and clouds are made from whatever moment is now, on any thread.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.actions import MAX_EVENT_LENGTH, normalise_text
from spatia_env.errors import ViewerError
from spatia_env.geometry import unproject
from spatia_env.io.video import VideoWriter
from spatia_env.viewer.history import Clip, Moment, Timeline
from spatia_env.viewer.jobs import Job, JobQueue
from spatia_env.viewer.paths import Path as CameraPath
from spatia_env.viewer.saved_worlds import Library
from spatia_env.world.observation import to_bytes

MAX_VARIANTS = 8
AHEAD = 1.5
"""Metres ahead of the camera where an event is marked that nothing was seen to move in."""
Listener = Callable[[str], None]
"""Told "queue" (a job came, moved on or ended), "moment" (now is another) or "world" (another world)."""


class Session:
    """One world, walked by whoever asks.

    Args:
        env: A `SpatiaEnv` with `action="path"`, `debug=True` and `timings=True`; the session closes it.
        library: Where worlds are saved.
        read_only: Refuse whatever would change the world or write a file.
    """

    def __init__(self, env: Any, library: Library, read_only: bool = False) -> None:
        self.env, self.library, self.read_only = env, library, read_only
        self.timeline = Timeline()
        self.num_frames: int = env.shape.num_frames
        self.expected_seconds = 2.0
        self.last_error = ""
        self._listeners: list[Listener] = []
        self._done: dict[int, tuple[int, int]] = {}  # id(job) -> clips done, clips asked for
        self.queue = JobQueue(lambda: self._tell("queue"))

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` on changes, from any thread."""
        self._listeners.append(listener)

    def open(self, options: dict[str, Any], caption: str, seed: int = 0) -> None:
        """Begin in another world, at once; for use before the first request, and inside jobs.

        Raises:
            SpatiaError: As `SpatiaEnv.reset` does; the world stays as it was.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        timeline = Timeline()
        numbers = {"points": float(info["memory"]["points"])}
        timeline.add("start", caption, "", self.env.snapshot(), _standing_clip(observation), numbers=numbers)
        self.timeline = timeline
        self._tell("world")

    @property
    def now(self) -> Moment:
        """The moment that the session is in."""
        return self.timeline.now

    def close(self) -> None:
        """End after what runs."""
        self.queue.close()
        self.env.close()

    # -- reading: on any thread --------------------------------------------------------------------------

    def preview(self, c2w: Tensor) -> tuple[np.ndarray, float]:
        """What memory shows from a pose [4, 4]: u8 [H, W, 3], and the share of it that is known."""
        state = self.now.state
        view = state.memory.render(c2w[None].float(), state.K, *state.size)
        return to_bytes(view.rgb)[0], float(view.known.float().mean())

    def film(self, moment_id: int | None = None) -> np.ndarray:
        """All frames u8 [N, H, W, 3] from the start to a moment; edits show the picture before them once more."""
        line = self.timeline.branch(moment_id)
        return np.concatenate(
            [moment.clip.frames if moment.kind == "clip" else moment.clip.frames[-1:] for moment in line]
        )

    def film_bytes(self, moment_id: int | None = None, fps: float = 8, scale: int = 3) -> bytes:
        """`film` as an mp4."""
        with tempfile.TemporaryDirectory(prefix="spatia-") as folder:
            path = Path(folder) / "walk.mp4"
            with VideoWriter(path, fps, scale) as writer:
                writer.append(self.film(moment_id))
            return path.read_bytes()

    def cloud_bytes(self) -> bytes:
        """The map of now as a PLY."""
        from spatia_env.io.ply import write_ply

        with tempfile.TemporaryDirectory(prefix="spatia-") as folder:
            path = Path(folder) / "world.ply"
            write_ply(path, self.now.state.memory.to_cloud())
            return path.read_bytes()

    def progress(self, job: Job, now: float) -> float:
        """How far a running job is, 0 to 1: clips done, and a guess from the time of the last."""
        done, count = self._done.get(id(job), (0, 1))
        part = min(0.95, (now - job.began) / max(self.expected_seconds, 0.05) - done)
        return min(1.0, (done + max(part, 0.0)) / count)

    # -- requests: each returns at once ------------------------------------------------------------------

    def walk(self, path: CameraPath, event: str, caption: str, owner: int | None = None) -> Job:
        """Follow a path; the event belongs to its first clip.

        Raises:
            PromptError: If the event is not text that prints.
            ViewerError: If it is read-only, the queue or the timeline is full.
        """
        self._check_writable()
        event = normalise_text(event, "event", MAX_EVENT_LENGTH)
        self.timeline.check_room(len(path))
        label = f"{caption}: {event}" if event else caption
        return self.queue.submit(label, owner, lambda job: self._walk(job, path, event, caption))

    def variants(
        self, path: CameraPath, events: Sequence[str], caption: str, owner: int | None = None
    ) -> Job:
        """Follow the same path from now once for each event ("" for none), as siblings; now is then the last.

        Raises:
            PromptError, ViewerError: As `walk` does.
        """
        self._check_writable()
        words = list(dict.fromkeys(normalise_text(event, "event", MAX_EVENT_LENGTH) for event in events))
        if not 1 <= len(words) <= MAX_VARIANTS:
            raise ViewerError(f"choose one to {MAX_VARIANTS} events for the same path.")
        self.timeline.check_room(len(words) * len(path))
        label = f"{caption}: {len(words)} events side by side"
        return self.queue.submit(label, owner, lambda job: self._variants(job, path, words, caption))

    def change(self, caption: str, edit: Callable[[Any], Any], owner: int | None = None) -> Job:
        """Edit the world: `edit` is called with `world.edit` when the job's turn has come."""
        self._check_writable()
        self.timeline.check_room()
        return self.queue.submit(caption, owner, lambda job: self._change(caption, edit))

    def jump(self, moment_id: int, owner: int | None = None) -> Job:
        """Return to a moment; what is done next opens a branch there."""
        self._check_writable()
        self.timeline[moment_id]
        return self.queue.submit(f"to moment {moment_id}", owner, lambda job: self._jump(moment_id))

    def save(self, name: str, owner: int | None = None) -> Job:
        """Save the world of now under a name; see `Library.path`."""
        self._check_writable()
        path = self.library.path(name)
        return self.queue.submit(f"save {name}", owner, lambda job: self._save(path))

    def load(self, name: str, owner: int | None = None) -> Job:
        """Open a saved world."""
        self._check_writable()
        path = self.library.existing(name)
        return self.queue.submit(
            f"open {name}", owner, lambda job: self.open({"world": str(path)}, f"world {name}")
        )

    def begin(self, options: dict[str, Any], caption: str, owner: int | None = None) -> Job:
        """Open a scene or a photograph; `options` as `SpatiaEnv.reset` takes them, never from a client as they are."""
        self._check_writable()
        return self.queue.submit(f"open {caption}", owner, lambda job: self.open(options, caption))

    # -- jobs: on the queue's thread ---------------------------------------------------------------------

    def _walk(self, job: Job, path: CameraPath, event: str, caption: str) -> None:
        for index, poses in enumerate(path):
            self._done[id(job)] = (index, len(path))
            words = caption if len(path) == 1 else f"{caption} {index + 1}/{len(path)}"
            self._step(poses, event if index == 0 else "", words)
        del self._done[id(job)]

    def _variants(self, job: Job, path: CameraPath, events: Sequence[str], caption: str) -> None:
        origin, total = self.now.id, len(events) * len(path)
        first = len(self.timeline)
        for row, event in enumerate(events):
            self._jump(origin, tell=False)
            for index, poses in enumerate(path):
                self._done[id(job)] = (row * len(path) + index, total)
                self._step(poses, event if index == 0 else "", caption, group=(first, index))
        del self._done[id(job)]

    def _step(
        self, poses: np.ndarray, event: str, caption: str, group: tuple[int, int] | None = None
    ) -> None:
        before = self.now
        observation, _, _, _, info = self.env.step({"path": poses.astype(np.float32), "event": event})
        seconds = float(info["seconds"]["total"])
        self.expected_seconds = 0.5 * self.expected_seconds + 0.5 * seconds
        clip = _clip_of(observation, info["debug"])
        numbers = {
            "points": float(info["memory"]["points"]),
            "added": float(info["memory"]["added"]),
            "seconds": seconds,
            "known": float(clip.known.mean()),
        }
        if info["revisit"]:
            numbers["revisit_psnr"] = float(info["revisit"]["psnr"])
        place = place_of(clip, before.state.K) if event else None
        after = self.env.snapshot()
        self.timeline.add("clip", caption, event, after, clip, numbers=numbers, place=place, group=group)
        self._tell("moment")

    def _change(self, caption: str, edit: Callable[[Any], Any]) -> None:
        before, world = self.now, self.env.world
        edit(world.edit)
        numbers = {"points": float(world.memory.num_points)}
        shown = dataclasses.replace(before.clip, **_rendered(world, before.clip.pose[-1:]))
        self.timeline.add("edit", caption, "", self.env.snapshot(), shown, numbers=numbers)
        self._tell("moment")

    def _jump(self, moment_id: int, tell: bool = True) -> None:
        self.env.restore(self.timeline.go(moment_id).state)
        if tell:
            self._tell("moment")

    def _save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.env.world.save(path)
        self._tell("library")

    def _check_writable(self) -> None:
        if self.read_only:
            raise ViewerError("the playground is read-only (`spatia view --read-only`).")

    def _tell(self, what: str) -> None:
        for listener in tuple(self._listeners):
            listener(what)


def place_of(clip: Clip, K: Tensor) -> tuple[float, float, float]:
    """Where a clip's event is: the middle of what moved in it, else a point ahead of its last pose, in metres."""
    moving = clip.dynamic & (clip.depth > 0)
    if moving.sum() >= 20:
        frame = int(moving.sum((1, 2)).argmax())
        depth, c2w = (
            torch.from_numpy(clip.depth[frame].astype(np.float32)),
            torch.from_numpy(clip.pose[frame]),
        )
        points = unproject(depth[None], K, c2w[None])[0].numpy()[moving[frame]]
        x, y, z = np.median(points, axis=0).tolist()
    else:
        x, y, z = (clip.pose[-1][:3, 3] + AHEAD * clip.pose[-1][:3, 2]).tolist()
    return (x, y, z)


def _clip_of(observation: dict[str, np.ndarray], debug: dict[str, Any]) -> Clip:
    return Clip(
        frames=observation["frames"],
        depth=observation["depth"].astype(np.float16),
        pose=observation["pose"],
        known=observation["known"] > 0,
        scene_render=debug["scene_render"],
        references=debug["references"],
        scores=tuple(float(score) for score in debug["scores"]),
        dynamic=debug["dynamic"] > 0.5,
    )


def _standing_clip(observation: dict[str, np.ndarray]) -> Clip:
    frames = observation["frames"]
    size = frames.shape[1:3]
    debug = {
        "scene_render": frames,
        "references": np.zeros((0, *size, 3), np.uint8),
        "scores": (),
        "dynamic": np.zeros(observation["depth"].shape, np.float32),
    }
    return _clip_of(observation, debug).last()


def _rendered(world: Any, pose: np.ndarray) -> dict[str, Any]:
    """What memory shows at the last pose after an edit, in the members of a `Clip` of one frame."""
    view = world.render(torch.from_numpy(pose))
    rgb = to_bytes(view.rgb)
    return {
        "frames": rgb,
        "scene_render": rgb,
        "depth": view.depth.numpy().astype(np.float16),
        "known": view.known.numpy(),
        "pose": pose,
        "dynamic": np.zeros(view.known.shape, bool),
    }
