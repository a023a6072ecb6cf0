"""Did the event happen? Judges of clips, from pictures alone.

`detect("red_ball_rolls", clip, before, expected)` looks for what the event of `events.vocabulary` shows: a body
of its colour that was not there before (and moved the right way, where the event has a direction), or a change
of light or air within the clip. The simulator's colours are the prototypes; areas need to reach about a third of
what the simulator shows, so that a blurred or smaller generated body counts too.

The judges are validated on simulator clips before anything is measured with them:

    python -m spatia_env.bench.detectors --scenes 20

prints for every event how often it is found when it happens, and how often when another one or none happens.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from spatia_env.events.vocabulary import EVENT_NAMES, event

# Hue in degrees of each prototype; a saturated pixel belongs to the nearest one.
HUES = {
    "red": 358.0,
    "orange": 27.0,
    "yellow": 51.0,
    "lime": 83.0,
    "green": 138.0,
    "cyan": 184.0,
    "blue": 232.0,
    "purple": 271.0,
    "pink": 323.0,
}
HUE_LIMIT = 24.0
COLOURS = tuple(HUES)
DARK_LIMIT = 46  # a pixel of the black robot is darker than this in every channel


@dataclasses.dataclass(frozen=True)
class Body:
    """What a mover looks like: its colour, the least share of the picture, and its motion along the image rows."""

    colour: str
    area: float
    motion: str = ""
    scattered: bool | None = None


BODIES = {
    "red_ball_rolls": Body("red", 0.010),
    "blue_box_drops": Body("blue", 0.012, "down"),
    "duck_falls": Body("yellow", 0.012, "down"),
    "green_ball_bounces": Body("green", 0.008),
    "cubes_burst": Body("cyan", 0.020),
    "car_drives": Body("lime", 0.008),
    "robot_drives": Body("black", 0.014),
    "cone_slides": Body("orange", 0.009, scattered=False),
    "balloon_rises": Body("purple", 0.012, "up"),
    "balls_rain": Body("orange", 0.012, scattered=True),
    "pink_cube_slides": Body("pink", 0.010),
}
MIN_FRAMES = 3
MIN_MOTION = 0.05  # of the picture's height
DOMINANCE = 0.6  # share of the event's colour among all new saturated pixels
MAN_COLOURS = ("yellow", "blue")
MAN_AREA = 0.004
TOWER_COLOURS = ("red", "yellow", "blue", "green", "pink")
TOWER_AREA = 0.0022
SEVERAL = {"tower_topples": TOWER_COLOURS, "man_walks": MAN_COLOURS}
"""Colours of the movers that have more than one."""


def detect(name: str, clip: np.ndarray, before: np.ndarray, expected: np.ndarray | None = None) -> bool:
    """Whether event `name` happens in a clip.

    Args:
        name: an event of the vocabulary.
        clip: uint8 [T, H, W, 3].
        before: uint8 [H, W, 3], the last picture before the clip.
        expected: uint8 [T, H, W, 3], the same path in the world without the event (a static render), where there is
            one; black pixels count as unknown. Without it, colours that come into view by turning are told from
            events by their saturation alone.

    Raises:
        PromptError: no such event.
    """
    kind = event(name).kind
    evidence = Evidence(
        np.asarray(clip), np.asarray(before), None if expected is None else np.asarray(expected)
    )
    if kind == "mover":
        return evidence.mover(name)
    return evidence.light(name)


def detect_several(
    names: tuple[str, ...], clip: np.ndarray, before: np.ndarray, expected: np.ndarray | None = None
) -> bool:
    """Whether all of some events that were asked for at once happen in a clip; arguments as of `detect`."""
    evidence = Evidence(
        np.asarray(clip), np.asarray(before), None if expected is None else np.asarray(expected)
    )
    return all(
        evidence.mover(name, tuple(other for other in names if other != name))
        if event(name).kind == "mover"
        else evidence.light(name)
        for name in names
    )


def detect_all(clip: np.ndarray, before: np.ndarray, expected: np.ndarray | None = None) -> list[str]:
    """The names of all events that `detect` finds in a clip; arguments as there."""
    evidence = Evidence(
        np.asarray(clip), np.asarray(before), None if expected is None else np.asarray(expected)
    )
    return [n for n in EVENT_NAMES if (evidence.mover(n) if event(n).kind == "mover" else evidence.light(n))]


class Evidence:
    """Measurements on one clip, each made once and only when asked for."""

    def __init__(self, clip: np.ndarray, before: np.ndarray, expected: np.ndarray | None) -> None:
        self.clip, self.before, self.expected = clip, before, expected

    # -- bodies -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _new(self) -> dict[str, np.ndarray]:
        """Per colour, masks [T, H, W] of what was not there before."""
        classes = _colour_classes(self.clip, 0.62 if self.expected is not None else 0.68)
        masks = {colour: classes == i for i, colour in enumerate(COLOURS)}
        masks["black"] = self._new_dark()
        if self.expected is not None:
            old = _colour_classes(self.expected, 0.62)
            # Pixels that only a moved edge explains: the expected colour is near by.
            for i, colour in enumerate(COLOURS):
                masks[colour] &= ~_near(old == i)
            changed = np.abs(self.clip.astype(np.int16) - self.expected).max(-1) > 40
            masks = {colour: mask & changed for colour, mask in masks.items()}
        return masks

    def _new_dark(self) -> np.ndarray:
        dark = self.clip.max(-1) < DARK_LIMIT
        if self.expected is None:
            return dark
        old = (self.expected.max(-1) < DARK_LIMIT + 20) & self._known
        return dark & ~_near(old)

    @functools.cached_property
    def _known(self) -> np.ndarray:
        return (
            np.ones(self.clip.shape[:3], dtype=bool) if self.expected is None else self.expected.max(-1) > 0
        )

    @functools.cached_property
    def _areas(self) -> dict[str, np.ndarray]:
        """Per colour, the share [T] of the picture that is new."""
        areas = {colour: mask.mean((1, 2)) for colour, mask in self._new.items()}
        if self.expected is None:
            classes = _colour_classes(self.before[None], 0.68)[0]
            for i, colour in enumerate(COLOURS):
                areas[colour] = np.maximum(areas[colour] - (classes == i).mean(), 0)
            areas["black"] = np.maximum(areas["black"] - (self.before.max(-1) < DARK_LIMIT).mean(), 0)
        return areas

    def mover(self, name: str, beside: tuple[str, ...] = ()) -> bool:
        """Whether the bodies of a mover are there; those of the movers `beside` it may be there as well."""
        if self._relit:
            return False
        if name == "tower_topples":
            return self._tower()
        if name == "man_walks":
            return self._man()
        allowed = {BODIES[other].colour for other in beside if other in BODIES}
        body, area = BODIES[name], self._areas[BODIES[name].colour]
        if (area >= body.area).sum() < MIN_FRAMES:
            return False
        rivals = sum(self._areas[c].sum() for c in COLOURS if c != "black" and c not in allowed)
        if body.colour == "black":
            if area.sum() < 1.5 * rivals:
                return False
        elif area.sum() < DOMINANCE * rivals:
            return False
        mask = self._new[body.colour]
        if body.scattered is not None and (_largest_share(mask, area >= body.area) < 0.5) != body.scattered:
            return False
        return not body.motion or _moves(mask, body.motion)

    def bodies(self, name: str) -> np.ndarray:
        """Pixels [T, H, W] of the colours of a mover's bodies that were not there before."""
        colours = SEVERAL[name] if name in SEVERAL else (BODIES[name].colour,)
        return np.logical_or.reduce([self._new[colour] for colour in colours])

    def _tower(self) -> bool:
        seen = np.array([self._areas[c] >= TOWER_AREA for c in TOWER_COLOURS]).sum(0)
        return bool((seen >= 3).sum() >= 2)

    def _man(self) -> bool:
        """A shirt above trousers, beside no more of other colours."""
        seen = np.all([self._areas[c] >= MAN_AREA for c in MAN_COLOURS], axis=0)
        if seen.sum() < MIN_FRAMES:
            return False
        own = sum(self._areas[c].sum() for c in MAN_COLOURS)
        if own < DOMINANCE * sum(self._areas[c].sum() for c in COLOURS):
            return False
        shirt, trousers = (_middle_row(self._new[c][seen]) for c in MAN_COLOURS)
        return bool(np.median(trousers - shirt) > 0)

    # -- light and air ----------------------------------------------------------------------------------------

    @functools.cached_property
    def _states(self) -> tuple[dict[str, float], dict[str, float]]:
        """Light and air before the clip and at its end."""
        if self.expected is not None:
            first = self.expected[0]
            return _state(self.before[None], first[None]), _state(self.clip[-2:], self.expected[-2:])
        neutral = _state(self.before[None], self.before[None])
        return neutral, _state(self.clip[-2:], self.before[None])

    @property
    def _relit(self) -> bool:
        """Whether the light itself changed so much that colours of bodies mean nothing."""
        start, end = self._states
        return (
            abs(np.log(end["light"] / start["light"])) > 0.4
            or any(abs(np.log(end[k] / start[k])) > 0.3 for k in ("red_blue", "red_green"))
            or end["contrast"] / start["contrast"] < 0.62
        )

    def light(self, name: str) -> bool:
        """Whether a condition begins (or ends) within the clip."""
        item = event(name)
        if "snow" in (name, item.ends):
            return self._snow(ending=item.kind == "ending")
        start, end = self._states
        if self.expected is None and item.kind == "ending":
            # Relative to the picture before, an ending is the inverse change.
            end = {key: 1 / max(value, 1e-3) for key, value in end.items()}
            return _is(item.ends, end) and not _is(item.ends, start)
        if item.kind == "ending":
            return _is(item.ends, start) and not _is(item.ends, end) and _neutral(end)
        return _is(name, end) and not _is(name, start)

    def _snow(self, ending: bool) -> bool:
        flakes = _flakes(np.concatenate([self.before[None], self.clip]))
        if self.expected is not None:
            flakes = flakes - _flakes(np.concatenate([self.expected[:1], self.expected]))
        start, end = flakes[0], float(np.median(flakes[-3:]))
        return (
            bool(start > 0.008 and end < 0.35 * start) if ending else bool(end > 0.008 and start < 0.35 * end)
        )


