"""Views of the environment for reinforcement learning, and recording.

The wrappers need only the observation `Dict(frames, depth, pose, known)` and the action `Dict(camera, event)`
of `Spatia-v0`, not the environment's inside. `make_rl` and `make_discrete` are the entry points of the two
ids that learning libraries read as they come.
"""

import json
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from spatia_env.actions import EVENTS, MOVES, decode_discrete
from spatia_env.errors import ActionError
from spatia_env.poses import invert
from spatia_env.video import VideoWriter

DEPTH_RANGE = 10.0
"""Metres that the last value, 255, of a depth byte stands for; farther is 255 too."""


def depth_to_bytes(depth: np.ndarray) -> np.ndarray:
    """z-depth in metres as uint8: 0 none, 1 to 255 for up to 10 m and beyond."""
    steps = np.clip(np.round(depth * (255 / DEPTH_RANGE)), 1, 255)
    return np.where(depth > 0, steps, 0).astype(np.uint8)


class LastFrameObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """The last frame of each clip, in the shapes image policies read.

    `Dict(image u8 [H, W, 3], depth u8 [H, W, 1], pose f32 [16])`: depth by `depth_to_bytes`; pose is the
    row-major `c2w` relative to the first pose of the episode.

    Args:
        env: An environment that observes `Dict(frames, depth, pose, ...)`.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        given = _clip_spaces(env, "LastFrameObservation")
        height, width = given["frames"].shape[1:3]
        # Two poses within the bounds of `pose` lie at most this far apart.
        reach = 2 * float(np.linalg.norm(given["pose"].high[0, :3, 3].astype(np.float64)))
        bound = np.ones((4, 4), dtype=np.float32)
        bound[:3, 3] = reach
        pose = spaces.Box(-bound.reshape(16), bound.reshape(16), dtype=np.float32)
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (height, width, 3), np.uint8),
                "depth": spaces.Box(0, 255, (height, width, 1), np.uint8),
                "pose": pose,
            }
        )
        self._pose_space = pose
        self._first_w2c = np.eye(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Reset, and take the new first pose as the origin of `pose`."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._first_w2c = invert(observation["pose"][-1].astype(np.float64))
        return self.observation(observation), info

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The last frame of a clip's observation."""
        pose = (self._first_w2c @ observation["pose"][-1]).astype(np.float32).reshape(16)
        box = self._pose_space
        return {
            "image": observation["frames"][-1].copy(),
            "depth": depth_to_bytes(observation["depth"][-1])[..., None],
            # A product of rotations may exceed 1 by a rounding error.
            "pose": np.clip(pose, box.low, box.high),
        }


class DiscreteActions(gym.ActionWrapper, RecordConstructorArgs):
    """`MultiDiscrete([moves, events])` in place of a twist and a text; index 0 of either is none.

    The meanings are `spatia_env.actions.MOVES` and `EVENTS`, which are only ever appended to. A policy
    trained with fewer can be kept by `num_events`.

    Args:
        env: An environment that takes `Dict(camera, event)`.
        num_events: How many of the events to offer; None offers all.
    """

    def __init__(self, env: gym.Env, num_events: int | None = None) -> None:
        RecordConstructorArgs.__init__(self, num_events=num_events)
        gym.ActionWrapper.__init__(self, env)
        _check_camera_action(env, "DiscreteActions")
        self.num_events = len(EVENTS) if num_events is None else num_events
        if not 1 <= self.num_events <= len(EVENTS):
            raise ActionError(f"DiscreteActions: num_events is {num_events}; there are 1 to {len(EVENTS)}.")
        self.action_space = spaces.MultiDiscrete([len(MOVES), self.num_events])

    def action(self, action: Any) -> dict[str, Any]:
        """The twist and the text of a pair (move, event).

        Raises:
            ActionError: If it is not two integers within the lists.
        """
        camera, event = decode_discrete(action, self.num_events)
        return {"camera": camera, "event": event}


