"""What `gym.make(..., model_options=...)` takes for a folder of official weights: a flat dict, checked by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from spatia_env.errors import ActionError
from spatia_env.io.validation import near_miss
from spatia_env.models.wan.memory_options import Levers
from spatia_env.models.wan.sampling import SamplerSettings


@dataclass(frozen=True)
class OfficialOptions:
    """How the official weights are run in the environment."""

    levers: Levers = field(default_factory=Levers)
    """memory and time"""
    settings: SamplerSettings = field(default_factory=SamplerSettings)
    """steps, guidance and scales"""
    device: str | None = None
    """where clips are computed; None for a GPU if there is one"""
    prompt_cache: str | None = None
    """folder of remembered prompt embeddings; None for the user's cache folder, "" for none"""
    mapanything: str | None = None
    """folder or repository of MapAnything, for depth; None for the packaged geometry network"""
    mapanything_revision: str | None = None
    """full hash of a commit of that repository"""
    detector: str | None = None
    """folder of a GroundingDINO and ..."""
    segmenter: str | None = None
    """... of a SAM 2, which find what is named in `moving`; with `mapanything`"""
    moving: tuple[str, ...] = ()
    """names of things that move, such as "person": kept out of the map"""


_OWN = tuple(one.name for one in fields(OfficialOptions) if one.name not in ("levers", "settings"))
_LEVERS = tuple(one.name for one in fields(Levers))
# The levels of a few-step LoRA are the lever's; the pipeline hands them on to its sampler.
_SETTINGS = tuple(one.name for one in fields(SamplerSettings) if one.name not in _LEVERS)


def read_options(given: Mapping[str, Any] | None) -> OfficialOptions:
    """Options from a flat dict whose keys are fields of `Levers`, of `SamplerSettings` and of `OfficialOptions`.

    Raises:
        ActionError: If a key is not known, or a value is none of its kind.
    """
    values = {name: _frozen(value) for name, value in (given or {}).items()}
    known = (*_LEVERS, *_SETTINGS, *_OWN)
    for name in values:
        if name not in known:
            raise ActionError(f"model_options: unknown key {name!r}{near_miss(name, known)}")
    if values.get("moving") and values.get("mapanything") is None:
        raise ActionError("model_options['moving']: needs 'mapanything', whose depth the masks are for.")
    return OfficialOptions(
        Levers(**{name: value for name, value in values.items() if name in _LEVERS}),
        SamplerSettings(**{name: value for name, value in values.items() if name in _SETTINGS}),
        **{name: value for name, value in values.items() if name in _OWN},
    )


def _frozen(value: Any) -> Any:
    """Lists as tuples and paths as text, so that equal options load one pipeline."""
    if isinstance(value, list):
        return tuple(value)
    return str(value) if isinstance(value, Path) else value
