"""What moves, found by name: GroundingDINO boxes the things, SAM 2 cuts them out (both optional, from local folders).

The classes are transformers' own. Pictures are prepared here in a few lines of torch, so torchvision is not needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.errors import ActionError, CheckpointError, DependencyError
from spatia_env.io.weights import read_json, refuse_code

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of colours, as both networks were trained."""
SHORT_SIDE, LONG_SIDE = 800, 1333
"""Sides in pixels at which the detector looks."""
THRESHOLD = 0.3
"""Least score of a box."""


class TextSegmenter:
    """Masks of things named in words; usable as `masks` of `MapAnythingGeometry`.

    Args:
        detector: transformers' `GroundingDinoForObjectDetection`.
        tokenizer: Its tokenizer.
        segmenter: transformers' `Sam2Model`.
        words: What to look for, such as ["person", "red car"].
        threshold: Least score of a box in [0, 1].
    """

    def __init__(
        self, detector: Any, tokenizer: Any, segmenter: Any, words: list[str], threshold: float = THRESHOLD
    ) -> None:
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise ActionError(f"words: expected names of things, got {words!r}.")
        self.detector, self.tokenizer, self.segmenter = detector, tokenizer, segmenter
        self.caption = " . ".join(word.strip().lower().rstrip(".") for word in words) + " ."
        self.threshold = threshold

    @classmethod
    def from_folders(
        cls,
        detector: Path,
        segmenter: Path,
        words: list[str],
        threshold: float = THRESHOLD,
        device: torch.device | str | None = None,
    ) -> "TextSegmenter":
        """Load both networks from local folders, such as downloads of IDEA-Research/grounding-dino-tiny and
        facebook/sam2.1-hiera-tiny.

        Raises:
            DependencyError: If transformers is not installed.
            CheckpointError: If a folder holds another model, pickled weights only, or asks for code.
        """
        try:
            from transformers import AutoTokenizer, GroundingDinoForObjectDetection, Sam2Model
        except ImportError as cause:
            raise DependencyError(
                'text-prompted masks need transformers; run `pip install "spatia-env[official]"`.'
            ) from cause
        _check(Path(detector), ("grounding-dino",))
        _check(Path(segmenter), ("sam2", "sam2_video"))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        local = {"local_files_only": True, "use_safetensors": True}
        found = GroundingDinoForObjectDetection.from_pretrained(detector, **local).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(detector, local_files_only=True, trust_remote_code=False)
        cut = Sam2Model.from_pretrained(segmenter, **local).to(device).eval()
        return cls(found, tokenizer, cut, words, threshold)

    @torch.inference_mode()
    def __call__(self, rgb: Tensor) -> Tensor:
        """1 on pixels of the named things and 0 elsewhere, f32 [T, H, W], of frames [T, 3, H, W] in [0, 1]."""
        return torch.stack([self._frame(frame) for frame in rgb])

    def _frame(self, frame: Tensor) -> Tensor:
        boxes = self.boxes(frame)
        if len(boxes) == 0:
            return torch.zeros(frame.shape[-2:])
        return self.cut_out(frame, boxes)

    @torch.inference_mode()
    def boxes(self, frame: Tensor) -> Tensor:
        """Boxes [n, 4] of the named things in a picture [3, H, W]: left, top, right, bottom in pixels."""
        height, width = frame.shape[-2:]
        scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
        size = (round(height * scale), round(width * scale))
        device = self.detector.device
        text = self.tokenizer([self.caption], return_tensors="pt").to(device)
        said = self.detector(pixel_values=_prepare(frame, size).to(device), **text)
        scores = said.logits[0].float().sigmoid().max(dim=-1).values
        x, y, w, h = said.pred_boxes[0][scores > self.threshold].float().cpu().unbind(-1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)
        return corners * torch.tensor([width, height, width, height])

    @torch.inference_mode()
    def cut_out(self, frame: Tensor, boxes: Tensor) -> Tensor:
        """1 inside of the things in `boxes` [n, 4], f32 [H, W], of a picture [3, H, W]."""
        height, width = frame.shape[-2:]
        side = _side(self.segmenter)
        device = self.segmenter.device
        scaled = boxes * torch.tensor([side / width, side / height, side / width, side / height])
        said = self.segmenter(
            pixel_values=_prepare(frame, (side, side)).to(device),
            input_boxes=scaled[None].to(device),
            multimask_output=False,
        )
        logits = said.pred_masks[0, :, :1].float().cpu()
        masks = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[:, 0] > 0
        return masks.any(dim=0).float()


def segmenter_of(
    moving: Sequence[str],
    detector: Path | str | None,
    segmenter: Path | str | None,
    device: torch.device | str | None = None,
) -> TextSegmenter | None:
    """Masks of what is named in `moving`, by the models in two folders; None if nothing is named.

    Raises:
        ActionError: If one of the folders is not given.
    """
    if not moving:
        return None
    if detector is None or segmenter is None:
        raise ActionError(
            "moving: names need a detector and a segmenter, the folders of a GroundingDINO and of a SAM 2."
        )
    return TextSegmenter.from_folders(Path(detector), Path(segmenter), list(moving), device=device)


def _prepare(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture [3, H, W] in [0, 1] as networks want it: [1, 3, h, w], normalised."""
    resized = F.interpolate(frame[None].float(), size, mode="bilinear", antialias=True, align_corners=False)
    mean, std = (torch.tensor(values, device=frame.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (resized - mean) / std


def _side(segmenter: Any) -> int:
    size = segmenter.config.prompt_encoder_config.image_size
    return int(size if isinstance(size, int) else size[0])


def _check(folder: Path, kinds: tuple[str, ...]) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is not a folder; download the model and give its folder.")
    refuse_code(folder)
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise CheckpointError(f"{folder}/config.json: is of type {kind!r}; expected {' or '.join(kinds)}.")
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: holds no .safetensors file; pickled weights are not read.")
