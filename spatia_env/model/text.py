"""The tiny text encoder: fixed word-piece vectors from an installed package, so no network is ever asked.

`wordllama` (MIT) ships 32,000 x 256 token embeddings distilled from a large model; they are read here directly
as safetensors. What the words of a sentence mean together is learnt by the transformer's own text layers.
"""

import importlib.util
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spatia_env.errors import DependencyError

MAX_TOKENS = 40
EMBEDDING_DIM = 256


class WordTextEncoder:
    """Embeds sentences as token vectors [B, MAX_TOKENS, 256]; rows past the end are zero.

    Vectors are scaled to unit root mean square, and a fixed sinusoid marks word order.
    """

    dim = EMBEDDING_DIM
    max_tokens = MAX_TOKENS

    def __call__(self, texts: list[str]) -> Tensor:
        """Embeddings f32 [B, MAX_TOKENS, 256] of `texts`; longer sentences are cut."""
        out = torch.zeros(len(texts), MAX_TOKENS, EMBEDDING_DIM)
        for row, text in zip(out, texts, strict=True):
            ids = self._tokenizer.encode(clean(text), add_special_tokens=False).ids[:MAX_TOKENS]
            if ids:
                row[: len(ids)] = self._table[torch.tensor(ids)].float()
        order = positions(MAX_TOKENS, EMBEDDING_DIM)
        return torch.where(out.abs().sum(-1, keepdim=True) > 0, out + 0.3 * order, out)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(
            str(_package_folder() / "tokenizers" / "l2_supercat_tokenizer_config.json")
        )

    @cached_property
    def _table(self) -> Tensor:
        from safetensors.torch import load_file

        table = next(iter(load_file(_package_folder() / "weights" / "l2_supercat_256.safetensors").values()))
        return table / table.float().pow(2).mean().sqrt()


def clean(text: str) -> str:
    """Lower case, NFKC, single spaces, no full stop at the end: how a sentence is looked up."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).rstrip(".! ")


def compose_text(prompt: str, conditions: tuple[str, ...] | list[str], event: str) -> str:
    """The sentence that the model reads: the event first, then standing conditions, then the scene's prompt."""
    return ". ".join(part.strip().rstrip(".") for part in (event, *conditions, prompt) if part.strip())


def _package_folder() -> Path:
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise DependencyError(
            'the tiny text encoder needs wordllama; run `pip install "wordllama==0.4.0.post1"`.'
        )
    return Path(spec.origin).parent


def positions(length: int, dim: int) -> Tensor:
    """Sinusoids [length, dim] that mark order."""
    rate = torch.exp(torch.arange(0, dim, 2) * (-torch.log(torch.tensor(1000.0)) / dim))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
