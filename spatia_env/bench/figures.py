"""The figures: one for each number of the table, with its reach, and some that are only reported."""

from dataclasses import replace
from typing import Any

from spatia_env.bench.figure import Figure, gain, mean, median
from spatia_env.bench.results import Results

FIGURES: tuple[Figure, ...] = (
    Figure(
        "renderer_identity_psnr",
        "identity-pose round trip of the renderer, surfaces beyond 1 m, covered pixels",
        "dB",
        "renderer",
        mean("renderer", "memory-render-only", "psnr_identity"),
        40,
    ),
    Figure(
        "autoencoder_scenes_psnr",
        "autoencoder reconstruction of dev scenes",
        "dB",
        "autoencoder",
        mean("autoencoder", "default", "psnr_scene"),
        31,
    ),
    Figure(
        "autoencoder_photos_psnr",
        "autoencoder reconstruction of photographs it never saw",
        "dB",
        "photographs",
        mean("photographs", "default", "psnr_photo"),
        25,
    ),
    Figure(
        "observed_psnr",
        "frames over 4 clips, pixels whose surface the start picture shows",
        "dB",
        "walk",
        mean("walk", "default", "psnr_observed"),
        25,
    ),
    Figure(
        "observed_gain_over_frozen",
        "the same, above a frozen frame",
        "dB",
        "walk",
        gain("walk", "frozen-frame", "psnr_observed"),
        6,
    ),
    Figure(
        "all_gain_over_memory_render",
        "all pixels over 4 clips, above memory-render-only",
        "dB",
        "walk",
        gain("walk", "memory-render-only", "psnr_all"),
        0,
        strict=True,
    ),
    Figure(
        "all_gain_over_frozen",
        "all pixels over 4 clips, above a frozen frame",
        "dB",
        "walk",
        gain("walk", "frozen-frame", "psnr_all"),
        0,
        strict=True,
    ),
    Figure(
        "loop_psnr_gain_over_no_memory",
        "return to the start after 4 clips (PSNR_C), above no-memory",
        "dB",
        "loop",
        gain("loop", "no-memory", "psnr_c"),
        4,
    ),
    Figure(
        "depth_absrel",
        "depth AbsRel over 4 clips, all pixels, started with the picture's depth",
        "",
        "walk",
        mean("walk", "default", "depth_absrel"),
        0.08,
        least=False,
    ),
    Figure(
        "depth_absrel_picture_only",
        "the same, started from the picture alone",
        "",
        "walk",
        mean("walk", "default-picture-only", "depth_absrel"),
        0.08,
        least=False,
    ),
    Figure(
        "leakage",
        "share of the points written from clips with movers that lie on movers",
        "",
        "leakage",
        mean("leakage", "default", "leakage"),
        0.03,
        least=False,
    ),
    Figure(
        "detector_recall",
        "the judges on the simulator's own clips of the events",
        "",
        "events",
        lambda results: results.events("oracle"),
        0.95,
    ),
    Figure(
        "event_success",
        "events that happen when asked for, in words never trained on",
        "",
        "events",
        lambda results: results.events("default"),
        0.60,
    ),
    Figure(
        "event_false",
        "clips in which any event is seen though none was asked for",
        "",
        "events",
        lambda results: results.false_events("default"),
        0.10,
        least=False,
    ),
    Figure(
        "zero_move_psnr",
        "after 5 zero moves, against the picture before them",
        "dB",
        "zero",
        mean("zero", "default", "psnr_zero"),
        30,
    ),
    Figure(
        "zero_move_growth",
        "points that 5 zero moves add or take, share of the map",
        "",
        "zero",
        mean("zero", "default", "growth"),
        0.005,
        least=False,
    ),
    Figure(
        "seconds_per_step",
        "median wall time of a step of 8 frames, everything included",
        "s",
        "time",
        median("seconds"),
        1.5,
        least=False,
    ),
    Figure(
        "share_outside_networks",
        "median share of that time outside the networks",
        "",
        "time",
        median("outside"),
        0.35,
        least=False,
    ),
    Figure(
        "preview_ms", "median wall time of a preview", "ms", "time", median("preview_ms"), 30, least=False
    ),
    # Reported beside them, without a reach.
    Figure(
        "autoencoder_scenes_blank_psnr",
        "dev scenes encoded, and decoded as in play where nothing is known",
        "dB",
        "autoencoder",
        mean("autoencoder", "default", "psnr_scene_blank"),
    ),
    Figure(
        "observed_psnr_picture_only",
        "observed pixels, started from the picture alone",
        "dB",
        "walk",
        mean("walk", "default-picture-only", "psnr_observed"),
    ),
    Figure(
        "seen_before_psnr",
        "pixels seen in the start picture or in an earlier clip (imagined there)",
        "dB",
        "walk",
        mean("walk", "default", "psnr_seen_before"),
    ),
    Figure(
        "unobserved_psnr",
        "pixels never seen before",
        "dB",
        "walk",
        mean("walk", "default", "psnr_unobserved"),
    ),
    Figure(
        "observed_gain_over_memory_render",
        "observed pixels, above memory-render-only",
        "dB",
        "walk",
        gain("walk", "memory-render-only", "psnr_observed"),
    ),
    Figure(
        "all_gain_over_memory_filled",
        "all pixels, above the memory's render with its holes filled",
        "dB",
        "walk",
        gain("walk", "memory-filled", "psnr_all"),
    ),
    Figure(
        "all_gain_over_no_references",
        "all pixels, above the row without references",
        "dB",
        "walk",
        gain("walk", "no-references", "psnr_all"),
    ),
    Figure(
        "depth_absrel_picture_only_scaled",
        "depth AbsRel from the picture alone, one scale fitted an episode",
        "",
        "walk",
        mean("walk", "default-picture-only", "depth_absrel_scaled"),
        least=False,
    ),
    Figure("map_fscore_5cm", "F-score of the map at 5 cm", "", "walk", mean("walk", "default", "map_fscore")),
    Figure(
        "loop_psnr_c",
        "return to the start after 4 clips (PSNR_C)",
        "dB",
        "loop",
        mean("loop", "default", "psnr_c"),
    ),
    Figure(
        "loop_followed",
        "loops whose excursion was followed",
        "",
        "loop",
        mean("loop", "default", "followed"),
    ),
    Figure(
        "loop_psnr_gain_over_no_references",
        "PSNR_C above the row without references",
        "dB",
        "loop",
        gain("loop", "no-references", "psnr_c"),
    ),
    Figure(
        "leakage_no_filter",
        "leakage when nothing is masked",
        "",
        "leakage",
        mean("leakage", "default", "leakage_no_filter"),
    ),
    Figure(
        "event_success_movers",
        "events with bodies that move",
        "",
        "events",
        lambda results: results.events("default", ("mover",)),
    ),
    Figure(
        "event_success_conditions",
        "events of light and air, and their endings",
        "",
        "events",
        lambda results: results.events("default", ("condition", "ending")),
    ),
    Figure(
        "detector_false",
        "clips of the simulator in which the judges see an event though there is none",
        "",
        "events",
        lambda results: results.false_events("oracle"),
    ),
    Figure(
        "zero_move_step_psnr",
        "worst frame to the frame before it while resting",
        "dB",
        "zero",
        mean("zero", "default", "psnr_zero_step"),
    ),
)


def figures_of(wide: bool) -> tuple[Figure, ...]:
    """The figures of a wide run (standard, full), or of another; wide runs have the second table's reaches."""
    if not wide:
        return FIGURES
    from spatia_env.bench.figures_full import WIDE_FIGURES, WIDE_REACH

    shared = (replace(f, reach=WIDE_REACH[f.id]) if f.id in WIDE_REACH else f for f in FIGURES)
    return (*shared, *WIDE_FIGURES)


def compute_figures(results: Results, command: str, wide: bool = False) -> dict[str, dict[str, Any]]:
    """All figures whose suites were run, by id."""
    entries = {figure.id: figure.entry(results, command) for figure in figures_of(wide)}
    return {name: entry for name, entry in entries.items() if entry is not None}
