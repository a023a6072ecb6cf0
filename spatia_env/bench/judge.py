"""Did the event happen? A judge of clips from pictures alone: by colour, shape and motion, or by light and air.

A mover is described by a `Look`: its colours, its shape and how it moves. The judge looks for pixels of
those colours that a static render of the same path does not have, describes their silhouette and shading,
and asks a softmax regression fitted to simulator clips of training seeds (tests/fit_judge.py) whether that is the
shape. So a rectangle of the right colour on the right way is not enough. Looks compose: a blue ball that
rolls needs no clip of one to be judged.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from spatia_env.bench.vision import opencv
from spatia_env.events.vocabulary import event

HUES = {
    "red": 358.0, "orange": 27.0, "yellow": 51.0, "lime": 83.0, "green": 138.0, "cyan": 184.0, "blue": 232.0,
    "purple": 271.0, "pink": 323.0,
}  # fmt: skip
"""Hue in degrees of each prototype; a saturated pixel belongs to the nearest one."""
HUE_LIMIT = 24.0
COLOURS = tuple(HUES)
DARK_LIMIT = 46
"""A pixel of a black body is darker than this in every channel."""
SATURATION, BRIGHTEST = 0.62, 70
CHANGE = 40
"""Levels of 255 by which a pixel differs from the static render to count as new."""
LEAST_AREA = 0.006
"""Share of the picture that a body must fill in at least `LEAST_FRAMES` frames."""
LEAST_COLOUR = 0.0025
"""The same for each colour of a body with several."""
LEAST_FRAMES = 3
DOMINANCE = 0.5
"""Share of the look's colours among all new saturated pixels."""
LEAST_MOTION = 0.05
"""Share of the picture's height or width."""
MODEL_FILE = Path(__file__).with_name("judge.json")


@dataclass(frozen=True)
class Look:
    """What a mover looks like.

    Attributes:
        colours: Names of `HUES`, or "black".
        shape: A class of the shape model.
        motion: "across", "down", "up", "bounce", or "" for any.
    """

    colours: tuple[str, ...]
    shape: str
    motion: str


LOOKS: Mapping[str, Look] = {
    "red_ball_rolls": Look(("red",), "ball", "across"),
    "blue_box_drops": Look(("blue",), "box", "down"),
    "duck_falls": Look(("yellow",), "duck", "down"),
    "green_ball_bounces": Look(("green",), "ball", "bounce"),
    "tower_topples": Look(("red", "yellow", "blue", "green", "pink"), "tower", ""),
    "cubes_burst": Look(("cyan",), "heap", ""),
    "car_drives": Look(("lime",), "car", "across"),
    "robot_drives": Look(("black",), "robot", "across"),
    "cone_slides": Look(("orange",), "cone", "across"),
    "balloon_rises": Look(("purple",), "balloon", "up"),
    "balls_rain": Look(("orange",), "balls", "down"),
    "pink_cube_slides": Look(("pink",), "box", "across"),
    "man_walks": Look(("yellow", "blue"), "man", "across"),
}
"""Looks of the movers of `spatia_env.events.vocabulary`."""


def saw_mover(look: Look, clip: np.ndarray, expected: np.ndarray) -> bool:
    """Whether a mover of this look is in a clip.

    Args:
        look: Its colours, shape and motion.
        clip: u8 [T, H, W, 3].
        expected: u8 [T, H, W, 3], the same path without the event (a static render); black pixels are
            unknown.

    Raises:
        ActionError: OpenCV is not installed.
    """
    return not judge_mover(look, clip, expected)


def judge_mover(look: Look, clip: np.ndarray, expected: np.ndarray) -> str:
    """Why a mover of this look is not in a clip: "light", "colour", "shape" or "motion"; "" if it is
    there.
    """
    if _is_relit(clip, expected):
        return "light"
    masks = new_colours(clip, expected)
    mask = np.logical_or.reduce([masks[colour] for colour in look.colours])
    if not _has_colours(look, masks, mask):
        return "colour"
    if not is_shape(look.shape, mask, clip):
        return "shape"
    return "" if moves(mask, look.motion) else "motion"


