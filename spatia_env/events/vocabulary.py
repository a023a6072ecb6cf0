"""The known events: names, kinds and phrasings. Text only, nothing is loaded.

```python
lookup("a crimson ball comes rolling in")     # "red_ball_rolls"
phrasings("fog", "test")                      # wordings no training ever saw
EVENT_VOCABULARY[0]                           # "" means that nothing happens
```

Events are free text everywhere else; this table is what the simulator can act out, what training draws from
and what the detectors of the benchmark look for. Kinds: `mover` (a body that moves by physics), `condition`
(light or air; stays until its ending) and `ending` (of a condition). The order of `EVENTS` and so of
`EVENT_VOCABULARY` is only ever appended to: an index keeps its meaning.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from spatia_env.errors import PromptError

SPLITS = ("train", "dev", "test")
NUM_TRAIN, NUM_DEV, NUM_TEST = 7, 1, 2


@dataclasses.dataclass(frozen=True)
class Event:
    """One kind of event.

    Attributes:
        name: stable identifier.
        kind: "mover", "condition" or "ending".
        texts: ten phrasings: seven for training (the first is the canonical one), one dev, two test.
        ends: for an ending, the condition that it ends.
        condition_phrase: for a condition, the words that later prompts carry ("at night").
    """

    name: str
    kind: str
    texts: tuple[str, ...]
    ends: str = ""
    condition_phrase: str = ""

    @property
    def canonical(self) -> str:
        """The phrase that stands for the event."""
        return self.texts[0]


def _mover(name: str, *texts: str) -> Event:
    return Event(name, "mover", texts)


def _condition(name: str, phrase: str, *texts: str) -> Event:
    return Event(name, "condition", texts, condition_phrase=phrase)


def _ending(name: str, ends: str, *texts: str) -> Event:
    return Event(name, "ending", texts, ends=ends)


# fmt: off
EVENTS: tuple[Event, ...] = (
    _mover(
        "red_ball_rolls",
        "a red ball rolls in", "a bright red ball rolls across the floor", "a red ball comes rolling by",
        "someone rolls a red ball through", "a big red ball rolls past", "a scarlet ball rolls along the ground",
        "a crimson ball comes rolling in",
        "a red ball trundles across", "a round red thing goes rolling past", "a ruby coloured ball rolls by",
    ),
    _mover(
        "blue_box_drops",
        "a blue box drops from above", "a blue box falls down", "a large blue crate drops from the top",
        "a blue cube falls to the ground", "a bright blue box comes crashing down", "someone drops a blue box",
        "a blue crate tumbles down from above",
        "a blue package drops in", "a blue case plummets to the floor", "down comes a cobalt blue crate",
    ),
    _mover(
        "duck_falls",
        "a yellow duck falls", "a rubber duck drops from above", "a yellow toy duck falls down",
        "a big yellow duck falls to the ground", "a rubber duck comes tumbling down", "someone drops a yellow duck",
        "a bright yellow duck falls from the sky",
        "a bath duck drops to the floor", "a golden rubber duckling plunges down", "a toy duck plops down from above",
    ),
    _mover(
        "green_ball_bounces",
        "a green ball bounces", "a green ball bounces up and down", "a bright green ball comes bouncing in",
        "a green rubber ball bounces on the floor", "a bouncing green ball appears", "someone bounces a green ball",
        "a big green ball hops up and down",
        "a green ball springs off the floor", "an emerald ball goes boing", "a green sphere rebounds from the ground",
    ),
    _mover(
        "tower_topples",
        "a tower of coloured blocks topples", "a tower of blocks falls over",
        "a stack of colourful blocks topples over",
        "a tall tower of toy blocks collapses", "a colourful tower tips over", "a pile of bright blocks topples",
        "a rainbow tower of blocks comes down",
        "a column of coloured bricks keels over", "a multicoloured block tower crashes down",
        "building blocks piled high tip and tumble",
    ),
    _mover(
        "cubes_burst",
        "a stack of cyan cubes bursts apart", "turquoise cubes burst apart", "a stack of cyan cubes explodes",
        "a pile of turquoise cubes blows apart", "cyan cubes fly in all directions", "a block of cyan cubes shatters",
        "a heap of turquoise boxes explodes outwards",
        "cyan blocks scatter in a burst", "a cluster of aqua cubes goes off like a bomb",
        "teal cubes are flung apart",
    ),
    _mover(
        "car_drives",
        "a lime toy car drives past", "a lime green car drives by", "a yellow-green toy car drives across",
        "a small lime car rushes past", "a lime racing car speeds by", "a lime coloured car crosses the scene",
        "a toy car in lime green drives through",
        "a lime vehicle zooms by", "a chartreuse car races past", "a little lime automobile zips across",
    ),
    _mover(
        "robot_drives",
        "a black robot drives past", "a black robot rolls by", "a dark robot moves across the scene",
        "a small black robot drives through", "a black robot comes in and drives across", "a black droid rolls past",
        "a robot in black passes by",
        "a dark droid glides through", "a jet black machine on wheels goes by", "an ebony android trundles across",
    ),
    _mover(
        "cone_slides",
        "an orange cone slides across", "an orange traffic cone slides past", "a traffic cone slides over the floor",
        "an orange cone skids across the ground", "an orange road cone slides in",
        "someone pushes an orange cone across", "a bright orange cone glides past",
        "an orange cone slithers by", "a safety cone scoots along the floor", "a tangerine pylon skates across",
    ),
    _mover(
        "balloon_rises",
        "a purple balloon rises", "a purple balloon floats up", "a violet balloon rises into the air",
        "a big purple balloon drifts upwards", "a purple balloon goes up", "someone lets go of a purple balloon",
        "a purple balloon ascends slowly",
        "a purple party balloon lifts off", "a violet balloon soars upward", "a lilac helium balloon climbs",
    ),
    _mover(
        "balls_rain",
        "orange balls rain down", "lots of orange balls fall from above", "a shower of orange balls comes down",
        "many small orange balls drop", "it rains orange balls", "orange balls pour from above",
        "a hail of orange balls falls",
        "a bunch of orange balls tumble down", "dozens of tangerines come pelting down",
        "little orange spheres shower the place",
    ),
    _mover(
        "pink_cube_slides",
        "a pink cube slides across", "a pink box slides past", "a bright pink cube glides over the floor",
        "a magenta cube slides in", "a pink block skids across the ground", "someone pushes a pink cube across",
        "a hot pink cube slides by",
        "a pink crate slips past", "a fuchsia box skates across", "a rose coloured cube shoots along the floor",
    ),
    _condition(
        "dim", "in dim light",
        "the lights dim", "the light dims", "the lights go down", "it gets dimmer", "the lamps are turned down",
        "the light fades to half", "the brightness drops",
        "the lighting becomes faint", "someone lowers the lights", "the illumination weakens",
    ),
    _condition(
        "night", "at night",
        "night falls", "it becomes night", "it gets dark outside and blue moonlight remains", "darkness falls",
        "the sun is gone and it is night", "the night comes", "it turns to night time",
        "nightfall arrives", "midnight comes and the moon shines", "dusk deepens into night",
    ),
    _condition(
        "fog", "in fog",
        "fog rolls in", "thick fog comes up", "the air fills with fog", "a grey mist rolls in", "it becomes foggy",
        "dense fog covers everything", "white mist fills the place",
        "a haze spreads everywhere", "a bank of mist drifts in", "everything vanishes in a pale haze",
    ),
    _condition(
        "alarm", "in red alarm light",
        "a red alarm light comes on", "the light turns red", "red emergency light fills the scene",
        "the alarm goes off and everything is red", "red warning lights switch on", "everything is bathed in red light",
        "the lamps turn red",
        "a red alert lights up the place", "crimson emergency lamps flare up", "a warning glow paints everything red",
    ),
    _condition(
        "sunset", "in warm sunset light",
        "warm sunset light fills the scene", "the sun sets and the light turns golden", "golden evening light comes in",
        "the light becomes warm and orange", "a golden sunset begins", "the evening sun colours everything",
        "warm orange light spreads",
        "a golden hour glow appears", "the low sun turns it all amber", "amber evening sunshine pours in",
    ),
    _condition(
        "snow", "in falling snow",
        "snow begins to fall", "it starts to snow", "snowflakes fall", "white flakes drift down", "it is snowing now",
        "snow comes down everywhere", "a snowfall begins",
        "flakes of snow float down", "a flurry of white flakes sets in", "wintry flakes start drifting about",
    ),
    _ending(
        "dim_ends", "dim",
        "the lights come back on", "the light comes back", "the lights go up again", "it gets brighter again",
        "the lamps are turned up", "the brightness returns", "full light is restored",
        "the lighting returns to normal", "someone raises the lights again", "the illumination recovers",
    ),
    _ending(
        "night_ends", "night",
        "day breaks", "the day begins", "morning comes", "the night ends", "it becomes day again",
        "the sun comes up", "daylight returns",
        "dawn arrives", "the darkness gives way to morning", "sunrise ends the night",
    ),
    _ending(
        "fog_ends", "fog",
        "the fog clears", "the fog lifts", "the mist disappears", "the fog is gone", "the air becomes clear again",
        "the fog dissolves", "the mist clears away",
        "the haze goes away", "the murk thins and vanishes", "visibility returns as the mist parts",
    ),
    _ending(
        "alarm_ends", "alarm",
        "the alarm light goes off", "the red light goes out", "the emergency light is switched off",
        "the alarm is over", "the red light ends", "the warning lights switch off", "the light is no longer red",
        "the red alert is over", "the crimson lamps go dark", "the alarm stops and its glow disappears",
    ),
    _ending(
        "sunset_ends", "sunset",
        "the sunset ends", "the golden light fades", "the warm light goes away", "the evening glow is gone",
        "the orange light disappears", "neutral daylight replaces the sunset", "the sunset light ends",
        "the golden hour is over", "the amber glow wears off", "plain daylight takes over from the evening sun",
    ),
    _ending(
        "snow_ends", "snow",
        "the snow stops", "it stops snowing", "the snowfall ends", "no more snow falls", "the snowflakes are gone",
        "the snow is over", "the last flakes fall and the snow ends",
        "the snowing ceases", "the flurry dies away", "the sky runs out of flakes",
    ),
    _mover(
        "man_walks",
        "a man in a yellow shirt walks past", "a man walks by", "a person walks across the scene",
        "somebody in blue trousers walks through", "a small figure in yellow and blue walks past",
        "a woman in a yellow shirt walks across", "someone comes walking in",
        "a person in a yellow top strolls by", "a pedestrian goes by on foot", "somebody ambles across",
    ),
)
ELSEWHERE: tuple[str, ...] = (
    "a phone rings", "the dog barks outside", "somebody whistles a tune", "the cat sleeps on the sofa",
    "a door closes far away", "the clock strikes", "a bird sings", "the kettle boils", "a train passes in the distance",
    "a child laughs next door", "the telephone stays silent", "the guests have gone home", "the radio plays music",
    "a goldfish swims in its bowl", "the actor bows", "an aeroplane is heard", "the shop is closed", "a bell rings",
    "the gardener waters the roses", "a letter is written", "the soup gets cold", "two people talk", "the tap drips",
    "a zebra drinks from the river", "the choir stops singing", "a window is open somewhere", "the bus is late",
)
# fmt: on
"""Sentences of which nothing is to be seen: training reads them beside clips in which nothing begins."""

FALLING_EVENTS = ("snow", "snow_ends", "balls_rain")
"""Events whose clips show things at the places of `falling`."""

EVENT_VOCABULARY: tuple[str, ...] = ("", *(event.canonical for event in EVENTS))
"""Canonical phrases by index; 0 is "nothing happens". Only ever appended to."""

EVENT_NAMES: tuple[str, ...] = tuple(event.name for event in EVENTS)

_BY_NAME = {event.name: event for event in EVENTS}


def event(name: str) -> Event:
    """The event with this name.

    Raises:
        PromptError: no such event.
    """
    if name not in _BY_NAME:
        raise PromptError(f"event {name!r}: unknown; use one of {', '.join(EVENT_NAMES)}.")
    return _BY_NAME[name]


def phrasings(name: str, split: str = "train") -> tuple[str, ...]:
    """The phrasings of an event that belong to a split ("train", "dev" or "test"; disjoint).

    Raises:
        PromptError: no such event or split.
    """
    texts = event(name).texts
    held_out = NUM_TRAIN + NUM_DEV
    bounds = {"train": (0, NUM_TRAIN), "dev": (NUM_TRAIN, held_out), "test": (held_out, held_out + NUM_TEST)}
    if split not in bounds:
        raise PromptError(f"split {split!r}: use one of {', '.join(SPLITS)}.")
    low, high = bounds[split]
    return texts[low:high]


@functools.cache
def wordings() -> dict[str, Any]:
    """Further sentences, for the recogniser of `hearing`; none of them is a dev or test phrasing.

    `train`: some forty of each event; `others`: near misses of events; `elsewhere`: of nothing that is to be seen;
    `dev`: eight of each event, other things and denials, written apart and with the training phrasings alone in view.
    """
    return json.loads((Path(__file__).parent / "paraphrases.json").read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1)
def _texts() -> dict[str, str]:
    return {_normal(text): item.name for item in EVENTS for text in item.texts}


def _normal(text: str) -> str:
    return " ".join(text.lower().replace(".", " ").replace("!", " ").split())


def lookup(text: str) -> str | None:
    """The name of the event that has exactly this phrasing (case, spaces and full stops aside), or None."""
    return _texts().get(_normal(text))
