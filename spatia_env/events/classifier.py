"""Classifies a sentence as one of the known events or none, also in wordings that training never had.

```python
recognise("crimson dusk light pours in")                # "sunset"
recognise("the lights stay low", ("dim",))              # "": it is dim already
recognise("a cat jumps on the table")                   # ""
understand("a red ball rolls by while snow comes down") # ("red_ball_rolls", "snow")
is_denial("there is no fog")                            # True: it asks for nothing
```

The world has to know whether words change the light or the air, since no colours are written to the map while they
do, and a small model draws best what it reads in words it knows. A sentence is of the event, or of none, whose two
nearest known sentences are nearest to it, by the cosine of sentence vectors (`models.text_encoder`): some forty of each
event, 120 near misses of them and 200 of other things (`paraphrases.json`). `spatia train hearing`
makes their vectors and
says how many of the dev sentences, written apart, are heard.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from spatia_env.events.vocabulary import EVENT_NAMES, event
from spatia_env.models.text_encoder import sentence_encoder

VECTORS = Path(__file__).parents[1] / "checkpoints" / "hearing.safetensors"
OTHERS, ELSEWHERE = len(EVENT_NAMES), len(EVENT_NAMES) + 1
"""Labels of sentences of no known event: near misses, and what has nothing to do with any."""
NEAREST = 2
"""Known sentences that speak for an event; 1, 3 and 5 hear 2 % less, or more that is not there."""
LEAST_COSINE = 0.35
"""Below it a sentence is of nothing that is known."""
STANDS_MARGIN, ENDS_MARGIN = 0.05, 0.15
"""By so much what cannot be (the beginning of what stands, the end of what does not) outdoes what can: then a sentence
says nothing new. Endings are hard to tell apart, so one that can be is taken for another more easily."""
RIVALS = 0.06
"""A beginning and the end of the same whose scores lie closer are told apart by a line between all beginnings and all
endings of light and air (`Recogniser.ends`): words for fog are near each other whether it comes or goes.
"""
RIDGE = 0.3
"""Penalty of that line; from 0.1 to 3 it tells 90 to 92 % of held-out known sentences."""

DENIALS = re.compile(r"\b(no|not|never|nothing|nobody|none|neither|nor|without|stays?|remains?|\w+n't)\b")
"""Words that deny. A sentence with one asks for nothing, unless it ends what stands ("no more snow falls")."""
JOINTS = re.compile(r"[.;,]|\b(?:while|and|as|when|then|at the same time|meanwhile)\b")
"""Where a sentence of several events may be parted."""
LEAST_WORDS = 3
"""Of a clause that may be an event by itself: fewer ("and drives across") have no subject of their own."""


@dataclass(frozen=True)
class Judgement:
    """What a sentence asks for.

    Attributes:
        name: The event, "" for none that is known.
        silent: It certainly asks for nothing: it speaks of other things, or of a change that cannot be.
    """

    name: str
    silent: bool = False


@dataclass(frozen=True)
class Recogniser:
    """What sentences are compared with.

    Attributes:
        vectors: Unit vectors of known sentences [N, D].
        labels: i64 [N]: indices of `EVENT_NAMES`, `OTHERS` or `ELSEWHERE`.
        ends: [D + 1], a line between beginnings and endings: weights of a unit vector, and what is added to
            their sum (`ending_line`).
    """

    vectors: Tensor
    labels: Tensor
    ends: Tensor

    @classmethod
    def load(cls, path: Path = VECTORS) -> "Recogniser":
        """What `spatia train hearing` wrote."""
        from safetensors.torch import load_file

        tensors = load_file(path)
        return cls(
            F.normalize(tensors["vectors"].float(), dim=-1), tensors["labels"].long(), tensors["ends"].float()
        )

    def scores(self, vector: Tensor) -> Tensor:
        """For each label, the mean cosine [E + 2] of its nearest known sentences to a sentence's vector [D]."""
        cosines = self.vectors @ F.normalize(vector, dim=0)
        own = (cosines[self.labels == label] for label in range(len(EVENT_NAMES) + 2))
        return torch.stack([c.topk(min(NEAREST, len(c))).values.mean() for c in own])

    def __call__(self, vector: Tensor, standing: tuple[str, ...] = ()) -> Judgement:
        """What a sentence with this vector [D] asks for while conditions stand."""
        scores = self.scores(vector)
        events, (others, elsewhere) = scores[:OTHERS], scores[OTHERS:].tolist()
        if float(events.max()) < max(others, elsewhere, LEAST_COSINE):
            return Judgement("", silent=elsewhere >= max(others, LEAST_COSINE))
        events = self._without_rivals(events, vector)
        possible = torch.tensor([_possible(name, standing) for name in EVENT_NAMES])
        first, best = int(events.argmax()), int(torch.where(possible, events, -torch.inf).argmax())
        ends = [bool(event(EVENT_NAMES[index]).ends) for index in (first, best)]
        margin = ENDS_MARGIN if all(ends) else STANDS_MARGIN
        if float(events[first] - events[best]) > margin:
            return Judgement("", silent=True)
        return Judgement(EVENT_NAMES[best])

    def _without_rivals(self, events: Tensor, vector: Tensor) -> Tensor:
        """Scores [E] of events, the less likely of a beginning and its end at -1 where they are close."""
        out, is_end = events.clone(), self.is_end(vector)
        for end, name in enumerate(EVENT_NAMES):
            if event(name).ends:
                begin = EVENT_NAMES.index(event(name).ends)
                if abs(float(events[begin] - events[end])) < RIVALS:
                    out[begin if is_end else end] = -1.0
        return out

    def is_end(self, vector: Tensor) -> bool:
        """Whether a sentence about light or air with this vector [D] speaks of an end."""
        return float(F.normalize(vector, dim=0) @ self.ends[:-1] + self.ends[-1]) > 0


