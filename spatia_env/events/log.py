"""What was asked of the world in words, and which of it still holds.

An event that changes the light or the air is a *condition*: it stands until an ending event lifts it, later
clips are told of it, and no colours are written to the map meanwhile.
"""

from dataclasses import dataclass

from spatia_env.events import vocabulary
from spatia_env.events.classifier import is_silent, understand
from spatia_env.models.text_encoder import compose_text

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
    """What was asked, taken in: its ledger rows (none for no event), what stands after it, what the model reads."""

    rows: tuple[LedgerRow, ...]
    conditions: Conditions
    text: str

    @property
    def falls(self) -> bool:
        """Whether flakes or balls may fall: they are asked for, they stand, or words are not known."""
        names = [row.name for row in self.rows] + [name for name, _ in self.conditions]
        return any(not name or name in vocabulary.FALLING_EVENTS for name in names)


def listen(event: str, step: int, prompt: str, conditions: Conditions, known_words: bool = False) -> Heard:
    """Take in an event ("" for none) that is asked at `step` while `conditions` stand.

    Args:
        event: What is asked for, in any words; several events may be joined.
        step: The step that it is asked at.
        prompt: The scene's.
        conditions: What stands.
        known_words: The model reads known events in their canonical words, and as silence what certainly asks for
            nothing (`classifier.is_silent`): for small models, whose text encoder does not carry over to words that
            training never had.
    """
    names = understand(event, tuple(standing for standing, _ in conditions)) if event else ()
    phrases = [phrase for _, phrase in conditions]
    text = compose_text(prompt, phrases, _in_known_words(event, names, conditions) if known_words else event)
    if not event:
        return Heard((), conditions, text)
    if not names:
        return Heard((LedgerRow(step, event),), conditions, text)
    rows = []
    for known in map(vocabulary.event, names):
        if known.kind == "condition":
            begun = (known.name, known.condition_phrase)
            conditions = (*(pair for pair in conditions if pair[0] != known.name), begun)
        elif known.kind == "ending":
            conditions = tuple(pair for pair in conditions if pair[0] != known.ends)
        rows.append(LedgerRow(step, event, known.name, known.kind))
    return Heard(tuple(rows), conditions, text)


def _in_known_words(event: str, names: tuple[str, ...], conditions: Conditions) -> str:
    if names:
        return ". ".join(vocabulary.event(name).canonical for name in names)
    return "" if is_silent(event, tuple(name for name, _ in conditions)) else event
