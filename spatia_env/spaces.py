"""The two spaces Gymnasium lacks: free event text, and paths of rigid camera poses.

Both behave as Gymnasium's own in sampling, seeding, flattening, batching, pickling and JSON. This module
knows no environment; `actions` decodes what these spaces hold.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from spatia_env.errors import PromptError
from spatia_env.events.vocabulary import EVENT_VOCABULARY
from spatia_env.poses import rigid_problem, se3_exp

MAX_EVENT_LENGTH = 256
MAX_PROMPT_LENGTH = 2000
MAX_REACH = 50.0
"""Metres that a path may lead from the last pose within one clip."""

_ASCII = "".join(map(chr, range(0x20, 0x7F)))
_JOINERS = "\u200c\u200d"  # invisible, but Persian, Indic scripts and emoji are written with them
_CODEPOINTS = 0x110000


def normalise_text(text: Any, what: str = "event", max_length: int = MAX_EVENT_LENGTH) -> str:
    """Text in NFC form without blanks around it; blank text becomes "".

    Args:
        text: What the user typed.
        what: What to call it in an error ("event", "prompt").
        max_length: Longest accepted length, characters after normalisation.

    Returns:
        A plain `str` of printable characters.

    Raises:
        PromptError: If it is not a `str`, is too long, or has control, bidirectional or other characters that
            do not print.
    """
    if not isinstance(text, str):
        raise PromptError(f"{what}: expected text (str), got {type(text).__name__}; use '' for none.")
    if len(text) > 4 * max_length:  # before any work on it: NFC shortens a text by less than that
        raise PromptError(f"{what}: {len(text)} characters; shorten it to {max_length}.")
    for position, character in enumerate(text):
        if not is_printable(character):
            name = unicodedata.name(character, "control or unassigned character")
            raise PromptError(
                f"{what}: U+{ord(character):04X} ({name}) at position {position} does not print; remove it."
            )
    blanks_as_space = "".join(" " if character.isspace() else character for character in text)
    text = unicodedata.normalize("NFC", blanks_as_space).strip()
    if len(text) > max_length:
        raise PromptError(f"{what}: {len(text)} characters; shorten it to {max_length}.")
    return text


def is_printable(character: str) -> bool:
    """Whether an event may hold this character: it prints, is a blank, or joins letters of a script."""
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


class _Characters(AbstractSet[str]):
    """Every printable character, without storing 150,000 of them."""

    def __contains__(self, character: object) -> bool:
        return isinstance(character, str) and len(character) == 1 and is_printable(character)

    def __iter__(self) -> Iterator[str]:
        return filter(is_printable, map(chr, range(_CODEPOINTS)))

    def __len__(self) -> int:
        return _CODEPOINTS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Characters)

    def __hash__(self) -> int:
        return hash(_Characters)


class _Codepoints(Sequence[str]):
    """Index to character: the code point itself."""

    def __getitem__(self, index: Any) -> Any:
        return chr(index)

    def __len__(self) -> int:
        return _CODEPOINTS


class EventText(spaces.Text):
    """Free text for what happens next: up to 256 printable characters of any script, "" for nothing.

    `sample()` draws from `vocabulary`: nothing half of the time, else one of its phrases. Flattened, a text
    is its code points, padded with 0x110000. Gymnasium's `Text` lists its characters; here they are too many
    to list, so `characters` (which other tools store) names only the ASCII ones.

    Args:
        max_length: Longest accepted length, characters after NFC normalisation.
        vocabulary: Phrases to sample; the first is "".
        seed: Seed of the sampler.
    """

    def __init__(
        self,
        max_length: int = MAX_EVENT_LENGTH,
        vocabulary: Iterable[str] = EVENT_VOCABULARY,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(max_length, min_length=0, charset=_ASCII, seed=seed)
        self.vocabulary = tuple(normalise_text(phrase, "vocabulary", max_length) for phrase in vocabulary)
        if not self.vocabulary or self.vocabulary[0] != "":
            raise ValueError("EventText: the vocabulary begins with '' (no event).")

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a phrase of the vocabulary.

        Args:
            mask: int8 [len(vocabulary)]: 1 for each phrase that may be drawn, all equally likely.
            probability: float64 [len(vocabulary)] that sums to 1, in place of a mask.

        Raises:
            ValueError: If both are given, or one has the wrong length or sum.
        """
        weights = self._weights(mask, probability)
        return self.vocabulary[int(self.np_random.choice(len(self.vocabulary), p=weights))]

    def _weights(self, mask: Any, probability: Any) -> np.ndarray:
        count = len(self.vocabulary)
        if mask is not None and probability is not None:
            raise ValueError("EventText.sample: give `mask` or `probability`, not both.")
        if mask is None and probability is None:
            if count == 1:
                return np.ones(1)
            return np.array([0.5] + [0.5 / (count - 1)] * (count - 1))
        given = np.asarray(mask if mask is not None else probability, dtype=np.float64)
        if given.shape != (count,) or (given < 0).any() or given.sum() <= 0:
            raise ValueError(f"EventText.sample: expected {count} non-negative weights, one a phrase.")
        if probability is not None and not np.isclose(given.sum(), 1):
            raise ValueError(f"EventText.sample: `probability` sums to {given.sum():.4g}, not to 1.")
        return given / given.sum()

    def contains(self, x: Any) -> bool:
        """Whether `x` is text that the environment accepts as an event."""
        try:
            normalise_text(x, max_length=self.max_length)
        except PromptError:
            return False
        return True

    @property
    def character_set(self) -> Any:
        """Every printable character, as a set that is not stored."""
        return _Characters()

    @property
    def character_list(self) -> Any:
        """Characters by index, which is their code point."""
        return _Codepoints()

    def character_index(self, char: str) -> np.int32:
        """The code point of a character."""
        return np.int32(ord(char))

    def __repr__(self) -> str:
        return f"EventText({self.max_length}, {len(self.vocabulary)} phrases)"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, EventText)
            and self.max_length == other.max_length
            and self.vocabulary == other.vocabulary
        )


