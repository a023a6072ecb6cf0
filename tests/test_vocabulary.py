"""The table of events: complete, disjoint, ordered, and light to import."""

import subprocess
import sys

import pytest

from spatia_env.errors import PromptError
from spatia_env.events import vocabulary
from spatia_env.events.vocabulary import EVENT_NAMES, EVENT_VOCABULARY, EVENTS, lookup, phrasings

# Frozen: an index of a released vocabulary means the same for ever. Only append.
FIRST_NAMES = (
    "red_ball_rolls", "blue_box_drops", "duck_falls", "green_ball_bounces", "tower_topples", "cubes_burst",
    "car_drives", "robot_drives", "cone_slides", "balloon_rises", "balls_rain", "pink_cube_slides",
    "dim", "night", "fog", "alarm", "sunset", "snow",
    "dim_ends", "night_ends", "fog_ends", "alarm_ends", "sunset_ends", "snow_ends",
)  # fmt: skip


def test_order_is_only_appended_to():
    assert EVENT_NAMES[: len(FIRST_NAMES)] == FIRST_NAMES
    assert EVENT_VOCABULARY[0] == "" and EVENT_VOCABULARY[1] == "a red ball rolls in"
    assert len(EVENT_VOCABULARY) == len(EVENTS) + 1 == len(set(EVENT_VOCABULARY))


def test_phrasings_are_enough_and_disjoint():
    seen: dict[str, str] = {}
    for item in EVENTS:
        sizes = [len(phrasings(item.name, split)) for split in vocabulary.SPLITS]
        assert sizes == [7, 1, 2] and sum(sizes) == len(item.texts)
        assert phrasings(item.name)[0] == item.canonical
        for text in item.texts:
            assert text == text.lower().strip() and text not in seen, (text, seen.get(text))
            seen[text] = item.name
            assert lookup(text) == item.name


def test_lookup_forgives_case_and_stops_but_not_words():
    assert lookup("  A red  ball rolls in. ") == "red_ball_rolls"
    assert lookup("a red ball") is None and lookup("") is None


def test_endings_name_conditions():
    conditions = {item.name for item in EVENTS if item.kind == "condition"}
    assert {item.ends for item in EVENTS if item.kind == "ending"} == conditions
    for item in EVENTS:
        assert bool(item.condition_phrase) == (item.kind == "condition")
        assert bool(item.ends) == (item.kind == "ending")


def test_unknown_names_are_errors():
    with pytest.raises(PromptError, match="red_ball_rolls"):
        vocabulary.event("a red ball")
    with pytest.raises(PromptError, match="train"):
        phrasings("fog", "validation")


def test_import_loads_nothing_heavy():
    heavy = "('torch', 'pybullet', 'open3d')"
    code = f"import sys, spatia_env.events.vocabulary; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