def _near(mask: np.ndarray) -> np.ndarray:
    """Pixels [T, H, W] within two pixels of the mask."""
    return ndimage.maximum_filter(mask, (1, 5, 5)) if mask.any() else mask


def _colour_classes(frames: np.ndarray, saturation: float) -> np.ndarray:
    """Index into `COLOURS` of every saturated pixel [..., H, W], -1 elsewhere."""
    high, low = frames.max(-1).astype(np.float32), frames.min(-1).astype(np.float32)
    spread = high - low
    good = (spread > saturation * high) & (high > 70)
    classes = np.full(good.shape, -1)
    r, g, b = frames[good].astype(np.float32).T
    top, span = high[good], spread[good]
    hue = (
        np.where(top == r, (g - b) / span % 6, np.where(top == g, (b - r) / span + 2, (r - g) / span + 4))
        * 60
    )
    distance = np.abs((hue[:, None] - np.array(list(HUES.values()), dtype=np.float32) + 180) % 360 - 180)
    classes[good] = np.where(distance.min(1) < HUE_LIMIT, distance.argmin(1), -1)
    return classes


def _largest_share(mask: np.ndarray, frames: np.ndarray) -> float:
    """Median over frames of the share of the largest connected piece."""
    shares = []
    for picture in mask[frames]:
        labels, count = ndimage.label(ndimage.binary_dilation(picture))
        sizes = np.bincount((labels * picture).ravel(), minlength=count + 1)[1:]
        shares.append(sizes.max(initial=0) / max(sizes.sum(), 1))
    return float(np.median(shares))


