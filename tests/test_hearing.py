"""Sentences and the events they ask for, in words that nobody trained on."""

import json

import pytest
import torch

from spatia_env.events.classifier import (
    ELSEWHERE,
    OTHERS,
    VECTORS,
    Judgement,
    Recogniser,
    ending_line,
    is_denial,
    is_silent,
    recognise,
    understand,
)
from spatia_env.events.log import listen
from spatia_env.events.vocabulary import EVENT_NAMES, EVENTS, lookup, phrasings, wordings
from spatia_env.train.event_classifier import (
    HearingConfig,
    dev_figures,
    known_sentences,
    train_hearing,
    vectors_of,
)


def _standing(event):
    return (event.ends,) if event.ends else ()


def test_training_phrasings_are_recognised():
    wrong = [t for e in EVENTS for t in phrasings(e.name) if recognise(t, _standing(e)) != e.name]
    assert len(wrong) <= 3, wrong


def test_most_wordings_that_training_never_saw_are_recognised():
    wrong = [t for e in EVENTS for t in phrasings(e.name, "dev") if recognise(t, _standing(e)) != e.name]
    assert len(wrong) <= 2, wrong


def test_sentences_that_were_written_apart_are_heard_and_other_things_are_not():
    figures = dev_figures(Recogniser.load())
    assert figures["events_heard"] >= 0.88
    assert figures["other_things_heard"] <= 0.12 and figures["denials_heard"] <= 0.1
    assert figures["moot_endings_heard"] <= 0.3 and figures["standing_heard"] <= 0.1


def test_no_known_sentence_is_one_that_is_kept_for_measuring():
    known = {text for text, _ in known_sentences()}
    kept = {text for e in EVENTS for split in ("dev", "test") for text in phrasings(e.name, split)}
    dev = wordings()["dev"]
    kept |= {t for texts in dev["events"].values() for t in texts} | {*dev["elsewhere"], *dev["denials"]}
    assert not known & kept
    assert len(known) == len(known_sentences())
    assert not any(lookup(text) for name in EVENT_NAMES for text in wordings()["train"][name])


def test_the_packaged_vectors_are_those_of_the_sentences():
    packaged, known = Recogniser.load(), known_sentences()
    assert packaged.labels.tolist() == [label for _, label in known]
    assert {OTHERS, ELSEWHERE} <= set(packaged.labels.tolist())
    some = range(0, len(known), 40)
    made = vectors_of([known[i][0] for i in some])
    assert (made * packaged.vectors[list(some)]).sum(-1).min() > 0.999


def test_scores_are_the_two_nearest_of_each_label():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(90, 8, generator=generator), dim=-1)
    labels = torch.arange(90) % (len(EVENT_NAMES) + 2)
    query = torch.randn(8, generator=generator)
    scores = Recogniser(vectors, labels, torch.zeros(9)).scores(query)
    for label, score in enumerate(scores.tolist()):
        cosines = [
            float(v @ query / query.norm()) for v, own in zip(vectors, labels, strict=True) if own == label
        ]
        assert score == pytest.approx(sum(sorted(cosines)[-2:]) / 2, abs=1e-5)


def test_a_line_parts_beginnings_from_endings():
    recogniser = Recogniser.load()
    assert torch.allclose(ending_line(recogniser.vectors, recogniser.labels), recogniser.ends, atol=0.02)
    pairs = [(t, bool(e.ends)) for e in EVENTS if e.kind != "mover" for t in phrasings(e.name)]
    right = [
        recogniser.is_end(v) == ends
        for v, (_, ends) in zip(vectors_of([t for t, _ in pairs]), pairs, strict=True)
    ]
    assert sum(right) >= 0.95 * len(right)


def test_of_a_beginning_and_its_end_that_are_close_the_line_decides():
    count = len(EVENT_NAMES) + 2
    vectors = torch.tensor([[1.0, 0.0, 0.1], [1.0, 0.0, 0.12], *[[0.0, 1.0, 0.0]] * count])
    labels = torch.tensor([EVENT_NAMES.index("fog"), EVENT_NAMES.index("fog_ends"), *range(count)])
    for sign, heard in ((-9.0, Judgement("fog")), (9.0, Judgement("", silent=True))):
        recogniser = Recogniser(vectors, labels, torch.tensor([0.0, 0.0, 0.0, sign]))
        assert recogniser.is_end(vectors[0]) == (sign > 0)
        assert recogniser(torch.tensor([1.0, 0.0, 0.11])) == heard


