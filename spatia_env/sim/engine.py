"""A thin layer over one PyBullet client: bodies from meshes, textures from arrays, pictures with depth.

Only this module, `movers` and `events` talk to PyBullet.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import tempfile
import weakref
from types import ModuleType

import numpy as np
from PIL import Image

from spatia_env.sim.shapes import Mesh


def _import_quietly() -> ModuleType:
    """PyBullet, without its greeting: it prints a build time to stdout or stderr, by its version."""
    sys.stdout.flush()
    sys.stderr.flush()
    # The line is written by C code, so the file descriptors themselves have to point elsewhere for a moment.
    kept, nowhere = (os.dup(1), os.dup(2)), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        import pybullet

        return pybullet
    finally:
        # C buffers what it prints to a pipe: it must leave while stdout still points nowhere.
        ctypes.CDLL(None).fflush(None)
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


pybullet = _import_quietly()

NEAR, FAR = 0.05, 30.0
STEP = 1.0 / 240.0
OVERSAMPLING = 1.5  # pictures are drawn this much larger and averaged down; sizes must be even

# What the renderer's camera calls +y up, -z forward is OpenCV's +y down, +z forward.
_CV_TO_GL = np.diag([1.0, -1.0, -1.0, 1.0])


class Engine:
    """One physics client in this process, with its bodies and its light.

    Args:
        light_direction: towards the light.
        ambient: share of light that falls everywhere.
        diffuse: share that falls on surfaces facing the light.
        light_colour: RGB factors in [0, 1].
    """

    def __init__(
        self,
        light_direction: tuple[float, float, float],
        ambient: float,
        diffuse: float,
        light_colour: tuple[float, float, float],
    ) -> None:
        self.client = pybullet.connect(pybullet.DIRECT)
        # A forgotten scene frees its 28 MB when it is collected.
        self._finalizer = weakref.finalize(self, _disconnect, self.client)
        self._light = {
            "lightDirection": list(light_direction),
            "lightAmbientCoeff": ambient,
            "lightDiffuseCoeff": diffuse,
            "lightSpecularCoeff": 0.0,
            "lightColor": list(light_colour),
            "lightDistance": 10.0,
            "shadow": 0,
        }
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=STEP,
            deterministicOverlappingPairs=1,
            numSolverIterations=30,
            enableFileCaching=0,
            physicsClientId=self.client,
        )
        pybullet.setGravity(0, 0, -9.81, physicsClientId=self.client)

    def close(self) -> None:
        """Free the client; safe to call twice."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return not self._finalizer.alive

    def texture(self, colours: np.ndarray) -> int:
        """Upload uint8 [H, W, 3]; row 0 is the top, texture coordinate (0, 0) the lower left corner."""
        handle, path = _scratch_file(".bmp")
        os.close(handle)
        try:
            Image.fromarray(np.ascontiguousarray(colours)).save(path)
            return pybullet.loadTexture(path, physicsClientId=self.client)
        finally:
            os.unlink(path)

    def add(
        self,
        mesh: Mesh,
        position: tuple = (0.0, 0.0, 0.0),
        yaw: float = 0.0,
        texture: int = -1,
        colour: tuple = (1.0, 1.0, 1.0),
        solids: tuple[tuple, ...] = (),
        mass: float = 0.0,
        restitution: float = 0.3,
        friction: float = 0.7,
    ) -> int:
        """A body seen as `mesh`; `solids` as in `items.Part`. Returns its id, as in the segmentation."""
        # A movable body needs its origin at its centre of mass, so its shapes are shifted there.
        centre = _centre(solids) if mass > 0 else np.zeros(3)
        c, s = math.cos(yaw), math.sin(yaw)
        offset = np.array([c * centre[0] - s * centre[1], s * centre[0] + c * centre[1], centre[2]])
        path = _write_obj(mesh, centre)
        try:  # the file is read when the body is made
            visual = pybullet.createVisualShape(
                pybullet.GEOM_MESH,
                fileName=path,
                rgbaColor=[*colour, 1.0],
                specularColor=[0, 0, 0],
                physicsClientId=self.client,
            )
            body = pybullet.createMultiBody(
                mass,
                self._collision(solids, centre),
                visual,
                (np.asarray(position) + offset).tolist(),
                pybullet.getQuaternionFromEuler([0, 0, yaw]),
                physicsClientId=self.client,
            )
        finally:
            os.unlink(path)
        if texture >= 0:
            pybullet.changeVisualShape(body, -1, textureUniqueId=texture, physicsClientId=self.client)
        pybullet.changeDynamics(
            body,
            -1,
            restitution=restitution,
            lateralFriction=friction,
            rollingFriction=0.002,
            spinningFriction=0.002,
            activationState=pybullet.ACTIVATION_STATE_DISABLE_SLEEPING,
            physicsClientId=self.client,
        )
        return body

    def _collision(self, solids: tuple[tuple, ...], centre: np.ndarray) -> int:
        if not solids:
            return -1
        kinds = {"box": pybullet.GEOM_BOX, "cylinder": pybullet.GEOM_CYLINDER, "sphere": pybullet.GEOM_SPHERE}
        positions = [(np.asarray(s[1]) - centre).tolist() for s in solids]
        if len(solids) == 1:
            kind, _, *sizes = solids[0]
            size = {"halfExtents": list(sizes[0])} if kind == "box" else {"radius": sizes[0]}
            if kind == "cylinder":
                size["height"] = sizes[1]
            return pybullet.createCollisionShape(
                kinds[kind], collisionFramePosition=positions[0], physicsClientId=self.client, **size
            )
        return pybullet.createCollisionShapeArray(
            shapeTypes=[kinds[s[0]] for s in solids],
            halfExtents=[list(s[2]) if s[0] == "box" else [0, 0, 0] for s in solids],
            radii=[s[2] if s[0] != "box" else 0 for s in solids],
            lengths=[s[3] if s[0] == "cylinder" else 0 for s in solids],
            collisionFramePositions=positions,
            physicsClientId=self.client,
        )

    def remove(self, body: int) -> None:
        """Take a body out of the scene."""
        pybullet.removeBody(body, physicsClientId=self.client)

    def pose(self, body: int) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] and quaternion [4] (x, y, z, w) of a body."""
        position, turn = pybullet.getBasePositionAndOrientation(body, physicsClientId=self.client)
        return np.array(position), np.array(turn)

    def bounds(self, body: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner [3] of a body's collision shape."""
        low, high = pybullet.getAABB(body, physicsClientId=self.client)
        return np.array(low), np.array(high)

    def sees(self, eye: np.ndarray, point: np.ndarray) -> bool:
        """True if no solid lies between two points [3]."""
        hit = pybullet.rayTest(eye.tolist(), point.tolist(), physicsClientId=self.client)[0]
        return hit[0] < 0 or hit[2] >= 0.97

    def step(self, count: int) -> None:
        """Advance physics by this many steps of 1/240 s."""
        for _ in range(count):
            pybullet.stepSimulation(physicsClientId=self.client)

    def picture(
        self, c2w: np.ndarray, K: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a camera sees.

        Returns:
            rgb u8 [H, W, 3], z-depth f32 [H, W] in metres (0 = nothing) and body ids i32 [H, W] (-1 = nothing).
        """
        factor = OVERSAMPLING if height % 2 == 0 and width % 2 == 0 else 2.0
        h, w = round(height * factor), round(width * factor)
        view = _CV_TO_GL @ np.linalg.inv(np.asarray(c2w, dtype=np.float64))
        _, _, rgba, buffer, ids = pybullet.getCameraImage(
            w,
            h,
            view.T.ravel().tolist(),
            projection_matrix(np.asarray(K, dtype=np.float64) * [[factor], [factor], [1]], h, w),
            renderer=pybullet.ER_TINY_RENDERER,
            physicsClientId=self.client,
            **self._light,
        )
        rgb = np.reshape(rgba, (h, w, 4))[..., :3]
        buffer, ids = np.reshape(buffer, (h, w)).astype(np.float64), np.reshape(ids, (h, w)).astype(np.int32)
        # 1/z is linear in the buffer value, and on a plane it is linear in pixel coordinates.
        inverse = 1 / NEAR - buffer * (1 / NEAR - 1 / FAR)
        inverse[ids < 0] = 0
        if factor == 2.0:
            return _halve(rgb, inverse, ids)
        return _two_thirds(rgb, inverse, ids)


def projection_matrix(K: np.ndarray, height: int, width: int) -> list[float]:
    """The column-major OpenGL matrix of intrinsics in pixels, with pixel centres at +0.5."""
    # TinyRenderer samples at whole coordinates (and counts rows from below): half a pixel off ours, measured
    # on floors and walls (1 cm of error without this, below 1 mm with it).
    K = K + np.array([[0, 0, -0.5], [0, 0, 0.5], [0, 0, 0]])
    matrix = np.zeros((4, 4))
    matrix[0, 0], matrix[1, 1] = 2 * K[0, 0] / width, 2 * K[1, 1] / height
    matrix[0, 2], matrix[1, 2] = 1 - 2 * K[0, 2] / width, 2 * K[1, 2] / height - 1
    matrix[2, 2], matrix[2, 3] = -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
    matrix[3, 2] = -1
    return matrix.T.ravel().tolist()


def _two_thirds(
    rgb: np.ndarray, inverse: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average 3 x 3 drawn pixels into 2 x 2; depth is interpolated at the new centres within one body."""
    h, w = ids.shape
    c = rgb.reshape(h // 3, 3, w // 3, 3, 3).astype(np.uint16)
    rows = np.stack([2 * c[:, 0] + c[:, 1], c[:, 1] + 2 * c[:, 2]], axis=1)
    both = np.stack([2 * rows[..., 0, :] + rows[..., 1, :], rows[..., 1, :] + 2 * rows[..., 2, :]], axis=3)
    colours = ((both + 4) // 9).astype(np.uint8).reshape(h // 3 * 2, w // 3 * 2, 3)
    # The centre of a new pixel lies a quarter of a drawn pixel from the corner one towards the middle one.
    i = np.arange(h // 3 * 2) // 2 * 3 + np.arange(h // 3 * 2) % 2 * 2
    j = np.arange(w // 3 * 2) // 2 * 3 + np.arange(w // 3 * 2) % 2 * 2
    i_in, j_in = np.arange(h // 3 * 2) // 2 * 3 + 1, np.arange(w // 3 * 2) // 2 * 3 + 1
    corner = inverse[np.ix_(i, j)]
    label = ids[np.ix_(i, j)]
    total = 0.5625 * corner
    for a, b, weight in ((i_in, j, 0.1875), (i, j_in, 0.1875), (i_in, j_in, 0.0625)):
        near = inverse[np.ix_(a, b)]
        # Across an edge (another body, or a jump) the corner's own value is kept.
        same = (ids[np.ix_(a, b)] == label) & (np.abs(near - corner) < 0.03 * corner)
        total += weight * np.where(same, near, corner)
    depth = np.where(total > 0, 1 / np.maximum(total, 1e-9), 0).astype(np.float32)
    return colours, depth, label


def _halve(
    rgb: np.ndarray, inverse: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average 2 x 2 drawn pixels; depth is that of the upper left one, or the mean where all four are one surface."""
    h, w = ids.shape
    colours = (rgb.reshape(h // 2, 2, w // 2, 2, 3).astype(np.uint16).sum((1, 3)) + 2) // 4
    block = inverse.reshape(h // 2, 2, w // 2, 2).swapaxes(1, 2).reshape(h // 2, w // 2, 4)
    label = ids.reshape(h // 2, 2, w // 2, 2).swapaxes(1, 2).reshape(h // 2, w // 2, 4)
    one = (np.ptp(label, axis=-1) == 0) & (np.ptp(block, axis=-1) < 0.03 * block[..., 0])
    value = np.where(one, block.mean(-1), block[..., 0])
    depth = np.where(value > 0, 1 / np.maximum(value, 1e-9), 0).astype(np.float32)
    return colours.astype(np.uint8), depth, label[..., 0].copy()


def _write_obj(mesh: Mesh, centre: np.ndarray) -> str:
    """A temporary Wavefront file of a mesh moved by -centre; returns its path.

    PyBullet loses about 300 bytes a vertex of every mesh that is given as arrays, even after `disconnect`; files
    (with its file cache off) cost nothing.
    """
    handle, path = _scratch_file(".obj")
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in (mesh.vertices - centre).tolist()]
    lines += [f"vt {u:.9g} {v:.9g}" for u, v in mesh.uvs.tolist()]
    lines += [f"vn {x:.9g} {y:.9g} {z:.9g}" for x, y, z in mesh.normals.tolist()]
    lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in (mesh.triangles + 1).tolist()]
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def _scratch_file(suffix: str) -> tuple[int, str]:
    """An open handle and the path of a new temporary file, in memory where the system has a folder for that."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.mkstemp(suffix=suffix, prefix="spatia_", dir=folder)


def _centre(solids: tuple[tuple, ...]) -> np.ndarray:
    return np.mean([np.asarray(s[1], dtype=float) for s in solids], axis=0) if solids else np.zeros(3)


def _disconnect(client: int) -> None:
    with contextlib.suppress(pybullet.error):
        pybullet.disconnect(physicsClientId=client)
