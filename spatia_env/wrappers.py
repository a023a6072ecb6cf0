"""Views of the environment for reinforcement learning, and recording.

The wrappers need only the observation `Dict(frames, depth, pose, known)` and the action `Dict(camera, event)`
of `Spatia-v0`, not the environment's inside. `make_rl` and `make_discrete` are the entry points of the two
ids that learning libraries read as they come.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from spatia_env.actions import EVENTS, MOVES, decode_discrete
from spatia_env.errors import ActionError, EditError, WorldFullError
from spatia_env.geometry import invert_se3
from spatia_env.io.atomic import replacing
from spatia_env.io.point_cloud import PointCloud
from spatia_env.io.validation import as_real_array, check_keys
from spatia_env.io.video import VideoWriter
from spatia_env.memory.editing import EditRecord
from spatia_env.world.world import World

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
        self._first_w2c = invert_se3(observation["pose"][-1].astype(np.float64))
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
        path = self.folder / f"{self.prefix}-{next_number(self.folder, self.prefix):04d}.mp4"
        self._writer = VideoWriter(path, self.fps, self.scale)
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
        with replacing(path, "arrays") as stream:
            np.savez_compressed(
                stream,
                **_intrinsics_of(self.env),  # type: ignore[arg-type]
                pose=np.concatenate(rows["pose"]),
                depth=np.concatenate(rows["depth"]),
                known=np.concatenate(rows["known"]),
                reward=np.array(rows["reward"], dtype=np.float64),
                actions=np.array(rows["actions"], dtype=str),
            )


def next_number(folder: Path, prefix: str) -> int:
    """The number after the highest of the files `{prefix}-{number}.*` in a folder."""
    stems = [path.stem.removeprefix(f"{prefix}-") for path in folder.glob(f"{prefix}-*.*")]
    return max((int(stem) + 1 for stem in stems if stem.isdecimal()), default=0)


def make_rl(**kwargs: Any) -> gym.Env:
    """Entry point of `SpatiaRL-v0`: last frame, camera as a Box; arguments as `SpatiaEnv` takes them."""
    return view_env(_make_base(kwargs), "rl")


def make_discrete(num_events: int | None = None, **kwargs: Any) -> gym.Env:
    """Entry point of `SpatiaDiscrete-v0`: last frame, moves and events by number; else as `make_rl`."""
    return view_env(_make_base(kwargs), "discrete", num_events)


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
    scene = SimulatedScene(checkpoint.generator.shape)
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


EDITS = ("none", "remove", "move", "recolor", "freeze", "undo", "redo", "insert")
"""What `edit["kind"]` counts from 0; only ever appended to."""
MAX_SHIFT = 1.0
"""Metres that a thing moves along an axis at `shift` = 1."""


class EditActions(gym.Wrapper, RecordConstructorArgs):
    """Adds `edit` to the actions of `Spatia-v0` or `SpatiaPath-v0`; the edit is made before the step.

    | key of `edit` | type | meaning |
    |---|---|---|
    | `kind` | Discrete | which of `EDITS`; the last, insert, only where there are `items` |
    | `pixel` | Box(0, 1, (2,)) | where in the last frame: share of its width and height |
    | `shift` | Box(-1, 1, (3,)) | for "move": metres along the world's axes, times `max_shift` |
    | `turn` | Box(-1, 1, (1,)) | for "move" and "insert": half turns about the vertical |
    | `rgb` | Box(0, 255, (3,), uint8) | for "recolor" |
    | `item` | Discrete | for "insert": which of `items`; put with its base on the surface under the pixel |

    What it did is in `info["edit"]`, and at the head of `info["events"]`. An edit that meets nothing, that would
    overfill the map, or that has nothing to undo changes nothing; `info["edit"]` then has `error`, and the step
    is made. An action that is not of the space raises, and the world stays as it was.

    Args:
        env: An environment over `SpatiaEnv` that takes a Dict of actions.
        items: Things to insert, by name: clouds, as `world.edit.extract` or `PointCloud.of_mesh` give.
        max_shift: Metres.
        max_radius: Metres around the pixel's point beyond which nothing is taken for the same thing.
    """

    def __init__(
        self,
        env: gym.Env,
        items: Mapping[str, PointCloud] | None = None,
        max_shift: float = MAX_SHIFT,
        max_radius: float = 1.5,
    ) -> None:
        RecordConstructorArgs.__init__(self, items=items, max_shift=max_shift, max_radius=max_radius)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.action_space, spaces.Dict) or not hasattr(env.unwrapped, "snapshot"):
            raise ActionError("EditActions: needs the actions of Spatia-v0 or SpatiaPath-v0; wrap it first.")
        self.items = dict(items or {})
        self.limits = float(max_shift), float(max_radius)
        self.kinds = EDITS if self.items else EDITS[:-1]
        parts: dict[str, spaces.Space] = {
            "kind": spaces.Discrete(len(self.kinds)),
            "pixel": spaces.Box(0, 1, (2,), np.float32),
            "shift": spaces.Box(-1, 1, (3,), np.float32),
            "turn": spaces.Box(-1, 1, (1,), np.float32),
            "rgb": spaces.Box(0, 255, (3,), np.uint8),
        }
        if self.items:
            parts["item"] = spaces.Discrete(len(self.items))
        self.edit_space = spaces.Dict(parts)
        self.action_space = spaces.Dict({**env.action_space.spaces, "edit": self.edit_space})

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Make the edit, then the step.

        Raises:
            ActionError: `edit` is missing or not of its space; or as the step itself.
        """
        if not isinstance(action, Mapping) or "edit" not in action:
            raise ActionError("EditActions: the action lacks 'edit'; see EditActions.edit_space.")
        wish = self._checked(action["edit"])
        base: Any = self.env.unwrapped
        before = base.snapshot()
        try:
            done = self._edit(base.world, wish)
            rest = {key: value for key, value in action.items() if key != "edit"}
            observation, reward, terminated, truncated, info = self.env.step(rest)
        except BaseException:
            base.restore(before)
            raise
        rows = base.world.state.ledger[len(before.ledger) :]
        new = [dataclasses.asdict(row) for row in rows if row.kind == "edit"]
        info["edit"], info["events"] = done, new + info.get("events", [])
        return observation, reward, terminated, truncated, info

    def _edit(self, world: World, wish: dict[str, Any]) -> dict[str, Any]:
        kind = self.kinds[wish["kind"]]
        if kind == "none":
            return {}
        try:
            return self._record(world, kind, wish).as_dict()
        except (EditError, WorldFullError) as error:
            return {"kind": kind, "error": str(error)}

    def _record(self, world: World, kind: str, wish: dict[str, Any]) -> EditRecord:
        edit = world.edit
        if kind in ("undo", "redo"):
            return getattr(edit, kind)()
        height, width = world.state.size
        # The last column and row of pixels belong to shares up to 1.
        pixel = np.minimum(wish["pixel"] * (width, height), np.nextafter((width, height), 0)).tolist()
        if kind == "insert":
            return self._insert(world, (pixel[0], pixel[1]), wish)
        region = edit.click((pixel[0], pixel[1]), max_radius=self.limits[1])
        if kind == "recolor":
            return edit.recolor(region, wish["rgb"])
        if kind == "move":
            position = edit.extract(region).position.astype(np.float64)
            matrix = _about_vertical(wish["turn"], (position.min(0) + position.max(0)) / 2)
            matrix[:3, 3] += wish["shift"] * self.limits[0]
            return edit.move(region, matrix)
        return getattr(edit, kind)(region)

    def _insert(self, world: World, pixel: tuple[float, float], wish: dict[str, Any]) -> EditRecord:
        state = world.state
        u, v = pixel
        ray = torch.tensor([(u - state.K[0, 2]) / state.K[0, 0], (v - state.K[1, 2]) / state.K[1, 1], 1.0])
        hit = world.query.raycast(direction=state.c2w[:3, :3] @ ray)
        if hit is None:
            raise EditError(f"insert: the map has nothing under the pixel ({u:.1f}, {v:.1f}).")
        matrix = _about_vertical(wish["turn"], np.zeros(3))
        matrix[:3, 3] = hit.position
        return world.edit.insert(list(self.items.values())[wish["item"]].centred(), matrix)

    def _checked(self, wish: Any) -> dict[str, Any]:
        """The edit in plain types, each within its space."""
        if not isinstance(wish, Mapping):
            raise ActionError(f"action['edit']: expected a dict, got {type(wish).__name__}.")
        check_keys(wish, required=tuple(self.edit_space.spaces), what="action['edit']")
        found: dict[str, Any] = {}
        for name, space in self.edit_space.spaces.items():
            values = as_real_array(wish[name], f"action['edit'][{name!r}]", ActionError)
            if values.shape != space.shape or not np.isfinite(values).all():
                raise ActionError(
                    f"action['edit'][{name!r}]: expected finite numbers {list(space.shape or ())}."
                )
            low, high = (
                (0, int(space.n) - 1) if isinstance(space, spaces.Discrete) else (space.low, space.high)  # type: ignore[attr-defined]
            )
            whole = isinstance(space, spaces.Discrete) or name == "rgb"
            if (values < low).any() or (values > high).any() or (whole and (values % 1).any()):
                raise ActionError(f"action['edit'][{name!r}]: {values.tolist()} is not within {space}.")
            found[name] = int(values) if isinstance(space, spaces.Discrete) else values
        return found


def _about_vertical(turn: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """A turn by `turn` half turns about the vertical through `pivot` [3], as [4, 4]."""
    angle = float(turn.item()) * np.pi
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = pivot - matrix[:3, :3] @ pivot
    return matrix
