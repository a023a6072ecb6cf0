"""`SpatiaEnv`: a Gymnasium environment over a generated world that remembers itself.

`step` is the figure of docs/architecture.md: decode, look into memory, imagine, understand, remember. Parts are
handed in or loaded by name; this file only converts between NumPy and torch and keeps the order of things.
"""

import dataclasses
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from spatia_env import actions, inputs
from spatia_env.cameras import orthonormalise, path_from_twist
from spatia_env.errors import ActionError, ClosedEnvError
from spatia_env.memory.keyframes import Keyframe
from spatia_env.memory.rendering import Render
from spatia_env.memory.scene import Growth, SceneMemory
from spatia_env.model.checkpoints import Checkpoint, load_checkpoint
from spatia_env.model.text import compose_text
from spatia_env.slam.geometry import Geometry, load_geometry, static_weight
from spatia_env.slam.tracking import TrackResult, track
from spatia_env.spaces import EventText, PathBox
from spatia_env.starts import Start, start_from_image, start_from_scene
from spatia_env.stopwatch import Stopwatch
from spatia_env.tasks import TaskContext, make_task
from spatia_env.vocabulary import lookup
from spatia_env.vocabulary import event as event_named
from spatia_env.world import LedgerRow, World, WorldState

STILL_TWIST = 1e-6
"""Metres and radians below which a move counts as standing still."""
MOVING_SHARE = 0.002
"""Share of dynamic pixels in the last frame above which something still moves."""
MAX_DEPTH = 50.0
"""Upper bound in metres of the depth observation."""


