"""The systems under test, and how each plays. This is the only module that knows the environment.

Systems with a model play through `make_env` and are given the start picture (with its depth where they say
so) and nothing else of the truth. Systems without one show what the environment's own map of that picture
gives, by `preview`.
"""

import importlib.util
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from spatia_env.bench import vision
from spatia_env.bench.episodes import FRAMES, Truth
from spatia_env.bench.guard import check_no_truth
from spatia_env.errors import ActionError

ENV_ID, WORLD_ID = "spatia_env:SpatiaPath-v0", "spatia_env:Spatia-v0"
TWIN_ID = "spatia_env:SpatiaSim-v0"


@dataclass(frozen=True)
class System:
    """A row of the tables.

    Attributes:
        name: As printed.
        summary: What it is, one line.
        kind: "model", "render" (the map of the start picture), "truth", "frozen", "overlay", "disc" (events
            alone) or "mirrored" (policies alone).
        options: Of the environment.
        depth: Whether the start picture comes with its depth.
        fill: For "render": what fills the holes: "", "inpaint" (OpenCV) or "surfaces" (planes that go on).
        needs: A module that it cannot do without.
    """

    name: str
    summary: str
    kind: str = "model"
    options: Mapping[str, Any] = field(default_factory=dict)
    depth: bool = False
    fill: str = ""
    needs: str = ""

    def missing(self) -> str:
        """Why it cannot play here, "" if it can."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"needs {self.needs}" + (
                ' (`pip install "spatia-env[bench]"`)' if self.needs == "cv2" else ""
            )
        unknown = sorted(set(self.options) - env_options())
        return f"this version's environment has no option {', '.join(unknown)}" if unknown else ""


PLAIN = {"imagination": False}
"""Of rows without a model: the map holds what was given and nothing else."""
SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System("oracle", "the simulator's own frames and depth, scored by the same code", "truth"),
        System("default", "the packaged checkpoint, started from the picture alone"),
        System("default-with-depth", "the same, started from the picture with its true depth", depth=True),
        System("no-memory", "nothing is remembered but the preceding frames", options={"memory": "none"}),
        System("no-references", "no pictures are retrieved", options={"references": 0}),
        System("no-imagination", "surroundings are not imagined ahead of the clip", options={"imagination": False}),
        System("memory-render-only", "the start picture's map rendered, holes left black, no model", "render", PLAIN),
        System(
            "memory+inpaint", "the same, holes filled by OpenCV, no model", "render", PLAIN, fill="inpaint", needs="cv2"
        ),
        System(
            "memory+surfaces", "the same, planes go on into the holes, no model", "render", PLAIN, fill="surfaces",
            needs="spatia_env.slam.plane_extrapolation",
        ),
        System("frozen-frame", "the start picture for ever", "frozen"),
        System("overlay", "solid rectangles in the right colours on the true way over true static frames", "overlay"),
        System("mirrored", "the default, but each observation is mirrored at random (policies alone)", "mirrored"),
        System("disc", "a solid disc of the true area around the true middle over true static frames", "disc"),
    )
}  # fmt: skip
MODELS = tuple(name for name, system in SYSTEMS.items() if system.kind == "model")
GIVEN = ("oracle", "default", "default-with-depth", "memory+inpaint", "frozen-frame")
"""Rows of groups about what was given or seen."""
NO_MODEL = ("memory-render-only", "memory+inpaint", "memory+surfaces", "frozen-frame")


def systems_of(names: Sequence[str]) -> list[System]:
    """Systems by name.

    Raises:
        ActionError: An unknown name.
    """
    unknown = sorted(set(names) - set(SYSTEMS))
    if unknown:
        raise ActionError(
            f"bench --systems: {', '.join(unknown)} does not exist; there are {', '.join(SYSTEMS)}."
        )
    return [SYSTEMS[name] for name in names]


# -- the one place where environments are made


def make_env(options: Mapping[str, Any], size: tuple[int, int], model: str | None, **more: Any) -> gym.Env:
    """The environment that a system plays in, paths as actions.

    A clip source other than the packaged model goes in here (`clip_source=`); the systems above need options
    alone.
    """
    named: dict[str, Any] = {} if model is None else {"model": model}
    return gym.make(ENV_ID, size=size, max_episode_steps=10_000, **named, **options, **more)


def make_task_env(
    simulated: bool, task: str, size: tuple[int, int], model: str | None, render_only: bool = False
) -> gym.Env:
    """The environment that policies act in, twists as actions: the generated world or the simulator.

    `render_only` shows the map's render in place of what the model makes of it.
    """
    named: dict[str, Any] = {} if model is None else {"model": model}
    if render_only:
        named["render_only"] = True
    world = TWIN_ID if simulated else WORLD_ID
    return gym.make(world, task=task, judge=True, size=size, block_collisions=False, **named)


def env_options() -> set[str]:
    """Names of the environment's options."""
    from spatia_env.env import SpatiaEnv

    return set(inspect.signature(SpatiaEnv.__init__).parameters)


