"""Which known event a sentence speaks of, in whatever words.

```python
recognise("nightfall arrives")                          # "night"
recognise("dawn arrives", standing=("night",))          # "night_ends"
recognise("a cat jumps on the table")                   # ""
understand("a red ball rolls by while snow comes down") # ("red_ball_rolls", "snow")
is_denial("there is no fog")                            # True: it asks for nothing
```

The world has to know whether words change the light or the air, since no colours are written to the map while they
do. A ridge classifier over sentence vectors, and how well words find their like in the training phrasings of
`vocabulary`, which alone it is fitted to when first asked. Left out in turn, 96 % of those are recognised; after words
were exchanged for others of Open English WordNet 82 % are (76 % by the classifier alone). All 24 dev phrasings are,
where it is known what stands.
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
"""Of the classifiers; every value from 0.1 to 1 gives the same on dev phrasings."""
WORDS_WEIGHT = 1.5
"""Of the likeness of words beside the classifier's score; 1 to 5 are about equally good."""
LEAST_EVIDENCE = 1.05
"""Below it a sentence is of no known event: the classifier's score, the likeness of words, and the mean cosine to
the two nearest training phrasings together. 91 % of exchanged sentences reach it, and 3 % of
`vocabulary.ELSEWHERE` (88.7 and 3 % by the cosine alone)."""
MOOT_MARGIN = 0.1
"""By so much an ending that cannot be outdoes what can, where the sentence speaks of an end at all: then it is moot."""

DENIALS = re.compile(r"\b(no|not|never|nothing|nobody|none|neither|nor|without|\w+n't)\b")
"""Words that deny. A sentence with one asks for nothing, unless it ends what stands ("no more snow falls")."""
JOINTS = re.compile(r"[.;,]|\b(?:while|and|as|when|then|at the same time|meanwhile)\b")
"""Where a sentence of several events may be parted."""
LEAST_WORDS = 3
"""Of a clause that may be an event by itself: fewer ("and drives across") have no subject of their own."""


@dataclass(frozen=True)
class Recogniser:
    """Fitted to phrasings; E events, P phrasings of each, D channels.

    Attributes:
        mean: of the sentence vectors [D].
        weights: of the events' scores [D, E].
        ends_mean: of the sentence vectors of light and air [D].
        ends_weights: of speaking of an end [D]: above 0 it does.
        examples: sentence vectors [E, P, D] of unit length.
        words: word vectors [E, P, L, D] of unit length, zero past a sentence's end.
    """

    mean: Tensor
    weights: Tensor
    ends_mean: Tensor
    ends_weights: Tensor
    examples: Tensor
    words: Tensor

    @classmethod
    def fit(cls, texts: list[tuple[str, ...]]) -> "Recogniser":
        """Of equally many texts for every event of `EVENT_NAMES`."""
        rows = [[F.normalize(sentence_encoder().sentence(text), dim=-1) for text in own] for own in texts]
        examples = torch.stack([torch.stack([row[0] for row in own]) for own in rows])
        longest = max(len(row) for own in rows for row in own)
        words = torch.stack(
            [torch.stack([F.pad(r[1:], (0, 0, 0, longest - len(r))) for r in own]) for own in rows]
        )
        events, count, _ = examples.shape
        target = (torch.eye(events) - 1 / events).repeat_interleave(count, 0)
        mean, weights = _ridge(examples.flatten(0, 1), target)
        kinds = [event(name).kind for name in EVENT_NAMES]
        light = torch.tensor([kind != "mover" for kind in kinds])
        ends = torch.tensor([[1.0] if kind == "ending" else [-1.0] for kind in kinds])[light]
        ends_mean, ends_weights = _ridge(examples[light].flatten(0, 1), ends.repeat_interleave(count, 0))
        return cls(mean, weights, ends_mean, ends_weights[:, 0], examples, words)

    def __call__(self, rows: Tensor, standing: tuple[str, ...]) -> tuple[str, bool]:
        """The event of a sentence's rows [1 + tokens, D] ("" for none), and whether it ends what does not stand."""
        rows = F.normalize(rows, dim=-1)
        score, likeness = (rows[0] - self.mean) @ self.weights, self._likeness(rows[1:])
        scores = score + WORDS_WEIGHT * likeness
        evidence = score + likeness + (self.examples @ rows[0]).topk(2, dim=1).values.mean(1)
        known = evidence >= LEAST_EVIDENCE
        possible = torch.tensor([_possible(name, standing) for name in EVENT_NAMES])
        best = int(torch.where(possible, scores, -torch.inf).argmax())
        first = int(scores.argmax())
        outdone = float(scores[first] - scores[best]) > MOOT_MARGIN and not event(EVENT_NAMES[best]).ends
        if event(EVENT_NAMES[first]).ends and outdone:
            of_an_end = float((rows[0] - self.ends_mean) @ self.ends_weights) > 0
            if of_an_end and known[first]:
                return "", True
        return (EVENT_NAMES[best] if known[best] else ""), False

    def _likeness(self, words: Tensor) -> Tensor:
        """How well words [L, D] find their like in the two nearest phrasings of each event, and these theirs: [E]."""
        if not len(words):
            return torch.zeros(len(self.words))
        cosines = torch.einsum("epld,kd->eplk", self.words, words)
        there = self.words.any(-1)
        found = cosines.amax(2).mean(-1)
        finds = (cosines.amax(3) * there).sum(-1) / there.sum(-1)
        return ((found + finds) / 2).topk(2, dim=1).values.mean(1)


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
    rows = sentence_encoder().sentence(text)
    if not len(rows):
        return ""
    name, _ = _recogniser()(rows, standing)
    return "" if name and is_denial(text) and not event(name).ends else name


def is_moot(text: str, standing: tuple[str, ...] = ()) -> bool:
    """Whether a sentence speaks of the end of light or air that does not stand: "the fog clears" on a clear day."""
    rows = sentence_encoder().sentence(text)
    return bool(len(rows)) and _recogniser()(rows, standing)[1]


def _possible(name: str, standing: tuple[str, ...]) -> bool:
    ends = event(name).ends
    return ends in standing if ends else name not in standing


def _ridge(rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] of rows [N, D], and weights [D, M] from the rows around it to `target` [N, M]."""
    mean = rows.mean(0)
    around = (rows - mean).double()
    gram = around.T @ around + RIDGE * torch.eye(rows.shape[1], dtype=torch.float64)
    return mean, torch.linalg.solve(gram, around.T @ target.double()).float()


@functools.cache
def _recogniser() -> Recogniser:
    return Recogniser.fit([phrasings(name) for name in EVENT_NAMES])
