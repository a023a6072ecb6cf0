"""What the suites score: truth at the ceiling, standing still at the floor, and every planted fault in between."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spatia_env.bench import event_tasks, happenings, metrics, probes, quality
from spatia_env.bench.episodes import record
from spatia_env.bench.floors import MemoryRenderPlayer, nearest_known
from spatia_env.bench.loops import score_loop
from spatia_env.bench.quality import Context, score_frames, score_rest
from spatia_env.bench.rows import ROWS
from spatia_env.errors import ActionError
from spatia_env.sim.scenes import SimScene
from spatia_env.slam.depth_network import Geometry

SCENE = 10001
SIZE = (48, 64)


@pytest.fixture(scope="module")
def walk():
    return record(SCENE, "walk", SIZE)


@pytest.fixture(scope="module")
def loop():
    return record(SCENE, "loop", SIZE)


# -- pictures -----------------------------------------------------------------------------------------------------


def test_truth_scores_at_the_ceiling_and_a_frozen_frame_far_below(walk):
    best = score_frames(walk.frames[1:], walk)
    assert best["psnr_all"] == best["psnr_observed"] == best["psnr_unobserved"] == metrics.PSNR_CAP
    frozen = score_frames(np.repeat(walk.frames[:1], 32, 0), walk)
    assert frozen["psnr_observed"] < 25
    assert len(frozen["psnr_clips"]) == 4
    assert frozen["psnr_all"] == pytest.approx(np.mean(frozen["psnr_clips"]))


def test_damage_is_charged_to_the_pixels_it_is_on(walk):
    frames = walk.frames[1:].copy()
    frames[~walk.observed[1:]] = 0
    scores = score_frames(frames, walk)
    assert scores["psnr_observed"] == metrics.PSNR_CAP
    assert scores["psnr_unobserved"] < 12
    assert scores["psnr_all"] < 30


def test_the_memory_keeps_what_was_observed_and_imagines_nothing(walk):
    player = MemoryRenderPlayer()
    player.start(walk)
    clips = [player.play(walk.c2w[walk.clip(i)]) for i in range(4)]
    scores = score_frames(np.concatenate([c.frames for c in clips]), walk)
    assert scores["psnr_observed"] > 25
    assert scores["psnr_unobserved"] < 12
    known = np.concatenate([c.known for c in clips])
    assert (known == walk.observed[1:]).mean() > 0.93


def test_surfaces_that_go_on_beat_the_nearest_colour_where_nothing_was_seen(walk):
    scores = {}
    for fill in ("nearest", "surfaces"):
        player = MemoryRenderPlayer(fill)
        player.start(walk)
        clips = [player.play(walk.c2w[walk.clip(i)]) for i in range(4)]
        scores[fill] = score_frames(np.concatenate([c.frames for c in clips]), walk)["psnr_unobserved"]
    assert scores["surfaces"] > scores["nearest"] and scores["surfaces"] > 15


def test_filling_takes_the_nearest_known_pixel():
    known = np.zeros((4, 6), bool)
    known[1, 1] = known[2, 5] = True
    rows, columns = nearest_known(known)
    for row in range(4):
        for column in range(6):
            near = min(((1, 1), (2, 5)), key=lambda p: (p[0] - row) ** 2 + (p[1] - column) ** 2)
            found = (rows[row, column], columns[row, column])
            assert (found[0] - row) ** 2 + (found[1] - column) ** 2 == (near[0] - row) ** 2 + (
                near[1] - column
            ) ** 2
    rows, columns = nearest_known(np.zeros((4, 6), bool))
    assert (rows == np.arange(4)[:, None]).all() and (columns == np.arange(6)).all()


def test_depth_of_a_world_in_the_wrong_scale_is_only_forgiven_where_it_says_so(walk):
    scores = quality.score_depth(walk.depth[1:] * 1.2, walk)
    assert scores["depth_absrel"] == pytest.approx(0.2, rel=1e-3)
    assert scores["depth_absrel_scaled"] < 1e-3


# -- loops --------------------------------------------------------------------------------------------------------


def test_a_frozen_frame_cannot_win_a_loop(loop):
    frozen = score_loop(np.repeat(loop.frames[:1], 32, 0), loop)
    assert frozen["psnr_c_raw"] == metrics.PSNR_CAP
    assert frozen["followed"] == 0
    assert frozen["psnr_c"] == metrics.psnr(loop.frames[16], loop.frames[0]) < 25


def test_a_loop_that_was_followed_scores_its_return(loop):
    perfect = score_loop(loop.frames[1:], loop)
    assert perfect["followed"] == 1
    assert perfect["psnr_c"] == metrics.PSNR_CAP
    # Followed, but the frame at the end is another one.
    swapped = loop.frames[1:].copy()
    swapped[-1] = loop.frames[20]
    scores = score_loop(swapped, loop)
    assert scores["followed"] == 1
    assert scores["psnr_c"] == scores["psnr_c_raw"] < 30


def test_a_loop_that_neither_follows_nor_returns_gains_nothing(loop):
    noise = np.random.default_rng(0).integers(0, 256, (32, *SIZE, 3), np.uint8)
    scores = score_loop(noise, loop)
    assert scores["followed"] == 0
    assert scores["psnr_c"] == scores["psnr_c_raw"]


# -- rest ---------------------------------------------------------------------------------------------------------


def test_rest_sees_slow_drift_that_steps_hide():
    picture = np.full((*SIZE, 3), 100, np.uint8)
    still = np.repeat(picture[None, None], 5, 0).repeat(8, 1)
    assert score_rest(picture, still) == {"psnr_zero": metrics.PSNR_CAP, "psnr_zero_step": metrics.PSNR_CAP}
    drift = still + np.arange(1, 41, dtype=np.uint8).reshape(5, 8, 1, 1, 1)
    scores = score_rest(picture, drift)
    assert scores["psnr_zero_step"] > 45
    assert scores["psnr_zero"] < 20


# -- events -------------------------------------------------------------------------------------------------------


def test_every_event_is_asked_for_once_and_endings_follow_their_conditions():
    from spatia_env.events.vocabulary import EVENT_NAMES, event, phrasings

    tasks = event_tasks.tasks()
    names = [task.name for task in tasks if task.events]
    assert sorted(names) == sorted(EVENT_NAMES)
    assert sum(not task.events for task in tasks) == event_tasks.QUIET_CLIPS
    for before, task in itertools.pairwise(tasks):
        assert task.follows == (task.kind == "ending")
        if task.follows:
            assert before.name == event(task.name).ends
    trained = {text for name in EVENT_NAMES for text in phrasings(name, "train")}
    assert not trained & {task.text for task in tasks if task.events}
    assert [t.name for t in event_tasks.tasks(("fog_ends",)) if t.events] == ["fog", "fog_ends"]
    assert event("fog_ends").ends == "fog"
    with pytest.raises(ActionError, match="snowstorm do not exist"):
        event_tasks.tasks(("snowstorm",))


@pytest.fixture(scope="module")
def acted():
    """The simulator's own clips of three events and two quiet ones."""
    names = ("red_ball_rolls", "night", "night_ends")
    return happenings.measure_events(Context(None, (96, 128)), SCENE, ROWS["oracle"], names)


