"""Geometry by MapAnything: depth of a clip from its frames, its known cameras and, if given, its intrinsics.

MapAnything (Apache-2.0, weights `facebook/map-anything-apache`) is optional; it is not on PyPI. This adapter hands
it frames as the official release does: 518 pixels wide, both sides multiples of 14, poses and intrinsics known,
metric scale. It takes depth in the camera's frame together with the poses that are known, so the world frame of
the network's own points does not matter, and leaves out what the network itself marks as ambiguous or an edge.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from spatia_env.errors import ActionError, CheckpointError, DependencyError
from spatia_env.io.weights import refuse_code
from spatia_env.slam.depth_network import Geometry

LONG_SIDE = 518
PATCH = 14
WEIGHTS = "facebook/map-anything-apache"
INSTALL = 'pip install "git+https://github.com/facebookresearch/map-anything.git"'
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATIONS = {
    "dinov2": _IMAGENET,
    "dinov3": _IMAGENET,
    "croco": _IMAGENET,
    "dust3r": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "identity": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of colours by the network's own names; the released weights say "dinov2"."""
_REVISION = re.compile(r"[0-9a-f]{40}")

Masks = Callable[[Tensor], Tensor]
"""From frames [T, 3, H, W] in [0, 1] to the probability [T, H, W] that a pixel shows something that moves."""


@dataclass(frozen=True)
class Reconstruction:
    """What the network says about N frames, at its own size h x w.

    Attributes:
        depth: z-depth [N, h, w] in metres, 0 where the network is not sure what it sees.
        confidence: [N, h, w] in [0, 1].
        points: [N, h, w, 3] in the frame of the first camera; the origin where `valid` is False.
        valid: bool [N, h, w].
        K: Intrinsics [3, 3] in pixels at this size: those given, or the mean of those estimated.
    """

    depth: Tensor
    confidence: Tensor
    points: Tensor
    valid: Tensor
    K: Tensor