class FlatCamera(gym.ActionWrapper, RecordConstructorArgs):
    """`Box(-1, 1, (6,))`: the camera alone, and no events.

    Args:
        env: An environment that takes `Dict(camera, event)`.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        _check_camera_action(env, "FlatCamera")
        self.action_space = spaces.Box(-1, 1, (6,), np.float32)

    def action(self, action: Any) -> dict[str, Any]:
        """The twist, with no event."""
        return {"camera": action, "event": ""}


class RecordClips(gym.Wrapper, RecordConstructorArgs):
    """Record every frame of every clip: one mp4 an episode, and on request its arrays.

    Gymnasium's own recorder keeps one frame a step. Frames come from the observation, or, where a wrapper
    beneath has taken them away, from `render()` in the mode "rgb_array_list", whose list is the last clip.

    Files are `{prefix}-{episode:04d}.mp4` and `.npz`; episodes are numbered on from what the folder holds,
    nothing is overwritten. The npz holds `pose` f32 [N, 4, 4], `depth` f16 [N, H, W] metres, `known` bool [N,
    H, W], `reward` [steps] and `actions`, one JSON text a step; of a `SpatiaEnv` also `K` f32 [3, 3] in pixels.

    Args:
        env: The environment.
        folder: Where to write; it is made.
        prefix: Beginning of the file names.
        fps: Frames a second of the film.
        scale: Whole factor by which frames are enlarged.
        arrays: Whether to write the npz, which needs the full observation.
    """

    def __init__(
        self,
        env: gym.Env,
        folder: str | Path,
        prefix: str = "episode",
        fps: float = 8,
        scale: int = 1,
        arrays: bool = False,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, folder=str(folder), prefix=prefix, fps=fps, scale=scale, arrays=arrays
        )
        gym.Wrapper.__init__(self, env)
        self._sees_clips = _observes_clips(env)
        if not self._sees_clips and env.render_mode != "rgb_array_list":
            raise ActionError(
                "RecordClips: the frames are not in this observation; wrap Spatia-v0 itself, or make the "
                "environment with render_mode='rgb_array_list'."
            )
        if arrays and not self._sees_clips:
            raise ActionError("RecordClips: arrays=True needs the full observation; wrap Spatia-v0 itself.")
        if Path(prefix).name != prefix:
            raise ActionError(f"RecordClips: prefix {prefix!r} is not a plain file name.")
        self.folder = Path(folder)
        self.prefix = prefix
        self.fps, self.scale, self.arrays = fps, scale, arrays
        self._writer: VideoWriter | None = None
        self._rows: dict[str, list[Any]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Finish the film of the last episode, if any, and begin a new one with the first frame."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.finish()
        self._writer = VideoWriter(self._next_path(), self.fps, self.scale)
        self._rows = {"pose": [], "depth": [], "known": [], "reward": [], "actions": []}
        self._append(observation, slice(-1, None))
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Step, and add the clip; the file is complete when the episode has ended."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._writer is not None:
            self._append(observation, slice(None))
            if self.arrays:
                self._rows["reward"].append(float(reward))
                self._rows["actions"].append(json.dumps(action, default=_jsonable, ensure_ascii=False))
            if terminated or truncated:
                self.finish()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Finish the film and close the environment."""
        self.finish()
        self.env.close()

    def finish(self) -> None:
        """Complete the files of the running episode; later steps are not recorded until the next reset."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.close()
        if self.arrays:
            self._write_arrays(writer.path.with_suffix(".npz"))

    def _append(self, observation: Any, which: slice) -> None:
        assert self._writer is not None
        clip: Any = observation["frames"] if self._sees_clips else self.env.render()
        self._writer.append(np.asarray(clip)[which])
        if self.arrays:
            self._rows["pose"].append(observation["pose"][which].astype(np.float32))
            self._rows["depth"].append(observation["depth"][which].astype(np.float16))
            self._rows["known"].append(observation["known"][which] > 0)

    def _write_arrays(self, path: Path) -> None:
        rows = self._rows
        part = path.with_name(f".{path.stem}.{os.getpid()}.part.npz")
        np.savez_compressed(
            part,
            **_intrinsics_of(self.env),  # type: ignore[arg-type]
            pose=np.concatenate(rows["pose"]),
            depth=np.concatenate(rows["depth"]),
            known=np.concatenate(rows["known"]),
            reward=np.array(rows["reward"], dtype=np.float64),
            actions=np.array(rows["actions"], dtype=str),
        )
        os.replace(part, path)

    def _next_path(self) -> Path:
        taken = [
            path.stem.removeprefix(f"{self.prefix}-") for path in self.folder.glob(f"{self.prefix}-*.mp4")
        ]
        number = max((int(stem) + 1 for stem in taken if stem.isdigit()), default=0)
        return self.folder / f"{self.prefix}-{number:04d}.mp4"


def make_rl(**kwargs: Any) -> gym.Env:
    """Entry point of `SpatiaRL-v0`: last frame, camera as a Box; arguments as `SpatiaEnv` takes them."""
    return FlatCamera(LastFrameObservation(_make_base(kwargs)))


def make_discrete(num_events: int | None = None, **kwargs: Any) -> gym.Env:
    """Entry point of `SpatiaDiscrete-v0`: last frame, moves and events by number; else as `make_rl`."""
    return DiscreteActions(LastFrameObservation(_make_base(kwargs)), num_events)


class SceneStart(gym.Wrapper, RecordConstructorArgs):
    """Episodes begin in simulated scenes only, and the first picture comes with its depth.

    Args:
        env: An environment whose clips are the simulator's.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """As the environment's.

        Raises:
            ActionError: For an image or a saved world, which have no simulator.
        """
        options = dict(options or {})
        if options.get("image") is not None or options.get("world") is not None:
            raise ActionError("SpatiaSim-v0: opens scenes only; use Spatia-v0 for pictures and saved worlds.")
        return self.env.reset(seed=seed, options=options | {"depth": True})


def make_simulated(view: str = "", num_events: int | None = None, **options: Any) -> gym.Env:
    """Entry point of `SpatiaSim-v0`: the simulator with the contract of `Spatia-v0`.

    Frames, depth and masks are the simulator's, poses are the commanded ones, and the map is built from them by the
    same memory, so tasks, rewards, previews, forks and planners mean the same in both worlds. It is no world model.
    Events are accepted and do nothing.

    Args:
        view: "", "rl" or "discrete", see `view_env`.
        num_events: Of the discrete view.
        **options: Of `SpatiaEnv`.
    """
    from spatia_env.env import SpatiaEnv
    from spatia_env.models.loading import load_checkpoint
    from spatia_env.sim.clip_source import SimulatedScene
    from spatia_env.slam.pipeline import Slam

    checkpoint = load_checkpoint(options.get("model", "spatia-tiny"), options.get("model_options"))
    scene = SimulatedScene(checkpoint.pipeline.shape)
    slam = Slam(scene, track=False, extend_planes=False)
    env = SpatiaEnv(**(options | {"slam": slam, "clip_source": scene, "judge": True}))
    return view_env(SceneStart(env), view, num_events)


def view_env(env: gym.Env, view: str = "", num_events: int | None = None) -> gym.Env:
    """`env` as `Spatia-v0` ("") shows it, `SpatiaRL-v0` ("rl") or `SpatiaDiscrete-v0` ("discrete").

    Raises:
        ActionError: If there is no such view.
    """
    if view == "rl":
        return FlatCamera(LastFrameObservation(env))
    if view == "discrete":
        return DiscreteActions(LastFrameObservation(env), num_events)
    if view:
        raise ActionError(f"view={view!r}: use '', 'rl' or 'discrete'.")
    return env


def _make_base(kwargs: dict[str, Any]) -> gym.Env:
    from spatia_env.env import SpatiaEnv

    return SpatiaEnv(**kwargs)


def _observes_clips(env: gym.Env) -> bool:
    space = env.observation_space
    return isinstance(space, spaces.Dict) and {"frames", "depth", "pose"} <= set(space.spaces)


def _clip_spaces(env: gym.Env, wrapper: str) -> Any:
    if not _observes_clips(env):
        raise ActionError(f"{wrapper}: needs the observation Dict(frames, depth, pose, known) of Spatia-v0.")
    return env.observation_space


def _intrinsics_of(env: gym.Env) -> dict[str, np.ndarray]:
    """`{"K": [3, 3]}` where the environment beneath has a world with a camera, which `export-html` needs."""
    K = getattr(getattr(getattr(env.unwrapped, "world", None), "state", None), "K", None)
    return {} if K is None else {"K": np.asarray(K, dtype=np.float32)}


def _check_camera_action(env: gym.Env, wrapper: str) -> None:
    space = env.action_space
    if not (isinstance(space, spaces.Dict) and set(space.spaces) == {"camera", "event"}):
        raise ActionError(f"{wrapper}: needs the action Dict(camera, event) of Spatia-v0.")


def _jsonable(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