def ending_line(vectors: Tensor, labels: Tensor) -> Tensor:
    """A line [D + 1] between the beginnings (-1) and the endings (1) among known sentences, by ridge regression.

    Args:
        vectors: Unit vectors [N, D].
        labels: i64 [N], as of `Recogniser`.
    """
    sides = torch.zeros(ELSEWHERE + 1, dtype=torch.float64)
    for index, name in enumerate(EVENT_NAMES):
        sides[index] = {"condition": -1.0, "ending": 1.0}.get(event(name).kind, 0.0)
    side = sides[labels]
    known, side = vectors[side != 0].double(), side[side != 0]
    middle = known.mean(0)
    centred = known - middle
    within = centred.T @ centred + RIDGE * torch.eye(vectors.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(within, centred.T @ side)
    return torch.cat([weight, -(middle @ weight)[None]]).float()


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
    return _judge(text, standing).name


def is_silent(text: str, standing: tuple[str, ...] = ()) -> bool:
    """Whether a sentence certainly asks for nothing: a denial, other things, or the end of what does not stand."""
    return _judge(text, standing).silent


def judge(recogniser: Recogniser, text: str, standing: tuple[str, ...] = ()) -> Judgement:
    """What `text` asks for while conditions stand; a denial asks for nothing, unless it ends what stands."""
    rows = sentence_encoder().sentence(text)
    judgement = recogniser(rows[0], standing) if len(rows) else Judgement("")
    ends = bool(judgement.name and event(judgement.name).ends)
    return Judgement("", silent=True) if is_denial(text) and not ends else judgement


def _possible(name: str, standing: tuple[str, ...]) -> bool:
    ends = event(name).ends
    return ends in standing if ends else name not in standing


@functools.lru_cache(maxsize=4096)
def _judge(text: str, standing: tuple[str, ...]) -> Judgement:
    return judge(_recogniser(), text, standing)


@functools.cache
def _recogniser() -> Recogniser:
    return Recogniser.load()
