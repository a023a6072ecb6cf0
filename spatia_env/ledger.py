"""What was asked of the world in words, and which of it still holds.

An event that changes the light or the air is a *condition*: it stands until an ending event lifts it, later
clips are told of it, and no colours are written to the map meanwhile.
"""

from dataclasses import dataclass

from spatia_env import vocabulary
from spatia_env.hearing import recognise
from spatia_env.model.text import compose_text

Conditions = tuple[tuple[str, str], ...]
"""Standing conditions: (event name, phrase for later prompts), oldest first."""


@dataclass(frozen=True)
class LedgerRow:
    """One event: the `step` it was asked at, its `text`, and the vocabulary's `name` and `kind` if it is known."""

    step: int
    text: str
    name: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Heard:
    """An event taken in: its ledger row (None for no event), what stands after it, and what the model reads."""

    row: LedgerRow | None
    conditions: Conditions
    text: str


def listen(event: str, step: int, prompt: str, conditions: Conditions) -> Heard:
    """Take in an event ("" for none) that is asked at `step` while `conditions` stand."""
    text = compose_text(prompt, [phrase for _, phrase in conditions], event)
    if not event:
        return Heard(None, conditions, text)
    name = recognise(event, tuple(standing for standing, _ in conditions))
    if not name:
        return Heard(LedgerRow(step, event), conditions, text)
    known = vocabulary.event(name)
    if known.kind == "condition":
        conditions = (*(pair for pair in conditions if pair[0] != name), (name, known.condition_phrase))
    elif known.kind == "ending":
        conditions = tuple(pair for pair in conditions if pair[0] != known.ends)
    return Heard(LedgerRow(step, event, name, known.kind), conditions, text)
