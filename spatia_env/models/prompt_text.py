"""What is read: how a sentence is cleaned, how a prompt is put together, and marks of order."""

import unicodedata

import torch
from torch import Tensor


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