# -- playing


@dataclass(frozen=True)
class Start:
    """What a world begins from: a scene's seed, or a picture u8 [H, W, 3] with intrinsics [3, 3], and its
    pose [4, 4].
    """

    c2w: np.ndarray
    scene: int | None = None
    image: np.ndarray | None = None
    K: np.ndarray | None = None

    def options(self, depth: bool) -> dict[str, Any]:
        """Options of `reset`."""
        if self.scene is not None:
            return {"scene": self.scene, "depth": depth}
        return {"image": self.image, "intrinsics": self.K, "pose": self.c2w}


@dataclass
class Rollout:
    """What a system showed: clips one after another.

    Attributes:
        frames: u8 [8 n, H, W, 3].
        depth: f32 [8 n, H, W], 0 = none.
        known: bool [8 n, H, W], shown or given before the step.
        render: What its map showed before each clip, u8 [8 n, H, W, 3]; None without a map.
        infos: The environment's `info` of every step.
        seconds: Wall time of every step.
    """

    frames: np.ndarray
    depth: np.ndarray
    known: np.ndarray
    render: np.ndarray | None = None
    infos: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class EnvPlayer:
    """Plays world poses through an environment."""

    def __init__(self, env: gym.Env, depth: bool) -> None:
        self.env, self.depth = env, depth
        self.last = np.eye(4)

    @property
    def unwrapped(self) -> Any:
        """The environment without Gymnasium's wrappers."""
        return self.env.unwrapped

    def open(self, start: Start, seed: int = 0) -> dict[str, Any]:
        """Begin a world; the observation."""
        observation, info = self.env.reset(seed=seed, options=start.options(self.depth))
        check_no_truth(observation, info)
        self.last = np.asarray(start.c2w, np.float64)
        return observation

    def action(self, path: np.ndarray, event: str = "") -> dict[str, Any]:
        """The environment's action for world poses [8, 4, 4]; a rest is exact, rounding must not make it a
        tiny move.
        """
        relative = np.linalg.inv(self.last) @ np.asarray(path, np.float64)
        relative = np.where(np.abs(relative - np.eye(4)) < 1e-7, np.eye(4), relative)
        return {"path": relative.astype(np.float32), "event": event}

    def play(self, path: np.ndarray, event: str = "") -> Rollout:
        """One step along world poses [8, 4, 4]."""
        begin = time.perf_counter()
        observation, _, _, _, info = self.env.step(self.action(path, event))
        seconds = time.perf_counter() - begin
        check_no_truth(observation, info)
        # The executed path: moves may stop before surfaces.
        self.last = np.asarray(observation["pose"][-1], np.float64)
        frames, depth, known = (np.asarray(observation[key]) for key in ("frames", "depth", "known"))
        render = info.get("debug", {}).get("scene_render")
        return Rollout(frames, depth, known > 0, render, [info], [seconds])

    def preview(self, path: np.ndarray) -> dict[str, np.ndarray]:
        """What the map shows along world poses [8, 4, 4]."""
        return self.unwrapped.preview(self.action(path))


