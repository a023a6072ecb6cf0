"""What is asked for in suite `events`: single events, two at once, denials, and things that are not there."""

from dataclasses import dataclass

from spatia_env.errors import ActionError
from spatia_env.events.vocabulary import EVENTS, Event, event, phrasings

QUIET_CLIPS = 2
TWINS = 4
"""Movers a scene whose clip is also played without the event, to see what it does to the background."""
PAIRS = (
    ("red_ball_rolls", "blue_box_drops"),
    ("duck_falls", "cone_slides"),
    ("green_ball_bounces", "pink_cube_slides"),
    ("car_drives", "balloon_rises"),
    ("robot_drives", "red_ball_rolls"),
    ("blue_box_drops", "snow"),
    ("pink_cube_slides", "snow"),
    ("duck_falls", "snow"),
)
JOINS = {"dev": "{} while {}", "test": "{} and, at the same time, {}"}
NOUNS = {
    "red_ball_rolls": "red ball", "blue_box_drops": "blue box", "duck_falls": "yellow duck",
    "green_ball_bounces": "green ball", "car_drives": "lime toy car", "robot_drives": "black robot",
    "cone_slides": "orange cone", "balloon_rises": "purple balloon", "pink_cube_slides": "pink cube", "fog": "fog",
    "snow": "snow",
}  # fmt: skip
DENIALS = {
    "dev": ("there is no {}", "no {} appears"),
    "test": ("nothing happens and no {} comes", "not a trace of any {}"),
}
ABSENT = {
    "dev": ("the elephant leaves", "the piano lid closes", "the fountain is switched off", "the parrot flies away"),
    "test": ("the horse walks out", "the curtain is drawn", "the chimney stops smoking", "the train departs"),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One clip to judge.

    Attributes:
        events: Names of what should happen, none for a clip in which nothing should.
        text: What is asked for.
        kind: "mover", "condition", "ending", "several", "denied", "absent" or "quiet".
        follows: Whether it goes on from the last clip.
        twin: Whether it is also played without the event.
    """

    events: tuple[str, ...]
    text: str
    kind: str
    follows: bool = False
    twin: bool = False

    @property
    def name(self) -> str:
        """The event's name, those of several joined, "" where nothing should happen."""
        return "+".join(self.events)


def tasks(
    names: tuple[str, ...] = (), split: str = "dev", scene: int | None = None, phrasing: int = 0
) -> list[Task]:
    """The clips of a scene in order: movers; conditions, each followed by its ending; quiet clips.

    Args:
        names: Only these events; all by default. An ending brings its condition along.
        split: Of the wordings.
        scene: With a scene's seed, events in twos, denials and absent things follow, which differ between scenes.
        phrasing: Which of the split's wordings; those that there are not begin again at the first.

    Raises:
        ActionError: Events that do not exist.
    """
    known = [item.name for item in EVENTS]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ActionError(f"events: {', '.join(unknown)} do not exist; there are {', '.join(known)}.")
    wanted = set(names or known)

    def task(item: Event, follows: bool = False) -> Task:
        texts = phrasings(item.name, split)
        return Task((item.name,), texts[phrasing % len(texts)], item.kind, follows)

    out = [task(e) for e in EVENTS if e.kind == "mover" and e.name in wanted]
    if scene is not None and out:
        chosen = {(scene + 3 * i) % len(out) for i in range(TWINS)}
        out = [Task(t.events, t.text, t.kind, twin=i in chosen) for i, t in enumerate(out)]
    endings = {item.ends: item for item in EVENTS if item.kind == "ending"}
    for item in EVENTS:
        ending = endings.get(item.name)
        if item.kind == "condition" and (item.name in wanted or (ending and ending.name in wanted)):
            out.append(task(item))
            if ending and ending.name in wanted:
                out.append(task(ending, follows=True))
    out += [Task((), "", "quiet")] * QUIET_CLIPS
    return out + ([] if scene is None or names else hard_tasks(scene, split))


def hard_tasks(scene: int, split: str) -> list[Task]:
    """Two clips each of: two events at once, a denial, something that is not there."""
    out = []
    for i in range(2):
        pair = PAIRS[(scene + 4 * i) % len(PAIRS)]
        words = [phrasings(name, split)[(scene + i) % len(phrasings(name, split))] for name in pair]
        out.append(Task(pair, JOINS[split].format(*words), "several"))
    nouns = list(NOUNS.values())
    for i, template in enumerate(DENIALS[split]):
        out.append(Task((), template.format(nouns[(scene + 5 * i) % len(nouns)]), "denied"))
    endings = [item.name for item in EVENTS if item.kind == "ending"]
    name = endings[scene % len(endings)]
    out.append(Task((), phrasings(event(name).name, split)[0], "absent"))
    out.append(Task((), ABSENT[split][scene % len(ABSENT[split])], "absent"))
    return out
