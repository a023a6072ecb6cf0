"""World files whose hashes are right and whose content is not: a typed error, never a bare one."""

import contextlib
import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spatia_env.errors import SpatiaError, WorldFormatError
from spatia_env.memory.storage import save_bundle
from spatia_env.world.saving import ARRAYS, META, to_bundle
from spatia_env.world.world import World
from worlds import room_world


def written(tmp_path, arrays=None, meta=None, keyframes=None):
    bundle = to_bundle(room_world().state)
    bundle = dataclasses.replace(
        bundle,
        arrays={k: v for k, v in {**bundle.arrays, **(arrays or {})}.items() if v is not None},
        meta={k: v for k, v in {**copy.deepcopy(bundle.meta), **(meta or {})}.items() if v != "gone"},
        keyframes=bundle.keyframes if keyframes is None else keyframes,
    )
    path = tmp_path / "w.spatia"
    save_bundle(path, bundle)
    return path


def test_a_sound_world_is_loaded(tmp_path):
    loaded, state = World.load(written(tmp_path)).state, room_world().state
    for name in ("c2w", "start_c2w", "K", "preceding_frames", "depth", "drift"):
        assert torch.equal(getattr(loaded, name), getattr(state, name))
    for name in ("size", "prompt", "seed", "step", "moving", "ground", "conditions", "ledger"):
        assert getattr(loaded, name) == getattr(state, name)


def test_a_world_from_before_the_drift_is_loaded(tmp_path):
    assert torch.equal(World.load(written(tmp_path, {"drift": None})).state.drift, torch.eye(4))


@pytest.mark.parametrize("name", [*ARRAYS, *META, "another"])
def test_missing_and_unknown_entries(name, tmp_path):
    gone = {"arrays": {name: None}} if name in ARRAYS else {"meta": {name: "gone"}}
    path = written(tmp_path, **(gone if name != "another" else {"meta": {"another": 1}}))
    with pytest.raises(WorldFormatError, match=name) as caught:
        World.load(path)
    assert str(path) in str(caught.value)


F4 = np.eye(4, dtype=np.float32)
NAN4, FAR4, WIDE = F4.copy(), F4.copy(), np.eye(3, dtype=np.float32)
NAN4[0, 3], FAR4[2, 3] = np.nan, 1e7
ROW = {"step": 1, "text": "", "name": "", "kind": ""}
LIES = {
    "pose of doubles": {"arrays": {"c2w": np.eye(4)}}, "pose shape": {"arrays": {"c2w": F4[:3]}},
    "nan pose": {"arrays": {"c2w": NAN4}}, "far pose": {"arrays": {"start_c2w": FAR4}},
    "skewed pose": {"arrays": {"c2w": 2 * F4}}, "lens": {"arrays": {"K": -WIDE}},
    "lens shape": {"arrays": {"K": F4}}, "frames": {"arrays": {"preceding_frames": np.zeros((4, 9, 9, 3), np.uint8)}},
    "no frames": {"arrays": {"preceding_frames": np.zeros((0, 24, 32, 3), np.uint8)}},
    "float frames": {"arrays": {"preceding_frames": np.zeros((4, 24, 32, 3), np.float32)}},
    "depth shape": {"arrays": {"depth": np.zeros((3, 3), np.float32)}},
    "nan depth": {"arrays": {"depth": np.full((24, 32), np.nan, np.float32)}},
    "negative depth": {"arrays": {"depth": np.full((24, 32), -1, np.float32)}},
    "size": {"meta": {"size": [24]}}, "size of text": {"meta": {"size": ["a", "b"]}},
    "huge size": {"meta": {"size": [2**31, 1]}},
    "size list": {"meta": {"size": {}}}, "prompt": {"meta": {"prompt": 3}},
    "long prompt": {"meta": {"prompt": "a" * 200_000}},
    "surrogate": {"meta": {"prompt": "\ud800"}}, "seed": {"meta": {"seed": -1}}, "seed text": {"meta": {"seed": "1"}},
    "seed bool": {"meta": {"seed": True}}, "step": {"meta": {"step": 2**31}}, "step float": {"meta": {"step": 1.5}},
    "moving": {"meta": {"moving": 1}}, "ground": {"meta": {"ground": "low"}}, "far ground": {"meta": {"ground": 1e300}},
    "conditions": {"meta": {"conditions": 5}}, "condition": {"meta": {"conditions": [["night"]]}},
    "condition of numbers": {"meta": {"conditions": [[1, 2]]}}, "ledger": {"meta": {"ledger": {}}},
    "ledger row": {"meta": {"ledger": [1]}}, "ledger columns": {"meta": {"ledger": [{**ROW, "more": 1}]}},
    "ledger lacks": {"meta": {"ledger": [{"step": 1}]}}, "ledger step": {"meta": {"ledger": [{**ROW, "step": "1"}]}},
    "ledger text": {"meta": {"ledger": [{**ROW, "text": None}]}},
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_content_that_no_world_has(name, tmp_path):
    with pytest.raises(WorldFormatError, match="cannot be used"):
        World.load(written(tmp_path, **LIES[name]))


def test_keyframes_that_no_world_has(tmp_path):
    good = room_world().state.keyframes[0]
    for bad in (
        dataclasses.replace(good, frame=good.frame[:8].clone(), depth=good.depth[:8].clone()),
        dataclasses.replace(good, depth=good.depth * float("nan")),
        dataclasses.replace(good, c2w=torch.zeros(4, 4)),
    ):
        (tmp_path / "w.spatia").unlink(missing_ok=True)
        with pytest.raises(WorldFormatError, match="keyframe"):
            World.load(written(tmp_path, keyframes=[good, bad]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(META), value=JSON)
def test_any_json_in_any_place_is_loaded_or_refused(name, value, tmp_path):
    (tmp_path / "w.spatia").unlink(missing_ok=True)
    with contextlib.suppress(SpatiaError):
        World.load(written(tmp_path, meta={name: value}))
