"""Encoded episodes and the batches of clips that the world model learns from.

Everything at latent size is computed once (`encode`) and kept in memory: 0.7 MB an episode. Pixels are read from the
episode files, and only those frames that a step decodes.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.events import vocabulary
from spatia_env.models.conditioning import Conditions, control_latents
from spatia_env.models.spatial_conditioning import with_falling, with_preceding, without_points
from spatia_env.models.text_encoder import SentenceTextEncoder, compose_text
from spatia_env.train.episodes import FRAMES, PRECEDING, EpisodeFile, clip_span, to_model

OWN_WORDS_SHARE = 0.3
"""Share of clips whose event is read in the words that the episode drew, not in its canonical ones."""
ELSEWHERE_SHARE = 0.3
"""Share of quiet clips that are read beside a sentence of which nothing is to be seen."""
QUIET_SHARE = 0.25
"""Share of drawn clips in which no event starts; of the others every event has its share by `draws`."""
MANY_BODIES = ("snow", "balls_rain", "tower_topples", "man_walks")
"""Events of many small parts, which take longer to learn than one body."""
SMALL_THINGS, SMALL_THINGS_PICKS = "snow", 2
"""Frames of clips whose text holds this word are decoded so many times as often: only the decoder draws flakes."""
MOVER_WEIGHT = 8.0
"""How much more an error counts on what moves: movers cover a few percent of the pixels."""


@dataclass(frozen=True)
class Pixels:
    """Frames of a batch that are decoded, N of them; pixels in [-1, 1].

    Attributes:
        row: i64 [N], the clip of the batch.
        time: i64 [N], the frame of the clip.
        frames: true frames [N, 3, H, W].
        render: what the map shows [N, 3, H, W].
        known: where it shows something, 0 or 1 [N, 1, H, W].
        weight: of the error [N, 1, H, W].
        moving: what moves, bool [N, H, W].
        falling: where flakes and balls would be, 0 or 1 [N, 2, H, W].
        continued: how surfaces go on beyond the render [N, 4, H, W].
    """

    row: Tensor
    time: Tensor
    frames: Tensor
    render: Tensor
    known: Tensor
    weight: Tensor
    moving: Tensor
    falling: Tensor
    continued: Tensor


@dataclass(frozen=True)
class Batch:
    """Clips to learn from: conditions, clean latents [B, C, 8, h, w], weight of their errors [B, 1, 8, h, w]."""

    conditions: Conditions
    clean: Tensor
    weight: Tensor
    pixels: Pixels


class EncodedEpisode:
    """One episode at latent size, in memory; pixels stay in the file."""

    def __init__(self, path: Path) -> None:
        latents = load_file(path.with_suffix(".latents"))
        self.frames, self.render = latents["frames"], latents["render"]
        self.planes, self.moving = latents["planes"], latents["moving"]
        self.places, self.bits = latents["places"], latents["falling"]
        # Of a played episode (`rollouts`): its own frames are given, and not all of the truth is asked for.
        self.own, self.trust = latents.get("own", self.frames), latents.get("trust")
        self.file = EpisodeFile(path)
        self.beyond = _open_continued(path)
        self.clips = self.file.meta["clips"]
        self.references = self.file.get("references")

    def falling(self, frames: slice) -> Tensor:
        """Where flakes and balls would be in frames of the clips, 0 or 1 [n, 2, H, W]."""
        return torch.from_numpy(np.unpackbits(self.bits[frames].numpy(), axis=-1)).float()

    def continued(self, clip: int, time: int) -> Tensor:
        """How surfaces go on beyond the render of a frame of a clip [4, H, W] (`Continued.planes`)."""
        values = self.beyond[clip, time].movedim(-1, 0).float() / 255
        return torch.cat([(2 * values[:3] - 1) * (values[3:] > 0), values[3:]])


def _open_continued(path: Path) -> Any:
    beside = path.with_suffix(".continued")
    if not beside.exists():
        raise ActionError(f"{beside} is missing; run `spatia train encode` for its folder again.")
    return safe_open(beside, framework="pt").get_slice("continued")


class ClipStore:
    """The encoded episodes of some folders; `refresh` takes in those that have come since."""

    def __init__(self, *folders: Path, limit: int | None = None) -> None:
        self.folders, self.limit = folders, limit
        self.episodes: dict[Path, EncodedEpisode] = {}
        self.by_event: dict[str, list[tuple[EncodedEpisode, int]]] = {}
        self.encoder = SentenceTextEncoder()
        self.refresh()

    def refresh(self) -> None:
        """Read what has been encoded since the last call.

        Raises:
            ActionError: The folder has no encoded episodes.
        """
        files = [p for folder in self.folders for p in sorted(folder.glob("*.safetensors"))[: self.limit]]
        for path in files:
            if path not in self.episodes and path.with_suffix(".latents").exists():
                self.episodes[path] = episode = EncodedEpisode(path)
                for number, clip in enumerate(episode.clips):
                    self.by_event.setdefault(clip["event"], []).append((episode, number))
        if not self.episodes:
            raise ActionError(f"{self.folders[0]} has no encoded episodes; run `spatia train encode` first.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the episodes' frames in pixels."""
        return next(iter(self.episodes.values())).file.size[1:]

    def draw(self, count: int, rng: np.random.Generator) -> list[tuple[EncodedEpisode, int]]:
        """Random clips: a share in which nothing begins, and every event as often as any other with its `draws`."""
        events = [name for name in sorted(self.by_event) if name for _ in range(draws(name))]
        chosen = []
        for _ in range(count):
            quiet = not events or ("" in self.by_event and rng.random() < QUIET_SHARE)
            clips = self.by_event["" if quiet else events[int(rng.integers(len(events)))]]
            chosen.append(clips[int(rng.integers(len(clips)))])
        return chosen


