"""`spatia train hearing`: the vectors of known sentences (`spatia_env.events.classifier`), and how well they hear."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spatia_env.events.classifier import ELSEWHERE, OTHERS, VECTORS, Recogniser, ending_line, judge
from spatia_env.events.vocabulary import ELSEWHERE as OTHER_THINGS
from spatia_env.events.vocabulary import EVENT_NAMES, event, phrasings, wordings
from spatia_env.io.weights import write_tensors
from spatia_env.models.text_encoder import sentence_encoder


@dataclass(frozen=True)
class HearingConfig:
    """Make the vectors of known sentences."""

    out: Path = VECTORS
    """file to write"""


def train_hearing(config: HearingConfig) -> dict[str, Any]:
    """Encode every known sentence (half a minute) and write the vectors; returns figures on dev sentences."""
    known = known_sentences()
    vectors, labels = vectors_of([text for text, _ in known]), torch.tensor([label for _, label in known])
    recogniser = Recogniser(vectors, labels, ending_line(vectors, labels))
    tensors = {"vectors": vectors.half(), "labels": labels.to(torch.uint8), "ends": recogniser.ends}
    write_tensors(config.out, tensors)
    return {"sentences": len(known), **dev_figures(recogniser)}


def known_sentences() -> list[tuple[str, int]]:
    """Every sentence with its label, in the order of the file."""
    out = [
        (text, label)
        for label, name in enumerate(EVENT_NAMES)
        for text in (*phrasings(name), *wordings()["train"][name])
    ]
    out += [(text, OTHERS) for text in wordings()["others"]]
    return out + [(text, ELSEWHERE) for text in (*OTHER_THINGS, *wordings()["elsewhere"])]


def vectors_of(texts: list[str]) -> Tensor:
    """Unit sentence vectors [N, D]."""
    rows = torch.stack([sentence_encoder().sentence(text)[0] for text in texts])
    return torch.nn.functional.normalize(rows, dim=-1)


def dev_figures(recogniser: Recogniser) -> dict[str, float]:
    """Shares of the dev sentences: events heard, other things and denials heard as an event, and (of light and air)
    endings heard on a clear day, beginnings heard as something new while they stand.
    """
    dev = wordings()["dev"]

    def hear(text: str, standing: tuple[str, ...] = ()) -> str:
        return judge(recogniser, text, standing).name

    def share(answers: list[bool]) -> float:
        return round(sum(answers) / len(answers), 3)

    asked = [(text, name, event(name)) for name, texts in dev["events"].items() for text in texts]
    return {
        "events_heard": share([hear(t, (e.ends,) if e.ends else ()) == name for t, name, e in asked]),
        "other_things_heard": share([hear(text) != "" for text in dev["elsewhere"]]),
        "denials_heard": share([hear(text) != "" for text in dev["denials"]]),
        "moot_endings_heard": share([hear(t) != "" for t, _, e in asked if e.ends]),
        "standing_heard": share([hear(t, (name,)) != "" for t, name, e in asked if e.kind == "condition"]),
    }
