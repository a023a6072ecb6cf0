"""Figures of estimated depth and masks against the simulator's truth."""

from torch import Tensor

from spatia_env.slam.depth_network import DYNAMIC_THRESHOLD, TOLERANCE, Geometry, static_weight


class Tally:
    """Sums over frames from which the figures of depth and mask are taken."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}

    def add(self, geometry: Geometry, depth: Tensor, dynamic: Tensor, known: Tensor) -> None:
        """Count frames: an estimated `Geometry` against the true depth and mask [T, H, W]."""
        valid = depth > 0
        error = (geometry.depth - depth).abs() / depth.clamp_min(1e-3)
        written = (static_weight(geometry) > 0) & valid
        said = geometry.dynamic > DYNAMIC_THRESHOLD
        movers = dynamic.flatten(1).any(1)[:, None, None] & valid
        values = {
            "error": error[valid].sum(), "valid": valid.sum(),
            "error_unknown": error[valid & ~known].sum(), "unknown": (valid & ~known).sum(),
            "error_written": error[written].sum(), "written": written.sum(),
            "hit": (said & dynamic).sum(), "said": said.sum(), "moving": dynamic.sum(),
            "leaked": (written & dynamic & movers).sum(), "written_movers": (written & movers).sum(),
            "static_written": (written & ~dynamic).sum(), "static": (valid & ~dynamic).sum(),
            "sure": geometry.confidence[valid].sum(), "right": (error[valid] < TOLERANCE).sum(),
        }  # fmt: skip
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def figures(self) -> dict[str, float]:
        """Shares and mean relative errors.

        `absrel` over all, `_unknown`, `_written` pixels; `iou`, `recall`, `precision` of the mask; `leakage`:
        share of the written pixels of frames with movers that show a mover; `static_recall`: share of static
        pixels that are written; `sure` and `right`: mean confidence, and the share it should equal.
        """
        s = self.sums

        def ratio(a: float, b: float) -> float:
            return round(a / b, 4) if b else float("nan")

        return {
            "absrel": ratio(s["error"], s["valid"]),
            "absrel_unknown": ratio(s["error_unknown"], s["unknown"]),
            "absrel_written": ratio(s["error_written"], s["written"]),
            "iou": ratio(s["hit"], s["said"] + s["moving"] - s["hit"]),
            "recall": ratio(s["hit"], s["moving"]),
            "precision": ratio(s["hit"], s["said"]),
            "leakage": ratio(s["leaked"], s["written_movers"]),
            "static_recall": ratio(s["static_written"], s["static"]),
            "sure": ratio(s["sure"], s["valid"]),
            "right": ratio(s["right"], s["valid"]),
        }