def draws(name: str) -> int:
    """How often an event is drawn where light and air are drawn once: movers, which must find a place, more often."""
    if name in MANY_BODIES:
        return 4
    return 2 if vocabulary.event(name).kind == "mover" else 1


def training_batches(
    store: ClipStore,
    batch: int,
    pixel_frames: int,
    forget_share: float,
    blank: Tensor,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Endless random batches.

    Args:
        store: Encoded episodes.
        batch: Clips in each.
        pixel_frames: Frames of each batch whose pixels come along.
        forget_share: Share of clips that lose the map's render, and as many that lose the references.
        blank: Latents [C, h, w] of a black picture, which is what an empty map looks like.
        rng: Draws everything.
    """
    for step in itertools.count(1):
        if step % 100 == 0:
            store.refresh()
        clips = store.draw(batch, rng)
        forgets = [bool(rng.random() < forget_share) for _ in clips]
        rows = [latent_row(*clip) | {"text": draw_text(clip[0].clips[clip[1]], rng)} for clip in clips]
        rows = [_forget(row, lost, forget_share, blank, rng) for row, lost in zip(rows, forgets, strict=True)]
        picks = draw_picks([clip[0].clips[clip[1]]["text_short"] for clip in clips], pixel_frames, rng)
        yield assemble(store, rows, read_pixels(clips, picks, forgets), rng)


def draw_picks(texts: list[str], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Which frames (clip of the batch, frame of the clip) of clips with these texts are decoded."""
    weights = np.array([SMALL_THINGS_PICKS if SMALL_THINGS in text else 1 for text in texts], dtype=float)
    rows = rng.choice(len(texts), count, p=weights / weights.sum())
    return [(int(row), int(rng.integers(FRAMES))) for row in rows]


def dev_batches(store: ClipStore, size: int = 6) -> list[Batch]:
    """Every clip of the store's episodes in order, with all of its pixels and nothing random."""
    clips = [(e, number) for e in store.episodes.values() for number in range(len(e.clips))]
    batches = []
    for begin in range(0, len(clips), size):
        part = clips[begin : begin + size]
        picks = [(row, time) for row in range(len(part)) for time in range(FRAMES)]
        rows = [latent_row(*clip) for clip in part]
        batches.append(assemble(store, rows, read_pixels(part, picks), None))
    return batches


def known_words(clip: dict[str, Any], short: bool = False) -> str:
    """A clip's text with its events in canonical words, as `ledger.listen` hands it to the model.

    Args:
        clip: Its entry in the episode's `meta`.
        short: Without the scene's prompt.
    """
    text = clip["text_short" if short else "text"]
    names = [name for name in (clip["event"], clip.get("also", "")) if name]
    if not names:
        return text
    asked = compose_text("", (), clip["event_text"])
    return ". ".join(vocabulary.event(name).canonical for name in names) + text.removeprefix(asked)


def draw_text(clip: dict[str, Any], rng: np.random.Generator) -> str:
    """A text for a clip to be trained with: mostly in known words, half of them without the scene's prompt."""
    short = bool(rng.random() < 0.5)
    if not clip["event"] and rng.random() < ELSEWHERE_SHARE:
        elsewhere = vocabulary.ELSEWHERE[int(rng.integers(len(vocabulary.ELSEWHERE)))]
        return compose_text(clip["text_short" if short else "text"], (), elsewhere)
    if rng.random() < OWN_WORDS_SHARE:
        return clip["text_short" if short else "text"]
    return known_words(clip, short)


def latent_row(episode: EncodedEpisode, clip: int) -> dict:
    """The latents of one clip, f32, and its text."""
    span = clip_span(clip)
    rendered = slice(FRAMES * clip, FRAMES * (clip + 1))
    before = [max(0, i) for i in range(span.start - PRECEDING, span.start)]
    # The root of what share of a latent pixel moves: a flake covers little of it, and would count for nothing.
    weight = 1 + MOVER_WEIGHT * episode.moving[span].float().sqrt()[None]
    if episode.trust is not None:
        weight = weight * episode.trust[rendered].float()[None]
    return {
        "text": known_words(episode.clips[clip]),
        "clean": episode.frames[span].float().transpose(0, 1),
        "preceding": episode.own[before].float().transpose(0, 1),
        "references": episode.own[episode.references[clip]].float().transpose(0, 1),
        "render": episode.render[rendered].float().transpose(0, 1),
        "planes": episode.planes[rendered].float().transpose(0, 1),
        "places": episode.places[rendered].float().transpose(0, 1),
        "falling": episode.falling(rendered).transpose(0, 1),
        "weight": weight,
    }


def read_pixels(
    clips: list[tuple[EncodedEpisode, int]], picks: list[tuple[int, int]], forgets: list[bool] | None = None
) -> Pixels:
    """The pixels of frames `picks` (clip of the batch, frame of the clip); a map that is forgotten is black."""
    rows = [
        _read_frame(*clips[row], time, lost=bool(forgets and forgets[row]))
        | {"row": torch.tensor(row), "time": torch.tensor(time)}
        for row, time in picks
    ]
    return Pixels(**{f.name: torch.stack([row[f.name] for row in rows]) for f in fields(Pixels)})


def _read_frame(episode: EncodedEpisode, clip: int, time: int, lost: bool) -> dict[str, Tensor]:
    """One frame of `Pixels`."""
    frame, file = 1 + FRAMES * clip + time, episode.file
    moving = file.get("dynamic", frame)
    given = {
        "render": to_model(file.get("render", clip, time)),
        "known": file.get("known", clip, time).float()[None],
        "continued": episode.continued(clip, time),
    }
    if lost:
        given = {name: torch.full_like(t, -1.0 if name == "render" else 0.0) for name, t in given.items()}
    weight = 1 + MOVER_WEIGHT * moving.float()[None]
    return given | {
        "frames": to_model(file.get("frames", frame)),
        "weight": weight if episode.trust is None else weight * file.get("trust", clip, time).float(),
        "moving": moving,
        "falling": episode.falling(slice(frame - 1, frame))[0],
    }


def assemble(store: ClipStore, rows: list[dict], pixels: Pixels, rng: np.random.Generator | None) -> Batch:
    """A batch of rows; with `rng`, conditions get noise: at play they come from the model's own earlier clips."""
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "text"}
    if rng is not None:
        stacked = _disturb(stacked, rng)
    control = control_latents(stacked["preceding"], stacked["render"], stacked["planes"])
    texts = store.encoder([row["text"] for row in rows])
    places = with_preceding(with_falling(stacked["places"], stacked["falling"]), PRECEDING)
    conditions = Conditions(texts, stacked["references"], stacked["preceding"], control, places)
    return Batch(conditions, stacked["clean"], stacked["weight"], pixels)


def _forget(row: dict, lost: bool, share: float, blank: Tensor, rng: np.random.Generator) -> dict:
    """A row without the map's render, or without references (condition dropout)."""
    out = dict(row)
    if lost:
        out["render"] = blank[:, None].expand_as(row["render"])
        out["planes"] = torch.zeros_like(row["planes"])
        out["places"] = without_points(row["places"])
    if rng.random() < share:
        out["references"] = row["preceding"][:, -1:].expand_as(row["references"])
    return out


def _disturb(stacked: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    out = dict(stacked)
    for name in ("preceding", "references", "render"):
        amount = 0.3 * torch.rand(len(stacked[name]), 1, 1, 1, 1, generator=generator) ** 2
        out[name] = stacked[name] + amount * torch.randn(stacked[name].shape, generator=generator)
    return out
