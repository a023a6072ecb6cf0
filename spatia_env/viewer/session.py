"""The playground without a screen: one environment, a tree of moments, and requests that wait their turn.

Everything that changes the world is a job of the queue, so the environment is used by one thread only. Reading
is free: states are immutable, so previews, films and clouds are made from whatever moment is now, on any thread.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.errors import ViewerError
from spatia_env.geometry import unproject
from spatia_env.io.frames import to_uint8
from spatia_env.io.validation import MAX_EVENT_LENGTH, normalise_text
from spatia_env.io.video import write_video
from spatia_env.viewer.files import SavedWorlds, written_bytes
from spatia_env.viewer.jobs import Job, JobQueue
from spatia_env.viewer.paths import Path, to_view
from spatia_env.viewer.timeline import Clip, Moment, Timeline

MAX_VARIANTS = 8
TO_VIEW = "to my view"
"""Label of walks to where a browser's camera looks."""
AHEAD = 1.5
"""Metres ahead of the camera where an event is marked that nothing was seen to move in."""
Listener = Callable[[str], None]
"""Told "queue" (a job came, moved on or ended), "moment" (now is another), "world" (another world) or "saved"."""


class Session:
    """One world, walked by whoever asks.

    Args:
        env: A `SpatiaEnv` with `action="path"`, `debug=True` and `timings=True`; the session closes it.
        saved: Where worlds are saved.
        read_only: Refuse whatever would change the world or write a file.
    """

    def __init__(self, env: Any, saved: SavedWorlds, read_only: bool = False) -> None:
        self.env, self.saved, self.read_only = env, saved, read_only
        self.timeline = Timeline()
        self.num_frames: int = env.shape.num_frames
        self._step_seconds = 2.0
        self._listeners: list[Listener] = []
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
        timeline.add("start", caption, "", self.env.snapshot(), _first_clip(observation), numbers=numbers)
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
        return to_uint8(view.rgb)[0].numpy(), float(view.known.float().mean())

    def film(self, moment_id: int | None = None) -> np.ndarray:
        """All frames u8 [N, H, W, 3] from the start to a moment; edits show the picture before them once more."""
        line = self.timeline.branch(moment_id)
        return np.concatenate(
            [moment.clip.frames if moment.kind == "clip" else moment.clip.frames[-1:] for moment in line]
        )

    def film_bytes(self, fps: float = 8, scale: int = 3) -> bytes:
        """`film` as an mp4."""
        return written_bytes("walk.mp4", lambda path: write_video(path, self.film(), fps, scale))

    def cloud_bytes(self) -> bytes:
        """The map of now as a PLY."""
        from spatia_env.io.ply import write_ply

        cloud = self.now.state.memory.to_cloud()
        return written_bytes("world.ply", lambda path: write_ply(path, cloud))

    def progress(self, job: Job, now: float) -> float:
        """How far a running job is, in [0, 1]: steps done, and a guess from the time of the last ones."""
        done, count = job.steps
        part = min(0.95, (now - job.began) / max(self._step_seconds, 0.05) - done)
        return min(1.0, (done + max(part, 0.0)) / count)

    # -- requests: each returns at once ------------------------------------------------------------------

    def walk(self, path: Path, event: str, caption: str, owner: int | None = None) -> Job:
        """Follow a path; the event belongs to its first clip.

        Raises:
            PromptError: If the event is not text that prints.
            ViewerError: If it is read-only, the queue or the timeline is full.
        """
        self._check_writable(len(path))
        event = normalise_text(event, "event", MAX_EVENT_LENGTH)
        label = f"{caption}: {event}" if event else caption
        return self.queue.submit(label, owner, lambda job: self._walk(job, path, event, caption))

    def walk_to(self, c2w: Tensor, owner: int | None = None) -> Job:
        """Walk to a pose [4, 4].

        Raises:
            ActionError: If it is too far away for one request.
            ViewerError: As `walk` does.
        """
        return self.walk(to_view(self.now.state.c2w, c2w, self.num_frames), "", TO_VIEW, owner)

    def variants(self, path: Path, events: Sequence[str], caption: str, owner: int | None = None) -> Job:
        """Follow the same path from now once for each event ("" for none), as siblings; now is then the last.

        Raises:
            PromptError, ViewerError: As `walk` does.
        """
        self._check_writable(len(events) * len(path))
        words = list(dict.fromkeys(normalise_text(event, "event", MAX_EVENT_LENGTH) for event in events))
        if not 1 <= len(words) <= MAX_VARIANTS:
            raise ViewerError(f"choose one to {MAX_VARIANTS} events for the same path.")
        label = f"{caption}: {len(words)} events side by side"
        return self.queue.submit(label, owner, lambda job: self._variants(job, path, words, caption))

    def change(self, caption: str, edit: Callable[[Any], Any], owner: int | None = None) -> Job:
        """Edit the world: `edit` is called with `world.edit` when the job's turn has come."""
        self._check_writable(1)
        return self.queue.submit(caption, owner, lambda job: self._change(caption, edit))

    def jump(self, moment_id: int, owner: int | None = None) -> Job:
        """Return to a moment; what is done next opens a branch there."""
        self._check_writable()
        self.timeline[moment_id]
        return self.queue.submit(f"to moment {moment_id}", owner, lambda job: self._jump(moment_id))

    def save(self, name: str, owner: int | None = None) -> Job:
        """Save the world of now under a name; see `SavedWorlds.path`."""
        self._check_writable()
        path = self.saved.path(name)
        return self.queue.submit(f"save {name}", owner, lambda job: self._save(path))

    def load(self, name: str, owner: int | None = None) -> Job:
        """Open a saved world."""
        self._check_writable()
        return self.begin({"world": str(self.saved.existing(name))}, f"world {name}", owner)

    def begin(self, options: dict[str, Any], caption: str, owner: int | None = None) -> Job:
        """Open a scene or a photograph; `options` as `SpatiaEnv.reset` takes them, never from a client as they are."""
        self._check_writable()
        return self.queue.submit(f"open {caption}", owner, lambda job: self.open(options, caption))

    # -- jobs: on the queue's thread ---------------------------------------------------------------------

    def _walk(self, job: Job, path: Path, event: str, caption: str) -> None:
        for index, poses in enumerate(path):
            if job.stopping:
                return
            job.steps = (index, len(path))
            words = caption if len(path) == 1 else f"{caption} {index + 1}/{len(path)}"
            self._step(poses, event if index == 0 else "", words)

    def _variants(self, job: Job, path: Path, events: Sequence[str], caption: str) -> None:
        origin, first = self.now.id, len(self.timeline)
        for row, event in enumerate(events):
            if job.stopping:
                return
            self.env.restore(self.timeline.go(origin).state)
            for index, poses in enumerate(path):
                job.steps = (row * len(path) + index, len(events) * len(path))
                self._step(poses, event if index == 0 else "", caption, group=(first, index))

    def _step(
        self, poses: np.ndarray, event: str, caption: str, group: tuple[int, int] | None = None
    ) -> None:
        before = self.now
        observation, _, _, _, info = self.env.step({"path": poses.astype(np.float32), "event": event})
        seconds = float(info["seconds"]["total"])
        self._step_seconds = 0.5 * self._step_seconds + 0.5 * seconds
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
        shown = dataclasses.replace(before.clip, **_rendered(world, before.clip.pose[-1:]))
        numbers = {"points": float(world.memory.num_points)}
        self.timeline.add("edit", caption, "", self.env.snapshot(), shown, numbers=numbers)
        self._tell("moment")

    def _jump(self, moment_id: int) -> None:
        self.env.restore(self.timeline.go(moment_id).state)
        self._tell("moment")

    def _save(self, path: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.env.world.save(path)
        self._tell("saved")

    def _check_writable(self, moments: int = 0) -> None:
        if self.read_only:
            raise ViewerError("the playground is read-only (`spatia view --read-only`).")
        self.timeline.check_room(moments)

    def _tell(self, what: str) -> None:
        for listener in tuple(self._listeners):
            listener(what)


def place_of(clip: Clip, K: Tensor) -> tuple[float, float, float]:
    """Where a clip's event is: the middle of what moved in it, else a point ahead of its last pose, in metres."""
    moving = clip.dynamic & (clip.depth > 0)
    x, y, z = (clip.pose[-1][:3, 3] + AHEAD * clip.pose[-1][:3, 2]).tolist()
    if moving.sum() >= 20:
        frame = slice(at := int(moving.sum((1, 2)).argmax()), at + 1)
        points = unproject(torch.from_numpy(clip.depth[frame]).float(), K, torch.from_numpy(clip.pose[frame]))
        x, y, z = np.median(points.numpy()[moving[frame]], axis=0).tolist()
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


def _first_clip(observation: dict[str, np.ndarray]) -> Clip:
    frames = observation["frames"]
    nothing = np.zeros(frames.shape[:3], np.float32)
    debug = {"scene_render": frames, "references": frames[:0], "scores": (), "dynamic": nothing}
    return _clip_of(observation, debug).last()


def _rendered(world: Any, pose: np.ndarray) -> dict[str, Any]:
    """What memory shows at a pose [1, 4, 4] after an edit, as members of a `Clip` of one frame."""
    view = world.render(torch.from_numpy(pose))
    rgb = to_uint8(view.rgb).numpy()
    return {
        "frames": rgb,
        "scene_render": rgb,
        "depth": view.depth.numpy().astype(np.float16),
        "known": view.known.numpy(),
        "pose": pose,
        "dynamic": np.zeros(view.known.shape, bool),
    }
