"""Which known event a sentence speaks of, in whatever words.

```python
recognise("nightfall arrives")                          # "night"
recognise("dawn arrives", standing=("night",))          # "night_ends"
recognise("a cat jumps on the table")                   # ""
understand("a red ball rolls by while snow comes down") # ("red_ball_rolls", "snow")
is_denial("there is no fog")                            # True: it asks for nothing
```

The world has to know whether words change the light or the air, since no colours are written to the map while they
do. A ridge classifier over sentence vectors, fitted when first asked on the training phrasings of
`vocabulary` alone: 22 of 24 dev phrasings without knowing what stands.
"""

import functools
import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.model.sentences import sentence_encoder
from spatia_env.vocabulary import EVENT_NAMES, event, phrasings

RIDGE = 0.3
"""Of the classifier; every value from 0.1 to 1 gives the same on dev phrasings."""
LEAST_LIKENESS = 0.45
"""Mean cosine to the two nearest training phrasings below which a sentence is of no known event."""

DENIALS = re.compile(r"\b(no|not|never|nothing|nobody|none|neither|nor|without|\w+n't)\b")
"""Words that deny. A sentence with one asks for nothing, unless it ends what stands ("no more snow falls")."""
JOINTS = re.compile(r"[.;,]|\b(?:while|and|as|when|then|at the same time|meanwhile)\b")
"""Where a sentence of several events may be parted."""
LEAST_WORDS = 3
"""Of a clause that may be an event by itself: fewer ("and drives across") have no subject of their own."""


@dataclass(frozen=True)
class Recogniser:
    """`weights` [D, events] on vectors minus `mean` [D]; `examples` [events, phrasings, D] are of unit length."""

    weights: Tensor
    mean: Tensor
    examples: Tensor

    def __call__(self, vector: Tensor, standing: tuple[str, ...]) -> str:
        """The event of a sentence vector [D] of unit length, "" for none; see `recognise`."""
        scores = (vector - self.mean) @ self.weights
        possible = torch.tensor([_possible(name, standing) for name in EVENT_NAMES])
        best = int(torch.where(possible, scores, -torch.inf).argmax())
        alike = (self.examples[best] @ vector).topk(2).values.mean()
        return EVENT_NAMES[best] if alike >= LEAST_LIKENESS else ""


def understand(text: str, standing: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the known events that `text` asks for, in its order; several where it joins several.

    Args:
        text: Any sentence.
        standing: Names of the conditions that hold.
    """
    clauses = [clause.strip() for clause in JOINTS.split(text.lower()) if clause.strip()]
    if len(clauses) > 1 and all(len(clause.split()) >= LEAST_WORDS for clause in clauses):
        # A comma or an "and" may just as well stand within one event: every clause has to be one by itself.
        heard = tuple(dict.fromkeys(recognise(clause, standing) for clause in clauses))
        if len(heard) > 1 and "" not in heard:
            return heard
    name = recognise(text, standing)
    return (name,) if name else ()


def is_denial(text: str) -> bool:
    """Whether a sentence denies something: "there is no fog", "nothing happens"."""
    return bool(DENIALS.search(text.lower().replace("\u2019", "'")))


def recognise(text: str, standing: tuple[str, ...] = ()) -> str:
    """The name of the event that `text` asks for, "" if it is none that is known.

    Args:
        text: Any sentence that speaks of one thing.
        standing: Names of the conditions that hold. Only these can end, and they cannot begin again.
    """
    vector = _vectors([text])[0]
    if not vector.any():
        return ""
    name = _recogniser()(vector, standing)
    return "" if name and is_denial(text) and not event(name).ends else name


def _possible(name: str, standing: tuple[str, ...]) -> bool:
    ends = event(name).ends
    return ends in standing if ends else name not in standing


def _vectors(texts: list[str]) -> Tensor:
    """Unit vectors [B, D] of sentences; a text of several is its first."""
    return F.normalize(sentence_encoder()(texts)[:, 0], dim=-1)


@functools.cache
def _recogniser() -> Recogniser:
    examples = torch.stack([_vectors(list(phrasings(name))) for name in EVENT_NAMES])
    events, count, dim = examples.shape
    mean = examples.mean((0, 1))
    rows = (examples - mean).flatten(0, 1).double()
    target = torch.eye(events, dtype=torch.float64).repeat_interleave(count, 0) - 1 / events
    weights = torch.linalg.solve(rows.T @ rows + RIDGE * torch.eye(dim, dtype=torch.float64), rows.T @ target)
    return Recogniser(weights.float(), mean, examples)
