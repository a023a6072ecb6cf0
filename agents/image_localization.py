"""Finding the place where a picture was taken: match it with the map, coarse to fine, and look around until it fits.

Everything here takes an unwrapped environment, as `planning` does, and changes nothing. What is known of the
place is what `image_goal` promises: up to 1.5 m ahead of the start, turned by up to 75 degrees, as high and level.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from planning import beside, towards
from spatia_env.geometry import scale_intrinsics

COARSE = 32
"""Largest side in pixels of the pictures that are compared."""
UNKNOWN = 0.2
"""What is not known could be anything: it counts as a difference of a fifth."""
TRUSTED, ENOUGH = 0.035, 0.5
"""A match is trusted with at most this difference of colours, on at least this share of the picture."""
SWEEP = np.radians([0, 30, 55, 25, -5, -35, -55])
"""Headings to look at, from the start's, until the place is found; mirrored where the left looks likelier."""


@dataclass(frozen=True)
class Match:
    """Where a picture fits the map.

    Attributes:
        place: Metres ahead and to the right of the start, and radians turned to the right.
        pose: The same as c2w [4, 4].
        difference: Mean difference of colours, 0 to 1, where the map is known.
        share: Share of the picture where it is.
    """

    place: np.ndarray
    pose: np.ndarray
    difference: float
    share: float

    @property
    def trusted(self) -> bool:
        """Whether it is worth going there before all was looked at."""
        return self.difference <= TRUSTED and self.share >= ENOUGH


def match_picture(
    env: Any, goal: np.ndarray, start: np.ndarray, np_random: np.random.Generator, near: Match | None = None
) -> Match:
    """The best match of a picture u8 [H, W, 3] among places around `start` [4, 4].

    Draws around the best places of a grid, or around the match `near`, that narrow from round to round.
    """
    picture = torch.from_numpy(np.ascontiguousarray(goal)).movedim(-1, 0).float() / 255
    if near is None:
        steps = np.meshgrid([0.4, 1.1], [-0.45, 0.0, 0.45], np.radians(np.arange(-75, 76, 15)))
        places = np.stack([axis.ravel() for axis in steps], axis=1)
    else:
        places = near.place[None]
    found = np.stack(_compare(env, picture, start, places))
    spread = np.array([0.3, 0.3, 0.13]) * (1.0 if near is None else 0.5)
    for _ in range(4 if near is None else 3):
        best = np.argsort(found[0], kind="stable")[:4]
        drawn = np.repeat(places[best], 16 // len(best), axis=0)
        drawn = drawn + np_random.normal(size=drawn.shape) * spread
        places = np.concatenate([places[best], drawn])
        found = np.concatenate([found[:, best], np.stack(_compare(env, picture, start, drawn))], axis=1)
        spread = spread * 0.55
    first = int(np.argmin(found[0]))
    _, difference, share = found[:, first]
    return Match(places[first], beside(start, *places[first]), float(difference), float(share))


def _compare(
    env: Any, picture: torch.Tensor, start: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs, differences and known shares [N] of a picture [3, H, W] at places [N, 3]."""
    height, width = picture.shape[1:]
    scale = COARSE / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    small = F.interpolate(picture[None], (h, w), mode="area")[0]
    poses = torch.from_numpy(np.stack([beside(start, *place) for place in places]).astype(np.float32))
    state = env.world.state
    view = state.memory.render(poses, scale_intrinsics(state.K, w / width, h / height), h, w)
    known = view.known.float()
    counts = known.flatten(1).sum(1)
    off = ((view.rgb - small).abs().mean(1) * known).flatten(1).sum(1) / counts.clamp_min(1)
    share = counts / (h * w)
    cost = off * share + UNKNOWN * (1 - share)
    return cost.numpy(), off.numpy(), share.numpy()


@dataclass
class PictureSeeker:
    """Looks around until the map shows where the goal's picture was taken, then goes there.

    Attributes:
        start: Pose at the reset [4, 4].
        goal: The picture u8 [H, W, 3].
        np_random: Random numbers.
    """

    start: np.ndarray
    goal: np.ndarray
    np_random: np.random.Generator
    _next: int = field(default=0, init=False)
    _side: float = field(default=0.0, init=False)
    _match: Match | None = field(default=None, init=False)

    def __call__(self, env: Any) -> np.ndarray | None:
        """The next camera action [6]; None once everything was looked at and the best match is reached."""
        here, match = env.world.c2w.double().numpy(), self._look(env)
        if match.trusted or self._next >= len(SWEEP):
            camera = towards(here, match.pose)
            if np.abs(camera[[0, 2, 4]]).max() > 0.05:
                return camera
        self._side = self._side or (1.0 if match.place[2] >= 0 else -1.0)
        while self._next < len(SWEEP):
            camera = towards(here, beside(self.start, 0.0, 0.0, self._side * SWEEP[self._next]))
            if np.abs(camera).max() > 0.1:
                return camera
            self._next += 1
        return None

    def _look(self, env: Any) -> Match:
        if self._match is not None and self._match.trusted:
            self._match = match_picture(env, self.goal, self.start, self.np_random, self._match)
        if self._match is None or not self._match.trusted:
            self._match = match_picture(env, self.goal, self.start, self.np_random)
        return self._match
