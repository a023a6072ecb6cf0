import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given, settings
from hypothesis import strategies as st

from contract_env import ContractEnv, T
from spatia_env.actions import EventText, PathBox
from spatia_env.errors import PromptError
from spatia_env.events.vocabulary import EVENT_VOCABULARY
from spatia_env.io.validation import normalise_text
from twists import path_of_twist

ALL = [EventText(), EventText(40, ("", "rain", "ça va")), PathBox(5), PathBox(3, batch=(2,))]


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_space_behaves_as_gymnasiums_own(space):
    space.seed(3)
    samples = [space.sample() for _ in range(20)]
    assert all(sample in space for sample in samples)
    space.seed(3)
    again = [space.sample() for _ in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(samples, again, strict=True))
    for twin in (copy.deepcopy(space), pickle.loads(pickle.dumps(space))):
        assert twin == space
        assert np.array_equal(twin.sample(), copy.deepcopy(space).sample())
    text = json.dumps(space.to_jsonable(samples))
    restored = space.from_jsonable(json.loads(text))
    assert all(np.array_equal(a, b) for a, b in zip(samples, restored, strict=True))
    assert all(x in space for x in restored)
    flat = spaces.flatten_space(space)
    for sample in samples:
        code = spaces.flatten(space, sample)
        assert code.shape == flat.shape and code.dtype == flat.dtype
        assert np.array_equal(spaces.unflatten(space, code), sample)


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_space_batches(space):
    space.seed(1)
    batch = batch_space(space, 3)
    sample = batch.sample()
    assert sample in batch
    items = list(iterate(batch, sample))
    assert len(items) == 3 and all(item in space for item in items)
    out = create_empty_array(space, 3)
    joined = concatenate(space, items, out)
    assert all(np.array_equal(a, b) for a, b in zip(joined, items, strict=True))


def test_spaces_differ():
    assert EventText() != EventText(100)
    assert EventText() != EventText(vocabulary=("", "x"))
    assert EventText(256) != spaces.Text(256) and spaces.Text(256) != EventText(256)
    assert PathBox(4) != PathBox(5)
    assert PathBox(4) != spaces.Box(-1, 1, (4, 4, 4))


@pytest.mark.parametrize("make", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("kind", ["camera", "path"])
def test_vector_envs_take_batches_of_both_spaces(make, kind):
    envs = make([lambda: ContractEnv(action=kind) for _ in range(2)])
    try:
        envs.reset(seed=0)
        envs.action_space.seed(0)
        for _ in range(3):
            action = envs.action_space.sample()
            assert isinstance(action["event"], tuple) and len(action["event"]) == 2
            observation, reward, *_ = envs.step(action)
            assert reward.tolist() == [len(event) for event in action["event"]]
        assert observation["pose"].shape == (2, T, 4, 4)
    finally:
        envs.close()


def test_event_sample_is_quiet_half_of_the_time_and_reaches_the_whole_vocabulary():
    space = EventText(seed=0)
    drawn = [space.sample() for _ in range(4000)]
    assert set(drawn) == set(EVENT_VOCABULARY)
    assert 0.45 < drawn.count("") / len(drawn) < 0.55


def test_event_sample_takes_masks():
    space = EventText(vocabulary=("", "rain", "fog"), seed=0)
    assert {space.sample(mask=np.array([0, 1, 0], np.int8)) for _ in range(9)} == {"rain"}
    assert {space.sample(probability=np.array([0.0, 0.0, 1.0])) for _ in range(9)} == {"fog"}
    for bad in ([1, 1], [0, 0, 0], [1, -1, 1]):
        with pytest.raises(ValueError):
            space.sample(mask=np.array(bad, np.int8))
    with pytest.raises(ValueError):
        space.sample(probability=np.array([0.5, 0.2, 0.2]))


def test_event_sample_does_not_depend_on_hash_seed():
    code = (
        "from spatia_env.actions import EventText as E; s = E(seed=5); print([s.sample() for _ in range(9)])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1")
    ]
    assert runs[0] == runs[1]


GOOD = [
    "",
    "a red bus drives past",
    "café au lait",
    "cafe\u0301",
    "一辆公共汽车",
    "می‌خواهم",
    "🦆 falls 👩‍🚀",
    "<script>alert(1)</script>",
    "{0.__class__} %s ../../etc/passwd",
    "tabs are blanks\u00a0here",
    "x" * 256,
    "   ",
]
BAD = {
    "bytes": b"rain",
    "none": None,
    "number": 3,
    "list": ["rain"],
    "too long": "x" * 257,
    "ten megabytes": "x" * 10_000_000,
    "nul": "rain\0",
    "newline": "rain\nfog",
    "escape": "\x1b[31mred",
    "surrogate": "\ud800",
    "bidi": "abc\u202edef",
    "zero-width space": "a\u200bb",
    "unassigned": "\u0378",
    "private": "\ue000",
    "expands under normalisation": "\u0958" * 200,
}


@pytest.mark.parametrize("text", GOOD)
def test_text_that_is_an_event(text):
    assert text in EventText()
    clean = normalise_text(text)
    assert clean == clean.strip() and normalise_text(clean) == clean
    assert type(clean) is str


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_text_that_is_none(text):
    assert text not in EventText()
    with pytest.raises(PromptError):
        normalise_text(text)


def test_normalisation_joins_accents_and_strips_blanks():
    assert normalise_text(" cafe\u0301 ") == "caf\u00e9"
    assert normalise_text("\u3000 \u00a0") == ""
    assert len(normalise_text("e\u0301" * 256)) == 256


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_contains_never_raises_and_accepted_text_survives_flattening(text):
    space = EventText()
    if text in space:
        clean = normalise_text(text)
        assert spaces.unflatten(space, spaces.flatten(space, clean)) == clean


def test_path_samples_are_smooth_and_within_limits():
    space = PathBox(24, seed=2)
    for _ in range(20):
        path = space.sample().astype(np.float64)
        steps = np.linalg.inv(np.concatenate([np.eye(4)[None], path[:-1]])) @ path
        travel = np.linalg.norm(steps[:, :3, 3], axis=-1)
        assert travel.max() < 2.5 * travel.mean() + 1e-6
        assert travel[0] < travel.max() and travel[-1] < travel.max()
        assert np.abs(path[-1, :3, 3]).max() < 0.5 * np.sqrt(3)


def test_path_contains_asks_for_rigid_finite_float32():
    space = PathBox(4)
    good = path_of_twist(np.array([0.1, 0, 0.3, 0, 0.2, 0]), 4).astype(np.float32)
    assert good in space
    assert np.tile(np.eye(4, dtype=np.float32), (4, 1, 1)) in space
    bad = {name: good.copy() for name in ("nan", "inf", "scaled", "mirrored", "far", "bottom", "zero")}
    bad["nan"][1, 0, 0] = np.nan
    bad["inf"][1, 0, 3] = np.inf
    bad["scaled"][2, :3, :3] *= 1.01
    bad["mirrored"][3, :, 0] *= -1
    bad["far"][0, 2, 3] = 51
    bad["bottom"][0, 3, 0] = 0.5
    bad["zero"][2, :3, :3] = 0
    for name, path in bad.items():
        assert path not in space, name
    assert good[:3] not in space
    assert good.astype(np.float64) not in space
    assert good.tolist() not in space and None not in space


def test_path_box_has_finite_bounds():
    space = PathBox(4)
    assert np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()