def test_the_judges_see_the_simulators_events_and_nothing_in_quiet_clips(acted):
    clips = acted.values["clips"]
    assert [clip["event"] for clip in clips] == ["red_ball_rolls", "night", "night_ends", "", ""]
    assert all(clip["success"] for clip in clips[:3])
    assert clips[3]["found"] == clips[4]["found"] == []
    assert list(acted.pictures) == ["red_ball_rolls", "night", "night_ends"]


def test_shuffled_events_are_not_taken_for_one_another(acted):
    clips = {clip["event"]: clip for clip in acted.values["clips"]}
    tasks = {task.name: task for task in event_tasks.tasks(("red_ball_rolls", "night")) if task.events}
    with SimScene(SCENE) as scene:
        before = scene.render(scene.initial_c2w, 96, 128).rgb
    still = np.repeat(before[None], 8, 0)
    night = np.repeat(acted.pictures["night"][-1:], 8, 0)
    assert clips["night"]["success"]
    assert happenings.judge(tasks["night"], night, before, still)["success"]
    assert not happenings.judge(tasks["red_ball_rolls"], night, before, still)["success"]
    assert not happenings.judge(tasks["night"], still, before, still)["success"]


def test_a_walk_of_true_frames_holds_no_false_events():
    truth = record(SCENE, "walk", (96, 128), clips=1)
    assert quality.false_events(truth.frames[1:], truth) == [[]]
    red = truth.frames[1:].copy()
    red[:, 28:68, 40:88] = (235, 10, 16)
    assert quality.false_events(red, truth) == [["red_ball_rolls"]]


