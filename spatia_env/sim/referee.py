"""The judge of simulated scenes: sets goals and keeps the score from the simulator's truth.

A judge looks at the scene as it was at the reset: what events bring in the generated world is not acted out in
it. Everything it says goes to tasks; nothing enters an observation.
"""

import numpy as np

from spatia_env.errors import ActionError
from spatia_env.geometry import se3_exp

CELL = 0.2
"""Edge in metres of the cells in which the true surface that was seen is counted."""
SHELL = ("floor", "ceiling", "sky", "wall", "fence", "hedge")
"""Names of what encloses a scene begin like this; everything else is an object to find."""
MAX_LOOKS = 3
"""So many frames of a clip are looked at for coverage."""
CLEARANCE = 0.3
"""Metres around a goal, and on the straight way to it, that are free."""
WELL_SEEN = 0.01
"""An object that fills this share of the first picture is not one to search for."""
_TRIES = 80
_PACK = 1 << 20


class SimJudge:
    """Looks at a simulated scene.

    Args:
        scene: Seed or name.
        size: (height, width) of the pictures, pixels.
    """

    def __init__(self, scene: int | str, size: tuple[int, int]) -> None:
        from spatia_env.sim.scenes import open_scene  # loads the simulator

        self.size = size
        self.scene = open_scene(scene)
        self._rays = _rays(np.asarray(self.scene.K(*size), np.float64), *size)
        self._bodies: dict[str, list[int]] = {}
        self._bounds: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for row in self.scene.object_table():
            if not row.name.startswith(SHELL):
                self._bodies.setdefault(row.name, []).append(row.body)
                self._bounds[row.body] = (np.array(row.low), np.array(row.high))

    @property
    def names(self) -> tuple[str, ...]:
        """Words for the scene's objects, such as "table"."""
        return tuple(sorted(self._bodies))

    def close(self) -> None:
        """Free the simulator (about 28 MB); safe to call twice."""
        self.scene.close()

    def cells(self, path: np.ndarray) -> np.ndarray:
        """Sorted int64 names of the cells of true surface that cameras [T, 4, 4] see; see `Judge`."""
        looks = np.unique(np.linspace(0, len(path) - 1, min(MAX_LOOKS, len(path))).round().astype(int))
        seen = [np.zeros(0, np.int64)]
        for c2w in np.asarray(path, np.float64)[looks]:
            depth = self.scene.render(c2w, *self.size).depth.astype(np.float64)
            points = (self._rays * depth[..., None])[depth > 0] @ c2w[:3, :3].T + c2w[:3, 3]
            x, y, z = (np.floor(points / CELL).astype(np.int64) + _PACK // 2).T
            seen.append((x * _PACK + y) * _PACK + z)
        return np.unique(np.concatenate(seen))

    def target(self, name: str, c2w: np.ndarray) -> tuple[float, float]:
        """Share of the picture that shows the object, and metres to its box; see `Judge`."""
        bodies = self._named(name)
        ids = self.scene.render(np.asarray(c2w, np.float64), *self.size).segmentation
        eye = np.asarray(c2w, np.float64)[:3, 3]
        gaps = [float(np.linalg.norm(eye - np.clip(eye, *self._bounds[body]))) for body in bodies]
        return float(np.isin(ids, bodies).mean()), min(gaps)

    def draw_goal(self, np_random: np.random.Generator, c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A free place up to 1.5 m away, straight ahead of nothing solid, turned by up to 75 degrees."""
        start = np.asarray(c2w, np.float64)
        goal = start @ se3_exp(np.array([0, 0, 0, 0, np.radians(60), 0]))
        for _ in range(_TRIES):
            ahead, side = np_random.uniform(0.3, 1.5), np_random.uniform(-0.8, 0.8)
            position = start[:3, 3] + start[:3, 2] * ahead + start[:3, 0] * side
            position[2] = start[2, 3]
            way = [start[:3, 3] + (position - start[:3, 3]) * share for share in (0.25, 0.5, 0.75, 1.0)]
            yaw = np_random.uniform(-75, 75)
            if all(self.scene.is_free(place, CLEARANCE) for place in way):
                goal = start @ se3_exp(np.array([0, 0, 0, 0, np.radians(yaw), 0]))
                goal[:3, 3] = position
                break
        return np.array(self.scene.render(goal, *self.size).rgb), goal

    def draw_target(self, np_random: np.random.Generator, c2w: np.ndarray) -> str:
        """The word of an object that fills less than `WELL_SEEN` of the picture from `c2w`; any if all do."""
        if not self._bodies:
            raise ActionError("find: this scene has no objects; reset from another one.")
        ids = self.scene.render(np.asarray(c2w, np.float64), *self.size).segmentation
        hidden = [n for n in self.names if np.isin(ids, self._bodies[n]).mean() < WELL_SEEN]
        return str(np_random.choice(hidden or list(self.names)))

    def _named(self, name: str) -> list[int]:
        words = name.lower().replace(",", " ").split()
        plain = {word: bodies for word, bodies in self._bodies.items() if set(word.split()) <= set(words)}
        if not plain:
            raise ActionError(
                f"find: the scene has no {name!r}; it has {', '.join(self.names) or 'nothing'}."
            )
        # "toy brick" rather than "brick" where both fit.
        return plain[max(plain, key=len)]


def _rays(K: np.ndarray, height: int, width: int) -> np.ndarray:
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], axis=-1)
