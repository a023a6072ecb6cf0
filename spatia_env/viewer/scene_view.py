"""The world in three dimensions: the cloud, keyframes, the walked path, events' places, what is picked.

Tiles are sent by a thread of their own, so that a large world never holds up a clip.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.geometry import unproject
from spatia_env.viewer.clouds import BUDGET, MOVING, Colouring, Tile, TiledMap
from spatia_env.viewer.objects import Picked
from spatia_env.viewer.timeline import Moment, Timeline

MAX_FRUSTA = 40
KEYFRAME, PATH, WALKER, PICKED = (120, 130, 145), (255, 196, 120), (255, 138, 76), (255, 214, 64)
LABEL_RISE = 0.12
"""Metres between labels of events at one place."""
TICK = 0.25
"""Seconds between looks at where the cameras are, for the level of detail."""


class SceneView:
    """Draws a session's moment into a viser scene.

    Args:
        server: The viser server.
        budget: Points a browser is sent at most.
    """

    def __init__(self, server: Any, budget: int = BUDGET) -> None:
        self._server, self._scene = server, server.scene
        self._colouring: Colouring = "colour"
        self._map = TiledMap(budget)
        self._tiles: dict[Tile, Any] = {}
        self._nodes: dict[str, Any] = {}
        self._keyframes: dict[str, Any] = {}
        self._moment: Moment | None = None
        self._sent: Any = None
        self._wake, self._stop = threading.Event(), threading.Event()
        self._scene.set_up_direction("+z")
        self._scene.configure_default_lights(cast_shadow=False)
        for group in ("path", "keyframes", "events"):
            self._nodes[f"/{group}"] = self._scene.add_frame(f"/{group}", show_axes=False)
        self._sender = threading.Thread(target=self._send_tiles, name="tiles", daemon=True)
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
        with self._server.atomic():
            self._draw_path(timeline)
            self._draw_keyframes(timeline.now)
            self._draw_events(timeline)
            self._draw_moving(timeline.now)

    def colour(self, colouring: Colouring) -> None:
        """Colour the cloud by something else."""
        self._colouring = colouring
        if self._moment is not None:
            self._draw_moving(self._moment)
        self._wake.set()

    def set_visible(self, what: str, visible: bool) -> None:
        """Show or hide "keyframes", "path" or "events"."""
        self._nodes[f"/{what}"].visible = visible

    def wait_until_sent(self, timeout: float) -> bool:
        """Wait until all that is due has been handed to viser; whether it has."""
        end = time.monotonic() + timeout
        while self._sent != (id(self._moment), self._look()):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def draw_picked(self, picked: Picked | None) -> Any:
        """Mark an object, with a gizmo at its middle; the gizmo, or None."""
        self._put("/picked", None)
        self._put("/gizmo", None)
        if picked is None:
            return None
        marked = (0.45 * picked.colour + 0.55 * np.array(PICKED)).astype(np.uint8)
        points = picked.position - picked.centre.astype(np.float32)
        self._nodes["/picked"] = self._scene.add_point_cloud(
            "/picked", points, marked, position=picked.centre, point_size=0.016, point_shape="circle"
        )
        scale = float(np.clip(picked.size.max(), 0.2, 1.0))
        self._nodes["/gizmo"] = self._scene.add_transform_controls(
            "/gizmo", scale=scale, position=picked.centre, depth_test=False, line_width=3.0
        )
        return self._nodes["/gizmo"]

    # -- tiles ---------------------------------------------------------------------------------------------

    def _eyes(self) -> np.ndarray:
        cameras = [client.camera for client in self._server.get_clients().values()]
        eyes = [np.round(camera.position, 0) for camera in cameras if np.isfinite(camera.position).all()]
        return np.array(eyes, np.float64).reshape(-1, 3)

    def _look(self) -> Any:
        # By age the colours of all points change with every step; their own colours do not.
        step = self._moment.state.step if self._colouring == "age" and self._moment else 0
        return (self._colouring, step)

    def _send_tiles(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(TICK)
            self._wake.clear()
            moment, look = self._moment, self._look()
            if moment is None:
                continue
            self._map.show(moment.state.memory)
            due = self._map.due(self._eyes(), look)
            for tile in self._map.gone():
                self._tiles.pop(tile).remove()
            for tile, fine in due:
                if self._wake.is_set() or self._stop.is_set():
                    break
                self._send_tile(tile, fine, moment.state.step, look)
            else:
                self._sent = (id(moment), look)

    def _send_tile(self, tile: Tile, fine: bool, step: int, look: Any) -> None:
        drawing = self._map.draw(tile, fine, look[0], step, look)
        self._tiles[tile] = self._scene.add_point_cloud(
            "/cloud/" + "_".join(map(str, tile)).replace("-", "m"),
            points=drawing.position,
            colors=drawing.colour,
            position=drawing.centre,
            point_size=drawing.size,
            point_shape="square",
            point_shading="flat",
        )

    # -- the rest ------------------------------------------------------------------------------------------

    def _put(self, name: str, node: Any) -> None:
        """Remember a node that replaces the one of this name; None takes it away."""
        old = self._nodes.pop(name, None)
        if node is not None:
            self._nodes[name] = node
        elif old is not None:
            old.remove()

    def _keep_only(self, group: str, wanted: Iterable[str]) -> None:
        for name in [name for name in self._nodes if name.startswith(group) and name not in wanted]:
            self._put(name, None)

    def _draw_path(self, timeline: Timeline) -> None:
        branch = timeline.branch()
        others = [timeline.branch(tip.id) for tip in timeline.tips() if tip not in branch]
        for name, width, colour, lines in (
            ("/path/others", 2.0, KEYFRAME, others), ("/path/now", 4.0, PATH, [branch]),
        ):  # fmt: skip
            points = np.concatenate([np.zeros((0, 2, 3), np.float32), *map(_segments, lines)])
            node = None
            if len(points):
                node = self._scene.add_line_segments(
                    name, points=points, colors=colour, thickness=width, thickness_units="screen"
                )
            self._put(name, node)
        state = timeline.now.state
        self._put("/path/walker", self._frustum("/path/walker", state, state.c2w, 0.18, WALKER, 2.5))

    def _draw_keyframes(self, moment: Moment) -> None:
        state = moment.state
        shown = np.linspace(0, len(state.keyframes) - 1, min(MAX_FRUSTA, len(state.keyframes)))
        frames = [state.keyframes[index] for index in np.unique(shown.astype(int)).tolist()]
        # A keyframe's id names it for as long as it is kept here.
        wanted = {f"/keyframes/k{id(frame):x}": frame for frame in frames}
        self._keep_only("/keyframes/", wanted)
        for name, frame in wanted.items():
            if name not in self._nodes:
                image = frame.frame[::2, ::2].numpy()
                self._nodes[name] = self._frustum(name, state, frame.c2w, 0.1, KEYFRAME, 1.0, image)
        self._keyframes = wanted

    def _frustum(
        self, name: str, state: Any, c2w: Tensor, scale: float, colour: Any, width: float, image: Any = None
    ) -> Any:
        height, across = state.size
        return self._scene.add_camera_frustum(
            name,
            fov=2 * float(np.arctan(height / 2 / float(state.K[1, 1]))),
            aspect=across / height,
            scale=scale,
            color=colour,
            thickness=width,
            thickness_units="screen",
            image=image,
            wxyz=quaternion(c2w[:3, :3].double().numpy()),
            position=c2w[:3, 3].double().numpy(),
        )

    def _draw_events(self, timeline: Timeline) -> None:
        wanted = {f"/events/e{moment.id}": moment for moment in timeline.branch() if moment.place is not None}
        self._keep_only("/events/", wanted)
        spots = stacked([moment.place for moment in wanted.values() if moment.place is not None])
        for (name, moment), spot in zip(wanted.items(), spots, strict=True):
            if name not in self._nodes:
                words = moment.event if len(moment.event) <= 40 else moment.event[:39] + "…"
                self._nodes[name] = self._scene.add_label(
                    name, words, position=spot, anchor="bottom-center", font_screen_scale=0.9
                )

    def _draw_moving(self, moment: Moment) -> None:
        points, colours = moving_points(moment)
        shown, node = self._colouring == "static / dynamic", None
        if len(points):
            tinted = np.broadcast_to(np.array(MOVING, np.uint8), colours.shape)
            node = self._scene.add_point_cloud(
                "/moving",
                points=points,
                colors=tinted if shown else colours,
                point_size=0.02,
                precision="float32",
                point_shape="circle",
                visible=shown,
            )
        self._put("/moving", node)


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


def _segments(line: list[Moment]) -> np.ndarray:
    """Line segments [n, 2, 3] through the camera's places along a branch."""
    places = np.concatenate([moment.clip.pose[:, :3, 3] for moment in line])
    pieces = np.stack([places[:-1], places[1:]], axis=1)
    moved = np.linalg.norm(pieces[:, 1] - pieces[:, 0], axis=-1) > 1e-4
    return pieces[moved]


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
