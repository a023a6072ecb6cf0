"""The two halves of a step as functions of the state: what is asked of the clip source, and what its clip changes."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from spatia_env.events.log import Heard, listen
from spatia_env.io.timing import Stopwatch
from spatia_env.memory.point_map import Growth
from spatia_env.memory.rendering import Render
from spatia_env.models.clip_source import ClipRequest, ClipSource
from spatia_env.slam.depth_network import static_weight
from spatia_env.slam.pipeline import Registration, Slam
from spatia_env.slam.plane_extrapolation import Continued, continue_surfaces
from spatia_env.world.imagination import Imagination
from spatia_env.world.state import WorldState

STILL_TWIST = 1e-6
"""Metres and radians below which a move counts as standing still."""
MOVING_SHARE = 0.002
"""Share of dynamic pixels in the last frame above which something still moves."""


@dataclass(frozen=True)
class PreparedStep:
    """A step that waits for its clip; `request` is None where the world rests and no clip is made.

    Attributes:
        watch: Times the stages of the step.
        state: The world before the clip.
        path: Cameras c2w [T, 4, 4] of the clip.
        blocked: Where a surface stopped the camera; empty where none did.
        event: What was asked for in words, "" for nothing.
        heard: What the world takes it for.
        view: The map along the path.
        shown: Pixels of it that were given or shown before, bool [T, H, W].
        imagined: Points that were imagined for it.
        continued: How its surfaces go on, for sources that read it.
        scores: Of the retrieved references.
        request: What the clip source is asked.
    """

    watch: Stopwatch
    state: WorldState
    path: Tensor
    blocked: dict[str, Any] = field(default_factory=dict)
    event: str = ""
    heard: Heard | None = None
    view: Render | None = None
    shown: Tensor | None = None
    imagined: int = 0
    continued: Continued | None = None
    scores: tuple[float, ...] = ()
    request: ClipRequest | None = None


def rests(state: WorldState, path: Tensor, event: str) -> bool:
    """Whether a move leaves the world as it is: it goes nowhere, asks for nothing, and nothing moves."""
    return bool((path - state.c2w).abs().max() < STILL_TWIST) and not event and not state.moving


def prepare(
    prepared: PreparedStep, source: ClipSource, num_references: int, imagination: Imagination | None
) -> PreparedStep:
    """The step with its event understood, the map rendered and searched along its path, and its clip requested.

    Where the path would leave too much unseen, its surroundings are imagined first.
    """
    watch, state, path = prepared.watch, prepared.state, prepared.path
    heard = listen(prepared.event, state.step + 1, state.prompt, state.conditions, source.reads_known_words)
    view, imagined = watch("render", state.map.render, path), 0
    if imagination is not None and imagination.is_wanted(view):
        state, imagined = watch("imagine", imagination, state, path[-1, :3, 3])
        view = watch("render", state.map.render, path)
    continued = None
    if source.reads_continued:
        continued = watch("continue", continue_surfaces, view.rgb, view.depth, view.known, path, state.K)
    references, scores = watch("retrieve", state.map.retrieve, path, view, num_references)
    request = ClipRequest(
        text=heard.text,
        path=path,
        last_c2w=state.c2w,
        K=state.K,
        scene_render=view.rgb,
        scene_depth=view.depth,
        known=view.known,
        references=references,
        preceding=state.preceding_frames[-source.shape.num_preceding :],
        seed=state.step_seed(),
        step=state.step,
        particles=heard.falls,
        continued=None if continued is None else continued.planes(),
    )
    return dataclasses.replace(
        prepared,
        state=state,
        heard=heard,
        view=view,
        shown=state.map.shown(path, view),
        imagined=imagined,
        continued=continued,
        scores=tuple(scores),
        request=request,
    )


def integrate(prepared: PreparedStep, frames: Tensor, slam: Slam) -> tuple[WorldState, Growth, Registration]:
    """The world after a prepared clip u8 [T, H, W, 3], what was added to its map, and how the clip was registered."""
    watch, before, heard, view = prepared.watch, prepared.state, prepared.heard, prepared.view
    assert heard is not None and view is not None
    seen = watch(
        "slam", slam, before.map, frames, prepared.path, view, before.ground, prepared.continued, watch
    )
    geometry = seen.geometry
    # Colours under a passing light or weather would be wrong tomorrow.
    write = not (before.conditions or heard.conditions)
    after, growth = watch(
        "remember", seen.map.integrate,
        frames, geometry.depth, static_weight(geometry), seen.tracked.c2w, seen.view, write,
    )  # fmt: skip
    moving = bool(prepared.event) or float((geometry.dynamic[-1] > 0.5).float().mean()) > MOVING_SHARE
    state = before.advance(
        after,
        frames,
        geometry.depth[-1],
        c2w=prepared.path[-1],
        moving=moving,
        ledger=(*before.ledger, *heard.rows),
        conditions=heard.conditions,
    )
    return state, growth, seen


def rest(state: WorldState, frames: Tensor) -> WorldState:
    """The world after a clip in which nothing happened: `frames` u8 [T, H, W, 3] repeat the last one."""
    return state.advance(dataclasses.replace(state.map, step=state.step + 1), frames, state.depth)
