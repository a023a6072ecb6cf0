import pytest
import torch

from spatia_env.errors import DependencyError
from spatia_env.events.vocabulary import EVENTS, phrasings
from spatia_env.models import text_encoder
from spatia_env.models.text_encoder import DIM, MAX_TOKENS, SentenceTextEncoder

ROOM = "a room with a wooden floor and striped walls, with a drum, a table and pictures"


@pytest.fixture(scope="module")
def encoder():
    return SentenceTextEncoder()


def test_equals_the_reference_implementation(encoder):
    transformers = pytest.importorskip("transformers")
    reference = transformers.BertModel.from_pretrained(text_encoder._package_folder()).eval()
    ids = torch.tensor([encoder._tokenizer.encode("a red ball trundles across").ids])
    with torch.no_grad():
        expected = reference(input_ids=ids).last_hidden_state
    assert (encoder._bert(ids) - expected).abs().max() < 1e-5


def test_rows_are_of_unit_size_and_end_in_zeros(encoder):
    out = encoder([f"fog rolls in. {ROOM}", ""])
    assert out.shape == (2, MAX_TOKENS, DIM)
    used = out[0].abs().sum(-1) > 0
    assert 10 < used.sum() < MAX_TOKENS and bool(used[: int(used.sum())].all())
    assert 0.5 < out[0][used].square().mean() < 2.0
    assert out[1].abs().max() == 0


def test_an_event_reads_the_same_in_every_room_and_in_every_batch(encoder):
    alone = encoder(["a red ball rolls in"])[0]
    count = int((alone.abs().sum(-1) > 0).sum())
    both = SentenceTextEncoder()([ROOM, f"A red ball  rolls in. {ROOM}."])
    torch.testing.assert_close(both[1, :count], alone[:count])
    torch.testing.assert_close(both[0], encoder([ROOM])[0])


def test_a_long_text_is_cut(encoder):
    long = encoder(["a very long story " * 40])[0]
    assert (long.abs().sum(-1) > 0).all()


def test_wordings_that_training_never_sees_lie_near_their_event(encoder):
    """Dev phrasings of movers find their event among the training phrasings by the first row alone."""
    movers = [event.name for event in EVENTS if event.kind == "mover"]
    means = {name: encoder(list(phrasings(name)))[:, 0] for name in movers}
    found = 0
    for name in movers:
        query = encoder([phrasings(name, "dev")[0]])[0, 0]
        near = {
            n: torch.cosine_similarity(rows, query[None]).topk(2).values.mean() for n, rows in means.items()
        }
        found += max(near, key=lambda n: near[n]) == name
    assert found >= len(movers) - 2


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(text_encoder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="pip install"):
        SentenceTextEncoder()(["a ball"])
