"""The world in three dimensions: the cloud, keyframes, the walked path, events' places, what is picked.

Tiles are sent by a thread of their own, so that a large world never holds up a clip.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import unproject
from spatia_env.viewer.clouds import BUDGET, MOVING, Colouring, Tile, TiledMap
from spatia_env.viewer.history import Moment, Timeline
from spatia_env.viewer.objects import Picked

MAX_FRUSTA = 40
KEYFRAME, PATH, WALKER, PICKED = (120, 130, 145), (255, 196, 120), (255, 138, 76), (255, 214, 64)
LABEL_RISE = 0.12
"""Metres between labels of events at one place."""
TICK = 0.25
"""Seconds between looks at where the cameras are, for the level of detail."""


class Stage:
    """Draws a session's moment into a viser scene.

    Args:
        server: The viser server.
        budget: Points a browser is sent at most.
    """

    def __init__(self, server: Any, budget: int = BUDGET) -> None:
        self.server = server
        self.colouring: Colouring = "colour"
        self._tiles = TiledMap(budget)
        self._nodes: dict[Tile, Any] = {}
        self._moment: Moment | None = None
        self._wake, self._stop = threading.Event(), threading.Event()
        self._things: dict[str, Any] = {}
        self.points_shown = 0
        self._counts: dict[Tile, int] = {}
        self._settled: Any = None
        server.scene.set_up_direction("+z")
        server.scene.configure_default_lights(cast_shadow=False)
        self._sender = threading.Thread(target=self._send, name="tiles", daemon=True)
        self._sender.start()

    def close(self) -> None:
        """Stop sending."""
        self._stop.set()
        self._wake.set()
        self._sender.join(30)

    def show(self, timeline: Timeline) -> None:
        """Draw the moment that is now."""
        self._moment = timeline.now
        self._wake.set()
        with self.server.atomic():
            self._draw_path(timeline)
            self._draw_keyframes(timeline.now)
            self._draw_events(timeline)
            self._draw_moving(timeline.now)

    def colour(self, colouring: Colouring) -> None:
        """Colour the cloud by something else."""
        self.colouring = colouring
        if self._moment is not None:
            self._draw_moving(self._moment)
        self._wake.set()

    def set_visible(self, what: str, visible: bool) -> None:
        """Show or hide "keyframes", "path" or "events"."""
        self._frame(f"/{what}").visible = visible

    def settle(self, timeout: float) -> bool:
        """Wait until all that is due has been handed to viser; whether it has."""
        return _wait_until(lambda: self._settled == (id(self._moment), self._look()), timeout)

    # -- tiles ---------------------------------------------------------------------------------------------

    def _eyes(self) -> np.ndarray:
        cameras = [client.camera for client in self.server.get_clients().values()]
        eyes = [np.round(camera.position, 0) for camera in cameras if np.isfinite(camera.position).all()]
        return np.array(eyes, np.float64).reshape(-1, 3)

    def _look(self) -> Any:
        # By age the colours of all points change with every step; their own colours do not.
        step = self._moment.state.step if self.colouring == "age" and self._moment else 0
        return (self.colouring, step)

    def _due(self) -> list[tuple[Tile, bool]]:
        assert self._moment is not None
        self._tiles.show(self._moment.state.memory)
        return self._tiles.due(self._eyes(), self._look())

    def _send(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(TICK)
            self._wake.clear()
            if self._moment is None:
                continue
            at = (id(self._moment), self._look())
            due = self._due()
            for tile in self._tiles.gone():
                self._nodes.pop(tile).remove()
                self._counts.pop(tile, None)
            for tile, fine in due:
                if self._wake.is_set() or self._stop.is_set():
                    break
                self._send_tile(tile, fine)
            else:
                self._settled = at
            self.points_shown = sum(self._counts.values())

    def _send_tile(self, tile: Tile, fine: bool) -> None:
        assert self._moment is not None
        colouring, step = self.colouring, self._moment.state.step
        drawing = self._tiles.draw(tile, fine, colouring, step, self._look())
        self._counts[tile] = len(drawing.position)
        self._nodes[tile] = self.server.scene.add_point_cloud(
            "/cloud/" + "_".join(map(str, tile)).replace("-", "m"),
            points=drawing.position,
            colors=drawing.colour,
            position=drawing.centre,
            point_size=drawing.size,
            point_shape="square",
            point_shading="flat",
        )

    # -- the rest ------------------------------------------------------------------------------------------

    def _frame(self, name: str) -> Any:
        if name not in self._things:
            self._things[name] = self.server.scene.add_frame(name, show_axes=False)
        return self._things[name]

    def _put(self, name: str, node: Any) -> None:
        """Replace a node; None takes it away."""
        old = self._things.pop(name, None)
        if node is None:
            if old is not None:
                old.remove()
            return
        self._things[name] = node

    def _draw_path(self, timeline: Timeline) -> None:
        self._frame("/path")
        branches = {tip.id: timeline.branch(tip.id) for tip in timeline.tips()}
        now = {moment.id for moment in timeline.branch()}
        for label, width, colour, chosen in (
            ("others", 2.0, KEYFRAME, [line for line in branches.values() if line[-1].id not in now]),
            ("now", 4.0, PATH, [timeline.branch()]),
        ):
            pieces = [piece for line in chosen for piece in _segments(line)]
            points = np.concatenate(pieces) if pieces else None
            node = None
            if points is not None and len(points):
                node = self.server.scene.add_line_segments(
                    f"/path/{label}", points=points, colors=colour, thickness=width, thickness_units="screen"
                )
            self._put(f"/path/{label}", node)
        state = timeline.now.state
        height, width_px = state.size
        self._put(
            "/path/walker",
            self.server.scene.add_camera_frustum(
                "/path/walker",
                fov=2 * float(np.arctan(height / 2 / float(state.K[1, 1]))),
                aspect=width_px / height,
                scale=0.18,
                color=WALKER,
                thickness=2.5,
                thickness_units="screen",
                **_placed(state.c2w),
            ),
        )

    def _draw_keyframes(self, moment: Moment) -> None:
        self._frame("/keyframes")
        state = moment.state
        picks = np.unique(
            np.linspace(0, len(state.keyframes) - 1, min(MAX_FRUSTA, len(state.keyframes))).astype(int)
        )
        wanted = {}
        for index in picks.tolist():
            keyframe = state.keyframes[index]
            wanted[f"/keyframes/k{id(keyframe):x}"] = keyframe
        for name in [n for n in self._things if n.startswith("/keyframes/") and n not in wanted]:
            self._put(name, None)
        height, width = state.size
        for name, keyframe in wanted.items():
            if name in self._things:
                continue
            node = self.server.scene.add_camera_frustum(
                name,
                fov=2 * float(np.arctan(height / 2 / float(state.K[1, 1]))),
                aspect=width / height,
                scale=0.1,
                color=KEYFRAME,
                thickness=1.0,
                thickness_units="screen",
                image=keyframe.frame[::2, ::2].numpy(),
                **_placed(keyframe.c2w),
            )
            self._things[name] = _Kept(node, keyframe)

    def _draw_events(self, timeline: Timeline) -> None:
        self._frame("/events")
        wanted = {f"/events/e{moment.id}": moment for moment in timeline.branch() if moment.place is not None}
        for name in [n for n in self._things if n.startswith("/events/") and n not in wanted]:
            self._put(name, None)
        spots = stacked([moment.place for moment in wanted.values() if moment.place is not None])
        for (name, moment), spot in zip(wanted.items(), spots, strict=True):
            if name not in self._things:
                words = moment.event if len(moment.event) <= 40 else moment.event[:39] + "…"
                self._things[name] = self.server.scene.add_label(
                    name, words, position=spot, anchor="bottom-center", font_screen_scale=0.9
                )

    def _draw_moving(self, moment: Moment) -> None:
        points, colours = moving_points(moment)
        node = None
        if len(points):
            tinted = np.broadcast_to(np.array(MOVING, np.uint8), colours.shape)
            node = self.server.scene.add_point_cloud(
                "/moving",
                points=points,
                colors=tinted if self.colouring == "static / dynamic" else colours,
                point_size=0.02,
                precision="float32",
                point_shape="circle",
                visible=self.colouring == "static / dynamic",
            )
        self._put("/moving", node)

    def draw_picked(self, picked: Picked | None) -> Any:
        """Mark a thing, with a gizmo at its middle; the gizmo, or None."""
        if picked is None:
            self._put("/picked", None)
            self._put("/gizmo", None)
            return None
        self._put(
            "/picked",
            self.server.scene.add_point_cloud(
                "/picked",
                points=picked.position - picked.centre.astype(np.float32),
                colors=(0.45 * picked.colour + 0.55 * np.array(PICKED)).astype(np.uint8),
                position=picked.centre,
                point_size=0.016,
                point_shape="circle",
            ),
        )
        gizmo = self.server.scene.add_transform_controls(
            "/gizmo",
            scale=float(np.clip(picked.size.max(), 0.2, 1.0)),
            position=picked.centre,
            depth_test=False,
            line_width=3.0,
        )
        self._put("/gizmo", gizmo)
        return gizmo


class _Kept:
    """A node, and the keyframe whose id names it: it must live as long as the name does."""

    def __init__(self, node: Any, keyframe: Any) -> None:
        self.node, self.keyframe = node, keyframe

    def remove(self) -> None:
        self.node.remove()


def moving_points(moment: Moment, limit: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """What moved in a moment's clip: points f32 [n, 3] in metres and colours u8 [n, 3], at most `limit`."""
    clip = moment.clip
    which = clip.dynamic & (clip.depth > 0)
    if not which.any():
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    depth = torch.from_numpy(clip.depth.astype(np.float32))
    points = unproject(depth, moment.state.K, torch.from_numpy(clip.pose)).numpy()[which]
    stride = -(-len(points) // limit)
    return points[::stride].astype(np.float32), clip.frames[which][::stride]


def stacked(places: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Places in metres for labels: one that would cover an earlier one stands above it."""
    spots: list[tuple[float, float, float]] = []
    for x, y, z in places:
        while any(np.hypot(x - a, y - b) < 0.3 and abs(z - c) < 0.99 * LABEL_RISE for a, b, c in spots):
            z += LABEL_RISE
        spots.append((x, y, z))
    return spots


def _segments(line: list[Moment]) -> list[np.ndarray]:
    """Line segments [n, 2, 3] through the camera's places along a branch."""
    places = np.concatenate([moment.clip.pose[:, :3, 3] for moment in line])
    pieces = np.stack([places[:-1], places[1:]], axis=1)
    moved = np.linalg.norm(pieces[:, 1] - pieces[:, 0], axis=-1) > 1e-4
    return [pieces[moved]] if moved.any() else []


def _placed(c2w: Tensor) -> dict[str, Any]:
    return {"wxyz": quaternion(c2w[:3, :3].double().numpy()), "position": c2w[:3, 3].double().numpy()}


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (w, x, y, z) of a rotation [3, 3]."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return np.array([w, x, y, z])


def rotation_of(wxyz: Any) -> np.ndarray:
    """Rotation [3, 3] of a quaternion (w, x, y, z)."""
    from scipy.spatial.transform import Rotation

    w, x, y, z = (float(value) for value in wxyz)
    return Rotation.from_quat([x, y, z, w]).as_matrix()


def _wait_until(condition: Any, timeout: float) -> bool:
    waited = threading.Event()
    for _ in range(max(1, int(timeout / 0.02))):
        if condition():
            return True
        waited.wait(0.02)
    return bool(condition())