class PathBox(spaces.Box):
    """Camera paths [*batch, T, 4, 4] float32: `c2w` of each new frame relative to the last pose.

    Bounds are finite (entries of rotations in [-1, 1], centres within `reach` metres along each axis).
    `contains` also asks for rigid, right-handed transforms; `sample()` draws smooth ones: a motion within
    `max_translation` and `max_rotation` that begins and ends at rest.

    Args:
        num_frames: T, frames per clip.
        max_translation: Metres of a sampled path along each axis.
        max_rotation: Degrees of a sampled path about each axis.
        reach: Bound on the camera's centre, metres.
        batch: Leading axes; () for one environment.
        seed: Seed of the sampler.
    """

    def __init__(
        self,
        num_frames: int,
        max_translation: float = 0.5,
        max_rotation: float = 30.0,
        reach: float = MAX_REACH,
        batch: tuple[int, ...] = (),
        seed: int | np.random.Generator | None = None,
    ) -> None:
        bound = np.ones((*batch, num_frames, 4, 4), dtype=np.float32)
        bound[..., :3, 3] = reach
        super().__init__(-bound, bound, dtype=np.float32, seed=seed)
        self.num_frames = num_frames
        self.max_translation = max_translation
        self.max_rotation = max_rotation
        self.reach = reach
        self.batch = tuple(batch)

    def sample(self, mask: None = None, probability: None = None) -> np.ndarray:
        """Draw a smooth rigid path, float32 [*batch, T, 4, 4].

        Raises:
            ValueError: If a mask or a probability is given: a continuous space takes none.
        """
        if mask is not None or probability is not None:
            raise ValueError("PathBox.sample: takes neither mask nor probability.")
        limits = np.array([self.max_translation] * 3 + [np.radians(self.max_rotation)] * 3)
        twist = self.np_random.uniform(-limits, limits, size=(*self.batch, 6))
        fractions = np.arange(1, self.num_frames + 1) / self.num_frames
        ease = fractions**2 * (3 - 2 * fractions)
        return se3_exp(ease[:, None] * twist[..., None, :]).astype(np.float32)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a float32 array of finite rigid transforms within the bounds."""
        if not isinstance(x, np.ndarray):
            return False
        # A rotation may exceed 1 by a rounding error of float32, which `rigid_problem` allows for.
        return (
            x.shape == self.shape
            and np.can_cast(x.dtype, self.dtype)
            and rigid_problem(x) == ""
            and bool((np.abs(x[..., :3, 3]) <= self.reach).all())
        )

    def __repr__(self) -> str:
        return f"PathBox({self.num_frames}{f', batch={self.batch}' if self.batch else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathBox) and self._key() == other._key()

    def _key(self) -> tuple[Any, ...]:
        return (self.num_frames, self.max_translation, self.max_rotation, self.reach, self.batch)


@batch_space.register(PathBox)
def _batch_path(space: PathBox, n: int = 1) -> PathBox:
    # Gymnasium would make a plain Box, whose samples are not rigid.
    return PathBox(
        space.num_frames,
        space.max_translation,
        space.max_rotation,
        space.reach,
        batch=(n, *space.batch),
        seed=deepcopy(space.np_random),
    )
