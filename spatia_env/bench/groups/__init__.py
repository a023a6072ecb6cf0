"""The groups of the benchmark; importing them registers their figures."""

from spatia_env.bench.groups import (
    closure,
    events,
    known,
    permanence,
    photographs,
    policies,
    returns,
    samples,
    things,
    timing,
    unseen,
    viewpoint,
    walls,
)

__all__ = [
    "closure", "events", "known", "permanence", "photographs", "policies", "returns", "samples", "things", "timing",
    "unseen", "viewpoint", "walls",
]  # fmt: skip
