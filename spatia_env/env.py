"""`SpatiaEnv`: a Gymnasium environment over a generated world that remembers itself.

`step` reads like the figure of the design: decode, look into memory, imagine, understand, remember. The parts
are loaded by name and do the work; this file keeps the order of things.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from spatia_env import actions, judging
from spatia_env.errors import ActionError, ClosedEnvError, SpatiaError
from spatia_env.events.log import listen
from spatia_env.geometry import orthonormalise, path_from_twist
from spatia_env.io import fork_guard
from spatia_env.io.timing import Stopwatch
from spatia_env.memory.rendering import Render
from spatia_env.memory.scene import Growth, SceneMemory
from spatia_env.models.clip_request import ClipRequest, Pending, generate_clips, request_clip
from spatia_env.models.loading import load_checkpoint
from spatia_env.sim.referee import SimJudge, frontier_distance
from spatia_env.slam.depth_network import Geometry, GeometryEstimator, static_weight
from spatia_env.slam.pipeline import Located, locate
from spatia_env.slam.plane_extrapolation import continue_surfaces
from spatia_env.slam.tracking import TrackResult
from spatia_env.tasks import TaskContext, make_task
from spatia_env.world import observation as contract
from spatia_env.world import options as inputs
from spatia_env.world.reset import load_geometry, open_saved, open_world
from spatia_env.world.starts import open_oracle
from spatia_env.world.tools import halted
from spatia_env.world.world import World, WorldState

STILL_TWIST = 1e-6
"""Metres and radians below which a move counts as standing still."""
MOVING_SHARE = 0.002
"""Share of dynamic pixels in the last frame above which something still moves."""

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
    slam: "tiny" (our geometry network and tracking), "simulator" (true depth and masks of the scene, for oracle
        rows), or "off" (our geometry, commanded poses).
    task: "none", "explore", "image_goal", "return_home" or "find"; `task_options` are its fields.
    voxel, max_points, on_full: See `memory.scene.SceneMemory`.
    block_collisions: Stop a move where the camera would come within 15 cm of a surface of the map; it goes on
        turning. `info["blocked"]` tells frame, position and distance, and is empty where nothing was in the way.
    render_only: Show the map's render with its holes instead of a generated clip (a bench row).
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
        slam: Literal["tiny", "simulator", "off"] = "tiny",
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
    ) -> None:
        fork_guard.torch_is_used()
        checkpoint = load_checkpoint(model, model_options)
        self.pipeline, self.checkpoint_id = checkpoint.pipeline, checkpoint.id
        self.shape = checkpoint.pipeline.shape
        size = (self.shape.height, self.shape.width) if size is None else size
        contract.check_arguments(action, size, memory, slam, references, self.shape.multiple)
        self.estimator: GeometryEstimator = load_geometry(checkpoint)
        self._network = self.estimator
        self.kind, self.size, self.slam = action, (int(size[0]), int(size[1])), slam
        self.remembers = memory == "points"
        self.num_references = self.shape.num_references if references is None else references
        self.limits = (float(max_translation), float(max_rotation))
        self.empty_memory = SceneMemory(voxel=voxel, max_points=max_points, on_full=on_full)
        self.task = make_task(task, **(task_options or {}))
        self.render_only, self.debug, self.timings, self.render_mode = (
            render_only,
            debug,
            timings,
            render_mode,
        )
        self.action_space = contract.action_space(action, self.shape.num_frames)
        self.observation_space = contract.observation_space(self.shape.num_frames, self.size)
        self._world: World | None = None
        self._frames: list[np.ndarray] = []
        self.judge: SimJudge | None = None
        self.scene: int | str | None = None
        self._judges, self.block_collisions = judge, block_collisions
        self._closed = False

    def step(self, action: Any) -> Step:
        """Generate the next clip; see the class docstring.

        Raises:
            ActionError, PoseError, PromptError: If the action is not of the space; the world stays as it was.
            ClosedEnvError: After `close`.
        """
        pending = self.prepare(action)
        if not pending.imagines:
            return self.finish(pending)
        return self.finish(pending, pending.watch("generate", self._imagine, pending))

    def prepare(self, action: Any) -> Pending:
        """Decode an action and look into memory: the first part of `step`. The world stays as it was.

        `request` and `batching.generate_clips` make the clip, `finish` does the rest; `SpatiaVectorEnv` calls
        these parts for many worlds at once. Raises as `step` does.
        """
        fork_guard.check_not_orphaned()
        watch, world, state = Stopwatch(), self.world, self.world.state
        path, event = self._decode(action)
        path, blocked = self._halted(path)
        if self._stands_still(path, event):
            return Pending(watch, path, blocked=blocked)
        heard = listen(event, state.step + 1, state.prompt, state.conditions, self.pipeline.reads_known_words)
        view = watch("render", world.render, path)
        continued = None
        if self.pipeline.reads_continued:
            continued = watch("continue", continue_surfaces, view.rgb, view.depth, view.known, path, state.K)
        references, scores = watch("retrieve", world.retrieve, path, view, self.num_references)
        return Pending(watch, path, event, heard, view, continued, references, tuple(scores), blocked)

    def finish(self, pending: Pending, frames: Tensor | None = None) -> Step:
        """Understand and remember the clip u8 [T, H, W, 3] of a prepared step, and return what `step` returns."""
        watch, world, before, path = pending.watch, self.world, self.world.state, pending.path
        view, heard = pending.view, pending.heard
        if view is None or heard is None or frames is None:
            return self._stay(pending)
        located = self._locate(pending, frames)
        geometry, tracked = located.geometry, located.tracked
        remember = World(located.state, world.remembers).remember
        after, growth = watch(
            "remember", remember, frames, geometry.depth, static_weight(geometry), tracked.c2w, located.view,
            write=not (before.conditions or heard.conditions),
        )  # fmt: skip

        moving = bool(pending.event) or float((geometry.dynamic[-1] > 0.5).float().mean()) > MOVING_SHARE
        ledger = (*before.ledger, *heard.rows)
        world.state = dataclasses.replace(
            after, c2w=path[-1], moving=moving, ledger=ledger, conditions=heard.conditions
        )
        observation = contract.observe(frames, geometry.depth, path, view.known)
        info = contract.describe(world.state, before, growth, tracked, contract.revisit(world, observation))
        if self.debug:
            assert pending.references is not None
            info["debug"] = contract.intermediates(
                view, pending.references, list(pending.scores), heard.text, geometry, pending.continued
            )
        return self._finish(pending, observation, growth, info, tracked)

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
        options = inputs.check_reset_options(options)
        super().reset(seed=inputs.check_seed(seed))
        state, estimator = open_world(
            options, self.np_random, self._network, self.empty_memory, self.size,
            num_preceding=self.shape.num_preceding, remembers=self.remembers, oracle=self.slam == "simulator",
        )  # fmt: skip
        kept = self._world, self.judge, self.task
        self._world, self.judge, self.task = (
            World(state, self.remembers), self._open_judge(options), copy.copy(self.task),
        )  # fmt: skip
        path = state.c2w.expand(self.shape.num_frames, 4, 4)
        observation = contract.standing(state, path)
        info = contract.describe(
            state, state, Growth(added=state.memory.num_points), contract.unchanged(path), {}
        )
        info["prompt"] = state.prompt
        try:
            self.task.reset(self._context(observation, Growth(), 0.0))
        except SpatiaError:
            self._world, self.judge, self.task = kept
            raise
        self.estimator, self._frames = estimator, list(observation["frames"].copy())
        self.scene = options.get("scene")
        if self.task.goal:
            info["goal"] = self.task.goal
        return observation, info

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

    def open_saved(self, path: str | Path, scene: int | str | None = None) -> None:
        """Take up a saved world without beginning an episode: no task is reset, nothing is drawn.

        Args:
            path: What `world.save` wrote.
            scene: The simulated scene it began in, for the judge and `slam="simulator"`.

        Raises:
            WorldFormatError, WorldCorruptError, WorldIOError: As the file is bad.
        """
        state = open_saved({"world": path}, self.size)
        self.scene, self._world = scene, World(state, self.remembers)
        self.estimator = open_oracle(scene, self.size) if self.slam == "simulator" else self._network
        self.judge = self._open_judge({} if scene is None else {"scene": scene})
        self._frames = list(
            contract.standing(state, state.c2w.expand(self.shape.num_frames, 4, 4))["frames"].copy()
        )

    def snapshot(self) -> WorldState:
        """The world as it is now, to return to with `restore`; O(1)."""
        return self.world.snapshot()

    def restore(self, snapshot: WorldState) -> None:
        """Return to a snapshot, bit for bit."""
        self.world.restore(snapshot)

    def fork(self) -> "SpatiaEnv":
        """An independent environment on the same model, whose world shares the map until either steps."""
        twin = copy.copy(self)
        twin._world, twin.task = self.world.fork(), copy.copy(self.task)
        twin._np_random, twin._frames = copy.deepcopy(self._np_random), []
        return twin

    def preview(self, action: Any) -> dict[str, np.ndarray]:
        """What memory shows along the action's path, without generating: `scene_render`, `depth`, `known`, `pose`.

        Milliseconds; the state is untouched. Raises as `step` does.
        """
        path, _ = self._halted(self._decode(action)[0])
        view = self.world.render(path)
        seen = contract.observe(torch.from_numpy(contract.to_bytes(view.rgb)), view.depth, path, view.known)
        return {"scene_render": seen.pop("frames"), **seen}

    def render(self) -> Any:
        """The last frame, the last clip's frames (then forgotten), or a line of text, as `render_mode` says."""
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
        self._world, self._closed, self.judge = None, True, None

    def _halted(self, path: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if not self.block_collisions:
            return path, {}
        return halted(self.world.memory, self.world.c2w, path)

    def _decode(self, action: Any) -> tuple[Tensor, str]:
        motion, event = actions.decode_action(action, self.kind, self.shape.num_frames, *self.limits)
        c2w = self.world.c2w
        if self.kind == "camera":
            return path_from_twist(c2w, torch.from_numpy(motion), self.shape.num_frames), event
        return orthonormalise(c2w.double() @ torch.from_numpy(motion)).float(), event

    def _imagine(self, pending: Pending) -> Tensor:
        if self.render_only:
            assert pending.view is not None
            return torch.from_numpy(contract.to_bytes(pending.view.rgb))
        return generate_clips(self.pipeline, [self.request(pending)])[0]

    def request(self, pending: Pending) -> ClipRequest:
        """What the model is asked for the clip of a prepared step."""
        return request_clip(
            pending, self.world.state, self.shape.num_preceding, self.pipeline.autoencoder.spatial_stride
        )

    def _understand(self, frames: Tensor, path: Tensor, view: Render) -> Geometry:
        rgb = contract.to_floats(frames)
        state = self.world.state
        return self.estimator(rgb, path, state.K, view.rgb, view.depth, view.known, state.ground)

    def _locate(self, pending: Pending, frames: Tensor) -> Located:
        """SLAM of the clip; its seconds are those of the geometry network and of all the rest."""
        watch, path, view = pending.watch, pending.path, pending.view
        assert view is not None
        follow = self.slam != "off" and self.remembers
        network = self.estimator is self._network

        def understand(_: Tensor, poses: Tensor, seen: Render) -> Geometry:
            return watch("geometry", self._understand, frames, poses, seen)

        rgb = contract.to_floats(frames)
        return watch(
            "slam", locate, self.world.state, rgb, path, view, understand, follow, network, pending.continued
        )

    def _stands_still(self, path: Tensor, event: str) -> bool:
        """A zero move with no event while nothing moves leaves the world as it is: there is nothing to imagine."""
        state = self.world.state
        same = bool((path - state.c2w).abs().max() < STILL_TWIST)
        return same and not event and not state.moving and not self.render_only

    def _stay(self, pending: Pending) -> Step:
        world, before, path = self.world, self.world.state, pending.path
        observation = contract.standing(before, path)
        history = torch.cat([before.preceding_frames, torch.from_numpy(observation["frames"])])
        history = history[-len(before.preceding_frames) :].clone()
        world.state = dataclasses.replace(before, step=before.step + 1, preceding_frames=history)
        info = contract.describe(
            world.state, before, Growth(), contract.unchanged(path), contract.revisit(world, observation)
        )
        if self.debug:
            view = world.render(path)
            info["debug"] = contract.intermediates(view, torch.zeros(0, *self.size, 3), [], "", None)
        return self._finish(pending, observation, Growth(), info)

    def _finish(
        self,
        pending: Pending,
        observation: dict[str, np.ndarray],
        growth: Growth,
        info: dict[str, Any],
        tracked: TrackResult | None = None,
    ) -> Step:
        drift = 0.0 if tracked is None else tracked.translation + tracked.rotation / 90
        result = self.task.evaluate(self._context(observation, growth, drift))
        info |= judging.report(result)
        if self.timings:
            info["seconds"] = pending.watch.report()
        if self.block_collisions:
            info["blocked"] = dict(pending.blocked)
        self._frames = list(observation["frames"].copy())
        # The task truncates what has become mush; the time limit is TimeLimit's, which gym.make adds.
        return observation, result.reward, result.terminated, result.truncated, info

    def _open_judge(self, options: dict[str, Any]) -> SimJudge | None:
        wanted = self._judges or self.task.wants_judge
        return SimJudge(options["scene"], self.size) if wanted and "scene" in options else None

    def _context(self, observation: dict[str, np.ndarray], growth: Growth, drift: float) -> TaskContext:
        state, judge = self.world.state, self.judge
        return TaskContext(
            c2w=state.c2w.numpy().copy(),
            start_c2w=state.start_c2w.numpy().copy(),
            frame=observation["frames"][-1].copy(),
            start_frame=state.keyframes[0].frame.numpy().copy(),
            growth_points=growth.added,
            growth_area=growth.area,
            known_share=float(observation["known"].mean() / 255),
            drift=drift,
            frontier_distance=frontier_distance(state) if self.task.wants_frontier else None,
            seen_cells=None if judge is None else judge.cells(observation["pose"]),
            judge=judge,
            np_random=self.np_random,
        )
