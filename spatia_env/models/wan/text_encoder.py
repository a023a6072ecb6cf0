"""Text for the official size: umT5 from a local folder, and embeddings that are remembered on disk.

The text encoder has 5.7 billion parameters and is needed for a second per prompt. It is therefore loaded when a
prompt is new, may stay off the accelerator, and what it said is kept in a cache folder, one file per prompt.
"""

import hashlib
import html
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spatia_env.errors import DependencyError, PromptError
from spatia_env.io.weights import read_tensors, write_tensors
from spatia_env.models.wan.folders import read_config, weight_files

MAX_TOKENS = 512
PROMPT_SUFFIX = " 4K, realistic, high quality, HDR."
"""The release adds this to every prompt."""

NEGATIVE_PROMPT = (
    "画面切换，画面切出，镜头切换，镜头渐黑，镜头渐亮，最差质量, 节目横幅, 低质量, 正常质量, "
    "JPEG压缩残留, 噪点, 模糊, 细节缺失, 马赛克, 水印, 文字, 签名, 商标, 丑陋的, 畸形的, 毁容的, "
    "解剖学错误, 形态糟糕, 多余的肢体, 残缺的肢体, 融合的手指, 画得不好的手, 画得不好的脸, "
    "僵硬的表情, 杂乱的构图, 不协调的元素, 空旷的画面, 透视错误, 比例失调, 变形的物体, "
    "融合的物体, 物体穿模, 漂浮的物体, 平淡的光线, 不自然的光源, 单调的色彩, 奇怪的颜色, "
    "刺眼的颜色, 画面发灰"
)
"""The release steers away from this: cuts, low quality, artefacts, deformed or floating things, flat light."""


class UMT5TextEncoder:
    """Sentences to embeddings [B, 512, D]; rows past the end of a sentence are zero, and are attended to.

    Args:
        folder: Holds `text_encoder/` and `tokenizer/`.
        device: Where the encoder runs; "cpu" keeps 11 GB off the accelerator and takes some seconds a prompt.
        dtype: Its precision; bfloat16 as in the release.
        cache: Folder of remembered embeddings; None for the user's cache folder, "" for none.
        keep_loaded: Whether the encoder stays in memory after a prompt.
    """

    max_tokens = MAX_TOKENS

    def __init__(
        self,
        folder: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        cache: Path | str | None = None,
        keep_loaded: bool = False,
    ) -> None:
        self.folder, self.device, self.dtype, self.keep_loaded = (
            Path(folder),
            torch.device(device),
            dtype,
            keep_loaded,
        )
        self.dim = int(read_config(self.folder / "text_encoder", "text_encoder")["d_model"])
        self.cache = default_cache() if cache is None else (Path(cache) if cache != "" else None)
        self._identity = _identity(self.folder, dtype)
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, texts: list[str]) -> Tensor:
        """Embeddings f32 [B, 512, D].

        Raises:
            DependencyError: If a prompt is new and transformers or ftfy are not installed.
            PromptError: If something is not text.
        """
        known = [self._remembered(text) for text in texts]
        new = [text for text, rows in zip(texts, known, strict=True) if rows is None]
        fresh = dict(zip(new, self._encode(new), strict=True)) if new else {}
        for text, rows in fresh.items():
            self._remember(text, rows)
        out = torch.zeros(len(texts), MAX_TOKENS, self.dim)
        for slot, text, kept in zip(out, texts, known, strict=True):
            found = fresh[text] if kept is None else kept
            slot[: len(found)] = found.float()
        return out

    def unload(self) -> None:
        """Free the encoder's memory; the next new prompt loads it again."""
        self._loaded = None

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> list[Tensor]:
        """Rows [length, D] of every sentence."""
        cleaned = [clean_prompt(text) for text in texts]
        tokenizer, encoder = self._load()
        rows = []
        for text in cleaned:  # one at a time: the result does not depend on the neighbours
            tokens = tokenizer(
                [text],
                padding="max_length",
                truncation=True,
                max_length=MAX_TOKENS,
                add_special_tokens=True,
                return_tensors="pt",
            )
            ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            rows.append(
                states[0, : int(mask.sum())].to("cpu", torch.bfloat16 if self.dtype.itemsize == 2 else None)
            )
        if not self.keep_loaded:
            self.unload()
        return rows

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            try:
                from transformers import AutoTokenizer, UMT5EncoderModel
            except ImportError as cause:
                raise DependencyError(
                    'the official text encoder needs transformers; run `pip install "spatia-env[official]"`.'
                ) from cause
            local = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer", **local)
            weight_files(
                self.folder / "text_encoder"
            )  # names what is missing, before transformers looks elsewhere
            encoder = UMT5EncoderModel.from_pretrained(
                self.folder / "text_encoder", dtype=self.dtype, use_safetensors=True, local_files_only=True
            )
            self._loaded = tokenizer, encoder.to(self.device).eval()
        return self._loaded

    def _path(self, text: str) -> Path | None:
        if self.cache is None:
            return None
        return self.cache / f"{hashlib.sha256((self._identity + text).encode()).hexdigest()}.safetensors"

    def _remembered(self, text: str) -> Tensor | None:
        if not isinstance(text, str):
            raise PromptError(f"prompt: expected text, got {type(text).__name__}.")
        path = self._path(text)
        if path is None or not path.is_file():
            return None
        rows = read_tensors(path).get("rows")
        fits = rows is not None and rows.ndim == 2 and rows.shape[1] == self.dim and len(rows) <= MAX_TOKENS
        return rows if fits else None

    def _remember(self, text: str, rows: Tensor) -> None:
        path = self._path(text)
        if path is None:
            return
        write_tensors(path, {"rows": rows})


def clean_prompt(text: str) -> str:
    """A prompt as the release hands it to the tokenizer: mended characters, single spaces.

    The mending matters: full-width commas, of which the negative prompt is full, become plain ones.

    Raises:
        DependencyError: If ftfy is not installed.
    """
    try:
        import ftfy
    except ImportError as cause:
        raise DependencyError(
            'the official text encoder needs ftfy; run `pip install "spatia-env[official]"`.'
        ) from cause
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def default_cache() -> Path:
    """Where embeddings are remembered unless another folder is named."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spatia_env" / "prompts"


def _identity(folder: Path, dtype: torch.dtype) -> str:
    """What an embedding depends on besides its text: the encoder's configuration, files and precision."""
    parts = [(folder / "text_encoder" / "config.json").read_text(encoding="utf-8"), str(dtype)]
    for path in weight_files(folder / "text_encoder"):
        with open(path, "rb") as file:
            parts.append(
                f"{path.name} {path.stat().st_size} {hashlib.sha256(file.read(1 << 20)).hexdigest()}"
            )
    return "\n".join(parts)
