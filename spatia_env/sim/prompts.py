"""Describes a scene in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spatia_env.sim.items import Item
from spatia_env.sim.textures import NAMES, PLASTERS, pick_colour, texture_rng

if TYPE_CHECKING:
    from spatia_env.sim.layout import Decoration


def tone_word(texture_id: str) -> str:
    """A plain colour word for a plain wall."""
    r, g, b = pick_colour(texture_rng(texture_id), PLASTERS)
    if max(r, g, b) - min(r, g, b) < 18:
        return "white" if (r + g + b) / 3 > 180 else "grey"
    if b >= max(r, g):
        return "pale blue"
    return "pale green" if g > r else ("beige" if g > b + 6 else "pale pink")


def surface_phrase(texture_id: str) -> str:
    """The adjective of a surface: "wooden", "brick", "white"..."""
    kind = {"photo:grass": "grass", "photo:gravel": "gravel"}.get(texture_id, texture_id.rsplit("-", 1)[0])
    return tone_word(texture_id) if kind == "plaster" else NAMES[kind]


def describe(
    outdoor: bool,
    floor: str,
    wall: str,
    fence: str,
    items: tuple[Item, ...],
    decorations: tuple[Decoration, ...],
    kind: str = "",
) -> str:
    """One sentence about the scene, for the model's prompt; `kind` names a furnished room."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.word] = counts.get(item.word, 0) + 1
    numbers = ("", "a", "two", "three", "four", "five", "six", "seven", "eight")
    things = []
    for word, count in counts.items():
        plural = {"box": "boxes", "bench": "benches", "shelf": "shelves", "flower box": "flower boxes"}.get(
            word, word + "s"
        )
        article = "an" if word[:1] in "aeiou" else "a"
        things.append(f"{article} {word}" if count == 1 else f"{numbers[min(count, 8)]} {plural}")
    for panel in ("door", "window"):
        if any(d.kind == panel for d in decorations):
            things.append(f"a {panel}")
    pictures = sum(d.kind == "picture" for d in decorations)
    if pictures:
        things.append("a picture" if pictures == 1 else "pictures")
    if outdoor:
        border = {"fence": "a wooden fence", "hedge": "a hedge", "wall": "a brick wall"}[fence]
        ground = surface_phrase(floor)
        start = f"a yard with {'grass' if ground == 'grass' else f'{ground} ground'} and {border}"
    else:
        start = f"a {kind or 'room'} with a {surface_phrase(floor)} floor and {surface_phrase(wall)} walls"
    if not things:
        return start
    listed = things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
    return f"{start}, with {listed}"