class MapAnythingGeometry:
    """`GeometryEstimator` by MapAnything.

    Args:
        model: A `mapanything.models.MapAnything`, in eval mode, on its device.
        masks: What moves; None for nothing.
        long_side: Longer side in pixels at which the network looks.
        use_amp: Mixed precision (bfloat16), as in the release.
    """

    def __init__(
        self, model: Any, masks: Masks | None = None, long_side: int = LONG_SIDE, use_amp: bool = True
    ) -> None:
        self.model, self.masks, self.long_side, self.use_amp = model, masks, long_side, use_amp
        self.patch = int(model.encoder.patch_size)  # 14 for the released weights
        self.normalisation = _normalisation(model.encoder.data_norm_type)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = WEIGHTS,
        revision: str | None = None,
        device: torch.device | str | None = None,
        masks: Masks | None = None,
    ) -> "MapAnythingGeometry":
        """The network with its released weights.

        Its image encoder is built from the definition that DINOv2's own repository serves through torch.hub: have
        that in torch's cache where there is no network.

        Args:
            source: A local folder with config.json and model.safetensors, or the name of a repository.
            revision: Of a repository: the full hash of a commit. Not for folders.
            device: None for a GPU if there is one.
            masks: What moves.

        Raises:
            DependencyError: If mapanything is not installed.
            CheckpointError: If the folder is incomplete or asks for code, or a repository comes without a commit.
        """
        try:
            from mapanything.models import MapAnything
        except ImportError as cause:
            raise DependencyError(f"slam by MapAnything needs its package; run `{INSTALL}`.") from cause
        options: dict[str, Any] = {}
        if Path(source).is_dir():
            refuse_code(Path(source))
            if not (Path(source) / "model.safetensors").is_file():
                raise CheckpointError(f"{source}: has no model.safetensors; pickled weights are not read.")
            options["local_files_only"] = True
        elif revision is None or not _REVISION.fullmatch(revision):
            raise CheckpointError(
                f"{source}: no such folder; for a repository give revision=, the hash of a commit."
            )
        else:
            options["revision"] = revision
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model = MapAnything.from_pretrained(str(source), **options).to(place).eval()
        # On a CPU its mixed precision would be float16, which is slow there, and which parts of it refuse.
        return cls(model, masks, use_amp=place.type != "cpu")

    def __call__(
        self,
        rgb: Tensor,
        c2w: Tensor,
        K: Tensor,
        map_rgb: Tensor,
        map_depth: Tensor,
        known: Tensor,
        ground: float | None = None,
    ) -> Geometry:
        """`Geometry` of a clip; neither the map nor the ground is looked at. See `GeometryEstimator`."""
        del map_rgb, known, ground
        seen = self.reconstruct(rgb, c2w, K)
        height, width = rgb.shape[-2:]
        depth, confidence = (
            F.interpolate(plane[:, None], (height, width), mode="nearest-exact")[:, 0]
            for plane in (seen.depth, seen.confidence)
        )
        dynamic = torch.zeros_like(map_depth) if self.masks is None else self.masks(rgb).to(map_depth)
        return Geometry(depth.to(map_depth), confidence.to(map_depth), dynamic)

    def reconstruct(self, rgb: Tensor, c2w: Tensor | None, K: Tensor | None) -> Reconstruction:
        """Depth and points of N frames.

        Args:
            rgb: [N, 3, H, W] in [0, 1].
            c2w: Poses [N, 4, 4] in metres, or None to have them estimated.
            K: Intrinsics [3, 3] in pixels, or None to have them estimated.

        Raises:
            ActionError: If frames and poses are not the same number.
        """
        if rgb.ndim != 4 or (c2w is not None and len(c2w) != len(rgb)):
            raise ActionError(
                f"MapAnything: got {list(rgb.shape)} frames and {0 if c2w is None else len(c2w)} poses."
            )
        height, width = network_size(rgb.shape[-2], rgb.shape[-1], self.long_side, self.patch)
        scaled = None if K is None else _scaled(K, width / rgb.shape[-1], height / rgb.shape[-2])
        views = self._views(rgb, c2w, scaled, height, width)
        said = self.model.infer(
            views,
            memory_efficient_inference=len(views) > 200,
            use_amp=self.use_amp,
            amp_dtype="bf16",
            apply_mask=True,
            mask_edges=True,
            apply_confidence_mask=False,
        )

        def gather(name: str) -> Tensor:
            return torch.cat([view[name] for view in said]).float().cpu()

        valid = gather("mask")[..., 0] > 0
        # Confidence comes as 1 + exp(.), so this is 0 for none and near 1 for much.
        confidence = (1 - 1 / gather("conf").clamp(min=1)) * valid
        estimated = gather("intrinsics").mean(0) if scaled is None else scaled
        return Reconstruction(
            gather("depth_z")[..., 0] * valid, confidence, gather("pts3d"), valid, estimated
        )

    def _views(
        self, rgb: Tensor, c2w: Tensor | None, K: Tensor | None, height: int, width: int
    ) -> list[dict[str, Any]]:
        mean, std = self.normalisation
        views = []
        for index, frame in enumerate(rgb):
            image = (resize_frame(frame, height, width) - mean) / std
            view: dict[str, Any] = {"img": image[None], "data_norm_type": [self.model.encoder.data_norm_type]}
            if c2w is not None:
                view["camera_poses"] = c2w[index][None].float()
                view["is_metric_scale"] = torch.tensor([True])
            if K is not None:
                view["intrinsics"] = K[None].float()
            views.append(view)
        return views


def network_size(height: int, width: int, long_side: int = LONG_SIDE, patch: int = PATCH) -> tuple[int, int]:
    """(height, width), multiples of a patch, at which the network looks at such pictures."""
    scale = long_side / max(height, width)
    rows, columns = (max(patch, round(side * scale / patch) * patch) for side in (height, width))
    return rows, columns


def resize_frame(frame: Tensor, height: int, width: int) -> Tensor:
    """A picture [3, H, W] in [0, 1] resized by Pillow's bicubic filter on 8-bit values, as the release does it."""
    pixels = frame.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def fixed_mask(mask: Tensor) -> Masks:
    """What moves, as the user drew it: [H, W] for every frame, or [T, H, W]; resized to cover what it touches."""

    def masks(rgb: Tensor) -> Tensor:
        planes = mask.float()[None] if mask.ndim == 2 else mask.float()
        if len(planes) not in (1, len(rgb)):
            raise ActionError(
                f"mask: has {len(planes)} frames, the clip {len(rgb)}; give one for all, or one each."
            )
        size = rgb.shape[-2:]
        covered = F.interpolate(planes[:, None], size, mode="bilinear", antialias=True)[:, 0] > 0
        return covered.float().expand(len(rgb), -1, -1)

    return masks


def _scaled(K: Tensor, x: float, y: float) -> Tensor:
    return K * torch.tensor([x, y, 1.0], dtype=K.dtype)[:, None]


def _normalisation(name: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3, 1, 1] of the colours that the image encoder expects."""
    if name not in NORMALISATIONS:
        raise CheckpointError(
            f"MapAnything: its image encoder wants {name!r} colours; known are {list(NORMALISATIONS)}."
        )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS[name])
    return mean, std