def filled(seen: Mapping[str, np.ndarray], fill: str, path: np.ndarray, K: np.ndarray) -> Rollout:
    """A preview with its holes filled, as a rollout."""
    frames, depth, known = seen["scene_render"].copy(), seen["depth"].copy(), seen["known"] > 0
    if fill == "surfaces":
        frames, depth, reached = _with_surfaces(frames, depth, known, path, K)
    else:
        reached = known
    if fill:
        for index in range(len(frames)):
            rows, columns = nearest_known(reached[index])
            nearest = frames[index, rows, columns]
            frames[index] = vision.inpaint(frames[index], known[index]) if fill == "inpaint" else nearest
            depth[index] = depth[index, rows, columns]
    return Rollout(frames, depth, known, seen["scene_render"])


def _with_surfaces(
    frames: np.ndarray, depth: np.ndarray, known: np.ndarray, path: np.ndarray, K: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from spatia_env.slam.plane_extrapolation import continue_surfaces

    rgb = torch.from_numpy(frames).movedim(-1, 1).float() / 255
    poses, intrinsics = (torch.from_numpy(np.asarray(x, np.float32)) for x in (path, K))
    found = continue_surfaces(rgb, torch.from_numpy(depth), torch.from_numpy(known), poses, intrinsics)
    on = (found.depth > 0).numpy() & ~known
    colours = (found.rgb.movedim(1, -1) * 255).round().clamp(0, 255).byte().numpy()
    return np.where(on[..., None], colours, frames), np.where(on, found.depth.numpy(), depth), known | on


def nearest_known(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column [H, W] of the known pixel nearest to each pixel; its own where nothing is known."""
    if not known.any():
        own = np.indices(known.shape)
        return own[0], own[1]
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return nearest[0], nearest[1]


def joined(parts: Sequence[Rollout]) -> Rollout:
    """Clips one after another."""
    renders = [part.render for part in parts if part.render is not None]
    return Rollout(
        np.concatenate([part.frames for part in parts]),
        np.concatenate([part.depth for part in parts]),
        np.concatenate([part.known for part in parts]),
        np.concatenate(renders) if len(renders) == len(parts) else None,
        [info for part in parts for info in part.infos],
        [seconds for part in parts for seconds in part.seconds],
    )


class Players:
    """Environments by options, size and seconds; made when they are first needed. A context that closes
    them.
    """

    def __init__(self, model: str | None = None) -> None:
        self.model = model
        self._envs: dict[str, gym.Env] = {}

    def __enter__(self) -> "Players":
        return self

    def __exit__(self, *exc: object) -> None:
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def get(self, system: System, size: tuple[int, int], **more: Any) -> EnvPlayer:
        """The player of a system with a model (or of a "render" system, whose environment is the default's).

        Raises:
            ActionError: The checkpoint's clips have another length than the benchmark's episodes.
        """
        options = {"block_collisions": False, "debug": True} | more
        key = repr((sorted(system.options.items()), size, sorted(options.items())))
        if key not in self._envs:
            env = make_env(
                system.options, size, self.model, **{k: v for k, v in options.items() if v is not None}
            )
            frames = env.unwrapped.shape.num_frames  # type: ignore[attr-defined]
            if frames != FRAMES:
                env.close()
                raise ActionError(
                    f"bench: episodes have clips of {FRAMES} frames, this checkpoint makes {frames}."
                )
            self._envs[key] = env
        return EnvPlayer(self._envs[key], system.depth)

    def checkpoint_id(self, size: tuple[int, int] = (128, 128)) -> str:
        """Name and hash of the weights."""
        return str(self.get(SYSTEMS["default"], size).unwrapped.checkpoint_id)

    def roll(self, system: System, truth: Truth, seed: int = 0, start: Start | None = None) -> Rollout:
        """A system's clips along an episode's path."""
        start = start or Start(truth.c2w[0], truth.scene)
        if system.kind == "truth":
            return Rollout(truth.frames[1:], truth.depth[1:], truth.seen_before[1:])
        if system.kind == "frozen":
            count = len(truth.frames) - 1
            frames, depth = (np.repeat(x[:1], count, 0) for x in (truth.frames, truth.depth))
            return Rollout(frames, depth, np.ones(depth.shape, bool))
        player = self.get(system, truth.size)
        player.open(start, seed)
        clips = [truth.c2w[truth.clip(i)] for i in range(truth.clips)]
        if system.kind == "render":
            return joined([filled(player.preview(path), system.fill, path, truth.K) for path in clips])
        return joined([player.play(path) for path in clips])