def _middle_row(mask: np.ndarray) -> np.ndarray:
    """The mean row [T] of masks [T, H, W] that have some pixel each."""
    weight = mask.sum(2).astype(float)
    return (weight * np.arange(mask.shape[1])).sum(1) / weight.sum(1)


def _moves(mask: np.ndarray, motion: str) -> bool:
    """Whether the mask's middle row goes down (or up) through the picture, from where it was most the other way."""
    middle = _middle_row(mask[mask.sum((1, 2)) > 0.003 * mask[0].size]) / mask.shape[1]
    if len(middle) < 2:
        return False
    if motion == "up":
        middle = -middle
    return bool((middle - np.minimum.accumulate(middle)).max() >= MIN_MOTION)


def _state(frames: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Brightness, colour balance and contrast of pictures relative to reference pictures."""
    known = reference.max(-1) > 0
    if frames.shape[:3] == reference.shape[:3] and known.any():
        a, b = frames[known].astype(np.float64), reference[known].astype(np.float64)
    else:
        a, b = frames.reshape(-1, 3).astype(np.float64), reference.reshape(-1, 3).astype(np.float64)
    gain = (a.mean(0) + 4) / (b.mean(0) + 4)
    return {
        "light": float((a.mean() + 4) / (b.mean() + 4)),
        "red_blue": float(gain[0] / gain[2]),
        "red_green": float(gain[0] / gain[1]),
        "contrast": float((a.mean(-1).std() + 1) / (b.mean(-1).std() + 1)),
        "detail": float((_detail(frames) + 0.3) / (_detail(reference) + 0.3)),
    }


def _detail(frames: np.ndarray) -> float:
    """Mean absolute step between neighbouring pixels, after a blur that takes out noise."""
    grey = ndimage.uniform_filter(frames.astype(np.float32).mean(-1), (0, 3, 3))
    return float(np.abs(np.diff(grey, axis=-1)).mean() + np.abs(np.diff(grey, axis=-2)).mean())


def _is(name: str, state: dict[str, float]) -> bool:
    """Whether a state, relative to plain daylight, is that of a condition."""
    light, rb, rg = state["light"], state["red_blue"], state["red_green"]
    if name == "dim":
        return light < 0.68 and 0.75 < rb < 1.33
    if name == "night":
        return light < 0.62 and rb < 0.67
    if name == "alarm":
        return rg > 1.8 and rb > 1.6
    if name == "sunset":
        return rb > 1.35 and 1.05 < rg < 1.7
    # Fog takes detail away, and contrast or darkness with it; a blur takes detail alone.
    veiled = state["contrast"] < 0.75 or light > 1.1
    return veiled and state["detail"] < 0.7 and light > 0.8 and 0.6 < rb < 1.6


def _neutral(state: dict[str, float]) -> bool:
    return 0.75 < state["light"] < 1.35 and 0.77 < state["red_blue"] < 1.3 and 0.77 < state["red_green"] < 1.3


def _flakes(frames: np.ndarray) -> np.ndarray:
    """Share [T] of small bright specks."""
    grey = frames.min(-1)
    calm = np.stack([ndimage.median_filter(picture, 5) for picture in grey])
    return ((grey.astype(np.int16) - calm > 28) & (grey > 120)).mean((1, 2))


if __name__ == "__main__":
    from spatia_env.bench.detector_check import main

    main()
