"""The figures of `standard` and `full`: those of `core` with the reaches of the second table, and more."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from spatia_env.bench.figure import Figure, gain, mean
from spatia_env.bench.results import Results
from spatia_env.bench.statistics import Estimate, ratio_bootstrap

WIDE_REACH: Mapping[str, float] = MappingProxyType(
    {
        "loop_psnr_c": 26.0,
        "loop_psnr_gain_over_no_memory": 6.0,
        "loop_psnr_gain_over_no_references": 1.0,
        "observed_psnr": 28.0,
        "event_success": 0.85,
        "event_false": 0.05,
        "depth_absrel": 0.04,
        "depth_absrel_picture_only_scaled": 0.04,
        "seconds_per_step": 0.5,
    }
)
"""What `standard` and `full` ask of figures that `core` has as well."""


def ratio(
    suite: str, metric: str, baseline: str, row: str = "default"
) -> Callable[[Results], Estimate | None]:
    """Mean of a row over that of a baseline, scenes paired."""

    def compute(results: Results) -> Estimate | None:
        first, second = results.scalars(suite, row, metric), results.scalars(suite, baseline, metric)
        both = sorted(first.keys() & second.keys())
        if not both or sum(abs(second[s]) for s in both) < 1e-9:
            return None
        return ratio_bootstrap({s: first[s] for s in both}, {s: second[s] for s in both})

    return compute


def saved(suite: str, metric: str, baseline: str) -> Callable[[Results], Estimate | None]:
    """Share of a baseline's distance that the default row saves."""
    inner = ratio(suite, metric, baseline)

    def compute(results: Results) -> Estimate | None:
        found = inner(results)
        return None if found is None else Estimate(1 - found.value, 1 - found.high, 1 - found.low, found.n)

    return compute


def between(suite: str, early: str, late: str) -> Callable[[Results], Estimate | None]:
    """Mean loss from one metric to another within each scene."""

    def compute(results: Results) -> Estimate | None:
        from spatia_env.bench.statistics import paired_difference

        first, second = results.scalars(suite, "default", early), results.scalars(suite, "default", late)
        both = sorted(first.keys() & second.keys())
        if not both:
            return None
        failed = {unit.scene for unit in results.of(suite, "default") if unit.error}
        first |= {scene: 60.0 for scene in failed & set(both)}
        return paired_difference({s: first[s] for s in both}, {s: second[s] for s in both})

    return compute


WIDE_FIGURES: tuple[Figure, ...] = (
    Figure(
        "loop_stlpips_saved",
        "return to the start: STLPIPS-Alex that memory saves against no-memory",
        "", "loop", saved("loop", "stlpips_c", "no-memory"), 0.40,
    ),
    Figure(
        "loop_loss_2_to_6", "PSNR_C that loops of 6 clips lose against loops of 2", "dB", "loop",
        between("loop", "loop-2.psnr_c", "loop-6.psnr_c"), 1.0, least=False,
    ),
    Figure(
        "drift_loss_2_to_16", "PSNR_C lost from the return after 2 clips to that after 16", "dB", "drift",
        mean("drift", "default", "loss_2_16"), 2.5, least=False,
    ),
    Figure(
        "observed_stlpips_over_memory_render",
        "STLPIPS-Alex on observed pixels, default minus memory-render-only (below 0: better)",
        "points", "walk", gain("walk", "memory-render-only", "stlpips_observed"), 0.0, least=False, strict=True,
    ),
    Figure(
        "loop_match", "return to the start: match accuracy (SIFT)", "", "loop",
        mean("loop", "default", "match_c"), 0.70,
    ),
    Figure(
        "loop_match_of_oracle", "the same, of the oracle's by the same matcher", "", "loop",
        ratio("loop", "match_c", "oracle"), 0.90,
    ),
    Figure(
        "camera_control", "camera control by WorldScore's formula, poses estimated from the frames", "points",
        "ws-static", mean("ws-static", "default", "score"), 85,
    ),
    Figure(
        "camera_control_of_oracle", "the same, of the oracle's by the same estimator", "", "ws-static",
        ratio("ws-static", "score", "oracle"), 0.95,
    ),
    Figure(
        "event_background_loss", "background outside of the event, below the same clip without it", "dB", "events",
        mean("events", "default", "background_loss"), 1.0, least=False,
    ),
    # Reported beside them, without a reach.
    Figure(
        "revisit_psnr", "a generated place seen again (6 clips), pixels the start does not show", "dB", "loop",
        mean("loop", "default", "revisit-6.psnr_g"),
    ),
    Figure(
        "revisit_gain_over_no_memory", "the same, above no-memory", "dB", "loop",
        gain("loop", "no-memory", "revisit-6.psnr_g"),
    ),
    Figure(
        "loop_psnr_gain_over_no_render", "PSNR_C above the row whose model does not see the map's render", "dB",
        "loop", gain("loop", "no-scene-render", "psnr_c"),
    ),
    Figure(
        "loop_psnr_gain_over_no_slam", "PSNR_C above the row without SLAM", "dB", "loop",
        gain("loop", "no-slam", "psnr_c"),
    ),
    Figure(
        "all_gain_over_inpaint", "all pixels, above the memory's render inpainted by OpenCV", "dB", "walk",
        gain("walk", "memory+inpaint", "psnr_all"),
    ),
    Figure(
        "all_stlpips_over_inpaint", "STLPIPS-Alex on all pixels, default minus memory+inpaint", "points", "walk",
        gain("walk", "memory+inpaint", "stlpips_all"),
    ),
    Figure(
        "unobserved_gain_over_no_continuation", "pixels never seen, above a model that is not told how surfaces go on",
        "dB", "walk", gain("walk", "no-continuation", "psnr_unobserved"),
    ),
    Figure(
        "unobserved_gain_over_surfaces", "pixels never seen, above surfaces that go on without a model", "dB", "walk",
        gain("walk", "memory+surfaces", "psnr_unobserved"),
    ),
    Figure(
        "smoothness_of_oracle", "frames predicted from their neighbours (PSNR), of the oracle's", "", "walk",
        ratio("walk", "smooth_psnr", "oracle"),
    ),
    Figure(
        "event_several", "two events asked for at once that both happen", "", "events",
        lambda results: results.events("default", ("several",)),
    ),
    Figure(
        "detector_several", "the judges on the simulator's own clips of two events", "", "events",
        lambda results: results.events("oracle", ("several",)),
    ),
    Figure(
        "event_false_denied", "clips in which an event is seen though it was denied", "", "events",
        lambda results: results.false_events("default", ("denied",)),
    ),
    Figure(
        "event_false_absent", "clips in which an event is seen though what was named is not there", "", "events",
        lambda results: results.false_events("default", ("absent",)),
    ),
    Figure(
        "edit_paint_inside", "a painted box after 4 clips and a return", "dB", "edit",
        mean("edit", "default", "paint_inside"),
    ),
    Figure(
        "edit_insert_inside", "a cube put in, after 4 clips and a return", "dB", "edit",
        mean("edit", "default", "insert_inside"),
    ),
    Figure(
        "memory_fscore_5cm", "F-score of the map at 5 cm, true frames with movers", "", "memory",
        mean("memory", "default", "map_fscore"),
    ),
    Figure(
        "repeats_equal", "the same seed gives the same, bit for bit", "", "engine",
        mean("engine", "default", "repeat_equal"),
    ),
    Figure(
        "resumes_equal", "a restored snapshot and a saved world go on the same, bit for bit", "", "engine",
        mean("engine", "default", "save_equal"),
    ),
)  # fmt: skip
