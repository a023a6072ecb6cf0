"""What tests of world files share."""

import dataclasses
import sqlite3

import torch

from maps import same_map
from spatia_env.memory.storage import BundleState


def assert_same(a: BundleState, b: BundleState) -> None:
    assert same_map(a.memory, b.memory)
    assert dataclasses.replace(a.memory, blocks={}) == dataclasses.replace(b.memory, blocks={})
    assert (a.meta, a.settings) == (b.meta, b.settings)
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        assert array.dtype == b.arrays[name].dtype and array.shape == b.arrays[name].shape
        assert array.tobytes() == b.arrays[name].tobytes()
    assert len(a.keyframes) == len(b.keyframes)
    for one, other in zip(a.keyframes, b.keyframes, strict=True):
        assert one.step == other.step
        for name in ("frame", "depth", "c2w"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)


def damage_content(path) -> None:
    with sqlite3.connect(path) as base:
        row, data = base.execute("SELECT id, data FROM contents ORDER BY length(data) DESC").fetchone()
        base.execute("UPDATE contents SET data = ? WHERE id = ?", (data[:-9] + b"\0" * 9, row))
    base.close()