def test_vectors_are_written_for_the_sentences_at_hand(tmp_path, monkeypatch):
    short = {
        "train": {n: wordings()["train"][n][:1] for n in EVENT_NAMES},
        "others": ["a white ball rolls in"],
    }
    path = tmp_path / "wordings.json"
    path.write_text(json.dumps(short | {"elsewhere": ["rain drums on the roof"], "dev": wordings()["dev"]}))
    few = json.loads(path.read_text())
    few["dev"] = {
        "events": {"fog": ["fog rolls in slowly"]}, "elsewhere": ["a hen lays an egg"], "denials": ["there is no fog"]
    }  # fmt: skip
    few["dev"]["events"]["fog_ends"] = ["the fog clears up"]
    monkeypatch.setattr("spatia_env.train.event_classifier.wordings", lambda: few)
    figures = train_hearing(HearingConfig(tmp_path / "hearing.safetensors"))
    assert figures["sentences"] == len(known_sentences()) and figures["events_heard"] == 1.0
    loaded = Recogniser.load(tmp_path / "hearing.safetensors")
    assert loaded(vectors_of(["rain drums on the roof"])[0]) == Judgement("", silent=True)
    assert loaded(vectors_of(["a white ball rolls in"])[0]) == Judgement("", silent=False)
    assert VECTORS.stat().st_size < 2_000_000


def test_the_end_of_what_does_not_stand_is_silence_for_the_model():
    for text in ("the fog clears", "it stops snowing", "the alarm is over"):
        assert is_silent(text) and recognise(text) == ""
        assert listen(text, 1, "a room", (), known_words=True).text == "a room"
    assert not is_silent("the fog clears", ("fog",)) and recognise("the fog clears", ("fog",)) == "fog_ends"
    begins = [t for e in EVENTS if not e.ends for t in phrasings(e.name) if is_silent(t)]
    assert len(begins) <= 3, begins


def test_what_stands_does_not_begin_again_or_end_by_it():
    for text, name in (("night falls", "night"), ("it is snowing now", "snow"), ("fog rolls in", "fog")):
        assert recognise(text) == name and recognise(text, (name,)) == "" and is_silent(text, (name,))


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
    assert [row.kind for row in heard.rows] == ["condition"]
    assert listen("the haze goes away", 2, "a room", heard.conditions).conditions == ()


def test_several_events_in_one_sentence_are_heard_in_their_order():
    assert understand("a red ball rolls in while a blue box drops from above") == (
        "red_ball_rolls",
        "blue_box_drops",
    )
    assert understand("snow begins to fall, and a yellow duck falls") == ("snow", "duck_falls")


def test_an_and_within_an_event_does_not_part_it():
    for event in EVENTS:
        for text in phrasings(event.name):
            assert len(understand(text, _standing(event))) <= 1, text


@pytest.mark.parametrize(
    "text",
    [
        "no red ball rolls in",
        "fog doesn't roll in",
        "nothing happens",
        "night never falls",
        "a room without snow",
    ],
)
def test_what_is_denied_is_not_heard(text):
    assert is_denial(text) and understand(text) == ()
    heard = listen(text, 1, "a room", (), known_words=True)
    assert heard.conditions == () and heard.text == "a room"


def test_a_denial_may_end_what_stands():
    assert understand("no more snow falls", ("snow",)) == ("snow_ends",)


def test_a_model_that_reads_known_words_gets_them():
    heard = listen("a haze spreads everywhere", 1, "a room", (), known_words=True)
    assert heard.text == "fog rolls in. a room"
    assert listen("a haze spreads everywhere", 1, "a room", ()).text == "a haze spreads everywhere. a room"
    # Near misses are left to the model; of what is not to be seen it hears nothing.
    text = "a white car drives past"
    assert listen(text, 1, "a room", (), known_words=True).text == f"{text}. a room"
    assert listen("the cat naps on the sofa", 1, "a room", (), known_words=True).text == "a room"


def test_things_may_fall_where_they_are_asked_for_or_where_words_are_not_known():
    def falls(text, conditions=()):
        return listen(text, 1, "a room", conditions, known_words=True).falls

    snow = (("snow", "in falling snow"),)
    assert not falls("") and not falls("night falls") and not falls("", (("night", "at night"),))
    assert falls("it starts to snow") and falls("orange balls rain down") and falls("", snow)
    assert falls("it stops snowing", snow) and falls("blue confetti whirls through the air")