class SpatiaEnv(gym.Env):
    """A world that is generated clip by clip, and stays the same where it has been seen.

    ## Description
    Every step moves the camera along a path of T frames and may ask for an event in words. A diffusion
    transformer generates the clip from what the map shows along that path, from retrieved reference frames,
    from the preceding frames and from the text; SLAM then writes what is static into the map.

    ## Action Space
    `Dict(camera=Box(-1, 1, (6,)), event=EventText)`: a twist in the OpenCV camera frame (right, down, forward,
    then a rotation vector about those axes: + pitch looks up, + yaw turns right, + roll clockwise) as a
    fraction of `max_translation` metres and `max_rotation` degrees per clip. With `action="path"`:
    `Dict(path=PathBox [T, 4, 4], event=EventText)`, c2w relative to the last pose.

    ## Observation Space
    | key | type | meaning |
    |---|---|---|
    | `frames` | u8 [T, H, W, 3] | the clip |
    | `depth` | f32 [T, H, W] | z-depth in metres, 0 = none |
    | `pose` | f32 [T, 4, 4] | the executed path, c2w, world +Z up |
    | `known` | u8 [T, H, W] | 255 where rendered from memory, 0 where imagined in this step |

    ## Rewards
    Named terms of the task, summed; `info["reward_terms"]`. Without a task the reward is 0.

    ## Starting State
    `reset(options=...)` takes a `scene` (seed or name), an `image` or a saved `world`, see docs/conventions.md.
    Without options a training scene is drawn.

    ## Episode End
    Terminates when the task says so. The time limit (50 steps) lives in the registered spec.

    ## Arguments
    action: "camera" or "path".
    size: (height, width) in pixels, multiples of 32 for the packaged checkpoint.
    model: Name or folder of a checkpoint.
    memory: "points", or "none" to remember nothing but the preceding frames.
    references: How many pictures are retrieved; None for the checkpoint's own number.
    slam: "tiny" (our geometry network and tracking), "simulator" (true depth and masks of the scene, for oracle
        rows), or "off" (our geometry, commanded poses).
    task: "none", "explore", "image_goal", "return_home" or "find"; `task_options` are its fields.
    voxel, max_points, on_full: See `memory.scene.SceneMemory`.
    render_only: Show the map's render with its holes instead of a generated clip (a bench row).
    debug: Adds `info["debug"]`: control images, retrieved references and scores.
    timings: Adds `info["seconds"]` per stage.

    ## Version History
    v0: first release.
    """

    metadata = {"render_modes": ["rgb_array", "rgb_array_list", "ansi"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's form

    def __init__(
        self,
        action: Literal["camera", "path"] = "camera",
        size: tuple[int, int] = (128, 128),
        model: str = "spatia-tiny",
        memory: Literal["points", "none"] = "points",
        references: int | None = None,
        slam: Literal["tiny", "simulator", "off"] = "tiny",
        task: str = "none",
        task_options: dict[str, Any] | None = None,
        max_translation: float = actions.MAX_TRANSLATION,
        max_rotation: float = actions.MAX_ROTATION,
        voxel: float = 0.01,
        max_points: int = 5_000_000,
        on_full: Literal["evict", "error"] = "evict",
        render_only: bool = False,
        debug: bool = False,
        timings: bool = False,
        render_mode: str | None = None,
    ) -> None:
        checkpoint = load_checkpoint(model)
        _check_arguments(action, size, memory, slam, references, checkpoint)
        self.pipeline, self.checkpoint_id = checkpoint.pipeline, checkpoint.id
        self.shape = checkpoint.pipeline.shape
        self.estimator = load_geometry(checkpoint.folder, checkpoint.config["geometry"])
        self.kind, self.size, self.slam = action, (int(size[0]), int(size[1])), slam
        self.remembers = memory == "points"
        self.num_references = self.shape.num_references if references is None else references
        self.limits = (float(max_translation), float(max_rotation))
        self.empty_memory = SceneMemory(voxel=voxel, max_points=max_points, on_full=on_full)
        self.task = make_task(task, **(task_options or {}))
        self.render_only, self.debug, self.timings, self.render_mode = render_only, debug, timings, render_mode
        self.action_space, self.observation_space = _spaces(self.kind, self.shape.num_frames, self.size)
        self._world: World | None = None
        self._frames: list[np.ndarray] = []
        self._generator = torch.Generator()
        self._closed = False

    # -- the figure -----------------------------------------------------------------------------------------------

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Generate the next clip; see the class docstring.

        Raises:
            ActionError, PoseError, PromptError: If the action is not of the space; the world stays as it was.
            ClosedEnvError: After `close`.
        """
        watch = Stopwatch()
        world, state = self.world, self.world.state
        path, event = self._decode(action)
        if self._stands_still(path, event):
            return self._still(path, watch)
        ledger, conditions, text = self._listen(event)

        view = watch("render", world.render, path)
        references, scores, _ = watch("retrieve", world.retrieve, path, view, self.num_references)
        frames = watch("generate", self._imagine, text, view, references)
        geometry = watch("geometry", self._understand, frames, path, view)
        tracked = watch("track", self._track, frames, geometry, path, view)
        after, growth = watch(
            "remember", world.remember, frames, geometry.depth, static_weight(geometry), tracked.c2w, view, not conditions
        )
        moving = bool((geometry.dynamic[-1] > 0.5).float().mean() > MOVING_SHARE) or bool(event)
        world.state = dataclasses.replace(after, c2w=path[-1], moving=moving, ledger=ledger, conditions=conditions)

        observation = self._observation(frames, geometry.depth, path, view.known)
        info = self._info(growth, tracked, state, observation)
        if self.debug:
            info["debug"] = _debug(view, references, scores, text, geometry)
        return self._finish(observation, growth, info, watch)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Open a world; see the class docstring for `options`.

        Raises:
            ActionError, ImageError, PoseError, PromptError, SeedError, WorldFormatError: As the options are bad;
                the current world stays as it was.
            ClosedEnvError: After `close`.
        """
        if self._closed:
            raise ClosedEnvError("reset: this environment was closed; make a new one with gym.make.")
        options = inputs.check_reset_options(options)
        super().reset(seed=inputs.check_seed(seed))
        self._world = self._open(options)
        state = self._world.state
        frames = state.preceding_frames[-1:].expand(self.shape.num_frames, -1, -1, -1)
        depth = state.depth[None].expand(self.shape.num_frames, -1, -1)
        path = state.c2w[None].expand(self.shape.num_frames, -1, -1)
        observation = self._observation(frames, depth, path, torch.ones(len(frames), *self.size, dtype=torch.bool))
        self.task.reset(self._context(observation, Growth()))
        info = self._info(Growth(added=state.memory.num_points), _untracked(path), state, observation)
        info["prompt"] = state.prompt
        return observation, info

    # -- worlds -----------------------------------------------------------------------------------------------------

    @property
    def world(self) -> World:
        """The world that `reset` opened.

        Raises:
            ClosedEnvError: After `close`.
            ActionError: Before the first `reset`.
        """
        if self._closed:
            raise ClosedEnvError("this environment was closed; make a new one with gym.make.")
        if self._world is None:
            raise ActionError("no world is open; call reset() first.")
        return self._world

    def snapshot(self) -> WorldState:
        """The world as it is now, to return to with `restore`; O(1)."""
        return self.world.snapshot()

    def restore(self, snapshot: WorldState) -> None:
        """Return to a snapshot, bit for bit."""
        self.world.restore(snapshot)

    def fork(self) -> "SpatiaEnv":
        """An independent environment on the same model, whose world shares the map until either steps."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._world = self.world.fork()
        twin._generator = torch.Generator()
        twin.task = dataclasses.replace(self.task) if dataclasses.is_dataclass(self.task) else self.task
        twin.task.__dict__.update(self.task.__dict__)
        twin._np_random = None
        twin._frames = []
        return twin

    def preview(self, action: Any) -> dict[str, np.ndarray]:
        """What memory shows along the action's path, without generating: `scene_render`, `depth`, `known`, `pose`.

        Milliseconds; the state is untouched. Raises as `step` does.
        """
        path, _ = self._decode(action)
        view = self.world.render(path)
        return {
            "scene_render": _bytes(view.rgb),
            "depth": view.depth.numpy(),
            "known": view.known.numpy().astype(np.uint8) * 255,
            "pose": path.numpy(),
        }

    def render(self) -> Any:
        """The last frame, the frames of the last clip (and forget them), or a line of text, as `render_mode` says."""
        if self.render_mode == "rgb_array":
            return self._frames[-1]
        if self.render_mode == "rgb_array_list":
            frames, self._frames = self._frames, []
            return frames
        if self.render_mode == "ansi":
            state = self.world.state
            x, y, z = (f"{value:+.2f}" for value in state.c2w[:3, 3].tolist())
            return f"step {state.step} at ({x}, {y}, {z}) m, {state.memory.num_points} points"
        return None

    def close(self) -> None:
        """Let go of the world; a second call does nothing."""
        self._world, self._closed = None, True

    # -- the stages -------------------------------------------------------------------------------------------------

    def _decode(self, action: Any) -> tuple[Tensor, str]:
        state = self.world.state
        motion, event = actions.decode_action(action, self.kind, self.shape.num_frames, *self.limits)
        motion = torch.from_numpy(motion)
        if self.kind == "camera":
            return path_from_twist(state.c2w, motion, self.shape.num_frames), event
        return orthonormalise(state.c2w.double() @ motion).float(), event

    def _listen(self, event: str) -> tuple[tuple[LedgerRow, ...], tuple[tuple[str, str], ...], str]:
        """The ledger and the standing conditions after this event, and the sentence that the model reads."""
        state = self.world.state
        if not event:
            return state.ledger, state.conditions, _sentence(state, "")
        name = lookup(event) or ""
        known = event_named(name) if name else None
        conditions = state.conditions
        if known is not None and known.kind == "condition":
            conditions = (*(pair for pair in conditions if pair[0] != name), (name, known.condition_phrase))
        elif known is not None and known.kind == "ending":
            conditions = tuple(pair for pair in conditions if pair[0] != known.ends)
        row = LedgerRow(state.step + 1, event, name, known.kind if known else "")
        return (*state.ledger, row), conditions, _sentence(state, event)

    def _imagine(self, text: str, view: Render, references: Tensor) -> Tensor:
        state = self.world.state
        if self.render_only:
            return torch.from_numpy(_bytes(view.rgb))
        self._generator.manual_seed(_mix(state.seed, state.step))
        video = self.pipeline(
            [text],
            _to_model(view.rgb).mul(view.known[:, None]).transpose(0, 1)[None],
            view.known.float()[None, None],
            _video(references),
            _video(state.preceding_frames[-self.shape.num_preceding :]),
            self._generator,
        )
        return ((video[0].permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).byte()

    def _understand(self, frames: Tensor, path: Tensor, view: Render) -> Geometry:
        return self.estimator(_floats(frames), path, self.world.state.K, view.rgb, view.depth, view.known)

    def _track(self, frames: Tensor, geometry: Geometry, path: Tensor, view: Render) -> TrackResult:
        if self.slam == "off" or not self.remembers:
            return _untracked(path)
        return track(_floats(frames), geometry.depth, path, self.world.state.K, view)

    # -- standing still -------------------------------------------------------------------------------------------

    def _stands_still(self, path: Tensor, event: str) -> bool:
        """A zero move with no event while nothing moves leaves the world as it is: there is nothing to imagine."""
        state = self.world.state
        same = bool((path - state.c2w).abs().max() < STILL_TWIST)
        return same and not event and not state.moving and not self.render_only

    def _still(self, path: Tensor, watch: Stopwatch) -> tuple:
        world = self.world
        before = world.state
        count = self.shape.num_frames
        frames = before.preceding_frames[-1:].expand(count, -1, -1, -1)
        history = torch.cat([before.preceding_frames, frames])[-len(before.preceding_frames) :]
        world.state = dataclasses.replace(before, step=before.step + 1, preceding_frames=history)
        depth = before.depth[None].expand(count, -1, -1)
        known = torch.ones(count, *self.size, dtype=torch.bool)
        observation = self._observation(frames, depth, path, known)
        info = self._info(Growth(), _untracked(path), before, observation)
        if self.debug:
            view = Render(_floats(frames), depth, known)
            info["debug"] = _debug(view, frames[:0], [], "", None)
        return self._finish(observation, Growth(), info, watch)

    # -- what goes out --------------------------------------------------------------------------------------------

    def _observation(self, frames: Tensor, depth: Tensor, path: Tensor, known: Tensor) -> dict[str, np.ndarray]:
        return {
            "frames": frames.contiguous().numpy().copy(),
            "depth": depth.clamp(0, MAX_DEPTH).numpy().astype(np.float32).copy(),
            "pose": path.numpy().astype(np.float32).copy(),
            "known": known.numpy().astype(np.uint8) * 255,
        }

    def _info(
        self, growth: Growth, tracked: TrackResult, before: WorldState, observation: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        state = self.world.state
        revisit: dict[str, Any] = {}
        keyframe = self.world.revisited(state.c2w) if not state.conditions else None
        if keyframe is not None:
            revisit = {"step": keyframe.step, "psnr": _psnr(observation["frames"][-1], keyframe.frame.numpy())}
        return {
            "memory": {
                "points": state.memory.num_points,
                "bytes": state.memory.num_bytes,
                **dataclasses.asdict(growth),
            },
            "slam": tracked.as_info(),
            "revisit": revisit,
            "events": [dataclasses.asdict(row) for row in state.ledger[len(before.ledger) :]],
        }

    def _finish(
        self, observation: dict[str, np.ndarray], growth: Growth, info: dict[str, Any], watch: Stopwatch
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        result = self.task.evaluate(self._context(observation, growth))
        info["reward_terms"], info["is_success"] = dict(result.terms), result.success
        if self.timings:
            info["seconds"] = watch.report()
        self._frames = list(observation["frames"].copy())
        # truncation is False: the time limit is TimeLimit's, added by gym.make from the spec
        return observation, result.reward, result.terminated, False, info

    def _context(self, observation: dict[str, np.ndarray], growth: Growth) -> TaskContext:
        state = self.world.state
        return TaskContext(
            c2w=state.c2w.numpy().copy(),
            start_c2w=state.start_c2w.numpy().copy(),
            frame=observation["frames"][-1].copy(),
            growth_points=growth.added,
            growth_area=growth.area,
            known_share=float(observation["known"].mean() / 255),
        )

    # -- opening worlds ---------------------------------------------------------------------------------------------

    def _open(self, options: dict[str, Any]) -> World:
        seed = int(self.np_random.integers(2**62))
        if "world" in options:
            return self._open_saved(options)
        if "image" in options:
            start = start_from_image(options, *self.size)
        else:
            scene = options.get("scene")
            scene = int(self.np_random.integers(10_000)) if scene is None else scene
            start = start_from_scene(scene, options, *self.size)
        if self.slam == "simulator":
            self.estimator = start.oracle()
        return World(self._begin(start, options.get("prompt", start.prompt), seed), self.remembers)

    def _open_saved(self, options: dict[str, Any]) -> World:
        saved = options["world"]
        world = World(saved.state, self.remembers) if isinstance(saved, World) else World.load(saved)
        if world.state.size != self.size:
            height, width = world.state.size
            raise ActionError(f"the world was made at size ({height}, {width}); make the env with size=({height}, {width}).")
        changes = {"prompt": options["prompt"]} if "prompt" in options else {}
        if "pose" in options:
            changes["c2w"] = torch.from_numpy(options["pose"]).float()
        world.state = dataclasses.replace(world.state, **changes)
        world.remembers = self.remembers
        return world

    def _begin(self, start: Start, prompt: str, seed: int) -> WorldState:
        """The state after the first picture: its depth estimated unless given, its static pixels in the map."""
        rgb = _floats(start.frame[None])
        c2w = start.c2w[None]
        nothing = torch.zeros(1, *self.size)
        geometry = self.estimator(rgb, c2w, start.K, torch.zeros_like(rgb), nothing, nothing.bool())
        weight = static_weight(geometry)
        depth = geometry.depth
        if start.depth is not None:
            depth = torch.where(start.depth > 0, start.depth, 0)[None]
            weight = (depth > 0).float()
        if start.mask is not None:
            weight = weight * (~start.mask).float()
        memory = self.empty_memory
        if self.remembers:
            memory, _ = memory.update(rgb, depth, weight, c2w, start.K, 0)
        keyframe = Keyframe(start.frame, torch.where(weight > 0, depth, 0)[0].half(), start.c2w, 0)
        preceding = start.frame[None].expand(max(self.shape.num_preceding, 1), -1, -1, -1).clone()
        return WorldState(
            memory=memory,
            keyframes=(keyframe,),
            c2w=start.c2w,
            start_c2w=start.c2w,
            K=start.K,
            size=self.size,
            prompt=prompt,
            preceding_frames=preceding,
            depth=depth[0],
            seed=seed,
        )


def _check_arguments(
    action: str, size: tuple[int, int], memory: str, slam: str, references: int | None, checkpoint: Checkpoint
) -> None:
    for name, value, allowed in (
        ("action", action, ("camera", "path")),
        ("memory", memory, ("points", "none")),
        ("slam", slam, ("tiny", "simulator", "off")),
    ):
        if value not in allowed:
            raise ActionError(f"{name}={value!r}: use one of {allowed}.")
    multiple = checkpoint.pipeline.shape.multiple
    if len(size) != 2 or any(int(s) != s or not multiple <= s <= 4096 or s % multiple for s in size):
        raise ActionError(f"size={size!r}: give (height, width), multiples of {multiple} up to 4096.")
    if references is not None and not 0 <= references <= 16:
        raise ActionError(f"references={references}: use 0 to 16.")


def _spaces(kind: str, num_frames: int, size: tuple[int, int]) -> tuple[spaces.Dict, spaces.Dict]:
    camera: dict[str, Any] = {"camera": spaces.Box(-1, 1, (6,), np.float32)}
    path: dict[str, Any] = {"path": PathBox(num_frames)}
    observation = {
        "frames": spaces.Box(0, 255, (num_frames, *size, 3), np.uint8),
        "depth": spaces.Box(0, MAX_DEPTH, (num_frames, *size), np.float32),
        "pose": spaces.Box(-1e4, 1e4, (num_frames, 4, 4), np.float32),
        "known": spaces.Box(0, 255, (num_frames, *size), np.uint8),
    }
    return spaces.Dict({**(camera if kind == "camera" else path), "event": EventText()}), spaces.Dict(observation)


def _sentence(state: WorldState, event: str) -> str:
    return compose_text(state.prompt, [phrase for _, phrase in state.conditions], event)


def _debug(view: Render, references: Tensor, scores: list[float], text: str, geometry: Geometry | None) -> dict[str, Any]:
    return {
        "scene_render": _bytes(view.rgb),
        "scene_depth": view.depth.numpy().copy(),
        "known": view.known.numpy().astype(np.uint8) * 255,
        "references": references.numpy().copy(),
        "scores": list(scores),
        "text": text,
        "dynamic": np.zeros(0, np.float32) if geometry is None else geometry.dynamic.numpy().copy(),
    }


def _untracked(path: Tensor) -> TrackResult:
    return TrackResult.identity(path)


def _mix(seed: int, step: int) -> int:
    """One generator seed per step, so that a snapshot needs no generator state and forks repeat."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    mse = float(((a.astype(np.float64) - b) ** 2).mean())
    return min(60.0, 10 * float(np.log10(255**2 / max(mse, 1e-9))))


def _bytes(rgb: Tensor) -> np.ndarray:
    return (rgb.movedim(1, -1) * 255).round().clamp(0, 255).byte().numpy()


def _floats(frames: Tensor) -> Tensor:
    """u8 [T, H, W, 3] -> float [T, 3, H, W] in [0, 1]."""
    return frames.movedim(-1, 1).float() / 255


def _to_model(rgb: Tensor) -> Tensor:
    return rgb * 2 - 1


def _video(frames: Tensor) -> Tensor:
    """u8 [T, H, W, 3] -> float [1, 3, T, H, W] in [-1, 1]."""
    return _to_model(_floats(frames)).transpose(0, 1)[None]
