"""Suite `edit`: do edits of the map show, last, and leave the rest alone? See `memory_edits` for the edited truth."""

from typing import Any

import numpy as np

from spatia_env.bench import memory_edits, metrics
from spatia_env.bench.players import EnvPlayer
from spatia_env.bench.quality import Context, Measured
from spatia_env.bench.rows import Row
from spatia_env.errors import ActionError

LAST = memory_edits.LAST


def measure_edit(context: Context, scene: int, row: Row) -> Measured:
    """A box is painted, a cube put in; the world goes out and back, and its last frames are compared."""
    player = context.players.get(row)
    if not isinstance(player, EnvPlayer):
        raise ActionError(f"edit: row {row.name} has no world to edit.")
    env, truth = player.unwrapped, context.truth(scene, "loop")
    plain = memory_edits.play(env, truth, lambda world: None)[-LAST:]
    centre = memory_edits.middle_of_view(truth)
    edits = {
        "paint": (memory_edits.painter(centre), memory_edits.painted(truth, centre)),
        "insert": (memory_edits.inserter(truth), memory_edits.with_cube(truth)),
    }
    values: dict[str, Any] = {"undo_equal": undo_equal(env, truth, centre)}
    pictures = {"plain": plain[-1:]}
    for name, (edit, wanted) in edits.items():
        shown = memory_edits.play(env, truth, edit)[-LAST:]
        frames, changed = wanted.frames[-LAST:], wanted.changed[-LAST:]
        if changed.mean() < memory_edits.LEAST_CHANGED:
            continue
        elsewhere = ~memory_edits.grown(changed, 3)
        values[f"{name}_inside"] = metrics.psnr(shown, frames, changed)
        values[f"{name}_loss_outside"] = metrics.psnr(plain, truth.frames[-LAST:], elsewhere) - metrics.psnr(
            shown, frames, elsewhere
        )
        pictures |= {f"{name}, truth": frames[-1:], name: shown[-1:]}
    return Measured(values, pictures)


def undo_equal(env: Any, truth: Any, centre: np.ndarray) -> float:
    """1 if a map that was painted and had it undone renders exactly as before, else 0."""
    env.reset(seed=0, options={"scene": truth.scene, "depth": True})
    world = env.world
    path = world.c2w[None]
    before = world.render(path)
    memory_edits.painter(centre)(world)
    painted = world.render(path)
    world.edit.undo()
    after = world.render(path)
    same = all(bool((getattr(before, n) == getattr(after, n)).all()) for n in ("rgb", "depth", "known"))
    return float(same and not bool((before.rgb == painted.rgb).all()))
