import pytest

from spatia_env.hearing import recognise
from spatia_env.ledger import listen
from spatia_env.vocabulary import EVENTS, phrasings


def _standing(event):
    return (event.ends,) if event.ends else ()


def test_training_phrasings_are_recognised():
    wrong = [t for e in EVENTS for t in phrasings(e.name) if recognise(t, _standing(e)) != e.name]
    assert len(wrong) <= 3, wrong


def test_most_wordings_that_training_never_saw_are_recognised():
    wrong = [t for e in EVENTS for t in phrasings(e.name, "dev") if recognise(t, _standing(e)) != e.name]
    assert len(wrong) <= 2, wrong


@pytest.mark.parametrize(
    "text", ["a cat jumps on the table", "a man sits on the sofa", "music plays", "", "..."]
)
def test_other_sentences_are_of_no_known_event(text):
    assert recognise(text) == ""


def test_what_does_not_stand_cannot_end():
    assert recognise("the haze goes away", ("fog",)) == "fog_ends"
    assert recognise("the haze goes away") != "fog_ends"


def test_a_condition_in_new_words_stands_until_it_is_ended_in_new_words():
    heard = listen("a haze spreads everywhere", 1, "a room", ())
    assert [name for name, _ in heard.conditions] == ["fog"]
    assert heard.row is not None and heard.row.kind == "condition"
    assert listen("the haze goes away", 2, "a room", heard.conditions).conditions == ()
