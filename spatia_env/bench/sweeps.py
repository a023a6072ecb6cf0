"""Suite `sweep`: the axes of the paper's tables, the map's voxel edge and the number of references."""

from spatia_env.bench.loops import score_loop
from spatia_env.bench.quality import Context, Measured, roll_out, score_frames
from spatia_env.bench.rows import SWEEPS, Row

SWEEP_ROWS = tuple(dict.fromkeys(name for names in SWEEPS.values() for name in names))
KEPT = ("psnr_all", "psnr_observed", "ssim_all", "stlpips_all")


def measure_sweep(context: Context, scene: int, row: Row) -> Measured:
    """A walk against the truth and a loop: the metrics of both suites, without maps and depth."""
    walk, loop = context.truth(scene, "walk"), context.truth(scene, "loop")
    frames = score_frames(roll_out(context, row, walk)[0].frames, walk)
    values = {name: frames[name] for name in KEPT if name in frames}
    return Measured(values | score_loop(roll_out(context, row, loop)[0].frames, loop))
