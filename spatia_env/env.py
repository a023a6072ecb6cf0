"""`SpatiaEnv`: a Gymnasium environment over a generated world that remembers itself."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from spatia_env import actions
from spatia_env.errors import ActionError, ClosedEnvError
from spatia_env.io import fork_guard
from spatia_env.io.frames import to_uint8
from spatia_env.io.timing import Stopwatch
from spatia_env.memory.point_map import Growth, SceneMemory
from spatia_env.models.clip_source import ClipSource, ModelClips, RenderedClips
from spatia_env.models.loading import load_checkpoint
from spatia_env.sim.referee import SimJudge
from spatia_env.slam.pipeline import Slam
from spatia_env.tasks import Task, TaskContext, make_task
from spatia_env.world import observation as contract
from spatia_env.world import step as steps
from spatia_env.world.queries import halted
from spatia_env.world.reset import (
    check_reset_options,
    check_seed,
    draw_start,
    load_imagination,
    load_slam,
    open_world,
)
from spatia_env.world.state import WorldState
from spatia_env.world.step import PreparedStep
from spatia_env.world.world import World

Step = tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]


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
    size: (height, width) in pixels, multiples of 32; None for the checkpoint's own (128x128 for the packaged one).
    model: Name or folder of a checkpoint.
    model_options: For a folder of official weights, how they are run: see `models.wan.options.OfficialOptions`.
    memory: "points", or "none" to remember nothing but the preceding frames.
    references: How many pictures are retrieved; None for the checkpoint's own number.
    slam: "tiny" (the depth network and tracking), "simulator" (true depth and masks of the scene, for oracle rows),
        "off" (the depth network, commanded poses), or a `slam.pipeline.Slam`.
    imagination: Draw the surroundings that nobody has seen, once, where the checkpoint can (`world.imagination`).
    clip_source: What makes the frames (`models.clip_source.ClipSource`); None for the model.
    task: "none", "explore", "image_goal", "return_home" or "find"; `task_options` are its fields.
    voxel, max_points, on_full: See `memory.point_map.SceneMemory`.
    block_collisions: Stop a move where the camera would come within 15 cm of a surface of the map; it goes on
        turning. `info["blocked"]` tells frame, position and distance, and is empty where nothing was in the way.
    render_only: Show the map's render with its holes instead of a generated clip.
    judge: Open a referee for the simulated scene even if the task needs none.
    debug: Adds `info["debug"]`: control images, retrieved references and scores.
    timings: Adds `info["seconds"]` per stage.

    ## Version History
    v0: first release.
    """

    metadata = {"render_modes": ["rgb_array", "rgb_array_list", "ansi"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        action: Literal["camera", "path"] = "camera",
        size: tuple[int, int] | None = None,
        model: str = "spatia-tiny",
        model_options: dict[str, Any] | None = None,
        memory: Literal["points", "none"] = "points",
        references: int | None = None,
        slam: Literal["tiny", "simulator", "off"] | Slam = "tiny",
        task: str = "none",
        task_options: dict[str, Any] | None = None,
        max_translation: float = actions.MAX_TRANSLATION,
        max_rotation: float = actions.MAX_ROTATION,
        voxel: float = 0.01,
        max_points: int = 5_000_000,
        on_full: Literal["evict", "error"] = "evict",
        block_collisions: bool = False,
        render_only: bool = False,
        judge: bool = False,
        debug: bool = False,
        timings: bool = False,
        render_mode: str | None = None,
        clip_source: ClipSource | None = None,
        imagination: bool = True,
    ) -> None:
        fork_guard.torch_is_used()
        checkpoint = load_checkpoint(model, model_options)
        self.checkpoint_id, self.shape = checkpoint.id, checkpoint.generator.shape
        self.size = contract.checked_size(size, self.shape)
        contract.check_arguments(action, memory, slam, references)
        model_clips = RenderedClips(self.shape) if render_only else ModelClips(checkpoint.generator)
        self.clip_source: ClipSource = clip_source or model_clips
        self.slam = load_slam(slam, checkpoint)
        imagines = imagination and clip_source is None and memory == "points"
        self.imagination = load_imagination(checkpoint) if imagines else None
        self.empty_points = SceneMemory(voxel=voxel, max_points=max_points, on_full=on_full)
        self.task: Task = make_task(task, **(task_options or {}))
        self.kind, self.writes, self.block_collisions = action, memory == "points", block_collisions
        self.num_references = self.shape.num_references if references is None else references
        self.limits = (float(max_translation), float(max_rotation))
        self.debug, self.timings, self.render_mode, self.wants_judge = debug, timings, render_mode, judge
        self.action_space = contract.action_space(action, self.shape.num_frames)
        self.observation_space = contract.observation_space(self.shape.num_frames, self.size)
        self.judge: SimJudge | None = None
        self.scene: int | str | None = None
        self._world: World | None = None
        self._frames: list[np.ndarray] = []
        self._closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Open a world; see docs/conventions.md for `options`.

        Raises:
            ActionError, ImageError, PoseError, PromptError, SeedError, WorldFormatError: As the options are bad;
                the current world stays as it was.
            ClosedEnvError: After `close`. ForkError: In a process forked after torch was used.
        """
        fork_guard.check_not_orphaned()
        if self._closed:
            raise ClosedEnvError("reset: this environment was closed; make a new one with gym.make.")
        checked, seed = check_reset_options(options), check_seed(seed)
        with self._unchanged_on_error():
            super().reset(seed=seed)
            checked, world_seed = draw_start(checked, self.np_random)
            self._enter(checked.get("scene"))
            state = open_world(
                checked, world_seed, self.slam.estimator, self.empty_points,
                self.size, self.shape.num_preceding, self.writes,
            )  # fmt: skip
            if self.imagination is not None and "world" not in checked:
                state, _ = self.imagination(state, state.c2w[:3, 3])
            self._world, self.judge, self.task = (
                World(state, self.imagination), self._open_judge(), copy.copy(self.task)
            )  # fmt: skip
            observation = contract.standing(state, self._still_path(state))
            self.task.reset(self._context(observation, Growth(), 0.0))
        self._frames = list(observation["frames"].copy())
        return observation, contract.describe_reset(state, self.task.goal)

    def step(self, action: Any) -> Step:
        """Generate the next clip; see the class docstring.

        Raises:
            ActionError, PoseError, PromptError: If the action is not of the space; the world stays as it was.
            ClosedEnvError: After `close`.
        """
        prepared = self.prepare(action)
        if prepared.request is None:
            return self.commit(prepared)
        return self.commit(
            prepared, prepared.watch("generate", self.clip_source.generate, [prepared.request])[0]
        )

    def prepare(self, action: Any) -> PreparedStep:
        """Decode an action and look into memory: the first half of `step`; the world stays as it was.

        `clip_source.generate` makes the clip of its `request`, `commit` does the rest; `SpatiaVectorEnv` calls them
        for many worlds at once. Raises as `step` does.
        """
        fork_guard.check_not_orphaned()
        state = self.world.state
        path, event = self._decode(action)
        path, blocked = self._halted(path)
        prepared = PreparedStep(Stopwatch(), state, path, blocked, event)
        if self.clip_source.rests and steps.rests(state, path, event):
            return prepared
        return steps.prepare(prepared, self.clip_source, self.num_references, self.imagination)

    def commit(self, prepared: PreparedStep, frames: Tensor | None = None) -> Step:
        """Register the clip u8 [T, H, W, 3] of a prepared step, write it into the map; what `step` returns."""
        if prepared.request is None or frames is None:
            observation = contract.standing(prepared.state, prepared.path)
            state, growth, seen = (
                steps.rest(prepared.state, torch.from_numpy(observation["frames"])),
                Growth(),
                None,
            )
        else:
            state, growth, seen = steps.integrate(prepared, frames, self.slam)
            observation = contract.observe(
                frames,
                seen.geometry.depth,
                prepared.path,
                prepared.request.known if prepared.shown is None else prepared.shown,
            )
        self.world.state = state
        result = self.task.evaluate(self._context(observation, growth, contract.drift_of(seen)))
        self._frames = list(observation["frames"].copy())
        info = contract.describe_step(prepared, state, observation, growth, seen, result)
        if self.debug:
            info["debug"] = contract.intermediates(prepared, seen)
        if self.timings:
            info["seconds"] = prepared.watch.report()
        if self.block_collisions:
            info["blocked"] = dict(prepared.blocked)
        # The task truncates what has become mush; the time limit is TimeLimit's, which gym.make adds.
        return observation, result.reward, result.terminated, result.truncated, info

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

    def restore(self, snapshot: WorldState, scene: int | str | None = None) -> None:
        """Return to a snapshot, bit for bit, or take up a saved world's (`World.load(path).state`) without an episode.

        Args:
            snapshot: Of this environment or a fork, or of a saved world of the same size.
            scene: The simulated scene a saved world began in, for the judge and `slam="simulator"`.

        Raises:
            ActionError: If it is no snapshot, or of another size. ClosedEnvError: After `close`.
        """
        contract.check_snapshot(snapshot, self.size)
        if self._world is not None or self._closed:
            self.world.restore(snapshot)
        else:
            self._world = World(snapshot, self.imagination)
            self._frames = list(contract.standing(snapshot, self._still_path(snapshot))["frames"])
        if scene is not None:
            self._enter(scene)
            self.judge = self._open_judge()

    def fork(self) -> "SpatiaEnv":
        """An independent environment on the same model, whose world shares the map until either steps."""
        twin = copy.copy(self)
        twin._world, twin.task = self.world.fork(), copy.copy(self.task)
        twin._np_random, twin._frames = copy.deepcopy(self._np_random), list(self._frames)
        return twin

    def preview(self, action: Any) -> dict[str, np.ndarray]:
        """What memory shows along the action's path, without generating: `scene_render`, `depth`, `known`, `pose`.

        Milliseconds; the state is untouched. Raises as `step` does.
        """
        path, _ = self._halted(self._decode(action)[0])
        view = self.world.render(path)
        shown = self.world.state.map.shown(path, view)
        seen = contract.observe(to_uint8(view.rgb), view.depth, path, shown)
        return {"scene_render": seen.pop("frames"), **seen}

    def render(self) -> Any:
        """The last frame, the last clip's frames (then forgotten), or a line of text, as `render_mode` says."""
        if self.render_mode == "rgb_array":
            return self._frames[-1]
        if self.render_mode == "rgb_array_list":
            frames, self._frames = self._frames, []
            return frames
        return contract.one_line(self.world.state) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Let go of the world; a second call does nothing."""
        self._world, self._closed, self.judge = None, True, None

    def _decode(self, action: Any) -> tuple[Tensor, str]:
        return actions.decode_motion(action, self.kind, self.world.c2w, self.shape.num_frames, *self.limits)

    def _halted(self, path: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if not self.block_collisions:
            return path, {}
        return halted(self.world.memory, self.world.c2w, path)

    def _still_path(self, state: WorldState) -> Tensor:
        return state.c2w.expand(self.shape.num_frames, 4, 4)

    def _enter(self, scene: int | str | None) -> None:
        self.scene = scene
        self.clip_source.begin(scene, self.size)
        self.slam.begin(scene, self.size)

    def _open_judge(self) -> SimJudge | None:
        wanted = self.wants_judge or self.task.wants_judge
        return SimJudge(self.scene, self.size) if wanted and self.scene is not None else None

    def _context(self, observation: dict[str, np.ndarray], growth: Growth, drift: float) -> TaskContext:
        state, frontier = self.world.state, self.task.wants_frontier
        return contract.task_context(state, observation, growth, drift, self.judge, self.np_random, frontier)

    @contextlib.contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        kept = {**vars(self), "_np_random": copy.deepcopy(self._np_random)}
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(kept)
            raise
