"""Where a clip's cameras really are: align the frames with what the map looks like from the commanded poses.

A generator may drift from the command; the map must not. The frames' own depth is no evidence here, since it was
estimated with the map's help; so the default aligns brightness alone, on the map's depth (`alignment`).
Corrections are bounded, and dropped unless frames and map agree better with them. `method="open3d"` runs
Open3D's RGB-D odometry instead, for depth that was measured. This module does not know how the map is stored.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.errors import ActionError
from spatia_env.geometry import orthonormalise, se3_exp
from spatia_env.slam.alignment import align, grey, smooth
from spatia_env.slam.input_features import warp_grid
from spatia_env.slam.photometric import fit_light

MAX_TRANSLATION = 0.15
"""Metres; a larger correction of one clip is not believed."""
MAX_ROTATION = 5.0
"""Degrees, likewise."""
MIN_INLIERS = 0.4
"""Share of the map's pixels whose brightness the frame must confirm."""
MIN_PIXELS = 200
"""Pixels of known depth and with a gradient that a correction needs."""
MIN_GAIN = 0.1
"""Relative fall of the colour error below which the command is kept."""
INLIER = 0.06
"""Brightness in [0, 1] that differs by less, after gain and offset, is the same."""
VIEWS = 2
"""Frames of a clip that are aligned together, spread evenly, the last included."""


class View(Protocol):
    """The map along the commanded path: `rgb` [T, 3, H, W] in [0, 1], `depth` [T, H, W] m, `known` [T, H, W]."""

    @property
    def rgb(self) -> Tensor:
        """Colours."""
        ...

    @property
    def depth(self) -> Tensor:
        """z-depth."""
        ...

    @property
    def known(self) -> Tensor:
        """Coverage."""
        ...


@dataclass(frozen=True)
class TrackResult:
    """What tracking found.

    Attributes:
        c2w: Refined poses [T, 4, 4]; the commanded ones where nothing was corrected.
        inlier_ratio: Share in [0, 1] of the map's pixels in the aligned views that the frames confirm.
        translation: Metres by which the last pose was corrected.
        rotation: Degrees, likewise.
        ok: Whether a correction was applied.
        loop: The step whose place was recognised, None if no loop was closed.
        loop_metres: By how much the loop was open.
    """

    c2w: Tensor
    inlier_ratio: float
    translation: float
    rotation: float
    ok: bool
    loop: int | None = None
    loop_metres: float = 0.0


def track(
    rgb: Tensor,
    depth: Tensor | None,
    c2w: Tensor,
    K: Tensor,
    render: View,
    weight: Tensor | None = None,
    method: str = "direct",
) -> TrackResult:
    """Estimate a clip's poses against the map.

    The drift is taken to grow evenly over the clip: frame i of T (from 1) has i / T of the last frame's.

    Args:
        rgb: Frames [T, 3, H, W] in [0, 1].
        depth: Their z-depth [T, H, W] in metres, 0 = none; only "open3d" looks at it.
        c2w: Commanded poses [T, 4, 4].
        K: Intrinsics [3, 3] in pixels.
        render: The map as seen from the commanded poses.
        weight: Optional [T, H, W]; 0 where the frames show what moves or is unsure.
        method: "direct" or "open3d".

    Raises:
        ActionError: Unknown method, or "open3d" without depth.
    """
    views = spread(len(rgb), VIEWS)
    share = (torch.tensor(views, dtype=torch.float32) + 1) / len(rgb)
    usable = render.known & (render.depth > 0)
    usable = usable if weight is None else usable & (weight > 0)
    rgb_v, map_rgb, map_depth, usable = (x[views] for x in (rgb, render.rgb, render.depth, usable))
    if method == "direct":
        found = align(rgb_v, K, map_rgb, map_depth, usable, share)
        twist, enough = found.twist, found.pixels >= MIN_PIXELS
    elif method == "open3d" and depth is not None:
        from spatia_env.slam.odometry import open3d_odometry

        twist, enough = open3d_odometry(rgb_v[-1], depth[-1], map_rgb[-1], map_depth[-1], usable[-1], K)
    else:
        raise ActionError(
            f'track: method {method!r}: use "direct", or "open3d" with a depth for every frame.'
        )
    before, inliers_before, after, inliers = _agreement(rgb_v, K, map_rgb, map_depth, usable, share, twist)
    translation, rotation = float(twist[:3].norm()), float(torch.rad2deg(twist[3:].norm()))
    bounded = translation <= MAX_TRANSLATION and rotation <= MAX_ROTATION
    if not (enough and bounded and inliers >= MIN_INLIERS and after < before * (1 - MIN_GAIN)):
        return TrackResult(c2w, inliers_before, 0.0, 0.0, False)
    fractions = torch.arange(1, len(rgb) + 1, dtype=torch.float64) / len(rgb)
    refined = orthonormalise(c2w.double() @ se3_exp(fractions[:, None] * twist.double())).to(c2w.dtype)
    return TrackResult(refined, inliers, translation, rotation, True)


def spread(count: int, number: int) -> list[int]:
    """Up to `number` indices spread evenly over `count` frames, ending with the last."""
    number = min(number, count)
    return [round((i + 1) * count / number) - 1 for i in range(number)]


def agreement(rgb: Tensor, K: Tensor, render: View) -> tuple[float, float]:
    """Mean capped brightness error, and share of inliers, of frames [T, 3, H, W] against the map as it is.

    With nothing of the map in sight they are infinite and 0.
    """
    views = spread(len(rgb), VIEWS)
    usable = (render.known & (render.depth > 0))[views]
    if int(usable.sum()) < MIN_PIXELS:
        return float("inf"), 0.0
    share = torch.ones(len(views))
    seen = (rgb[views], K, render.rgb[views], render.depth[views], usable, share, torch.zeros(6))
    return _agreement(*seen)[:2]


def _agreement(
    rgb: Tensor, K: Tensor, map_rgb: Tensor, map_depth: Tensor, usable: Tensor, share: Tensor, twist: Tensor
) -> tuple[float, float, float, float]:
    """Mean capped brightness error and inlier share, before and after the correction, over the same pixels."""
    frame, model = grey(smooth(rgb)), grey(smooth(map_rgb))
    still = torch.eye(4).expand(len(rgb), 4, 4)
    moved = se3_exp(share[:, None] * twist)
    grid, inside = warp_grid(map_depth.clamp_min(0.05), still, moved, K)
    seen = F.grid_sample(frame[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[
        :, 0
    ]
    both = usable & inside
    if not bool(both.any()):
        return 0.0, 0.0, 0.0, 0.0
    wanted = model[both][:, None]
    out: list[float] = []
    for image in (frame, seen):
        values = image[both][:, None]
        error = (fit_light(values, wanted)(values) - wanted).abs()
        out += [float(error.clamp(max=3 * INLIER).mean()), float((error < INLIER).float().mean())]
    return out[0], out[1], out[2], out[3]