def test_hard_tasks_differ_between_scenes_and_use_no_wording_of_training():
    from spatia_env.events.vocabulary import EVENT_NAMES, phrasings

    trained = {text for name in EVENT_NAMES for text in phrasings(name, "train")}
    for split, scenes in (("dev", range(10_000, 10_012)), ("test", range(20_000, 20_012))):
        asked = [task for scene in scenes for task in event_tasks.hard_tasks(scene, split)]
        kinds = [task.kind for task in asked[:6]]
        assert kinds == ["several", "several", "denied", "denied", "absent", "absent"]
        assert not {task.text for task in asked} & trained
        assert all(len(task.events) == (2 if task.kind == "several" else 0) for task in asked)
        assert len({task.text for task in asked}) >= 30
        assert len({task.events for task in asked if task.events}) == len(event_tasks.PAIRS)
    dev, test = ({t.text for t in event_tasks.tasks((), split, 7)} for split in ("dev", "test"))
    assert dev & test <= {""}
    assert sum(task.twin for task in event_tasks.tasks((), "dev", 10_003)) == event_tasks.TWINS


def test_two_events_at_once_must_both_happen():
    from spatia_env.bench.detectors import detect, detect_several

    pair = ("red_ball_rolls", "blue_box_drops")
    with SimScene(SCENE) as scene:
        start = torch.from_numpy(np.array(scene.initial_c2w, np.float32))
        before = scene.render(start.numpy(), 96, 128).rgb
    path, still = np.repeat(start[None].numpy(), 8, 0), np.repeat(before[None], 8, 0)
    clips = {}
    for names in (pair, pair[:1]):
        task = event_tasks.Task(names, "", "several")
        with happenings._Oracle(SCENE, (96, 128)) as stage:
            _, clips[names] = stage.show(task, path, before)
            assert stage.dynamic.any()
    assert detect_several(pair, clips[pair], before, still)
    assert not detect_several(pair, clips[pair[:1]], before, still)
    assert detect(pair[0], clips[pair[:1]], before, still)
    assert not detect_several(pair, still, before, still)


def test_background_loss_looks_outside_of_the_event_only():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 255, (8, 40, 60, 3), np.uint8)
    quiet = np.clip(truth + rng.normal(0, 4, truth.shape), 0, 255).astype(np.uint8)
    mask = np.zeros(truth.shape[:3], bool)
    mask[:, 10:20, 10:20] = True
    clip = quiet.copy()
    clip[mask] = (255, 0, 0)
    assert happenings.background_loss(clip, quiet, truth, mask) == 0
    assert happenings.background_loss(clip, quiet, truth, np.zeros_like(mask)) > 3
    tinted = np.clip(clip + rng.normal(0, 6, clip.shape), 0, 255).astype(np.uint8)
    assert happenings.background_loss(tinted, quiet, truth, mask) > 2


# -- leakage ------------------------------------------------------------------------------------------------------


class Masks:
    """An estimator with true depth of the empty scene's size, and masks that are perfect, or that see nothing."""

    def __init__(self, perfect):
        self.perfect = perfect

    def __call__(self, rgb, c2w, K, map_rgb, map_depth, known):
        # Movers are what differs most from the map; here the truth is asked for through the colours of a ball.
        red = (rgb[:, 0] > 0.35) & (rgb[:, 1] < 0.12) & (rgb[:, 2] < 0.12)
        dynamic = red.float() if self.perfect else torch.zeros_like(map_depth)
        return Geometry(torch.full_like(map_depth, 2.0), torch.ones_like(map_depth), dynamic)


def leak(perfect):
    env = SimpleNamespace(unwrapped=SimpleNamespace(estimator=Masks(perfect)))
    context = Context(SimpleNamespace(env=lambda row: env), (64, 96))
    with SimScene(SCENE) as scene:
        return probes.leak_of(context, scene, "red_ball_rolls", np.random.default_rng(0))


def test_leakage_counts_what_a_mask_lets_through():
    with_mask, without = leak(True), leak(False)
    assert without.ghosts == without.naive_ghosts > 50
    assert without.wrong_pixels > 200
    assert with_mask.ghosts < 0.2 * without.ghosts
    assert with_mask.points < without.points
    assert with_mask.naive_points == pytest.approx(without.naive_points, rel=0.1)


# -- the renderer and photographs ---------------------------------------------------------------------------------


def test_the_round_trip_sees_a_shifted_camera(walk):
    score, covered = probes.round_trip(walk.frames[0], walk.depth[0], walk.c2w[0], walk.K)
    assert score > 40
    assert covered > 0.99


@pytest.mark.parametrize("name", probes.PHOTOGRAPHS)
def test_photograph_crops_fill_the_view(name):
    crops = probes.photograph_crops(name, (48, 80))
    assert crops.shape == (5, 48, 80, 3)
    assert len({crop.tobytes() for crop in crops}) == 5
    # None of them is an empty border, which any autoencoder gets right.
    assert crops.reshape(5, -1).std(1).min() > 4


def test_no_photograph_of_the_benchmark_is_trained_on():
    from spatia_env.sim.assets import photo_ids

    assert not set(probes.PHOTOGRAPHS) & set(photo_ids("train"))