def body_mask(look: Look, clip: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Pixels [T, H, W] of a look's colours that the static render does not have."""
    masks = new_colours(clip, expected)
    return np.logical_or.reduce([masks[colour] for colour in look.colours])


# -- colour


def new_colours(clip: np.ndarray, expected: np.ndarray) -> dict[str, np.ndarray]:
    """Per colour, masks [T, H, W] of what the static render does not have."""
    classes, old = colour_classes(clip), colour_classes(expected)
    changed = np.abs(clip.astype(np.int16) - expected).max(-1) > CHANGE
    masks = {}
    for index, colour in enumerate(COLOURS):
        # A moved edge explains a pixel whose colour the render has near by.
        masks[colour] = (classes == index) & ~_near(old == index) & changed
    dark_before = (expected.max(-1) < DARK_LIMIT + 20) & (expected.max(-1) > 0)
    masks["black"] = (clip.max(-1) < DARK_LIMIT) & ~_near(dark_before) & changed
    return masks


def colour_classes(frames: np.ndarray) -> np.ndarray:
    """Index into `COLOURS` of every saturated pixel [..., H, W], -1 elsewhere."""
    high, low = frames.max(-1).astype(np.float32), frames.min(-1).astype(np.float32)
    spread = high - low
    good = (spread > SATURATION * high) & (high > BRIGHTEST)
    classes = np.full(good.shape, -1)
    r, g, b = frames[good].astype(np.float32).T
    top, span = high[good], spread[good]
    turn = np.where(top == r, (g - b) / span % 6, np.where(top == g, (b - r) / span + 2, (r - g) / span + 4))
    prototypes = np.array(list(HUES.values()), np.float32)
    distance = np.abs((turn[:, None] * 60 - prototypes + 180) % 360 - 180)
    classes[good] = np.where(distance.min(1) < HUE_LIMIT, distance.argmin(1), -1)
    return classes


def _near(mask: np.ndarray) -> np.ndarray:
    """Pixels [T, H, W] within two pixels of the mask."""
    return ndimage.maximum_filter(mask, (1, 5, 5)) if mask.any() else mask


def _has_colours(look: Look, masks: Mapping[str, np.ndarray], mask: np.ndarray) -> bool:
    area = mask.mean((1, 2))
    if (area >= LEAST_AREA).sum() < LEAST_FRAMES:
        return False
    needed = min(len(look.colours), 3)
    present = np.array([masks[colour].mean((1, 2)) >= LEAST_COLOUR for colour in look.colours])
    if (present.sum(0) >= needed).sum() < (LEAST_FRAMES if needed == 1 else 2):
        return False
    rivals = sum(masks[colour].mean((1, 2)).sum() for colour in COLOURS if colour not in look.colours)
    return bool(area.sum() >= DOMINANCE * (area.sum() + rivals))


# -- shape

FEATURES = (
    "solidity", "box_fill", "rectangle_fill", "roundness", "elongation", "tallness", "ellipse", "middle_height",
    "top_width", "foot_width", "pieces", "largest", "shading", "shading_up", "shading_side",
)  # fmt: skip


def is_shape(shape: str, mask: np.ndarray, clip: np.ndarray) -> bool:
    """Whether the silhouette [T, H, W] and the shading inside are those of a shape."""
    found = describe(mask, clip)
    model = shape_model()
    return found is not None and shape_odds(found)[shape] >= model["least"][shape]


def shape_odds(features: np.ndarray) -> dict[str, float]:
    """The probability of each shape for a silhouette's features [F]."""
    model = shape_model()
    unit = np.clip((features - model["mean"]) / model["spread"], -3, 3)
    logits = np.concatenate([unit, unit**2, [1.0]]) @ np.asarray(model["weights"])
    odds = np.exp(logits - logits.max())
    return dict(zip(model["shapes"], odds / odds.sum(), strict=True))


@functools.lru_cache(maxsize=1)
def shape_model() -> dict:
    """The fitted softmax regression: `shapes`, `mean`, `spread`, `weights`, and the `least` probability of
    each shape.
    """
    return json.loads(MODEL_FILE.read_text(encoding="utf-8"))


def describe(mask: np.ndarray, clip: np.ndarray) -> np.ndarray | None:
    """Features [F] of a body over the frames that show it whole (all that show it, if fewer than two do)."""
    shown = np.flatnonzero(mask.mean((1, 2)) >= LEAST_AREA / 2)
    whole = [index for index in shown if not touches_border(mask[index])]
    rows = [describe_frame(mask[i], clip[i]) for i in (whole if len(whole) >= 2 else shown)]
    kept = [row for row in rows if row is not None]
    return np.median(kept, axis=0) if kept else None


def touches_border(mask: np.ndarray) -> bool:
    """Whether a mask [H, W] reaches the edge of the picture."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def describe_frame(mask: np.ndarray, frame: np.ndarray) -> np.ndarray | None:
    """Features [F] of one silhouette [H, W] in its frame [H, W, 3], None if it has hardly any pixel."""
    cv2 = opencv()
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(mask, 2), np.ones((3, 3))))[2:-2, 2:-2]
    labels, count = ndimage.label(solid, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() < 20:
        return None
    large = sizes >= max(12, 0.08 * sizes.max())
    body = labels == sizes.argmax() + 1
    area = float(body.sum())
    contour = max(
        cv2.findContours(body.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len
    )
    hull = cv2.convexHull(contour)
    (_, (wide, high), _) = cv2.minAreaRect(contour)
    wide, high = wide + 1, high + 1
    rows, columns = np.nonzero(body)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    hull_area = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1
    perimeter = cv2.arcLength(contour, True)
    third = max(1, int(height) // 3)
    widths = body.sum(1)[rows.min() : rows.max() + 1]
    return np.array([
        area / hull_area, area / (height * width), area / (wide * high), 4 * np.pi * area / max(perimeter, 1) ** 2,
        min(wide, high) / max(wide, high), np.log(height / width), _ellipse_overlap(rows, columns, body),
        (rows.mean() - rows.min()) / height, widths[:third].mean() / width, widths[-third:].mean() / width,
        min(int(large.sum()), 6), sizes.max() / sizes[large].sum(), *_shading(body, frame, rows, columns),
    ])  # fmt: skip


def _ellipse_overlap(rows: np.ndarray, columns: np.ndarray, body: np.ndarray) -> float:
    """Intersection over union of a silhouette with the ellipse of its own moments: near 1 for a ball."""
    centred = np.stack([rows - rows.mean(), columns - columns.mean()])
    inverse = np.linalg.inv(centred @ centred.T / len(rows) + np.eye(2) / 12)
    grid = np.indices(body.shape).reshape(2, -1) - [[rows.mean()], [columns.mean()]]
    ellipse = ((inverse @ grid) * grid).sum(0).reshape(body.shape) <= 4
    return float((ellipse & body).sum() / (ellipse | body).sum())


def _shading(
    body: np.ndarray, frame: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[float, float, float]:
    """How much the brightness inside varies (relative to its mean), and how much of that goes with row and
    column.
    """
    inner = ndimage.binary_erosion(body)
    if inner.sum() < 9:
        return 0.0, 0.0, 0.0
    light = ndimage.gaussian_filter(frame.max(-1).astype(np.float64), 0.7)[inner]
    spread = light.std() / (light.mean() + 8)
    if light.std() < 1e-6:
        return 0.0, 0.0, 0.0
    r, c = np.nonzero(inner)
    along = [0.0 if np.ptp(x) == 0 else float(np.corrcoef(x, light)[0, 1]) for x in (r, c)]
    return float(min(spread, 0.5)), abs(along[0]), abs(along[1])


# -- motion


def moves(mask: np.ndarray, motion: str) -> bool:
    """Whether the middle of a silhouette [T, H, W] moves through the picture as a word of `Look.motion` says.

    Sideways motion counts beyond `LEAST_MOTION` of the width more than a camera that turns by up to 6
    degrees gives.
    """
    if not motion:
        return True
    height, width = mask.shape[1:]
    shown = mask.mean((1, 2)) >= LEAST_AREA / 3
    if shown.sum() < 2:
        return False
    weight = mask[shown].sum((1, 2)).astype(float)
    row = (mask[shown].sum(2) * np.arange(height)).sum(1) / weight / height
    column = (mask[shown].sum(1) * np.arange(width)).sum(1) / weight / width
    if motion == "across":
        return bool(np.ptp(column) >= 0.1 + LEAST_MOTION)
    down, up = _largest_rise(row), _largest_rise(-row)
    if motion == "bounce":
        return min(down, up) >= LEAST_MOTION / 2
    wanted, other = (down, up) if motion == "down" else (up, down)
    return bool(wanted >= LEAST_MOTION and wanted > other)


def _largest_rise(values: np.ndarray) -> float:
    """The largest gain of a value over any earlier one."""
    return float((values - np.minimum.accumulate(values)).max())


# -- light and air


def saw_condition(name: str, clip: np.ndarray, before: np.ndarray, expected: np.ndarray) -> bool:
    """Whether a condition begins, or an ending lifts it, within a clip.

    Args:
        name: An event of the vocabulary of kind "condition" or "ending".
        clip: u8 [T, H, W, 3].
        before: u8 [H, W, 3], the last picture before it.
        expected: u8 [T, H, W, 3], the static render in plain daylight.
    """
    item = event(name)
    if "snow" in (name, item.ends):
        return _snow(clip, before, expected, item.kind == "ending")
    start, end = _state(before[None], expected[:1]), _state(clip[-2:], expected[-2:])
    if item.kind == "ending":
        return _is(item.ends, start) and not _is(item.ends, end) and _neutral(end)
    return _is(name, end) and not _is(name, start)


def saw_event(name: str, clip: np.ndarray, before: np.ndarray, expected: np.ndarray) -> bool:
    """Whether an event of the vocabulary happens in a clip; arguments as of `saw_condition`."""
    if name in LOOKS:
        return saw_mover(LOOKS[name], clip, expected)
    return saw_condition(name, clip, before, expected)


def _state(frames: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Brightness, colour balance, contrast and detail of pictures relative to reference pictures of the same
    shape.
    """
    known = reference.max(-1) > 0
    a, b = frames[known].astype(np.float64), reference[known].astype(np.float64)
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


def _is(name: str, state: Mapping[str, float]) -> bool:
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


def _neutral(state: Mapping[str, float]) -> bool:
    return 0.75 < state["light"] < 1.35 and 0.77 < state["red_blue"] < 1.3 and 0.77 < state["red_green"] < 1.3


def _is_relit(clip: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the light itself changed so much that colours of bodies mean nothing."""
    end = _state(clip[-2:], expected[-2:])
    balance = max(abs(np.log(end[key])) for key in ("red_blue", "red_green"))
    return abs(np.log(end["light"])) > 0.45 or balance > 0.45 or end["contrast"] < 0.55


def _snow(clip: np.ndarray, before: np.ndarray, expected: np.ndarray, ending: bool) -> bool:
    shown = _flakes(np.concatenate([before[None], clip])) - _flakes(np.concatenate([expected[:1], expected]))
    start, end = shown[0], float(np.median(shown[-3:]))
    return bool(start > 0.008 and end < 0.35 * start) if ending else bool(end > 0.008 and start < 0.35 * end)


def _flakes(frames: np.ndarray) -> np.ndarray:
    """Share [T] of small bright specks."""
    grey = frames.min(-1)
    calm = np.stack([ndimage.median_filter(picture, 5) for picture in grey])
    return ((grey.astype(np.int16) - calm > 28) & (grey > 120)).mean((1, 2))
